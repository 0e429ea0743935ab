"""What is shown: tables, status lines, curves. Whatever a model wrote is text in them."""

from __future__ import annotations

import datetime
import json
import math
import re
import xml.etree.ElementTree as ET
from collections import OrderedDict
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdream.cards.curve import MOST_POINTS, curve_svg, folded, thin, ticks
from nbdream.widgets.curve import History
from nbdream.widgets.live import LIVE
from nbdream.widgets.progress import Progress
from nbdream.widgets.status import ago, live_line, saved_line, saved_training_line, seconds
from nbdream.widgets.table import shown, table_html, table_text

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</td></tr></table><h1>out</h1>",
    "\x1b[2J\x1b]0;owned\x07",
    "a\u202eb\u2066c",
    "]]> & &lt; ''",
    "\ud800",
    "{{ x }} {% y %} $HOME `id`",
]

NODE = {
    "rows": 1000,
    "failures": 0,
    "models": [{"name": "gpt-4o-mini"}],
    "made": {"started": "2026-11-20T10:00:00Z", "finished": "2026-11-20T10:00:12Z", "seconds": 12.0},
    "usage": {"calls": 20, "cached_calls": 980, "cost": None},
}


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page(html: str) -> Page:
    parsed = Page()
    parsed.feed(html)
    return parsed


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_a_table_holds_only_text(text: str) -> None:
    found = page(table_html([text, "b"], [{text: text, "b": [text]}], 1, text))
    assert set(found.tags) <= {"div", "table", "thead", "tbody", "tr", "th", "td", "p"}
    assert set(found.attributes) <= {"class", "style", "scope"}


@given(st.text(), st.text())
def test_no_text_breaks_out_of_a_table(name: str, value: str) -> None:
    found = page(table_html([name], [{name: value}], 1))
    assert set(found.tags) <= {"div", "table", "thead", "tbody", "tr", "th", "td", "p"}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_table_as_text_obeys_no_escape_sequence(text: str) -> None:
    drawn = table_text(["a"], [{"a": text}], 1)
    assert "\x1b" not in drawn
    assert "\x07" not in drawn
    assert len(drawn.splitlines()) == 3


def test_a_table_shows_its_first_page_and_says_so() -> None:
    rows = [{"a": number} for number in range(10)]
    assert "first 10 of 1,000 rows" in table_html(["a"], rows, 1000)
    assert "first 10 of 1,000 rows" in table_text(["a"], rows, 1000)
    assert "of 10" not in table_html(["a"], rows, 10)


def test_a_table_is_the_same_every_time() -> None:
    rows = [{"a": 1, "b": {"x": [1, None]}}]
    assert table_html(["a", "b"], rows, 1, "n") == table_html(["a", "b"], rows, 1, "n")
    assert " id=" not in table_html(["a", "b"], rows, 1, "n")


def test_columns_are_set_by_what_they_hold() -> None:
    rows = [
        {"year": 2024, "good": True, "text": "one two three " * 4, "none": None},
        {"year": None, "good": False, "text": "", "none": None},
    ]
    cells = re.findall(r'<td style="([^"]*)">', table_html(list(rows[0]), rows, 2, numbered=False))
    year, good, text, none = cells[:4]
    assert "text-align:right" in year
    assert "nowrap" in year
    assert "text-align:left" in good
    assert "white-space:pre" in good.split(";")
    assert "pre-wrap" in text
    assert "min-width" in text
    assert none == good
    assert cells[4:] == cells[:4]


def test_the_rows_are_counted_once() -> None:
    rows = [{"a": 1}] * 10
    assert "first 10 of 1,000 rows · gpt-4o-mini · made " in table_html(["a"], rows, 1000, saved_line(NODE))
    assert table_text(["a"], rows, 1000, "a note").endswith("first 10 of 1,000 rows · a note")
    assert table_text(["a"], rows, 10, "a note").endswith("\na note")


