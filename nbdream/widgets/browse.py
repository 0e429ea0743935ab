"""What `NAME.browse()` shows: a live table in a notebook whose kernel is there, and its first page for when it is not."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nbdream.comparison import made
from nbdream.errors import ArgumentError, NbDreamError
from nbdream.widgets.live import LIVE, enlivened, live_json, module
from nbdream.widgets.mime import TABLE, beside_json
from nbdream.widgets.pager import read_page, read_value, sheet_of, use_of
from nbdream.widgets.request import Request
from nbdream.widgets.sheet import Sheet
from nbdream.widgets.show import page_bundle
from nbdream.widgets.status import saved_line
from nbdream.widgets.table import PAGE, table_html, table_text

if TYPE_CHECKING:
    from nbdream.browsing import Browse

FIRST = 50
"""Rows that a live table holds when it is shown."""


def browse_bundle(browse: Browse) -> dict[str, Any]:
    """The MIME bundle of rows that are looked at."""
    sheet = sheet_of(browse)
    if browse.other is None and browse.columns is None:
        note = saved_line(browse.rows.step.node) if use_of(browse.rows) else ""
        bundle = page_bundle(browse.rows, note)
    else:
        differ = sheet.page(Request(count=0, changed=True))["total"]
        note = f"{differ:,} of {sheet.rows:,} rows differ"
        bundle = _beside_bundle(browse, sheet, note)
    kind = table_class()
    if kind is None:
        return bundle
    if not bundle.get(TABLE, {}).get("use"):  # a renderer that could not page on from it must not take the place of the widget
        bundle.pop(TABLE, None)
        bundle[LIVE] = live_json()

    def widget(mark: str) -> Any:
        alive = kind(first=sheet.page(Request(count=FIRST)), label=browse.name, note=note, mark=mark)
        alive.on_msg(functools.partial(_received, sheet))
        return alive

    return enlivened(bundle, _key(browse, sheet, bundle), widget)


def _key(browse: Browse, sheet: Sheet, bundle: dict[str, Any]) -> str:
    """What is looked at: the place in the graph where rows have one, else what stands at their beginning and their end."""
    page = bundle.get(TABLE) or sheet.page(Request(start=max(0, sheet.rows - PAGE), count=PAGE))
    return json.dumps([browse.name, sheet.rows, page, bundle["text/html"]], default=str)


def difference_json(before: Any, after: Any, lines: list[str]) -> dict[str, Any] | None:
    """The rows in which two results differ, side by side; None where rows of the same place do not belong together."""
    old, new = before.output, after.output
    taken = [name for name in new.column_names if name in old.column_names and name not in made(before) and name not in made(after)]
    if old.num_rows != new.num_rows or any(old.digest(name) != new.digest(name) for name in taken):
        return None
    try:
        browse = old.browse(after)
    except ArgumentError:  # no column in common
        return None
    sheet = sheet_of(browse)
    return beside_json(browse, sheet, " · ".join(lines), changed=True) if sheet.page(Request(count=0, changed=True))["total"] else None


def _beside_bundle(browse: Browse, sheet: Sheet, note: str) -> dict[str, Any]:
    """The first page of columns that stand side by side."""
    page = sheet.page(Request(count=PAGE))
    names = [head["name"] for head in page["columns"]]
    rows = [dict(zip(names, map(_whole, row), strict=True)) for row in page["rows"]]
    bundle = {"text/plain": table_text(names, rows, sheet.rows, note), "text/html": table_html(names, rows, sheet.rows, note)}
    as_json = beside_json(browse, sheet, note)
    return bundle if as_json is None else {**bundle, TABLE: as_json}


def _whole(cell: Any) -> str | None:
    """What a cell shows, without what is marked in it."""
    if not isinstance(cell, dict):
        return cell  # type: ignore[no-any-return]
    return "".join(text for text, _ in cell["parts"]) if "parts" in cell else str(cell["text"])


@functools.cache
def table_class() -> Any:
    """The live table's widget; None where there are none. All that it shows first is in its traits, so it is there after a page reload."""
    try:
        import anywidget
        import traitlets
    except ImportError:
        return None

    class Table(anywidget.AnyWidget):
        _esm = module("table.js")
        mark = traitlets.Unicode("").tag(sync=True)
        first = traitlets.Dict().tag(sync=True)
        label = traitlets.Unicode("").tag(sync=True)
        note = traitlets.Unicode("").tag(sync=True)

    return Table


def _received(sheet: Sheet, widget: Any, message: Any, _buffers: Any) -> None:
    """Answer what a page asks for; what is none of the two operations gets no answer."""
    if not isinstance(message, Mapping) or message.get("op") not in ("page", "value"):
        return
    try:
        answer = read_page(sheet, message) if message["op"] == "page" else read_value(sheet, message)
    except NbDreamError as error:
        answer = {"error": str(error)}
    widget.send({**answer, "op": message["op"], "id": str(message.get("id"))[:64]})
