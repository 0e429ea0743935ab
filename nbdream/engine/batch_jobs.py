"""`Jobs`: the jobs of batch services that are under way, asked after now and then, and collected when they have ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nbdream.engine.batch_records import Record, Records
from nbdream.engine.stream import Call, Stream
from nbdream.errors import ModelError
from nbdream.llms.base import LLM, Reply, Request
from nbdream.llms.batch_service import CANCELLED, BatchService, BatchServiceError

if TYPE_CHECKING:
    from nbdream.engine.budget import Budget

BLOCK = 500
"""Replies that are stored together."""
TIMES = 3
"""How often a request is sent that the service does not get to, or fails at for no fault of the request."""
GOES_ON = "the batch goes on at the provider: run the cell again to collect it"
REST = "what it answered is kept: run the cell again for the rest"

Settle = Callable[[list[tuple[Call, Reply]]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When a batch service is asked, in seconds."""

    first: float = 1.0
    """Before the first question about a job; each further wait is longer by half."""
    most: float = 30.0
    """The longest wait."""
    lost: float = 600.0
    """Without any answer for so long, it is no longer waited for."""
    unseen: float = 60.0
    """So long a job that was accepted may be missing from the provider's list of jobs."""


@dataclass(slots=True, eq=False)
class Job:
    """A job, and the calls that wait for it here."""

    llm: LLM
    service: BatchService
    record: Record
    calls: dict[str, Call] = field(default_factory=dict)
    streams: set[Stream] = field(default_factory=set)
    """Those of the calls."""
    task: asyncio.Task[None] | None = None
    collecting: bool = False
    done: int = 0
    sought: float | None = None
    """Since when it has been looked for in vain."""

    @property
    def waited_for(self) -> bool:
        """Whether anybody here waits for it."""
        return any(call.waiters for call in self.calls.values())

    def add(self, calls: Iterable[Call]) -> None:
        """Have calls wait for it."""
        new = {call.key: call for call in calls}
        self.calls |= new
        self.streams |= streams_of(new.values())