def test_narrow_columns_leave_their_room_to_wide_ones() -> None:
    row = {"year": 2024, "name": "a name of some length", "text": "word " * 100}
    head, _, line = table_text(list(row), [row], 1, width=80).splitlines()
    assert "a name of some length" in line
    assert 60 < len(line) <= 80
    assert head.startswith("year   name")


def test_an_empty_table() -> None:
    assert "0 rows" not in table_text(["a"], [], 0)
    assert "a" in table_text(["a"], [], 0)
    assert page(table_html([], [], 0)).tags


def test_values() -> None:
    assert shown(None) == "∅"
    assert shown({"a": [1, "é"]}) == '{"a": [1, "é"]}'
    assert shown(0.1 + 0.2) == "0.3"
    assert shown(b"abc") == "3 bytes"
    assert shown("x" * 1000).endswith("… (1,000 characters)")


# --- status lines ---------------------------------------------------------------------------------------------------


def test_the_live_line_tells_of_the_run() -> None:
    event = {"total": 1000, "done": 1000, "cached": 980, "new": 20, "failed": 0, "cost": None}
    assert live_line(event, 12.3) == "980 cached · 20 new · 0 failed · 12 s"
    assert live_line({**event, "cost": 0.0401}, 12.3) == "980 cached · 20 new · 0 failed · $0.04 · 12 s"
    assert live_line({"total": 1000, "done": 415}, 2.0) == "41 % · 2.0 s"
    assert live_line({}, 0.5) == "0.5 s"


def test_the_saved_line_tells_of_the_work() -> None:
    assert saved_line(NODE) == "1,000 rows · gpt-4o-mini · made 2026-11-20 in 12 s"
    assert "cached" not in saved_line(NODE)
    paid = {**NODE, "usage": {"cost": 1.41}, "failures": 3}
    assert saved_line(paid) == "1,000 rows · 3 failed · gpt-4o-mini · made 2026-11-20 for $1.41 in 12 s"
    assert saved_line({"rows": 1}) == "1 row"


def test_the_saved_line_of_a_model() -> None:
    last = {"step": 120, "loss": 0.51239, "eval_loss": 0.7}
    assert saved_training_line("demo", NODE, last) == "demo · 120 steps · loss 0.5124 · eval loss 0.7 · made 2026-11-20 in 12 s"
    made_with = {**NODE, "recipe": {"args": {"learning_rate": 0.0002, "lora": {"r": 8}}}}
    said = saved_training_line("demo", made_with, {"step": 1, "loss": 2.0})
    assert said == "demo · LoRA r=8 · 1 step · learning rate 0.0002 · loss 2 · made 2026-11-20 in 12 s"


def test_times() -> None:
    now = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC)
    assert [seconds(value) for value in (0, 9.94, 12, 200, 7500)] == ["0.0 s", "9.9 s", "12 s", "3 min 20 s", "2 h 5 min"]
    assert ago("2026-11-20T10:00:00Z", now) == "2 h ago"
    assert ago("2026-11-20T11:59:58+00:00", now) == "just now"
    assert ago("2026-11-17T11:00:00Z", now) == "3 days ago"
    assert ago("nonsense", now) == "earlier"


# --- curves ---------------------------------------------------------------------------------------------------------


def log(step: int, loss: float, **more: Any) -> dict[str, Any]:
    return {"type": "log", "time": 100.0 + step, "step": step, "max_steps": 50, "loss": loss, **more}


def test_a_curve_is_drawn_of_events() -> None:
    history = History.of([{"type": "begin", "time": 100.0}, *(log(step, 1 / step) for step in range(1, 21)), log(20, 0.05, eval_loss=0.4)])
    assert len(history.loss) == 20
    assert history.eval_loss == [(20.0, 0.4)]
    assert history.state == "training"
    assert history.line() == "training · step 20 of 50 · loss 0.05 · eval loss 0.4 · 30 s left"
    svg = ET.fromstring(curve_svg(history.series(), "tweeter", "tweeter · demo"))
    lines = [element.get("points") or "" for element in svg.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(line.split()) for line in lines] == [20, 1]


