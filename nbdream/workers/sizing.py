"""How many rows a model generates together: found while it works, by what fits and what pays."""

from __future__ import annotations

import os
import statistics

FIRST, MOST = 16, 256
MEASURED = 12
"""Steps at a size before it is judged."""
GAIN = 1.05
"""A larger size must give this many times the tokens a second."""
SLOW, SLOW_GAIN = 0.3, 1.5
"""Seconds of one step from which on a larger size must give more: an interrupt waits for the step's end."""
TRIES = 2
SHARE = 4
"""Of the memory of a machine without a device of its own, keys and values take this part at most."""


class Sizing:
    """Rows at once, and the cells (rows times columns) that memory holds; both remembered as long as the model is loaded."""

    def __init__(self) -> None:
        self.rows = FIRST
        self.cells: int | None = None
        """The most cells; None where nothing has shown it yet."""
        self._rates: dict[int, float] = {}
        self._tried: dict[int, int] = {}
        self._seconds: list[float] = []

    def step(self, rows: int, seconds: float) -> None:
        """A token has been written for ``rows`` rows. Steps that were far from full say nothing about the size."""
        if rows < 0.75 * self.rows:
            return
        self._seconds.append(seconds / rows * self.rows)
        if len(self._seconds) >= MEASURED:
            took = statistics.median(self._seconds)
            self._seconds = []
            self._judge(took)

    def fits(self, rows: int, width: int) -> bool:
        """Whether so many rows of this width are to be held at once."""
        return rows <= 1 or self.cells is None or rows * width <= self.cells

    def too_much(self, rows: int, width: int) -> None:
        """The device had no memory for this."""
        self.cells = max(1, rows * width * 2 // 3)

    def note_memory(self, cell_bytes: int) -> None:
        """A model on the processor: what a cell takes, of the machine's memory."""
        if self.cells is None and cell_bytes and (memory := _memory()):
            self.cells = memory // SHARE // cell_bytes

    def _judge(self, seconds: float) -> None:
        size = self.rows
        self._rates[size] = max(size / seconds, self._rates.get(size, 0.0))
        below = self._rates.get(size // 2, 0.0)
        least = below * (SLOW_GAIN if seconds > SLOW else 1)
        if self._rates[size] < least:
            self.rows = size // 2
        elif 2 * size <= MOST and self._rates[size] > GAIN * below and self._tried.get(2 * size, 0) < TRIES:
            self.rows = 2 * size
            self._tried[self.rows] = self._tried.get(self.rows, 0) + 1


def _memory() -> int:
    """The bytes of memory of this machine; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
