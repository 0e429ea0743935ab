"""`Request`: what a page may ask of a table. Its values are data: names of columns that are there, texts to look for, numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nbdream.errors import ArgumentError

MOST_ROWS = 200
"""Rows of one answer."""
MOST_COLUMNS = 50
"""Columns of one answer."""
LONGEST = 1000
"""Characters of a text to look for."""


@dataclass(frozen=True, slots=True)
class Request:
    """Which rows, in which order."""

    start: int = 0
    count: int = 50
    columns: tuple[str, ...] | None = None
    sort: tuple[tuple[str, bool], ...] = ()
    """Columns, and whether each goes from the last to the first."""
    search: str = ""
    filter: tuple[tuple[str, str], ...] = ()
    changed: bool = False
    """Only the rows in which two columns that stand side by side differ."""
    failures: bool = False
    """The failed rows instead of the good ones."""

    @classmethod
    def read(cls, message: Mapping[str, Any]) -> Request:
        """The request that a message makes; `ArgumentError` for what is none."""
        columns = message.get("columns")
        return cls(
            start=_number(message, "start", 0),
            count=min(MOST_ROWS, _number(message, "count", 50)),
            columns=None if columns is None else tuple(_text(name) for name in _items(columns, list)),
            sort=tuple(
                (_text(part.get("column")), part.get("reverse") is True) for part in map(_mapping, _items(message.get("sort"), list))
            ),
            search=_text(message.get("search") or ""),
            filter=tuple((_text(name), _text(text)) for name, text in _items(message.get("filter"), dict).items() if text),
            changed=message.get("changed") is True,
            failures=message.get("failures") is True,
        )


def _number(message: Mapping[str, Any], name: str, default: int) -> int:
    value = message.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise ArgumentError(f"{name} is no number of rows", "a whole number from 0")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST:
        raise ArgumentError("what is asked for is no text", f"at most {LONGEST:,} characters")
    return value


def _items(value: Any, kind: type[Any]) -> Any:
    found = kind() if value is None else value
    if not isinstance(found, kind) or len(found) > LONGEST:
        raise ArgumentError(f"what is asked for is no {kind.__name__}", "see the operations of a table")
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ArgumentError("what is asked for is no column and direction", "see the operations of a table")
    return value
