"""The pace at which a service is asked: a limit is found, kept to and remembered, and luck is no limit."""

from __future__ import annotations

import heapq
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbdream.engine.limits import FIRST, LEAST, Learned, Pace, ceiling
from nbdream.llms.base import RateLimit


class Service:
    """A service on a clock of its own, and an engine that puts calls to it as fast as its pace allows."""

    def __init__(
        self, *, latency: float = 0.1, rate: float | None = None, abreast: int | None = None, luck: float = 0.0, headers: bool = False
    ) -> None:
        self.latency, self.rate, self.abreast, self.luck, self.headers = latency, rate, abreast, luck, headers
        self.chance = random.Random(0)
        self.now = 100.0
        self.tokens, self.filled = 50.0, 100.0
        self.busy = 0
        self.outcomes: list[tuple[float, bool]] = []
        self.peak = 0

    def run(self, pace: Pace, seconds: float, most: int = 1000) -> None:
        """Ask for so many seconds; the pace's own account of what is in flight is checked at every step."""
        events: list[tuple[float, int, bool, float]] = []
        until, number, waiting = self.now + seconds, 0, self.now
        while self.now < until:
            while (wait := pace.wait(most, self.now)) == 0:
                pace.sent()
                self.peak = max(self.peak, pace.in_flight)
                number += 1
                good = self.accepts()
                self.busy += good
                delay = self.latency * self.chance.uniform(0.7, 1.3) if good else 0.002
                heapq.heappush(events, (self.now + delay, number, good, self.now))
            waiting = self.now + max(wait, 1e-6)
            if not events or waiting < events[0][0]:
                self.now = min(waiting, until)
                continue
            self.now, _, good, sent = heapq.heappop(events)
            self.outcomes.append((self.now, good))
            if good:
                self.busy -= 1
                pace.answered(self.now, self.now - sent, RateLimit(3000, int(self.tokens), 1.0) if self.headers else None)
            else:
                pace.refused(None, self.now)
            pace.back()
        for _, _, good, _ in events:
            self.busy -= good
            pace.back()

    def accepts(self) -> bool:
        if self.chance.random() < self.luck or (self.abreast is not None and self.busy >= self.abreast):
            return False
        if self.rate is None:
            return True
        self.tokens = min(50.0, self.tokens + (self.now - self.filled) * self.rate)
        self.filled = self.now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def since(self, seconds: float) -> tuple[int, int]:
        """Answers and refusals after so many seconds."""
        counted = [good for at, good in self.outcomes if at >= 100 + seconds]
        return sum(counted), len(counted) - sum(counted)


@pytest.mark.parametrize("headers", [False, True])
@pytest.mark.parametrize("latency", [0.02, 0.3, 2.0])
def test_a_rate_limit_is_found_and_kept_to(latency: float, headers: bool) -> None:
    service = Service(latency=latency, rate=50, headers=headers)
    service.run(Pace(), 120)
    answered, refused = service.since(10)
    assert answered >= 0.9 * 50 * 110
    assert refused <= 0.02 * (answered + refused)


def test_a_limit_of_calls_at_once_is_found() -> None:
    service = Service(latency=0.1, abreast=30)
    service.run(Pace(), 120)
    answered, refused = service.since(30)
    assert answered >= 0.6 * 300 * 90
    assert refused <= 0.05 * (answered + refused)


def test_luck_is_no_limit() -> None:
    service = Service(latency=0.1, luck=0.03)
    service.run(Pace(), 30)
    answered, _ = service.since(10)
    assert answered >= 20 * FIRST / 0.1 * 0.9


def test_without_a_limit_the_window_grows_as_long_as_it_helps() -> None:
    pace = Pace()
    Service(latency=0.3).run(pace, 5)
    assert pace.rate is None
    assert pace.window > 4 * FIRST


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 300),
    st.sampled_from([None, 5.0, 50.0, 500.0]),
    st.sampled_from([None, 1, 7, 100]),
    st.floats(0, 0.9),
    st.floats(0.001, 3),
)  # fmt: skip
def test_it_keeps_to_the_users_limit_and_never_stops(
    most: int, rate: float | None, abreast: int | None, luck: float, latency: float
) -> None:
    service = Service(latency=latency, rate=rate, abreast=abreast, luck=luck)
    pace = Pace()
    service.run(pace, 10, most)
    assert service.peak <= most
    assert service.since(0)[0] > 0
    assert pace.in_flight == 0
    assert pace.window >= LEAST


def test_a_rest_that_is_asked_for_is_kept() -> None:
    pace = Pace()
    pace.refused(7.0, 100.0)
    assert pace.wait(100, 101.0) == 6.0
    assert pace.wait(100, 107.0) == 0


def test_what_was_learned_is_remembered(tmp_path: Path) -> None:
    learned = Learned(tmp_path)
    service = Service(latency=0.1, rate=50)
    service.run(learned.pace("a"), 20)
    learned.keep("a")
    found = Learned(tmp_path).pace("a")
    assert found.known
    assert found.rate is not None
    assert 35 < found.rate < 65
    assert not Learned(tmp_path).pace("b").known
    assert Learned(None).pace("a").rate is None


@pytest.mark.parametrize("text", ["", "[]", '{"a": 3}', '{"a": {"window": "x"}}', '{"a": {"window": 1e9, "rate": -1, "at": 1}}'])
def test_a_strange_file_is_no_memory(tmp_path: Path, text: str) -> None:
    (tmp_path / "limits.json").write_text(text)
    assert Learned(tmp_path).pace("a").window == FIRST
    learned = Learned(tmp_path)
    learned.pace("a").known = True
    learned.keep("a")
    assert json.loads((tmp_path / "limits.json").read_text())["a"]["window"] == FIRST
    assert Learned(tmp_path).pace("a").window <= ceiling()
