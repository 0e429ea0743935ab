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

_CELL = "text-align:left;vertical-align:top;padding:4px 8px;white-space:pre-wrap;overflow-wrap:anywhere;max-width:40em"
_NOTE = "opacity:.7;font-size:.9em;margin:.3em 0"


def shown(value: Any, longest: int = LONGEST) -> str:
    """A value as text, cut at ``longest`` characters; lists and dicts as JSON."""
    if value is None:
        return "∅"
    text = value if isinstance(value, str) else _plain(value)
    return text if len(text) <= longest else text[:longest].rstrip() + f"… ({len(text):,} characters)"


def _plain(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def table_html(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], total: int, note: str = "") -> str:
    """The first page as HTML. Whatever a model wrote is text in it."""
    names = list(columns)[:COLUMNS]
    head = "".join(f'<th scope="col" style="text-align:left;padding:4px 8px">{html(name)}</th>' for name in names)
    body = "".join(
        f'<tr><td style="opacity:.5;padding:4px 8px">{number}</td>'
        + "".join(f'<td style="{_CELL}">{html(shown(row.get(name)))}</td>' for name in names)
        + "</tr>"
        for number, row in enumerate(rows)
    )
    notes = [line for line in (_page_note(len(rows), total, columns), note) if line]
    below = "".join(f'<p style="{_NOTE}">{html(line)}</p>' for line in notes)
    return f'<div class="nbdream-table"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>{below}</div>'


def table_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], total: int, note: str = "", width: int = 100) -> str:
    """The first page as text, for a terminal and for a notebook's ``text/plain``."""
    names = list(columns)[:COLUMNS]
    each = max(8, (width - 3 * len(names)) // max(1, len(names)))
    cells = [[_one_line(name, each) for name in names]] + [[_one_line(shown(row.get(name)), each) for name in names] for row in rows]
    widths = [max(len(line[at]) for line in cells) for at in range(len(names))]
    lines = ["   ".join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines.insert(1, "   ".join("─" * size for size in widths))
    return "\n".join([*lines, *(line for line in (_page_note(len(rows), total, columns), note) if line)])


def _page_note(here: int, total: int, columns: Sequence[str]) -> str:
    parts = []
    if total > here:
        parts.append(f"rows 0–{here - 1} of {total:,}" if here else f"{total:,} rows")
    if len(columns) > COLUMNS:
        parts.append(f"{COLUMNS} of {len(columns)} columns")
    return " · ".join(parts)


def _one_line(text: str, longest: int) -> str:
    flat = visible(" ".join(text.split()))  # a terminal obeys control characters; a table shows them
    return flat if len(flat) <= longest else flat[: longest - 1] + "…"


def lines_html(lines: Sequence[str]) -> str:
    """A few plain lines as HTML."""
    return "".join(f'<p style="{_NOTE}">{html(line)}</p>' for line in lines)
