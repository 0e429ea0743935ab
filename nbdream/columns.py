"""`ColumnDigest`: the content of a column, in row order, as one sha256."""

from __future__ import annotations

import array as machine
import contextlib
import hashlib
import itertools
import math
import sys
from itertools import chain
from typing import Any

import pyarrow as pa

from nbdream.arrays import array
from nbdream.fingerprint import canonical_json, form_encoder, is_plain_key


class ColumnDigest:
    """The content digest of a column: the same however its rows are cut into updates.

    Rows are taken in blocks of 4,096. A block of texts, numbers or truth values is digested as Arrow holds it (lengths and bytes), any
    other as the canonical JSON of its values; a block of nulls has no type.
    """

    BLOCK = 4096

    def __init__(self) -> None:
        self.rows = 0
        self._blocks = hashlib.sha256(b"column 2\n")
        self._open: list[Any] = []
        self._open_rows = 0

    def update(self, values: Any) -> None:
        """Append rows: an Arrow array, or values, one for each row."""
        for piece in _pieces(values):
            start = 0
            while start < len(piece):
                size = min(self.BLOCK - self._open_rows, len(piece) - start)
                self._open.append(piece[start : start + size])
                self._open_rows += size
                self.rows += size
                start += size
                if self._open_rows == self.BLOCK:
                    self._blocks.update(_block(self._open))
                    self._open, self._open_rows = [], 0

    def hexdigest(self) -> str:
        """The digest of the rows so far, their number included."""
        total = self._blocks.copy()
        if self._open:
            total.update(_block(self._open))
        total.update(b"rows %d" % self.rows)
        return total.hexdigest()


def _pieces(values: Any) -> list[Any]:
    """``values`` as Arrow arrays where they have a type, else as lists."""
    if hasattr(values, "chunks"):
        return list(values.chunks)
    return [values if hasattr(values, "null_count") else _as_array(list(values))]


def _as_array(values: list[Any]) -> Any:
    """Texts, numbers or truth values as an array; anything else, and what is of several kinds, as it is."""
    kinds = set(map(type, values)) - {type(None)}
    if len(kinds) > 1 or not kinds <= _SCALARS:
        return values
    try:
        return array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):  # a number or a text that Arrow does not hold
        return values


def _block(pieces: list[Any]) -> bytes:
    """The sha256 of the rows of one block."""
    if len(pieces) == 1:
        block = pieces[0]
    elif all(isinstance(piece, pa.Array) and piece.type == pieces[0].type for piece in pieces):
        block = pa.concat_arrays(pieces)
    else:
        block = _as_array([value for piece in pieces for value in (piece.to_pylist() if isinstance(piece, pa.Array) else piece)])
    digest = hashlib.sha256()
    for part in _content(block):
        digest.update(part)
    return digest.digest()


def _content(block: Any) -> list[Any]:
    """What is digested of a block: parts with the memory of the array where it can be taken as it is."""
    if not isinstance(block, pa.Array):
        return [b"json\n", canonical_json(block).encode()]
    kind, size = block.type, len(block)
    if block.null_count == size:
        return [b"null\n%d" % size]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [b"text\n", *_text_content(block)]
    if pa.types.is_boolean(kind):
        return [b"truth\n", bytes(2 if value is None else value for value in block.to_pylist())]
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return [b"whole\n", *_number_content(block, "q", kind == pa.int64())]
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return [b"real\n", *_number_content(block, "d", kind == pa.float64())]
    return [b"json\n", _json_content(block.to_pylist())]


def _text_content(block: Any) -> list[Any]:
    """Lengths in bytes (-1 for a null), then all bytes."""
    if block.null_count:
        encoded = [None if value is None else value.encode() for value in block.to_pylist()]
        return [_little("q", [-1 if text is None else len(text) for text in encoded]), b"".join(filter(None, encoded))]
    _, offsets, data = block.buffers()
    wide = str(block.type).startswith("large")
    places = memoryview(offsets).cast("B").cast("q" if wide else "i")[block.offset : block.offset + len(block) + 1].tolist()
    lengths = _little("q", [end - begin for begin, end in itertools.pairwise(places)])
    return [lengths, memoryview(data)[places[0] : places[-1]] if data is not None else b""]


def _number_content(block: Any, code: str, as_it_is: bool) -> list[Any]:
    """Which are null, then the numbers in 64 bits; a null counts as 0."""
    nulls = b""
    if as_it_is and not block.null_count and sys.byteorder == "little":
        raw = memoryview(block.buffers()[1]).cast("B")[block.offset * 8 : (block.offset + len(block)) * 8]
        if code == "q" or not any(map(math.isnan, raw.cast("d"))):
            return [nulls, raw]
    values = block.to_pylist()
    if block.null_count:
        nulls = bytes(value is None for value in values)
    filled = [0 if value is None else value for value in values]
    return [nulls, _little(code, [math.nan if value != value else value for value in filled])]


def _little(code: str, values: list[Any]) -> bytes:
    """Numbers of 64 bits, the least byte first, as on nearly every machine."""
    made = machine.array(code, values)
    if sys.byteorder == "big":
        made.byteswap()
    return made.tobytes()


def _json_content(values: list[Any]) -> bytes:
    """The canonical JSON of values."""
    if _is_plain(values):
        with contextlib.suppress(ValueError):  # nan, infinity, a number of 4,300 digits, lone surrogates: the long way
            return form_encoder.encode(values).encode()
    return canonical_json(values).encode()


_SCALARS = {type(None), bool, int, float, str}


def _is_plain(values: list[Any], depth: int = 0) -> bool:
    """Whether every value is its own form; asked of a whole block at once, one level of nesting at a time."""
    kinds = set(map(type, values)) - _SCALARS
    if not kinds:
        return True
    if depth > 20 or not kinds <= {list, tuple, dict}:
        return False
    inner: list[Any] = []
    if list in kinds or tuple in kinds:
        inner.extend(chain.from_iterable(value for value in values if type(value) in (list, tuple)))
    if dict in kinds:
        dicts = [value for value in values if type(value) is dict]
        if not all(map(is_plain_key, set(chain.from_iterable(dicts)))):
            return False
        inner.extend(chain.from_iterable(map(dict.values, dicts)))
    return _is_plain(inner, depth + 1)
