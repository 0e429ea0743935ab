"""What the rest of a run will cost, from a few rows that were tried: an interval, not a number.

Two models of what a row costs are taken together, since neither holds for all work. One is linear in the length of the prompt, with
Student's t: right for costs that scatter evenly. The other is log-linear, with the share of rows that cost next to nothing (refusals)
beside it: right for the long tails that the lengths of replies have, which twenty rows mostly do not show. The interval reaches from
the lower of the two lower ends to the higher of the two upper ends.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95
"""The level of each of the two intervals. What comes of them holds in at least nine of ten workloads, which the tests measure."""
DRAWS = 500
BINS = 32
ROUNDING = 1e-9
NEXT_TO_NOTHING = 5
"""How many times less than all others a reply costs that is of another kind."""
FEWEST = 5
"""Rows below which nothing is said."""


@dataclass(frozen=True, slots=True)
class Interval:
    """From … to."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def rest(tried: Sequence[tuple[float, float]], left: Sequence[float], most: float = math.inf) -> Interval:
    """The sum of ``y`` over the rows that are ``left``, given the size ``x`` of each and ``(x, y)`` of those that were tried.

    ``most``: no row can be more than this.
    """
    if not left:
        return Interval(0.0, 0.0)
    if len(tried) < FEWEST:
        return Interval(0.0, most * len(left))
    values = {y for _, y in tried}
    if len(values) == 1:
        return Interval(*[values.pop() * len(left)] * 2)
    even, tailed = _even(tried, left), _tailed(tried, left)
    low, high = min(even.low, tailed.low) * (1 - ROUNDING), max(even.high, tailed.high) * (1 + ROUNDING)
    return Interval(max(0.0, low), min(most * len(left), high))


def _even(tried: Sequence[tuple[float, float]], left: Sequence[float]) -> Interval:
    """By a straight line through what was tried."""
    slope, start, spread, beyond, free = _line(tried, statistics.fmean(left))
    middle = start + slope * statistics.fmean(left)
    reach = _t(1 - (1 - LEVEL) / 2, free) * math.sqrt(spread * (beyond + 1 / len(left)))
    return Interval(len(left) * (middle - reach), len(left) * (middle + reach))


def _tailed(tried: Sequence[tuple[float, float]], left: Sequence[float]) -> Interval:
    """By a straight line through the logarithms, drawn again and again within what the rows that were tried leave open."""
    some = _something([y for _, y in tried])
    paid = [(math.log(max(1.0, x)), math.log(y)) for x, y in tried if y >= some]
    if len(paid) < FEWEST:
        return Interval(math.inf, 0.0)
    little = [y for _, y in tried if y < some]
    bins = _bins([math.log(max(1.0, x)) for x in left])
    centre = statistics.fmean(x for x, _ in paid)
    slope, start, spread, _, free = _line(paid, centre)
    lean = math.sqrt(1 / wide) if (wide := sum((x - centre) ** 2 for x, _ in paid)) else 0.0
    draw = random.Random(len(tried))
    sums = []
    for _ in range(DRAWS):
        share = draw.betavariate(len(paid) + 0.5, len(little) + 0.5) if little else 1.0
        variance = spread * free / (2 * draw.gammavariate(free / 2, 1))
        level = start + slope * centre + draw.gauss() * math.sqrt(variance / len(paid)) + variance / 2
        tilt = slope + draw.gauss() * math.sqrt(variance) * lean
        total = share * sum(count * math.exp(min(700.0, level + tilt * (x - centre))) for x, count in bins)
        scatter = math.sqrt(math.expm1(min(700.0, variance)) / len(left))  # the rows that are left are a draw themselves
        total *= math.exp(draw.gauss() * math.sqrt(math.log1p(scatter**2)) - math.log1p(scatter**2) / 2)
        sums.append(total + (1 - share) * len(left) * statistics.fmean(little or [0.0]))
    sums.sort()
    tail = round(DRAWS * (1 - LEVEL) / 2)
    return Interval(sums[tail], sums[-1 - tail])


def _something(values: Sequence[float]) -> float:
    """The least of ``values`` that is no refusal: those below are many times less, and are the fewer."""
    ordered = sorted(values)
    lower = ordered[: len(ordered) // 2 + 1]
    gap, least = max((above / max(below, 1e-9), above) for below, above in itertools.pairwise(lower))
    return least if gap >= NEXT_TO_NOTHING and least > 0 else next((value for value in ordered if value > 0), math.inf)


def _line(points: Sequence[tuple[float, float]], at: float) -> tuple[float, float, float, float, int]:
    """Slope, start, variance around the line, that of the line itself ``at`` a place (as a share of it), and degrees of freedom."""
    count = len(points)
    x_mean, y_mean = statistics.fmean(x for x, _ in points), statistics.fmean(y for _, y in points)
    wide = sum((x - x_mean) ** 2 for x, _ in points)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in points) / wide if wide > 1e-12 else 0.0
    free = count - 2 if wide > 1e-12 else count - 1
    around = sum((y - y_mean - slope * (x - x_mean)) ** 2 for x, y in points) / free
    beyond = 1 / count + ((at - x_mean) ** 2 / wide if wide > 1e-12 else 0.0)
    return slope, y_mean - slope * x_mean, around, beyond, free


def _bins(values: Sequence[float]) -> list[tuple[float, int]]:
    """A few values that stand for many, each with how many it stands for."""
    ordered = sorted(values)
    size = math.ceil(len(ordered) / BINS)
    parts = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return [(statistics.fmean(part), len(part)) for part in parts]


def _t(share: float, free: int) -> float:
    """The quantile of Student's t, by the expansion around the normal one; right to a percent from three degrees of freedom on."""
    z = statistics.NormalDist().inv_cdf(share)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / free + second / free**2 + third / free**3
