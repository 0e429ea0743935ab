"""What must not be published: known credentials, and what looks like a secret; found with the place named."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nbdream.errors import HubError
from nbdream.secrets import known

_LOOKS = {
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a Google API key": r"\bAIza[0-9A-Za-z_-]{35}",
    "a Slack token": r"\bxox[abposr]-[A-Za-z0-9-]{10,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
}
_ANY = re.compile("|".join(f"({pattern})" for pattern in _LOOKS.values()))


def refuse_secrets(tables: Mapping[str, pa.Table], texts: Mapping[str, str]) -> None:
    """Raise `HubError` that names the first place in ``tables`` (by split) or ``texts`` (by file name) where a secret stands."""
    credentials = known()
    pattern = "|".join([*_LOOKS.values(), *map(re.escape, credentials)])
    for split, table in tables.items():
        for name in table.column_names:
            for chunk_start, chunk in _chunks(table.column(name)):
                row = _first_hit(chunk, pattern)
                if row is not None:
                    found = _what(str(chunk[row].as_py()), credentials)
                    raise _refusal(found, f"row {chunk_start + row} of column {name!r} in {split!r}")
    for file, text in texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            if _ANY.search(line) or any(value in line for value in credentials):
                raise _refusal(_what(line, credentials), f"line {number} of {file}")


def _chunks(column: pa.ChunkedArray) -> Iterator[tuple[int, pa.Array]]:
    start = 0
    for chunk in column.chunks:
        yield start, chunk
        start += len(chunk)


def _first_hit(values: pa.Array, pattern: str) -> int | None:
    """The first row of ``values`` with a match in any text below it."""
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        hits = pc.match_substring_regex(values, pattern)
        row = pc.index(hits, True).as_py()
        return row if row >= 0 else None
    if not pa.types.is_nested(kind):
        return None
    if not any(_first_hit(leaf, pattern) is not None for leaf in _leaves(values)):
        return None
    search = re.compile(pattern).search
    return next((row for row, value in enumerate(values.to_pylist()) if any(search(text) for text in _texts(value))), None)


def _leaves(values: pa.Array) -> Iterator[pa.Array]:
    if pa.types.is_struct(values.type):
        for child in values.flatten():
            yield from _leaves(child)
    elif pa.types.is_nested(values.type) and hasattr(values, "flatten"):
        yield from _leaves(values.flatten())
    else:
        yield values


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _what(text: str, credentials: Mapping[str, str]) -> str:
    name = next((name for value, name in credentials.items() if value in text), None)
    if name is not None:
        return f"the value of {name}"
    match = _ANY.search(text)
    return f"what looks like {list(_LOOKS)[match.lastindex - 1]}" if match and match.lastindex else "what looks like a secret"


def _refusal(what: str, where: str) -> HubError:
    return HubError(f"nothing was published: {where} holds {what}", "remove it (%%filter or .map) and publish what is left")
