"""What people decide about rows: a file of JSON lines for each question, which gets a line a decision and loses none.

A line is ``{"who", "when", "row", "do", "value"}``. ``row`` is the digest of what was shown of the row: reordered rows keep what was
decided about them, equal rows share it. The line ``undo`` takes back the last decision of that person about that row.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbdream.context import replaying
from nbdream.difference import decisions_since
from nbdream.errors import BrokenFileError
from nbdream.files import Lock, append_line, disk_errors, read_lines
from nbdream.fingerprint import digest

FOLDER = "annotations"
"""The folder of a session in which the files lie."""
UNDO = "undo"
_ID = re.compile(r"[0-9a-f]{40}")
_HINT = "it holds what people decided: mend the line, or take it out"


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody decided about a row."""

    do: str
    value: str | int | None
    when: str


def row_key(values: Mapping[str, Any]) -> str:
    """The key of a row: the digest of what is shown of it, in whatever order the columns stand."""
    return digest(dict(values))[:32]


class Decisions:
    """The decisions on one question, of everybody who was asked. Several kernels, and threads, may write at once."""

    def __init__(self, session: Path, question: str) -> None:
        self.id = question
        self.path = session / FOLDER / f"{question}.jsonl"
        self._busy = threading.RLock()
        self._forget()
        self.refresh()

    def _forget(self) -> None:
        self._position = 0
        self._rows: dict[str, dict[str, list[Decision]]] = {}
        """By person and row, the decisions that were made and not taken back; the last one counts."""
        self._order: dict[str, list[str]] = {}
        """By person, the rows of those decisions, as they were made."""

    # --- what was decided -------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Take in what was written since the last look, here or in another kernel."""
        with self._busy:
            if self._position > (self.path.stat().st_size if self.path.exists() else 0):  # it was deleted, or put back from a copy
                self._forget()
            lines, self._position = self._lines()
            for line in lines:
                self._take(line)

    @property
    def people(self) -> list[str]:
        """Who has decided something."""
        return sorted(who for who, order in self._order.items() if order)

    def of(self, who: str) -> dict[str, Decision]:
        """What somebody decided, by row."""
        with self._busy:
            return {row: made[-1] for row, made in self._rows.get(who, {}).items() if made}

    def mark(self) -> dict[str, Any]:
        """What was decided so far, in short: to tell later whether there is more."""
        standing = {who: {row: [made.do, made.value] for row, made in self.of(who).items()} for who in self.people}
        return {"id": self.id, "count": sum(map(len, standing.values())), "digest": digest(standing)}

    # --- deciding ---------------------------------------------------------------------------------------------------

    def add(self, who: str, row: str, do: str, value: str | int | None, when: str) -> None:
        """Put a decision on disk. A replay has those that were shared, and adds none."""
        if replaying():
            return
        with self._writing():
            self._append({"who": who, "when": when, "row": row, "do": do, "value": value})

    def undo(self, who: str, when: str, rows: Container[str]) -> str | None:
        """Take back the last decision of somebody about any of ``rows``; the row that it was about, or None when there is none."""
        with self._writing():
            row = next((row for row in reversed(self._order.get(who, ())) if row in rows), None)
            if row is None:
                return None
            self._append({"who": who, "when": when, "row": row, "do": UNDO, "value": None})
            return row

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Alone among all who write, with all that they wrote taken in."""
        with self._busy, Lock(self.path):
            self._mend()
            self.refresh()
            yield
            self.refresh()

    def _append(self, line: Mapping[str, Any]) -> None:
        append_line(self.path, line)
        with disk_errors(self.path), self.path.open("rb") as file:
            os.fsync(file.fileno())

    def _mend(self) -> None:
        """Cut off a last line that a killed kernel left unfinished; one that only lacks its end gets it."""
        _, end = self._lines()
        with disk_errors(self.path), self.path.open("rb+") as file:
            file.seek(end)
            rest = file.read()
            if not rest:
                return
            try:
                json.loads(rest)
                file.write(b"\n")
            except ValueError:
                file.truncate(end)

    # --- reading ----------------------------------------------------------------------------------------------------

    def _lines(self) -> tuple[list[dict[str, Any]], int]:
        try:
            return read_lines(self.path, self._position)
        except BrokenFileError:
            raise self._broken() from None

    def _take(self, line: Mapping[str, Any]) -> None:
        who, row, do, value = (line.get(name) for name in ("who", "row", "do", "value"))
        if not (isinstance(who, str) and isinstance(row, str) and isinstance(do, str) and isinstance(value, str | int | None)):
            raise self._broken()
        rows, order = self._rows.setdefault(who, {}), self._order.setdefault(who, [])
        if do != UNDO:
            rows.setdefault(row, []).append(Decision(do, value, str(line.get("when"))))
            order.append(row)
        elif rows.get(row):
            rows[row].pop()
            del order[len(order) - 1 - order[::-1].index(row)]

    def _broken(self) -> BrokenFileError:
        return BrokenFileError(self.path, "one of its lines is no decision", _HINT)


def since(session: Path, mark: Mapping[str, Any]) -> str | None:
    """What was decided since a `Decisions.mark` was taken, in words; None when nothing was."""
    if not _ID.fullmatch(str(mark.get("id"))):  # the mark may be a stranger's, and is no path
        return None
    return decisions_since(mark, Decisions(session, str(mark["id"])).mark())