class Reserved:
    """What calls may cost, held by their keys while their jobs are under way, whoever waits for them."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[Budget, int]] = {}
        self._numbers = itertools.count(-1, -1)  # of calls in a budget; the positive ones are those of lanes

    def reserve(self, llm: LLM, call: Call) -> str | None:
        """Why a call cannot go out now, if it cannot."""
        budget = call.owner.budget
        if budget is None:
            return None
        number = next(self._numbers)
        why = budget.reserve(number, llm, call.request, True)
        if why is None:
            self._held[call.key] = (budget, number)
        return why

    def settle(self, llm: LLM, key: str, reply: Reply | None) -> None:
        """Put what a call did cost in place of what was reserved; None: it was not answered."""
        budget, number = self._held.pop(key, (None, 0))
        if budget is not None:
            budget.settle(number, llm, reply)

    def any_under(self, budget: Budget | None) -> bool:
        """Whether something is reserved under a budget."""
        return any(held is budget for held, _ in self._held.values())


class Jobs:
    """Lives on the engine's loop. ``again`` is given the calls of a job that is over which were not answered."""

    def __init__(self, records: Records, settle: Settle, again: Callable[[LLM, list[Call]], None], rhythm: Rhythm) -> None:
        self.records = records
        self.reserved = Reserved()
        self.under_way: dict[str, Job] = {}
        self.times: Counter[str] = Counter()
        """How often a key has been sent."""
        self._settle = settle
        self._again = again
        self._rhythm = rhythm

    def follow(self, job: Job) -> None:
        """Ask after a job from now on."""
        self._tell(job)
        if job.task is None:
            job.task = asyncio.create_task(self._follow(job))

    def leave(self) -> None:
        """Ask no more after jobs for which nobody waits; what is being collected is collected to the end."""
        for job in self.under_way.values():
            if job.task is not None and not job.collecting and not job.waited_for:
                job.task.cancel()
                job.task = None
                job.calls.clear()
                job.streams.clear()

    def release(self, job: Job) -> None:
        """Give back what was reserved for calls that were not answered."""
        for key in job.record.keys:
            self.reserved.settle(job.llm, key, None)

    # --- asking -------------------------------------------------------------------------------------------------------

    async def _follow(self, job: Job) -> None:
        wait = self._rhythm.first
        answered = time.monotonic()
        try:
            while True:
                try:
                    if await self._look(job):
                        break
                    answered = time.monotonic()
                except BatchServiceError as error:
                    if error.gone and job.record.job is not None:
                        raise self._lost(job, error) from error
                    if not error.transient or time.monotonic() - answered > self._rhythm.lost:
                        raise ModelError(error.message, GOES_ON if error.transient else error.hint) from error
                await asyncio.sleep(wait)
                wait = min(self._rhythm.most, wait * 1.5)
        except Exception as error:
            self._end(job)
            fail(job.calls.values(), error)
        else:
            self._end(job)
            self._again(job.llm, list(job.calls.values()))

    async def _look(self, job: Job) -> bool:
        """One look at a job; whether it is over. The calls that it has left then go out again."""
        if job.record.job is None and not await self._located(job):
            return self.records.read(job.record.tag) is None
        assert job.record.job is not None
        state = await job.service.state(job.record.job)
        job.done = state.done
        self._tell(job)
        if state.refused is not None:
            self.records.remove(job.record.tag)
            self.release(job)
            raise ModelError(f"{job.llm.display_name}: {state.refused}", "nothing of the batch was run or paid for")
        if state.ended:
            job.collecting = True
            await self._collect(job, job.record.job)
        return state.ended

    async def _located(self, job: Job) -> bool:
        """Find the id of a job that nobody noted; forget the job when it is certain that it was never accepted."""
        tag, model = job.record.tag, job.record.model
        async with self.records.lock(model):  # another kernel may be looking for it, too
            on_disk = self.records.read(tag)
            if on_disk is None or on_disk.job is not None:
                job.record = on_disk or job.record
                return on_disk is not None
            finding = await job.service.find(tag, len(job.record.keys), job.record.since, self.records.known(model))
            if finding.job is not None:
                job.record = self.records.note(job.record, finding.job)
                return True
            job.sought = job.sought or time.monotonic()
            if not finding.unclear and time.monotonic() - job.sought >= self._rhythm.unseen:
                self.records.remove(tag)
                self.release(job)
                self.times.subtract(job.record.keys)
            return False

    # --- collecting ---------------------------------------------------------------------------------------------------

    async def _collect(self, job: Job, name: str) -> None:
        """Store the replies of a job that has ended. What was not run stays among its calls, unless that happened too often."""
        not_run: dict[str, Reply] = {}
        block: list[tuple[Call, Reply]] = []
        # Those for whom nobody waits here: nothing reviews their replies before they are asked for.
        elsewhere = Stream(job.llm, total=None, limit=None, retry_failed=False, cache_only=False, by=job.record.by)
        async with contextlib.aclosing(job.service.results(name)) as results:  # type: ignore[type-var] # an async generator
            async for custom_id, reply in results:
                key = job.record.key(custom_id)
                if key is None:
                    continue
                if reply.error is not None and reply.error["kind"] != "row":
                    not_run[key] = reply
                    continue
                block.append((job.calls.get(key) or Call(key, Request((), job.record.params), [], elsewhere), reply))
                if len(block) >= BLOCK:
                    await self._store(job, block)
                    block = []
        await self._store(job, block)
        await self._store(job, [(call, not_run[key]) for key, call in job.calls.items() if self.times[key] >= TIMES and key in not_run])
        self.records.remove(job.record.tag)
        self.release(job)
        for reply in not_run.values():
            error = reply.error or {}
            if error["kind"] == "all":
                raise ModelError(f"{job.llm.display_name}: {error['message']}", error.get("hint"))
            if error.get("cancelled"):
                raise ModelError(f"{job.llm.display_name}: {CANCELLED}", REST)

    async def _store(self, job: Job, block: list[tuple[Call, Reply]]) -> None:
        if not block:
            return
        for call, reply in block:
            self.reserved.settle(job.llm, call.key, reply)
        await self._settle(block)
        for call, _ in block:
            job.calls.pop(call.key, None)
            self.times.pop(call.key, None)

    # --- telling ------------------------------------------------------------------------------------------------------

    def _end(self, job: Job) -> None:
        job.task = None
        self.under_way.pop(job.record.tag, None)
        self._tell(job)

    def _tell(self, job: Job) -> None:
        """Let the streams that wait for a job know how far their jobs are, as long as they have any."""
        for stream in job.streams:
            jobs = [other for other in self.under_way.values() if stream in other.streams]
            counts = sum(other.done for other in jobs), sum(len(other.record.keys) for other in jobs)
            stream.at_provider = counts if jobs else None

    def _lost(self, job: Job, error: BatchServiceError) -> ModelError:
        hint = f"it was handed in with another key, or is deleted: to send its rows again, delete {self.records.path(job.record.tag)}"
        return ModelError(f"{job.llm.display_name} does not know the batch {job.record.job}: {error.message}", hint)


def streams_of(calls: Iterable[Call]) -> set[Stream]:
    """The streams that wait for calls."""
    return {stream for call in calls for stream, _, _ in call.waiters}


def fail(calls: Iterable[Call], error: Exception) -> None:
    """End the streams that wait for calls."""
    for stream in streams_of(calls):
        stream.fail(error)
