from __future__ import annotations

import datetime
import decimal
import enum
import functools
import importlib
import importlib.util
import json
import linecache
import math
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbdream.columns import ColumnDigest
from nbdream.errors import FingerprintError
from nbdream.fingerprint import (
    canonical,
    canonical_json,
    difference,
    digest,
    form_digest,
    form_json,
    function_code,
    path_digest,
)

ROOT = Path(__file__).parent.parent
SAMPLE = Path(__file__).parent / "sample_functions.py"

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()))
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.just("$"), inner, max_size=4),
    max_leaves=20,
)

_numbers = iter(range(10**9))


def defined(source: str, name: str = "f", **values: Any) -> Any:
    """What ``name`` is after running ``source`` as a notebook runs a cell: its text is known, no file holds it."""
    filename = f"<cell {next(_numbers)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = {"__name__": "__main__", **values}
    exec(compile(source, filename, "exec", dont_inherit=True), namespace)
    return namespace[name]


def code_digest(source: str, name: str = "f", **values: Any) -> str:
    return digest(defined(source, name, **values))


# Values


class Colour(enum.Enum):
    RED = 1


class Shade(enum.Enum):
    RED = 1


@dataclass
class Point:
    x: int
    y: int


@dataclass
class Spot:
    x: int
    y: int


DISTINCT: list[Any] = [
    None,
    True,
    False,
    1,
    0,
    1.0,
    0.0,
    -0.0,
    "1",
    "1.0",
    "None",
    "true",
    "",
    b"",
    b"1",
    [],
    {},
    set(),
    [1],
    {1},
    {"1": 1},
    {1: 1},
    {"$": 1},
    {"$": "set", "items": []},
    [[]],
    [None],
    math.nan,
    math.inf,
    -math.inf,
    "nan",
    Path("1"),
    Path("1.0"),
    datetime.date(2026, 1, 1),
    datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "2026-01-01",
    decimal.Decimal(1),
    decimal.Decimal("1.0"),
    1j,
    range(1),
    slice(1),
    Colour.RED,
    Shade.RED,
    Colour,
    Point(1, 2),
    Point(2, 1),
    Spot(1, 2),
    {"x": 1, "y": 2},
    Point,
    len,
    max,
    str,
    int,
    "".join,
    "a".join,
    re.compile("1"),
    re.compile("1", re.IGNORECASE),
    np.arange(3),
    np.arange(3.0),
    np.arange(3).reshape(1, 3),
    np.array([]),
    np.array(["1"]),
    10**5000,
    10**5000 + 1,
    "\ud800",
    "\udc00",
    "\\ud800",
    "\U0001f600",
    "\ud83d\ude00",
    datetime.timedelta(1),
    datetime.time(1),
    ...,
    threading.Lock,
    math,
    json,
    functools.partial(max, 1),
    functools.partial(max, key=1),
    functools.partial(max),
    Point(1, 2).__eq__,
]


def test_distinct_values_never_collide() -> None:
    texts = [canonical_json(value) for value in DISTINCT]
    clashes = [(a, b) for (a, x), (b, y) in combinations(zip(DISTINCT, texts, strict=True), 2) if x == y]
    assert clashes == []


def test_what_counts_as_the_same() -> None:
    for one, other in [
        ((1, 2), [1, 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1: 2, 3: 4}, {3: 4, 1: 2}),
        ({"a", "b", "c"}, frozenset("cba")),
        (np.int64(5), 5),
        (np.float64(0.5), 0.5),
        (np.bool_(True), True),
        (np.arange(6).reshape(2, 3).T.copy(), np.arange(6).reshape(2, 3).T),
        (np.arange(3, dtype=">i8"), np.arange(3, dtype="<i8")),
        (Path("a") / "b", Path("a/b")),
    ]:
        assert digest(one) == digest(other), (one, other)


