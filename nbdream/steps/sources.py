"""Steps that bring data in. What is read counts by its content: a file changed runs again, a file renamed does not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nbdream.arrays import Converter, converter
from nbdream.columns import ColumnDigest
from nbdream.errors import ArgumentError, DataError, nearest
from nbdream.fingerprint import function_code, path_digest
from nbdream.steps import files, hubs
from nbdream.steps.base import Step
from nbdream.steps.frames import dataset_columns, is_dataset
from nbdream.steps.returns import Batch, LazyRowBatches, LazyRows, normalize

if TYPE_CHECKING:
    from nbdream.objects import ResultFolder
    from nbdream.steps.handle import StepHandle


class _Source(Step):
    """A step without inputs, whose columns are known once the data is read."""

    def setup(self) -> None:
        """The arguments are those of the constructor."""
        self.register_arg("**kwargs")

    def give(self, batches: Iterable[Batch], total: int | None = None) -> LazyRowBatches:
        """``batches`` as what `run` returns, their columns declared as outputs; an error when there is no row."""
        stream = iter(batches)
        first = next(stream, None)
        if first is None:
            raise DataError(f"{self.name!r} has no rows", "a source needs at least one row")
        for name in column_names(first):
            self.register_output(name)
        return LazyRowBatches(itertools.chain([first], stream), total_num_rows=total, auto_progress=False)


class DataSource(_Source):
    """Rows from memory: a dict of columns, a list of dicts, a dataset, a frame, or a generator function of rows.

    Data counts by its content, a function by its code. ``made_from``: the results that the data was computed from, by Python in
    between. They are recorded as its origin: it stands in the graph below them, and is stale when one of them has changed.
    ``through``: the cells that computed it, as records with a ``source``.
    """

    def __init__(
        self,
        name: str,
        data: Any,
        total_num_rows: int | None = None,
        auto_progress: bool = True,
        made_from: Sequence[StepHandle] = (),
        through: Sequence[Mapping[str, Any]] = (),
        **options: Any,
    ) -> None:
        args = {"data": data, "total_num_rows": total_num_rows, "auto_progress": auto_progress}
        self.made_from, self.through = list(made_from), [dict(cell) for cell in through]
        super().__init__(name, args=args, **options)

    def use(self) -> dict[str, Any]:
        """Its place in the graph: below what the data was computed from."""
        place = super().use()
        for above in self.made_from:
            columns = list(above.output.column_names) if above.node["kind"] != "run" else []
            name = above.name if above.name not in place["inputs"] else f"{above.name} ({above.use_id[:8]})"  # of another time
            place["inputs"][name] = {"recipe": above.key, "use": above.use_id, "columns": columns, "whole": True}
        return {**place, "through": self.through} if self.through else place

    def validate(self) -> None:
        """Reads what is not a function, so that its content can be told."""
        data = self.args["data"]
        self._batches: Iterable[Batch] | None = None
        if not callable(data) or is_dataset(data):
            batches = read_memory(data, self.name)
            self._batches = batches if isinstance(batches, _Plain) else list(batches)

    def recipe_args(self) -> dict[str, Any]:
        """The digest of each column, or the code of the function."""
        return {"data": function_code(self.args["data"]) if self._batches is None else content(self._batches)}

    def run(self) -> LazyRowBatches:
        """The rows."""
        if self._batches is not None:
            return self.give(self._batches, sum(map(num_rows, self._batches)))
        return self.give(read_function(self.args["data"], self.name), self.args["total_num_rows"])

    def load(self, folder: ResultFolder, node: Mapping[str, Any]) -> None:
        """Make the output of what is on disk, and let go of what was read to digest it."""
        super().load(folder, node)
        self._batches = []


class HFDatasetDataSource(DataSource):
    """Rows of a folder that Hugging Face ``datasets`` saved with ``save_to_disk``."""

    def __init__(self, name: str, dataset_path: str | Path, **options: Any) -> None:
        self._folder = Path(dataset_path).name
        super().__init__(name, hubs.load_folder(dataset_path), **options)

    def run(self) -> LazyRowBatches:
        """The rows."""
        self.source = {"name": self._folder}
        return super().run()


class HFHubDataSource(_Source):
    """Rows of a dataset on the Hugging Face Hub, pinned to the commit of its first use in this session.

    ``path`` may be a local folder, which counts by its content. ``trust_remote_code`` has no effect: ``datasets`` no
    longer runs scripts of datasets.
    """

    def __init__(
        self,
        name: str,
        path: str,
        config_name: str | None = None,
        split: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        streaming: bool = False,
        **config_kwargs: Any,
    ) -> None:
        options = {option: config_kwargs.pop(option) for option in OPTIONS if option in config_kwargs}
        args = {"path": str(path), "config_name": config_name, "split": split, "revision": revision, "config": config_kwargs}
        super().__init__(name, args={**args, "streaming": streaming}, **options)

    def validate(self) -> None:
        """Finds the commit, or digests the folder."""
        path, revision = self.args["path"], self.args["revision"]
        self._local = Path(path).expanduser().is_dir()
        if self._local:
            self._pinned = path_digest(Path(path).expanduser())
        else:
            pin = f"datasets/{path}@{revision or 'main'}"
            self._pinned = self.runner.pin(pin, lambda: hubs.commit(path, revision))

    def recipe_args(self) -> dict[str, Any]:
        """The pinned commit, and what is taken of it."""
        taken = {name: self.args[name] for name in ("config_name", "split", "config") if self.args[name]}
        return {**taken, "content": self._pinned} if self._local else {**taken, "path": self.args["path"], "commit": self._pinned}

    def run(self) -> LazyRowBatches:
        """The rows; the source's name, card, licence and citation are recorded on the way."""
        path, commit = self.args["path"], None if self._local else self._pinned
        data = hubs.load(path, commit, self.args["config_name"], self.args["split"], self.args["streaming"], self.args["config"])
        self.source = hubs.describe(path, commit)
        return self.give(normalize(data, dataset_columns(data) or []), None if self.args["streaming"] else len(data))


