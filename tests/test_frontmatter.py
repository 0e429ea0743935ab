from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nbdream.errors import ArgumentError
from nbdream.frontmatter import parse_yaml, split_body
from tests import hostile


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.5e+2", -50.0),
        ("12e03", 12000.0),
        ("1e400", math.inf),
        ("-0.0", -0.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("+.inf", math.inf),
        ("1", 1),
        ("-1", -1),
        ("+12", 12),
        ("012", 12),
        ("0o14", 12),
        ("0x1F", 31),
        ("0b101", "0b101"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("true", True),
        ("FALSE", False),
        ("True", True),
        ("tRue", "tRue"),
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("null", None),
        ("~", None),
        ("NULL", None),
        ("nULL", "nULL"),
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01T10:00:00Z", "2026-01-01T10:00:00Z"),
        ("'1'", "1"),
        ('"true"', "true"),
        ('"\\u00e9"', "é"),
        ("[1, a, 'b', null]", [1, "a", "b", None]),
        ("{r: 8}", {"r": 8}),
        ("{50256: -100}", {50256: -100}),
        ("- 1\n- 2", [1, 2]),
        ("<<", "<<"),
        ("=", "="),
        ("", None),
        ("# only a comment", None),
        ("|\n  a\n  b\n", "a\nb\n"),
        (">-\n  a\n  b\n", "a b"),
        ("inf", "inf"),
        ("nan", "nan"),
        ("é😀", "é😀"),
        ("1.2.3", "1.2.3"),
        ("1e", "1e"),
        ("+", "+"),
        (".", "."),
        ("-", [None]),
        ("0o9", "0o9"),
        ("[&a 1, *a]", [1, 1]),
    ],
)
def test_the_core_types_of_yaml_1_2(text: str, value: Any) -> None:
    read = parse_yaml(text)
    assert read == value
    assert type(read) is type(value)


def test_not_a_number_is_one() -> None:
    assert math.isnan(parse_yaml(".nan"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.text(max_size=9), v),
    )
)
def test_json_is_yaml(value: Any) -> None:
    text = json.dumps(value)
    assume("\\u" not in text)
    assert parse_yaml(text) == value


BODY = "---\nsystem: You are careful.\ntop_p: 1.0\nlora: {r: 8}\n---\n\nWrite.\n---\nend\n"


def test_front_matter_is_what_stands_between_the_first_two_bars() -> None:
    assert split_body(BODY) == ({"system": "You are careful.", "top_p": 1.0, "lora": {"r": 8}}, "\nWrite.\n---\nend\n")
    assert split_body(BODY.replace("\n", "\r\n"))[0] == split_body(BODY)[0]
    assert split_body("---\n---\nx") == ({}, "x")
    assert split_body("---\n# nothing\n---") == ({}, "")
    for plain in ("x", "", "\n---\na: 1\n---\nx", " ---\na: 1\n---", "----\na: 1\n---", "--- x\na\n---", "a\n---\nb: 1\n---\n"):
        assert split_body(plain) == ({}, plain)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("---\na: 1\nb", ["line 1:", "not closed", "`---`"]),
        ("---\na: 1\na: 2\n---\n", ["line 3:", "'a' is given twice"]),
        ("---\na: {b: 1, b: 2}\n---\n", ["line 2:", "'b' is given twice"]),
        ("---\nx: 1\nsystem: Note: careful\n---\n", ["line 3:", "quote a text that has ': '"]),
        ("---\na:\n\tb: 1\n---\n", ["line 3:", "indent with spaces"]),
        ("---\na: 1\nb: @x\n---\n", ["line 3:", "quote a text that begins"]),
        ("---\na: {{ x }}\n---\n", ["line 2:", "quote a text that has braces"]),
        ("---\na: 'x\n---\n", ["line", "close the quotes"]),
        ("---\na: [1, 2\n---\n", ["line"]),
        ("---\n- 1\n---\n", ["line 2:", "not a mapping"]),
        ("---\njust words\n---\n", ["line 2:", "not a mapping"]),
        ("---\n1: 2\n---\n", ["line 2:", "not a name"]),
        ("---\na: !!python/name:os.system x\n---\n", ["line 2:", "tag"]),
        ("---\na: !!python/object/apply:os.system ['true']\n---\n", ["line 2:", "tag"]),
        ("---\na: !x 1\n---\n", ["tag"]),
        ("---\na: !!str 1\n---\n", ["tag"]),
        ("---\na: ! 1\n---\n", ["tag"]),
        ("---\na: &a [*a]\n---\n", ["line 2:", "inside of what it stands for"]),
        ("---\na: *b\n---\n", ["line 2:", "undefined alias"]),
        ("---\na: x\x00y\n---\n", ["line 2:", "control character"]),
        ("---\nok: 1\na: \ud800\n---\n", ["line 3:", "control character"]),
        ("---\na: " + "9" * 5000 + "\n---\n", ["line 2:", "too many digits"]),
        ("---\na: " + "[" * 5000 + "\n---\n", ["line"]),
        ("---\n? [a]\n: 1\n---\n", ["line 2:"]),
        ("---\na: 1\n...\nb: 2\n---\n", ["line"]),
        ("---\na: 1\n b: 2\n---\n", ["line 3:"]),
    ],
)
def test_what_is_malformed_is_one_line_with_its_number(body: str, words: list[str]) -> None:
    with pytest.raises(ArgumentError) as refused:
        split_body(body)
    for word in words:
        assert word in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300
    with pytest.raises(ArgumentError, match=r"line \d+"):
        split_body(body, first_line=2)


def test_lines_count_from_where_the_caller_says() -> None:
    with pytest.raises(ArgumentError, match="line 12:"):
        split_body("---\na: 1\na: 2\n---\n", first_line=10)


def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    started = time.perf_counter()
    with pytest.raises(ArgumentError, match="more than 100,000 values"):
        parse_yaml("\n".join(lines))
    assert time.perf_counter() - started < 2


def test_hostile_texts_are_texts_or_one_line() -> None:
    for text in hostile.HOSTILE:
        for body in (f"---\nkey: {text}\n---\nrest", f"---\n{text}\n---\nrest"):
            try:
                said = json.dumps(split_body(body))
            except ArgumentError as error:
                said = str(error)
            assert "\n" not in said
