"""The lanes of one model: how many calls are in flight, and how each is seen through to a reply that stands."""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from nbdream.engine.limits import Learned, Pace, ceiling
from nbdream.engine.retry import REFUSED, Patience
from nbdream.engine.stream import Call, Stream
from nbdream.errors import BudgetError, ModelError, NbDreamError
from nbdream.fingerprint import digest
from nbdream.llms.base import LLM, Reply

ABREAST = 256
"""Calls at once to a model that finds its own pace (a local one), unless the user says otherwise."""
GIVEN_UP = 2
"""Requests given up before the first answer, after which no more are sent."""
KEPT_EVERY = 30.0
"""Seconds between two notes of what was learned about a service."""

Settle = Callable[[list[tuple[Call, Reply]]], Awaitable[None]]

_numbers = itertools.count(1)


class Lanes:
    """Calls to one model, from all the streams that ask it, by whichever object. Lives on the engine's loop.

    Until a service has answered once, one call is in flight: a wrong key is asked once, whatever the number of lanes.
    A lane is free again when its reply is on disk.
    """

    def __init__(self, llm: LLM, settle: Settle, patience: Patience, redact: Callable[[str], str], learned: Learned) -> None:
        self._llm = llm  # for what all objects of this model have in common
        self._busy: Counter[int] = Counter()
        """Calls in flight by each object."""
        self._settle = settle
        self._patience = patience
        self._redact = redact
        self._learned = learned
        self._key = key_of(llm)
        self._ceiling = ceiling()
        self._pace = self._learned.pace(self._key) if llm.adaptive else Pace(known=True)
        self._streams: list[Stream] = []
        self._serving: dict[asyncio.Task[None], list[Call]] = {}
        self._answered = self._pace.known
        self._given_up = 0
        self._resting = 0
        """Calls that will be asked again in a moment."""
        self._pumping: asyncio.TimerHandle | None = None
        self._kept = time.monotonic()

    def join(self, stream: Stream) -> None:
        """Serve ``stream`` too."""
        self._streams.append(stream)
        user = stream.llm.max_concurrency or stream.limit
        if user is not None and self._pace.rate is None and user > self._pace.window:
            self._pace.window = user  # they know what it bears

    def leave(self, stream: Stream) -> None:
        """Serve ``stream`` no longer."""
        if stream in self._streams:
            self._streams.remove(stream)
        if not self._streams:
            self._keep()

    def abandoned(self) -> list[asyncio.Task[None]]:
        """The tasks whose calls nobody waits for any more."""
        return [task for task, calls in self._serving.items() if calls and not any(call.waiters for call in calls)]

    def cancel_abandoned(self) -> list[asyncio.Task[None]]:
        """Cancel what is in flight for nobody: the tasks that are ending."""
        ending = self.abandoned()
        for task in ending:
            task.cancel()
        return ending

    def pump(self) -> None:
        """Open as many lanes as there is work and room for."""
        waiting = sum(len(stream.waiting_calls) for stream in self._streams)
        for _ in range(min(waiting, self._most() - len(self._serving))):
            if self._wait() > 0:
                self._pump_later()
                return
            calls = self._take()
            if not calls:
                return
            task = asyncio.create_task(self._lane(calls))
            self._serving[task] = calls
            # Not at the end of the coroutine: one that is cancelled before its first step has no end.
            task.add_done_callback(self._ended)

    # --- what may go out now --------------------------------------------------------------------------------------------

    def _most(self) -> int:
        if not self._answered:
            return 0 if self._resting else 1
        if self._llm.batched:
            return 1
        return int(self._pace.window) if self._llm.adaptive else self._ceiling

    def _free(self, stream: Stream) -> bool:
        """Whether the stream's own limits, and its model's, let another call out."""
        if stream.llm.batched:
            return True
        most = stream.llm.max_concurrency or (self._ceiling if stream.llm.adaptive else ABREAST)
        return self._busy[id(stream.llm)] < most and (stream.limit is None or stream.in_flight < stream.limit)

    def _wait(self) -> float:
        """Seconds until a call may go out, as far as the service is concerned; infinity when one must end first."""
        if not self._llm.adaptive or self._llm.batched:
            return 0.0
        return self._pace.wait(self._most(), time.monotonic())

    def _pump_later(self) -> None:
        seconds = self._wait()
        if self._pumping is None and 0 < seconds < float("inf"):
            self._pumping = asyncio.get_running_loop().call_later(seconds, self._pump_again)

    def _pump_again(self) -> None:
        self._pumping = None
        self.pump()

    def _take(self) -> list[Call]:
        """The next calls to send: of one stream after the other, so that a short one does not wait for a long one."""
        for _ in range(len(self._streams)):
            stream = self._streams.pop(0)
            self._streams.append(stream)
            size = (stream.limit or stream.llm.batch_size) if self._llm.batched else 1
            calls: list[Call] = []
            while self._free(stream) and stream.error is None and stream.waiting_calls and len(calls) < size:
                call = stream.waiting_calls[0]
                if not call.waiters:  # nobody waits for it any more
                    stream.waiting_calls.popleft()
                elif self._affords(stream, call):
                    calls.append(stream.waiting_calls.popleft())
                else:
                    break
            if calls:
                for call in calls:
                    self._send(stream, call)
                return calls
        return []

    def _affords(self, stream: Stream, call: Call) -> bool:
        """Whether the stream's budget lets ``call`` go out; where it never will, the stream ends."""
        if stream.budget is None:
            return True
        number = next(_numbers)
        why = stream.budget.reserve(number, stream.llm, call.request)
        if why is None:
            call.number = number
            return True
        if stream.in_flight == 0:
            said, _, hint = why.partition(": ")
            stream.fail(BudgetError(said, hint or None))
        return False

    def _send(self, stream: Stream, call: Call) -> None:
        now = time.monotonic()
        call.sent, call.sender = True, stream
        call.began, call.asked = call.began or now, now
        call.attempts += 1
        stream.in_flight += 1
        self._busy[id(stream.llm)] += 1
        self._pace.sent()

    def _back(self, call: Call, reply: Reply | None) -> None:
        """A call is no longer in flight, with a reply that came, or without one."""
        if not call.sent:
            return
        call.sent = False
        self._pace.back()
        stream = call.sender
        assert stream is not None
        stream.in_flight -= 1
        self._busy[id(stream.llm)] -= 1
        if stream.budget is not None:
            stream.budget.settle(call.number, stream.llm, reply)

    # --- a lane -----------------------------------------------------------------------------------------------------------

    async def _lane(self, calls: list[Call]) -> None:
        """See calls through, one after the other, for as long as there are some and the service bears it."""
        task = asyncio.current_task()
        assert task is not None
        while calls:
            self._serving[task] = calls
            try:
                await self._serve(calls)
            except _EveryoneError as error:
                self._answered, self._given_up = not self._llm.adaptive, 0
                for other in list(self._streams):
                    other.fail(error.reason)
            except Exception as error:
                for call in calls:
                    for waiter, _, _ in call.waiters:
                        waiter.fail(error)
            for call in calls:
                self._back(call, None)
            self._serving[task] = []
            if len(self._serving) > self._most():
                return
            if self._wait() > 0:
                self._pump_later()
                return
            calls = self._take()

    def _ended(self, task: asyncio.Task[None]) -> None:
        for call in self._serving.pop(task):
            self._back(call, None)
        self.pump()

    async def _serve(self, calls: list[Call]) -> None:
        replies = await self._complete(calls)
        now = time.monotonic()
        done: list[tuple[Call, Reply]] = []
        for call, reply in zip(calls, replies, strict=True):
            seconds = self._judge(call, reply, now)
            if seconds is None:
                done.append((call, reply))
            else:
                self._back(call, reply)
                self._resting += 1
                asyncio.get_running_loop().call_later(seconds, self._again, call)
        if done:
            await self._settle(done)
            for call, reply in done:
                self._back(call, reply)

    def _again(self, call: Call) -> None:
        """Line a call up once more, before those that have not been asked yet."""
        self._resting -= 1
        if call.waiters:
            call.owner.waiting_calls.appendleft(call)
        self.pump()

    async def _complete(self, calls: list[Call]) -> list[Reply]:
        if not self._llm.batched:
            return [await _model(calls[0]).complete(calls[0].request)]
        requests = [call.request for call in calls]
        replies = await _model(calls[0]).complete_batch(requests)
        if len(replies) != len(requests):
            raise ModelError(f"{self._llm.display_name} gave {len(replies)} replies to {len(requests)} requests")
        return replies

    def _judge(self, call: Call, reply: Reply, now: float) -> float | None:
        """Seconds after which to ask again; None when the reply stands. Raises what ends the run."""
        error = reply.error
        if error is None or error["kind"] == "row":
            self._note_answer(call, reply, now)
            return None
        refused = error.get("status") in REFUSED
        if refused:
            self._pace.refused(_within(error.get("retry_after"), self._patience.longest), now)
        wait = None
        if error["kind"] == "transient" and _model(call).retry_on_fail:
            wait = self._patience.wait(error, call.attempts, now - call.began, self._answered)
        if wait is not None:
            if error.get("status") == 429 and not self._answered:
                self._note_answer(call, reply, now)  # it knows us, and it is the model, not the request, that needs a rest
            return wait
        self._given_up += 1
        hopeless = not self._answered and (error.get("no_completion") or self._given_up >= GIVEN_UP)
        if error["kind"] == "all" or error.get("unreachable") or hopeless:
            raise _EveryoneError(ModelError(f"{self._llm.display_name}: {self._redact(error['message'])}", error.get("hint")))
        return None

    def _note_answer(self, call: Call, reply: Reply, now: float) -> None:
        if self._llm.adaptive:
            if reply.error is None or reply.error["kind"] == "row":
                self._pace.answered(now, now - call.asked, reply.rate)
            if now - self._kept > KEPT_EVERY:
                self._keep()
        first, self._answered = not self._answered, True
        room = self._llm.adaptive and len(self._serving) < self._most()
        if first or room:
            self.pump()

    def _keep(self) -> None:
        self._kept = time.monotonic()
        if self._answered and self._llm.adaptive:
            keep = functools.partial(self._learned.keep, self._key)
            asyncio.get_running_loop().run_in_executor(None, keep)


class _EveryoneError(Exception):
    """What one call met, every other one would meet as well."""

    def __init__(self, reason: NbDreamError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def key_of(llm: LLM) -> str:
    """What says that two objects are one model at one service."""
    return digest(llm.identity)[:16]


def _model(call: Call) -> LLM:
    """The object that a call in flight is put to."""
    assert call.sender is not None
    return call.sender.llm


def _within(seconds: Any, most: float) -> float | None:
    return min(float(seconds), most) if seconds else None


def shared(reply: Reply) -> Reply:
    """``reply`` as those see it who did not pay for it."""
    earlier = tuple(replace(part, cached=True) for part in reply.earlier)
    return replace(reply, cached=True, earlier=earlier)
