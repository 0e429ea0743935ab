"""A JupyterLab without the extension: the line that changes, the button that stops, the table; nothing but panel and badges is missing."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from nbdream.widgets.mime import TABLE
from tests.browsing import NOTEBOOK, TEXT, Opens, needs_chromium

SETUP = """%load_ext nbdream
%dream open ./output
%dream model slow = echo/slow delay=0.2 max_concurrency=4
from nbdream.widgets import progress
progress.ANEW = 0.5"""
CELLS = [
    SETUP,
    "%%generate greetings -m slow -n 100\nHello <b>there</b>",
    "greetings.browse()",
    "%dream card greetings",
]

STILL = f"{NOTEBOOK}.content.widgets[1].model.outputs.get(0)?.data['text/html']"

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(150), needs_chromium]


def test_without_the_extension_all_but_panel_and_badges_is_there(
    opens_plain: Opens, record_property: Callable[[str, object], None]
) -> None:
    lab = opens_plain(CELLS)
    page = lab.page
    assert not page.evaluate("window.jupyterapp.hasPlugin('nbdream:plugin')")
    lab.run(0)
    running = lab.begin(1)
    lab.wait(f"/of 100 · \\d+ cached · [1-9]\\d* new · 0 failed/.test({TEXT})")  # live, while the cell runs
    lab.picture("plain-running")
    stop = page.locator(".jp-OutputArea-output button", has_text="Stop")
    stop.focus()
    held, still = stop.element_handle(), page.evaluate(STILL)
    lab.wait(f"{STILL} != {json.dumps(still)}")  # what would be saved is drawn anew, below what is live
    assert held.evaluate("button => button.isConnected && button == document.activeElement")
    assert stop.count() == 1
    lab.press(stop)
    seconds = lab.ended(running)
    record_property("Stop: over after", f"{seconds:.2f} s")
    assert seconds < 1
    assert "Stopped" in lab.text(1)

    running = lab.begin(1)
    lab.wait(f"/of 100 · [1-9]\\d* cached · \\d+ new/.test({TEXT})")  # what was done is kept
    lab.interrupt()
    seconds = lab.ended(running)
    record_property("Interrupt: over after", f"{seconds:.2f} s")
    assert seconds < 1
    assert "Stopped" in lab.text(1)

    lab.run(1)
    assert "100 rows · slow · made " in lab.text(1)
    assert "cached" not in lab.text(1)
    assert page.locator(".jp-OutputArea-output b").count() == 0, "what a model wrote is text"
    lab.run(2, 3)
    page.locator(".nbd-table .nbd-cell", has_text="Hello <b>there</b>").first.wait_for()
    assert "greetings" in lab.text(3)
    lab.picture("plain-over")
    saved = lab.save()
    assert [set(output.data) for output in saved[1].outputs] == [{"text/plain", "text/html", TABLE}]
    lab.is_clean()
