"""What is shown of a value in a table: its text, cut where it is long, and the words in which it differs from its neighbour."""

from __future__ import annotations

from typing import Any

from nbdream.escape import visible
from nbdream.widgets import words
from nbdream.widgets.table import LONGEST, plain

Cell = None | str | dict[str, Any]
"""A null; a text; or what is shown of a longer one (``text`` and ``length``), or its ``parts``: pieces, and which of them differ."""

BEFORE = 60
"""Characters shown before the first difference, where it lies beyond what is shown of a text."""


def cell(text: str | None, longest: int = LONGEST) -> Cell:
    """What is shown of a value."""
    if text is None:
        return None
    return visible(text) if len(text) <= longest else {"text": visible(text[:longest]), "length": len(text)}


def beside(left: str | None, right: str | None, longest: int = LONGEST) -> tuple[Cell, Cell]:
    """What is shown of two values that stand side by side: where they differ, the part that differs first is within it."""
    if left is None or right is None or left == right:
        return cell(left, longest), cell(right, longest)
    begin = words.common(left, right)
    skipped = begin - BEFORE if begin > longest - BEFORE else 0
    parts = words.differences(left[skipped : skipped + longest], right[skipped : skipped + longest])
    return _pair_cell(left, parts[0], skipped, longest), _pair_cell(right, parts[1], skipped, longest)


def _pair_cell(text: str, parts: list[words.Part], skipped: int, longest: int) -> Cell:
    shown: dict[str, Any] = {"parts": shown_parts([("…", False), *parts] if skipped else parts)}
    return {**shown, "length": len(text)} if skipped or len(text) > longest else shown


def shown_parts(parts: list[words.Part]) -> list[list[Any]]:
    """Pieces of a text as they are shown."""
    return [[visible(text), changed] for text, changed in parts]


def as_text(value: Any) -> str | None:
    """A value as text, whole; a null is none."""
    return value if value is None or isinstance(value, str) else plain(value)
