"""`Batches`: the calls of streams that go to a provider's batch service instead of through lanes.

A stream's calls are gathered until its source has ended. Those that are in a job that is under way wait for it, whichever kernel handed
it in; the others go out in new jobs, all at once. When a job has ended, all its replies are stored, also those for which nobody waits
here, and what was not run goes out again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from nbdream.engine.batch_jobs import Job, Jobs, Rhythm, Settle, fail
from nbdream.engine.batch_records import Record, Records, new_record, new_tag
from nbdream.engine.stream import Call, Stream
from nbdream.errors import BudgetError
from nbdream.fingerprint import digest
from nbdream.llms.base import LLM, failure
from nbdream.llms.batch_service import BatchService, BatchServiceError

REQUESTS = 50_000
"""The most requests of one job."""
BYTES = 100 * 2**20
"""The most bytes of one job."""
REFUSALS = 6
"""How often a job is handed in to a service that has too much to do."""
FINISHING = 5.0
"""Seconds that the end of the session waits for a job that is being handed in or collected."""

Missing = Callable[[list[Call]], Awaitable[list[Call]]]


@dataclass(slots=True, eq=False)
class _Gathered:
    calls: list[Call] = field(default_factory=list)
    ended: bool = False


class _Abandoned(Exception):
    """Nobody waits any more for what was about to be handed in."""


class Batches:
    """Lives on the engine's loop. ``missing`` looks calls up and answers those that are stored; ``settle`` stores and hands on replies."""

    def __init__(self, records: Records, settle: Settle, missing: Missing, rhythm: Rhythm) -> None:
        self._records = records
        self._jobs = Jobs(records, settle, self._again, rhythm)
        self._settle = settle
        self._missing = missing
        self._rhythm = rhythm
        self._gathered: dict[Stream, _Gathered] = {}
        self._services: dict[int, tuple[LLM, BatchService, str]] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._handing_in: set[asyncio.Task[None]] = set()
        self._over_budget: dict[Stream, list[Call]] = {}

    # --- what the engine calls ----------------------------------------------------------------------------------------

    def add(self, stream: Stream, call: Call) -> None:
        """Take over a call that is not stored."""
        gathered = self._gathered.setdefault(stream, _Gathered())
        gathered.calls.append(call)
        if gathered.ended and len(gathered.calls) == 1:
            asyncio.get_running_loop().call_soon(self._flush, stream)  # with those that come in the same breath

    def source_ended(self, stream: Stream) -> None:
        """All calls of ``stream`` have been looked up: what was added goes out."""
        self._gathered.setdefault(stream, _Gathered()).ended = True
        self._flush(stream)

    def leave(self, stream: Stream) -> None:
        """``stream`` waits no longer. What is handed in goes on at the provider."""
        self._gathered.pop(stream, None)
        self._over_budget.pop(stream, None)
        self._jobs.leave()

    async def aclose(self) -> None:
        """Note the ids of what is being handed in, store what is being collected; end the waiting; close the connections."""
        following = {job.task: job for job in self._jobs.under_way.values() if job.task is not None}
        finishing = self._handing_in | {task for task, job in following.items() if job.collecting}
        if finishing:
            await asyncio.wait(finishing, timeout=FINISHING)
        ending = self._sending | following.keys()
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending, timeout=1)
        for _, service, _ in self._services.values():
            with contextlib.suppress(Exception):
                await asyncio.wait_for(service.aclose(), 2)

    # --- what goes out ------------------------------------------------------------------------------------------------

    def _flush(self, stream: Stream) -> None:
        gathered = self._gathered.get(stream)
        if gathered is not None:
            calls, gathered.calls = gathered.calls, []
            self._send(stream.llm, calls)

    def _again(self, llm: LLM, calls: list[Call]) -> None:
        """A job is over: what it did not answer goes out again, and what was over the budget may fit now."""
        self._send(llm, calls)
        for stream in list(self._over_budget):
            self._send(stream.llm, self._over_budget.pop(stream))

    def _send(self, llm: LLM, calls: list[Call]) -> None:
        if not calls:
            return
        for call in calls:
            call.sent = True
        task = asyncio.create_task(self._sent(llm, calls))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _sent(self, llm: LLM, calls: list[Call]) -> None:
        """See that each call is in a job, or answered."""
        try:
            service, model = self._service(llm)
            await service.prepare()
            async with self._records.lock(model):
                # Another kernel may have collected them while this one waited for the lock.
                calls = await self._missing([call for call in calls if call.waiters])
                waiting = deque(self._within_budget(llm, self._attach(llm, service, self._records.of(model), calls)))
                while waiting:
                    with contextlib.suppress(_Abandoned):
                        await self._hand_in(llm, service, model, waiting)
        except Exception as error:
            fail(calls, error)

    def _service(self, llm: LLM) -> tuple[BatchService, str]:
        if id(llm) not in self._services:
            self._services[id(llm)] = (llm, llm.batch_service(), digest(llm.identity)[:16])
        return self._services[id(llm)][1:]

    def _attach(self, llm: LLM, service: BatchService, records: Iterable[Record], calls: list[Call]) -> list[Call]:
        """Have calls wait for the jobs that they are in; those that are in none."""
        left = {call.key: call for call in calls}
        for record in records:
            mine = [left.pop(key) for key in record.keys if key in left]
            if mine:
                job = self._jobs.under_way.setdefault(record.tag, Job(llm, service, record))
                job.add(mine)
                self._jobs.follow(job)
        return list(left.values())

    def _within_budget(self, llm: LLM, calls: list[Call]) -> list[Call]:
        """Reserve what calls may cost. Those for which nothing is left wait until a job has ended, and are refused if none is under way."""
        fit = []
        refused: dict[Stream, str] = {}
        for call in calls:
            why = refused.get(call.owner) or self._jobs.reserved.reserve(llm, call)
            if why is None:
                fit.append(call)
                continue
            refused[call.owner] = why
            call.sent = False
            self._over_budget.setdefault(call.owner, []).append(call)
        for stream, why in refused.items():
            if not self._jobs.reserved.any_under(stream.budget):
                said, _, hint = why.partition(": ")
                stream.fail(BudgetError(said, hint or None))
        return fit

    async def _hand_in(self, llm: LLM, service: BatchService, model: str, waiting: deque[Call]) -> None:
        """Hand in the next job of what is waiting."""
        tag = new_tag()
        calls, lines, broken = await asyncio.to_thread(_fill, service, tag, waiting)
        if broken:
            await self._settle([(call, failure("row", "the prompt holds half a character (a lone surrogate)")) for call in broken])
        if not calls:
            return
        record = new_record(tag, model, [call.key for call in calls], calls[0].request.params, calls[0].owner.by)
        job = self._jobs.under_way[tag] = Job(llm, service, record)
        job.add(calls)
        handing_in = asyncio.create_task(self._accepted(job, lines))
        self._handing_in.add(handing_in)
        handing_in.add_done_callback(self._handing_in.discard)
        try:
            await asyncio.shield(handing_in)
        except BaseException:
            if self._records.read(tag) is None:
                self._jobs.under_way.pop(tag, None)
                self._jobs.release(job)
            raise
        self._jobs.times.update(record.keys)
        if job.waited_for:
            self._jobs.follow(job)

    async def _accepted(self, job: Job, lines: Sequence[bytes]) -> None:
        """Hand in a job until it is accepted; where that is not certain it stays an intent, and is looked for."""
        tag = job.record.tag

        def about_to() -> None:
            if not job.waited_for:
                raise _Abandoned
            self._records.write(job.record)

        for attempt in itertools.count(1):
            try:
                job.record = self._records.note(job.record, await job.service.submit(tag, lines, about_to))
            except BatchServiceError as error:
                if not error.sure and self._records.read(tag) is not None:
                    return
                self._records.remove(tag)
                if not error.transient or attempt == REFUSALS:
                    raise
                await asyncio.sleep(max(error.retry_after or 0, self._rhythm.first * 2**attempt))
            else:
                return


def _fill(service: BatchService, tag: str, waiting: deque[Call]) -> tuple[list[Call], list[bytes], list[Call]]:
    """Take from ``waiting`` what fits into one job: its calls and their lines; and those calls that cannot be sent at all."""
    calls: list[Call] = []
    lines: list[bytes] = []
    broken: list[Call] = []
    size = 0
    while waiting and len(calls) < REQUESTS:
        try:
            line = service.line(f"{tag}-{len(calls)}", waiting[0].request)
        except UnicodeEncodeError:
            broken.append(waiting.popleft())
            continue
        size += len(line) + 1
        if size > BYTES and calls:
            break
        calls.append(waiting.popleft())
        lines.append(line)
    return calls, lines, broken
