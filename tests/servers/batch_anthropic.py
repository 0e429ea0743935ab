"""Anthropic's message batches on loopback, and its messages for what is asked in the ordinary way."""

from __future__ import annotations

import json
import re
from typing import Any

from aiohttp import web

from tests.servers.batch_server import BatchServer, Job

KINDS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 500: "api_error"}
COUNTED = {"ok": "succeeded", "expired": "expired", "cancelled": "canceled", "missing": "succeeded"}


class AnthropicBatchServer(BatchServer):
    """Nothing tells a batch from another before it has ended: no metadata, no list of its requests."""

    def __init__(self) -> None:
        super().__init__()
        self.chats: list[str] = []
        """The prompts that were asked in the ordinary way."""

    def routes(self) -> list[web.RouteDef]:
        """Batches, messages."""
        return [
            web.post("/v1/messages/batches", self._create, name="create"),
            web.get("/v1/messages/batches", self._list, name="list", allow_head=False),
            web.get("/v1/messages/batches/{id}", self._retrieve, name="state"),
            web.get("/v1/messages/batches/{id}/results", self._results, name="results"),
            web.post("/v1/messages", self._message, name="chat"),
        ]

    def error(self, status: int, message: str) -> dict[str, Any]:
        """As Anthropic says it."""
        return {"type": "error", "error": {"type": KINDS.get(status, "api_error"), "message": message}}

    async def _create(self, request: web.Request) -> web.Response:
        rows = (await request.json())["requests"]
        ids = [row["custom_id"] for row in rows]
        assert len({*ids}) == len(ids)
        assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) and row["params"]["max_tokens"] for name, row in zip(ids, rows, strict=True))
        job = await self.accept(rows, [row["params"]["messages"][-1]["content"] for row in rows], {})
        return web.json_response(self._shown(job))

    async def _list(self, request: web.Request) -> web.Response:
        await self.note("list")
        after = request.query.get("after_id")
        ids = [job.id for job in self.jobs]
        page = self.jobs[ids.index(after) + 1 if after else 0 :][:1]  # pages of one
        for job in page:
            self.look(job)
        more = bool(page) and page[-1] is not self.jobs[-1]
        names = [job.id for job in page] or [None]
        return web.json_response(
            {"data": [self._shown(job) for job in page], "has_more": more, "first_id": names[0], "last_id": names[-1]}
        )  # fmt: skip

    async def _retrieve(self, request: web.Request) -> web.Response:
        await self.note("state")
        job = self.found(request)
        self.look(job)
        return web.json_response(self._shown(job))

    def _shown(self, job: Job) -> dict[str, Any]:
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        for row in job.rows:
            fate = self.fate(row["params"]["messages"][-1]["content"])
            counts[COUNTED.get(str(fate), "errored") if job.ended else "processing"] += 1
        made = job.made.isoformat().replace("+00:00", "Z")
        return {
            "id": job.id, "type": "message_batch", "processing_status": "ended" if job.ended else "in_progress", "request_counts": counts,
            "created_at": made, "expires_at": made, "ended_at": made if job.ended else None,
            "results_url": f"{self.base_url}/v1/messages/batches/{job.id}/results" if job.ended else None,
        }  # fmt: skip

    async def _results(self, request: web.Request) -> web.StreamResponse:
        lines = [line for row in reversed(self.found(request).rows) if (line := self._line(row)) is not None]
        response = web.StreamResponse(headers={"Content-Type": "application/binary"})
        await response.prepare(request)
        half = len(lines) // 2
        await response.write("".join(lines[:half]).encode())
        await self.note("results")
        await response.write("".join(lines[half:]).encode())
        return response

    def _line(self, row: dict[str, Any]) -> str | None:
        prompt = row["params"]["messages"][-1]["content"]
        fate = self.fate(prompt)
        if fate == "missing":
            return None
        result: dict[str, Any] = {"type": "canceled" if fate == "cancelled" else fate}
        if fate == "ok":
            result = {"type": "succeeded", "message": _message(row["params"], f"batch: {prompt}\u2028.")}
        elif isinstance(fate, int):
            result = {"type": "errored", "error": self.error(fate, f"fault {fate}")}
        return json.dumps({"custom_id": row["custom_id"], "result": result}, ensure_ascii=False) + "\n"

    async def _message(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.chats.append(body["messages"][-1]["content"])
        return web.json_response(_message(body, f"at once: {self.chats[-1]}"))


def _message(body: dict[str, Any], text: str) -> dict[str, Any]:
    return {
        "id": "m", "type": "message", "role": "assistant", "model": body["model"], "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn", "usage": {"input_tokens": 1_000_000, "output_tokens": 1_000_000},
    }  # fmt: skip
