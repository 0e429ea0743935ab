"""What the doubles of both batch services share: jobs whose fate a test decides, and counts of what was sent."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from aiohttp import web

Fate = int | str
"""What becomes of a request: ``ok``, ``expired``, ``cancelled``, ``missing``, or the status of an error."""


@dataclass
class Job:
    """A batch that the provider has accepted."""

    rows: list[dict[str, Any]]
    metadata: dict[str, str] = field(default_factory=dict)
    id: str = field(default_factory=lambda: f"batch_{uuid.uuid4().hex[:12]}")
    made: datetime = field(default_factory=lambda: datetime.now(UTC))
    asked: int = 0
    ended: bool = False
    refused: dict[str, Any] | None = None


class BatchServer:
    """In a thread of its own. A job ends at the second question about it, unless the server is told to `hold` it."""

    def __init__(self) -> None:
        self.fate: Callable[[str], Fate] = lambda prompt: "ok"
        """What becomes of a prompt."""
        self.refusal: dict[str, Any] | None = None
        """Why the next jobs are refused as a whole."""
        self.key: str | None = None
        self.jobs: list[Job] = []
        self.sent: Counter[str] = Counter()
        """How often each prompt was accepted."""
        self.asked: Counter[str] = Counter()
        """Requests by what they ask."""
        self.faults: dict[str, list[int]] = {}
        """Statuses that the next requests of a kind meet, before they have an effect."""
        self.late: dict[str, list[int]] = {}
        """The same, after they had their effect."""
        self.port = 0
        self._stalls: set[str] = set()
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    # --- for tests ----------------------------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """What the model is given."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def rows(self) -> int:
        """How many requests were accepted."""
        return sum(self.sent.values())

    def stall(self, kind: str) -> None:
        """Answer no request of a kind from now on; ``created`` and ``results`` have their effect before they stall."""
        self._stalls.add(kind)

    def go_on(self) -> None:
        """Answer everything again."""
        self._stalls.clear()

    def wait_for(self, kind: str, times: int = 1) -> None:
        """Return when so many requests of a kind have come."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.asked[kind] >= times, 30):
                raise TimeoutError(f"{kind}: {self.asked[kind]} of {times}")

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self.go_on()
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)

    # --- for the doubles ----------------------------------------------------------------------------------------------

    def routes(self) -> list[web.RouteDef]:
        """The paths that are answered."""
        raise NotImplementedError

    def error(self, status: int, message: str) -> dict[str, Any]:
        """The body of an error."""
        raise NotImplementedError

    async def note(self, kind: str) -> None:
        """Count a request, and hold it while its kind is stalled."""
        with self._changed:
            self.asked[kind] += 1
            self._changed.notify_all()
        while kind in self._stalls and not self._ended.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.01)

    async def accept(self, rows: list[dict[str, Any]], prompts: list[str], metadata: dict[str, str]) -> Job:
        """Take a job over."""
        job = Job(rows, metadata, refused=self.refusal)
        self.jobs.insert(0, job)
        self.sent.update(prompts)
        await self.note("created")
        return job

    def look(self, job: Job) -> None:
        """A question about a job: time passes."""
        job.asked += 1
        job.ended = job.ended or (job.asked > 1 and "ending" not in self._stalls)

    def hold(self) -> None:
        """Let no job end until `go_on`."""
        self.stall("ending")

    def found(self, request: web.Request) -> Job:
        """The job that a path names."""
        for job in self.jobs:
            if job.id == request.match_info["id"]:
                return job
        raise web.HTTPNotFound(text=json.dumps(self.error(404, "no such batch")), content_type="application/json")

    @web.middleware
    async def _fails(self, request: web.Request, handler: Any) -> web.StreamResponse:
        route = request.match_info.route.name or ""
        sent = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.key is not None and sent != self.key:
            return web.json_response(self.error(401, f"incorrect key {sent}"), status=401)
        for faults, early in ((self.faults, True), (self.late, False)):
            if faults.get(route):
                status = faults[route].pop(0)
                if not early:
                    await handler(request)
                return web.json_response(self.error(status, f"fault {status}"), status=status)
        return await handler(request)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._ended = asyncio.Event()
        app = web.Application(middlewares=[self._fails], client_max_size=2**30)
        app.router.add_routes(self.routes())
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        await runner.cleanup()
