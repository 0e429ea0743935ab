"""In a real JupyterLab: a cell made anew, its failed rows, another seed; stale cells with the Python between them; the lineage."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.browsing import Opens, needs_chromium, needs_extension

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(150), needs_chromium, needs_extension]

MODEL = """%load_ext nbdream
%dream open ./output
from nbdream.llms import EchoLLM
class Moody(EchoLLM):
    kind = "moody"
    asked = 0
    def _text(self, request):
        Moody.asked += 1
        if Moody.asked <= 6 and request.prompt.endswith("3"):
            return "maybe"
        return "Yes."
moody = Moody()"""
CELLS = [
    MODEL,
    "rows = [{'x': number} for number in range(6)]",
    "%%filter good --from rows -m moody\nIs it good? {{ x }}",
    "frame = good.to_pandas()",
    "unrelated = 1",
    "%%map doubled --from frame\n{'y': row.x * 2}",
    "%dream lineage",
]
FRESH = "document.querySelectorAll('.nbd-Badge[data-state=fresh]').length == 2"


def counts(lab: Any) -> list[int]:
    return [lab.cell(number, "return cell.model.executionCount") for number in range(len(CELLS))]


def choose(lab: Any, number: int, label: str) -> None:
    """Take a line of the menu of a cell's badge."""
    lab.badge(number).locator(".nbd-Badge-more").click()
    lab.page.locator(".lm-Menu-item", has_text=label).click()


def test_a_cell_is_made_anew_and_what_follows_from_it(opens: Opens) -> None:
    lab = opens(CELLS)
    lab.command("notebook:run-all-cells")
    lab.wait(FRESH)
    assert "1 failed" in lab.badge(2).inner_text()
    assert "5 rows" in lab.badge(5).inner_text()

    choose(lab, 2, "Retry Failed Rows")
    lab.wait("document.querySelectorAll('.nbd-Badge[data-state=stale]').length == 1")
    assert lab.badge(2).inner_text().split() == ["fresh", "6", "rows"]
    before = counts(lab)
    lab.command("nbdream:run-stale")
    lab.wait(FRESH)
    assert "6 rows" in lab.badge(5).inner_text()
    assert [now > then for then, now in zip(before, counts(lab), strict=True)] == [False, False, False, True, False, True, False]

    lab.cell(2, "cell.model.sharedModel.setSource(cell.model.sharedModel.getSource() + '?')")
    lab.wait("document.querySelectorAll('.nbd-Badge[data-state=stale]').length == 2")
    before = counts(lab)
    lab.command("nbdream:run-stale")
    lab.wait(FRESH)
    assert [now > then for then, now in zip(before, counts(lab), strict=True)] == [False, False, True, True, False, True, False]

    # Plain Python that is edited turns what was made through it stale.
    lab.cell(3, "cell.model.sharedModel.setSource('frame = good.to_pandas()[:4]')")
    lab.wait("document.querySelectorAll('.nbd-Badge[data-state=stale]').length == 1")
    assert "the Python before doubled was edited, not run" in lab.badge(5).inner_text()
    lab.command("nbdream:run-stale")
    lab.wait(FRESH)
    assert "4 rows" in lab.badge(5).inner_text()

    before = counts(lab)
    choose(lab, 2, "Recompute This Cell")
    lab.wait(f"document.querySelectorAll('.jp-CodeCell')[2].innerText.includes('[{max(before) + 1}]:')")
    history = json.loads((lab.path.parent / "output" / "names" / "good.json").read_text())["history"]
    assert history[-1]["recipe"] == f"{history[-2]['recipe']}-2"

    choose(lab, 2, "Recompute with a New Seed")
    lab.wait("document.querySelector('.jp-Notebook').innerText.includes('--seed 1')")
    assert lab.cell(2, "return cell.model.sharedModel.getSource()").splitlines()[0] == "%%filter good --from rows -m moody --seed 1"
    # From the menu of the cell itself.
    lab.page.locator(".jp-CodeCell").nth(2).locator(".jp-InputArea-editor").click(button="right")
    menu = lab.page.locator(".lm-Menu")
    assert menu.get_by_text("Recompute with a New Seed").count() == 1
    lab.picture("recompute-menu")
    menu.get_by_text("Recompute with a New Seed").click()
    lab.wait("document.querySelector('.jp-Notebook').innerText.includes('--seed 2')")
    lab.page.locator(".jp-CodeCell").nth(4).locator(".jp-InputArea-editor").click(button="right")
    menu.get_by_text("Copy Cell").first.wait_for()
    assert not menu.get_by_text("Recompute with a New Seed").is_visible(), "not in cells of others"
    lab.page.keyboard.press("Escape")
    assert lab.elsewhere == []
    assert lab.errors == []


def test_the_lineage_leads_to_its_cells(opens: Opens) -> None:
    lab = opens(CELLS)
    lab.command("notebook:run-all-cells")
    lab.wait(FRESH)
    graph = lab.page.locator(".jp-OutputArea-output .nbd-lin")
    assert graph.locator("b").all_inner_texts() == ["data of the notebook", "good", "Python", "doubled"]
    assert graph.locator("path").count() == 3
    lab.command("nbdream:open")
    panel = lab.page.locator("#nbdream-panel .nbd-lin")
    assert panel.locator("b").all_inner_texts() == ["good", "doubled"]
    panel.locator("button").first.click()
    lab.wait("window.jupyterapp.shell.currentWidget.content.activeCellIndex == 2")

    # With the keyboard: down the lines, and Enter goes to the cell.
    graph.locator("button").first.focus()
    for _ in range(2):
        lab.page.keyboard.press("ArrowDown")
    assert "frame = good.to_pandas()" in lab.page.evaluate("document.activeElement.innerText")
    assert "made from good" in lab.page.evaluate("document.activeElement.getAttribute('aria-label')")
    lab.picture("lineage-light")
    lab.page.keyboard.press("Enter")
    lab.wait("window.jupyterapp.shell.currentWidget.content.activeCellIndex == 3")
    lab.command("apputils:change-theme", {"theme": "JupyterLab Dark"})
    lab.wait("document.body.dataset.jpThemeLight == 'false' && !document.getElementById('jupyterlab-splash')")
    lab.show(6)
    lab.picture("lineage-dark")
    saved = lab.save()[6]["outputs"][0]["data"]
    assert {"text/plain", "image/svg+xml"} < set(saved)
    assert "<script" not in saved["image/svg+xml"]
    assert lab.elsewhere == []
    assert lab.errors == []
