"""An OpenAI-compatible server on loopback that counts what it is asked and fails as it is told.

    with OpenAIServer(latency=0.01) as server:
        llm = OpenAI("gpt-test", base_url=server.base_url)
        server.fail(429, 500, "reset")      # the next three requests
        ...
        assert server.calls == 4

Run as a program (``python -m tests.servers.openai_server --latency 0.3``) it prints its base URL and serves until its input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import ssl
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Self

from aiohttp import web

Body = dict[str, Any]
Fault = int | str | tuple[int, dict[str, str]]
"""A status (401, 429 …), a status with headers, or one of the `STRANGE` words."""

STRANGE = (
    "close", "content_filter", "endless", "hang", "html", "huge", "invalid_json", "no_text", "quota", "redirect", "refusal", "reset",
    "truncated",
)  # fmt: skip
HUGE = 10 * 2**20


def default_reply(body: Body, count: int) -> str:
    """A text made from the messages, and different for each time that they are sent."""
    digest = hashlib.sha256(json.dumps(body["messages"], sort_keys=True).encode()).hexdigest()[:8]
    return f"reply {count} to {digest}: {body['messages'][-1]['content'][-60:]}"


class OpenAIServer:
    """The server, in a thread of its own. ``reply(body, count)`` gives the text of the ``count``-th reply to the same messages."""

    def __init__(
        self,
        *,
        latency: float = 0.0,
        key: str | None = None,
        reply: Callable[[Body, int], str] = default_reply,
        record: bool = True,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.latency = latency
        self.key = key
        self.reply = reply
        self.record = record
        self.ssl_context = ssl_context
        self.always: Fault | None = None
        """A fault that every request meets."""
        self.headers: dict[str, str] = {}
        """Headers of every answer, those about rate limits for example."""
        self.fails: Callable[[Body], Fault | None] = lambda body: None
        """The fault that a request meets for what it says."""
        self.requests: list[dict[str, Any]] = []
        """The body of each request, with its ``path``, ``query`` and ``headers`` beside it under ``http``."""
        self.calls = 0
        self.answered = 0
        self.peak = 0
        """The most requests that were in flight at once."""
        self.port = 0
        self._in_flight = 0
        self._faults: deque[Fault] = deque()
        self._counts: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._open: asyncio.Event | None = None
        self._ended: asyncio.Event | None = None
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="openai-server", daemon=True)

    # --- for tests ----------------------------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """What `OpenAI` is given."""
        return f"http{'s' if self.ssl_context else ''}://127.0.0.1:{self.port}/v1"

    @property
    def prompts(self) -> list[str]:
        """The last message of each request, in order of arrival."""
        return [request["messages"][-1]["content"] for request in self.requests]

    def fail(self, *faults: Fault) -> None:
        """Meet the next requests with ``faults``, one each."""
        self._faults.extend(faults)

    def hold(self) -> None:
        """Answer nothing until `release`; requests are counted as they come."""
        self._on_loop(lambda: self._open and self._open.clear())

    def release(self) -> None:
        """Answer what is held, and go on."""
        self._on_loop(lambda: self._open and self._open.set())

    def wait_for(self, calls: int, timeout: float = 20.0) -> None:
        """Return when ``calls`` requests have come."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.calls >= calls, timeout):
                raise TimeoutError(f"{self.calls} of {calls} requests came within {timeout} s")

    def start(self) -> Self:
        """Listen on a free port."""
        self._thread.start()
        self._ready.wait(10)
        return self

    def stop(self) -> None:
        """Close everything."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # --- the server ---------------------------------------------------------------------------------------------------

    def _on_loop(self, act: Callable[[], object]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (act(), done.set()))
        done.wait(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._open, self._ended = asyncio.Event(), asyncio.Event()
        self._open.set()
        app = web.Application()
        self._route(app.router)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024, ssl_context=self.ssl_context)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        self._open.set()
        await runner.cleanup()

    def _route(self, router: web.UrlDispatcher) -> None:
        router.add_get("/v1/models", self._models)
        router.add_post("/{prefix:.*}chat/completions", self._chat)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "gpt-test", "object": "model"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        with self._changed:
            self.calls += 1
            self._in_flight += 1
            self.peak = max(self.peak, self._in_flight)
            if self.record:
                http = {"path": request.path, "query": dict(request.query), "headers": dict(request.headers)}
                self.requests.append({**body, "http": http})
            self._changed.notify_all()
        try:
            return await self._answer(request, body)
        finally:
            self._in_flight -= 1
            self.answered += 1

    async def _answer(self, request: web.Request, body: Body) -> web.StreamResponse:
        fault = self._faults.popleft() if self._faults else self.fails(body) or self.always
        await self._open.wait()
        if self.latency:
            await asyncio.sleep(self.latency)
        sent = self._key_sent(request)
        if self.key is not None and sent != self.key:
            fault = 401
        if fault is None:
            return web.json_response(self._completion(body), headers=self.headers)
        if isinstance(fault, str) and fault in ("close", "endless", "hang", "reset"):
            return await self._never(request, body, fault)
        return self._fault(body, fault, sent)

    def _key_sent(self, request: web.Request) -> str:
        return request.headers.get("Authorization", "").removeprefix("Bearer ") or request.headers.get("api-key", "")

    async def _never(self, request: web.Request, body: Body, fault: str) -> web.StreamResponse:
        """Whatever comes, no answer: none at all, half of one, or one without end."""
        if fault == "hang":
            await self._ended.wait()
        response = web.StreamResponse(headers={"content-type": "application/json"})
        if fault == "close":
            response.content_length = 1000
            await response.prepare(request)
            await response.write(b'{"choices": [')
        while fault == "endless" and request.transport is not None and not request.transport.is_closing():
            if not response.prepared:
                await response.prepare(request)
            await response.write(b" " * 100_000)
        if request.transport is not None:  # the client may have gone
            request.transport.abort()
        return response

    def _fault(self, body: Body, fault: Fault, sent: str) -> web.StreamResponse:
        if isinstance(fault, int):
            fault = (fault, {})
        if isinstance(fault, tuple):
            status, headers = fault
            messages = {401: f"Incorrect API key provided: {sent}.", 404: f"The model {body['model']!r} does not exist."}
            error = self._error(status, messages.get(status, f"fault {status}"))
            return web.json_response(error, status=status, headers=self.headers | headers)
        if fault == "quota":
            status, error = self._quota()
            return web.json_response(error, status=status)
        if fault == "html":
            return web.Response(text="<html><body>It works!</body></html>", content_type="text/html")
        if fault == "redirect":
            return web.Response(status=307, headers={"location": "http://127.0.0.1:9/elsewhere"})
        answer = self._completion(body)
        if fault == "huge":
            return web.json_response(self._saying(answer, "x" * HUGE))
        if fault in ("truncated", "invalid_json"):
            text = json.dumps(answer)
            return web.Response(text=text[: len(text) // 2] if fault == "truncated" else f"{text},", content_type="application/json")
        return web.json_response(self._strange(answer, str(fault)))

    def _error(self, status: int, message: str) -> dict[str, Any]:
        return {"error": {"message": message, "type": "error", "code": None}}

    def _quota(self) -> tuple[int, dict[str, Any]]:
        mark = "insufficient_quota"
        return 429, {"error": {"message": "You exceeded your current quota.", "type": mark, "code": mark}}

    def _saying(self, completion: dict[str, Any], text: str) -> dict[str, Any]:
        completion["choices"][0]["message"]["content"] = text
        return completion

    def _strange(self, completion: dict[str, Any], fault: str) -> dict[str, Any]:
        choice = completion["choices"][0]
        if fault == "content_filter":
            choice["finish_reason"] = "content_filter"
        elif fault == "no_text":
            choice["message"]["content"] = None
        elif fault == "refusal":
            choice["message"] |= {"content": None, "refusal": "I cannot help with that."}
        else:
            raise ValueError(f"{fault!r} is none of {STRANGE}")
        return completion

    def _completion(self, body: Body) -> dict[str, Any]:
        text, usage = self._said(body)
        return {
            "id": f"chatcmpl-{self.calls}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": f"{body['model']}-2026-01-01",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)},
        }

    def _said(self, body: Body) -> tuple[str, tuple[int, int]]:
        """The text of the next reply to these messages, and the tokens on both sides."""
        asked = json.dumps(body["messages"])
        self._counts[asked] += 1
        text = self.reply(body, self._counts[asked])
        return text, (len(asked.split()), len(text.split()))


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    with OpenAIServer(latency=parser.parse_args().latency, record=False) as server:
        print(server.base_url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
