"""JSON by orjson, which takes a tenth of the time where every row passes; by the standard library where orjson refuses.

It refuses half characters (lone surrogates) and whole numbers of more than 64 bits, and nothing that it takes means something else:
what the two write differs in spaces and in how they write the exponent of a number.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring
from typing import Any

import orjson

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def loads(text: str | bytes) -> Any:
    """What ``json.loads`` gives, and its errors: `ValueError`, and `RecursionError` for what is too deep."""
    try:
        return orjson.loads(text)
    except ValueError:
        return json.loads(text)


def dumps(value: Any) -> bytes:
    """The JSON of ``value``, all of whose numbers are finite; `UnicodeEncodeError` for half a character."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return _encode(value).encode()


def quoted(text: str) -> bytes:
    """``text`` as JSON, without escapes that it does not need; half a character as the three bytes that it would have."""
    try:
        return orjson.dumps(text)
    except TypeError:
        return encode_basestring(text).encode("utf-8", "surrogatepass")
