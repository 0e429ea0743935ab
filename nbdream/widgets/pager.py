"""Answers to what a page asks of the tables of a session. A message names results by their ``use``, and nothing else of this machine."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbdream import context
from nbdream.browsing import Browse
from nbdream.datasets import OutputDataset
from nbdream.errors import ArgumentError, NbDreamError, SplitError, nearest
from nbdream.steps.handle import SPLITS
from nbdream.widgets.request import Request
from nbdream.widgets.sheet import Field, Sheet

MOST_SHEETS = 16
"""Tables that stay open; opening one takes a few milliseconds."""
_sheets: OrderedDict[Any, Sheet] = OrderedDict()
_lock = threading.Lock()
_USE = re.compile(r"[0-9a-f]{40}")


def page(session: Any, message: Mapping[str, Any]) -> dict[str, Any]:
    """The page that a message asks for of the result ``use``, or of its ``split``, or of it ``beside`` another; else a line ``error``."""
    try:
        return read_page(_sheet(session, message), message)
    except NbDreamError as error:
        return {"error": str(error)}


def value(session: Any, message: Mapping[str, Any]) -> dict[str, Any]:
    """The whole value of one ``row`` and ``column`` that a message asks for; a line ``error`` where that cannot be."""
    try:
        return read_value(_sheet(session, message), message)
    except NbDreamError as error:
        return {"error": str(error)}


def read_page(sheet: Sheet, message: Mapping[str, Any]) -> dict[str, Any]:
    """The page that a message asks for."""
    return sheet.page(Request.read(message))


def read_value(sheet: Sheet, message: Mapping[str, Any]) -> dict[str, Any]:
    """The whole value that a message asks for."""
    row, column = message.get("row"), message.get("column")
    if isinstance(row, bool) or not isinstance(row, int) or not isinstance(column, str):
        raise ArgumentError("a value is asked for by row and column", "a number and a name")
    return sheet.value(row, column, message.get("failures") is True)


def _sheet(session: Any, message: Mapping[str, Any]) -> Sheet:
    split, beside = message.get("split"), message.get("beside") or {}
    if split is not None and split not in SPLITS:
        raise SplitError(f"there is no split {split!r}", nearest(str(split), SPLITS))
    if not isinstance(beside, Mapping):
        raise ArgumentError("what stands beside it is no result of the session", "run its cell again")
    handle = _handle(session, message.get("use")) if split else None
    rule = None if handle is None else (session.names.read(handle.name) or {}).get("splits")
    key = (str(session.folder), message.get("use"), split, json.dumps([rule, dict(beside)], sort_keys=True))
    with _lock:
        if key not in _sheets:
            with context.using(session):
                rows = _handle(session, message.get("use")) if handle is None else getattr(handle, str(split))
            other = _handle(session, beside["use"]) if beside.get("use") else None
            _sheets[key] = sheet_of(rows.output.browse(other, columns=beside.get("columns")))
        _sheets.move_to_end(key)
        while len(_sheets) > MOST_SHEETS:
            _sheets.popitem(last=False)
        return _sheets[key]


def _handle(session: Any, use: Any) -> Any:
    from nbdream.steps.saved import SavedStep

    if not isinstance(use, str) or not _USE.fullmatch(use):
        raise ArgumentError("what is shown is no result of the session", "run its cell again")
    for path in Path(session.folder).glob(f"objects/*/uses/{use}.json"):
        return SavedStep(session, path.parent.parent.name, use)
    raise ArgumentError("the session does not hold this result any more", "run its cell again")


# --- what is looked at ----------------------------------------------------------------------------------------------------


def sheet_of(browse: Browse) -> Sheet:
    """The pages of rows that are looked at: alone, two of their columns, or beside those of another result."""
    rows, other, columns = browse.rows, browse.other, browse.columns
    if other is not None:
        return Sheet(_versions(rows, other, columns))
    if columns is not None:
        first, second = columns
        return Sheet([_field(rows, first, first, second), _field(rows, second, second, first)])
    return Sheet.of(rows, rows.step.failures if use_of(rows) else None)


def use_of(rows: OutputDataset) -> str:
    """The place in the graph of rows that are all that a step made; empty for others, which a message cannot name."""
    return str(rows.step.use_id) if getattr(rows.step, "output", None) is rows else ""


def _versions(rows: OutputDataset, other: OutputDataset, columns: tuple[str, ...] | None) -> list[Field]:
    """The columns that both have: once where their contents are the same, else side by side."""
    here, there = (str(getattr(part.step, "name", "")) for part in (rows, other))
    if here == there:
        here, there = _which(rows, other)
    fields = []
    for name in columns or [name for name in rows.column_names if name in other.column_names]:
        if rows.num_rows == other.num_rows and rows.digest(name) == other.digest(name):
            fields.append(_field(rows, name, name, ""))
        else:
            sides = f"{name} ({here})", f"{name} ({there})"
            fields += [_field(rows, name, *sides), _field(other, name, *reversed(sides))]
    return fields


def _which(rows: OutputDataset, other: OutputDataset) -> tuple[str, str]:
    """What two results of one name are called: by which the name pointed at later, where it knows both."""
    names: Any = getattr(getattr(rows.step, "runner", None), "names", None)
    pointer = (names.read(rows.step.name) if names is not None else None) or {"history": []}
    order = {str(entry["use"]): at for at, entry in enumerate(pointer["history"])}
    places = [order.get(use_of(part)) for part in (rows, other)]
    if None in places or places[0] == places[1]:
        return "this", "other"
    return ("before", "now") if places[0] < places[1] else ("now", "before")  # type: ignore[operator]


def _field(rows: OutputDataset, column: str, name: str, beside: str) -> Field:
    return Field(name, rows.column(column), rows.num_rows, beside)
