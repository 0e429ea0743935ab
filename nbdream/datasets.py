"""Handles on rows: what a step's ``output`` is, and one column of it.

A handle's columns are either stored (its step made them) or views on a column of an input, possibly with rows
selected; a view always shows the input's current content. Nothing is copied until values are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

import pyarrow as pa

from nbdream.arrays import int64s
from nbdream.browsing import Browse
from nbdream.errors import ColumnError, nearest
from nbdream.fingerprint import digest as digest_of
from nbdream.objects import StoredTable, column_digest
from nbdream.optional import require

if TYPE_CHECKING:
    import datasets
    import pandas
    import polars


class Column(Protocol):
    """Where the values of one column come from."""

    @property
    def type(self) -> pa.DataType:
        """The Arrow type, known without reading values."""

    def array(self) -> pa.ChunkedArray:
        """The values."""

    def values(self, rows: Sequence[int | None]) -> list[Any]:
        """The values of a few rows, by their numbers."""

    def computed(self, function: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> pa.ChunkedArray:
        """What ``function``, which looks at each value alone, makes of the values."""

    def digest(self) -> str:
        """The digest of the values in row order."""


class StoredColumn:
    """A column that a step made, in its result's folder."""

    def __init__(self, table: StoredTable, name: str, digest: str) -> None:
        self._table, self._name, self._digest = table, name, digest

    @property
    def type(self) -> pa.DataType:
        """The Arrow type."""
        return self._table.table.schema.field(self._name).type

    def values(self, rows: Sequence[int | None]) -> list[Any]:
        """The values of a few rows: nothing else is read."""
        values = self.array()
        return [None if row is None else values[row].as_py() for row in rows]

    def computed(self, function: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> pa.ChunkedArray:
        """What ``function`` makes of the values."""
        return function(self.array())

    def array(self) -> pa.ChunkedArray:
        """The values, memory-mapped."""
        return self._table.table.column(self._name)

    def digest(self) -> str:
        """The digest that was computed while the column was written."""
        return self._digest


class ViewColumn:
    """A column of an input, with the rows that a step selected."""

    def __init__(self, source: Column, rows: Callable[[], pa.Array | pa.ChunkedArray] | None) -> None:
        self._source, self._rows = source, rows
        self._digest: str | None = None

    @property
    def type(self) -> pa.DataType:
        """The Arrow type."""
        return self._source.type

    def values(self, rows: Sequence[int | None]) -> list[Any]:
        """The values of a few rows: the others are not taken from the input."""
        if self._rows is None:
            return self._source.values(rows)
        selected = self._rows()
        return self._source.values([None if row is None else selected[row].as_py() for row in rows])

    def computed(self, function: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> pa.ChunkedArray:
        """What ``function`` makes of the input's values, of the selected rows: long texts stay where they are."""
        found = self._source.computed(function)
        return found if self._rows is None else found.take(self._rows())

    def array(self) -> pa.ChunkedArray:
        """The values of the selected rows."""
        values = self._source.array()
        return values if self._rows is None else values.take(self._rows())

    def digest(self) -> str:
        """The digest of the selected rows."""
        if self._digest is None:
            self._digest = self._source.digest() if self._rows is None else column_digest(self.array())
        return self._digest


class OutputDataset:
    """The rows of a step. ``ds[0]`` is a dict, ``ds[:5]`` a list of dicts, ``ds["col"]`` a column."""

    def __init__(self, step: Any, columns: dict[str, Column], num_rows: int) -> None:
        self.step = step
        self._columns = columns
        self._num_rows = num_rows

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, in order."""
        return list(self._columns)

    @property
    def num_columns(self) -> int:
        """How many columns there are."""
        return len(self._columns)

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return self._num_rows

    def __len__(self) -> int:
        return self._num_rows

    @property
    def schema(self) -> pa.Schema:
        """The Arrow type of each column."""
        return self.table().schema

    @property
    def fingerprint(self) -> str:
        """The digest of names and contents of all columns."""
        return digest_of(self.__nbdream_fingerprint__)

    @property
    def __nbdream_fingerprint__(self) -> dict[str, str]:
        """What code that reads these rows depends on: their content."""
        return {name: column.digest() for name, column in self._columns.items()}

    def column(self, name: str) -> Column:
        """Where the values of ``name`` come from; `ColumnError` when there is no such column."""
        try:
            return self._columns[name]
        except KeyError:
            hint = nearest(name, self._columns, "the columns are")
            raise ColumnError(f"there is no column {name!r}", hint) from None

    def digest(self, column: str) -> str:
        """The content digest of one column, in row order."""
        return self.column(column).digest()

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows as an Arrow table, of all columns or of some."""
        names = self.column_names if columns is None else list(columns)
        return pa.table({name: self.column(name).array() for name in names})

    def iter_batches(self, columns: Sequence[str] | None = None, size: int = 1000) -> Iterator[pa.Table]:
        """Slices of at most ``size`` rows, in order."""
        table = self.table(columns)
        for start in range(0, self._num_rows, size):
            yield table.slice(start, size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.iter_batches():
            yield from batch.to_pylist()

    @overload
    def __getitem__(self, key: str) -> OutputDatasetColumn: ...
    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, key: slice | Iterable[int]) -> list[dict[str, Any]]: ...
    def __getitem__(self, key: str | int | slice | Iterable[int]) -> Any:
        if isinstance(key, str):
            self.column(key)
            return OutputDatasetColumn(self, key)
        return _rows(self.table(), key)

    def head(self, n: int = 5, shuffle: bool = False, seed: int | None = None, buffer_size: int = 1000) -> pandas.DataFrame:
        """The first ``n`` rows as a pandas frame; a sample of the first ``buffer_size`` with ``shuffle``."""
        table = self.table()
        if shuffle:
            import random

            window = list(range(min(buffer_size, self._num_rows)))
            random.Random(seed).shuffle(window)
            table = table.take(window[:n])
        frame: pandas.DataFrame = table.slice(0, n).to_pandas()
        return frame

    @property
    def dataset(self) -> datasets.Dataset:
        """The rows as a Hugging Face ``Dataset`` over the same memory."""
        return require("datasets", "hub").Dataset(self.table().combine_chunks())

    @property
    def info(self) -> Any:
        """The ``DatasetInfo`` of `dataset`."""
        return self.dataset.info

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a pandas frame that remembers in ``attrs`` which step they come from."""
        require("pandas", "all")
        frame: pandas.DataFrame = self.table().to_pandas()
        frame.attrs["nbdream"] = {"name": self.step.name, "recipe": self.step.fingerprint}
        return frame

    def to_polars(self) -> polars.DataFrame:
        """The rows as a polars frame."""
        frame: polars.DataFrame = require("polars", "all").from_arrow(self.table())
        return frame

    def browse(self, other: Any = None, *, columns: Sequence[str] | None = None) -> Browse:
        """A live table of the rows, in a notebook; two columns, or the same columns of another result, side by side with what differs."""
        return Browse(self, other, columns)

    def save_to_disk(self, path: str | Path) -> None:
        """Write the rows as Hugging Face ``datasets`` does."""
        self.dataset.save_to_disk(str(path))

    def __repr__(self) -> str:
        return f"OutputDataset({self._num_rows:,} rows: {', '.join(self._columns)})"


class OutputDatasetColumn:
    """One column of a step's rows; iterating and indexing give bare values."""

    def __init__(self, dataset: OutputDataset, name: str) -> None:
        self.owner = dataset
        self.name = name
        self.step = dataset.step

    @property
    def column_names(self) -> list[str]:
        """The one name."""
        return [self.name]

    num_columns = 1

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return self.owner.num_rows

    def __len__(self) -> int:
        return self.owner.num_rows

    def array(self) -> pa.ChunkedArray:
        """The values as an Arrow array."""
        return self.owner.column(self.name).array()

    def digest(self) -> str:
        """The content digest of the values in row order."""
        return self.owner.digest(self.name)

    @property
    def fingerprint(self) -> str:
        """The content digest of the values in row order."""
        return self.digest()

    __nbdream_fingerprint__ = fingerprint

    def table(self) -> pa.Table:
        """The column as an Arrow table."""
        return self.owner.table([self.name])

    def __iter__(self) -> Iterator[Any]:
        for batch in self.owner.iter_batches([self.name]):
            yield from batch.column(0).to_pylist()

    def __getitem__(self, key: int | slice | str | Iterable[int]) -> Any:
        if isinstance(key, str):
            if key != self.name:
                raise ColumnError(f"there is no column {key!r}", f"this handle is the column {self.name!r}")
            return self
        rows = _rows(self.table(), key)
        return rows[self.name] if isinstance(rows, dict) else [row[self.name] for row in rows]

    def head(self, n: int = 5, shuffle: bool = False, seed: int | None = None, buffer_size: int = 1000) -> pandas.DataFrame:
        """The first ``n`` values as a pandas frame."""
        return OutputDataset(self.step, {self.name: self.owner.column(self.name)}, self.num_rows).head(n, shuffle, seed, buffer_size)

    @property
    def dataset(self) -> datasets.Dataset:
        """The column as a Hugging Face ``Dataset``."""
        return require("datasets", "hub").Dataset(self.table().combine_chunks())

    def __repr__(self) -> str:
        return f"OutputDatasetColumn({self.name!r}, {self.num_rows:,} rows)"


def _rows(table: pa.Table, key: int | slice | Iterable[int]) -> dict[str, Any] | list[dict[str, Any]]:
    if isinstance(key, int):
        number = key + table.num_rows if key < 0 else key
        if not 0 <= number < table.num_rows:
            raise IndexError(f"row {key} of {table.num_rows}")
        row: dict[str, Any] = table.slice(number, 1).to_pylist()[0]
        return row
    wanted = list(range(table.num_rows))[key] if isinstance(key, slice) else list(key)
    rows: list[dict[str, Any]] = table.take(int64s(wanted)).to_pylist()
    return rows
