"""Python values → Arrow, without pandas: `pyarrow.array` imports it, where it is installed, to look for its timestamps.

That costs half a second in a kernel that may never see a frame. Texts, numbers and truth values, which nearly all columns are made of,
are converted here; everything else goes the usual way.
"""

from __future__ import annotations

import array as machine
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

Converter = Callable[[list[Any]], pa.Array]

_INT64 = range(-(2**63), 2**63)
_NONE = type(None)


def array(values: Sequence[Any]) -> pa.Array:
    """What ``pyarrow.array(values)`` gives, and its errors."""
    if not isinstance(values, list):
        values = list(values)
    kinds = _kinds(values)
    convert = _of_kind(kinds, values)
    if convert is not None:
        return convert(values)
    return pa.array(values) if kinds else pa.nulls(len(values))


def converter(values: list[Any]) -> Converter | None:
    """What makes any part of ``values`` an array of one and the same type, without an error; None where that takes a closer look."""
    convert = _of_kind(_kinds(values), values)
    return None if convert is texts and not _is_unicode(values) else convert


def _kinds(values: list[Any]) -> set[type]:
    kinds = set(map(type, values))
    kinds.discard(_NONE)
    return kinds


def _of_kind(kinds: set[type], values: list[Any]) -> Converter | None:
    if kinds == {str}:
        return texts
    if kinds == {bool}:
        return _bits
    if kinds == {int} and _fit(values):
        return _whole
    if kinds == {float}:
        return _real
    return None


def int64s(values: Sequence[int] | range) -> pa.Array:
    """Whole numbers, none of which is null or larger than 64 bits."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(machine.array("q", values))])


def texts(values: list[str | None]) -> pa.Array:
    """Texts, of which all may be null."""
    builder = pa.lib.StringBuilder()
    try:
        builder.append_values(values)
    except UnicodeEncodeError:  # half a surrogate pair: told as pyarrow tells it
        return pa.array(values)
    return builder.finish()


def _is_unicode(values: list[str | None]) -> bool:
    """Whether no text has half a surrogate pair, which no file can hold."""
    try:
        for value in values:
            if value is not None and not value.isascii():
                value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fit(values: list[Any]) -> bool:
    known = [value for value in values if value is not None]
    return min(known) in _INT64 and max(known) in _INT64


def _whole(values: list[Any]) -> pa.Array:
    return _numbers(values, "q", pa.int64())


def _real(values: list[Any]) -> pa.Array:
    return _numbers(values, "d", pa.float64())


def _numbers(values: list[Any], code: str, kind: pa.DataType) -> pa.Array:
    nulls = values.count(None)
    filled = [0 if value is None else value for value in values] if nulls else values
    return pa.Array.from_buffers(
        kind, len(values), [_validity(values) if nulls else None, pa.py_buffer(machine.array(code, filled))], nulls
    )


def _bits(values: list[Any]) -> pa.Array:
    nulls = values.count(None)
    told = pa.py_buffer(_packed([value is True for value in values]))
    return pa.Array.from_buffers(pa.bool_(), len(values), [_validity(values) if nulls else None, told], nulls)


def _validity(values: list[Any]) -> pa.Buffer:
    return pa.py_buffer(_packed([value is not None for value in values]))


def _packed(flags: list[bool]) -> bytes:
    """Flags as bits, the first in the lowest bit of the first byte."""
    text = "".join("1" if flag else "0" for flag in reversed(flags))
    return int(text, 2).to_bytes((len(flags) + 7) // 8, "little") if text else b""
