"""One result on disk: the folder ``objects/<recipe>/`` with its node, its columns and its places in the graph.

node.json             how the work went; written last, so its existence means that the result is whole
data/NNNNN.arrow      the columns that the step made (Arrow IPC streams), and ``__row__`` when rows were selected
failures/NNNNN.arrow  the rows that failed: ``row error said``
uses/<use>.json       each place in a graph that this result has: name, inputs, shown column names
step.lock             held by the kernel that is making it
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from nbdream.arrays import array
from nbdream.columns import ColumnDigest
from nbdream.errors import ArgumentError, BrokenFileError, SessionError, StepOutputError, StepOutputTypeError
from nbdream.files import Lock, disk_errors, read_object, write_json

FORMAT = 1
ROW = "__row__"
"""The column that holds, for each row of a result, the index of the row of the input that it comes from."""


def check_column(name: str) -> None:
    """Raise `ArgumentError` for what a column cannot be called."""
    if not isinstance(name, str) or not name.strip() or name == ROW:
        raise ArgumentError(f"a column cannot be called {name!r}", "give it another name")


class ResultFolder:
    """The paths of one result; every file name of it is given here and nowhere else."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def key(self) -> str:
        """The name of the folder: the recipe, with ``-2``, ``-3`` … for a further attempt."""
        return self.path.name

    @property
    def node_path(self) -> Path:
        """The node: written last."""
        return self.path / "node.json"

    @property
    def data(self) -> Path:
        """The folder of the columns."""
        return self.path / "data"

    @property
    def failures(self) -> Path:
        """The folder of the failed rows."""
        return self.path / "failures"

    @property
    def progress_path(self) -> Path:
        """How far the kernel is that makes the result."""
        return self.path / "progress.json"

    def use_path(self, use: str) -> Path:
        """The file of one place in a graph."""
        return self.path / "uses" / f"{use}.json"

    def lock(self) -> Lock:
        """The lock that the kernel holds which makes this result."""
        return Lock(self.path / "step.lock")

    def node(self) -> dict[str, Any] | None:
        """The node, or None when the result is not there or not whole."""
        try:
            node = read_object(self.node_path)
        except FileNotFoundError:
            return None
        if not isinstance(node.get("columns"), dict) or not isinstance(node.get("rows"), int):
            raise BrokenFileError(self.node_path, "it is not a node")
        return node

    def use(self, use: str) -> dict[str, Any]:
        """One place of this result in a graph; `SessionError` when it is not there."""
        try:
            return read_object(self.use_path(use))
        except FileNotFoundError:
            raise SessionError(f"the result {self.key[:12]} is not in the session", "run its cell again") from None

    def record_use(self, use: str, value: Mapping[str, Any]) -> None:
        """Write a place in the graph, once."""
        if not self.use_path(use).exists():
            write_json(self.use_path(use), dict(value))

    def clear(self) -> None:
        """Remove what a killed run left behind, but not the places in the graph."""
        with disk_errors(self.path):
            shutil.rmtree(self.data, ignore_errors=True)
            shutil.rmtree(self.failures, ignore_errors=True)
            self.progress_path.unlink(missing_ok=True)
            self.path.mkdir(parents=True, exist_ok=True)


class StoredTable:
    """The columns in a folder of Arrow streams, memory-mapped when they are first asked for."""

    def __init__(self, folder: Path, columns: Iterable[str] = (), rows: int | None = None) -> None:
        self.folder = folder
        self._columns, self._rows = set(columns), rows

    @functools.cached_property
    def table(self) -> pa.Table:
        """All columns; `BrokenFileError` when a file is not an Arrow stream, or when there is not all that the node says."""
        hint = f"delete {self.folder.parent} to have it made again"
        parts = []
        for path in sorted(self.folder.glob("*.arrow")):
            try:
                parts.append(pa.ipc.open_stream(pa.memory_map(str(path))).read_all())
            except (pa.ArrowInvalid, OSError) as error:
                raise BrokenFileError(path, "it is not an Arrow stream", hint) from error
        table = pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})
        if not self._columns <= set(table.column_names) or (self._columns and table.num_rows != self._rows):
            raise BrokenFileError(self.folder, f"it does not hold the {self._rows:,} rows that were written", hint)
        return table


