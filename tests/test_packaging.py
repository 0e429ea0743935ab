"""The wheel holds all that an installed nbdream needs, and nothing of this machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import nbdream

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    assert path.stat().st_size < 8_000_000
    return zipfile.ZipFile(path)


def test_wheel_is_whole(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for file in (
        "nbdream/py.typed",
        "nbdream/demo/model/config.json",
        "nbdream/demo/model/model.safetensors",
        "nbdream/demo/model/tokenizer.json",
        "nbdream/demo/notebooks/01_abstract_to_tweet.ipynb",
    ):
        assert file in names
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "nbdream").rglob("*.py")}
    assert sources <= names
    static = {str(path.relative_to(ROOT)) for path in (ROOT / "nbdream" / "widgets" / "static").rglob("*") if path.is_file()}
    assert static
    assert static <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "scripts/"))]


def test_wheel_says_who_it_is(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    text = wheel.read(name).decode()
    assert f"Version: {nbdream.__version__}" in text
    assert "License-Expression: Apache-2.0" in text
    (entries,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "nbdream = nbdream.cli:main" in wheel.read(entries).decode()


def test_the_core_is_light() -> None:
    core = {re.split(r"[<>=\[ ]", entry)[0] for entry in PYPROJECT["project"]["dependencies"]}
    assert core.isdisjoint({"torch", "transformers", "trl", "peft", "accelerate", "datasets", "jupyterlab", "anthropic"})


def test_hints_name_extras_that_are_there() -> None:
    """`pip install 'nbdream[…]'` in an error works, and brings the package that was missing."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    asked = {
        pair for path in (ROOT / "nbdream").rglob("*.py") for pair in re.findall(r'require\("(\w+)[\w.]*", "(\w+)"\)', path.read_text())
    }
    assert asked
    assert {extra for _, extra in asked} - set(extras) == set()


def test_constraints_name_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    assert "torch==2.13.0" in lines
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []


def test_every_requirement_is_constrained() -> None:
    """What the tests run with is written down, extras included."""
    project = PYPROJECT["project"]
    asked = [*project["dependencies"], *(entry for group in project["optional-dependencies"].values() for entry in group)]
    names = {re.split(r"[<>=\[ ]", entry)[0].lower().replace("_", "-") for entry in asked} - {"nbdream"}
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    assert names - pinned == set()


def test_example_notebook_is_clean() -> None:
    """No outputs, stable cell ids, nothing of ours in the metadata."""
    notebook = json.loads((ROOT / "example_notebooks" / "01_abstract_to_tweet.ipynb").read_text())
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
