"""What a step may return, in any of its forms, as batches of its declared outputs.

The forms: a dict of columns · a list of dicts, of tuples, or (one output) of values · a tuple of columns · an iterator or
a generator function of any of these rows · a Hugging Face dataset, a frame, an Arrow table, `step.output` or
`step.output["col"]`, alone, in a list, or as a column · one bare row · `LazyRows` and `LazyRowBatches` of these.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from nbdream.errors import StepOutputError
from nbdream.steps.frames import column_values, dataset_columns, dataset_tables, is_dataset
from nbdream.steps.kinds import KindWatch

if TYPE_CHECKING:
    import pyarrow as pa

Batch: TypeAlias = "dict[str, list[Any]] | pa.Table"
SIZE = 1000


class LazyRows:
    """Rows that are made one at a time, by a generator function or any iterable, as the result is written."""

    def __init__(
        self,
        value: Any,
        total_num_rows: int | None = None,
        auto_progress: bool = True,
        save: bool = False,
        save_writer_batch_size: int | None = None,
    ) -> None:
        if total_num_rows is None and auto_progress:
            name = type(self).__name__
            warnings.warn(
                f"{name} without total_num_rows shows no progress: give {name}(…, total_num_rows=…) or auto_progress=False",
                stacklevel=2,
            )
        self.value = value
        self.total_num_rows = total_num_rows
        self.auto_progress = auto_progress


class LazyRowBatches(LazyRows):
    """Batches of rows (lists of rows, or columns) that are made one at a time as the result is written."""


def total_rows(value: Any) -> int | None:
    """How many rows ``value`` will give, when it says so before it is read."""
    if isinstance(value, LazyRows):
        return value.total_num_rows
    if isinstance(value, list) or is_dataset(value):
        return _length(value)
    return None


def normalize(value: Any, output_names: Sequence[str], *, size: int = SIZE) -> Iterator[Batch]:
    """The rows of ``value`` as batches: dicts of equally long columns, or Arrow tables, in the order of ``output_names``.

    Raises `StepOutputError` for what is not rows of exactly these outputs, `StepOutputTypeError` for a column of mixed types.
    """
    names = list(output_names)
    watch = KindWatch()
    for batch in _batches(value, names, size):
        yield watch.check(batch) if isinstance(batch, dict) else watch.check_table(batch)


def _batches(value: Any, names: list[str], size: int) -> Iterator[Batch]:
    if isinstance(value, LazyRows):
        inner = _call(value.value)
        if not _is_stream(inner):
            return _batches(inner, names, size)
        return _from_batches(inner, names, size) if isinstance(value, LazyRowBatches) else _from_rows(iter(inner), names, size)
    value = _call(value)
    if value is None:
        return iter(())
    if is_dataset(value):
        return _from_dataset(value, names, size)
    if isinstance(value, Mapping):
        return _from_dict(value, names, size)
    if isinstance(value, tuple):
        return _from_columns(_paired(value, names), size)
    if isinstance(value, list):
        return _from_list(value, names, size)
    if _is_stream(value):
        return _from_stream(iter(value), names, size)
    if len(names) == 1:
        return iter([{names[0]: [value]}])
    raise StepOutputError(f"a {type(value).__name__} is not rows of {_listed(names)}", "return a dict of columns or a list of dicts")


# ------------------------------------------------------------------------------------------------ forms


def _from_dataset(value: Any, names: list[str], size: int) -> Iterator[Batch]:
    columns = dataset_columns(value)
    if columns is None:  # a bare column: a handle, a series, an Arrow array
        return _from_columns(_paired((value,), names), size)
    _check_names(columns, names, "the dataset has")
    return (table.select(names) for table in dataset_tables(value, size) if table.num_rows)


def _from_dict(value: Mapping[str, Any], names: list[str], size: int) -> Iterator[Batch]:
    _check_names(list(value), names, "it has")
    return _from_columns({name: value[name] for name in names}, size)


def _from_list(value: list[Any], names: list[str], size: int) -> Iterator[Batch]:
    if not value:
        return iter(())
    first = value[0]
    if any(is_dataset(item) and dataset_columns(item) is not None for item in value):
        return _from_datasets(value, names, size)
    if len(names) == 1 and len(value) == 1 and (is_dataset(first) or callable(first)):
        return _from_columns({names[0]: first}, size)
    if len(names) > 1 and not isinstance(first, Mapping) and not _fits(first, names) and len(value) == len(names):
        return _from_columns(_paired(tuple(value), names), size)
    return _from_rows(iter(value), names, size)


def _from_datasets(value: list[Any], names: list[str], size: int) -> Iterator[Batch]:
    """Datasets side by side, each bringing some of the columns."""
    columns: dict[str, Any] = {}
    for item in value:
        found = dataset_columns(item) if is_dataset(item) else None
        if found is None:
            raise StepOutputError(f"a list of datasets holds a {type(item).__name__}", "return only datasets in such a list")
        for name in found:
            if name in columns:
                raise StepOutputError(f"two datasets of the list have a column {name!r}", "each output comes from one of them")
            columns[name] = item[name]
    _check_names(list(columns), names, "the datasets have")
    return _from_columns({name: columns[name] for name in names}, size)


def _from_stream(rows: Iterator[Any], names: list[str], size: int) -> Iterator[Batch]:
    """Rows of an iterator; one that turns out to iterate over columns is one column an output."""
    first = list(itertools.islice(rows, 1))
    together = itertools.chain(first, rows)
    if len(names) == 1 or not first or isinstance(first[0], Mapping) or _fits(first[0], names):
        return _from_rows(together, names, size)
    return _from_list(list(itertools.islice(together, len(names) + 1)), names, size)


def _from_batches(batches: Iterable[Any], names: list[str], size: int) -> Iterator[Batch]:
    by_column = False
    for batch in batches:
        if isinstance(batch, list) and _is_columns(batch, names, by_column):
            by_column = True
            batch = tuple(batch)
        if isinstance(batch, list) or _is_stream(batch):
            yield from _from_rows(iter(batch), names, size)
        else:
            yield from _batches(batch, names, size)


def _is_columns(batch: list[Any], names: list[str], before: bool) -> bool:
    """Whether a list batch holds a column an output rather than rows; a batch of columns is followed by such."""
    if len(batch) != len(names) or not all(_is_iterable(item) for item in batch):
        return False
    return before or not _fits(batch[0], names)


# ------------------------------------------------------------------------------------------------ rows and columns


def _from_rows(rows: Iterator[Any], names: list[str], size: int) -> Iterator[Batch]:
    """Rows of the one form that the first row has: dicts, tuples or bare values."""
    start = 0
    reader: Callable[[Any, list[str], int], Sequence[Any]] | None = None
    while chunk := list(itertools.islice(rows, size)):
        reader = reader or _reader(chunk[0], names)
        read = [reader(row, names, start + i) for i, row in enumerate(chunk)]
        yield {name: list(column) for name, column in zip(names, zip(*read, strict=True), strict=True)}
        start += len(chunk)


def _reader(first: Any, names: list[str]) -> Callable[[Any, list[str], int], Sequence[Any]]:
    if isinstance(first, Mapping) and (len(names) > 1 or names[0] in first):
        return _dict_row
    return _tuple_row if len(names) > 1 else _bare_row


def _dict_row(row: Any, names: list[str], i: int) -> Sequence[Any]:
    if not isinstance(row, Mapping):
        raise StepOutputError(f"row {i} is a {type(row).__name__}, the rows before it are dicts", "return rows of one form")
    if len(row) != len(names) or any(name not in row for name in names):
        _check_names(list(row), names, f"row {i} has")
    return [row[name] for name in names]


def _tuple_row(row: Any, names: list[str], i: int) -> Sequence[Any]:
    if _fits(row, names):
        return row  # type: ignore[no-any-return]
    said = f"{len(row)} values" if isinstance(row, (list, tuple)) else f"a {type(row).__name__}"
    raise StepOutputError(f"row {i} is {said}, not one each of {_listed(names)}", "return a tuple a row, or dicts")


def _bare_row(row: Any, names: list[str], i: int) -> Sequence[Any]:
    if isinstance(row, tuple):
        return row if len(row) == 1 else [list(row)]
    return [row]


def _from_columns(columns: Mapping[str, Any], size: int) -> Iterator[Batch]:
    called = {name: _call(column) for name, column in columns.items()}
    scalar = [name for name, column in called.items() if not _is_iterable(column)]
    if len(scalar) == len(called):
        return iter([{name: [value] for name, value in called.items()}])
    if scalar:
        kind = type(called[scalar[0]]).__name__
        raise StepOutputError(f"column {scalar[0]!r} is one {kind}, the others are columns", "return a list of values a column")
    return _zipped({name: _flat(name, column) for name, column in called.items()}, size)


def _flat(name: str, column: Any) -> Iterator[Any]:
    if is_dataset(column) and (inner := dataset_columns(column)) is not None:
        if len(inner) != 1:
            raise StepOutputError(f"output {name!r} is a dataset of {len(inner)} columns", f"name one: dataset[{(inner or ['…'])[0]!r}]")
        column = column[inner[0]]
    return column_values(column)


def _zipped(columns: dict[str, Iterator[Any]], size: int) -> Iterator[Batch]:
    start = 0
    while True:
        batch = {name: list(itertools.islice(column, size)) for name, column in columns.items()}
        lengths = {name: len(values) for name, values in batch.items()}
        if len(set(lengths.values())) > 1:
            total = {name: start + lengths[name] + sum(1 for _ in columns[name]) for name in columns}
            short, long = min(total, key=total.__getitem__), max(total, key=total.__getitem__)
            raise StepOutputError(
                f"the columns have different lengths: {long!r} has {total[long]} rows, {short!r} has {total[short]}",
                "return one value a row in every column",
            )
        if not next(iter(lengths.values())):
            return
        yield batch
        start += size


# ------------------------------------------------------------------------------------------------ questions


def _call(value: Any) -> Any:
    """What a generator function gives; anything else as it is."""
    return value() if callable(value) and not is_dataset(value) else value


def _is_iterable(value: Any) -> bool:
    return is_dataset(value) or (isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)))


def _is_stream(value: Any) -> bool:
    return _is_iterable(value) and not is_dataset(value) and not isinstance(value, (list, tuple))


def _fits(row: Any, names: list[str]) -> bool:
    return isinstance(row, (list, tuple)) and len(row) == len(names)


def _length(value: Any) -> int | None:
    for count in ("num_rows", "__len__"):
        found = getattr(value, count, None)
        if found is not None:
            return int(found() if callable(found) else found)
    return None


def _paired(columns: tuple[Any, ...], names: list[str]) -> dict[str, Any]:
    if len(columns) != len(names):
        had = "1 column" if len(columns) == 1 else f"{len(columns)} columns"
        raise StepOutputError(f"{had} for the outputs {_listed(names)}", "return one column an output")
    return dict(zip(names, columns, strict=True))


def _check_names(found: list[str], names: list[str], where: str) -> None:
    missing = [name for name in names if name not in found]
    extra = [name for name in found if name not in names]
    if missing or extra:
        parts = [f"lacks {_listed(missing)}"] if missing else []
        parts += [f"has {_listed(extra)}, which is no output"] if extra else []
        raise StepOutputError(f"{where} the columns {_listed(found)}: it {' and '.join(parts)}", f"the outputs are {_listed(names)}")


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
