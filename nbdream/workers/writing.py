"""Between those who write answers and those they write for."""

from __future__ import annotations

from typing import Protocol

from nbdream.workers.sampling import Row


class Work(Protocol):
    """What a writer knows of those it writes for."""

    ends: frozenset[int]

    def decode(self, ids: list[int]) -> str:
        """Tokens as text."""

    def gone(self, row: Row) -> bool:
        """Whether nobody waits for a row any more."""

    def done(self, row: Row) -> None:
        """A row has ended."""


def answer(work: Work, row: Row) -> None:
    """Hand over a row that has ended."""
    try:
        work.done(row)
    except Exception:
        row.ended = None  # it was not answered: who clears up hands it back
        raise
