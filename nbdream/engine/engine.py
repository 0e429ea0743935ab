"""The engine: one thread, one event loop, all requests of a kernel.

A step's thread numbers the rows and hands them over in chunks; the loop looks a chunk up at once, sends what is missing, has each reply
committed and fills it into its row; the step's thread takes the rows in order. So a row in flight holds up nothing but the order.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from nbdream import secrets as credentials
from nbdream.cache import CallCache
from nbdream.context import replaying
from nbdream.engine.batch_jobs import GOES_ON, Rhythm
from nbdream.engine.batch_records import Records
from nbdream.engine.batches import Batches
from nbdream.engine.budget import Budget
from nbdream.engine.collector import spared
from nbdream.engine.commits import Commits
from nbdream.engine.keys import Draws
from nbdream.engine.lanes import Lanes, key_of, shared
from nbdream.engine.limits import Learned
from nbdream.engine.retry import Patience
from nbdream.engine.spending import Account, Spending
from nbdream.engine.stream import Call, Progress, Review, Row, Stream, new_row, stopped
from nbdream.errors import ArgumentError, BrokenFileError, ModelError, SessionError, Stopped
from nbdream.ledger import at_least
from nbdream.llms.base import LLM, Reply, Request

CHUNK = 256
"""Rows that are looked up together. The next ones are handed over when there is room for as many: small chunks cost more than waiting."""
GATHER = 0.05
"""Seconds after which a chunk goes out as it is."""
WINDOW = 4096
"""Replies that may be outstanding or waiting for their turn; what bounds the memory of a stream."""
TICK = 0.1
"""Seconds between two looks at the stop event, and between two reports."""
CLOSING = 0.8
"""Seconds that a stopped stream waits for its last commits."""
GRACE = 0.25
"""Seconds in which what is in flight may still arrive when its stream ends: it is paid for, so it is kept."""


class Redactor(Protocol):
    """What the engine asks of `nbdream.secrets`."""

    def known(self) -> dict[str, str]:
        """The credentials known now."""

    def found_in(self, text: str, credentials: dict[str, str] | None = None) -> str | None:
        """The name of a credential in ``text``."""

    def scrub(self, value: Any, credentials: dict[str, str] | None = None) -> Any:
        """``value`` without credentials."""


@dataclass(slots=True)
class _Source:
    """The rows of a stream on their way to the loop."""

    requests: Iterator[Request]
    draws: Draws
    room: int
    """Rows that may be outstanding."""
    size: int
    """Rows in the next chunk: four times as many from chunk to chunk, and one again when the source proves slow."""
    taken: int = 0
    exhausted: bool = False
    known: dict[str, str] = field(default_factory=dict)
    """The credentials that there were a moment ago."""
    known_until: float = 0.0


class Engine:
    """Puts requests to models and gives replies in row order. Owns ``cache`` and closes it when it stops."""

    def __init__(
        self,
        cache: CallCache,
        secrets: Redactor = credentials,
        *,
        patience: Patience | None = None,
        rhythm: Rhythm | None = None,
        folder: Path | None = None,
    ) -> None:
        """``folder`` is the session's: what is learned about services and which batches are under way lies there."""
        self._cache = cache
        self._folder = folder
        self._learned = Learned(folder)
        self._account: Account | None = None
        self._secrets = secrets
        self._patience = patience or Patience()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._stopped = False
        # What follows is touched on the loop only.
        self._pending: dict[str, Call] = {}
        self._lanes: dict[str, Lanes] = {}
        self._models: dict[int, tuple[LLM, str]] = {}
        self._streams: set[Stream] = set()
        self._came_and_went = 0
        """How often a stream was opened or closed."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._known: dict[str, str] = {}
        self._known_until = 0.0
        self._now = ""
        self._commits = Commits(cache)
        records = Records((folder or cache.path.parent) / "batches")
        self._batches = Batches(records, self._settle, self._still_missing, rhythm or Rhythm())
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="nbdream-look-up")

    # --- its life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; harmless when it runs."""
        with self._starting:
            if self._stopped:
                raise SessionError("the session is closed", "open it again: %dream open")
            if self._thread is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, name="nbdream-engine", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End what runs, write what has arrived, close the cache. Harmless when it is stopped."""
        with self._starting:
            if self._stopped:
                return
            self._stopped = True
        if self._loop is not None and self._thread is not None:
            asyncio.run_coroutine_threadsafe(self._wind_up(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._commits.close()
        self._reader.shutdown(wait=True)
        self._cache.close()

    def _run(self) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _wind_up(self) -> None:
        streams = list(self._streams)
        for stream in streams:
            stream.fail(Stopped("the session was closed", "open it and run again: what is there costs nothing"))
        await asyncio.gather(*(self._close(stream) for stream in streams))
        await self._batches.aclose()
        await self._commits.flush()
        ending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending, timeout=1)
        for llm, _ in self._models.values():
            with contextlib.suppress(Exception):
                await asyncio.wait_for(llm.aclose(), 2)
        self._lanes.clear()
        self._models.clear()

    def paid(self) -> list[dict[str, Any]]:
        """What the stored replies cost, by the step that paid and by model; see `CallCache.paid`."""
        return self._cache.paid()

    def stored(self, keys: list[str]) -> set[str]:
        """Those of ``keys`` under which there is a reply, or a failure."""
        return set(self._cache.lookup(keys))

    def limit(self, dollars: float | None) -> None:
        """Let all calls of the session together cost so much, those of earlier days included; None: as much as they like."""
        if dollars is None:
            self._account = None
        elif self._account is None:
            self._account = Account(dollars, further="raise the session's budget to go on (%dream budget)")
        else:
            self._account.dollars = dollars

    def spending(self, dollars: float | None = None, tokens: int | None = None) -> Spending | None:
        """A budget of so much for one stream, and of what the session has left; None when there is no limit."""
        limits = [] if dollars is None and tokens is None else [Account(dollars, tokens)]
        if self._account is not None:
            self._account.note_total(lambda: at_least(self.paid()))
            limits.append(self._account)
        return Spending(*limits) if limits else None

    # --- in the step's thread -----------------------------------------------------------------------------------------

    def stream(
        self,
        llm: LLM,
        requests: Iterable[Request],
        *,
        draws: int = 1,
        total: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        stop: threading.Event | None = None,
        limit: int | None = None,
        retry_failed: bool = False,
        cache_only: bool = False,
        attempt: str = "",
        by: str | None = None,
        review: Review | None = None,
        budget: Budget | None = None,
        batch: bool = False,
    ) -> Generator[list[Reply], None, None]:
        """A list of ``draws`` replies for each request, in order. A row that failed has replies with ``error``.

        ``total``: rows, if known, for progress. ``limit``: the most calls in flight, or requests in a batch. ``retry_failed``: ask
        again where a failure is stored. ``cache_only``: ask nothing. ``attempt``: what sets a repeated attempt's keys apart.
        ``by``: the name that is stored with what is paid for. ``review``: mends replies, see `Review`. ``budget``: what it may cost.
        ``batch``: what is not stored goes to the provider's batch service.
        Raises `ModelError` when no request can be answered and `Stopped` when ``stop`` is set. Closing the generator ends the
        work; what had arrived is on disk.
        """
        if draws < 1:
            raise ArgumentError(f"n is {draws}", "it is the number of replies to each prompt: 1 or more")
        if limit is not None and limit < 1:
            raise ArgumentError(f"the most requests at a time is {limit}", "it is 1 or more; leave it out for the default")
        if batch:
            llm.batch_service()  # an error here, where there is none
        self.start()
        whole = None if total is None else total * draws
        stream = Stream(llm, total=whole, limit=limit, retry_failed=retry_failed, cache_only=cache_only or replaying(), by=by)
        stream.review, stream.budget, stream.batch = review, budget or self.spending(), batch
        numbered = Draws(llm.identity, draws, attempt)
        stream.key_of = numbered.follow_up
        size = (limit or llm.batch_size) if llm.batched else 1
        source = _Source(iter(requests), numbered, room=sys.maxsize if batch else max(1, WINDOW // draws), size=size)
        return self._consume(stream, source, on_progress, stop)

    def _consume(
        self, stream: Stream, source: _Source, on_progress: Callable[[Progress], None] | None, stop: threading.Event | None
    ) -> Generator[list[Reply], None, None]:
        assert self._loop is not None
        rows: deque[Row] = deque()
        reported = 0.0
        finished = False
        try:
            self._tell_loop(stream, self._open, stream)
            with spared():
                while True:
                    self._check(stream, stop, source)
                    while rows and rows[0].missing == 0:
                        yield rows.popleft().replies
                        self._check(stream, stop, source)
                    if not source.exhausted and (not rows or len(rows) <= source.room - source.size):
                        self._hand_over(stream, source, rows)
                    elif rows:
                        stream.wait(rows[0], TICK)
                    else:
                        break
                    if on_progress is not None and time.monotonic() - reported >= TICK:
                        reported = time.monotonic()
                        on_progress(stream.progress())
            finished = True
        finally:
            self._end(stream, wait=not finished)
            if on_progress is not None:
                on_progress(replace(stream.progress(), in_flight=0))

    def _check(self, stream: Stream, stop: threading.Event | None, source: _Source) -> None:
        if stream.error is not None:
            raise stream.error
        if stopped(stop):
            if stream.at_provider is not None:
                raise Stopped(f"stopped waiting after {stream.progress().done:,} replies", GOES_ON)
            raise Stopped(f"stopped after {stream.progress().done:,} replies", "run it again to go on: what is there costs nothing")

    def _hand_over(self, stream: Stream, source: _Source, rows: deque[Row]) -> None:
        """Number the next chunk of requests and have it looked up."""
        if (now := time.monotonic()) > source.known_until:
            source.known, source.known_until = self._secrets.known(), now + TICK
        checked: object = None
        chunk: list[Row] = []
        until = now + GATHER
        while len(chunk) < source.size and len(rows) < source.room:
            request = next(source.requests, None)
            if request is None:
                source.exhausted = True
                break
            if source.known:
                self._refuse_credentials(request, source.taken, source.known, params=request.params is not checked)
                checked = request.params
            row = new_row(source.taken, request, source.draws.number(request))
            source.taken += 1
            chunk.append(row)
            rows.append(row)
            if time.monotonic() > until:
                break
        source.size = min(CHUNK, source.size * 4) if time.monotonic() <= until else 1
        if stream.error is not None:  # the source took its time
            raise stream.error
        came_and_went = self._came_and_went
        found = self._cache.lookup([key for row in chunk for key, _ in row.keys]) if chunk else {}
        chunk = self._fill_stored(stream, chunk, found)
        if chunk:
            self._tell_loop(stream, self._submit, stream, chunk, found, came_and_went)
        if source.exhausted and stream.batch:
            self._tell_loop(stream, self._all_handed_over, stream)

    def _tell_loop(self, stream: Stream, what: Callable[..., None], *given: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(what, *given)
        except RuntimeError:  # the engine has stopped meanwhile, and has said so to its streams
            raise stream.error or SessionError("the session is closed", "open it again: %dream open") from None

    def _fill_stored(self, stream: Stream, chunk: list[Row], found: dict[str, dict[str, Any]]) -> list[Row]:
        """Complete here the rows whose replies are all on disk; those that are left are the loop's."""
        if not found:
            return chunk
        left = []
        for row in chunk:
            stored = [self._stored_reply(value) for key, _ in row.keys if (value := found.get(key)) is not None]
            if len(stored) == len(row.keys) and self._stands(stream, row, stored):
                stream.fill_stored(row, stored)
            else:
                left.append(row)
        return left

    def _stands(self, stream: Stream, row: Row, stored: list[Reply]) -> bool:
        """Whether stored replies are good as they are: neither failures nor to be mended."""
        review = stream.review
        for reply in stored:
            mended = review is not None and reply.error is None and review(row.request, reply, 1) is not None
            if mended or reply.error is not None:  # the review may have found one
                return False
        return True

    def _refuse_credentials(self, request: Request, number: int, known: dict[str, str], *, params: bool) -> None:
        texts = [message["content"] for message in request.messages]
        if params:
            texts.append(repr(request.params))
        for text in texts:
            name = self._secrets.found_in(text, known)
            if name is not None:
                raise ArgumentError(f"prompt {number} contains {name}", "take it out: a prompt is sent, stored and published")

    def _end(self, stream: Stream, *, wait: bool) -> None:
        assert self._loop is not None
        assert self._thread is not None
        if self._loop.is_closed() or not self._thread.is_alive():
            return
        closed = threading.Event()

        def close() -> None:
            self._start(self._close(stream)).add_done_callback(lambda _: closed.set())

        try:
            self._loop.call_soon_threadsafe(close)
        except RuntimeError:  # the engine has stopped meanwhile
            return
        # A generator that nobody holds may be collected on the loop's own thread, which must not wait for itself.
        if wait and threading.current_thread() is not self._thread:
            closed.wait(CLOSING)

    # --- on the loop --------------------------------------------------------------------------------------------------

    def _open(self, stream: Stream) -> None:
        self._streams.add(stream)
        self._came_and_went += 1
        stream.when_failed = lambda: self._drop(stream)
        self._lanes_of(stream.llm).join(stream)

    def _lanes_of(self, llm: LLM) -> Lanes:
        if id(llm) not in self._models:
            self._models[id(llm)] = (llm, key_of(llm))
        key = self._models[id(llm)][1]
        if key not in self._lanes:
            self._lanes[key] = Lanes(llm, self._settle, self._patience, self._secrets.scrub, self._learned)
        return self._lanes[key]

    def _submit(self, stream: Stream, chunk: list[Row], found: dict[str, dict[str, Any]], came_and_went: int) -> None:
        """Take rows over. A key counts as in flight before it is looked up, so that nobody else sends it meanwhile.

        What ``found`` says is as good as a look-up now if nobody else can have asked since: no other stream came or went.
        """
        if stream not in self._streams:
            return
        fresh = []
        for row in chunk:
            for slot, (key, draw) in enumerate(row.keys):
                call = self._pending.get(key)
                if call is None:
                    request = row.request if row.request.draw == draw else replace(row.request, draw=draw)
                    call = self._pending[key] = Call(key, request, [], stream)
                    fresh.append(call)
                call.waiters.append((stream, row, slot))
        again = fresh
        if came_and_went == self._came_and_went and len(self._streams) == 1 and not stream.looked_up_now:
            again = []
            for call in fresh:  # in the order of their rows
                stored = found.get(call.key)
                if call.request.greedy and (stored is None or "error" in stored):  # an earlier row may have asked for it meanwhile
                    again.append(call)
                else:
                    self._found(call, stored)
            self._lanes_of(stream.llm).pump()
        if again:
            self._start_look_up(again)

    def _start_look_up(self, calls: list[Call]) -> None:
        asking = {call.owner for call in calls}
        for stream in asking:
            stream.looked_up_now += 1
        self._start(self._look_up(calls, asking))

    async def _look_up(self, calls: list[Call], asking: set[Stream]) -> None:
        keys = [call.key for call in calls]
        try:
            stored = await asyncio.get_running_loop().run_in_executor(self._reader, self._cache.lookup, keys)
            for call in calls:
                if self._pending.get(call.key) is call:  # its stream may have been closed meanwhile
                    self._found(call, stored.get(call.key))
        except Exception as error:
            for call in calls:
                for waiter, _, _ in call.waiters:
                    waiter.fail(error)
        for stream in asking:
            stream.looked_up_now -= 1
        for llm in {id(stream.llm): stream.llm for stream in asking}.values():
            self._lanes_of(llm).pump()

    def _found(self, call: Call, stored: dict[str, Any] | None) -> None:
        """Answer a call from the cache, or line it up."""
        call.looked_up = True
        if self._answered(call, stored):
            return
        if call.owner.cache_only:
            hint = "a replay asks no model" if replaying() else "run it without cache_only, which asks for it"
            call.owner.fail(ModelError("a reply is not stored", hint))
        else:
            self._line_up(call)

    def _answered(self, call: Call, stored: dict[str, Any] | None) -> bool:
        """Whether what is stored answers a call."""
        if stored is None:
            return False
        reply = self._stored_reply(stored)
        follow = self._reviewed(call, reply)
        if reply.error is not None and call.owner.retry_failed:
            return False
        self._resolve(call, reply, follow)
        return True

    def _line_up(self, call: Call) -> None:
        """Have a call sent. One that mends a reply is sent at once: they are few, and a batch may take a day."""
        if call.owner.batch and call.tries == 1:
            self._batches.add(call.owner, call)
        else:
            call.owner.waiting_calls.append(call)

    def _all_handed_over(self, stream: Stream) -> None:
        """A batch stream has no further rows: as soon as all are looked up, what is not stored goes out."""
        looking = asyncio.gather(*self._tasks, return_exceptions=True)
        looking.add_done_callback(lambda _: self._batches.source_ended(stream) if stream in self._streams else None)

    async def _still_missing(self, calls: list[Call]) -> list[Call]:
        """Answer those of ``calls`` that are stored by now; the others."""
        keys = [call.key for call in calls]
        stored = await asyncio.get_running_loop().run_in_executor(self._reader, self._cache.lookup, keys)
        return [call for call in calls if not self._answered(call, stored.get(call.key))]

    def _stored_reply(self, stored: dict[str, Any]) -> Reply:
        try:
            return Reply.from_json(stored)
        except ValueError as error:
            raise BrokenFileError(self._cache.path, str(error)) from error

    async def _settle(self, arrived: list[tuple[Call, Reply]]) -> None:
        """Commit replies, then give them to those who wait. What may be answered another time is not stored."""
        if (now := time.monotonic()) > self._known_until:
            self._known, self._known_until = self._secrets.known(), now + TICK
            self._now = datetime.now(UTC).isoformat(timespec="seconds")
        handed = []
        for call, reply in arrived:
            self._clean(reply)
            reply.by = call.owner.by
            reply.cost = call.owner.dollars(reply, call.request)
            follow = self._reviewed(call, reply)
            kept = reply.error is None or reply.error["kind"] == "row"
            handed.append((call, reply, follow, self._commits.put(call.key, reply.to_json()) if kept else None))
        for call, reply, follow, commit in handed:
            earlier = await commit if commit is not None else None
            if earlier is not None:
                reply = self._stored_reply(earlier)
                follow = self._reviewed(call, reply)
            self._resolve(call, reply, follow)

    def _clean(self, reply: Reply) -> None:
        """Make a reply fit to be stored: no credentials, no half characters, a time."""
        if reply.text is None and reply.error is None:
            reply.error = {"kind": "row", "message": "the model gave no text", "status": None}
        if reply.text is not None:
            reply.text = _whole(self._secrets.scrub(reply.text, self._known))
        if reply.error is not None:
            reply.error = self._secrets.scrub(reply.error, self._known)
        reply.made = reply.made or self._now

    def _reviewed(self, call: Call, reply: Reply) -> Request | None:
        """The request that is to mend ``reply``, by the rule of the stream that asked; it may find that the reply fails."""
        review = call.owner.review
        return review(call.request, reply, call.tries) if review is not None and reply.error is None else None

    def _resolve(self, call: Call, reply: Reply, follow: Request | None) -> None:
        """Give a reply to all who wait for it; those who have it mended wait on, for ``follow``."""
        if self._pending.get(call.key) is call:
            del self._pending[call.key]
        waiters, call.waiters = call.waiters, []
        reply.earlier = call.earlier
        if follow is not None:
            mended = [waiter for waiter in waiters if waiter[0].review is call.owner.review]
            self._follow_up(call, reply, follow, mended)
            waiters = [waiter for waiter in waiters if waiter[0].review is not call.owner.review]
            reply = shared(reply)
        for number, (stream, row, slot) in enumerate(waiters):
            if number:
                reply = shared(reply)  # the first of them paid
            stream.fill(row, slot, reply)

    def _follow_up(self, call: Call, reply: Reply, follow: Request, waiters: list[tuple[Stream, Row, int]]) -> None:
        """Have ``follow`` answered in the place of ``call``, whose own reply is kept beside it."""
        key = call.owner.key_of(follow)
        pending = self._pending.get(key)
        if pending is not None:
            pending.waiters += waiters
            return
        mending = Call(key, follow, waiters, call.owner, tries=call.tries + 1, earlier=(*reply.earlier, replace(reply, earlier=())))
        self._pending[key] = mending
        self._start_look_up([mending])

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _close(self, stream: Stream) -> None:
        """Take a stream off and wait, within reason, until what arrives is on disk."""
        self._drop(stream)
        lanes = self._lanes_of(stream.llm)
        if abandoned := lanes.abandoned():
            await asyncio.wait(abandoned, timeout=GRACE)
        if ending := lanes.cancel_abandoned():
            await asyncio.wait(ending, timeout=CLOSING / 2)
        await self._commits.flush()

    def _drop(self, stream: Stream) -> None:
        """Take a stream off: what others wait for as well goes on under their name."""
        if stream not in self._streams:
            return
        self._streams.discard(stream)
        self._came_and_went += 1
        stream.waiting_calls.clear()
        for call in list(self._pending.values()):
            others = [waiter for waiter in call.waiters if waiter[0] is not stream]
            if len(others) == len(call.waiters):
                continue
            call.waiters = others
            if not others:
                del self._pending[call.key]
            elif call.owner is stream:
                self._hand_on(call)
        self._batches.leave(stream)
        self._lanes_of(stream.llm).leave(stream)

    def _hand_on(self, call: Call) -> None:
        call.owner = call.waiters[0][0]
        if call.looked_up and not call.sent:
            self._line_up(call)
            self._lanes_of(call.owner.llm).pump()


def _whole(text: str) -> str:
    """``text`` without half surrogate pairs, which no file can hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
