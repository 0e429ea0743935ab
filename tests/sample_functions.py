# ruff: noqa: C416, UP045
"""Functions, classes and values whose fingerprints must be the same on every version of Python; run, it prints them."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import json
import math
import re
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, Optional

from nbdream.fingerprint import digest

THRESHOLD = 3
WORDS = {"a": 1, "b": [1, 2.5, None]}
PATTERN = re.compile(r"\byes\b", re.IGNORECASE)


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"

    def shout(self) -> str:
        return self.name.upper()


@dataclasses.dataclass(frozen=True)
class Point:
    """A point."""

    x: int
    y: float = 0.5
    tags: list[str] = dataclasses.field(default_factory=list)

    def norm(self) -> float:
        return math.hypot(self.x, self.y)


class Pair(NamedTuple):
    left: int
    right: str | None = None

    def both(self) -> tuple[int, Any]:
        return self.left, self.right


class Base:
    scale = 2
    __slots__ = ("state",)

    def __init__(self, state: int) -> None:
        self.state = state

    @property
    def double(self) -> int:
        return self.state * self.scale

    @staticmethod
    def plain(x: int) -> int:
        return x + THRESHOLD

    @classmethod
    def make(cls) -> Base:
        return cls(1)

    @functools.cached_property
    def slow(self) -> int:
        return 1


class Child(Base):
    __slots__ = ("more",)

    def __init__(self, state: int) -> None:
        super().__init__(state)
        self.more = {"x": state}

    def __call__(self, row: dict[str, Any]) -> bool:
        return bool(row["n"] > self.double and PATTERN.search(row["text"]))


def strings(x: Any, y: str = "é😀") -> str:
    """Docstring."""
    w = 10
    return f"a{x!r:>{w}}bc{y}{x=}" + f"{x:}" + f"plain" + rf"\d{x}" + b"\x00".decode() + f"{{}}" + f"{x:%Y-%m}"  # noqa: F541


def numbers(x: float) -> Any:
    return [-1, 1_000, 0x10, 1e-4, 3j, ..., True, None, x**-2, 1 if x else 2, -x, not x, (x, *[x]), {**WORDS, "k": x}, 1 << 70]


def control(rows: list[Any]) -> Any:
    global THRESHOLD
    total = 0
    for i, row in enumerate(rows):
        try:
            total += row[i:] if (n := len(row)) > THRESHOLD else n
        except (TypeError, ValueError) as error:
            raise RuntimeError("no") from error
        else:
            continue
        finally:
            del row
    while total:
        total -= 1
        break
    else:
        assert total, "never"
    with open("x") as a, open("y") as b:
        pass
    match rows:
        case [1, *rest] if rest:
            return rest
        case {"a": x, **others}:
            return x, others
        case Point(x=0, y=yy) | Point(x=yy, y=0):
            return yy
        case None | "s":
            return a, b
    return {k: v for k, v in zip(rows, rows, strict=True)}, {r for r in rows}, (r for r in rows if r), [s for r in rows for s in r]


def comprehension(rows: list[Any]) -> list[Any]:
    return [helper(row) for row in rows if any(w in row for w in WORDS)]


def helper(row: Any) -> Any:
    return comprehension(row) if isinstance(row, list) else len(row) * THRESHOLD


async def later(x: Any, /, y: int, *args: int, z: int = 4, **kwargs: Any) -> Any:
    async with x as w:
        async for v in w:
            yield await v, y, z, args, kwargs


def outer(k: int) -> Any:
    unused = None

    def inner(row: Any) -> Any:
        nonlocal unused
        unused = row
        return row[k], json.dumps(row), math.pi

    return inner


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


@decorated
@functools.lru_cache(maxsize=10)
def cached(x: int) -> int:
    return x + 1


first, second, third = lambda x: x + 1, lambda x: x + 2, (lambda x: lambda y: y + x)


class Local:
    def method(self, row: Any) -> Any:
        return self.__secret(row)

    def __secret(self, row: Any) -> Literal["a"]:
        return __class__, super().__init__(), row  # type: ignore[return-value,name-defined]


CODE = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", None) == __name__ and not name.startswith("_")
} | {
    "third's": third(1),
    "outer's": outer(3),
    "partial": functools.partial(helper, 1, k=Point),
    "method": Child(3).__call__,
    "child": Child(2),
}

VALUES: dict[str, Any] = {
    "json": [None, True, False, 1, 1.0, -0.0, "", "é😀", [1, [2]], {"b": 1, "a": {"c": []}}],
    "odd": [math.nan, math.inf, -math.inf, "\ud800", 10**5000, 1e300, 5e-324, b"bytes", {1: "a", "1": "b", (1, 2): "c"}, {"$": "x"}],
    "sets": [{"b", "a", "c"}, frozenset({1, 2.5, "x", None})],
    "kinds": [Path("a/b"), datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), decimal.Decimal("1.10"), 3 + 4j],
    "classes": [Colour.RED, Colour.BLUE, Point(1), Pair(1), SimpleNamespace(a=1), range(3), slice(1, None), re.compile("a")],
    "containers": [Counter("aab"), OrderedDict(b=1, a=2), defaultdict(list, a=[1]), deque([1, 2])],
    "types": [int, list[Point], Optional[int], int | None, Literal["a", 1], len, "".upper, json.dumps, math, json.JSONEncoder],
    "objects": [Child(7), Base.plain, Base.make],
}


def fingerprints() -> dict[str, str]:
    """The digest of everything in this file."""
    return {name: digest(value) for name, value in (CODE | VALUES).items()}


if __name__ == "__main__":
    json.dump(fingerprints(), sys.stdout)
