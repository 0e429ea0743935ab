"""The live table in JupyterLab: a million rows, and what a model may have written, which shows as text and runs nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.browsing import TEXT, Lab, Opens, needs_chromium, needs_extension

SETUP = """%load_ext nbdream
%dream open ./output
from nbdream.llms import EchoLLM
from nbdream.steps import DataSource, Filter
from tests.hostile import HOSTILE
count = 1_000_000
big = DataSource("big", data={"number": list(range(count)), "text": [f"row {number} of a long table" for number in range(count)]})
texts = [text for text in HOSTILE if text.encode("utf-8", "ignore").decode() == text]
hostile = DataSource("hostile", data={"text": [*texts, "x" * 1_000_000], texts[0]: [texts[2]] * (len(texts) + 1)})
first = DataSource("first", data={"tweet": ["Models learn fast.", "Nothing changed."], "likes": [3, 4]})
second = DataSource("second", data={"tweet": ["Models now learn faster!", "Nothing changed."], "likes": [3, 5]})
unsure = EchoLLM(answers=["Yes.", "<b>Perhaps</b>"])
picked = Filter("picked", inputs={"rows": hostile.take(20)}, args={"llm": unsure, "template": "Good? {{ text }}"})"""
CELLS = [SETUP, "big.browse()", "hostile.browse()", "first.browse(second)", "picked.browse()"]

OPENED = """async (number) => {
  const began = performance.now();
  const notebook = window.jupyterapp.shell.currentWidget.content;
  notebook.activeCellIndex = number;
  await window.jupyterapp.commands.execute('notebook:run-cell');
  const over = performance.now();
  const cell = notebook.widgets[number].node;
  while (!cell.querySelector('.nbd-table tbody td')) await new Promise(requestAnimationFrame);
  return [over - began, performance.now() - began];
}"""
TAGS = "[...new Set([...document.querySelectorAll('.nbd-table, .nbd-table *')].map(e => e.localName))].sort()"
CELLS_OF = "n => [...document.querySelectorAll('.nbd-table')[n].querySelectorAll('.nbd-cell')].map(e => e.textContent)"
ALLOWED = {
    "button", "col", "colgroup", "del", "div", "i", "input", "ins", "label", "span", "style", "table", "tbody", "td", "th", "thead", "tr",
}  # fmt: skip


LIVE = [
    "%load_ext nbdream\n%dream open ./live\n%dream model slow = echo/live delay=0.3 max_concurrency=4",
    """from nbdream.steps import DataSource