@given(json_values)
@settings(max_examples=100)
def test_a_form_is_json_that_survives_a_file(value: Any) -> None:
    form = canonical(value)
    text = canonical_json(value)
    text.encode()  # valid UTF-8, whatever the value held
    read = json.loads(json.dumps(form, ensure_ascii=False))
    assert form_json(read) == text
    assert form_digest(read) == digest(value)
    assert not isinstance(form, dict) or "$" not in form or canonical(form) is form


@given(json_values, json_values)
@settings(max_examples=100)
def test_different_json_is_different(one: Any, other: Any) -> None:
    same = repr(one) == repr(other) or (canonical_json(one) == canonical_json(other))
    assert same == (repr(_sorted(one)) == repr(_sorted(other)))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def test_other_packages_values_count_by_content() -> None:
    pa, pd, pl = pytest.importorskip("pyarrow"), pytest.importorskip("pandas"), pytest.importorskip("polars")
    frame = {"a": [1, 2], "b": ["x", None]}
    for make in (pa.table, pd.DataFrame, pl.DataFrame):
        assert digest(make(frame)) == digest(make(frame))
        assert digest(make(frame)) != digest(make({**frame, "a": [1, 3]}))
        assert digest(make(frame)) != digest(make({"c": frame["a"], "b": frame["b"]}))
    assert digest(pa.scalar(1)) != digest(pa.scalar(2))
    assert digest(pd.Series([1, 2])) != digest(pd.Series([1, 2], index=[1, 0]))


def test_settings_of_the_training_libraries_count_by_what_they_say() -> None:
    peft = pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    assert digest(peft.LoraConfig(r=8)) == digest(peft.LoraConfig(r=8))
    assert digest(peft.LoraConfig(r=8)) != digest(peft.LoraConfig(r=16))
    assert digest(torch.float16) != digest(torch.bfloat16)
    assert digest(torch.tensor([1.0])) == digest(torch.tensor([1.0]))
    assert digest(torch.tensor([1.0])) != digest(torch.tensor([2.0]))
    assert digest(torch.device("cpu")) != digest(torch.device("cuda", 1))


def test_pydantic_classes_count_by_schema_and_code() -> None:
    pydantic = pytest.importorskip("pydantic")
    fields = "class Triple(pydantic.BaseModel):\n    subject: str\n    weight: {kind} = 1\n"
    source = fields + "    def text(self):\n        return self.subject{more}\n"
    made = {
        (kind, more): code_digest(source.format(kind=kind, more=more), "Triple", pydantic=pydantic)
        for kind in ("int", "float")
        for more in ("", " + '!'")
    }
    assert len(set(made.values())) == 4
    assert made["int", ""] == code_digest(source.format(kind="int", more=""), "Triple", pydantic=pydantic)
    triple = defined(source.format(kind="int", more=""), "Triple", pydantic=pydantic)
    assert digest(triple(subject="a")) != digest(triple(subject="b"))
    assert digest(list[triple]) != digest(triple)


def test_models_count_by_their_identity_and_others_by_what_they_say() -> None:
    class Model:
        def __init__(self, **identity: Any) -> None:
            self.identity = identity
            self.socket = socket

    class Handle:
        def __init__(self, said: str) -> None:
            self.said = said

        def __nbdream_fingerprint__(self) -> str:
            return self.said

    assert canonical(Model(kind="openai", model="gpt"))["identity"] == {"kind": "openai", "model": "gpt"}
    assert digest(Model(model="a")) != digest(Model(model="b"))
    assert digest(Handle("a")) == digest(Handle("a")) != digest(Handle("b"))


class Holder:
    def __init__(self, state: Any) -> None:
        self.state = state


def _generator() -> Iterator[int]:
    yield 1


def test_what_cannot_be_told_is_named_with_its_place() -> None:
    with socket.socket() as open_socket:
        for value, place in [
            ({"callback": Holder(open_socket)}, "callback.state: a socket.socket"),
            ({"a": [1, {"b b": open_socket}]}, "a[1]['b b']: a socket.socket"),
            (_generator(), "a generator"),
        ]:
            with pytest.raises(FingerprintError) as refused:
                canonical(value)
            assert place in str(refused.value)
            assert "version=" in str(refused.value)


