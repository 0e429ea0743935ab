"""The table as it stays in a notebook, and as it lives: what it saves, what it answers, what stands side by side."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nbdream.errors import ArgumentError, ColumnError
from nbdream.llms import EchoLLM
from nbdream.steps import DataSource, Filter, Step
from nbdream.widgets import pager
from nbdream.widgets.browse import browse_bundle
from nbdream.widgets.mime import MOST_BYTES, TABLE
from nbdream.widgets.show import rows_bundle, step_bundle
from tests.hostile import HOSTILE

if TYPE_CHECKING:
    from nbdream.session import Session

STATIC = Path(__file__).parent.parent / "nbdream" / "widgets" / "static"
VIEW = "application/vnd.jupyter.widget-view+json"


class Unsure(EchoLLM):
    """Says what is neither yes nor no to every fourth question."""

    def _text(self, request: Any) -> str:
        return "<b>I cannot tell.</b>" if int(request.prompt.split()[-1]) % 4 == 0 else "Yes."


@pytest.fixture
def made(session: Session) -> Step:
    """Fifteen rows and five that failed."""
    source = DataSource("asked", data=[{"q": f"say {number}", "n": number} for number in range(20)])
    return Filter("said", inputs={"rows": source}, args={"llm": Unsure(), "template": "Good? {{ q }}"})


# --- what is saved ----------------------------------------------------------------------------------------------------


def test_a_result_is_saved_as_json_that_can_be_paged_on_from(made: Step, session: Session) -> None:
    bundle = step_bundle(made)
    assert set(bundle) == {"text/plain", "text/html", TABLE}
    page = bundle[TABLE]
    assert (page["version"], page["name"], page["use"], page["total"], page["failures"]) == (1, "said", made.use_id, 15, 5)
    assert page["columns"] == [{"name": "q", "type": "string"}, {"name": "n", "type": "int64"}]
    assert page["rows"][0] == ["say 1", "1"]
    assert len(page["rows"]) == 10
    assert page["note"] in bundle["text/plain"]
    assert json.dumps(step_bundle(session.load("said"))[TABLE]) == json.dumps(page), "the same result is the same JSON"
    column = rows_bundle(made.output["q"])[TABLE]
    assert (column["use"], [head["name"] for head in column["columns"]]) == (made.use_id, ["q"])
    assert rows_bundle(made.failures)[TABLE]["use"] == "", "the failed rows are no result of their own"


def test_what_is_saved_is_bounded(session: Session) -> None:
    for number, row in enumerate(({f"c{at}": "😀" * 1000 for at in range(30)}, {"x" * 30_000: 1, "y" * 40_000: 2}, {"a": "é" * 10**6})):
        page = step_bundle(DataSource(f"wide {number}", data=[row] * 12))[TABLE]
        assert len(json.dumps(page, ensure_ascii=False).encode()) <= MOST_BYTES
        assert all(len(row) == len(page["columns"]) for row in page["rows"])


def test_what_a_model_wrote_is_text_in_what_is_saved(session: Session) -> None:
    texts = [text for text in HOSTILE if text.encode("utf-8", "ignore").decode() == text]
    for start in range(0, len(texts), 10):
        rows = DataSource(f"hostile {start}", data=[{"text": text} for text in texts[start : start + 10]])
        page = step_bundle(rows)[TABLE]
        for cell in (row[0] for row in page["rows"]):
            shown = cell if isinstance(cell, str) else cell["text"]
            assert not set(shown) & set("\x00\x07\x1b\x7f\x9b\r\u202e\u2066")
            assert len(shown) <= 6 * 400  # as it is seen: \\u202e takes six


def test_a_first_page_reads_the_rows_it_shows(made: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbdream.datasets import ViewColumn

    monkeypatch.setattr(ViewColumn, "array", lambda self: pytest.fail("a whole column was taken"))
    assert "say 1" in step_bundle(made)["text/plain"]


# --- the live table ---------------------------------------------------------------------------------------------------


class Page:
    """A page that shows a widget: what it asks, and what it is answered."""

    def __init__(self, bundle: dict[str, Any]) -> None:
        from ipywidgets.widgets.widget import _instances

        self.widget = _instances[bundle[VIEW]["model_id"]]
        self.answers: list[dict[str, Any]] = []
        self.widget.send = self.answers.append

    def ask(self, message: Any) -> Any:
        """The answer; None when there is none."""
        self.answers.clear()
        self.widget._handle_custom_msg(message, [])
        return self.answers[0] if self.answers else None


@pytest.fixture
def page(made: Step) -> Page:
    pytest.importorskip("anywidget")
    return Page(browse_bundle(made.browse()))


def test_a_live_table_has_its_first_page_and_its_picture(made: Step) -> None:
    pytest.importorskip("anywidget")
    bundle = browse_bundle(made.browse())
    assert {VIEW, "text/plain", "text/html", TABLE} <= set(bundle)
    assert bundle["text/html"] == step_bundle(made)["text/html"], "without a kernel, the first page is there"
    state = Page(bundle).widget.get_state()
    assert state["first"]["rows"][0] == ["say 1", "1"]
    assert (state["first"]["total"], state["label"]) == (15, "said")
    assert "15 rows · 5 failed" in state["note"]


def test_it_answers_what_it_is_asked(page: Page) -> None:
    answer = page.ask({"op": "page", "id": "a-1", "start": 2, "count": 1, "sort": [{"column": "n", "reverse": True}]})
    assert (answer["op"], answer["id"], answer["rows"]) == ("page", "a-1", [["say 17", "17"]])
    failed = page.ask({"op": "page", "id": "a-2", "failures": True, "columns": ["said", "q"]})
    assert failed["rows"][0] == ["<b>I cannot tell.</b>", "say 0"]
    assert page.ask({"op": "value", "id": "a-3", "row": 0, "column": "q"})["text"] == "say 1"


@pytest.mark.parametrize("message", [None, "page", [], {}, {"op": "run"}, {"op": "stop"}, {"op": ["page"]}, {"op": "run", "code": "1"}])
def test_it_does_nothing_else(page: Page, message: Any) -> None:
    assert page.ask(message) is None


@pytest.mark.parametrize(
    "message",
    [
        {"op": "page", "start": "0"},
        {"op": "page", "sort": [{"column": "../x"}]},
        {"op": "page", "filter": {"n": "import os"}},
        {"op": "value", "row": 10**9, "column": "q"},
        {"op": "value", "row": True, "column": "q"},
        {"op": "value", "column": "q"},
    ],
)
def test_what_cannot_be_answered_is_said_in_a_line(page: Page, message: dict[str, Any]) -> None:
    answer = page.ask({**message, "id": "x" * 1000})
    assert set(answer) == {"op", "id", "error"}
    assert "\n" not in answer["error"]
    assert len(answer["id"]) <= 64


def test_two_columns_and_two_versions_stand_side_by_side(session: Session) -> None:
    pytest.importorskip("anywidget")
    first = DataSource("first", data={"q": ["a", "b", "c"], "t": ["a red fox", "same", "x" * 500 + " end"], "only": [1, 2, 3]})
    second = DataSource("second", data={"q": ["a", "b", "c"], "t": ["a blue fox", "same", "x" * 500 + " stop"]})
    bundle = browse_bundle(first.browse(second))
    found = Page(bundle)
    state = found.widget.get_state()
    assert [head["name"] for head in state["first"]["columns"]] == ["q", "t (first)", "t (second)"]
    assert state["first"]["rows"][0][1:] == [
        {"parts": [["a ", False], ["red", True], [" fox", False]]},
        {"parts": [["a ", False], ["blue", True], [" fox", False]]},
    ]
    assert state["note"] == "2 of 3 rows differ"
    assert found.ask({"op": "page", "id": "1", "changed": True})["numbers"] == [0, 2]
    assert "a red fox" in bundle["text/html"]
    page = bundle[TABLE]
    assert (page["use"], page["beside"]) == (first.use_id, {"use": second.use_id, "columns": None})
    asked = {"use": page["use"], "beside": page["beside"], "changed": True}
    assert pager.page(session, asked)["rows"][0] == page["rows"][0] == state["first"]["rows"][0]
    assert "parts" in pager.value(session, {**asked, "row": 0, "column": "t (second)"})
    for beside in ({"use": "../x"}, {"use": "0" * 40}, "x", {"columns": ["q", "nothing"]}, {"columns": 3}):
        assert list(pager.page(session, {**asked, "beside": beside})) == ["error"]
    pair = Page(browse_bundle(first.browse(columns=("q", "t"))))
    assert [head.get("beside") for head in pair.widget.first["columns"]] == ["t", "q"]
    again = Page(browse_bundle(first.output.browse(first)))
    assert [head["name"] for head in again.widget.first["columns"]] == ["q", "t", "only"], "what is the same stands there once"


@pytest.mark.parametrize(
    ("arguments", "columns"),
    [((), ("q",)), ((), "qt"), ((), ("q", "nothing")), ((3,), None), (("other",), ("n",))],
)
def test_what_cannot_stand_side_by_side_is_refused_at_once(made: Step, arguments: tuple[Any, ...], columns: Any) -> None:
    other = DataSource("apart", data={"z": [1]})
    given = tuple(other if argument == "other" else argument for argument in arguments)
    with pytest.raises((ArgumentError, ColumnError)):
        made.browse(*given, columns=columns)
    with pytest.raises(ArgumentError):
        made.browse(other)


def test_what_jupyterlab_saves_of_a_live_table_is_still(made: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without a kernel says "model not found" for a view of a widget: there is none in it, but a place that a widget finds."""
    pytest.importorskip("anywidget")
    from nbdream.widgets import live

    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    bundle = browse_bundle(made.browse())
    assert set(bundle) == {"text/plain", "text/html", TABLE}
    (mark,) = re.findall(r'<div data-nbdream="([0-9a-f]{32})">', bundle["text/html"])
    assert "say 1" in bundle["text/html"]
    first = live._alive[mark]
    assert (first.mark, first.first["total"]) == (mark, 15)
    again = browse_bundle(made.browse())
    assert again == bundle, "the same is saved every time"
    assert first.comm is None, "and one of the two is alive"
    assert live._alive[mark].comm is not None
    other = browse_bundle(made.failures.browse())
    assert mark not in other["text/html"]
    assert TABLE not in other
    monkeypatch.setattr(live, "MOST", 1)
    browse_bundle(made.browse())
    assert list(live._alive) == [mark]
    monkeypatch.setenv("NBDREAM_NOTEBOOK", "notebook.ipynb")
    assert browse_bundle(made.browse())["text/html"] == step_bundle(made)["text/html"], "nobody looks on"


def test_a_module_of_a_widget_is_one_text() -> None:
    from nbdream.widgets.live import module

    for name in ("table.js", "annotate.js", "meter.js", "curve.js"):
        text = module(name)
        assert "import " not in text.replace("import os", "")
        assert text.count("export default") == 1
        assert text.count("function host(") == 1


def test_without_widgets_the_first_page_is_there(made: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbdream.widgets import browse

    monkeypatch.setattr(browse, "table_class", lambda: None)
    assert set(browse_bundle(made.browse())) == {"text/plain", "text/html", TABLE}
    assert repr(made.browse()).startswith("Browse(OutputDataset(15 rows")


def test_texts_reach_the_page_as_text_only() -> None:
    source = (STATIC / "table.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|srcdoc|\bon[a-z]+\s*=|import\(", source)
    assert "http" not in source, "nothing is loaded from anywhere"