def test_a_line_says_what_a_run_does_now() -> None:
    begun = [{"type": "begin", "time": 100.0}, log(1, 2.0)]
    evaluating = [{"type": "evaluating", "done": 20, "of": 80}, log(1, 2.0, type="eval", eval_loss=0.5)]
    assert History.of([*begun, evaluating[0]]).state == "evaluating, 25%"
    assert History.of([*begun, *evaluating]).state == "training"
    ending = [*begun, {"type": "stopping", "step": 1}, *evaluating]
    assert History.of(ending).state == "saving a checkpoint", "a run that ends may evaluate once more"
    assert History.of([*ending, {"type": "finished", "state": "stopped"}]).state == "stopped"
    assert History.of([*ending, {"type": "spawned"}]).state == "starting"


def test_a_resumed_run_replaces_the_steps_it_repeats() -> None:
    history = History.of([log(1, 3.0), log(2, 2.0), log(3, 1.0), log(2, 2.5), log(3, 1.5)])
    assert history.loss == [(1.0, 3.0), (2.0, 2.5), (3.0, 1.5)]


@pytest.mark.parametrize("losses", [[], [1.0], [0.0, 0.0], [float("nan"), 1.0], [1e-9, 1e9], [-1.0, 1.0], [5.0] * 2000])
def test_no_losses_break_the_picture(losses: list[float]) -> None:
    history = History.of(log(step, loss) for step, loss in enumerate(losses, 1))
    svg = curve_svg(history.series(), "x")
    ET.fromstring(svg)
    assert "nan" not in svg


@pytest.mark.parametrize("text", HOSTILE)
def test_a_curve_holds_only_text(text: str) -> None:
    svg = ET.fromstring(curve_svg({"loss": [(1, 2), (2, 1)], text: [(1, 1)]}, text, text))
    assert {element.tag.rpartition("}")[2] for element in svg.iter()} <= {"svg", "rect", "g", "text", "line", "polyline", "circle"}


def test_thinning_keeps_the_ends() -> None:
    points = [(float(x), 1.0) for x in range(10_000)]
    thinned = thin(points)
    assert len(thinned) == MOST_POINTS
    assert (thinned[0], thinned[-1]) == (points[0], points[-1])


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_lie_within(low: float, size: float) -> None:
    if low + size <= low:
        return
    found = ticks(low, low + size, 5)
    assert len(found) <= 5
    assert all(low - size * 1e-9 <= tick <= low + size * (1 + 1e-9) for tick in found)


def test_steps_are_whole_numbers() -> None:
    drawn = curve_svg({"loss": [(1.0, 2.0), (2.0, 1.0)]})
    assert re.findall(r'text-anchor="middle">([^<]*)<', drawn) == ["0", "1", "2"]


def test_a_long_caption_is_folded() -> None:
    parts = [f"part number {number}" for number in range(12)]
    lines = folded(" · ".join(parts))
    assert " · ".join(lines) == " · ".join(parts)
    assert len(lines) > 1
    assert max(map(len, lines)) <= 92
    assert folded("") == []


def long_run(steps: int, name: str = "") -> list[dict[str, Any]]:
    """What a run says that tells of every step."""
    told: list[dict[str, Any]] = [{"type": "begin", "step": 0, "max_steps": steps}]
    for step in range(1, steps + 1):
        draw = math.sin(step * 12.9898) * 43758.5453 % 1
        values = {"loss": 3 / step + draw, "learning_rate": 2e-4 * draw, "grad_norm": draw * 7, "tokens_per_second": 1e4 * draw}
        told.append({"type": "log", "step": step, "time": float(step), **values, "memory_mb": 4000 + draw, "rank": 0})
        if step % 10 == 0:
            told.append({"type": "eval", "step": step, "time": float(step), "eval_loss": 3 / step + draw})
    return told


