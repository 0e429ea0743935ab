"""Operations on steps: what they give, what they store, and what makes them run again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nbdream import Session
from nbdream.errors import ArgumentError, ColumnError, DataError, StepOutputError, StepOutputTypeError
from nbdream.steps.handle import StepHandle
from nbdream.steps.operations import concat, split_sizes, zipped
from nbdream.steps.sources import DataSource

TEXTS = ["delta", "alpha", None, "bravo", "charlie", "alpha"]
NUMBERS = [4, 1, 0, 2, 3, 1]


def rows_of(step: StepHandle) -> list[dict[str, Any]]:
    return list(step.output)


def column(step: StepHandle, name: str = "number") -> list[Any]:
    return step.output[name][:]


def stored(step: StepHandle) -> set[str]:
    """The columns that the step itself has on disk."""
    return set(step.node["columns"])


def made(session: Session) -> int:
    return len(list((session.folder / "objects").glob("*/node.json")))


@pytest.fixture
def data(session: Session) -> StepHandle:
    return DataSource("data", {"text": TEXTS, "number": NUMBERS})


# ------------------------------------------------------------------------------------------------ rows


def test_select_take_skip_reverse(data: StepHandle) -> None:
    assert column(data.select([3, 0, -1])) == [2, 4, 1]
    assert column(data.take(2)) == [4, 1]
    assert column(data.take(100)) == NUMBERS
    assert column(data.skip(4)) == [3, 1]
    assert column(data.skip(100)) == []
    assert column(data.reverse()) == NUMBERS[::-1]
    assert column(data.copy()) == NUMBERS
    assert column(data.take(0)) == []


def test_shard(data: StepHandle) -> None:
    assert column(data.shard(4, 1)) == [1, 1]
    assert [column(data.shard(4, index, contiguous=True)) for index in range(4)] == [[4, 1], [0, 2], [3], [1]]
    with pytest.raises(ArgumentError, match="no shard 4"):
        data.shard(4, 4)


def test_sort(data: StepHandle) -> None:
    assert column(data.sort("number")) == [0, 1, 1, 2, 3, 4]
    assert column(data.sort("text"), "text") == ["alpha", "alpha", "bravo", "charlie", "delta", None]
    assert column(data.sort("text", null_placement="at_start"), "text")[0] is None
    assert column(data.sort(["text", "number"], reverse=[False, True])) == [1, 1, 2, 3, 4, 0]
    assert column(data.sort("number", reverse=True), "text")[:2] == ["delta", "charlie"]
    with pytest.raises(ColumnError, match="did you mean 'number'"):
        data.sort("nmber")
    with pytest.raises(ArgumentError, match="null_placement"):
        data.sort("number", null_placement="last")


def test_rows_of_lists_cannot_be_sorted(session: Session) -> None:
    with pytest.raises(DataError, match="cannot be sorted"):
        DataSource("lists", {"x": [[1], [2]]}).sort("x")


def test_shuffle_is_a_function_of_its_seed(data: StepHandle) -> None:
    once = column(data.shuffle(seed=1))
    assert sorted(once) == sorted(NUMBERS)
    assert column(data.shuffle(seed=1, name="again")) == once
    assert data.shuffle().key == data.shuffle(seed=42, buffer_size=5).key
    assert len({tuple(column(data.shuffle(seed=seed), "text")) for seed in range(5)}) > 1


def test_a_shuffle_is_the_same_on_every_python() -> None:
    from nbdream.steps.views import shuffled

    assert shuffled(range(10), 42) == [1, 9, 7, 3, 2, 8, 0, 5, 4, 6]


def test_view_operations_store_indices_only(data: StepHandle) -> None:
    for step in (data.take(2), data.shuffle(), data.sort("number"), data.reverse(), data.filter(lambda row: True)):
        assert stored(step) == {"__row__"}
        assert step.output.column_names == ["text", "number"]
    for step in (data.select_columns("text"), data.rename_column("text", "t"), data.remove_columns(["text"]), data.copy()):
        assert stored(step) == set()


# ------------------------------------------------------------------------------------------------ columns


def test_columns(data: StepHandle) -> None:
    assert data.select_columns("number").output.column_names == ["number"]
    assert data.select_columns(["number", "text"]).output.column_names == ["number", "text"]
    assert data.remove_columns("text").output.column_names == ["number"]
    renamed = data.rename_column("text", "label")
    assert renamed.output.column_names == ["label", "number"]
    assert column(renamed, "label") == TEXTS
    swapped = data.rename_columns({"text": "number", "number": "text"})
    assert column(swapped, "text") == NUMBERS
    with pytest.raises(ArgumentError, match="two columns would be called 'number'"):
        data.rename_column("text", "number")
    for operation in (data.select_columns, data.remove_columns, data.sort):
        with pytest.raises(ColumnError, match="did you mean 'text'"):
            operation("txt")


def test_views_of_views(data: StepHandle) -> None:
    step = data.sort("number").rename_column("text", "t").take(3).select_columns("t").reverse()
    assert column(step, "t") == ["alpha", "alpha", None]


def test_save_stores_every_column(data: StepHandle) -> None:
    step = data.take(3).save()
    assert stored(step) == {"text", "number"}
    assert rows_of(step) == rows_of(data.take(3))


def test_add_item(data: StepHandle) -> None:
    assert rows_of(data.add_item({"number": 9, "text": "new"}))[-1] == {"text": "new", "number": 9}
    assert len(data.add_item({"number": 9, "text": None})) == 7
    with pytest.raises(ColumnError, match="'txt'"):
        data.add_item({"number": 9, "txt": "new"})
    with pytest.raises(ColumnError, match="no 'text'"):
        data.add_item({"number": 9})
    with pytest.raises(StepOutputTypeError, match="'number' mixes int and str: row 6"):
        data.add_item({"number": "nine", "text": "new"})


def test_concat_and_zipped(data: StepHandle) -> None:
    more = DataSource("more", {"number": [9.5], "text": ["x"]})
    both = concat(data, more)
    assert both.name == "concat(data, more)"
    assert rows_of(both)[-1] == {"text": "x", "number": 9.5}
    assert len(both) == 7
    side = zipped(data, data.rename_columns({"text": "t", "number": "n"}))
    assert side.output.column_names == ["text", "number", "t", "n"]
    assert column(side, "n") == NUMBERS
    with pytest.raises(ColumnError, match="other columns than 'data': text"):
        concat(data, data.remove_columns("text"))
    with pytest.raises(ArgumentError, match="numbers of rows differ: 'data' 6, 'more' 1"):
        zipped(data, more)
    with pytest.raises(ColumnError, match="a column 'number'"):
        zipped(data, data)
    with pytest.raises(ArgumentError, match="not a list"):
        concat(data, [1])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="needs a step"):
        concat()


# ------------------------------------------------------------------------------------------------ map and filter


def test_map_stores_what_it_makes_and_carries_the_rest(data: StepHandle) -> None:
    step = data.map(lambda row: {"double": row["number"] * 2})
    assert stored(step) == {"double"}
    assert step.output.column_names == ["text", "number", "double"]
    assert column(step, "double") == [number * 2 for number in NUMBERS]
    assert column(step, "text") == TEXTS


def test_map_may_replace_and_remove_columns(data: StepHandle) -> None:
    step = data.map(lambda row: {"number": str(row["number"])}, remove_columns="text")
    assert rows_of(step) == [{"number": str(number)} for number in NUMBERS]

    def change(row: dict[str, Any]) -> dict[str, Any]:
        row["number"] += 1
        return row

    assert column(data.map(change)) == [number + 1 for number in NUMBERS]
    assert column(data) == NUMBERS


def test_map_gets_what_it_asks_for(data: StepHandle) -> None:
    assert column(data.map(lambda number: {"n": number}, input_columns="number"), "n") == NUMBERS
    assert column(data.map(lambda number, i: {"n": number + i}, input_columns=["number"], with_indices=True), "n")[1] == 2
    assert column(data.map(lambda row, i: {"i": i}, with_indices=True), "i") == list(range(6))
    with pytest.raises(ColumnError, match="'nmber'"):
        data.map(lambda number: {}, input_columns=["nmber"])


def test_batched_map(data: StepHandle) -> None:
    seen = data.map(lambda rows, i: {"n": [sum(rows["number"])] * len(i), "i": i}, batched=True, batch_size=4, with_indices=True)
    assert column(seen, "n") == [7, 7, 7, 7, 4, 4]
    assert column(seen, "i") == list(range(6))
    twice = data.map(lambda rows: {"n": rows["number"] * 2}, batched=True, remove_columns=["text", "number"])
    assert column(twice, "n") == NUMBERS * 2
    with pytest.raises(StepOutputError, match="'text' 6, 'n' 12"):
        data.map(lambda rows: {"n": rows["number"] * 2}, batched=True)


def test_map_that_returns_nothing_changes_nothing(data: StepHandle) -> None:
    assert rows_of(data.map(lambda row: None)) == rows_of(data)
    assert rows_of(data.map(lambda row: {})) == rows_of(data)
    with pytest.raises(StepOutputError, match="row 1: the function returned something"):
        data.map(lambda row: {"x": 1} if row["number"] == 1 else None)


@pytest.mark.parametrize(
    ("function", "kind", "said"),
    [
        (lambda row: 5, StepOutputError, "row 0: the function returned a int"),
        (
            lambda row: {"x": 1} if row["number"] else {"y": 1},
            StepOutputError,
            "row 2: the function's columns differ from those before by 'x', 'y'",
        ),
        (lambda row: {"x": row["number"] or "zero"}, StepOutputTypeError, "column 'x' mixes int and str: row 2 is 'zero'"),
        (lambda row: {"x": {row["number"]}}, StepOutputTypeError, "row 0 of column 'x' is a set"),
    ],
    ids=range(4),
)
def test_map_functions_that_return_no_rows(data: StepHandle, function: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        data.map(function)
    assert "\n" not in str(caught.value)


def test_a_failing_function_keeps_its_traceback_and_says_which_row(data: StepHandle) -> None:
    def fails(row: dict[str, Any]) -> dict[str, Any]:
        return {"x": len(row["text"])}

    with pytest.raises(TypeError) as caught:
        data.map(fails)
    assert caught.traceback[-1].name == "fails"
    assert caught.value.__notes__ == ["in row 2 of 'data', which 'data (map)' was working on"]
    with pytest.raises(TypeError) as caught:
        data.filter(lambda rows: [len(text) for text in rows["text"]], batched=True)
    assert "the rows 0 to 5 of 'data'" in caught.value.__notes__[0]


def test_filter(data: StepHandle) -> None:
    assert column(data.filter(lambda row: row["number"] > 1)) == [4, 2, 3]
    assert column(data.filter(lambda number: number % 2, input_columns=["number"])) == [1, 3, 1]
    assert column(data.filter(lambda row, i: i < 2, with_indices=True)) == [4, 1]
    assert column(data.filter(lambda rows: [number > 1 for number in rows["number"]], batched=True, batch_size=2)) == [4, 2, 3]
    assert column(data.filter(lambda row: False)) == []
    with pytest.raises(StepOutputError, match="1 answers for a batch of 6"):
        data.filter(lambda rows: [True], batched=True)


def test_operations_on_no_rows(data: StepHandle) -> None:
    none = data.take(0)
    assert rows_of(none.map(lambda row: {"x": 1})) == []
    assert rows_of(none.filter(lambda row: True)) == []
    assert rows_of(none.shuffle().sort("text").reverse().select_columns("text")) == []
    assert rows_of(none.save()) == []
    assert len(concat(none, data)) == 6


# ------------------------------------------------------------------------------------------------ splits


def test_splits(session: Session) -> None:
    data = DataSource("data", {"x": list(range(100))})
    parts = data.splits(train_size=0.7, validation_size=0.2, test_size=0.1)
    found = {name: column(part, "x") for name, part in parts.items()}
    assert {name: len(rows) for name, rows in found.items()} == {"train": 70, "validation": 20, "test": 10}
    assert sorted(x for rows in found.values() for x in rows) == list(range(100))
    assert found["train"] != sorted(found["train"])
    assert parts["train"].name == "data (train split)"
    assert column(data.splits(train_size=70, validation_size=20, test_size=10)["train"], "x") == found["train"]
    assert column(data.splits(train_size=0.7, test_size=0.3, seed=1)["train"], "x") != found["train"]
    assert list(data.splits()) == ["train"]


def test_stratified_splits(session: Session) -> None:
    labels = ["rare"] * 10 + ["common"] * 90
    data = DataSource("data", {"label": labels, "x": list(range(100))})
    parts = data.splits(train_size=0.8, test_size=0.2, stratify_by_column="label")
    assert Counter(column(parts["test"], "label")) == {"rare": 2, "common": 18}
    assert sorted(column(parts["train"], "x") + column(parts["test"], "x")) == list(range(100))
    with pytest.raises(ColumnError, match="did you mean 'label'"):
        data.splits(train_size=0.8, test_size=0.2, stratify_by_column="lable")


@pytest.mark.parametrize(
    ("rows", "sizes", "counts"),
    [
        (10, {"train": 0.9, "validation": 0.1}, [9, 1]),
        (3, {"train": 0.33, "validation": 0.33, "test": 0.34}, [1, 1, 1]),
        (1000, {"train": 0.1, "validation": 0.2, "test": 0.7}, [100, 200, 700]),
        (7, {"train": 4, "test": 3}, [4, 3]),
        (1, {"train": 1}, [1]),
        (10, {"train": 1.0, "test": 0.0}, [10, 0]),
    ],
)
def test_split_sizes(rows: int, sizes: dict[str, float], counts: list[int]) -> None:
    assert list(split_sizes(rows, sizes).values()) == counts


@pytest.mark.parametrize(
    "sizes", [{"train": 0.8}, {"train": 1.1, "test": -0.1}, {"train": 5, "test": 6}, {"train": True}, {"train": 0.99, "test": 0.01}]
)
def test_split_sizes_that_do_not_fit(sizes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="size") as caught:
        split_sizes(10, sizes)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ names and options


def test_automatic_names(data: StepHandle, session: Session) -> None:
    assert data.map(lambda row: {"x": 1}).name == "data (map)"
    assert data.take(2).name == "data (take)"
    assert data.take(2, name="few").name == "few"
    assert data.take(2).name == "data (take)"
    session.new_execution()
    assert data.take(3).name == "data (take)"


def test_published_options_are_taken(data: StepHandle) -> None:
    step = data.take(2, lazy=False, writer_batch_size=10, save_num_proc=2, save_num_shards=2, progress_interval=None, background=True)
    assert column(step) == [4, 1]
    with pytest.raises(ArgumentError, match="did you mean 'name'"):
        data.take(2, nam="few")


@pytest.mark.parametrize("n", [-1, 1.5, "2", True, None])
def test_numbers_of_rows(data: StepHandle, n: Any) -> None:
    with pytest.raises(ArgumentError, match="number of rows"):
        data.take(n)


def test_indices_that_are_not_there(data: StepHandle) -> None:
    with pytest.raises(ArgumentError, match="no row 6"):
        data.select([0, 6])
    assert column(data.select(range(2))) == [4, 1]


def test_many_indices_stand_in_the_recipe_as_a_digest(session: Session) -> None:
    data = DataSource("data", {"x": list(range(1000))})
    step = data.select(range(999, -1, -1))
    assert column(step, "x")[0] == 999
    assert len(json.dumps(step.node["recipe"])) < 500


# ------------------------------------------------------------------------------------------------ recipe and content


def scaled(factor: int) -> Any:
    def scale(row: dict[str, Any]) -> dict[str, Any]:
        return {"scaled": row["number"] * factor}

    return scale


def test_a_changed_closure_runs_again_and_the_same_one_not(data: StepHandle, session: Session) -> None:
    first = data.map(scaled(2))
    assert data.map(scaled(2)).key == first.key
    session.new_execution()
    assert column(data.map(scaled(3)), "scaled")[0] == 12
    assert "2 → 3" in " ".join(session.why("data (map)"))


def load(source: str, name: str) -> Any:
    """The function ``name`` of a source text, as a cell of a notebook would define it."""
    import linecache

    file = f"<cell {abs(hash(source))}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, file, "exec"), space)
    return space[name]


CODE = "K = 1\ndef f(row):\n    return {'x': row['number'] + K}\n"


@pytest.mark.parametrize(
    ("source", "again"),
    [
        (CODE.replace("row['number'] + K", "row['number'] - K"), True),
        (CODE.replace("K = 1", "K = 2"), True),
        (CODE.replace("'x'", "'y'"), True),
        ("K = 1\nother = 5\n\n\ndef f( row ):\n    'Says x.'\n    # why\n    return { 'x':row['number']+K, }\n", False),
    ],
    ids=["body", "global", "key", "reformatted"],
)
def test_edited_functions(data: StepHandle, session: Session, source: str, again: bool) -> None:
    before = data.map(load(CODE, "f"))
    after = data.map(load(source, "f"))
    assert (after.key != before.key) is again


def test_two_lambdas_on_one_line_are_two(data: StepHandle) -> None:
    one, two = (data.map(function) for function in (lambda row: {"x": 1}, lambda row: {"x": 2}))
    assert (column(one, "x")[0], column(two, "x")[0]) == (1, 2)


def test_version_stands_for_the_code(data: StepHandle) -> None:
    first = data.map(lambda row: {"x": 1}, version=1)
    assert data.map(lambda row: {"x": 2}, version=1).key == first.key
    assert data.map(lambda row: {"x": 2}, version=2).key != first.key


def test_a_column_that_nobody_reads_may_change(session: Session) -> None:
    def run(texts: list[str], factor: int = 1) -> tuple[StepHandle, int]:
        session.new_execution()
        numbers = [n * factor for n in (3, 1, 2)]
        data = DataSource("data", {"text": texts, "number": numbers})
        before = made(session)
        step = data.sort("number").map(lambda number: {"double": 2 * number}, input_columns=["number"])
        return step, made(session) - before

    step, ran = run(["c", "a", "b"])
    assert ran == 2
    step, ran = run(["C", "A", "B"])
    assert ran == 0
    assert rows_of(step) == [{"text": t, "number": n, "double": 2 * n} for t, n in (("A", 1), ("B", 2), ("C", 3))]
    step, ran = run(["C", "A", "B"], factor=10)
    assert ran == 2
    assert column(step, "double") == [20, 40, 60]


def test_renaming_runs_nothing(session: Session) -> None:
    def run(name: str) -> StepHandle:
        session.new_execution()
        data = DataSource(name, {"x": [1, 2, 3]})
        return data.map(lambda row: {"y": row["x"]}).filter(lambda row: row["y"] > 1)

    first = run("one")
    before = made(session)
    second = run("two")
    assert made(session) == before
    assert second.name == "two (map) (filter)"
    assert second.key == first.key


def test_a_batch_size_counts_only_where_the_function_sees_it(data: StepHandle) -> None:
    by_row = [data.map(lambda row: {"x": 1}, batch_size=size).key for size in (1, 2)]
    by_batch = [
        data.map(lambda rows: {"x": [len(rows["number"])] * len(rows["number"])}, batched=True, batch_size=size).key for size in (1, 2)
    ]
    assert len(set(by_row)) == 1
    assert len(set(by_batch)) == 2


def test_an_edited_file_runs_everything_below_again(session: Session) -> None:
    from nbdream.steps.sources import CSVDataSource

    def run() -> list[Any]:
        session.new_execution()
        return column(CSVDataSource("file", data_files="x.csv").map(lambda row: {"y": row["x"] + 1}), "y")

    Path("x.csv").write_text("x\n1\n")
    assert run() == [2]
    Path("x.csv").write_text("x\n5\n")
    assert run() == [6]
    before = made(session)
    Path("x.csv").write_text("x\n1\n")
    assert run() == [2]
    assert made(session) == before
