"""Steps that choose rows or columns of one input. They store row indices at most; every column stays a view."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError, ColumnError, DataError, nearest
from nbdream.fingerprint import digest
from nbdream.steps.base import Step
from nbdream.steps.rows import Selection

if TYPE_CHECKING:
    from nbdream.datasets import OutputDataset

SEED = 42
"""What a shuffle is seeded with when its user gives no seed."""
LONG = 100
"""A longer list of indices stands in the recipe as its digest."""


class View(Step):
    """A step on one input whose columns all pass through, and that by itself depends on no column."""

    carries = "rows"

    def setup(self) -> None:
        """One input, any arguments: the functions in `operations` give them."""
        self.register_input("rows")
        self.register_arg("**kwargs")

    @property
    def rows(self) -> OutputDataset:
        """The input."""
        return self.inputs["rows"]  # type: ignore[return-value]

    def reads(self) -> dict[str, list[str]]:
        """No column: which rows are chosen depends on their number only."""
        return {"rows": []}


class CopyStep(View):
    """The same rows."""

    def run(self) -> None:
        """Nothing of its own."""


class SelectStep(View):
    """Rows by their indices."""

    def validate(self) -> None:
        """Every index is of a row."""
        rows = self.rows.num_rows
        for index in self.args["indices"]:
            if not isinstance(index, int) or not -rows <= index < rows:
                raise ArgumentError(
                    f"there is no row {index!r}", f"the {rows:,} rows are 0 to {rows - 1:,}" if rows else "there are no rows"
                )

    def recipe_args(self) -> dict[str, Any]:
        """The indices, or their number and digest when there are many."""
        indices = self.args["indices"]
        return {"indices": indices if len(indices) <= LONG else {"count": len(indices), "digest": digest(indices)}}

    def run(self) -> Selection:
        """The rows, in the order of the indices."""
        rows = self.rows.num_rows
        return Selection([index % rows for index in self.args["indices"]])


class TakeStep(View):
    """The first ``n`` rows."""

    def run(self) -> Selection:
        """At most ``n`` rows."""
        return Selection(range(min(self.args["n"], self.rows.num_rows)))


class SkipStep(View):
    """All rows but the first ``n``."""

    def run(self) -> Selection:
        """What is left, possibly nothing."""
        return Selection(range(min(self.args["n"], self.rows.num_rows), self.rows.num_rows))


class ShuffleStep(View):
    """The rows in an order that a seed decides."""

    def run(self) -> Selection:
        """Every row once."""
        return Selection(shuffled(range(self.rows.num_rows), self.args["seed"]))


class ReverseStep(View):
    """The rows from the last to the first."""

    def run(self) -> Selection:
        """Every row once."""
        return Selection(range(self.rows.num_rows - 1, -1, -1))


class ShardStep(View):
    """One of several parts of nearly the same size."""

    def validate(self) -> None:
        """The index is of a shard."""
        shards, index = self.args["num_shards"], self.args["index"]
        if not 0 <= index < shards:
            raise ArgumentError(f"there is no shard {index} of {shards}", f"index= 0 to {shards - 1}")

    def run(self) -> Selection:
        """Every ``num_shards``-th row, or a block of them."""
        rows, shards, index = self.rows.num_rows, self.args["num_shards"], self.args["index"]
        if not self.args["contiguous"]:
            return Selection(range(index, rows, shards))
        size, more = divmod(rows, shards)
        start = size * index + min(index, more)
        return Selection(range(start, start + size + (index < more)))


class SortStep(View):
    """The rows sorted by columns; rows that are equal in them keep their order."""

    def validate(self) -> None:
        """The columns are there, and each has a direction."""
        columns, reverse = self.args["column_names"], self.args["reverse"]
        check_columns(self.rows, columns)
        if isinstance(reverse, list) and len(reverse) != len(columns):
            raise ArgumentError(f"{len(reverse)} values of reverse= for {len(columns)} columns", "give one for all, or one a column")
        if self.args["null_placement"] not in ("at_end", "at_start"):
            raise ArgumentError(f"null_placement={self.args['null_placement']!r}", "it is 'at_end' or 'at_start'")

    def reads(self) -> dict[str, list[str]]:
        """The columns sorted by."""
        return {"rows": self.args["column_names"]}

    def run(self) -> Selection:
        """Every row once."""
        import pyarrow as pa
        import pyarrow.compute as pc

        columns, reverse = self.args["column_names"], self.args["reverse"]
        directions = reverse if isinstance(reverse, list) else [reverse] * len(columns)
        keys = [(name, "descending" if down else "ascending") for name, down in zip(columns, directions, strict=True)]
        # What is the default is not said: pyarrow is about to have it said by key, which its older versions do not know.
        nulls = {} if self.args["null_placement"] == "at_end" else {"null_placement": self.args["null_placement"]}
        try:
            order = pc.sort_indices(self.rows.table(columns), sort_keys=keys, **nulls)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            raise DataError(f"rows cannot be sorted by {', '.join(columns)}", "sort by columns of text, numbers or dates") from None
        return Selection(order.cast(pa.int64()))


class SplitStep(View):
    """One part of the rows, which were shuffled by a seed before they were cut."""

    def reads(self) -> dict[str, list[str]]:
        """The column that is stratified by, if one is."""
        column = self.args["stratify_by_column"]
        return {"rows": [column] if column else []}

    def run(self) -> Selection:
        """The part's rows, in random order."""
        order = shuffled(range(self.rows.num_rows), self.args["seed"])
        column = self.args["stratify_by_column"]
        if column:
            order = _interleaved(order, self.rows[column])
        start = 0
        for name, count in self.args["sizes"].items():
            if name == self.args["split"]:
                part = order[start : start + count]
                return Selection(shuffled(part, self.args["seed"]) if column else part)
            start += count
        raise AssertionError(self.args["split"])


