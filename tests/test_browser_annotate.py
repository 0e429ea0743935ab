"""Deciding in JupyterLab with the keyboard alone: in the cell's own output, and in the live view that needs no extension."""

from __future__ import annotations

from typing import Any

import pytest

from nbdream.widgets.annotate import ANNOTATE
from tests.browsing import Lab, Opens, needs_chromium, needs_extension

SETUP = """%load_ext nbdream
%dream open ./output
rows = [{'topic': f'<b>topic</b> {at}', 'one': f'A short haiku, number {at}.', 'two': f'{at}: a longer one.'} for at in range(20)]
rows[1]['one'] = 'x' * 1_000_000"""
CELLS = [
    SETUP,
    "%%annotate taste --from rows --prefer one two --by ana\nWhich is the better <haiku>?",
    "%%annotate texts --from rows --column two --by ana",
    "texts.annotate()",
    "%%annotate rated --from rows --rate 5 --by ana",
]
SAID = "document.querySelectorAll('.nbd-ann-said')"
ACTIVE = "document.activeElement"
ALLOWED = {
    "button", "div", "i", "kbd", "p", "span", "strong", "style", "table", "tbody", "td", "textarea", "th", "thead", "tr",
}  # fmt: skip


pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(150), needs_chromium, needs_extension]


class Keys:
    """Somebody at the keyboard of a page, who looks at one annotation."""

    def __init__(self, page: Any, number: int) -> None:
        self.page, self.number = page, number

    def tab_into(self) -> None:
        """Come to the annotation by the Tab key."""
        for _ in range(12):
            if self.page.evaluate(f"{ACTIVE}.classList.contains('nbd-ann')"):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not lead to it: {self.page.evaluate(f'{ACTIVE}.outerHTML.slice(0, 200)')}")

    def says(self, text: str) -> None:
        """Wait until the live region begins with this."""
        self.page.wait_for_function(f"([at, text]) => {SAID}[at]?.textContent.startsWith(text)", arg=[self.number, text])

    def press(self, key: str, says: str) -> None:
        self.page.keyboard.press(key)
        self.says(says)


def test_twenty_rows_with_the_keyboard_alone(opens: Opens) -> None:
    lab = opens(CELLS)
    _decides_twelve(lab)
    lab.restart()
    _finishes(lab)
    _edits(lab)
    page = lab.page
    assert set(page.evaluate("[...new Set([...document.querySelectorAll('.nbd-ann, .nbd-ann *')].map(e => e.localName))]")) <= ALLOWED
    cells = page.evaluate("window.jupyterapp.shell.currentWidget.content.model.toJSON().cells")
    assert set(cells[1]["outputs"][0]["data"]) == {"text/plain", "text/html", ANNOTATE}
    assert [cell["source"] for cell in cells] == CELLS, "no key went to the notebook"
    lab.is_clean()


def _decides_twelve(lab: Lab) -> None:
    page = lab.page
    lab.run(0)
    lab.run(1)
    keys = Keys(page, 0)
    keys.says("Row 1 of 20.")
    keys.tab_into()
    assert "<b>topic</b> 0" in page.locator(".nbd-ann").inner_text()
    keys.press("ArrowLeft", "Left. Row 2 of 20.")
    assert len(page.locator(".nbd-ann").inner_text()) < 4_000, "a million characters are folded"
    keys.page.keyboard.press("f")
    page.wait_for_function("document.querySelector('.nbd-ann').textContent.length > 1e6")
    keys.press("t", "Tie. Row 3 of 20.")
    keys.press("u", "Taken back. Row 2 of 20.")
    keys.press("s", "Skipped. Row 3 of 20.")
    for row in range(3, 14):
        keys.press("ArrowRight", f"Right. Row {row + 1} of 20.")
    page.keyboard.press("?")
    lab.picture("annotate-light")
    page.keyboard.press("?")
    assert page.evaluate(f"{ACTIVE}.classList.contains('nbd-ann')"), "focus stays"
    assert page.evaluate("window.jupyterapp.shell.currentWidget.content.activeCellIndex") == 1


def _finishes(lab: Lab) -> None:
    page = lab.page
    lab.run(0)
    lab.run(1)
    keys = Keys(page, 0)
    keys.says("Row 2 of 20.")
    assert page.locator(".nbd-ann-bar").first.inner_text().split()[1:4] == ["12", "of", "20"]
    keys.tab_into()
    keys.press("t", "Tie. Row 14 of 20.")
    for row in range(14, 20):
        keys.press("ArrowLeft", f"Left. Row {row + 1} of 20.")
    keys.press("ArrowLeft", "Left. All 20 rows are decided.")
    assert "20 of 20 rows decided" in page.locator(".nbd-ann").first.inner_text()


def _edits(lab: Lab) -> None:
    page = lab.page
    lab.dark()
    lab.run(2)
    lab.run(3)
    keys = Keys(page, 2)
    keys.says("Row 1 of 20.")
    keys.tab_into()
    keys.press("a", "Accepted. Row 2 of 20.")
    keys.press("e", "Editing.")
    page.keyboard.press("Control+End")
    page.keyboard.type(" dd a rr?")  # what would be keys outside
    lab.picture("annotate-dark")
    keys.press("Escape", "Not edited. Row 2 of 20.")
    keys.press("e", "Editing.")
    page.keyboard.type("Better. ")
    keys.press("Control+Enter", "Edited. Row 3 of 20.")
    keys.press("r", "Rejected. Row 4 of 20.")
    lab.run(4)
    rates = Keys(page, 3)
    rates.says("Row 1 of 20.")
    rates.tab_into()
    rates.press("4", "Rated 4. Row 2 of 20.")
    lab.picture("annotate-rate-dark")
