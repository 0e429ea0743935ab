"""Rows out of a session: values, files and datasets, whole and split."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from nbdream import Session
from nbdream.errors import ArgumentError
from nbdream.steps.handle import StepHandle
from nbdream.steps.sources import CSVDataSource, DataSource, JSONDataSource

ROWS = [{"text": f'line {i},\n"{i}"', "tags": [i, None], "score": i / 2 if i % 3 else None} for i in range(10)]


@pytest.fixture
def step(session: Session) -> StepHandle:
    return DataSource("rows", ROWS)


def test_values(step: StepHandle) -> None:
    assert step.export_to_list() == ROWS
    assert step.export_to_dict() == {name: [row[name] for row in ROWS] for name in ROWS[0]}


def test_splits_hold_every_row_once(step: StepHandle) -> None:
    parts = step.export_to_list(train_size=0.7, validation_size=0.2, test_size=0.1)
    assert isinstance(parts, dict)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 7, "validation": 2, "test": 1}
    assert sorted(json.dumps(row) for rows in parts.values() for row in rows) == sorted(json.dumps(row) for row in ROWS)
    assert list(step.export_to_dict(train_size=5, test_size=5)) == ["train", "test"]


def test_json_lines(step: StepHandle) -> None:
    path = step.export_to_json("out/rows.json")
    assert path == "out/rows.json"
    assert [json.loads(line) for line in Path("out/rows.json").read_text().splitlines()] == ROWS
    assert JSONDataSource("again", data_files="out/rows.json").output.fingerprint == step.output.fingerprint


def test_json_list(step: StepHandle) -> None:
    step.export_to_json("rows.json", lines=False, indent=1)
    assert json.loads(Path("rows.json").read_text()) == ROWS


def test_json_has_no_nan(session: Session) -> None:
    DataSource("rows", {"x": [1.5, float("nan"), float("inf")]}).export_to_json("rows.json")
    assert Path("rows.json").read_text().splitlines() == ['{"x": 1.5}', '{"x": null}', '{"x": null}']


def test_csv(step: StepHandle) -> None:
    step.export_to_csv("rows.csv", sep=";")
    with Path("rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    assert [json.loads(row["tags"]) for row in rows] == [row["tags"] for row in ROWS]
    back = CSVDataSource("again", data_files="rows.csv", sep=";").output
    assert back["score"][:] == [row["score"] for row in ROWS]


def test_split_files(step: StepHandle) -> None:
    paths = step.export_to_csv("rows.v1.csv", train_size=0.8, validation_size=0.2)
    assert paths == {"train": "rows.v1.train.csv", "validation": "rows.v1.val.csv"}
    assert step.export_to_json("rows.json", train_size=9, test_size=1) == {"train": "rows.train.json", "test": "rows.test.json"}
    assert len(Path("rows.train.json").read_text().splitlines()) == 9


def test_hf_dataset(step: StepHandle) -> None:
    import datasets

    made = step.export_to_hf_dataset("rows")
    assert isinstance(made, datasets.Dataset)
    assert made.to_list() == ROWS
    splits = step.export_to_hf_dataset("splits", train_size=0.5, validation_size=0.5)
    assert isinstance(splits, datasets.DatasetDict)
    assert datasets.load_from_disk("splits")["validation"].num_rows == 5


@pytest.mark.parametrize("method", ["export_to_dict", "export_to_json", "export_to_csv", "export_to_hf_dataset"])
def test_unknown_options_are_refused(step: StepHandle, method: str) -> None:
    paths: list[Any] = [] if method == "export_to_dict" else ["rows"]
    with pytest.raises(ArgumentError, match="train_size"):
        getattr(step, method)(*paths, trainsize=0.5)
    getattr(step, method)(*paths, writer_batch_size=10, save_num_proc=2, save_num_shards=1)


def test_sizes_that_do_not_fit(step: StepHandle) -> None:
    with pytest.raises(ValueError, match=r"make 0\.9"):
        step.export_to_list(train_size=0.7, test_size=0.2)