def saved_size(bundle: dict[str, Any]) -> int:
    """The bytes that an output takes in a notebook's file."""
    return len(json.dumps(bundle, indent=1, ensure_ascii=False).encode())


def test_a_thousand_steps_add_less_than_100_kb() -> None:
    from nbdream.widgets.measures import CURVE, MOST_BYTES
    from nbdream.widgets.show import training_bundle

    for steps in (1_000, 50_000):
        bundle = training_bundle("tweeter", "demo", long_run(steps), NODE)
        assert set(bundle) == {"text/plain", "image/svg+xml", CURVE}
        assert len(json.dumps(bundle[CURVE]).encode()) <= MOST_BYTES
        assert saved_size(bundle) < 100_000, saved_size(bundle)
    panels = {panel["title"]: panel["curves"] for panel in bundle[CURVE]["panels"]}
    assert list(panels) == ["loss", "learning rate", "gradient norm", "tokens per second", "memory (MB)"]
    assert [(found["label"], found["dashed"]) for found in panels["loss"]] == [("training loss", False), ("validation loss", False)]
    for found in panels["loss"]:
        assert len(found["points"].split()) > 200
        assert found["points"].rpartition(" ")[2].startswith("50000,")


def test_several_runs_displayed_add_less_than_100_kb() -> None:
    pytest.importorskip("plotly")
    from nbdream.widgets.measures import CURVE
    from nbdream.widgets.plot import training_figure

    figure = training_figure({"one": long_run(1_000), "two <b>": long_run(700)})
    assert max(len(trace.x) for trace in figure.data) == 1_000, "the figure has all"
    shown: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("IPython.display.display", lambda bundle, raw: shown.append(bundle))
        patch.setattr("plotly.io.renderers.default", "plotly_mimetype")
        figure.update_layout(title="mine")._ipython_display_()
    (bundle,) = shown
    assert saved_size(bundle) < 100_000, {name: saved_size(part) for name, part in bundle.items()}
    assert "mine" in json.dumps(bundle["application/vnd.plotly.v1+json"])
    loss = bundle[CURVE]["panels"][0]["curves"]
    assert [(found["label"], found["dashed"]) for found in loss] == [("one", False), ("", True), ("two <b>", False), ("", True)]
    assert loss[0]["colour"] == loss[1]["colour"] != loss[2]["colour"]


def test_curves_are_saved_the_same_every_time_and_hold_numbers_only() -> None:
    from nbdream.widgets.measures import curve_json, measured

    odd = [{"type": "log", "step": step, "loss": value} for step, value in enumerate((float("nan"), float("inf"), -1.0, 1e-300, True, "x"))]
    found = curve_json({"\x1b[2J": measured(odd)}, "n")
    assert found == curve_json({"\x1b[2J": measured(odd)}, "n")
    assert found["panels"][0]["curves"][0]["points"] == "2,-1 3,1e-300 4,1"
    assert "\x1b" not in json.dumps(found, ensure_ascii=False)
    json.dumps(found, allow_nan=False)
    assert curve_json({"a": {}})["panels"] == []


# --- progress -------------------------------------------------------------------------------------------------------


class FakeScreen:
    def __init__(self) -> None:
        self.bundles: list[dict[str, Any]] = []
        self.cleared = False

    def show(self, bundle: Any) -> None:
        self.bundles.append(dict(bundle))

    def clear(self) -> None:
        self.cleared = True


def test_progress_draws_a_line_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("nbdream.widgets.progress.time.monotonic", lambda: clock[0])
    screen = FakeScreen()
    progress = Progress(screen, lambda: None)
    progress.take({"type": "step.progress", "total": 10, "done": 4, "cached": 3, "new": 1, "failed": 0, "cost": None})
    progress.tick()
    assert screen.bundles == []  # what is over at once shows nothing
    clock[0] = 2.0
    progress.tick()
    progress.tick()
    assert [bundle["text/plain"] for bundle in screen.bundles] == ["3 cached · 1 new · 0 failed · 2.0 s"]
    progress.close()
    assert screen.cleared


