"""The example notebook in a fresh JupyterLab, Run All: tables, status lines, badges, curve and panel; and all of it again for nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.browsing import IDLE, ROOT, Lab, Opens, needs_chromium, needs_extension

EXAMPLE = ROOT / "example_notebooks" / "01_abstract_to_tweet.ipynb"
RESULTS = ["abstracts", "drafts", "tweets", "tweeter", "retweets"]
WORDS = {
    "abstracts": "60 rows · demo · made ",
    "drafts": "60 rows · demo · made ",
    "tweets": "60 rows · made ",
    "train": "loss",
    "again": "6 rows · tweeter · made ",
    "status": "fresh",
    "card": "tweets",
    "model-card": "tweeter",
    "publish-data": "abstracts_and_tweets",
    "publish-model": "abstract-to-tweet-model",
}
"""What cells show."""

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.stress, pytest.mark.timeout(600), needs_chromium, needs_extension]


def test_run_all(opens: Opens) -> None:
    lab = opens(EXAMPLE)
    page = lab.page
    lab.command("nbdream:open")
    lab.command("application:toggle-left-area")
    running = lab.start("notebook:run-all-cells")
    lab.wait("/running \\d+ %/.test(document.querySelector('#nbdream-panel').innerText) || document.querySelector('.nbd-Work')")
    lab.picture("example-running")
    lab.end(running, 300)
    lab.wait(IDLE)
    assert "rror:" not in lab.text()
    lab.wait(f"document.querySelectorAll('.nbd-Badge[data-state=fresh]').length == {len(RESULTS)}")
    panel = page.locator("#nbdream-panel")
    names = panel.locator(".nbd-Result .nbd-Name").all_inner_texts()
    assert set(RESULTS) <= set(names), names
    at = page.evaluate("window.jupyterapp.shell.currentWidget.content.widgets.map(cell => cell.model.id)")
    for cell, words in WORDS.items():
        lab.show(at.index(cell), words)
    tables = [
        cell for cell in at if lab.show(at.index(cell)) and lab.cell(at.index(cell), "return cell.node.querySelector('.nbd-Table') != null")
    ]
    assert tables == ["abstracts", "drafts", "tweets", "again"]
    _looks_good(lab, at)
    first = without_counts(lab.save())
    made = files(lab.path.parent / "output")

    lab.restart()
    lab.end(lab.start("notebook:run-all-cells"), 120)
    second = without_counts(lab.save())
    for one, other in zip(first, second, strict=True):
        assert one == other
    assert files(lab.path.parent / "output") == made, "nothing was computed twice"
    lab.is_clean()


def _looks_good(lab: Lab, at: list[str]) -> None:
    """Pictures of its parts, light and dark, and nothing wider than its place."""
    for theme in ("light", "dark"):
        if theme == "dark":
            lab.dark()
        for cell in ("abstracts", "train", "card"):
            lab.show(at.index(cell))
            lab.page.wait_for_timeout(300)
            lab.picture(f"example-{cell}-{theme}")
    wide = "[...document.querySelectorAll('.nbd-Badge, #nbdream-panel, .nbd-Panel section')].filter(e => e.scrollWidth > e.clientWidth + 1)"
    assert lab.page.evaluate(f"{wide}.map(e => e.innerText.slice(0, 80))") == []


def without_counts(cells: list[Any]) -> list[Any]:
    """The cells of a notebook without what a run counts."""
    cells = copy.deepcopy(cells)
    for cell in cells:
        cell.pop("execution_count", None)
        for output in cell.get("outputs", ()):
            output.pop("execution_count", None)
    return cells


def files(folder: Path) -> dict[str, bytes]:
    """What a session holds of results, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("objects/*/node.json")}
