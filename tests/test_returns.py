"""Every form in which a step may return rows, and what is refused."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from nbdream.errors import DataError, StepOutputError, StepOutputTypeError
from nbdream.steps.returns import LazyRowBatches, LazyRows, normalize, total_rows

ONE = ["out1"]
TWO = ["out1", "out2"]
LETTERS = ["a", "b", "c"]
NUMBERS = [1, 2, 3]
PAIRS = list(zip(LETTERS, NUMBERS, strict=True))
ROWS = [{"out1": letter, "out2": number} for letter, number in PAIRS]


def columns(value: Any, names: list[str], size: int = 2) -> dict[str, list[Any]]:
    """The whole of ``value`` as columns, read in small batches."""
    found: dict[str, list[Any]] = {name: [] for name in names}
    for batch in normalize(value, names, size=size):
        batch = batch.to_pydict() if isinstance(batch, pa.Table) else batch
        assert list(batch) == names
        for name, values in batch.items():
            found[name] += values
    return found


def lazy(value: Any) -> LazyRows:
    return LazyRows(value, total_num_rows=3)


def batches(value: Any) -> LazyRowBatches:
    return LazyRowBatches(value, total_num_rows=3)


def hf(**data: list[Any]) -> Any:
    import datasets

    return datasets.Dataset.from_dict(data)


def hf_stream(rows: list[dict[str, Any]]) -> Any:
    import datasets

    return datasets.IterableDataset.from_generator(lambda: iter(rows))


def pandas_frame(**data: list[Any]) -> Any:
    import pandas

    return pandas.DataFrame(data)


def polars_frame(**data: list[Any]) -> Any:
    import polars

    return polars.DataFrame(data)


TWO_COLUMNS = {
    "dict of columns": lambda: {"out1": LETTERS, "out2": NUMBERS},
    "dict in another order": lambda: {"out2": NUMBERS, "out1": LETTERS},
    "dict of tuples and ranges": lambda: {"out1": tuple(LETTERS), "out2": range(1, 4)},
    "dict of iterators": lambda: {"out1": iter(LETTERS), "out2": (n for n in NUMBERS)},
    "list of dicts": lambda: list(ROWS),
    "list of tuples": lambda: list(PAIRS),
    "list of lists": lambda: [list(pair) for pair in PAIRS],
    "tuple of columns": lambda: (LETTERS, NUMBERS),
    "tuple of iterators": lambda: (iter(LETTERS), map(int, NUMBERS)),
    "list of columns": lambda: [LETTERS, NUMBERS],
    "iterator of dicts": lambda: iter(ROWS),
    "iterator of tuples": lambda: iter(PAIRS),
    "iterator of columns": lambda: iter([LETTERS, NUMBERS]),
    "generator function": lambda: lambda: iter(ROWS),
    "hf dataset": lambda: hf(out1=LETTERS, out2=NUMBERS),
    "hf dataset in another order": lambda: hf(out2=NUMBERS, out1=LETTERS),
    "hf dataset with indices": lambda: hf(out1=LETTERS[::-1], out2=NUMBERS[::-1]).select([2, 1, 0]),
    "list of hf datasets": lambda: [hf(out1=LETTERS), hf(out2=NUMBERS)],
    "tuple of hf columns": lambda: (hf(x=LETTERS)["x"], hf(x=NUMBERS)["x"]),
    "dict of hf datasets": lambda: {"out1": hf(x=LETTERS), "out2": hf(y=NUMBERS)},
    "arrow table": lambda: pa.table({"out1": LETTERS, "out2": NUMBERS}),
    "dict of arrow arrays": lambda: {"out1": pa.array(LETTERS), "out2": pa.chunked_array([[1], [2, 3]])},
    "pandas frame": lambda: pandas_frame(out1=LETTERS, out2=NUMBERS),
    "polars frame": lambda: polars_frame(out1=LETTERS, out2=NUMBERS),
    "dict of series": lambda: {"out1": pandas_frame(x=LETTERS)["x"], "out2": polars_frame(x=NUMBERS)["x"]},
    "lazy generator function of dicts": lambda: lazy(lambda: iter(ROWS)),
    "lazy generator function of tuples": lambda: lazy(lambda: iter(PAIRS)),
    "lazy list": lambda: lazy(list(ROWS)),
    "lazy dict of generator functions": lambda: lazy({"out1": lambda: iter(LETTERS), "out2": NUMBERS}),
    "lazy tuple of generator functions": lambda: lazy((lambda: iter(LETTERS), lambda: iter(NUMBERS))),
    "lazy streamed dataset": lambda: lazy(hf_stream(ROWS)),
    "batches of dicts of columns": lambda: batches(lambda: iter([{"out1": ["a", "b"], "out2": [1, 2]}, {"out1": ["c"], "out2": [3]}])),
    "batches of tuples of columns": lambda: batches(lambda: iter([(["a", "b"], [1, 2]), (["c"], [3])])),
    "batches of lists of columns": lambda: batches(lambda: iter([[["a", "b", "c"], [1, 2, 3]]])),
    "batches of lists of dicts": lambda: batches(lambda: iter([ROWS[:2], ROWS[2:]])),
    "batches of lists of tuples": lambda: batches(lambda: iter([PAIRS[:2], PAIRS[2:]])),
    "batches of frames": lambda: batches(lambda: iter([pandas_frame(out1=["a", "b"], out2=[1, 2]), pandas_frame(out1=["c"], out2=[3])])),
    "an empty batch between": lambda: batches(lambda: iter([PAIRS[:2], [], PAIRS[2:]])),
}

ONE_COLUMN = {
    "list": lambda: LETTERS,
    "iterator": lambda: iter(LETTERS),
    "tuple of a list": lambda: (LETTERS,),
    "dict": lambda: {"out1": LETTERS},
    "list of dicts": lambda: [{"out1": letter} for letter in LETTERS],
    "list of 1-tuples": lambda: [(letter,) for letter in LETTERS],
    "hf dataset": lambda: hf(out1=LETTERS),
    "hf column": lambda: hf(out1=LETTERS)["out1"],
    "arrow array": lambda: pa.array(LETTERS),
    "pandas series": lambda: pandas_frame(other=LETTERS)["other"],
    "list of a series": lambda: [pandas_frame(other=LETTERS)["other"]],
    "lazy generator function": lambda: lazy(lambda: iter(LETTERS)),
    "lazy list of a generator function": lambda: lazy([lambda: iter(LETTERS)]),
    "batches of lists": lambda: batches(lambda: iter([["a", "b"], ["c"]])),
    "batches of a column in a list": lambda: batches(lambda: iter([[["a", "b"]], [["c"]]])),
    "batches of a column in a tuple": lambda: batches(lambda: iter([(["a", "b"],), (["c"],)])),
}


@pytest.mark.parametrize("form", TWO_COLUMNS)
def test_forms_of_two_columns(form: str) -> None:
    assert columns(TWO_COLUMNS[form](), TWO) == {"out1": LETTERS, "out2": NUMBERS}


@pytest.mark.parametrize("form", ONE_COLUMN)
def test_forms_of_one_column(form: str) -> None:
    assert columns(ONE_COLUMN[form](), ONE) == {"out1": LETTERS}


@pytest.mark.parametrize("value", ["abc", 5, 2.5, b"bytes"], ids=repr)
def test_one_bare_value_is_one_row(value: Any) -> None:
    assert columns(value, ONE) == {"out1": [value]}


def test_one_bare_row() -> None:
    assert columns({"out1": "a", "out2": 1}, TWO) == {"out1": ["a"], "out2": [1]}
    assert columns(("a", 1), TWO) == {"out1": ["a"], "out2": [1]}


@pytest.mark.parametrize("value", [None, [], iter(()), {"out1": []}, ([],)], ids=range(5))
def test_no_rows(value: Any) -> None:
    assert columns(value, ONE) == {"out1": []}


def test_values_that_are_dicts_lists_and_tuples() -> None:
    assert columns([{"x": 1}, {"x": 2}], ONE) == {"out1": [{"x": 1}, {"x": 2}]}
    assert columns([[1, 2], [3]], ONE) == {"out1": [[1, 2], [3]]}
    assert columns([(1, 2), (3, 4)], ONE) == {"out1": [[1, 2], [3, 4]]}


def test_arrays_become_lists_and_scalars_plain() -> None:
    import numpy

    found = columns({"out1": [numpy.arange(2), numpy.arange(3)], "out2": [numpy.int32(4), numpy.float64(0.5)]}, TWO)
    assert found == {"out1": [[0, 1], [0, 1, 2]], "out2": [4, 0.5]}
    assert type(found["out2"][0]) is int


def test_pandas_nulls_are_null() -> None:
    assert columns(pandas_frame(out1=["a", None]), ONE) == {"out1": ["a", None]}


def test_large_and_category_types_become_plain() -> None:
    import pandas

    frame = pandas.DataFrame({"out1": pandas.Categorical(["a", "b"])})
    (table,) = normalize(frame, ONE)
    assert table.schema.field("out1").type == pa.string()
    (table,) = normalize(polars_frame(out1=["a"]), ONE)
    assert table.schema.field("out1").type == pa.string()


@pytest.mark.parametrize(
    ("value", "names", "said"),
    [
        ({"out2": [1]}, ONE, "lacks 'out1' and has 'out2'"),
        ({"out1": [1], "out3": [1]}, ONE, "has 'out3'"),
        ([{"out1": 1}, {"out2": 1}], ONE, "row 1 has the columns 'out2'"),
        ([{"out1": 1, "out2": 2}, 5], TWO, "row 1 is a int"),
        ([(1, 2), (3,)], TWO, "row 1 is 1 values"),
        ([("a", 1), ("b", 2)], ["a", "b", "c", "d"], "row 0 is 2 values"),
        (([1], [2]), ONE, "2 columns for the outputs 'out1'"),
        ({"out1": [1, 2, 3], "out2": [1]}, TWO, "'out1' has 3 rows, 'out2' has 1"),
        ({"out1": [1, 2, 3], "out2": 7}, TWO, "'out2' is one int"),
        (5, TWO, "a int is not rows"),
        (LazyRows(lambda: iter([["a"], ["b"]]), total_num_rows=2), TWO, "of 'out1', 'out2'"),
        (LazyRowBatches(lambda: iter([(["a", "b"],)]), total_num_rows=2), TWO, "1 column for the outputs"),
        (LazyRowBatches(lambda: iter([[{"out1": 1}, {"out2": 1}]]), total_num_rows=2), ONE, "row 1 has"),
    ],
    ids=range(13),
)
def test_what_is_not_rows(value: Any, names: list[str], said: str) -> None:
    with pytest.raises(StepOutputError, match=said) as caught:
        columns(value, names)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_a_dataset_with_other_columns() -> None:
    with pytest.raises(StepOutputError, match="lacks 'out2'"):
        columns(hf(out1=LETTERS), TWO)
    with pytest.raises(StepOutputError, match="has 'out2'"):
        columns(lazy(hf_stream(ROWS)), ONE)
    with pytest.raises(StepOutputError, match="holds a list"):
        columns([hf(out1=LETTERS), NUMBERS], TWO)


def test_splits_are_refused() -> None:
    import datasets

    with pytest.raises(DataError, match="train"):
        columns(datasets.DatasetDict({"train": hf(out1=LETTERS)}), ONE)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1, "a"], "mixes int and str: row 1 is 'a'"),
        (["a", "b", "c", 4], "row 3 is 4"),
        ([True, 2], "mixes bool and int"),
        ([None, 1, [1]], "mixes int and list"),
        ([[1, "a"]], r"'out1\[\]' mixes int and str"),
        ([{"x": 1}, {"x": "a"}], r"'out1.x' mixes int and str"),
        ([{1, 2}], "row 0 of column 'out1' is a set"),
        (["a", object()], "row 1 of column 'out1' is a object"),
        ([1, 2**70], "more than 64 bits"),
        (["a", "b\ud800"], "row 1 of column 'out1' has half of a character"),
        ([["a", "b\ud800"]], "half of a character"),
    ],
    ids=range(11),
)
def test_a_column_of_mixed_types(values: list[Any], said: str) -> None:
    with pytest.raises(StepOutputTypeError, match=said) as caught:
        columns({"out1": values}, ONE)
    assert "\n" not in str(caught.value)


def test_mixed_types_in_a_frame() -> None:
    with pytest.raises(StepOutputTypeError, match="mixes int and str: row 2 is 'x'"):
        columns(pandas_frame(out1=[1, 2, "x"]), ONE)


def test_mixed_types_between_tables() -> None:
    with pytest.raises(StepOutputTypeError, match="mixes int and str"):
        columns(batches(lambda: iter([pa.table({"out1": [1]}), pa.table({"out1": ["a"]})])), ONE)


def test_whole_numbers_beside_floats_and_nulls_are_one_type() -> None:
    assert columns({"out1": [None, 8, 8.5, None, 7]}, ONE) == {"out1": [None, 8, 8.5, None, 7]}


def test_lazy_without_a_total_warns() -> None:
    with pytest.warns(UserWarning, match="total_num_rows"):
        LazyRows(iter)
    with pytest.warns(UserWarning, match="LazyRowBatches"):
        LazyRowBatches(iter)
    LazyRows(iter, auto_progress=False)


def test_rows_are_read_as_they_are_needed() -> None:
    taken = []

    def rows() -> Any:
        for number in range(10):
            taken.append(number)
            yield number

    stream = normalize(LazyRows(rows, total_num_rows=10), ONE, size=2)
    next(stream)
    assert taken == [0, 1]


def test_total_rows() -> None:
    assert total_rows(LazyRows(iter, total_num_rows=7)) == 7
    assert total_rows([1, 2]) == 2
    assert total_rows(iter([1])) is None
    assert total_rows(hf(out1=LETTERS)) == 3


def test_enums_and_numpy_subclasses_are_stored_as_what_they_are() -> None:
    import enum

    import numpy

    class Colour(str, enum.Enum):  # noqa: UP042 - the form that older code has
        RED = "red"

    found = columns({"out1": [Colour.RED, numpy.str_("x")], "out2": [numpy.float64(1.5), numpy.int8(2)]}, TWO)
    assert found == {"out1": ["red", "x"], "out2": [1.5, 2]}
    assert {type(value) for value in found["out1"]} == {str}
