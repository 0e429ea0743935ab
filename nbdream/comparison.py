"""Two results side by side: what made them differ, in words, and which of their rows do."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nbdream.datasets import OutputDataset
from nbdream.difference import difference
from nbdream.escape import visible
from nbdream.workflows import Begin, began

EXAMPLES = 10
"""Values that are shown."""


@dataclass(frozen=True)
class Comparison:
    """What is different in ``after``."""

    recipe: list[str]
    """The differences of the recipes, a sentence each."""
    rows: tuple[int, int]
    only: tuple[int, int]
    """Rows that only one of the two has."""
    added: list[str]
    removed: list[str]
    """Columns that only one of the two has."""
    changed: dict[str, int]
    """In how many of the rows that both have a column's value differs."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """The first of these: ``row`` (of the later), ``column``, ``before``, ``after``."""
    began: list[Begin] = field(default_factory=list)
    """The steps before it at which the differences began."""

    @property
    def same(self) -> bool:
        """Whether the rows are the same."""
        return not (any(self.only) or self.added or self.removed or any(self.changed.values()))

    def lines(self) -> list[str]:
        """The comparison in words."""
        told = [*(self.recipe or ["the recipes are the same"]), *(f"it began at {begin}" for begin in self.began)]
        if self.same:
            return [*told, f"the rows are the same ({self.rows[1]:,})"]
        told += [f"column {name!r} is {word}" for names, word in ((self.added, "new"), (self.removed, "gone")) for name in names]
        told += [
            f"{count:,} of {self.rows[side]:,} rows {word}"
            for side, word, count in ((0, "are gone", self.only[0]), (1, "are new", self.only[1]))
            if count
        ]
        both = self.rows[1] - self.only[1]
        told += [f"{name}: {count:,} of {both:,} values differ" for name, count in self.changed.items() if count]
        return told

    def __str__(self) -> str:
        rows = [f"row {found['row']:,} {found['column']}: {found['before']!r} → {found['after']!r}" for found in self.examples]
        return "\n".join([*self.lines(), *map(visible, rows)])


def compare(before: Any, after: Any) -> Comparison:
    """Compare two results (handles with ``node`` and ``output``).

    Rows belong together by what the columns hold that both took from their inputs, each as often as it is there; where they took
    none, by their place. Of a trained model the rows are its curve.
    """
    old, new = before.output, after.output
    shared = [name for name in new.column_names if name in old.column_names]
    keys = [name for name in shared if name not in made(before) and name not in made(after)]
    pairs = list(_by_content(old, new, keys) if keys else zip(range(old.num_rows), range(new.num_rows), strict=False))
    left, right = (pa.array([pair[side] for pair in pairs], pa.int64()) for side in (0, 1))
    changed, examples = {}, []
    for name in shared:
        if name in keys:
            continue
        was, now = old.table([name]).column(0).take(left), new.table([name]).column(0).take(right)
        different = _different(was, now)
        changed[name] = len(different)
        examples += [
            {"row": pairs[at][1], "column": name, "before": was[at].as_py(), "after": now[at].as_py()} for at in different[:EXAMPLES]
        ]
    return Comparison(
        recipe=difference(before.node["recipe"], after.node["recipe"]),
        rows=(old.num_rows, new.num_rows),
        only=(old.num_rows - len(pairs), new.num_rows - len(pairs)),
        added=[name for name in new.column_names if name not in shared],
        removed=[name for name in old.column_names if name not in shared],
        changed=changed,
        examples=sorted(examples, key=lambda example: example["row"])[:EXAMPLES],
        began=[begin for begin in began(before.runner.graph(before), after.runner.graph(after)) if begin.name != after.name],
    )


def made(handle: Any) -> set[str]:
    """The columns that a step made itself, as they are shown."""
    shown: Mapping[str, str] = handle.folder.use(handle.use_id)["outputs"]
    return {shown.get(name, name) for name in handle.node["columns"]}


def _by_content(old: OutputDataset, new: OutputDataset, keys: Sequence[str]) -> Iterator[tuple[int, int]]:
    places: dict[Any, list[int]] = defaultdict(list)
    for at, key in enumerate(_keys(old, keys)):
        places[key].append(at)
    for taken in places.values():
        taken.reverse()
    for at, key in enumerate(_keys(new, keys)):
        if found := places.get(key):
            yield found.pop(), at


def _keys(rows: OutputDataset, names: Sequence[str]) -> Iterator[Any]:
    for batch in rows.iter_batches(names, 10_000):
        yield from (json.dumps(row, sort_keys=True, default=str) for row in batch.to_pylist())


def _different(was: pa.ChunkedArray, now: pa.ChunkedArray) -> list[int]:
    """Where two columns of the same length differ."""
    if was.type == now.type and not pa.types.is_nested(was.type) and not pa.types.is_null(was.type):
        unequal = pc.fill_null(pc.not_equal(was, now), False)
        if pa.types.is_floating(was.type):  # what is no number is itself
            unequal = pc.and_not(unequal, pc.fill_null(pc.and_(pc.is_nan(was), pc.is_nan(now)), False))
        one_null = pc.xor(pc.is_null(was), pc.is_null(now))
        return list(pc.indices_nonzero(pc.or_(unequal, one_null)).to_pylist())
    return [at for at, (first, second) in enumerate(zip(was.to_pylist(), now.to_pylist(), strict=True)) if first != second]
