"""JSON by orjson says what the standard library says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdream import quickjson

TEXT = st.text(st.characters())  # half characters among them
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(TEXT, parts, max_size=4),
    max_leaves=20,
)


@given(TEXT)
def test_a_text_is_written_as_the_standard_library_writes_it(text: str) -> None:
    assert quickjson.quoted(text) == json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")


@given(VALUES)
def test_what_is_written_is_read_again(value: Any) -> None:
    read = json.dumps(value)
    assert quickjson.loads(read) == quickjson.loads(read.encode()) == value
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        with pytest.raises(UnicodeEncodeError):
            quickjson.dumps(value)
    else:
        assert json.loads(quickjson.dumps(value)) == value


@pytest.mark.parametrize("text", ["", "{", '{"a":1', "nul", '{"a":1} x', b"\xff"])
def test_what_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has words of its own
        quickjson.loads(text)


def test_what_is_too_deep_is_refused() -> None:
    with pytest.raises(RecursionError):
        quickjson.loads("[" * 100_000)
