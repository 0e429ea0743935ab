"""The lanes to one model: how many calls are in flight, whose turn it is, and what is done about an error."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from nbdream.engine.retry import TOO_MANY, Patience
from nbdream.engine.stream import Call, Stream
from nbdream.errors import ModelError, NbDreamError
from nbdream.llms.base import LLM, Reply

LANES = 32
"""Calls in flight to a service, unless the user says otherwise."""
GIVEN_UP = 3
"""Requests given up before the first answer, after which no more are sent."""

Settle = Callable[[list[tuple[Call, Reply]]], Awaitable[None]]


class Lanes:
    """Calls to one model, from all the streams that ask it. Lives on the engine's loop.

    Until the model has answered once, one call is in flight: a wrong key is asked once, whatever the number of lanes.
    A lane is free again when its reply is on disk.
    """

    def __init__(self, llm: LLM, settle: Settle, patience: Patience, redact: Callable[[str], str]) -> None:
        self._llm = llm
        self._settle = settle
        self._patience = patience
        self._redact = redact
        self._streams: list[Stream] = []
        self._tasks: dict[asyncio.Task[None], list[Call]] = {}
        self._answered = False
        self._given_up = 0
        self._rest_until = 0.0

    def join(self, stream: Stream) -> None:
        """Serve ``stream`` too."""
        self._streams.append(stream)

    def leave(self, stream: Stream) -> list[asyncio.Task[None]]:
        """Serve ``stream`` no longer. What is in flight for nobody else is cancelled: the tasks that are ending."""
        if stream in self._streams:
            self._streams.remove(stream)
        ending = []
        for task, calls in list(self._tasks.items()):
            if not any(call.waiters for call in calls):
                task.cancel()
                ending.append(task)
        return ending

    def pump(self) -> None:
        """Send what may be sent now."""
        while len(self._tasks) < self._most() and (stream := self._next()) is not None:
            size = (stream.limit or self._llm.batch_size) if self._llm.batched else 1
            calls = [stream.waiting_calls.popleft() for _ in range(min(size, len(stream.waiting_calls)))]
            for call in calls:
                call.sent = True
            stream.in_flight += len(calls)
            task = asyncio.create_task(self._serve(calls))
            self._tasks[task] = calls
            # Not at the end of the coroutine: one that is cancelled before its first step has no end.
            task.add_done_callback(functools.partial(self._served, stream))

    def _most(self) -> int:
        if self._llm.batched or not self._answered:
            return 1
        return self._llm.max_concurrency or max((stream.limit or LANES for stream in self._streams), default=LANES)

    def _next(self) -> Stream | None:
        """The stream whose turn it is: one after the other, so that a short one does not wait for a long one."""
        for _ in range(len(self._streams)):
            stream = self._streams.pop(0)
            self._streams.append(stream)
            free = self._llm.batched or stream.limit is None or stream.in_flight < stream.limit
            if stream.waiting_calls and free and stream.error is None:
                return stream
        return None

    def _served(self, stream: Stream, task: asyncio.Task[None]) -> None:
        stream.in_flight -= len(self._tasks.pop(task))
        self.pump()

    async def _serve(self, calls: list[Call]) -> None:
        try:
            await self._ask(calls)
        except _EveryoneError as error:
            self._answered, self._given_up = False, 0
            for other in list(self._streams):
                other.fail(error.reason)
        except Exception as error:
            for call in calls:
                for waiter, _, _ in call.waiters:
                    waiter.fail(error)

    async def _ask(self, calls: list[Call]) -> None:
        began = time.monotonic()
        tries = 0
        while calls:
            while (rest := self._rest_until - time.monotonic()) > 0:  # noqa: ASYNC110 - another refusal may prolong it
                await asyncio.sleep(rest * (1 + random.random() / 10))
            replies = await self._complete(calls)
            tries += 1
            again: list[Call] = []
            wait = 0.0
            done: list[tuple[Call, Reply]] = []
            for call, reply in zip(calls, replies, strict=True):
                seconds = self._judge(reply, tries, time.monotonic() - began)
                if seconds is None:
                    done.append((call, reply))
                else:
                    again.append(call)
                    wait = max(wait, seconds)
            if any(reply.error is None or reply.error["kind"] == "row" for _, reply in done):
                self._note_answer()
            if done:
                await self._settle(done)
            calls = [call for call in again if call.waiters]
            if calls:
                await asyncio.sleep(wait)

    async def _complete(self, calls: list[Call]) -> list[Reply]:
        requests = [call.request for call in calls]
        if not self._llm.batched:
            return [await self._llm.complete(requests[0])]
        replies = await self._llm.complete_batch(requests)
        if len(replies) != len(requests):
            raise ModelError(f"{self._llm.display_name} gave {len(replies)} replies to {len(requests)} requests")
        return replies

    def _judge(self, reply: Reply, tries: int, elapsed: float) -> float | None:
        """Seconds after which to ask again; None when the reply stands. Raises what ends the run."""
        error = reply.error
        if error is None or error["kind"] == "row":
            return None
        wait = None
        if error["kind"] == "transient" and self._llm.retry_on_fail:
            wait = self._patience.wait(error, tries, elapsed, self._answered)
        if wait is not None:
            if error.get("status") == TOO_MANY:
                # It knows us, and it is the model, not the request, that needs a rest.
                self._note_answer()
                if error.get("retry_after"):
                    self._rest_until = max(self._rest_until, time.monotonic() + wait)
            return wait
        self._given_up += 1
        hopeless = not self._answered and (error.get("no_completion") or self._given_up >= GIVEN_UP)
        if error["kind"] == "all" or error.get("unreachable") or hopeless:
            raise _EveryoneError(ModelError(f"{self._llm.display_name}: {self._redact(error['message'])}", error.get("hint")))
        return None

    def _note_answer(self) -> None:
        if not self._answered:
            self._answered = True
            self.pump()


class _EveryoneError(Exception):
    """What one call met, every other one would meet as well."""

    def __init__(self, reason: NbDreamError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def shared(reply: Reply) -> Reply:
    """``reply`` as those see it who did not pay for it."""
    return replace(reply, cached=True)
