"""What `NAME.browse()` shows: a live table in a notebook whose kernel is there, and its first page for when it is not."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbdream.errors import NbDreamError
from nbdream.widgets.live import LIVE, live_json
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
    widget = kind(first=sheet.page(Request(count=FIRST)), label=browse.name, note=note)
    widget.on_msg(functools.partial(_received, sheet))
    return {**widget._repr_mimebundle_()[0], **bundle}


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
        _esm = Path(__file__).parent / "static" / "table.js"
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
