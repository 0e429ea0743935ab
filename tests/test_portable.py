"""Code of a notebook as the source of a module."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdream.errors import ArgumentError
from nbdream.fingerprint import digest
from nbdream.portable import load, module_source
from tests.notebook import Shell

ROOT = Path(__file__).parents[1]


@pytest.fixture
def shell() -> Iterator[Shell]:
    made = Shell()
    yield made
    made.close()


CELLS = {
    "a function and what it uses": (
        (
            "import math\nfrom collections import Counter as Count\nBASE = 2.5\ndef half(x):\n    return x / 2\n"
            "def made(xs, power=3, *, scale=BASE):\n    '''Words.'''\n    total = sum(half(x) ** power for x in xs)\n"
            "    return math.sqrt(total) * scale + Count(xs)[1]"
        ),
        "made([1, 2, 1])",
    ),
    "a lambda": ("K = [1, 2, {'a': (3, 4)}]\nmade = lambda x: x + K[2]['a'][0]", "made(1)"),
    "a closure": (
        "def outer(n):\n    step = n * 2\n    def inner(x):\n        return x + step\n    return inner\nmade = outer(4)",
        "made(1)",
    ),
    "two closures over other things": (
        (
            "def outer(n):\n    def inner():\n        nonlocal n\n        n += 1\n        return n\n    return inner\n"
            "a, b = outer(1), outer(5)\ndef made():\n    return b() - a()"
        ),
        "made()",
    ),
    "functions that need each other": (
        "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n != 0 and even(n - 1)\nmade = even",
        "made(10)",
    ),
    "a class and its base": (
        (
            "import abc\nSTART = 7\nclass Base(abc.ABC):\n    start: int = START\n    def go(self):\n        return self.step() + "
            "self.start\n"
            "class made(Base):\n    def __init__(self, by=3):\n        super().__init__()\n        self.by = by\n"
            "    @property\n    def twice(self):\n        return 2 * self.by\n    def step(self):\n        return self.twice"
        ),
        "made(5).go()",
    ),
    "a dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass made:\n    x: int = 3\n    y: list = dataclasses.field(default_factory=list)",
        "(made(4).x, made().y)",
    ),
    "an object": (
        (
            "class Counter:\n    def __init__(self, most):\n        self.most, self.seen = most, {'a': [1.5, None, True]}\n"
            "    def left(self):\n        return self.most - self.seen['a'][0]\nmade = Counter(9)"
        ),
        "made.left()",
    ),
    "a part of a function": (
        "import functools\ndef add(a, b, c=0):\n    return a + b + c\nmade = functools.partial(add, 1, c=5)",
        "made(2)",
    ),
    "a name that hides a builtin": ("def sum(xs):\n    return 99\ndef made(xs):\n    return sum(xs)", "made([1])"),
    "something installed": ("from json import dumps as made", "made([1])"),
    "a function that calls itself": ("def made(n):\n    return 1 if n < 2 else n * made(n - 1)", "made(5)"),
    "infinity and bytes": ("INF, RAW, NOT = float('inf'), b'\\x00a', {1, 2}\ndef made():\n    return (INF, RAW, sorted(NOT))", "made()"),
}


@pytest.mark.parametrize("what", CELLS)
def test_it_does_the_same_in_another_process(shell: Shell, what: str) -> None:
    cell, asked = CELLS[what]
    shell.run(cell)
    text = module_source({"made": shell["made"]})
    done = subprocess.run([sys.executable, "-c", f"{text}\nprint(repr({asked}))"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == repr(shell.run(asked))


def test_what_travels_is_what_counts(shell: Shell) -> None:
    shell.run("K = 3\ndef made(x):\n    return x * K")
    first = module_source({"made": shell["made"]})
    assert digest(load(first, "<first>").made) == digest(shell["made"])
    shell.run("K = 4")
    assert module_source({"made": shell["made"]}) != first


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("import threading\nlock = threading.Lock()\ndef made():\n    return lock", "made uses lock, a lock"),
        ("def made():\n    return get_ipython()", "made uses get_ipython"),
        ("import functools\n@functools.cache\ndef made():\n    return 1", "made"),
        ("made = eval('lambda x: x')", "the source of made is not at hand"),
        ("def made():\n    return open_file.read()\nopen_file = open('/dev/null')", "made uses open_file"),
    ],
)
def test_what_cannot_travel_is_named(shell: Shell, cell: str, words: str) -> None:
    shell.run(cell)
    with pytest.raises(ArgumentError) as raised:
        module_source({"made": shell["made"]})
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_several_share_what_they_use(shell: Shell) -> None:
    shell.run("K = 3\ndef one(x):\n    return x * K\ndef two(x):\n    return one(x) + K")
    text = module_source({"one": shell["one"], "two": shell["two"]})
    assert text.count("K = 3") == text.count("def one") == 1
    made: Any = load(text, "<shared>")
    assert made.two(2) == 9
