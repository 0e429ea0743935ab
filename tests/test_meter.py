"""What a running cell shows where somebody looks on: how far, how fast, how long, how dear; and its Stop button."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdream.widgets.live import LIVE
from nbdream.widgets.meter import Limit, Meter, meter_widget
from tests.notebook import CellResult, Kernel, kernel_in

STATIC = Path(__file__).parent.parent / "nbdream" / "widgets" / "static"


def event(done: int, cached: int = 0, failed: int = 0, **more: Any) -> dict[str, Any]:
    new = done - cached - failed
    counts = {"total": 1000, "done": done, "cached": cached, "new": new, "failed": failed}
    return {"type": "step.progress", "name": "tweets", "recipe": "r", **counts, "cost": None, "saved": 0.0, **more}


def test_the_line_tells_counts_pace_time_left_and_money() -> None:
    meter = Meter(began=100.0, limit=Limit(5.0, spent=1.0))
    meter.add(event(500, cached=500), 100.0)
    meter.add(event(520, cached=500, failed=2, cost=0.04, saved=1.37), 104.0)
    assert (
        meter.line(104.0)
        == "520 of 1,000 · 500 cached · 18 new · 2 failed · 5 a second · 1 min 36 s left · $1.04 of $5.00 (saved $1.37) · 4.0 s"
    )
    assert meter.shares() == {"cached": 0.5, "new": 0.018, "failed": 0.002}


def test_the_pace_is_that_of_what_is_asked_for() -> None:
    meter = Meter(began=0.0)
    meter.add(event(0), 0.0)
    meter.add(event(900, cached=890), 10.0)
    assert meter.pace(10.0) == 1.0
    assert meter.left(10.0) == 100.0
    for at in range(11, 60):
        meter.add(event(900 + 2 * (at - 10), cached=890), float(at))
    assert meter.pace(59.0) == pytest.approx(2.0, rel=0.1), "of the last seconds, not of the beginning"
    for at in range(10_000):
        meter.add(event(998, cached=890), 59.0 + at / 10_000)
    assert len(meter._paces) < 200, "a fast service tells of thousands in a second"
    stands = meter.pace(200.0)
    assert stands is not None
    assert stands < 0.3, "a service that answers no more has no pace"


def test_what_is_not_known_is_not_said() -> None:
    meter = Meter(began=0.0)
    assert meter.line(0.5) == "0.5 s"
    assert meter.shares() == {}
    meter.add({"total": None, "done": 3, "cached": 0, "new": 3, "failed": 0}, 0.1)
    assert meter.line(0.5) == "0 cached · 3 new · 0 failed · 0.5 s"
    meter.add({"recipe": "another", "total": 1000, "done": 415}, 2.0)
    assert meter.line(2.0) == "41 % · 2.0 s"
    meter.add({**event(1000, cached=1000), "batch": [3, 10]}, 20.0)
    assert "3 of 10 done at the provider" in meter.line(20.0)
    assert "left" not in meter.line(20.0), "a batch service keeps no pace"


def test_the_stop_button_obeys_one_message_only() -> None:
    pytest.importorskip("anywidget")
    stopped: list[int] = []
    widget = meter_widget(lambda: stopped.append(1))
    for message in ({"op": "stop", "code": "x"}, {"op": "run"}, "stop", None, [{"op": "stop"}]):
        widget._handle_custom_msg(message, [])
    assert stopped == []
    widget._handle_custom_msg({"op": "stop"}, [])
    assert stopped == [1]


def test_texts_reach_the_page_as_text_only() -> None:
    source = (STATIC / "meter.js").read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|srcdoc|\bon[a-z]+\s*=|import\(|http", source
    )


# --- in a kernel --------------------------------------------------------------------------------------------------------

CELL = "%%generate long -m slow -n 400\nHello"
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    pytest.importorskip("anywidget")
    with kernel_in(tmp_path_factory.mktemp("kernel")) as opened:
        opened.run("%load_ext nbdream\n%dream open ./output\n%dream model slow = echo/slow delay=0.25 max_concurrency=4")
        opened.run("%dream model stuck = echo/stuck delay=30 max_concurrency=4")
        opened.run("import anywidget")
        yield opened


def meter_of(message: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The comm and the state of the widget, when it is a message of it."""
    content = message["content"]
    state = content.get("data", {}).get("state", {}) if message["msg_type"] in ("comm_open", "comm_msg") else {}
    return (content["comm_id"], state) if "shares" in state or "line" in state else None