class _FileSource(_Source):
    """Rows of files: ``data_files`` (names or patterns, in ``data_folder`` if given), or all that fit in ``data_folder``."""

    reader: Callable[..., Iterator[dict[str, list[Any]] | pa.Table]]
    suffixes: tuple[str, ...] = ()
    accepts: tuple[str, ...] = ()

    def __init__(self, name: str, data_folder: str | Path | None = None, data_files: Any = None, **config_kwargs: Any) -> None:
        self._construct(name, data_folder, data_files, config_kwargs)

    def _construct(self, name: str, data_folder: Any, data_files: Any, config: dict[str, Any]) -> None:
        options = {option: config.pop(option) for option in OPTIONS if option in config}
        for given in config:
            if given not in self.accepts:
                raise ArgumentError(
                    f"{type(self).__name__} takes no argument {given!r}", nearest(given, (*self.accepts, "data_folder", "data_files"))
                )
        args = {
            "data_folder": data_folder,
            "data_files": data_files,
            "config": {key: value for key, value in config.items() if value is not None},
        }
        super().__init__(name, args=args, **options)

    def validate(self) -> None:
        """Finds the files."""
        self._paths = files.find(self.args["data_folder"], self.args["data_files"], self.suffixes)

    def recipe_args(self) -> dict[str, Any]:
        """The sha256 of each file, and how it is read."""
        return {"files": [path_digest(path) for path in self._paths], **self.args["config"]}

    def run(self) -> LazyRowBatches:
        """The rows of file after file."""
        self.source = {"name": ", ".join(path.name for path in self._paths[:3]) + (" …" if len(self._paths) > 3 else "")}
        return self.give(files.together(self._paths, lambda path: type(self).reader(path, **self.args["config"])))


class JSONDataSource(_FileSource):
    """Rows of JSON files: lines of objects, a list of objects, or a dict of columns; ``field=`` names where they lie."""

    reader = staticmethod(files.read_json)
    suffixes = (".json", ".jsonl", ".ndjson")
    accepts = ("field", "encoding")


class CSVDataSource(_FileSource):
    """Rows of CSV files with a header line. A column is of numbers when all its values are, else of text."""

    reader = staticmethod(files.read_csv)
    suffixes = (".csv", ".tsv")
    accepts = ("sep", "delimiter", "column_names", "names", "encoding", "quotechar", "skiprows")

    def __init__(
        self, name: str, data_folder: str | Path | None = None, data_files: Any = None, sep: str = ",", **config_kwargs: Any
    ) -> None:
        self._construct(name, data_folder, data_files, {"sep": sep, **config_kwargs})


class TextDataSource(_FileSource):
    """Lines of text files, in a column ``text``; ``sample_by=`` makes a row of each ``"paragraph"`` or ``"document"``."""

    reader = staticmethod(files.read_text)
    suffixes = (".txt", ".md", ".text")
    accepts = ("encoding", "keep_linebreaks", "sample_by")


