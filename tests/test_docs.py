"""What the pages say is so: names, magics and options are all there, and the code in them runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import reference

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "example_notebooks").glob("*.ipynb"))
FENCE = re.compile(r"^(?P<mark><!-- run -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def fences() -> list[tuple[str, re.Match[str]]]:
    """Every fenced block of the pages, with where it stands."""
    return [
        (f"{page.name}:{page.read_text()[: found.start()].count(chr(10)) + 1}", found)
        for page in PAGES
        for found in FENCE.finditer(page.read_text())
    ]


def cells() -> list[tuple[str, str]]:
    """Every cell of magics in the pages and the notebooks."""
    shown = [(where, found["code"].strip()) for where, found in fences()]
    for notebook in NOTEBOOKS:
        code = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
        shown += [(f"{notebook.name}:{cell['id']}", "".join(cell["source"]).strip()) for cell in code]
    return [(where, code) for where, code in shown if code.startswith("%")]


RUNNABLE = [(where, found["code"]) for where, found in fences() if found["mark"]]
CELL_MAGICS = [(where, code) for where, code in cells() if code.startswith("%%")]
LINE_MAGICS = [
    (where, line) for where, code in cells() for line in code.splitlines() if line.startswith("%dream ") and not code.startswith("%%")
]


def test_reference_is_current() -> None:
    assert reference.PAGE.read_text() == reference.page(), "make docs"


def test_every_public_name_is_written_down() -> None:
    text = reference.PAGE.read_text()
    for name in reference.PACKAGES:
        package = __import__(name, fromlist=["__all__"])
        assert [public for public in package.__all__ if f"`{public}" not in text] == []


@pytest.mark.parametrize(("where", "code"), RUNNABLE, ids=[where for where, _ in RUNNABLE])
def test_marked_code_runs(where: str, code: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{where}: {done.stderr}"


def test_something_is_marked() -> None:
    assert RUNNABLE
    assert len(CELL_MAGICS) > 8
    assert len(LINE_MAGICS) > 8


@pytest.mark.parametrize(("where", "code"), CELL_MAGICS, ids=[where for where, _ in CELL_MAGICS])
def test_cells_parse(where: str, code: str) -> None:
    from nbdream.magics.extension import definition
    from nbdream.magics.grammar import parse

    head, _, body = code.partition("\n")
    name, _, line = head.removeprefix("%%").partition(" ")
    call = parse(definition(name)[0], line, body)
    assert call.name.isidentifier()


@pytest.mark.parametrize(("where", "line"), LINE_MAGICS, ids=[f"{where}:{line.split()[1]}" for where, line in LINE_MAGICS])
def test_lines_name_a_verb_and_its_options(where: str, line: str) -> None:
    from nbdream.magics.dream import VERBS
    from nbdream.magics.grammar import split_line

    _, verb, *words = split_line(line)
    known = {spelling for option in VERBS[verb].options for spelling in option.spellings}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_readme_names_every_room() -> None:
    tree = (ROOT / "README.md").read_text()
    rooms = {path.name for path in (ROOT / "nbdream").iterdir() if path.suffix == ".py" and not path.name.startswith("__")}
    rooms |= {f"{path.name}/" for path in (ROOT / "nbdream").iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert [room for room in sorted(rooms) if not re.search(rf"(^|\s){re.escape(room)}(\s|$)", tree)] == []


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for page in PAGES for word in re.findall(r"[`\n]make ([a-z]+)", page.read_text())}
    assert {"demo", "lab", "test", "lint", "bench"} <= named <= targets


def test_changelog_has_what_is_new() -> None:
    assert re.search(r"^## Unreleased\n\n- ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_architecture_page_has_the_layers_of_the_test() -> None:
    """The page's table and the table that the imports are checked against are one."""
    from tests.test_layers import LAYERS, modules, room_of

    there = {room_of(path) for path in modules()} - {"__main__"}
    rows = re.findall(r"^\| (\d) \w+ \| (.*) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert {int(layer): set(re.findall(r"`(\w+)`", names)) for layer, names in rows} == {
        layer: names & there for layer, names in LAYERS.items()
    }
