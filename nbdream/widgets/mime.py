"""A result's first page as JSON: what JupyterLab's renderer shows, and pages on from while a kernel is there.

It is saved in the notebook, so it says nothing of the run: the same result is the same JSON.
"""

from __future__ import annotations

import json
from typing import Any

from nbdream.browsing import Browse
from nbdream.datasets import OutputDataset, OutputDatasetColumn
from nbdream.escape import visible
from nbdream.widgets.pager import sheet_of, use_of
from nbdream.widgets.request import Request
from nbdream.widgets.sheet import Sheet
from nbdream.widgets.table import COLUMNS, LONGEST, PAGE

TABLE = "application/vnd.nbdream.table+json"
VERSION = 1
MOST_BYTES = 64 * 1024
"""Of one first page, as JSON."""


def table_json(rows: OutputDataset | OutputDatasetColumn, note: str) -> dict[str, Any]:
    """The first page of ``rows``; ``use`` names them where they are all that a step made, so that others can be asked for."""
    owner = rows.owner if isinstance(rows, OutputDatasetColumn) else rows
    place = {"name": str(getattr(owner.step, "name", "")), "use": use_of(owner)}
    return _page(sheet_of(Browse(owner)), place, rows.column_names, note)


def beside_json(browse: Browse, sheet: Sheet, note: str, *, changed: bool = False) -> dict[str, Any] | None:
    """The first page of rows that stand side by side, or of those that ``changed``; None where a page could not say whose they are."""
    uses = [use_of(rows) for rows in (browse.rows, browse.other) if rows is not None]
    if not all(uses):
        return None
    beside = {"use": uses[1] if browse.other is not None else None, "columns": None if browse.columns is None else list(browse.columns)}
    return _page(sheet, {"name": browse.name, "use": uses[0], "beside": beside}, list(sheet.fields), note, changed)


def _page(sheet: Sheet, place: dict[str, Any], columns: list[str], note: str, changed: bool = False) -> dict[str, Any]:
    place["name"] = visible(place["name"])[:LONGEST]
    longest, shown = LONGEST, tuple(columns[:COLUMNS])
    while True:
        page = sheet.page(Request(count=PAGE, columns=shown, changed=changed), longest)
        kept = {key: page[key] for key in ("columns", "rows", "total", "failures", *(("numbers", "all") if changed else ()))}
        kept |= {"changed": True} if changed else {}
        made = {"version": VERSION, **place, **kept, "note": visible(note)[: 2 * LONGEST]}
        if not shown or len(json.dumps(made, ensure_ascii=False).encode("utf-8", "replace")) <= MOST_BYTES:
            return made
        longest, shown = (longest // 2, shown) if longest > 50 else (longest, shown[: len(shown) // 2])
