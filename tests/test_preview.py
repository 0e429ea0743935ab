"""What will be published, as it is shown: the same facts as text and as HTML, in which whatever others wrote is text."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nbdream.escape import visible
from nbdream.hub.preview import LONGEST, Preview, html_of, text_of
from nbdream.hub.scan import Finding
from tests import hostile
from tests.notebook import kernel_in

ALLOWED = {"p", "strong", "table", "tr", "th", "td", "br"}
PLAIN = Preview(
    name="tweets",
    where="https://hub.example/datasets/org/tweets",
    place="a public dataset that is there",
    files={f"data/{number}.parquet": 1000 for number in range(LONGEST + 2)} | {"README.md": 10},
    unchanged=frozenset({"README.md"}),
    gone=["data/old.parquet"],
    licence="mit (given)",
    terms=["the terms"],
    conflicts=["the conflict"],
    findings=[Finding("personal", "an email address", "row 1 of column 'x'")],
    rows={"train": 1800, "test": 2},
    notes=["the note"],
)


class Page(HTMLParser):
    """The words of a page, and its elements with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data.split()

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment", {}))


def test_html_says_what_the_text_says() -> None:
    text = str(PLAIN)
    assert Page(PLAIN.html()).words == text.replace(": ", " ").split()
    assert text.splitlines()[0] == "tweets → https://hub.example/datasets/org/tweets (a public dataset that is there)"
    assert "  files: 15, 1 of them there already; 14.0 kB are sent" in text.splitlines()
    assert "    … and 2 more\n    data/old.parquet is deleted" in text
    lasting = PLAIN.lasting()
    assert text_of(lasting).splitlines()[0] == "rows: train 1,800 · test 2"
    assert Page(html_of(lasting)).words == text_of(lasting).replace(": ", " ").split()


def test_doubts_are_marked() -> None:
    marked = [attrs for tag, attrs in Page(PLAIN.html()).elements if tag == "th" and "--jp-warn-color1" in (attrs["style"] or "")]
    assert len(marked) == 2  # the conflict and the finding
    calm = dataclasses.replace(PLAIN, conflicts=(), findings=())
    assert "--jp-warn" not in calm.html()


def test_words_stay_whole() -> None:
    """JupyterLab breaks preformatted text anywhere: there is none."""
    page = Page(PLAIN.html())
    styles = [attrs.get("style") or "" for _, attrs in page.elements]
    assert not any("pre" in style or "break-all" in style for style in styles)
    assert all("overflow-wrap:anywhere" in (attrs["style"] or "") for tag, attrs in page.elements if tag in ("p", "td"))


@pytest.mark.parametrize("text", [*hostile.HTML, *hostile.TERMINAL, *hostile.UNICODE])
def test_whatever_others_wrote_is_text(text: str) -> None:
    preview = Preview(
        name=text,
        where=text,
        place=text,
        files={text: 1},
        unchanged=frozenset(),
        gone=[text],
        licence=text,
        terms=[text],
        conflicts=[text],
        findings=[Finding(text, text, f"row 1 of column {text!r} in {text}")],
        rows={text: 1},
        notes=[text],
    )
    page = Page(preview.html())
    assert {tag for tag, _ in page.elements} == ALLOWED
    assert {name for _, attrs in page.elements for name in attrs} == {"style", "class", "scope"}
    shown, words = " ".join(page.words), visible(" ".join(text.splitlines())).split()
    assert shown.count(" ".join(words)) >= 10, "and all of it is shown"
    assert "<script" not in preview.html().lower()


SLOW = """import time
from nbdream.hub import dataset

look = dataset.doubts
dataset.doubts = lambda *given: time.sleep(1.5) or look(*given)"""
"""As if there were many rows to look through."""


def test_in_a_notebook_it_is_a_page(tmp_path: Path) -> None:
    """By the magic and from Python; a script, which has no page, gets text."""
    rows = "rows = DataSource('rows', [{'<script>alert(1)</script>': 'ann.lee@uni-bonn.de'}])"
    with kernel_in(tmp_path) as kernel:
        kernel.run(f"%load_ext nbdream\n%dream open ./output\nfrom nbdream.steps import DataSource\n{rows}")
        kernel.run(SLOW)
        magic = kernel.run("%dream publish rows ./out --dry-run")
        python = kernel.run("where = rows.publish_to_hf_hub('./out', dry_run=True)")
        refused = kernel.run("%dream publish rows ./out")
    assert (magic.status, python.status) == ("ok", "ok"), (magic.error, python.error)
    assert magic.live[0] == "looking through what will be published"
    assert refused.live == [magic.live[0], ""], "nothing of it stays above the error"
    pages = [[m["content"]["data"] for m in found.messages if "data" in m["content"]] for found in (magic, python)]
    for shown in (pages[0][-1], pages[1][0]):
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown["text/html"]
        assert "<script" not in shown["text/html"]
        assert "  personal: row 0 of column '<script>alert(1)</script>' in 'train' holds" in shown["text/plain"]
    assert pages[0][-1]["text/plain"].endswith("nothing was published: this was a dry run")
    assert "nothing was published: this was a dry run" in pages[0][-1]["text/html"]
    assert [m["content"]["text"] for m in python.messages if m["msg_type"] == "stream"] == ["nothing was published: this was a dry run\n"]
