"""A JupyterLab without the extension: the line that changes, the button that stops, the table; nothing but panel and badges is missing."""

from __future__ import annotations

import pytest

from nbdream.widgets.mime import TABLE
from tests.browsing import TEXT, Opens, needs_chromium

CELLS = [
    "%load_ext nbdream\n%dream open ./output\n%dream model slow = echo/slow delay=0.2 max_concurrency=4",
    "%%generate greetings -m slow -n 40\nHello <b>there</b>",
    "greetings.browse()",
    "%dream card greetings",
]

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(150), needs_chromium]


def test_without_the_extension_all_but_panel_and_badges_is_there(opens_plain: Opens) -> None:
    lab = opens_plain(CELLS)
    page = lab.page
    assert not page.evaluate("window.jupyterapp.hasPlugin('nbdream:plugin')")
    lab.run(0)
    running = lab.begin(1)
    lab.wait(f"/of 40 · \\d+ cached · [4-9] new · 0 failed/.test({TEXT})")  # live, while the cell runs
    lab.picture("plain-running")
    lab.press(page.locator(".jp-OutputArea-output button", has_text="Stop"))
    assert lab.ended(running) < 1.5  # of which the page takes a part, to draw
    assert "Stopped" in lab.text(1)

    running = lab.begin(1)
    lab.wait(f"/of 40 · [1-9]\\d* cached · \\d+ new/.test({TEXT})")  # what was done is kept
    lab.interrupt()
    assert lab.ended(running) < 1.5
    assert "Stopped" in lab.text(1)

    lab.run(1)
    assert "40 rows · slow · made " in lab.text(1)
    assert "cached" not in lab.text(1)
    assert page.locator(".jp-OutputArea-output b").count() == 0, "what a model wrote is text"
    lab.run(2, 3)
    page.locator(".nbd-table .nbd-cell", has_text="Hello <b>there</b>").first.wait_for()
    assert "greetings" in lab.text(3)
    lab.picture("plain-over")
    saved = lab.save()
    assert [set(output.data) for output in saved[1].outputs] == [{"text/plain", "text/html", TABLE}]
    lab.is_clean()
