"""OpenAI's files and batches on loopback, and its chat completions for what is asked in the ordinary way."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from tests.servers.batch_server import BatchServer, Job

LINE_END = "\u2028"
"""Ends a line for Unicode, and not for JSON lines."""


class OpenAIBatchServer(BatchServer):
    """Statuses move on as OpenAI's do: validating, in_progress, completed; or failed, expired, cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.chats: list[str] = []
        """The prompts that were asked in the ordinary way."""

    @property
    def base_url(self) -> str:
        """With the version, as OpenAI's."""
        return f"{super().base_url}/v1"

    def routes(self) -> list[web.RouteDef]:
        """Files, batches, chat completions."""
        return [
            web.post("/v1/files", self._upload, name="upload"),
            web.get("/v1/files/{id}/content", self._content, name="results"),
            web.post("/v1/batches", self._create, name="create"),
            web.get("/v1/batches", self._list, name="list", allow_head=False),
            web.get("/v1/batches/{id}", self._retrieve, name="state"),
            web.post("/v1/chat/completions", self._chat, name="chat"),
        ]

    def error(self, status: int, message: str) -> dict[str, Any]:
        """As OpenAI says it."""
        return {"error": {"message": message, "type": "error", "code": None}}

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "batch"
        await self.note("upload")
        content = form["file"].file.read()
        name = f"file_{len(self.files)}"
        self.files[name] = content
        return web.json_response(
            {
                "id": name, "object": "file", "bytes": len(content), "created_at": 1, "filename": form["file"].filename,
                "purpose": "batch", "status": "processed",
            }
        )  # fmt: skip

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert body["completion_window"] == "24h"
        rows = [json.loads(line) for line in self.files[body["input_file_id"]].split(b"\n") if line]
        assert all(row["url"] == body["endpoint"] == "/v1/chat/completions" and row["method"] == "POST" for row in rows)
        job = await self.accept(rows, [row["body"]["messages"][-1]["content"] for row in rows], body["metadata"])
        return web.json_response(self._shown(job))

    async def _list(self, request: web.Request) -> web.Response:
        await self.note("list")
        after = request.query.get("after")
        ids = [job.id for job in self.jobs]
        page = self.jobs[ids.index(after) + 1 if after else 0 :][:1]  # pages of one
        for job in page:
            self.look(job)
        shown = [self._shown(job) for job in page]
        return web.json_response({"object": "list", "data": shown, "has_more": bool(page) and page[-1] is not self.jobs[-1]})

    async def _retrieve(self, request: web.Request) -> web.Response:
        await self.note("state")
        job = self.found(request)
        self.look(job)
        return web.json_response(self._shown(job))

    def _shown(self, job: Job) -> dict[str, Any]:
        fates = {self.fate(row["body"]["messages"][-1]["content"]) for row in job.rows} if job.ended else set()
        status = "validating" if job.asked == 0 else "in_progress"
        if job.refused is not None:
            status = "failed"
        elif job.ended:
            status = "expired" if "expired" in fates else "cancelled" if "cancelled" in fates else "completed"
        ended = job.ended and job.refused is None
        return {
            "id": job.id, "object": "batch", "endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": "file_0",
            "status": status, "created_at": int(job.made.timestamp()), "metadata": job.metadata,
            "errors": {"object": "list", "data": [job.refused]} if job.refused else None,
            "output_file_id": f"out-{job.id}" if ended else None, "error_file_id": f"err-{job.id}" if ended and fates - {"ok"} else None,
            "request_counts": {"total": len(job.rows), "completed": len(job.rows) if ended else 0, "failed": 0},
        }  # fmt: skip

    async def _content(self, request: web.Request) -> web.StreamResponse:
        kind, _, name = request.match_info["id"].partition("-")
        job = next(job for job in self.jobs if job.id == name)
        lines = [line for row in reversed(job.rows) if (line := self._line(row, errors=kind == "err")) is not None]
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await response.prepare(request)
        half = len(lines) // 2
        await response.write("".join(lines[:half]).encode())
        await self.note("results")
        await response.write("".join(lines[half:]).encode())
        return response

    def _line(self, row: dict[str, Any], *, errors: bool) -> str | None:
        prompt = row["body"]["messages"][-1]["content"]
        fate = self.fate(prompt)
        if fate == "missing" or (fate == "ok") is errors:
            return None
        line: dict[str, Any] = {"id": "r", "custom_id": row["custom_id"], "response": None, "error": None}
        if fate == "ok":
            line["response"] = {"status_code": 200, "request_id": "q", "body": _completion(row["body"], f"batch: {prompt}{LINE_END}.")}
        elif isinstance(fate, int):
            line["response"] = {"status_code": fate, "request_id": "q", "body": self.error(fate, f"fault {fate}")}
        else:
            line["error"] = {"code": f"batch_{fate}", "message": f"this request is {fate}"}
        return json.dumps(line, ensure_ascii=False) + "\n"

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.chats.append(body["messages"][-1]["content"])
        return web.json_response(_completion(body, f"at once: {self.chats[-1]}"))


def _completion(body: dict[str, Any], text: str) -> dict[str, Any]:
    return {
        "id": "c", "object": "chat.completion", "created": 1, "model": body["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000, "total_tokens": 2_000_000},
    }  # fmt: skip