def test_a_value_inside_of_itself_is_refused() -> None:
    for cycle in ([], {}):
        if isinstance(cycle, list):
            cycle.append([cycle])
        else:
            cycle["a"] = [cycle]
        with pytest.raises(FingerprintError, match="contains itself"):
            canonical({"x": cycle})
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(FingerprintError, match="nested too deeply"):
        canonical(deep)
    shared = [1]
    assert digest([shared, shared]) == digest([[1], [1]])


def test_a_reduce_is_asked_and_nothing_is_called() -> None:
    class Bomb:
        def __reduce_ex__(self, _: Any) -> Any:
            return os.system, ("echo never",)

    assert canonical(Bomb())["args"] == ["echo never"]


def test_a_path_digest_is_of_the_content(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a.txt").write_text("a")
    assert path_digest(tmp_path / "one") == path_digest(tmp_path / "two")
    (tmp_path / "two" / "sub" / "a.txt").rename(tmp_path / "two" / "sub" / "b.txt")
    assert path_digest(tmp_path / "one") != path_digest(tmp_path / "two")
    assert path_digest(tmp_path / "one/sub/a.txt") == path_digest(tmp_path / "two/sub/b.txt")


# Columns


def _cut(values: list[Any], cuts: list[int]) -> str:
    column = ColumnDigest()
    start = 0
    for cut in sorted(cuts):
        column.update(values[start : min(cut, len(values))])
        column.hexdigest()  # looking changes nothing
        start = max(start, min(cut, len(values)))
    column.update(values[start:])
    assert column.rows == len(values)
    return column.hexdigest()


@given(st.lists(st.integers(0, 9000), max_size=5), st.lists(st.integers(0, 9000), max_size=5), st.integers(0, 9000))
@settings(max_examples=30, deadline=None)
def test_a_column_digest_does_not_know_how_it_was_cut(cuts: list[int], others: list[int], rows: int) -> None:
    values = [f"row {i}" if i % 7 else None for i in range(rows)]
    assert _cut(values, cuts) == _cut(values, others)


@given(st.lists(json_values, max_size=6), st.lists(json_values, max_size=6))
@settings(max_examples=100, deadline=None)
def test_columns_are_the_same_when_their_values_are(one: list[Any], other: list[Any]) -> None:
    assert (_cut(one, []) == _cut(other, [])) == (canonical_json(one) == canonical_json(other))


def test_a_column_counts_order_number_and_kind() -> None:
    columns: list[list[Any]] = [
        [],
        [None],
        [None, None],
        [""],
        ["a", "b"],
        ["b", "a"],
        ["ab"],
        [1],
        [1.0],
        [True],
        ["1"],
        [[1]],
        [{"a": 1}],
        [math.nan],
        ["\ud800"],
        [b"a"],
        [datetime.date(2026, 1, 1)],
        [["a", "b"]],
    ]
    assert len({_cut(column, []) for column in columns}) == len(columns)
    assert _cut([{"a": 1, "b": 2}], []) == _cut([{"b": 2, "a": 1}], [])
    assert _cut([1, math.nan], []) == _cut([1, math.nan], [1])


# Code

SCORE = '''
def f(row, k=2):
    """Score a row."""
    # twice
    total = row["n"] * k
    return helper(total, 'x')  # here
'''
HELPER = "def helper(total, word):\n    return LIMIT + total\n"


def helped(limit: int = 3, helper: str = HELPER) -> Any:
    return defined(helper, "helper", LIMIT=limit)


REFORMATTED = """
def f(row,
      k = (2)):
    'Another docstring.'

    total = (row['n']
             * k); return helper(total,
                                 "x",)
"""


def test_layout_comments_and_docstrings_do_not_count() -> None:
    assert code_digest(SCORE, helper=helped()) == code_digest(REFORMATTED, helper=helped())
    bare = SCORE.replace('    """Score a row."""\n', "")
    assert code_digest(SCORE, helper=helped()) == code_digest(bare, helper=helped())
    assert code_digest("def f():\n    'only a docstring'") == code_digest("def f():\n    pass")
    assert code_digest("def f(x):\n    return f'a' f'{x}b' 'c'") == code_digest("def f(x):\n    return f'a{x}bc'")
    assert code_digest("def f(x): return x") == code_digest("def g(x): return x", "g")


@pytest.mark.parametrize(
    "change",
    [
        ("* k", "+ k"),
        ("k=2", "k=3"),
        ("'x'", "'y'"),
        ('"n"', '"m"'),
        ("def f", "async def f"),
        ("row, k", "row, *, k"),
        ("k=2", "k"),
        ("total,", "total + 1,"),
        ("return helper", "helper"),
        ("row, k", "row, /, k"),
        ("total =", "total: int ="),
    ],
)
def test_what_a_function_does_counts(change: tuple[str, str]) -> None:
    changed = SCORE.replace(*change)
    assert changed != SCORE
    assert code_digest(changed, helper=helped()) != code_digest(SCORE, helper=helped())


def test_what_a_function_captures_counts() -> None:
    base = code_digest(SCORE, helper=helped())
    assert code_digest(SCORE, helper=helped(limit=4)) != base
    assert code_digest(SCORE, helper=helped(helper=HELPER.replace("LIMIT +", "LIMIT -"))) != base
    assert code_digest(SCORE, helper=helped(limit=3)) == base
    made = "def make(k):\n    def f(row):\n        return row * k\n    return f\n"
    make = defined(made, "make")
    assert digest(make(2)) == digest(make(2)) != digest(make(3))
    assert digest(functools.partial(make(2), 1)) != digest(functools.partial(make(2), 2))
    kept = "def f(row):\n    return [helper(r) for r in row]\n"
    assert code_digest(kept, helper=len) != code_digest(kept, helper=max)
    assert code_digest(kept) != code_digest(kept, helper=max)  # not there yet


def test_a_long_captured_value_is_kept_as_its_digest() -> None:
    form = function_code(defined("def f(): return WORDS", WORDS=list(range(100_000))))
    assert form["globals"]["WORDS"]["length"] == 100_000
    assert len(json.dumps(form)) < 1000
    assert len(json.dumps(function_code(defined("def f(): return RANDOM", RANDOM=random.Random(1))))) < 1000
    assert digest(form) != digest(function_code(defined("def f(): return WORDS", WORDS=list(range(1, 100_001)))))


def test_lambdas_on_one_line_are_told_apart() -> None:
    one, two, three = lambda x: x + 1, lambda x: x + 2, lambda x: lambda y: x + y
    assert len({digest(one), digest(two), digest(three), digest(three(1)), digest(three(2))}) == 5
    assert function_code(two)["$shown"]["source"] == "lambda x: x + 2"
    pair = defined("f = [lambda é: 'é', lambda é: 'è']")
    assert function_code(pair[0])["$shown"]["source"] == "lambda é: 'é'"
    assert function_code(pair[1])["$shown"]["source"] == "lambda é: 'è'"
    split = defined("f = [(lambda x:\n  x +\n 1), (lambda x: x * 2)]")
    assert digest(split[0]) == code_digest("f = lambda x: x + 1")
    loop = [lambda x, i=i: x + i for i in range(3)]
    assert len({digest(function) for function in loop}) == 3


def test_functions_that_call_each_other_end() -> None:
    source = "def f(n):\n    return g(n - 1) if n else 0\ndef g(n):\n    return f(n - {by})\n"
    assert code_digest(source.format(by=1)) == code_digest(source.format(by=1))
    assert code_digest(source.format(by=1)) != code_digest(source.format(by=2))
    many = (
        "\n".join(f"def f{i}(x): return f{i + 1}(x) + f{i + 1}(x) + f{min(i + 2, 60)}(x)" for i in range(60)) + "\ndef f60(x): return x\n"
    )
    assert len(json.dumps(function_code(defined(many, "f0")))) < 40_000


def test_decorators_count_by_what_they_made_of_the_function() -> None:
    source = """
import functools
def twice(function):
    @functools.wraps(function)
    def wrapper(x):
        return {times} * function(x)
    return wrapper
@twice
@functools.lru_cache(maxsize={size})
def f(x):
    return x + {plus}
"""
    base = code_digest(source.format(times=2, size=1, plus=1))
    assert base == code_digest(source.format(times=2, size=9, plus=1))
    assert base != code_digest(source.format(times=3, size=1, plus=1))
    assert base != code_digest(source.format(times=2, size=1, plus=2))


def test_a_decorator_of_an_installed_package_hides_nothing() -> None:
    torch = pytest.importorskip("torch")
    source = "@torch.no_grad()\ndef f(x):\n    return x + {}\n"
    assert code_digest(source.format(1), torch=torch) == code_digest(source.format(1), torch=torch)
    assert code_digest(source.format(1), torch=torch) != code_digest(source.format(2), torch=torch)


CLASS = '''
class f(Base):
    """A step."""
    limit = 3
    def run(self):
        return self.helper(2)
    def helper(self, x):
        return x * self.limit
'''


@pytest.mark.parametrize(
    "change", [("limit = 3", "limit = 4"), ("helper(2)", "helper(3)"), ("x * self", "x + self"), ("limit = 3", "limits = 3")]
)
def test_classes_count_by_methods_attributes_and_bases(change: tuple[str, str]) -> None:
    base = defined("class Base:\n    def go(self):\n        return 1\n", "Base")
    assert code_digest(CLASS, Base=base) == code_digest(CLASS.replace("A step.", "Another."), Base=base)
    assert code_digest(CLASS, Base=base) != code_digest(CLASS.replace(*change), Base=base)
    other = defined("class Base:\n    def go(self):\n        return 2\n", "Base")
    assert code_digest(CLASS, Base=base) != code_digest(CLASS, Base=other)
    assert code_digest(CLASS, Base=object) != code_digest(CLASS, Base=base)


def test_bound_methods_and_callables_count_with_their_state() -> None:
    kind = defined("class f:\n    def __init__(self, k): self.k = k\n    def __call__(self, x): return x * self.k\n")
    assert digest(kind(2)) == digest(kind(2)) != digest(kind(3))
    assert digest(kind(2).__call__) == digest(kind(2).__call__) != digest(kind(3).__call__)


def test_dataclass_fields_count() -> None:
    source = "import dataclasses\n@dataclasses.dataclass\nclass f:\n    a: int = {}\n    b: list = dataclasses.field(default_factory={})\n"
    digests = {code_digest(source.format(*parts)) for parts in ((1, "list"), (2, "list"), (1, "dict"), (1, "list"))}
    assert len(digests) == 3


def _module(folder: Path, text: str, name: str = "own_helpers") -> Any:
    (folder / f"{name}.py").write_text(text)
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.setitem(sys.modules, "own_helpers", None)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return lambda text: _module(tmp_path, text)


def test_of_the_users_modules_counts_what_is_used(own_module: Callable[[str], Any]) -> None:
    text = "LIMIT = 3\ndef used(x):\n    return x + LIMIT\ndef other(x):\n    return x\n"
    source = "def f(x):\n    return helpers.used(x)\n"
    whole = "def f(x):\n    return getattr(helpers, x)\n"

    def both(text: str) -> tuple[str, str]:
        module = own_module(text)
        return code_digest(source, helpers=module), code_digest(whole, helpers=module)

    base = both(text)
    assert both(text.replace("other(x):\n    return x", "other(x):\n    return 2"))[0] == base[0]
    assert both(text.replace("other(x):\n    return x", "other(x):\n    return 2"))[1] != base[1]
    assert both(text.replace("x + LIMIT", "x * LIMIT"))[0] != base[0]
    assert both(text.replace("LIMIT = 3", "LIMIT = 5"))[0] != base[0]
    assert both("# a comment\n" + text) == base


def test_a_file_edited_after_its_import_is_not_what_runs(own_module: Callable[[str], Any], tmp_path: Path) -> None:
    module = own_module("def used(x):\n    return x + 1\n")
    assert "ast" in function_code(module.used)
    before = digest(module.used)
    edited = tmp_path / "own_helpers.py"
    edited.write_text("def used(x):\n    return x + 22\n")
    assert "ast" not in function_code(module.used)
    assert digest(own_module("def used(x):\n    return x + 22\n").used) != before


def test_installed_code_counts_by_name_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "def f(x):\n    return yaml.safe_load(x), json.loads(x)\n"
    yaml = pytest.importorskip("yaml")
    form = function_code(defined(source, yaml=yaml, json=json))
    assert form["globals"]["json"] == {"$": "module", "name": "json"}
    assert form["globals"]["yaml"] == {"$": "module", "name": "yaml", "package": "yaml", "version": yaml.__version__}
    assert function_code(yaml.safe_load)["version"] == yaml.__version__
    assert "version" not in function_code(canonical)  # nbdream itself: a new release makes nothing stale


def test_code_without_source_counts_by_what_it_does() -> None:
    def made(text: str) -> str:
        namespace: dict[str, Any] = {"__name__": "__main__"}
        exec(text, namespace)
        return digest(namespace["f"])

    assert made("def f(x): return x + 1") == made("# a comment\ndef f(x):\n    return x + 1")
    assert len({made(f"def f(x): return x + {n}") for n in range(3)}) == 3
    assert len({made(f"def f(x): return [y + {n} for y in x if y in {{'a', 'b'}}]") for n in range(3)}) == 3


def test_a_version_stands_for_the_code() -> None:
    with socket.socket() as open_socket:
        captures = defined("def f(x): return S", S=open_socket)
        with pytest.raises(FingerprintError, match=r"f\.S: a socket\.socket"):
            function_code(captures)
        assert digest(function_code(captures, version="1")) == digest(function_code(len, version=1))
        assert digest(function_code(captures, version="1")) != digest(function_code(captures, version="2"))


def test_the_same_in_ipython_as_in_a_script() -> None:
    shell_module = pytest.importorskip("IPython.core.interactiveshell")
    shell = shell_module.InteractiveShell()
    try:
        assert shell.run_cell("LIMIT = 3\n\n\n" + HELPER + "# more\n" + SCORE).success
        assert digest(shell.user_ns["f"]) == code_digest("LIMIT = 3\n" + HELPER + SCORE)
        assert shell.run_cell("g = [lambda x: x + 1, lambda x: x + 2]").success
        assert digest(shell.user_ns["g"][1]) == code_digest("f = lambda x: x + 2")
        assert shell.run_cell("def h():\n    return get_ipython()\nclass Own:\n    a = 1\n    def run(self):\n        return LIMIT").success
        function_code(shell.user_ns["h"])
        assert digest(shell.user_ns["Own"]) == code_digest("class Own:\n    a = 1\n    def run(self): return LIMIT", "Own", LIMIT=3)
        own = digest(shell.user_ns["Own"])
        assert shell.run_cell("class Own:\n    a = 1\n    def run(self):\n        return LIMIT + 1").success
        assert digest(shell.user_ns["Own"]) != own
    finally:
        shell.history_manager.end_session()
        shell_module.InteractiveShell.clear_instance()


def _sample(python: list[str], **environment: str) -> dict[str, str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(random.randrange(1000)), **environment}
    done = subprocess.run([*python, str(SAMPLE)], env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_the_same_in_every_process() -> None:
    one, two = _sample([sys.executable]), _sample([sys.executable, "-O"])
    assert len(one) > 25
    assert one == two


@pytest.mark.parametrize("version", ["3.11.7", "3.12.1", "3.13.0", "3.14"])
def test_the_same_on_another_python(version: str) -> None:
    short = ".".join(version.split(".")[:2])
    if sys.version.startswith(short):
        pytest.skip(f"this is Python {short}")
    root = Path(os.environ.get("PYENV_ROOT", "/root/.pyenv")) / "versions"
    found = next(iter(sorted(root.glob(f"{short}*/bin/python"))), None) or shutil.which(f"python{short}")
    if found is None or subprocess.run([found, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"no Python {short} at hand")
    assert _sample([str(found)]) == _sample([sys.executable])


# Words

RECIPE: dict[str, Any] = {
    "kind": "Generate",
    "version": "1",
    "args": {"temperature": 0.7, "instruction": "Given the abstract, write a tweet to summarize the work.", "stop": ["a"]},
    "model": {"kind": "openai", "base_url": "https://api.openai.com/v1", "model": "gpt-4o-mini"},
    "inputs": {"rows": {"column": "abstract", "digest": "aa"}},
}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("args", "temperature"), 1.0, "temperature 0.7 → 1.0"),
        (("args", "top_p"), 1, "top_p not given → 1"),
        (("args", "stop"), None, "stop"),
        (("args", "instruction"), "Given the abstract, write a post to summarize the work.", "…n the abstract, write a tweet to summarize"),
        (("model", "model"), "gpt-4.1", "model openai gpt-4o-mini → gpt-4.1"),
        (("model", "base_url"), "http://127.0.0.1:8000/v1", "the model's base_url"),
        (("inputs", "rows", "digest"), "bb", "the content of input `rows` (column abstract) changed"),
        (("inputs", "rows", "column"), "title", "input `rows` reads column title, it read abstract"),
        (("version",), "2", "the version of the step '1' → '2'"),
        (("kind",), "Prompt", "the step is Prompt, it was Generate"),
    ],
)
def test_a_changed_recipe_is_told_in_words(path: tuple[str, ...], value: Any, words: str) -> None:
    new = json.loads(json.dumps(RECIPE))
    at = new
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    assert difference(RECIPE, RECIPE) == []
    said = difference(RECIPE, new)
    assert len(said) == 1
    assert words.replace("'1' → '2'", "1 → 2") in said[0]


