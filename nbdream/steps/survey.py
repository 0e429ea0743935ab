"""A dry run: which rows are tried, what is there already, and what the others will cost."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from nbdream.engine.keys import Draws
from nbdream.engine.spending import longest
from nbdream.ledger import sum_known
from nbdream.prices import Price, shown
from nbdream.steps.estimate import Interval, rest

if TYPE_CHECKING:
    from nbdream.llms.base import LLM, Reply, Request

LOOKED_UP = 1000
"""Rows that are looked up together."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will cost: the rows that are left, the calls for them, and intervals that hold in nine of ten runs."""

    rows: int
    tried: int
    paid: float | None
    """Dollars that the dry run cost; None where the price is not known."""
    left: int
    calls: int
    input_tokens: Interval | None
    """None where the provider reports no usage."""
    output_tokens: Interval | None
    dollars: Interval | None

    def __str__(self) -> str:
        head = f"{self.rows:,} rows: {self.tried:,} tried" + (f" for {shown(self.paid)}" if self.paid else "")
        there = self.rows - self.tried - self.left
        if there:
            head += f", {there:,} there already"
        if not self.left:
            return f"{head} · nothing is left to pay"
        other = f"{head} · the other {self.left:,}"
        if self.input_tokens is None or self.output_tokens is None:
            return f"{other} need {self.calls:,} calls; what they cost is not known, since no usage is reported"
        asked = f"{self.calls:,} calls, {_range(self.input_tokens, _whole)} input and {_range(self.output_tokens, _whole)} output tokens"
        if self.dollars is None:
            return f"{other} need {asked} (90 %); their price is not known"
        return f"{other} would cost {_range(self.dollars, shown)} (90 %): {asked}"


class Survey:
    """The rows of a step: how long their prompts are, which are answered already, and what those that were tried have used."""

    def __init__(self, stored: Callable[[list[str]], set[str]], llm: LLM, total: int, draws: int, tries: int) -> None:
        self._stored = stored
        self._draws = Draws(llm.identity, draws)
        self._total = total
        # The same rows each time: a second dry run costs nothing.
        self._chosen = frozenset(random.Random(total).sample(range(total), min(tries, total)))
        self._sizes = array("d")
        self._missing = array("q")
        self._asked_once: set[str] = set()
        self._params: Mapping[str, Any] = {}
        self._tried: dict[int, tuple[float | None, float | None]] = {}
        self._paid: float | None = 0.0
        self._calls = self._replies = self._new = 0

    def look(self, requests: Iterable[Request]) -> dict[int, Request]:
        """Look all of the requests up; those that are to be tried."""
        chosen = {}
        rows = enumerate(requests)
        while part := list(islice(rows, LOOKED_UP)):
            keys = [self._keys(request) for _, request in part]
            stored = self._stored([key for row in keys for key in row])
            for (number, request), row in zip(part, keys, strict=True):
                self._sizes.append(_size(request))
                self._missing.append(sum(key not in stored for key in row))
                self._params = request.params
                if number in self._chosen:
                    chosen[number] = request
        return chosen

    def _keys(self, request: Request) -> list[str]:
        """The keys that this row is the first to ask for."""
        keys = [key for key, _ in self._draws.number(request)]
        if request.greedy:
            keys = [key for key in dict.fromkeys(keys) if key not in self._asked_once]
            self._asked_once.update(keys)
        return keys

    def take(self, number: int, replies: Sequence[Reply]) -> None:
        """Note what the replies to a row that was tried have used."""
        for reply in replies:
            self._new += not reply.cached
            self._replies += 1
            for part in (*reply.earlier, reply):
                self._calls += 1
                if not part.cached:
                    self._paid = sum_known(self._paid, part.cost)
        self._tried[number] = (_mean_usage(replies, "input_tokens"), _mean_usage(replies, "output_tokens"))

    def estimate(self, price: Price | None, *, batch: bool) -> Estimate:
        """What the rows that are left will cost."""
        missing = max(0, sum(self._missing) - self._new)
        left = list(islice(self._left(), missing))
        rows = sum(1 for number, count in enumerate(self._missing) if count and number not in self._tried) if left else 0
        asked = self._interval(0, left)
        said = self._interval(1, left, longest(self._params, price))
        cost = None
        if price is not None and asked is not None and said is not None:
            share = price.batch if batch else 1.0
            low, high = ((a * price.input + s * price.output) * share / 1e6 for a, s in ((asked.low, said.low), (asked.high, said.high)))
            cost = Interval(low, high)
        calls = round(len(left) * self._calls / max(1, self._replies))  # the mending of replies takes calls of its own
        return Estimate(self._total, len(self._tried), self._paid, rows, calls, asked, said, cost)

    def _left(self) -> Iterator[float]:
        """The size of the prompt of each call that is left."""
        for number, (size, count) in enumerate(zip(self._sizes, self._missing, strict=True)):
            if number not in self._tried:
                yield from [size] * count

    def _interval(self, side: int, left: Sequence[float], most: float | None = None) -> Interval | None:
        tried = [(self._sizes[number], used) for number, sides in self._tried.items() if (used := sides[side]) is not None]
        if len(tried) < len(self._tried):
            return None
        return rest(tried, left, float("inf") if most is None else most)


def _size(request: Request) -> float:
    """Bytes of what is sent."""
    return float(sum(len(str(message.get("content")).encode("utf-8", "surrogatepass")) for message in request.messages))


def _mean_usage(replies: Sequence[Reply], side: str) -> float | None:
    """What a reply to a row has used, with the replies that it mends; None when that is not reported."""
    used = 0
    for part in (part for reply in replies for part in (*reply.earlier, reply)):
        tokens = (part.usage or {}).get(side)
        if tokens is None and part.error is None:
            return None
        used += tokens or 0
    return used / len(replies)


def _range(interval: Interval, written: Callable[[float], str]) -> str:
    low, high = written(interval.low), written(interval.high)
    return low if low == high else f"{low} to {high}"


def _whole(value: float) -> str:
    return f"{round(value):,}"