rows = DataSource("rows", data={"a": ["red fox", "same"], "b": ["blue fox", "same"]})
rows.browse(columns=("a", "b"))""",
    "rows.failures.browse()",
    "%%generate long -m slow -n 2000\nHello",
]

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(150), needs_chromium]


def test_a_million_rows_and_hostile_texts(opens_plain: Opens, record_property: Callable[[str, object], None]) -> None:
    lab = opens_plain(CELLS)
    page = lab.page
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    lab.run(0)
    ran, opened = page.evaluate(OPENED, 1)
    record_property("a million rows there after", f"{opened - ran:.0f} ms")
    assert opened - ran < 1000, f"the table was there {opened - ran:.0f} ms after its cell"
    _scrolls_and_searches(lab)
    _shows_hostile_texts_as_text(lab)
    _shows_two_versions(lab)
    _shows_failed_rows(lab)
    assert set(page.evaluate(TAGS)) <= ALLOWED
    assert dialogs == []
    lab.is_clean()


def _scrolls_and_searches(lab: Lab) -> None:
    page = lab.page
    table = page.locator(".nbd-table").first
    assert "1,000,000 rows" in table.inner_text()
    view = table.locator(".nbd-view")
    view.focus()
    view.press("End")
    page.wait_for_function(f"({CELLS_OF})(0).includes('row 999999 of a long table')")
    assert page.evaluate("() => window.jupyterapp.shell.currentWidget.content.mode") == "command"
    active = view.get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").inner_text() == "999999"
    lab.picture("table-light")
    view.press("Home")
    page.wait_for_function(f"({CELLS_OF})(0).includes('row 0 of a long table')")
    view.evaluate("view => { view.scrollTop = view.scrollHeight / 2 }")
    page.wait_for_function(f"({CELLS_OF})(0).some(text => /^row [45]\\d{{5}} /.test(text))")
    table.get_by_role("button", name="number").click()
    table.get_by_role("button", name="number").click()
    page.wait_for_function(f"({CELLS_OF})(0).includes('row 999998 of a long table')")
    assert table.locator("th[aria-sort=descending]").count() == 1
    table.get_by_label("Filter number").fill("< 1000")
    table.get_by_label("Search").fill("ROW 99")
    page.wait_for_function("document.querySelector('.nbd-said').textContent == '11 of 1,000,000 rows'")
    table.get_by_label("Filter number").fill("many")
    page.wait_for_function("document.querySelector('.nbd-wrong')?.textContent.includes('is no comparison')")


def _shows_hostile_texts_as_text(lab: Lab) -> None:
    page = lab.page
    lab.dark()
    lab.run(2)
    table = page.locator(".nbd-table").nth(1)
    table.locator("tbody td").first.wait_for()
    view = table.locator(".nbd-view")
    view.scroll_into_view_if_needed()
    assert page.evaluate(CELLS_OF, 1)[1:3] == ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>"]
    assert page.locator(".nbd-table script, .nbd-table img, .nbd-table a").count() == 0
    view.focus()
    view.press("Enter")
    lab.picture("table-dark")
    for _ in range(40):
        view.press("PageDown")
    view.press("End")
    page.wait_for_function(f"({CELLS_OF})(1).some(text => text.endsWith('1,000,000 characters'))")
    assert max(map(len, page.evaluate(CELLS_OF, 1))) < 3000
    view.press("Enter")
    page.wait_for_function(f"Math.max(...({CELLS_OF})(1).map(text => text.length)) == 1e6")
    view.press("Enter")
    page.wait_for_function(f"Math.max(...({CELLS_OF})(1).map(text => text.length)) < 3000")


def _shows_two_versions(lab: Lab) -> None:
    page = lab.page
    lab.run(3)
    table = page.locator(".nbd-table").nth(2)
    table.locator("tbody td").first.wait_for()
    table.scroll_into_view_if_needed()
    assert table.locator("ins").all_inner_texts() == ["now ", "faster!", "5"]
    table.get_by_label("only rows that differ").check()
    lab.picture("versions-dark")


def _shows_failed_rows(lab: Lab) -> None:
    page = lab.page
    lab.run(4)
    table = page.locator(".nbd-table").nth(3)
    table.locator("tbody td").first.wait_for()
    table.get_by_role("tab", name="failed").click()
    table.get_by_text("<b>Perhaps</b>").first.wait_for()
    heads = table.locator("th[scope=col]").all_inner_texts()
    assert heads[:3] == ["row", "error", "said"]
    table.scroll_into_view_if_needed()
    lab.picture("failed-dark")
    table.get_by_role("tab", name="Rows").click()
    page.wait_for_function("[...document.querySelectorAll('.nbd-table')][3].querySelector('th[scope=col]').innerText.startsWith('text')")


@pytest.mark.stress
@needs_extension
def test_when_the_kernel_is_gone_a_picture_is_there(opens: Opens) -> None:
    lab = opens(LIVE)
    page = lab.page
    lab.run(0, 1, 2)
    page.locator(".nbd-table ins", has_text="blue").wait_for()
    page.get_by_role("checkbox", name="only rows that differ").check()
    page.locator(".nbd-said", has_text="1 of 2 rows").wait_for()
    lab.begin(3)
    lab.wait("/[1-9]\\d* new/.test(document.querySelector('.nbd-meter')?.innerText)")
    lab.picture("meter-light")
    lab.command("docmanager:save")
    page.evaluate("() => { window.jupyterapp.shell.currentWidget.context.sessionContext.shutdown() }")
    lab.wait("!document.querySelector('.nbd-meter')")
    lab.wait(f"{TEXT}.includes('the cell was running when this was saved')")
    seen = lab.text()
    assert "blue fox" in seen
    assert "1 of 2 rows differ" in seen
    assert "not found" not in seen
    assert "Loading" not in seen
    assert lab.elsewhere == []
    assert [error for error in lab.errors if "widget" in error.lower()] == []
