"""The same reply in two splits: rows are followed to the steps that asked a model, and compared there.

A reply is known by its call and its draw. Two rows show the same one if they come from the same row of the same result; if
one result took over draws of the other (its node counts them) and the values are the same; or if it was asked greedily, when
what is the same all over was the same call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nbdream.hub.scan import Finding
from nbdream.objects import ROW, ResultFolder, StoredTable

OVERLAP = "overlap"


@dataclass(frozen=True)
class Origin:
    """Where the rows of a split were asked for: the result, and for each of them the row there."""

    name: str
    key: str
    folder: ResultFolder
    node: Mapping[str, Any]
    places: list[int]
    """Rows of the split."""
    rows: pa.Array
    """For each of them, the row of the result."""

    @property
    def draws(self) -> set[str]:
        """The names whose draws it shows, its own among them."""
        return {self.name, *(self.node.get("draws") or {})}

    @property
    def is_greedy(self) -> bool:
        """Whether the model was asked for the one likeliest reply."""
        args = (self.node.get("recipe") or {}).get("args") or {}
        return args.get("temperature") == 0

    def values(self) -> dict[str, int]:
        """Each of the rows by what the step made there, with the first row of the split that has it."""
        columns = [name for name in self.node["columns"] if name != ROW]
        table = StoredTable(self.folder.data, self.node["columns"], self.node["rows"]).table.select(columns).take(self.rows)
        found: dict[str, int] = {}
        for place, value in zip(self.places, table.to_pylist(), strict=True):
            found.setdefault(repr(value), place)
        return found


def overlaps(splits: Mapping[str, Any]) -> list[Finding]:
    """For each two splits that show the same reply, where they first do."""
    if len(splits) < 2:
        return []
    traced = {name: list(_origins(part)) for name, part in splits.items()}
    names = list(traced)
    pairs = ((one, other) for number, one in enumerate(names) for other in names[number + 1 :])
    return [finding for one, other in pairs if (finding := _shared(one, other, splits, traced)) is not None]


def _shared(one: str, other: str, splits: Mapping[str, Any], traced: Mapping[str, list[Origin]]) -> Finding | None:
    for a in traced[one]:
        for b in traced[other]:
            found = _same(a, b) if a.key == b.key else _taken_over(a, b) if a.draws & b.draws else {}
            if not found and a.key == b.key and a.is_greedy:
                found = _alike(splits[one], splits[other])
            if found:
                row, there = next(iter(found.items()))
                return Finding(
                    OVERLAP, f"the same reply of {a.name!r} as row {there} of {other!r}", f"row {row} of {one!r}", len(found) - 1
                )
    return None


def _same(a: Origin, b: Origin) -> dict[int, int]:
    if not pc.any(pc.is_in(a.rows, value_set=b.rows)).as_py():
        return {}
    there = dict(zip(reversed(b.rows.to_pylist()), reversed(b.places), strict=True))
    return {place: there[row] for place, row in zip(a.places, a.rows.to_pylist(), strict=True) if row in there}


def _taken_over(a: Origin, b: Origin) -> dict[int, int]:
    there = b.values()
    return {row: there[value] for value, row in a.values().items() if value in there}


def _alike(one: Any, other: Any) -> dict[int, int]:
    there = {repr(row): place for place, row in reversed(list(enumerate(_rows(other))))}
    return {place: there[value] for place, row in enumerate(_rows(one)) if (value := repr(row)) in there}


def _rows(part: Any) -> list[dict[str, Any]]:
    table: pa.Table = (part.output if hasattr(part, "output") else part).table()
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _origins(part: Any) -> Iterator[Origin]:
    handle = part if hasattr(part, "runner") else part.step
    folder = getattr(handle.runner, "folder", None)
    if folder is None or not hasattr(handle, "use_id"):
        return
    objects = Path(folder) / "objects"
    count = (ResultFolder(objects / handle.key).node() or {"rows": 0})["rows"]
    waiting = [(handle.key, handle.use_id, list(range(count)), pa.array(range(count), pa.int64()))]
    while waiting:
        key, use, places, rows = waiting.pop()
        result = ResultFolder(objects / key)
        place, node = result.use(use), result.node()
        if node is None:
            continue
        if node.get("draws") or (node["kind"] == "step" and node["models"]):
            yield Origin(str(node["name"]), key, result, node, places, rows)
        if place.get("type") == "ConcatStep":
            waiting += _parts(objects, place, places, rows)
            continue
        above = place["inputs"].get(place["carries"] or "")
        if above is None:
            continue
        if ROW in node["columns"] and not node["every_row"]:
            rows = StoredTable(result.data, node["columns"], node["rows"]).table.column(ROW).take(rows).combine_chunks()
        waiting.append((above["recipe"], above["use"], places, rows))


def _parts(objects: Path, place: Mapping[str, Any], places: list[int], rows: pa.Array) -> Iterator[tuple[str, str, list[int], pa.Array]]:
    """The inputs of a result that has them one after the other, each with the rows that are of it."""
    before = 0
    for above in place["inputs"].values():
        count = (ResultFolder(objects / above["recipe"]).node() or {"rows": 0})["rows"]
        within = pc.and_(pc.greater_equal(rows, before), pc.less(rows, before + count))
        chosen = pc.indices_nonzero(within).to_pylist()
        yield above["recipe"], above["use"], [places[number] for number in chosen], pc.subtract(rows.filter(within), before)
        before += count