OPTIONS = ("force", "background", "progress_interval", "verbose", "log_level", "save_num_proc", "save_num_shards")
"""What every step takes."""


# ------------------------------------------------------------------------------------------------ data in memory

ROWS = 4096
"""Rows in a batch of data that is in memory."""


def read_memory(data: Any, name: str) -> Iterable[Batch]:
    """The rows of data in memory. Dicts of a list may lack keys: null."""
    if is_dataset(data):
        columns = dataset_columns(data)
        return normalize(data, [name] if columns is None else columns)
    if isinstance(data, Mapping):
        if not data:
            return iter(())
        plain = _plain(data) if all(type(values) is list for values in data.values()) else None
        return normalize(data, list(data)) if plain is None else plain
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes)):
        rows = data if isinstance(data, list) else list(data)
        if not rows:
            return iter(())
        names = list(_keys(rows))
        if not names:
            raise DataError(f"the rows of {name!r} have no columns", "give each row a value: [{'text': 'one'}, {'text': 'two'}]")
        plain = _plain({name: [row.get(name) for row in rows] for name in names})
        return normalize(_filled(rows), names) if plain is None else plain
    raise DataError(f"the data of {name!r} is a {type(data).__name__}", "give a dict of columns, a list of dicts, a dataset or a frame")


class _Plain:
    """Columns of texts, numbers or truth values, a block of rows at a time as Arrow has them.

    The blocks are made as they are asked for: what is there already is only digested, and a copy of all rows would be for nothing.
    """

    def __init__(self, columns: Mapping[str, list[Any]], converters: Mapping[str, Converter]) -> None:
        self._columns = [(name, list(values), converters[name]) for name, values in columns.items()]
        self._rows = len(self._columns[0][1])

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, self._rows, ROWS):
            yield pa.table({name: convert(values[start : start + ROWS]) for name, values, convert in self._columns})


def _plain(columns: Mapping[str, list[Any]]) -> _Plain | None:
    """``columns``, when all of them are plain; None for others: they need a closer look."""
    if len({len(values) for values in columns.values()}) != 1 or not all(isinstance(name, str) for name in columns):
        return None
    converters = {name: convert for name, values in columns.items() if (convert := converter(values)) is not None}
    return _Plain(columns, converters) if len(converters) == len(columns) else None


def read_function(function: Callable[[], Any], name: str) -> Iterator[Batch]:
    """The rows that a generator function gives; its first row says which columns there are."""
    made = function()
    if is_dataset(made) or isinstance(made, (Mapping, list)):
        return iter(read_memory(made, name))
    rows = iter(made)
    first = next(rows, None)
    if first is None:
        return iter(())
    return normalize(LazyRows(itertools.chain([first], rows), auto_progress=False), list(_keys([first])))


def content(batches: Iterable[Batch]) -> dict[str, Any]:
    """The number of rows, the digest of each column and, where there are several, their order."""
    digests: dict[str, ColumnDigest] = {}
    rows = 0
    for batch in batches:
        rows += num_rows(batch)
        for name in column_names(batch):
            digests.setdefault(name, ColumnDigest()).update(batch[name] if isinstance(batch, dict) else batch.column(name))
    found = {"rows": rows, "columns": {name: digest.hexdigest() for name, digest in digests.items()}}
    return {**found, "order": list(digests)} if len(digests) > 1 else found


def column_names(batch: Batch) -> list[str]:
    """The names of a batch's columns."""
    return list(batch) if isinstance(batch, dict) else list(batch.column_names)


def num_rows(batch: Batch) -> int:
    """The number of a batch's rows."""
    return len(next(iter(batch.values()), [])) if isinstance(batch, dict) else int(batch.num_rows)


def _keys(rows: list[Any]) -> dict[str, None]:
    if set(map(type, rows)) == {dict}:
        keys = dict.fromkeys(itertools.chain.from_iterable(dict.fromkeys(map(tuple, rows))))  # few rows differ in theirs
        if set(map(type, keys)) <= {str}:
            return keys
    keys = {}
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(
                f"row {i} is a {type(row).__name__}, not a dict of columns", "give a list of dicts, or a dict of columns: {'text': […]}"
            )
        for key in row:
            if not isinstance(key, str):
                raise DataError(f"row {i} has the column {key!r}", "columns are named by text")
        keys |= dict.fromkeys(row)
    return keys


def _filled(rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    keys = _keys(rows)
    return [row if len(row) == len(keys) else {key: row.get(key) for key in keys} for row in rows]
