from __future__ import annotations

import csv
import html as html_module
import html.parser
import io
import json
import re
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nbdream import escape
from tests import hostile


def each(check: Callable[[str], None]) -> Any:
    """A test that tries ``check`` on every hostile text, one test a kind of text."""

    def test(kind: str) -> None:
        for text in hostile.KINDS[kind]:
            try:
                check(text)
            except Exception as error:
                raise AssertionError(f"{text[:100]!r}: {error}") from error

    return pytest.mark.parametrize("kind", hostile.KINDS)(test)


UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


class Parser(html.parser.HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""
        self.other: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.other.append(data)

    def unknown_decl(self, data: str) -> None:
        self.other.append(data)


@each
def test_html_is_text_in_an_element_and_in_an_attribute(text: str) -> None:
    made = escape.html(text)
    made.encode()
    assert not UNSEEN.search(made)
    for quote in "'\"":
        page = Parser(f"<p title={quote}{made}{quote}>{made}</p>")
        assert page.tags == [("p", [("title", escape.visible(text))])]
        assert page.text == escape.visible(text)
        assert page.other == []


@each
def test_markdown_renders_as_its_text(text: str) -> None:
    mistune = pytest.importorskip("mistune")
    made = escape.markdown(text)
    assert len(made.splitlines()) <= 1
    made.encode()
    render = mistune.create_markdown(escape=False, plugins=["table", "url", "strikethrough", "footnotes", "task_lists", "math"])
    shown = " ".join(escape.visible(text).split())
    page = Parser(render(f"before {made} after"))
    assert [tag for tag, _ in page.tags] == ["p"]
    assert _plain(page.text) == _plain(f"before {shown} after")
    table = Parser(render(f"| a | b |\n|---|---|\n| {made} | second |\n"))
    assert [tag for tag, _ in table.tags] == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert _plain(table.text) == _plain(f"a b {shown} second")
    start = Parser(render(f"{made}\n"))
    assert {tag for tag, _ in start.tags} <= {"p"}
    assert _plain(start.text) == _plain(shown)


def _plain(text: str) -> str:
    return " ".join(text.replace("\u200b", "").split())


@each
def test_a_fence_holds_everything_inside(text: str) -> None:
    mistune = pytest.importorskip("mistune")
    made = escape.fence(text, "te\nxt`")
    page = Parser(mistune.create_markdown(escape=False)(f"{made}\nafter\n"))
    assert [tag for tag, _ in page.tags] == ["pre", "code", "p"]
    assert page.tags[1][1] == [("class", "language-text")]
    assert page.text.rstrip().endswith("after")
    assert page.text.split() == [*escape.visible(text).split(), "after"]


@each
def test_front_matter_reads_back_as_it_was(text: str) -> None:
    clean = re.sub("[\ud800-\udfff]", "\ufffd", text)
    made = escape.front_matter({"name": text, "list": [text, "b"], "deep": {"key": [text]}, text or "empty": 1, "n": 1.5, "none": None})
    made.encode()
    lines = made.split("\n")
    assert (lines[0], lines[-2], lines[-1], lines.count("---")) == ("---", "---", "", 2)
    read = yaml.safe_load("\n".join(lines[1:-2]))
    assert read == {"name": clean, "list": [clean, "b"], "deep": {"key": [clean]}, clean or "empty": 1, "n": 1.5, "none": None}
    assert "\n".join(made.splitlines()) + "\n" == made  # no line that only some readers see


def test_front_matter_is_easy_to_read() -> None:
    made = escape.front_matter({"license": "apache-2.0", "tags": ["synthetic", "nbdream-0.1.0"], "answer": "no", "configs": [{"a": 1}]})
    assert made == '---\nlicense: apache-2.0\ntags:\n- synthetic\n- nbdream-0.1.0\nanswer: "no"\nconfigs: [{a: 1}]\n---\n'


@each
def test_a_mermaid_label_has_no_syntax(text: str) -> None:
    made = escape.mermaid(text)
    assert re.fullmatch(r"(?:[\w .,\-/:]|#\d+;)*", made)
    assert "://" not in made
    assert not UNSEEN.search(made)


@each
def test_csv_runs_no_formula_and_reads_back(text: str) -> None:
    made = escape.csv(text)
    assert isinstance(made, str)
    file = io.StringIO(newline="")
    csv.writer(file).writerow([made, "second"])
    file.getvalue().encode()
    assert next(csv.reader(io.StringIO(file.getvalue(), newline=""))) == [made, "second"]
    first = unicodedata.normalize("NFKC", made.lstrip())[:1]
    assert first not in tuple("=+-@|%") or made == "" or first == ""
    assert made.removeprefix("'") == re.sub("[\x00\ud800-\udfff]", "\ufffd", text).removeprefix("'")


def test_csv_leaves_numbers_alone() -> None:
    for value in ("-5", "+1.5", "-1e-4", -5, 1.5, None, "plain", "a=b"):
        assert escape.csv(value) == value


@each
def test_nothing_reaches_the_terminal_but_text(text: str) -> None:
    made = escape.terminal(text)
    made.encode()
    assert not UNSEEN.search(made)
    assert len(made) >= len(text.replace("\r\n", "\n"))  # what is not seen is shown, not dropped


@each
def test_json_stays_inside_its_script(text: str) -> None:
    made = escape.script_json({"a": text, text: [text, float("nan")]})
    made.encode("ascii")
    assert not re.search("[<>&]", made)
    page = Parser(f'<script type="application/ld+json">{made}</script>')
    assert [tag for tag, _ in page.tags] == ["script"]
    clean = re.sub("[\ud800-\udfff]", "\ufffd", text)
    assert json.loads(page.text) == {"a": clean, clean: [clean, None]} or clean == "a"


@each
def test_a_file_name_stays_in_its_folder(text: str) -> None:
    made = escape.file_name(text)
    assert re.fullmatch(r"[\w.-]+", made)
    assert not made.startswith((".", "-"))
    with tempfile.TemporaryDirectory() as folder:
        path = (Path(folder) / made).resolve()
        assert path.parent == Path(folder).resolve()
        path.write_text("x")  # the file system takes it
        assert [found.name for found in Path(folder).iterdir()] == [made]


@each
def test_only_web_addresses_are_links(text: str) -> None:
    for address in (text, f"https://example.org/{text}"):
        made = escape.link(address)
        assert made is None or re.fullmatch(r"https?://[^\s<>\"'`\\()\x00-\x20]+", made)
    assert escape.link(f"javascript:{text}") is None


def test_links_that_are_none() -> None:
    assert escape.link("https://huggingface.co/org/name?a=b#c") == "https://huggingface.co/org/name?a=b#c"
    for address in ("https://user:secret@example.org", "ftp://x", "//x", "https://", None, "http://[", "file:///etc/passwd"):
        assert escape.link(address) is None


def test_harmless_text_stays_readable() -> None:
    assert escape.markdown("gpt-4o-mini, 1.5 s") == "gpt-4o-mini, 1.5 s"
    assert escape.markdown("0.01") == "0\\.01"  # no list, and the number when it is rendered
    assert escape.markdown("google/t5-v1_1-base") == "google/t5-v1\\_1-base"
    assert escape.html("Grüße: 1 < 2") == "Grüße: 1 &lt; 2"
    assert escape.terminal("two\nlines\tand שלום") == "two\nlines\tand שלום"
    assert escape.mermaid("tweets (map)") == "tweets #40;map#41;"
    assert html_module.unescape(escape.html("a & b")) == "a & b"


def values_of_any_kind() -> list[Any]:
    return [1, None, 2.5, ["a"], {"b": 1}]


def test_anything_can_be_shown() -> None:
    for value in values_of_any_kind():
        for sink in (escape.html, escape.markdown, escape.mermaid, escape.terminal, escape.fence):
            assert isinstance(sink(value), str)
