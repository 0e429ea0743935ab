"""Timing, and a table with what was measured beside what it is measured against and what is promised."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Result:
    """One measured thing. The promise is about the ratio to the reference where there is one, else about the value."""

    what: str
    value: float
    unit: str
    against: str = ""
    reference: float | None = None
    most: float | None = None
    least: float | None = None

    @property
    def ratio(self) -> str:
        """The value in multiples of the reference."""
        return f"{self.value / self.reference:.2f}×" if self.reference else ""

    @property
    def promised(self) -> str:
        """What is promised, and whether it was kept."""
        bound = self.most if self.most is not None else self.least
        if bound is None:
            return ""
        number = self.value / self.reference if self.reference else self.value
        kept = number <= bound if self.most is not None else number >= bound
        return f"{'≤' if self.most is not None else '≥'} {_shown(bound)}: {'yes' if kept else 'NO'}"


def seconds(work: Callable[[], object], repeat: int = 5) -> float:
    """The median wall time of ``work`` after one run to warm up."""
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class Server:
    """The server of the benchmarks, in a process of its own."""

    def __init__(self, *options: str) -> None:
        self._options = options

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.server", *self._options]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.communicate("")

    def counts(self) -> dict[str, Any]:
        """What it has done."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/counts") as answer:
            told: dict[str, Any] = json.load(answer)
        return told


def contender(kind: str, port: int, **options: Any) -> dict[str, Any]:
    """What one contender says of its run, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.contenders", kind, str(port), json.dumps(options)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def median(runs: Iterable[dict[str, Any]], name: str) -> float:
    """The median of one number of several runs."""
    return statistics.median(run[name] for run in runs)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


HEAD = ("", "measured", "against", "", "ratio", "promised")


def rows(results: Iterable[Result]) -> list[tuple[str, ...]]:
    """The results as the cells of a table."""
    made = []
    for result in results:
        reference = "" if result.reference is None else f"{_shown(result.reference)} {result.unit}"
        made.append((result.what, f"{_shown(result.value)} {result.unit}", result.against, reference, result.ratio, result.promised))
    return made


def table(cells: list[tuple[str, ...]]) -> str:
    """Cells as aligned lines."""
    lines = [HEAD, *cells]
    widths = [max(len(row[column]) for row in lines) for column in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines)


def markdown(cells: list[tuple[str, ...]]) -> str:
    """Cells as a Markdown table."""
    lines = [HEAD, ("---",) * len(HEAD), *cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)
