"""How much a service bears, found while it is used: `Pace` for one service, `Learned` for what a session remembers of them.

Two things limit a service, and from outside they look alike: so many requests at once, and so many in a time. `Pace` has a window for
the one (doubled with every round of answers at first, then one more a round; less by a share when too many are refused, once a round)
and, as soon as requests are refused in numbers, a rate for the other: what was answered lately, raised gently as long as nothing is
refused. Single refusals among many answers are luck, not a limit.
"""

from __future__ import annotations

import math
import resource
import time
from collections import deque
from pathlib import Path
from typing import Any

from nbdream.errors import BrokenFileError
from nbdream.files import read_object, write_json
from nbdream.llms.base import RateLimit

FIRST = 64
"""Calls in flight to a service that has just answered for the first time."""
CEILING = 1024
"""Calls in flight at most, unless the user says otherwise. A model that answers at once needs as many for the disk to keep pace."""
LEAST = 4
"""No window is made smaller than this by refusals alone."""
LOOKED_AT = 40
"""Outcomes that are looked at together."""
MANY = 0.2
"""The share of refusals among them that is no luck."""
FEW = 4
"""Fewer refusals than this are always luck; so many in a row never are."""
LESS = 0.7
"""What is left of a window, or of a rate at least, after too many refusals."""
GAIN = 1.15
"""A doubled window that gives less than this times the answers is as large as it needs to be."""
REACTION = 0.5
"""Seconds after a change in which refusals are still of the pace before."""
SLOW = 10.0
"""Requests a second with which the search for a rate begins."""
SEARCH = 4.0
"""The factor by which a rate that is searched for grows in a second."""
UNDER = 0.98
"""How far below what was answered, or what the headers allow, a rate settles."""
BACK = 0.97
"""What is left of a settled rate after a single refusal."""
SURE = 0.7
"""The share of the best that was answered lately at which no rate limit can be met: what is refused there is luck."""
PROBE = 0.01
"""The share by which a rate grows each second while nothing is refused; up to ten times as fast when that lasts."""
LATELY = 20.0
"""Seconds for which the best counts."""
SPAN = 2.0
"""Seconds over which answers are counted for a rate."""
BURST = 0.1
"""Seconds whose requests may go out together under a rate."""
REMEMBERED = 24 * 3600.0
"""Seconds after which what was learned is learned anew."""


