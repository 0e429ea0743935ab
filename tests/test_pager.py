"""Pages of a result: any order, any part, each cell as text, and never more work than what is shown."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from nbdream.datasets import OutputDataset, StoredColumn, ViewColumn
from nbdream.errors import ArgumentError
from nbdream.llms import EchoLLM
from nbdream.objects import StoredTable, TableWriter
from nbdream.widgets import pager as pages
from nbdream.widgets import words
from nbdream.widgets.orders import Orders
from nbdream.widgets.request import Request
from nbdream.widgets.sheet import Field, Sheet
from tests.hostile import HOSTILE

if TYPE_CHECKING:
    from nbdream.session import Session


def stored(folder: Path, *tables: dict[str, Any]) -> OutputDataset:
    """Rows on disk, as a step leaves them."""
    writer = TableWriter(folder)
    for table in tables:
        writer.write(table)
    digests = writer.close()
    table = StoredTable(folder, list(digests), writer.rows)
    return OutputDataset(None, {name: StoredColumn(table, name, entry["digest"]) for name, entry in digests.items()}, writer.rows)


def ask(sheet: Sheet, **message: Any) -> dict[str, Any]:
    return sheet.page(Request.read(message))


def column(answer: dict[str, Any], name: str) -> list[Any]:
    at = [head["name"] for head in answer["columns"]].index(name)
    return [row[at] for row in answer["rows"]]


@pytest.fixture
def fruit(tmp_path: Path) -> Sheet:
    """Six rows in two files."""
    return Sheet.of(
        stored(
            tmp_path / "data",
            {
                "name": ["pear", "Apple", None],
                "price": [3, 1, 2],
                "weight": [0.5, None, 2.0],
                "ripe": [True, False, None],
                "tags": [["a"], [], ["B", "c"]],
            },
            {
                "name": ["fig", "APPLE pie", "écorce"],
                "price": [2, 9, -4],
                "weight": [1.5, 0.1, 7.0],
                "ripe": [True, True, False],
                "tags": [[], ["d"], ["e"]],
            },
        )
    )


def test_a_page_is_rows_as_text(fruit: Sheet) -> None:
    answer = ask(fruit, start=1, count=2)
    assert [(head["name"], head["type"]) for head in answer["columns"]][:3] == [
        ("name", "string"),
        ("price", "int64"),
        ("weight", "double"),
    ]
    assert answer["rows"] == [["Apple", "1", None, "False", "[]"], [None, "2", "2", None, '["B", "c"]']]
    assert (answer["start"], answer["numbers"], answer["total"], answer["all"], answer["failures"]) == (1, [1, 2], 6, 6, 0)
    assert json.loads(json.dumps(answer)) == answer


@pytest.mark.parametrize(("start", "count", "numbers"), [(0, 3, [0, 1, 2]), (5, 10, [5]), (6, 1, []), (1000, 5, []), (0, 0, [])])
def test_no_page_goes_beyond_the_rows(fruit: Sheet, start: int, count: int, numbers: list[int]) -> None:
    assert ask(fruit, start=start, count=count)["numbers"] == numbers


@pytest.mark.parametrize(
    ("sort", "numbers"),
    [
        ([("price", False)], [5, 1, 2, 3, 0, 4]),
        ([("price", True)], [4, 0, 2, 3, 1, 5]),  # equal ones stay in order
        ([("weight", False)], [4, 0, 3, 2, 5, 1]),  # a null is last either way
        ([("weight", True)], [5, 2, 3, 0, 4, 1]),
        ([("ripe", False), ("price", False)], [5, 1, 3, 0, 4, 2]),
        ([("name", False)], [4, 1, 3, 0, 5, 2]),
    ],
)
def test_sorting(fruit: Sheet, sort: list[tuple[str, bool]], numbers: list[int]) -> None:
    assert ask(fruit, sort=[{"column": name, "reverse": reverse} for name, reverse in sort])["numbers"] == numbers


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        ({"name": "apple"}, [1, 4]),
        ({"name": "ÉCO"}, [5]),
        ({"name": "(p"}, []),
        ({"price": ">2"}, [0, 4]),
        ({"price": ">= 2"}, [0, 2, 3, 4]),
        ({"price": "<= -4"}, [5]),
        ({"price": "2"}, [2, 3]),
        ({"price": "!=2"}, [0, 1, 4, 5]),
        ({"price": "> 1.5"}, [0, 2, 3, 4]),
        ({"weight": "≥ 1,5"}, []),
        ({"weight": "< 1"}, [0, 4]),
        ({"ripe": "true"}, [0, 3, 4]),
        ({"ripe": "No"}, [1, 5]),
        ({"tags": "b"}, [2]),
        ({"name": "p", "price": "> 1"}, [0, 4]),
        ({"name": ""}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_filtering(fruit: Sheet, filters: dict[str, str], numbers: list[int]) -> None:
    answer = ask(fruit, filter=filters)
    assert (answer["numbers"], answer["total"], answer["all"]) == (numbers, len(numbers), 6)


def test_searching_filtering_and_sorting_at_once(fruit: Sheet) -> None:
    asked = {"search": "P", "filter": {"price": "> 0"}, "sort": [{"column": "price", "reverse": True}]}
    assert ask(fruit, **asked)["numbers"] == [4, 0, 1]
    assert ask(fruit, **asked, start=1, count=1)["numbers"] == [0]
    assert ask(fruit, search="a")["numbers"] == [0, 1, 4]  # text columns only: not the tags


@pytest.mark.parametrize(
    "message",
    [
        {"filter": {"price": "cheap"}},
        {"filter": {"ripe": "maybe"}},
        {"filter": {"nothing": "x"}},
        {"filter": ["name"]},
        {"sort": [{"column": "tags"}]},
        {"sort": [{"column": "nothing"}]},
        {"sort": ["price"]},
        {"columns": ["nothing"]},
        {"columns": "name"},
        {"start": -1},
        {"start": True},
        {"count": 1.5},
        {"search": 3},
        {"search": "x" * 1001},
        {"failures": True},
    ],
)
def test_what_cannot_be_is_an_error_in_one_line(fruit: Sheet, message: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError) as error:
        ask(fruit, **message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("values", [[2**60 + 1, None, 5], [1.5, float("nan"), None]])
@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.decimal128(38, 2)])
def test_numbers_of_every_type_are_compared(tmp_path: Path, values: list[Any], kind: pa.DataType) -> None:
    try:
        array = pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pytest.skip("no such number in this type")
    found = Sheet.of(stored(tmp_path / "data", {"n": array}))
    assert ask(found, filter={"n": "> 1"})["numbers"] == [number for number, value in enumerate(values) if value is not None and value > 1]
    assert ask(found, filter={"n": "< 1.2"})["numbers"] == []


def test_texts_of_every_type_are_searched(tmp_path: Path) -> None:
    for number, kind in enumerate((pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()))):
        array = pa.array(["one", None, "Two"]).cast(kind) if kind != pa.string_view() else pa.array(["one", None, "Two"], kind)
        found = Sheet.of(stored(tmp_path / str(number), {"t": array}))
        assert ask(found, filter={"t": "tw"})["numbers"] == [2]
        assert ask(found, sort=[{"column": "t", "reverse": True}])["numbers"] == [0, 2, 1]


def test_long_text_is_cut_and_whole_when_asked_for(tmp_path: Path) -> None:
    found = Sheet.of(stored(tmp_path / "data", {"t": ["x" * 1_500_000, "y" * 400, None], "n": [1, 2, 3]}))
    answer = ask(found)
    assert column(answer, "t") == [{"text": "x" * 400, "length": 1_500_000}, "y" * 400, None]
    assert len(json.dumps(answer)) < 2000
    assert found.value(0, "t") == {"text": "x" * 1_000_000, "length": 1_500_000}
    assert found.value(2, "t") == {"text": None, "length": 0}
    for row, name in ((3, "t"), (-1, "t"), (0, "u")):
        with pytest.raises(ArgumentError):
            found.value(row, name)


def test_what_is_not_seen_is_made_visible(tmp_path: Path) -> None:
    texts = [text for text in HOSTILE if text.encode("utf-8", "ignore").decode() == text]
    found = Sheet.of(stored(tmp_path / "data", {"t": texts}))
    cells = [cell for start in (0, 150) for cell in column(ask(found, start=start, count=150), "t")]
    assert len(cells) == len(texts)
    whole = [found.value(row, "t")["text"] for row in range(len(texts))]
    for text in [*(cell if isinstance(cell, str) else cell["text"] for cell in cells), *whole]:
        assert not set(text) & set("\x00\x07\x1b\x7f\x9b\r\u202e\u2066")


# --- views, failures, splits ----------------------------------------------------------------------------------------


def test_a_view_takes_the_rows_it_shows_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = stored(tmp_path / "data", {"t": [f"text {number}" for number in range(1000)]})
    chosen = pa.chunked_array([pa.array(range(999, -1, -2))])
    view = ViewColumn(below.column("t"), lambda: chosen)
    found = Sheet([Field("t", view, 500)])
    assert view.type == pa.string()
    with monkeypatch.context() as patched:
        patched.setattr(ViewColumn, "array", lambda self: pytest.fail("the whole column was taken"))
        assert column(ask(found, start=1, count=2), "t") == ["text 997", "text 995"]
        assert found.value(0, "t")["text"] == "text 999"
    assert ask(found, filter={"t": "text 99"})["numbers"] == [0, 1, 2, 3, 4, 450]  # 999, 997 … 991 and 99


class Unsure(EchoLLM):
    """Says what is neither yes nor no to every fourth question."""

    def _text(self, request: Any) -> str:
        return "I cannot tell." if int(request.prompt.split()[-1]) % 4 == 0 else "Yes."


def test_failed_rows_and_splits_of_a_session(session: Session) -> None:
    from nbdream.steps import DataSource, Filter

    source = DataSource("asked", data=[{"q": f"say {number}"} for number in range(20)])
    made = Filter("said", inputs={"rows": source}, args={"llm": Unsure(), "template": "Good? {{ q }}"})
    assert (len(made), len(made.failures)) == (15, 5)
    answer = pages.page(session, {"use": made.use_id, "count": 3})
    assert (answer["total"], answer["failures"], answer["numbers"]) == (15, 5, [0, 1, 2])
    failed = pages.page(session, {"use": made.use_id, "failures": True})
    assert [head["name"] for head in failed["columns"]] == ["row", "error", "said", "q"]
    assert (failed["total"], failed["failures"]) == (5, 5)
    assert column(failed, "said")[0] == "I cannot tell."
    whole = pages.value(session, {"use": made.use_id, "failures": True, "row": 4, "column": "q"})
    assert whole["text"] == column(failed, "q")[4]

    session.set_splits("said", {"train": 10, "test": 5})
    assert pages.page(session, {"use": made.use_id, "split": "train"})["total"] == 10
    session.set_splits("said", {"train": 3, "test": 12})
    assert pages.page(session, {"use": made.use_id, "split": "train"})["total"] == 3
    for message in (
        {},
        {"use": "../../etc"},
        {"use": "0" * 40},
        {"use": 3},
        {"use": made.use_id, "split": "all"},
        {"use": made.use_id, "split": "validation"},
    ):
        answer = pages.page(session, message)
        assert list(answer) == ["error"], answer
        assert "\n" not in answer["error"]
    assert list(pages.value(session, {"use": made.use_id, "row": "0", "column": "q"})) == ["error"]


# --- side by side ---------------------------------------------------------------------------------------------------


def side_by_side(folder: Path, left: list[Any], right: list[Any]) -> Sheet:
    one, other = stored(folder / "one", {"t": left}), stored(folder / "other", {"t": right})
    fields = [Field("a", one.column("t"), len(left), "b"), Field("b", other.column("t"), len(right), "a")]
    return Sheet(fields)


def test_two_columns_differ_word_by_word(tmp_path: Path) -> None:
    found = side_by_side(tmp_path, ["a red fox runs", "same", None, "gone"], ["a blue fox ran", "same", "new"])
    answer = ask(found)
    first = {"parts": [["a ", False], ["red ", True], ["fox ", False], ["runs", True]]}
    second = {"parts": [["a ", False], ["blue ", True], ["fox ", False], ["ran", True]]}
    assert answer["rows"] == [[first, second], ["same", "same"], [None, "new"], ["gone", None]]
    assert ask(found, changed=True)["numbers"] == [0, 2, 3]
    assert [head["beside"] for head in answer["columns"]] == ["b", "a"]
    assert found.value(0, "a") == {"text": "a red fox runs", "length": 14, "parts": first["parts"]}


def test_a_difference_far_down_is_within_what_is_shown(tmp_path: Path) -> None:
    text = "word " * 2000
    (left, right), *_ = ask(side_by_side(tmp_path, [text + "end"], [text + "stop"]))["rows"]
    assert left["length"] == 10_003
    assert [part for part in left["parts"] if part[1]] == [["end", True]]
    assert [part for part in right["parts"] if part[1]] == [["stop", True]]
    assert left["parts"][0][0].startswith("…")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("", "x"),
        ("abc", "abcd"),
        ("one two", "one  two"),
        ("x" * 9, "x" * 8),
        ("a b c", "c b a"),
        ("walk", "walking home"),
        ("日本語", "日本"),
        ("a\nb", "a\n\nb"),
    ],
)
def test_the_pieces_are_the_texts(left: str, right: str) -> None:
    ours, theirs = words.differences(left, right)
    assert ("".join(text for text, _ in ours), "".join(text for text, _ in theirs)) == (left, right)
    assert any(changed for _, changed in ours + theirs)
    kept = ["".join(text for text, changed in side if not changed).split() for side in (ours, theirs)]
    assert kept[0] == kept[1]


def test_long_texts_are_compared_in_no_time() -> None:
    left, right = ("x y " * 200_000) + "a", ("y z " * 200_000) + "b"
    began = time.perf_counter()
    ours, _ = words.differences(left, right)
    assert time.perf_counter() - began < 2
    assert "".join(text for text, _ in ours) == left


# --- a large table ----------------------------------------------------------------------------------------------------


def test_orders_are_remembered_within_their_memory(fruit: Sheet) -> None:
    orders = Orders(most_bytes=3000)
    made = []

    def order(number: int) -> pa.Array:
        made.append(number)
        return pa.array(range(number, number + 100), pa.int64())

    for number in (1, 2, 3, 1, 4, 5):
        assert orders.get(number, lambda number=number: order(number))[0].as_py() == number
        assert orders.nbytes <= 3000
    assert made == [1, 2, 3, 4, 5]
    orders.get(2, lambda: order(2))  # the one not used for longest had gone
    assert made[-1] == 2


def took(call: Any) -> float:
    """The least of three times, in seconds."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


def test_a_page_of_many_rows_costs_what_one_of_few_costs(tmp_path: Path) -> None:
    rows = 200_000
    draw = random.Random(7)
    texts = ["".join(draw.choices("abcdefghij ", k=120)) for _ in range(500)]

    def made(name: str, count: int) -> Sheet:
        values = {
            "t": [f"{texts[number % 500]} {number}" for number in range(count)],
            "n": [number * 7919 % 1009 for number in range(count)],
        }
        return Sheet.of(stored(tmp_path / name, values))

    large, small = made("large", rows), made("small", 1000)
    asked = {"search": "7", "sort": [{"column": "n", "reverse": True}]}
    began = time.perf_counter()
    first = ask(large, **asked)
    searching = time.perf_counter() - began
    assert first["total"] == sum("7" in f"{texts[number % 500]} {number}" for number in range(rows))
    again = took(lambda: ask(large, **asked, start=first["total"] // 2))
    assert again < searching / 5, "the order is remembered"
    few = max(took(lambda: ask(small)), 0.0002)
    for start in (0, rows // 2, rows - 50):
        assert took(lambda start=start: ask(large, start=start)) < 10 * few
    assert again < 10 * few
