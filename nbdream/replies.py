"""Stored replies as a file: a JSON line for each, in the order of their keys. A stranger's file is believed nothing.

A line is ``{"key": …, "value": {…}}``, with the values of `nbdream.cache`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from nbdream import secrets
from nbdream.cache import CallCache, Value
from nbdream.errors import BrokenFileError
from nbdream.files import Lock

FILE = "calls.jsonl"
"""Where an archive keeps the replies of a session."""
KEY = re.compile(r"[0-9a-f]{32}:[0-9]{1,9}(:[0-9a-z]{1,64})?")
LONGEST = 64 << 20
"""Bytes of a line."""
TEXTS = ("text", "model", "finish_reason", "made", "by")
AT_ONCE = 500
HINT = "nothing of it was taken; ask who sent it for another one"

_encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode  # ASCII: half characters have no UTF-8


def line(key: str, value: Mapping[str, Any]) -> bytes:
    """A reply as a line."""
    return (_encode({"key": key, "value": dict(value)}) + "\n").encode()


def lines(items: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[bytes]:
    """Replies as lines, known credentials masked; what a server said beside a reply that is none of its parts is left out."""
    known = secrets.known()
    for key, value in items:
        yield line(key, {name: part for name, part in secrets.scrub(value, known).items() if _fits(name, part)})


def read(path: Path) -> Iterator[tuple[str, Value]]:
    """The replies in a file; `BrokenFileError` names the first line that holds none."""
    with path.open("rb") as file:
        yield from parse(file, path)


def parse(file: IO[bytes], name: Path | str) -> Iterator[tuple[str, Value]]:
    """The replies in the lines of an open file, which messages call ``name``."""
    number = 0
    while text := file.readline(LONGEST):
        number += 1
        try:
            found = json.loads(text)
            key, value = found["key"], found["value"]
        except (ValueError, RecursionError, TypeError, KeyError):
            raise BrokenFileError(name, f"line {number:,} holds no reply", HINT) from None
        why = _wrong(key, value)
        if why is not None or len(found) != 2:
            raise BrokenFileError(name, f"line {number:,} holds no reply: {why or 'it says more'}", HINT)
        yield key, value


def _wrong(key: Any, value: Any) -> str | None:
    """What is wrong with a key and its value."""
    if not isinstance(key, str) or not KEY.fullmatch(key):
        return "its key is none"
    if not isinstance(value, dict) or not value:
        return "its value is no object"
    for name, part in value.items():
        if not _fits(name, part):
            return f"its {name!r} is not what it should be" if name in KNOWN else f"{name[:40]!r} is no part of a reply"
    if value.get("text") is None and value.get("error") is None:
        return "it has neither a text nor an error"
    return None


KNOWN = (*TEXTS, "error", "usage", "cost", "batch")


def _fits(name: str, part: Any) -> bool:
    if name in TEXTS:
        return isinstance(part, str) and _is_whole(part)
    if name == "error":
        return isinstance(part, dict) and isinstance(part.get("message"), str) and part.get("kind") == "row" and _is_plain(part)
    if name == "usage":
        return isinstance(part, dict) and all(type(count) is int and 0 <= count < 2**53 for count in part.values())
    if name == "cost":
        return type(part) in (int, float) and math.isfinite(part) and 0 <= part < 1e9
    return name == "batch" and part is True


def _is_plain(value: Any) -> bool:
    return isinstance(value, dict) and all(
        part is None or type(part) in (bool, int, float) or (isinstance(part, str) and _is_whole(part)) for part in value.values()
    )


def _is_whole(text: str) -> bool:
    """Whether a text has no half characters, which no file of rows can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def take(cache: CallCache, items: Iterable[tuple[str, Value]]) -> tuple[int, int]:
    """Store replies where there is none yet: how many are new, and how many there were. What is stored already stays."""
    new = total = 0
    known = secrets.known()
    batch: dict[str, Value] = {}

    def flush() -> None:
        nonlocal new
        before = cache.lookup(list(batch))
        missing = {key: value for key, value in batch.items() if key not in before or ("error" in before[key] and "error" not in value)}
        cache.put(list(missing.items()))
        new += len(missing)
        batch.clear()

    for key, value in items:
        total += 1
        batch.setdefault(key, secrets.scrub(value, known))
        if len(batch) >= AT_ONCE:
            flush()
    if batch:
        flush()
    return new, total


def take_over(cache: CallCache, folder: Path) -> None:
    """Store the replies that an archive brought into a session's folder; their file is then gone."""
    brought = folder / FILE
    if not brought.is_file() or brought.is_symlink():
        return
    with Lock(folder / ".lock"):  # another kernel may have it
        if brought.is_file():
            take(cache, read(brought))
            brought.unlink()
