"""Datasets, frames, tables and columns of every library that may be loaded here, read as Arrow; none is imported to find out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nbdream.datasets import OutputDataset, OutputDatasetColumn
from nbdream.errors import DataError
from nbdream.optional import is_instance

if TYPE_CHECKING:
    import pyarrow as pa

_FRAMES = (("datasets", "Dataset"), ("datasets", "IterableDataset"), ("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "Table"))
_COLUMNS = (("pandas", "Series"), ("polars", "Series"), ("pyarrow", "Array"), ("pyarrow", "ChunkedArray"))
_SPLITS = (("datasets", "DatasetDict"), ("datasets", "IterableDatasetDict"))


def is_dataset(value: object) -> bool:
    """Whether ``value`` is rows or a column of a library: a handle, a dataset, a frame, a series, an Arrow table or array."""
    if isinstance(value, (OutputDataset, OutputDatasetColumn)):
        return True
    if isinstance(value, dict) and any(is_instance(value, *kind) for kind in _SPLITS):
        raise DataError(f"it has the splits {', '.join(map(str, value))}", "give one of them: data['train']")
    return any(is_instance(value, *kind) for kind in _FRAMES + _COLUMNS)


def dataset_columns(value: Any) -> list[str] | None:
    """The column names of what `is_dataset` says yes to; None for a bare column, which has no name that counts."""
    if isinstance(value, OutputDatasetColumn) or any(is_instance(value, *kind) for kind in _COLUMNS):
        return None
    if is_instance(value, "pandas", "DataFrame") or is_instance(value, "polars", "DataFrame"):
        return _different([str(name) for name in value.columns])
    if value.column_names is None:  # a streamed dataset that does not know before it is read
        value = value._resolve_features()
    return _different(list(value.column_names or []))


def _different(names: list[str]) -> list[str]:
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise DataError(f"two columns are called {twice!r}", "rename one of them")
    return names


def dataset_tables(value: Any, size: int) -> Iterator[pa.Table]:
    """The rows of a dataset or frame as Arrow tables with plain types and no metadata."""
    import pyarrow as pa

    if isinstance(value, OutputDataset):
        tables: Iterator[pa.Table] = value.iter_batches(size=size)
    elif is_instance(value, "pandas", "DataFrame"):
        tables = _pandas_tables(value, size)
    elif is_instance(value, "polars", "DataFrame"):
        tables = iter([value.to_arrow()])
    elif isinstance(value, pa.Table):
        tables = iter([value])
    else:
        tables = value.with_format("arrow").iter(batch_size=size)
    return map(plain_table, tables)


def _pandas_tables(frame: Any, size: int) -> Iterator[pa.Table]:
    import pyarrow as pa

    try:
        yield pa.Table.from_pandas(frame, preserve_index=False)
    except pa.ArrowException:  # a column of objects of several types: told in our words, with the row
        from nbdream.steps.kinds import KindWatch

        KindWatch().check({str(name): frame[name].tolist() for name in frame.columns})
        raise


def plain_table(table: pa.Table) -> pa.Table:
    """``table`` without metadata, with its texts, lists and categories in Arrow's common types."""
    import pyarrow as pa

    schema = pa.schema([pa.field(field.name, plain_type(field.type)) for field in table.schema])
    return table.replace_schema_metadata(None) if schema.equals(table.schema) else table.cast(schema)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The common type for values of ``kind``: large and view types become plain, a category becomes its values' type."""
    import pyarrow as pa

    t = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if t.is_large_string(kind) or t.is_string_view(kind):
        return pa.string()
    if t.is_large_binary(kind) or t.is_binary_view(kind):
        return pa.binary()
    if t.is_dictionary(kind):
        return plain_type(kind.value_type)
    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if t.is_struct(kind):
        return pa.struct([pa.field(field.name, plain_type(field.type)) for field in kind])
    return kind


def column_values(column: Any) -> Iterator[Any]:
    """The values of a column of any library, or of any iterable, as Python's."""
    if is_instance(column, "polars", "Series"):
        return iter(column.to_list())
    if is_instance(column, "pandas", "Series"):
        return iter(column.tolist())
    if isinstance(column, OutputDatasetColumn):
        return _arrow_values(column.array())
    if "pyarrow" in sys.modules and hasattr(column, "to_pylist"):
        return _arrow_values(column)
    return iter(column)


def _arrow_values(array: Any) -> Iterator[Any]:
    for chunk in getattr(array, "chunks", [array]):
        for start in range(0, len(chunk), 1000):
            yield from chunk.slice(start, 1000).to_pylist()