class SelectColumnsStep(View):
    """Some columns."""

    def validate(self) -> None:
        """The columns are there."""
        check_columns(self.rows, self.args["column_names"])

    def view(self) -> dict[str, str]:
        """The columns, in the order given."""
        return {name: name for name in self.args["column_names"]}

    def run(self) -> None:
        """Nothing of its own."""


class RemoveColumnsStep(View):
    """All columns but some."""

    def validate(self) -> None:
        """The columns are there."""
        check_columns(self.rows, self.args["column_names"])

    def view(self) -> dict[str, str]:
        """What is left."""
        return {name: name for name in self.rows.column_names if name not in self.args["column_names"]}

    def run(self) -> None:
        """Nothing of its own."""


class RenameColumnsStep(View):
    """The columns, some under new names."""

    def validate(self) -> None:
        """The columns are there, and no two end up with one name."""
        mapping = self.args["column_mapping"]
        check_columns(self.rows, list(mapping))
        shown = [mapping.get(name, name) for name in self.rows.column_names]
        twice = sorted({name for name in shown if shown.count(name) > 1})
        if twice:
            raise ArgumentError(f"two columns would be called {twice[0]!r}", "rename or remove the other one first")

    def view(self) -> dict[str, str]:
        """New names for old ones."""
        return {self.args["column_mapping"].get(name, name): name for name in self.rows.column_names}

    def run(self) -> None:
        """Nothing of its own."""


class RenameColumnStep(RenameColumnsStep):
    """The columns, one under a new name."""


def check_columns(rows: OutputDataset, names: Sequence[str]) -> None:
    """Raise `ColumnError` for a name that is none of the columns of ``rows``."""
    for name in names:
        if name not in rows.column_names:
            raise ColumnError(f"there is no column {name!r}", nearest(str(name), rows.column_names, "the columns are"))


def shuffled(items: Sequence[int], seed: int) -> list[int]:
    """``items`` in an order that depends on ``seed`` and their number only, on every version of Python."""
    draw = random.Random(seed).random  # the one method whose sequence Python promises to keep
    keys = [draw() for _ in items]
    return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


def _interleaved(order: list[int], column: Any) -> list[int]:
    """``order`` with each value of ``column`` spread evenly over it: any cut then has nearly its share of each value."""
    values = list(column)
    try:
        groups: dict[Any, list[int]] = {}
        for row in order:
            groups.setdefault(values[row], []).append(row)
    except TypeError:
        raise DataError("rows cannot be stratified by a column of lists or dicts", "name a column of labels") from None
    placed = [((place + 0.5) / len(rows), number, row) for number, rows in enumerate(groups.values()) for place, row in enumerate(rows)]
    return [row for _, _, row in sorted(placed)]
