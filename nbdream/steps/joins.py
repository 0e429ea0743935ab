"""Steps that store every column themselves: several inputs as one, and a copy that stands alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError, ColumnError, nearest
from nbdream.steps.base import Step
from nbdream.steps.returns import LazyRowBatches

if TYPE_CHECKING:
    import pyarrow as pa

    from nbdream.datasets import OutputDataset, OutputDatasetColumn


class _Storing(Step):
    """Takes any number of inputs, and makes columns of their names."""

    def setup(self) -> None:
        """The inputs and columns are known once they are given."""
        self.register_arg("**kwargs")

    def reads_datasets(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._inputs_declared)

    def _bind_inputs(self, given: dict[str, Any]) -> dict[str, OutputDataset | OutputDatasetColumn]:
        for name in given:
            self.register_input(name)
        bound = super()._bind_inputs(given)
        for column in self.columns(list(bound.values())):  # type: ignore[arg-type]
            self.register_output(column)
        return bound

    @property
    def parts(self) -> list[OutputDataset]:
        """The inputs, in order."""
        return list(self.inputs.values())  # type: ignore[arg-type]

    def columns(self, parts: list[OutputDataset]) -> list[str]:
        """The names of the columns made of ``parts``; an error when the parts do not fit."""
        return parts[0].column_names

    def tables(self) -> Iterator[pa.Table]:
        """The rows."""
        raise NotImplementedError

    def run(self) -> LazyRowBatches:
        """The rows, batch by batch."""
        return LazyRowBatches(self.tables, total_num_rows=max(part.num_rows for part in self.parts), auto_progress=False)


class ConcatStep(_Storing):
    """The rows of each input, one after the other."""

    def columns(self, parts: list[OutputDataset]) -> list[str]:
        """The columns that all inputs have."""
        names = parts[0].column_names
        for part in parts[1:]:
            wrong = sorted(set(names) ^ set(part.column_names))
            if wrong:
                raise ColumnError(
                    f"{part.step.name!r} has other columns than {parts[0].step.name!r}: {', '.join(wrong)}",
                    "rename or select_columns first",
                )
        return names

    def tables(self) -> Iterator[pa.Table]:
        """Part after part."""
        names = self.parts[0].column_names
        for part in self.parts:
            yield from part.iter_batches(names)


class ZippedStep(_Storing):
    """The columns of each input, side by side."""

    def columns(self, parts: list[OutputDataset]) -> list[str]:
        """All columns."""
        if len({part.num_rows for part in parts}) > 1:
            said = ", ".join(f"{part.step.name!r} {part.num_rows:,}" for part in parts)
            raise ArgumentError(f"the numbers of rows differ: {said}", "take or select rows first")
        names = [name for part in parts for name in part.column_names]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ColumnError(f"several inputs have a column {twice[0]!r}", "rename_column it in one of them")
        return names

    def tables(self) -> Iterator[pa.Table]:
        """Slices of all parts together."""
        import pyarrow as pa

        for tables in zip(*(part.iter_batches() for part in self.parts), strict=True):
            yield pa.table({name: table.column(name) for table in tables for name in table.column_names})


class SaveStep(_Storing):
    """The rows, stored by this step itself."""

    def tables(self) -> Iterator[pa.Table]:
        """As they are."""
        return self.parts[0].iter_batches()


class AddItemStep(_Storing):
    """The rows and one more."""

    def columns(self, parts: list[OutputDataset]) -> list[str]:
        """Those of the input."""
        return parts[0].column_names

    def validate(self) -> None:
        """The item has a value for each column, and no other."""
        names = self.parts[0].column_names
        for name in self.args["item"]:
            if name not in names:
                raise ColumnError(f"there is no column {name!r}", nearest(str(name), names, "the columns are"))
        missing = [name for name in names if name not in self.args["item"]]
        if missing:
            raise ColumnError(f"the item has no {missing[0]!r}", "give a value for each column: None for none")

    def run(self) -> LazyRowBatches:
        """The rows and the item, whose values must have the columns' types."""
        return LazyRowBatches(self._batches, total_num_rows=self.parts[0].num_rows + 1)

    def _batches(self) -> Iterator[Any]:
        yield from self.parts[0].iter_batches()
        yield [dict(self.args["item"])]