def press_stop(kernel: Kernel, comm: str) -> float:
    """Press the button of a widget; when."""
    content = {"comm_id": comm, "data": {"method": "custom", "content": {"op": "stop"}}}
    kernel.client.shell_channel.send(kernel.client.session.msg("comm_msg", content))
    return time.monotonic()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["slow", "stuck"])
def test_stop_ends_the_cell_within_a_second_and_keeps_what_was_done(kernel: Kernel, model: str) -> None:
    cell = CELL.replace("slow", model)
    running = kernel.start(cell, cell_id="cell-1")
    result, pressed, comm, lines = CellResult(), 0.0, "", []
    for message in kernel.messages(running):
        result.messages.append(message)
        found = meter_of(message)
        if found is None:
            continue
        comm, lines = found[0], [*lines, found[1].get("line", "")]
        counted = re.search(r"(\d+) new", lines[-1])
        if not pressed and (model == "stuck" or (counted and int(counted[1]) >= 4)):
            pressed = press_stop(kernel, comm)
    assert 0 < time.monotonic() - pressed < 1.0
    (error,) = [message["content"] for message in result.messages if message["msg_type"] == "error"]
    assert error["ename"] == "Stopped"
    assert [message["msg_type"] for message in result.outputs] == ["error"], "nothing of the widget stays"
    if model == "slow":
        again = kernel.start(cell, cell_id="cell-1")
        for message in kernel.messages(again):
            counted = re.search(r"(\d+) cached", (meter_of(message) or ("", {}))[1].get("line", ""))
            if counted:
                assert int(counted[1]) >= 4
                press_stop(kernel, (meter_of(message) or ("", {}))[0])


@pytest.mark.slow
def test_the_widget_is_there_while_it_runs_and_gone_when_it_is_over(kernel: Kernel) -> None:
    cell = "%%generate some -m slow -n 12 --max-cost 3\nHello again"
    result = kernel.run(cell, cell_id="cell-2")
    assert result.status == "ok", result.error
    live = [message for message in result.messages if message["msg_type"] == "display_data"]
    (first,) = [message["content"]["data"] for message in live]
    assert set(first) == {"text/plain", "text/html", LIVE}, "no view of a widget that a page without a kernel could not show"
    assert "new" in first["text/plain"], "whoever shows no widget sees the line"
    assert re.search(r'^<div data-nbdream="[0-9a-f]{32}">.* of 12 · .* new · .* s<.*was running when this was saved', first["text/html"])
    states = [found[1] for message in result.messages if (found := meter_of(message))]
    assert any(re.match(r"\d+ of 12 · \d+ cached · \d+ new · 0 failed · ", state.get("line", "")) for state in states)
    assert any("of $3.00" in state.get("line", "") for state in states)
    (shown,) = result.outputs
    assert WIDGET not in shown["content"]["data"]
    assert shown["content"]["data"] == kernel.run(cell, cell_id="cell-2").outputs[0]["content"]["data"]


@pytest.mark.slow
def test_where_nobody_looks_on_there_is_a_line(kernel: Kernel) -> None:
    headless = kernel.run("%%generate unseen -m slow -n 8\nHello you")
    assert headless.status == "ok", headless.error
    assert any("new" in line for line in headless.live)
    assert not [message for message in headless.messages if message["msg_type"].startswith("comm_")]
