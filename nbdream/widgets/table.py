"""A result as a table: its first page, as static HTML and as text. No script, no widget, no random id."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nbdream.escape import html, visible

PAGE = 10
"""Rows of the first page."""
LONGEST = 400
"""Characters of a value that are shown."""
COLUMNS = 20
"""Columns that are shown."""

NARROW = 24
"""Characters that are shown on one line, however many columns there are."""

_CELL = "vertical-align:top;padding:4px 8px"
_NUMBER = f"{_CELL};text-align:right;white-space:nowrap"
_SHORT = f"{_CELL};text-align:left;white-space:pre"
_LONG = f"{_CELL};text-align:left;white-space:pre-wrap;overflow-wrap:anywhere;min-width:12em;max-width:40em"
_NOTE = "opacity:.7;font-size:.9em;margin:.3em 0"


def shown(value: Any, longest: int = LONGEST) -> str:
    """A value as text, cut at ``longest`` characters; lists and dicts as JSON."""
    if value is None:
        return "∅"
    text = value if isinstance(value, str) else plain(value)
    return text if len(text) <= longest else text[:longest].rstrip() + f"… ({len(text):,} characters)"


def plain(value: Any) -> str:
    """A value that is no text as one, whole: lists and dicts as JSON."""
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def table_html(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], total: int, note: str = "", *, numbered: bool = True) -> str:
    """The first page as HTML. Whatever a model wrote is text in it."""
    styles = {name: _style([row.get(name) for row in rows]) for name in list(columns)[:COLUMNS]}
    head = "".join(
        f'<th scope="col" style="text-align:{"right" if style == _NUMBER else "left"};padding:4px 8px">{html(name)}</th>'
        for name, style in styles.items()
    )
    body = "".join(
        f"<tr>{_number(number) if numbered else ''}"
        + "".join(f'<td style="{style}">{html(shown(row.get(name)))}</td>' for name, style in styles.items())
        + "</tr>"
        for number, row in enumerate(rows)
    )
    below = f'<p style="{_NOTE}">{html(said)}</p>' if (said := _below(len(rows), total, columns, note)) else ""
    corner = "<th></th>" if numbered else ""
    table = f"<table><thead><tr>{corner}{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="nbdream-table" style="overflow-x:auto">{table}{below}</div>'


def _style(values: Sequence[Any]) -> str:
    """How a column is set: numbers to the right, what is narrow on one line, text folded."""
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in there):
        return _NUMBER
    return _SHORT if all(len(line) <= NARROW for value in there for line in shown(value).splitlines()) else _LONG


def _number(number: int) -> str:
    return f'<td style="opacity:.5;{_CELL}">{number}</td>'


def table_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], total: int, note: str = "", width: int = 100) -> str:
    """The first page as text, for a terminal and for a notebook's ``text/plain``."""
    names = list(columns)[:COLUMNS]
    cells = [[_one_line(name, width) for name in names]] + [[_one_line(shown(row.get(name)), width) for name in names] for row in rows]
    widths = _widths([max(len(line[at]) for line in cells) for at in range(len(names))], width)
    cells = [[_one_line(cell, size) for cell, size in zip(line, widths, strict=True)] for line in cells]
    lines = ["   ".join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines.insert(1, "   ".join("─" * size for size in widths))
    return "\n".join([*lines, *filter(None, [_below(len(rows), total, columns, note)])])


def _widths(wanted: Sequence[int], width: int) -> list[int]:
    """The width of each column: narrow ones take what they want, the others share what is left."""
    widths, left = [0] * len(wanted), width - 3 * len(wanted)
    for done, at in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        widths[at] = min(wanted[at], max(8, left // (len(wanted) - done)))
        left -= widths[at]
    return widths


def _below(here: int, total: int, columns: Sequence[str], note: str) -> str:
    """The line below a table: which part is shown, and the note, which may itself begin with the number of rows."""
    rows = f"{total:,} rows"
    parts = [note] if total == here or note.startswith(rows) else [rows, note]
    if 0 < here < total:
        parts[0] = f"first {here} of {parts[0]}"
    if len(columns) > COLUMNS:
        parts.append(f"{COLUMNS} of {len(columns)} columns")
    return " · ".join(filter(None, parts))


def _one_line(text: str, longest: int) -> str:
    flat = visible(" ".join(text.split()))  # a terminal obeys control characters; a table shows them
    return flat if len(flat) <= longest else flat[: longest - 1] + "…"


def lines_html(lines: Sequence[str]) -> str:
    """A few plain lines as HTML."""
    return "".join(f'<p style="{_NOTE}">{html(line)}</p>' for line in lines)
