"""Python values as Arrow arrays: the same as pyarrow makes, without pandas."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbdream.arrays import array, int64s

SCALARS = [st.text(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.none(), st.binary(), st.lists(st.integers(0, 9))]


@settings(max_examples=300, deadline=None)
@given(st.one_of([st.lists(st.one_of(scalar, st.none()), max_size=30) for scalar in SCALARS]))
def test_it_is_what_pyarrow_makes(values: list[Any]) -> None:
    made, wanted = array(values), pa.array(values)
    made.validate(full=True)
    assert made.type == wanted.type
    assert made.null_count == wanted.null_count
    assert repr(made.to_pylist()) == repr(wanted.to_pylist())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.text()), max_size=6))
def test_mixed_values_are_taken_or_refused_alike(values: list[Any]) -> None:
    try:
        wanted = pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        with pytest.raises(type(error)):
            array(values)
    else:
        assert array(values).equals(wanted)


def test_half_a_character_is_refused_alike() -> None:
    with pytest.raises(UnicodeEncodeError):
        array(["a\ud800"])


def test_row_numbers() -> None:
    assert int64s(range(5)).equals(pa.array(range(5), pa.int64()))
    assert int64s([3, 1]).equals(pa.array([3, 1], pa.int64()))


def test_pandas_stays_out() -> None:
    code = (
        "import sys; from nbdream.arrays import array, int64s; array(['a', None]); array([1]); array([1.5]); array([True]); array([None])"
    )
    subprocess.run([sys.executable, "-c", f"{code}; int64s(range(3)); assert 'pandas' not in sys.modules"], check=True)
