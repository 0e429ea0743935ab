"""One stream of requests: its rows in order, what has been counted, and the thread that waits for it."""

from __future__ import annotations

import queue
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nbdream.engine.budget import Budget
from nbdream.errors import ModelError
from nbdream.ledger import sum_known
from nbdream.llms.base import LLM, Reply, Request
from nbdream.prices import pricer

Review = Callable[[Request, Reply, int], "Request | None"]
"""Looks at a reply before it counts: a further request whose reply takes its place, or None, and then it stands.

The number is that of the requests asked for this row so far. It may set ``reply.error``; it must give the same for the same reply.
"""

SAME_REFUSALS = 20
"""So many first replies that are all the same refusal end a stream: the next thousand would be no different."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stream is, counted in replies. ``done`` = ``cached`` + ``new`` + ``failed``; tokens are those of all of them."""

    total: int | None = None
    done: int = 0
    cached: int = 0
    new: int = 0
    failed: int = 0
    in_flight: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    """Dollars for what is new; None where a price is not known."""
    saved: float | None = None
    """Dollars that the stored replies did cost when they were new."""
    batch: tuple[int, int] | None = None
    """How many requests a batch service has dealt with, of how many it has been handed."""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(slots=True, eq=False)
class Row:
    """A request and the replies to it, filled in as they come."""

    number: int
    request: Request
    keys: list[tuple[str, int]]
    replies: list[Any]
    missing: int


@dataclass(slots=True, eq=False)
class Call:
    """One key that is being looked up or asked for, and who waits for it."""

    key: str
    request: Request
    waiters: list[tuple[Stream, Row, int]]
    owner: Stream
    """The stream in whose queue it stands."""
    looked_up: bool = False
    sent: bool = False
    """Whether it is in flight."""
    sender: Stream | None = None
    """The stream on whose account it is in flight."""
    number: int = 0
    """Its number in a budget."""
    attempts: int = 0
    """How often it was sent."""
    began: float = 0.0
    """When it was first sent."""
    asked: float = 0.0
    """When it was last sent."""
    tries: int = 1
    """Which request for its rows this is: more than one when earlier replies are being mended."""
    earlier: tuple[Reply, ...] = ()
    """Those earlier replies."""


class Counts:
    """What has been filled in by one thread: counted there, and only read by the other."""

    __slots__ = ("cached", "cost", "failed", "input", "new", "output", "saved")

    def __init__(self) -> None:
        self.cached = self.new = self.failed = self.input = self.output = 0
        self.cost: float | None = 0.0
        self.saved: float | None = 0.0

    @property
    def done(self) -> int:
        """How many replies."""
        return self.cached + self.new + self.failed

    def add(self, reply: Reply) -> None:
        """Count one more reply."""
        if reply.error is not None:
            self.failed += 1
        elif reply.cached:
            self.cached += 1
        else:
            self.new += 1
        if reply.usage:
            self.input += reply.usage.get("input_tokens") or 0
            self.output += reply.usage.get("output_tokens") or 0
        for part in (*reply.earlier, reply) if reply.earlier else (reply,):
            if part.cached:
                self.saved = sum_known(self.saved, part.cost)
            else:
                self.cost = sum_known(self.cost, part.cost)


class Stream:
    """What the engine's loop and the thread that consumes the replies share. The loop writes; the thread reads and waits."""

    def __init__(self, llm: LLM, *, total: int | None, limit: int | None, retry_failed: bool, cache_only: bool, by: str | None) -> None:
        self.llm = llm
        self.by = by
        self.limit = limit
        self.retry_failed = retry_failed
        self.cache_only = cache_only
        self.review: Review | None = None
        self.budget: Budget | None = None
        self.batch = False
        self.at_provider: tuple[int, int] | None = None
        self.dollars = pricer(llm)
        self.key_of: Callable[[Request], str] = _no_key
        self.waiting_calls: deque[Call] = deque()
        self.in_flight = 0
        self.looked_up_now = 0
        """Chunks that the loop is looking up."""
        self.error: BaseException | None = None
        self.when_failed: Callable[[], object] = lambda: None
        self._total = total
        self._started = datetime.now(UTC)
        self._counts = Counts()
        self._stored = Counts()
        self._refusal: str | None = None
        self._awaited: Row | None = None
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    # --- on the loop --------------------------------------------------------------------------------------------------

    def fill(self, row: Row, slot: int, reply: Reply) -> None:
        """Put a reply in its place."""
        row.replies[slot] = reply
        self._counts.add(reply)
        self._watch_refusals(reply)
        row.missing -= 1
        if row.missing == 0 and row is self._awaited:
            self._wake.put(None)

    def fail(self, error: BaseException) -> None:
        """End with ``error``; the first one counts."""
        if self.error is None:
            self.error = error
            self.when_failed()
        self._wake.put(None)

    def _watch_refusals(self, reply: Reply) -> None:
        done = self._counts.done + self._stored.done
        if self._counts.failed != done or done > SAME_REFUSALS or reply.error is None:
            return
        kind = _kind_of_refusal(reply.error)
        self._refusal = kind if done == 1 or kind == self._refusal else None
        if done == SAME_REFUSALS and self._refusal is not None:
            message = f"the first {SAME_REFUSALS} replies of {self.llm.display_name} are all the same refusal: {reply.error['message']}"
            self.fail(ModelError(message, reply.error.get("hint") or "change the prompt, its parameters or the model"))

    # --- in the consuming thread --------------------------------------------------------------------------------------

    def fill_stored(self, row: Row, stored: list[Reply]) -> None:
        """Complete a row whose replies are all on disk."""
        row.replies = stored
        row.missing = 0
        for reply in stored:
            self._stored.add(reply)

    def wait(self, row: Row, seconds: float) -> None:
        """Return when ``row`` is complete, when the stream has failed, or after ``seconds``."""
        self._awaited = row
        if row.missing and self.error is None:
            try:
                self._wake.get(timeout=seconds)
            except queue.Empty:
                pass

    def progress(self) -> Progress:
        """How far it is now."""
        loop, own = self._counts, self._stored
        return Progress(
            self._total, loop.done + own.done, loop.cached + own.cached, loop.new, loop.failed, self.in_flight,
            loop.input + own.input, loop.output + own.output, sum_known(loop.cost, own.cost), sum_known(loop.saved, own.saved),
            batch=self.at_provider, started=self._started,
        )  # fmt: skip


def _no_key(request: Request) -> str:
    raise NotImplementedError("a stream is given the keys of its follow-up requests by the engine")


def _kind_of_refusal(error: dict[str, Any]) -> str:
    """What two refusals have in common that are the same one: without request ids and counts."""
    return f"{error.get('status')} {re.sub(r'[0-9a-fA-F-]*[0-9][0-9a-fA-F-]*', '#', str(error.get('message')))}"


def new_row(number: int, request: Request, keys: list[tuple[str, int]]) -> Row:
    """A row without replies."""
    return Row(number, request, keys, [None] * len(keys), len(keys))


def stopped(stop: threading.Event | None) -> bool:
    """Whether the user has asked to stop."""
    return stop is not None and stop.is_set()
