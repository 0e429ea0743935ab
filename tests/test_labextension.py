"""The JupyterLab extension as it is built and shipped: whole, small, the same in Python and in TypeScript, naming nobody."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import nbdream
from nbdream.magics.bridge import OPS
from nbdream.magics.extension import CELL_MAGICS, definition
from nbdream.magics.grammar import parse
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


def in_node(module: str, script: str, *values: Any, folder: Path = LIB) -> Any:
    """What a script makes of values, with a compiled module of the extension, or a component, at hand as ``m``."""
    if not (folder / f"{module}.js").exists():
        pytest.skip("the extension is not built here")
    code = (
        "import { readFileSync } from 'node:fs'; const m = await import(process.argv[1]);"
        f" const values = JSON.parse(readFileSync(0)); console.log(JSON.stringify({script}))"
    )
    command = ["node", "--input-type=module", "-e", code, str(folder / f"{module}.js")]
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
def test_what_a_curve_computes() -> None:
    def run(script: str, *values: Any) -> Any:
        return in_node("curve", script, *values, folder=STATIC)

    points = [[step, float(step % 3)] for step in range(0, 50, 5)]
    found = run("[-9, 0, 2, 3, 7.5, 44, 99].map(x => m.nearest(values, x)[0])", *points)
    assert found == [0, 0, 0, 5, 5, 45, 45]
    assert run("m.nearest([], 3)") is None
    inside = run("[[10, 20], [11, 12], [-5, 3], [46, 50], [0, 45]].map(part => m.within(values, part).map(([x]) => x))", *points)
    assert inside == [[5, 10, 15, 20, 25], [10, 15], [0, 5], [], list(range(0, 50, 5))]
    flat = run("m.smoothed(values, 0.9)", *[[step, 4.0] for step in range(30)])
    assert all(abs(value - 4) < 1e-9 for _, value in flat), "no pull towards zero"
    noisy = run("m.smoothed(values, 0.9)", *[[step, float(step % 2)] for step in range(400)])
    assert all(abs(value - 0.5) < 0.06 for _, value in noisy[100:])
    assert run("m.smoothed(values, 0)", *points) == points
    assert run("m.parsed([{title: 't', curves: [{label: 'l', points: '1,0.5 20,1e-7'}, {label: 'k', points: [[1, 2]]}]}])") == [
        {"title": "t", "curves": [{"label": "l", "points": [[1, 0.5], [20, 1e-7]]}, {"label": "k", "points": [[1, 2]]}]}
    ]
    assert run("m.ticks(0, 10, 5)") == [0, 5, 10]


SEEDS = {
    "%%generate a -m gpt\nHi --seed 3": "%%generate a -m gpt --seed 7\nHi --seed 3",
    "%%generate a --seed 3 -m gpt\nHi": "%%generate a --seed 7 -m gpt\nHi",
    "%%generate a --seed=3\nHi": "%%generate a --seed 7\nHi",
    '%%generate a --system "use --seed 3" -n 2\nHi': '%%generate a --system "use --seed 3" -n 2 --seed 7\nHi',
    "%%generate a -n 2 # --seed 3\nHi": "%%generate a -n 2 --seed 7 # --seed 3\nHi",
    "\n%%filter a --from b  \nGood?": "\n%%filter a --from b --seed 7\nGood?",
    "%%generate a\n---\ntop_p: 1\nseed: 3  # why\n---\nseed: 4": "%%generate a\n---\ntop_p: 1\nseed: 7  # why\n---\nseed: 4",
    "%%generate a\n---\ntop_p: 1\n---\nseed: 4": "%%generate a --seed 7\n---\ntop_p: 1\n---\nseed: 4",
    "%%train a --on b --base demo\ninput: q\noutput: t\n": "%%train a --on b --base demo\ninput: q\noutput: t\nseed: 7\n",
    "%%train a --on b --base demo\nseed:\ninput: q": "%%train a --on b --base demo\nseed: 7\ninput: q",
    "%%evaluate a --on b\nmetrics: [rouge]\nseed: 1": "%%evaluate a --on b\nmetrics: [rouge]\nseed: 7",
    "%%evaluate a --on b\nmetrics: [rouge]": "%%evaluate a --on b --seed 7\nmetrics: [rouge]",
}


@needs_node
def test_a_seed_stands_where_its_author_would_write_it() -> None:
    assert in_node("seed", "values.map(text => m.withSeed(text, 7))", *SEEDS) == list(SEEDS.values())
    assert in_node("seed", "values.map(text => m.withSeed(text, 7))", *SEEDS.values()) == list(SEEDS.values())
    for text in SEEDS.values():
        head, _, body = text.strip().partition("\n")
        name, _, line = head.removeprefix("%%").partition(" ")
        call = parse(definition(name)[0], line, body)
        assert (call.options.get("seed") or call.settings["seed"]) == 7
    assert set(in_node("seed", "values.map(m.resultOf)", *SEEDS)) == {"a"}
    seeded = {name for name in CELL_MAGICS if name == "train" or any(option.name == "seed" for option in definition(name)[0].options)}
    assert dict(zip(CELL_MAGICS, in_node("seed", "values.map(name => m.takesSeed(`%%${name} a`))", *CELL_MAGICS), strict=True)) == {
        name: name in seeded for name in CELL_MAGICS
    }


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