def ceiling() -> int:
    """Calls in flight at most: each takes a file descriptor, and a kernel needs others."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CEILING if soft == resource.RLIM_INFINITY else max(LEAST, min(CEILING, soft // 2))


class Pace:
    """The pace at which one service is asked. All times are of a clock that never jumps."""

    def __init__(self, window: float = FIRST, rate: float | None = None, *, known: bool = False) -> None:
        self.known = known
        """Whether the service has answered, now or when the session was last open."""
        self.in_flight = 0
        self.window = window
        self.rate = rate
        """Requests a second, where a limit of them was met; else None."""
        self._doubling = True
        self._credit = 0.0
        self._told = 0.0
        self._rest_until = 0.0
        self._outcomes: deque[bool] = deque(maxlen=LOOKED_AT)
        self._in_a_row = 0
        self._answers: deque[float] = deque()
        self._bests: deque[tuple[float, float]] = deque()
        self._latency = 0.0
        self._held = False
        """Whether the rate kept anything back since it was last raised: one that does not is not to be raised."""
        self._searching = False
        self._vain = 0
        self._round = (0.0, 0)
        self._best = 0.0
        self._lowered = -math.inf
        self._raised = 0.0
        self._allowed: float | None = None
        """Requests a second that the headers tell of."""

    def wait(self, most: int, now: float) -> float:
        """Seconds until another call may go out: 0 now, infinity when one must end first."""
        if self.in_flight >= min(self.window, most):
            return math.inf
        if now < self._rest_until:
            return self._rest_until - now
        if self.rate is None:
            return 0.0
        self._earn(now)
        if self._credit > 1 - 1e-9:
            return 0.0
        self._held = True
        return (1 - self._credit) / self.rate

    def sent(self) -> None:
        """A call goes out."""
        self.in_flight += 1
        if self.rate is not None:
            self._credit -= 1

    def back(self) -> None:
        """A call is no longer in flight, whatever became of it."""
        self.in_flight -= 1

    def answered(self, now: float, took: float, told: RateLimit | None = None) -> None:
        """A call that is still counted as in flight was answered, so many seconds after it was sent."""
        self.known = True
        self._latency += (took - self._latency) / 8
        self._outcomes.append(True)
        self._in_a_row = 0
        self._answers.append(now)
        while now - self._answers[0] > SPAN:
            self._answers.popleft()
        if told is not None:
            self._heed(told, now)
        if self.rate is not None:
            self._probe(now)
            if self.in_flight >= self.window - 1:
                self.window += 0.25
        elif self.in_flight >= self.window - 1:
            self._grow(now)

    def refused(self, retry_after: float | None, now: float) -> None:
        """A call was refused: too many requests."""
        self._outcomes.append(False)
        self._in_a_row += 1
        if retry_after:
            self._rest_until = max(self._rest_until, now + retry_after)
        if now - self._lowered < REACTION:
            return
        count = self._outcomes.count(False)
        # A refusal comes back before the answers that were sent with it.
        enough = max(FEW, MANY * min(self.in_flight, LOOKED_AT))
        clustered = self._in_a_row >= enough or (count >= enough and count >= MANY * len(self._outcomes))
        if self.rate is None:
            if clustered:
                self._search(now)
        elif self._searching:
            self._settle(now)
        elif clustered:
            self._change(min(self.rate * BACK, max(self._measured(now) * UNDER, self.rate * LESS)), now)
            self.window = max(LEAST, self.window * LESS)
        elif self.rate > SURE * self._best_lately(now):
            self._change(self.rate * BACK, now)
        else:
            self._doubt(now)

    # --- the window -----------------------------------------------------------------------------------------------------

    def _grow(self, now: float) -> None:
        """One more for each answer doubles the window in a round; one more a round when that no longer helps."""
        self.window += 1 if self._doubling else 1 / self.window
        began, count = self._round
        if began == 0.0:
            self._round = (now, 1)
            return
        count += 1
        if count < self.window / 2 or now <= began:
            self._round = (began, count)
            return
        speed = count / (now - began)
        if self._doubling and speed < self._best * GAIN and now - began > 0.02:
            self._doubling = False
        self._best = max(self._best, speed)
        self._round = (now, 0)

    # --- the rate -------------------------------------------------------------------------------------------------------

    def _search(self, now: float) -> None:
        """Begin slowly, and faster and faster, until something is refused again."""
        self.window = max(LEAST, self.window * LESS)
        self._doubling = False
        self._searching = self._allowed is None
        self._credit, self._told = 0.0, now
        self._change(self._allowed or max(SLOW, self._measured(now) / 2), now)

    def _settle(self, now: float) -> None:
        """Something was refused in the search: what is answered now is what the service bears."""
        assert self.rate is not None
        self._searching = False
        self._change(min(self.rate, max(self._measured(now) * UNDER, self.rate / SEARCH)), now)

    def _doubt(self, now: float) -> None:
        """Refusals far below what was answered lately have another reason than the rate: after a few of them there is none."""
        self._vain += 1
        if self._vain > FEW:
            self.rate, self._vain = None, 0
        else:
            self._lowered = now

    def _change(self, rate: float, now: float) -> None:
        self.rate = max(0.1, rate if self._allowed is None else min(rate, self._allowed))
        self._lowered = self._raised = now
        self._outcomes.clear()
        self._in_a_row = self._vain = 0

    def _measured(self, now: float) -> float:
        """Answers a second, lately."""
        count = sum(1 for at in self._answers if now - at <= SPAN)
        return count / SPAN

    def _best_lately(self, now: float) -> float:
        while self._bests and now - self._bests[0][0] > LATELY:
            self._bests.popleft()
        return max((speed for _, speed in self._bests), default=0.0)

    def _probe(self, now: float) -> None:
        """Raise the rate as long as nothing is refused."""
        assert self.rate is not None
        passed = now - self._raised
        if passed < 0.1:
            return
        self._raised = now
        if (
            not self._searching and now - self._lowered > SPAN + 2 * self._latency
        ):  # not what a search, or what had been saved up, gave for a moment
            self._bests.append((now, self._measured(now)))
        if not self._held:
            return
        self._held = False
        if self._searching:
            self.rate *= SEARCH**passed
        elif now - self._lowered > 1.0:
            self.rate *= 1 + PROBE * passed * (1 + min(9.0, (now - self._lowered) / 10))
        if self._allowed is not None:
            self.rate = min(self.rate, self._allowed)

    def _heed(self, told: RateLimit, now: float) -> None:
        """Take the provider at its word: so many requests a minute. What is left of them may go out at once."""
        allowed = told.limit / 60 * UNDER
        if allowed <= 0:
            return
        if self._allowed is None and told.remaining < told.limit / 2 + self.in_flight:
            self.rate = min(self.rate or math.inf, allowed)
            self._credit, self._told = min(self._credit, 1.0), now
        if self.rate is not None:
            self._allowed = allowed

    def _earn(self, now: float) -> None:
        assert self.rate is not None
        most = max(1.0, self.rate * BURST)
        if self._told < self._rest_until <= now:  # what was not sent during a rest may be sent after it
            most = max(most, self.rate * min(self._rest_until - self._told, 1.0))
        self._credit = min(most, self._credit + (now - self._told) * self.rate)
        self._told = now


class Learned:
    """What a session knows of the services it has asked: ``limits.json`` in its folder, or nothing without one."""

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / "limits.json"
        self._paces: dict[str, Pace] = {}

    def pace(self, key: str) -> Pace:
        """The pace of service ``key``, one for all who ask it: as it was when the session was last open, unless that is long ago."""
        if key not in self._paces:
            self._paces[key] = self._kept(key) or Pace()
        return self._paces[key]

    def _kept(self, key: str) -> Pace | None:
        found = self._read().get(key)
        if not isinstance(found, dict) or not isinstance(found.get("window"), int | float) or not isinstance(found.get("at"), int | float):
            return None
        if not 0 <= time.time() - found["at"] < REMEMBERED:
            return None
        rate = found.get("rate")
        window = max(LEAST, min(float(found["window"]), ceiling()))
        return Pace(window, float(rate) if isinstance(rate, int | float) and rate > 0 else None, known=True)

    def keep(self, key: str) -> None:
        """Remember what was learned; that it cannot be written is no reason to fail."""
        pace = self._paces.get(key)
        if self._path is None or pace is None or not pace.known:
            return
        rate = None if pace.rate is None else round(pace.rate, 2)
        try:
            write_json(self._path, {**self._read(), key: {"window": round(pace.window), "rate": rate, "at": int(time.time())}})
        except Exception:  # a full disk, a read-only folder: those who store replies say so
            return

    def _read(self) -> dict[str, Any]:
        try:
            return {} if self._path is None else read_object(self._path)
        except (FileNotFoundError, BrokenFileError):
            return {}
