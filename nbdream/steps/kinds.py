"""The kinds of values that a column may hold, and the watch that refuses a column of two kinds."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nbdream.errors import StepOutputTypeError

if TYPE_CHECKING:
    import pyarrow as pa

_PLAIN: dict[type, str] = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    bytes: "bytes",
    dict: "dict",
    list: "list",
    datetime.datetime: "datetime",
    datetime.date: "date",
    datetime.time: "time",
    datetime.timedelta: "timedelta",
    decimal.Decimal: "Decimal",
}
_FLAT = frozenset(_PLAIN) - {dict, list}
_NUMBERS = {"int", "float"}
_INT64 = range(-(2**63), 2**63)


def plain(value: Any) -> Any:
    """``value`` as Arrow takes it: tuples, arrays and iterators become lists, numpy's scalars become Python's.

    Raises ``TypeError`` for what no column can hold (a set, a function, an object).
    """
    kind = type(value)
    if value is None or kind in _FLAT:
        return value
    if kind is list or kind is tuple:
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    for base, read in _BASES:
        if isinstance(value, base):
            return read(value)
    return _of_a_library(value, kind)


def _of_a_library(value: Any, kind: type) -> Any:
    """The values of numpy, pandas, torch, Arrow and the like, and iterators."""
    if kind.__module__.partition(".")[0] == "pandas" and kind.__name__ in _PANDAS:
        return _PANDAS[kind.__name__](value)
    for method in ("tolist", "to_pylist", "as_py"):  # arrays, scalars and tensors; Arrow's arrays; Arrow's scalars
        if hasattr(value, method):
            return plain(getattr(value, method)())
    if isinstance(value, Iterator | range) or hasattr(value, "to_list"):
        return [plain(item) for item in value]
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)):
        return value
    raise TypeError(kind.__name__)


_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (bytes, bytes.__bytes__),
    (int, int.__int__),
    (float, float.__float__),
)
"""Subclasses of these (enums, numpy's str and float) are stored as what they are underneath."""

_PANDAS: dict[str, Callable[[Any], Any]] = {
    "NAType": lambda value: None,
    "NaTType": lambda value: None,
    "Timestamp": lambda value: value.to_pydatetime(warn=False),
}


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    raise TypeError(f"dict with the key {key!r}")


class KindWatch:
    """Checks batch after batch that a column keeps one kind of value; ``null`` and int beside float are fine."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], str] = {}
        self._rows = 0

    def check(self, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """``batch`` with plain values; `StepOutputTypeError` names the column, both types and the first row."""
        checked = {name: self._column(name, values) for name, values in batch.items()}
        self._rows += len(next(iter(checked.values()), []))
        return checked

    def check_table(self, table: pa.Table) -> pa.Table:
        """``table`` itself, once its types are known to agree with the batches before it."""
        for field in table.schema:
            kind = arrow_kind(field.type)
            if kind is not None:
                self._meet((field.name,), kind, self._rows, f"Arrow's {field.type}")
        self._rows += table.num_rows
        return table

    def _column(self, name: str, values: list[Any]) -> list[Any]:
        types = set(map(type, values)) - {type(None)}
        if len(types) == 1 and types <= _FLAT - {int}:
            kind = _PLAIN[types.pop()]
            if self._seen.get((name,), kind) == kind and (kind != "str" or _is_text(values)):
                self._seen[name,] = kind
                return values
        return [self._value(name, row, value) for row, value in enumerate(values, self._rows)]

    def _value(self, name: str, row: int, value: Any) -> Any:
        try:
            value = plain(value)
        except TypeError as error:
            raise StepOutputTypeError(
                f"row {row} of column {name!r} is a {error}, which no column can hold",
                "return text, numbers, booleans, lists or dicts",
            ) from None
        self._walk((name,), row, value)
        return value

    def _walk(self, path: tuple[str, ...], row: int, value: Any) -> None:
        if value is None:
            return
        self._meet(path, _PLAIN.get(type(value), type(value).__name__), row, _short(value))
        if isinstance(value, dict):
            for key, item in value.items():
                self._walk((*path, f".{key}"), row, item)
        elif isinstance(value, list):
            self._walk_list((*path, "[]"), row, value)
        elif type(value) is str and not _is_text([value]):
            where = f"row {row} of column {''.join(path)!r}"
            raise StepOutputTypeError(f"{where} has half of a character (a lone surrogate), which no file can hold", "leave it out")
        elif type(value) is int and value not in _INT64:
            raise StepOutputTypeError(f"row {row} of column {''.join(path)!r} is a number of more than 64 bits", "return it as text")

    def _walk_list(self, path: tuple[str, ...], row: int, items: list[Any]) -> None:
        types = set(map(type, items)) - {type(None)}
        if types == {float}:  # vectors need no walk
            self._meet(path, "float", row, _short(items))
            return
        for item in items:
            self._walk(path, row, item)

    def _meet(self, path: tuple[str, ...], kind: str, row: int, shown: str) -> None:
        before = self._seen.setdefault(path, kind)
        if before == kind:
            return
        if {before, kind} == _NUMBERS:
            self._seen[path] = "float"
            return
        raise StepOutputTypeError(
            f"column {''.join(path)!r} mixes {before} and {kind}: row {row} is {shown}, the rows before it are {before}",
            "give the column one type",
        )


def arrow_kind(kind: pa.DataType) -> str | None:
    """The name of the Python type that values of an Arrow type have; None for a column of nulls."""
    import pyarrow as pa

    t = pa.types
    if t.is_null(kind):
        return None
    for test, name in (
        (t.is_boolean, "bool"),
        (t.is_integer, "int"),
        (t.is_floating, "float"),
        (lambda k: t.is_string(k) or t.is_large_string(k) or t.is_string_view(k), "str"),
        (lambda k: t.is_binary(k) or t.is_large_binary(k) or t.is_fixed_size_binary(k), "bytes"),
        (lambda k: t.is_list(k) or t.is_large_list(k) or t.is_fixed_size_list(k), "list"),
        (lambda k: t.is_struct(k) or t.is_map(k), "dict"),
        (t.is_timestamp, "datetime"),
        (t.is_date, "date"),
    ):
        if test(kind):
            return name
    return str(kind)


def _is_text(values: list[str | None]) -> bool:
    """Whether texts can be written as UTF-8."""
    joined = "".join(value for value in values if value)
    if joined.isascii():
        return True
    try:
        joined.encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