def _with_code(source: str, **values: Any) -> dict[str, Any]:
    return {**RECIPE, "code": json.loads(json.dumps(function_code(defined(source, "score", **values))))}


def test_changed_code_is_told_in_words() -> None:
    old = _with_code("def score(x):\n    return 2*x + LIMIT\n", LIMIT=3)
    assert difference(old, _with_code("def score(x):\n    return (2*x + LIMIT)  # same\n", LIMIT=3)) == []
    assert difference(old, _with_code("def score(x):\n    # new\n    return 3*x + LIMIT\n", LIMIT=3)) == [
        "the code of `score` changed (`return 2 * x + LIMIT` → `return 3 * x + LIMIT`)"
    ]
    assert difference(old, _with_code("def score(x):\n    return 2*x + LIMIT\n", LIMIT=4)) == ["the global `LIMIT` 3 → 4"]
    deep = _with_code("def score(x):\n    return helper(x)\n", helper=helped(limit=3))
    assert difference(deep, _with_code("def score(x):\n    return helper(x)\n", helper=helped(limit=5))) == ["the global `LIMIT` 3 → 5"]
    changed = helped(helper=HELPER.replace("LIMIT +", "LIMIT -"))
    assert difference(deep, _with_code("def score(x):\n    return helper(x)\n", helper=changed)) == [
        "the code of `helper` changed (`return LIMIT + total` → `return LIMIT - total`)"
    ]


def test_a_changed_class_or_package_is_told_in_words() -> None:
    old, new = ({"code": function_code(defined(CLASS.replace("3", limit), Base=object))} for limit in ("3", "4"))
    assert difference(old, new) == ["`f.limit` 3 → 4"]
    old, new = ({"code": {"$": "function", "name": "numpy.mean", "package": "numpy", "version": v}} for v in ("1.26", "2.0"))
    assert difference(old, new) == ["numpy 1.26 → 2.0"]


@given(json_values, json_values)
@settings(max_examples=100, deadline=None)
def test_there_are_words_exactly_when_something_changed(one: Any, other: Any) -> None:
    said = difference(canonical({"args": {"a": one}}), canonical({"args": {"a": other}}))
    assert bool(said) == (digest(one) != digest(other))
    assert all("\n" not in line for line in said)