@pytest.mark.parametrize("page", ["jupyter", "vscode", "other"])
def test_what_is_saved_while_work_runs_is_still_and_says_anew_how_far_it_is(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("anywidget")
    clock = [0.0]
    monkeypatch.setattr("nbdream.widgets.progress.time.monotonic", lambda: clock[0])
    monkeypatch.delenv("NBDREAM_NOTEBOOK", raising=False)
    monkeypatch.setattr("nbdream.widgets.live._alive", OrderedDict())
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    if page != "other":
        monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")  # VS Code may have its kernel from a Jupyter server
    if page == "vscode":
        monkeypatch.setattr("__main__.__vsc_ipynb_file__", "notebook.ipynb", raising=False)
    screen = FakeScreen()
    progress = Progress(screen, lambda: None, live=True, cell="c1")
    for clock[0], done in ((1.0, 4), (3.0, 5), (12.0, 9)):
        progress.take({"type": "step.progress", "name": "<b>", "total": 10, "done": done, "cached": 3, "new": done - 3, "failed": 0})
        progress.tick()
    progress.close()
    view = "application/vnd.jupyter.widget-view+json"
    if page != "jupyter":
        assert [view in bundle for bundle in screen.bundles] == [True]
        return
    assert [set(bundle) for bundle in screen.bundles] == [{"text/plain", "text/html", LIVE}] * 2
    first, last = (bundle["text/html"] for bundle in screen.bundles)
    assert ">4 of 10 · 3 cached · 1 new · " in first
    assert ">9 of 10 · 3 cached · 6 new · " in last
    assert first.partition(">")[0] == last.partition(">")[0], "one place"
    assert {bundle[LIVE]["model"] for bundle in screen.bundles} == {progress._dial.model_id}


def test_a_page_that_was_reloaded_shows_the_curve_to_its_end_and_that_the_cell_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("anywidget")
    from nbdream.widgets import progress as room

    monkeypatch.setattr(room, "QUIET", 0.0)
    monkeypatch.setattr(room, "NotebookScreen", FakeScreen)
    progress = Progress(FakeScreen(), lambda: None, live=True, cell="c2")
    progress.take({"type": "run.event", "name": "tweeter", "event": log(1, 1.0)})
    progress.tick()
    widget = progress._widget
    assert widget.running
    progress.take({"type": "run.event", "name": "tweeter", "event": log(2, 0.5)})
    progress.close()
    assert widget.comm is not None, "who still shows it is not left with what was saved"
    assert len(widget.series["loss"]) == 2
    assert not widget.running
    assert widget.line.endswith("the cell is over: run it again to see its result here")


def test_progress_draws_a_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("nbdream.widgets.progress.time.monotonic", lambda: clock[0])
    screen = FakeScreen()
    progress = Progress(screen, lambda: None)
    for step in range(1, 13):
        progress.take({"type": "run.event", "name": "tweeter", "event": log(step, 1 / step)})
        clock[0] += 0.5
        progress.tick()
    assert len(screen.bundles) == 12
    assert screen.bundles[-1]["image/svg+xml"].count("<polyline") == 1
    assert "step 12 of 50" in screen.bundles[-1]["text/plain"]


def test_the_stop_button_obeys_one_message_only() -> None:
    pytest.importorskip("anywidget")
    from nbdream.widgets.curve import curve_widget

    stopped: list[int] = []
    widget = curve_widget("tweeter", lambda: stopped.append(1))
    for message in ({"op": "stop", "code": "x"}, {"op": "run"}, "stop", None, [{"op": "stop"}]):
        widget._handle_custom_msg(message, [])
    assert stopped == []
    widget._handle_custom_msg({"op": "stop"}, [])
    assert stopped == [1]
    assert "http" not in widget._esm.replace("http://www.w3.org/2000/svg", "")
