"""Saved, closed, opened again without its kernel, and as HTML: a notebook shows every result, with the extension and without it."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from nbdream.widgets.live import LIVE
from tests.browsing import IDLE, PICTURES, Lab, Opens, needs_chromium, needs_extension

SETUP = """%load_ext nbdream
%dream open ./output
%dream model echo = echo/again delay=0.05 max_concurrency=4
from nbdream.steps import DataSource
rows = DataSource("rows", data={"q": [f"say {n}" for n in range(24)], "one": ["red fox"] * 24, "two": ["blue fox"] * 24})"""
CELLS = {
    "setup": SETUP,
    "table": "%%generate topics -m echo -n 30 --as topic\nName a <b>topic</b>.",
    "browse": "topics.browse()",
    "beside": 'rows.browse(columns=("one", "two"))',
    "annotate": "%%annotate taste --from rows --prefer one two --by ana\nWhich is <i>better</i>?",
    "annotating": "taste.annotate()",
    "train": "%%train counter --on rows --base demo\ninput: q\noutput: one\nepochs: 4\nbatch_size: 4",
    "plot": "%dream plot counter",
    "evaluate": "%%evaluate scores --on rows --models counter\ninput: q\noutput: one\nmetrics: [exact_match]",
    "card": "%dream card counter",
    "status": "%dream status",
    "lineage": "%dream lineage",
    "reloaded": "%%generate long -m echo -n 1200 --as long\nWhile the page was loaded anew.",
}
AT = {name: number for number, name in enumerate(CELLS)}
WORDS = {
    "table": "30 rows · again · made ",
    "browse": "Name a <b>topic</b>.",
    "beside": "24 of 24 rows differ",
    "annotate": "Which is <i>better</i>?",
    "annotating": "red fox",
    "status": "topics",
    "card": "counter",
}
"""What a cell shows, live and for good."""

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.stress, pytest.mark.timeout(400), needs_chromium, needs_extension]


def sees_all(lab: Lab, name: str) -> None:
    """Every result is on the page, and nothing that is missed."""
    for cell, number in AT.items():
        seen = lab.show(number, WORDS.get(cell, ""), 10)
        if cell == "reloaded" and name == "opens_plain":  # with the extension it has caught up
            assert re.search(r"[\d,]+ of 1,200 · .*\n\s*If nothing moves here, the cell was running when this was saved", seen), seen
        if cell in ("table", "beside", "annotating", "train", "card"):
            lab.page.wait_for_timeout(300)
            lab.picture(f"again-{name}-{cell}")
        for missed in ("not found", "Loading widget", "Error displaying", "Error:"):
            assert missed not in seen, seen
        if cell == "train":
            drawn = lab.cell(number, "return cell.node.querySelector('.jp-OutputArea-output').querySelector('svg, img')?.clientWidth")
            assert 300 < drawn <= 570, "the whole curve, in the width that there is"


@pytest.mark.parametrize("which", ["opens", "opens_plain"])
def test_everything_is_there_again(which: str, request: pytest.FixtureRequest, chromium: Any) -> None:
    opens: Opens = request.getfixturevalue(which)
    lab = opens(list(CELLS.values()))
    assert lab.page.evaluate("window.jupyterapp.hasPlugin('nbdream:plugin')") == (which == "opens")
    for number in range(AT["reloaded"]):
        lab.run(number, patience=150)
        assert "Error:" not in lab.text(number), lab.text(number)
    lab.begin(AT["reloaded"])
    lab.show(AT["reloaded"], " new · 0 failed")
    if which == "opens_plain":  # the extension saves by itself when something comes alive
        lab.command("docmanager:save")
    deadline = time.monotonic() + 10
    while not any(LIVE in output.get("data", {}) for output in lab.saved()[AT["reloaded"]].outputs):
        assert time.monotonic() < deadline, "what is live is not in the file"
        lab.page.wait_for_timeout(50)
    lab.reload()
    lab.show(AT["reloaded"], " new · 0 failed")
    assert not lab.page.evaluate(IDLE), "it ended too early for this test"
    lab.page.locator(".jp-OutputArea-output button", has_text="Stop").wait_for()  # what is live takes the place of what was saved
    lab.picture(f"again-{which}-reloaded")
    lab.wait(IDLE)
    if which == "opens":
        lab.show(AT["reloaded"], "1,200 rows · again · made ")
    lab.save()
    lab.page.close()
    lab.server.shut_down(lab.path.parent.name)

    again = opens(lab.path)
    sees_all(again, which)
    if which == "opens":
        again.show(AT["reloaded"], "1,200 rows · again · made ")
    assert again.elsewhere == []
    assert again.errors == []
    _as_html(chromium, lab.path, which)


def _as_html(chromium: Any, path: Path, name: str) -> None:
    """The same through nbconvert: the same tables and pictures."""
    from nbconvert import HTMLExporter

    text, _ = HTMLExporter().from_filename(str(path))
    written = path.with_suffix(".html")
    written.write_text(text)
    page = chromium.new_page()
    page.route(re.compile("^(?!file:)"), lambda route: route.abort())
    page.goto(written.as_uri())
    seen = page.locator("body").inner_text()
    for words in WORDS.values():
        assert words in seen, words
    assert "not found" not in seen
    page.screenshot(path=PICTURES / f"again-{name}-html.png", full_page=True)
    page.close()
