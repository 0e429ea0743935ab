"""The example notebooks, executed: everything in them works, and a second time nothing is paid for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

from nbdream import Session, cards
from nbdream.files import read_lines
from tests.standards import crate_validator, faults, opened, rows

SOURCE = Path(__file__).parent.parent / "example_notebooks" / "01_abstract_to_tweet.ipynb"
# Two ranks are two imports of torch; `test_training_cells` has them in a notebook.
SMALLER = {"-n 60": "-n 20", "epochs: 10": "epochs: 2", "batch_size: 8": "batch_size: 4", " --devices 2": ""}


def small(folder: Path) -> Path:
    """A copy with fewer rows and epochs."""
    text = SOURCE.read_text()
    for large, less in SMALLER.items():
        assert large in text
        text = text.replace(large, less)
    notebook = folder / SOURCE.name
    notebook.write_text(text)
    return notebook


def run(notebook: Path) -> dict[str, Any]:
    """What `nbdream run --json` says of it."""
    done = subprocess.run(
        [sys.executable, "-m", "nbdream", "run", str(notebook), "--json"], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def outputs(notebook: Path) -> list[dict[str, Any]]:
    return [output for cell in json.loads(notebook.read_text())["cells"] for output in cell.get("outputs", [])]


def described(notebook: Path) -> str:
    """The file without what a run counts."""
    return re.sub(r'"execution_count": \d+', "", notebook.read_text())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_runs_and_a_second_time_costs_nothing(tmp_path: Path) -> None:
    notebook = small(tmp_path)
    first = run(notebook)
    assert [cell["state"] for cell in first["cells"]] == ["done"] * len(first["cells"])
    session = tmp_path / "output"
    made = {path: path.read_bytes() for path in session.glob("objects/*/node.json")}
    calls = (session / "calls.sqlite").stat().st_mtime_ns
    (events,) = session.glob("objects/*/events.jsonl")
    lines, _ = read_lines(events)
    assert len([line for line in lines if line["type"] == "log"]) >= 8

    executed = tmp_path / first["notebook"] if not os.path.isabs(first["notebook"]) else Path(first["notebook"])
    written = described(executed)
    run(notebook)
    assert described(executed) == written, "what is saved describes the work, not the run"
    assert {path: path.read_bytes() for path in session.glob("objects/*/node.json")} == made
    assert (session / "calls.sqlite").stat().st_mtime_ns == calls
    assert read_lines(events)[0] == lines

    kinds = {kind for output in outputs(executed) for kind in output.get("data", {})}
    assert "text/html" in kinds
    assert not [kind for kind in kinds if "widget" in kind], "what is saved needs no kernel"
    assert not [output for output in outputs(executed) if output.get("name") == "stderr"]

    for published in ("abstracts_and_tweets", "abstract-to-tweet-model"):
        assert (tmp_path / "published" / published / "README.md").read_text().startswith("---\n")
    _follows_the_standards(tmp_path / "published" / "abstracts_and_tweets", tmp_path)
    assert (tmp_path / "published" / "abstract-to-tweet-model" / "model.safetensors").exists()


def _follows_the_standards(published: Path, folder: Path) -> None:
    """What is published of the example is what the validators of the standards take, and its rows load by them."""
    pieces = {path.stem.partition("-")[0]: pq.read_table(path).to_pylist() for path in (published / "data").glob("*.parquet")}
    dataset = opened(published / "croissant.json")
    assert {split: rows(dataset, split) for split in pieces} == pieces
    document = json.loads((published / "croissant.json").read_text())
    assert faults(document) == []
    with crate_validator(folder) as validate:
        assert validate(published, "process-run-crate-0.5") == []

    card = json.loads((published / "nbdream.json").read_text())
    for step, known in card["data_card"].items():
        for field in cards.FIELDS:
            assert (field in known) != any(step in steps for steps in card["not_stated"].get(field, {}).values()), (step, field)
    with Session(folder / "output") as session:
        made = session.load("tweets").node["made"]
    assert card["datetime"] == made["finished"]
    assert document["datePublished"] == made["finished"][:10]
    readme = (published / "README.md").read_text()
    front = yaml.safe_load(readme.split("---\n")[1])
    assert yaml.safe_load(DatasetCard(readme).data.to_yaml()) == front
    assert front["configs"][0]["data_files"][0]["split"] == "train"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_taste_is_learned_from_pairs_and_asked_about_other_things(tmp_path: Path) -> None:
    notebook = shutil.copy(SOURCE.with_name("02_a_taste_for_water.ipynb"), tmp_path)
    told = run(Path(notebook))
    assert [cell["state"] for cell in told["cells"]] == ["done"] * len(told["cells"])
    with Session(tmp_path / "output") as session:
        shares = session.load("scores").summary
        readme = Path(session.load("poet").publish_to_hf_hub("./poet", yes=True), "README.md").read_text()
    assert shares["poet"]["watery"].low > shares["base"]["watery"].high, "the intervals do not touch"
    (result,) = ModelCard(readme).data.eval_results or []
    assert (result.metric_type, result.metric_value) == ("watery", round(shares["poet"]["watery"].value, 6))
    assert result.metric_args["examples"] == 100
