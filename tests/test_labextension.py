"""The JupyterLab extension as it is built and shipped: whole, small, the same in Python and in TypeScript, naming nobody."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import zipfile
from typing import Any

import pytest

import nbdream
from nbdream.magics.bridge import OPS
from nbdream.magics.snapshot import source_digest
from tests.conftest import ROOT
from tests.hostile import HTML, TEMPLATES, UNICODE, YAML

BUILT = ROOT / "nbdream" / "labextension"
SOURCE = ROOT / "labextension" / "src"
STATIC = ROOT / "nbdream" / "widgets" / "static"
LIB = ROOT / "labextension" / "lib"
PLACE = "share/jupyter/labextensions/nbdream/"
MOST = 600_000
"""Bytes of the extension and of what the widgets show, together."""

needs_node = pytest.mark.skipif(shutil.which("npm") is None, reason="no Node: nothing is built")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def shipped(wheel: zipfile.ZipFile) -> dict[str, str]:
    """The extension's files in the wheel, by their path in the extension's folder."""
    return {name.partition(PLACE)[2]: name for name in wheel.namelist() if PLACE in name}


@needs_node
def test_the_wheel_holds_the_extension(wheel: zipfile.ZipFile) -> None:
    files = shipped(wheel)
    told = json.loads(wheel.read(files["package.json"]))
    assert (told["name"], told["version"]) == ("nbdream", nbdream.__version__)
    assert told["jupyterlab"]["_build"]["load"] in files
    assert {"install.json", "schemas/nbdream/plugin.json"} <= set(files)
    assert "build_log.json" not in files  # written by a build for development, with this machine's paths
    assert not [name for name in wheel.namelist() if name.startswith("nbdream/labextension")]  # once is enough
    assert not [name for name in wheel.namelist() if "node_modules" in name or name.endswith(".ts")]
    assert sum(wheel.getinfo(name).file_size for name in files.values()) + sum(path.stat().st_size for path in STATIC.iterdir()) < MOST
    for name in wheel.namelist():
        assert str(ROOT).encode() not in wheel.read(name), name


@needs_node
def test_any_jupyterlab_from_4_4_takes_it(wheel: zipfile.ZipFile) -> None:
    """JupyterLab refuses an extension whose dependencies exclude its own: so they are ranges."""
    asked = json.loads(wheel.read(shipped(wheel)["package.json"]))["dependencies"]
    assert {version for name, version in asked.items() if name.startswith("@jupyterlab/")} == {"^4.4.0", "^4.5.0", "^7.4.0"}


def test_the_lockfile_names_no_host() -> None:
    text = (ROOT / "package-lock.json").read_text()
    assert "://" not in text
    assert '"resolved"' not in text
    packages = json.loads(text)["packages"]
    assert all("integrity" in entry for name, entry in packages.items() if name and not entry.get("link"))
    assert json.loads((ROOT / "package.json").read_text())["version"] == nbdream.__version__


def test_text_reaches_the_page_as_text() -> None:
    """No string is ever read as markup or as code."""
    sources = [*SOURCE.glob("*.ts*"), *STATIC.glob("*.js")]
    assert len(sources) > 10
    ways = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerouslySet|createContextualFragment|\beval\(|new Function"
    )
    assert [path.name for path in sources if ways.search(path.read_text())] == []


def test_the_page_asks_only_what_the_kernel_knows() -> None:
    asked = set()
    for path in SOURCE.glob("*.ts*"):
        asked |= set(re.findall(r"(?:request|ask)\(\s*'(\w+)'", path.read_text()))
    assert asked
    assert asked <= set(OPS)


def in_node(module: str, script: str, *values: Any) -> Any:
    """What a script makes of values, with a compiled module of the extension at hand as ``m``."""
    if not (LIB / f"{module}.js").exists():
        pytest.skip("the extension is not built here")
    code = (
        "import { readFileSync } from 'node:fs'; const m = await import(process.argv[1]);"
        f" const values = JSON.parse(readFileSync(0)); console.log(JSON.stringify({script}))"
    )
    command = ["node", "--input-type=module", "-e", code, str(LIB / f"{module}.js")]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
def test_both_ends_digest_a_cell_alike() -> None:
    texts = [text for text in ["", "%%generate a\nHi", *HTML, *UNICODE, *YAML, *TEMPLATES] if text.encode(errors="ignore").decode() == text]
    assert len(texts) > 60
    assert in_node("protocol", "values.map(m.sourceDigest)", *texts) == [source_digest(text) for text in texts]


@needs_node
def test_what_is_what_in_our_cells() -> None:
    def tokens(function: str, text: str) -> list[tuple[str, str]]:
        found = in_node("tokens", f"[...m.{function}(values[0])]", text)
        return [(token["kind"], text[token["from"] : token["to"]]) for token in sorted(found, key=lambda token: token["from"])]

    assert tokens("magicLine", '%%generate tweets << --from "df[df.len < 2]" -n 20') == [
        ("magic", "%%generate"), ("name", "tweets"), ("mark", "<<"), ("option", "--from"), ("string", '"df[df.len < 2]"'), ("option", "-n"),
        ("number", "20"),
    ]  # fmt: skip
    assert tokens("yamlLine", "lora: {r: 8, targets: [q, 'v']}  # small") == [
        ("key", "lora"), ("brace", "{"), ("key", "r"), ("number", "8"), ("brace", ","), ("key", "targets"), ("brace", "["), ("brace", ","),
        ("string", "'v'"), ("brace", "]"), ("brace", "}"), ("comment", "# small"),
    ]  # fmt: skip
    assert tokens("yamlLine", "- learning_rate: 1e-4") == [("mark", "-"), ("key", "learning_rate"), ("number", "1e-4")]
    assert tokens("template", "Don't {{ row['x'] | upper }} {% if a %}{#1}") == [
        ("brace", "{{"), ("variable", "row"), ("string", "'x'"), ("mark", "|"), ("keyword", "upper"), ("brace", "}}"), ("brace", "{%"),
        ("keyword", "if"), ("variable", "a"), ("brace", "%}"),
    ]  # fmt: skip


@needs_node
def test_highlighting_ends_on_whatever_is_typed() -> None:
    """Every token lies within its text, and nothing takes long: a pattern that backtracks would freeze the page."""
    texts = [*HTML, *YAML, *TEMPLATES, "{{" * 5_000, "{%" * 5_000, "'" * 20_000, "- " * 20_000, "a: {" * 5_000, ": " * 20_000, '"' * 20_001]
    script = (
        "values.map(text => { const began = performance.now();"
        " const all = [...m.magicLine('%%train ' + text), ...m.yamlLine(text), ...m.template(text)];"
        " return [performance.now() - began, all.every(t => 0 <= t.from && t.from <= t.to && t.to <= text.length + 8)]; })"
    )
    for text, (milliseconds, inside) in zip(texts, in_node("tokens", script, *texts), strict=True):
        assert inside, text[:40]
        assert milliseconds < 500, (text[:40], milliseconds)


@needs_node
def test_the_graph_beside_the_results() -> None:
    """Lines go down in the column of what they come from: no result lies on the line of others."""
    draw = random.Random(1)
    graphs = [
        [
            {"name": str(row), "above": [str(draw.randrange(row)) for _ in range(draw.choice((0, 1, 1, 1, 2)))] if row else []}
            for row in range(8)
        ]
        for _ in range(200)
    ]
    for graph, found in zip(graphs, in_node("rails", "values.map(m.rails)", *graphs), strict=True):
        columns = [rail["column"] for rail in found]
        for row, rail in enumerate(found):
            assert [str(line["row"]) for line in rail["from"]] == graph[row]["above"]
            for line in rail["from"]:
                assert line["column"] == columns[line["row"]]
                if max(columns) < 5:  # the last column is shared
                    assert line["column"] not in columns[line["row"] + 1 : row], (graph, columns)
    straight = [{"name": str(row), "above": [str(row - 1)] if row else []} for row in range(5)]
    assert {rail["column"] for rail in in_node("rails", "m.rails(values)", *straight)} == {0}
