"""Timing, and a table with what was measured beside what it is measured against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """One measured thing."""

    what: str
    value: float
    unit: str
    against: str = ""
    reference: float | None = None

    @property
    def ratio(self) -> str:
        """The value in multiples of the reference."""
        return f"{self.value / self.reference:.2f}×" if self.reference else ""


def seconds(work: Callable[[], object], repeat: int = 5) -> float:
    """The median wall time of ``work`` after one run to warm up."""
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(results: Iterable[Result]) -> str:
    """The results as aligned lines."""
    rows = [("", "measured", "against", "", "ratio")]
    for result in results:
        reference = "" if result.reference is None else f"{_shown(result.reference)} {result.unit}"
        rows.append((result.what, f"{_shown(result.value)} {result.unit}", result.against, reference, result.ratio))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