class TableWriter:
    """Streams columns of Python values into a folder and digests them on the way.

    Batches may differ in type (nulls first, then strings; integers, then floats): each change begins a new file, and
    reading unifies them. A type that cannot be unified raises `StepOutputTypeError`.
    """

    def __init__(self, folder: Path, *, what: str = "the step") -> None:
        self.folder = folder
        self.rows = 0
        self._what = what
        self._schema: pa.Schema | None = None
        self._unified: pa.Schema | None = None
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None
        self._sink: pa.OSFile | None = None
        self._files = 0
        self._digests: dict[str, ColumnDigest] = {}

    def write(self, columns: Mapping[str, Sequence[Any] | pa.Array | pa.ChunkedArray]) -> None:
        """Append rows: columns of equal length, the same names at every call."""
        table = pa.table({name: self._array(name, values) for name, values in columns.items()})
        if self._schema is not None and set(table.column_names) != set(self._digests):
            wrong = sorted(set(table.column_names) ^ set(self._digests))
            raise StepOutputError(f"{self._what} gave rows with different columns: {', '.join(wrong)}", "give every row the same columns")
        if not self._digests:
            self._digests = {name: ColumnDigest() for name in table.column_names}
        for name, digest in self._digests.items():
            digest.update(table.column(name))
        self._append(table.select(list(self._digests)))
        self.rows += table.num_rows

    def close(self) -> dict[str, dict[str, str]]:
        """Finish the files; the digest and type of each column."""
        self.abort()
        self._sync()
        if self._files > 1:  # values of an early file may read differently now (1 → 1.0): the content is what is read
            table = StoredTable(self.folder).table
            return {
                name: {"digest": column_digest(table.column(name)), "type": str(table.schema.field(name).type)}
                for name in table.column_names
            }
        schema = self._schema or pa.schema([])
        return {name: {"digest": digest.hexdigest(), "type": str(schema.field(name).type)} for name, digest in self._digests.items()}

    def abort(self) -> None:
        """Close the file that is open, if one is."""
        if self._writer is not None and self._sink is not None:
            with disk_errors(self.folder):
                self._writer.close()
                self._sink.close()
        self._writer = self._sink = None

    def _sync(self) -> None:
        """Have the files on disk before the node says that they are."""
        for number in range(self._files):
            with disk_errors(self.folder), (self.folder / f"{number:05d}.arrow").open("rb") as file:
                os.fsync(file.fileno())

    def _array(self, name: str, values: Sequence[Any] | pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        if isinstance(values, (pa.Array, pa.ChunkedArray)):
            return values
        try:
            return array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
            kinds = sorted({type(v).__name__ for v in values if v is not None})
            raise StepOutputTypeError(
                f"column {name!r} of {self._what} has values of mixed types ({', '.join(kinds)})", "give one type, for instance with str(…)"
            ) from error

    def _append(self, table: pa.Table) -> None:
        with disk_errors(self.folder):
            if self._schema is None or table.schema != self._schema:
                self._begin(table.schema)
            assert self._writer is not None
            self._writer.write_table(table)

    def _begin(self, schema: pa.Schema) -> None:
        try:
            self._unified = schema if self._unified is None else pa.unify_schemas([self._unified, schema], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise StepOutputTypeError(
                f"{self._what} gave a column of mixed types: {error}", "give one type, for instance with str(…)"
            ) from error
        self.abort()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sink = pa.OSFile(str(self.folder / f"{self._files:05d}.arrow"), "wb")
        self._writer = pa.ipc.new_stream(self._sink, schema)
        self._schema = schema
        self._files += 1


def column_digest(values: pa.Array | pa.ChunkedArray) -> str:
    """The content digest of a column: of its values in row order, whatever its chunks."""
    digest = ColumnDigest()
    digest.update(values)
    return digest.hexdigest()
