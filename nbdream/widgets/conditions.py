"""Which rows hold what is looked for: masks over columns of Arrow, computed without Python values where the type lets it."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from nbdream.errors import ArgumentError

Mask = Any
"""A chunked array of truth values; a null holds as little as False."""

COMPARISONS = {">": "greater", ">=": "greater_equal", "<": "less", "<=": "less_equal", "=": "equal", "!=": "not_equal"}
SPELLED = {"==": "=", "≥": ">=", "≤": "<=", "≠": "!=", "": "="}
_COMPARISON = re.compile(r"\s*(>=|<=|!=|==|[><=≥≤≠]|)\s*(\S+)\s*")
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column in a type that Arrow compares: what is encoded as a dictionary or a view is not."""
    if pa.types.is_dictionary(values.type):
        return plain(values.cast(values.type.value_type))
    return values.cast(pa.large_string()) if str(values.type) == "string_view" else values


def contains(values: pa.ChunkedArray, text: str) -> Mask:
    """Where a value, as text, contains ``text`` in capitals or not."""
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_null(kind):
        return pa.chunked_array([pa.repeat(pa.scalar(False), len(values))])
    if pa.types.is_nested(kind):
        return _in_json(values, text)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        try:
            values = values.cast(pa.large_string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise ArgumentError(f"a column of {kind} cannot be searched", "filter another column") from None
    return pc.match_substring(values, text, ignore_case=True)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type is searched when all text is."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view")


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type is compared with a number."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def fits(condition: str, name: str) -> Callable[[pa.ChunkedArray], Mask]:
    """Where a value fits what was written above its column: ``> 3`` of numbers, ``true`` of truth values, else a part of the text."""

    def test(values: pa.ChunkedArray) -> Mask:
        import pyarrow.compute as pc

        if is_number(values.type):
            how, number = comparison(condition, name)
            whole = pa.types.is_integer(values.type) and not pa.types.is_uint64(values.type)
            if not (whole and isinstance(number, int)) and not pa.types.is_float64(values.type):
                values, number = values.cast(pa.float64(), safe=False), float(number)
            return getattr(pc, COMPARISONS[how])(values, pa.scalar(number))
        if pa.types.is_boolean(values.type):
            wanted = _TRUTHS.get(condition.strip().lower())
            if wanted is None:
                raise ArgumentError(f"{condition!r} is neither true nor false", f"{name} is a column of truth values")
            return pc.equal(values, wanted)
        return contains(values, condition)

    return test


def known(mask: Mask) -> Mask:
    """A mask in which what is not known does not hold."""
    import pyarrow.compute as pc

    return pc.fill_null(mask, False) if mask.null_count else mask


def comparison(condition: str, name: str) -> tuple[str, int | float]:
    """``>= 3`` as a comparison and a number."""
    found = _COMPARISON.fullmatch(condition)
    number = None if found is None else _number(found[2])
    if found is None or number is None:
        raise ArgumentError(f"{condition!r} is no comparison", f"{name} is a column of numbers: > 3, <= 0.5, != 0, or 3")
    return SPELLED.get(found[1], found[1]), number


def _number(text: str) -> int | float | None:
    kinds: tuple[Callable[[str], int | float], ...] = (int, float)
    for kind in kinds:
        try:
            number = kind(text.replace(",", ""))
        except ValueError:
            continue
        return number if not isinstance(number, int) or -(2**63) <= number < 2**63 else float(number)
    return None


def differs(left: pa.ChunkedArray, right: pa.ChunkedArray) -> Mask:
    """Where two columns differ; a null differs from all but a null."""
    import pyarrow.compute as pc

    if pa.types.is_nested(left.type) or pa.types.is_nested(right.type) or left.type != right.type:
        return pa.chunked_array([pa.array(list(map(operator.ne, left.to_pylist(), right.to_pylist())), pa.bool_())])
    one_is_null = pc.xor(pc.is_null(left), pc.is_null(right))
    return pc.or_(one_is_null, known(pc.not_equal(left, right)))


def _in_json(values: pa.ChunkedArray, text: str) -> Mask:
    wanted = text.lower()
    found = [
        pa.array(
            [value is not None and wanted in json.dumps(value, ensure_ascii=False, default=str).lower() for value in chunk.to_pylist()],
            pa.bool_(),
        )
        for chunk in values.chunks
    ]
    return pa.chunked_array(found, pa.bool_())
