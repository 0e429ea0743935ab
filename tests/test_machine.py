"""What a machine is, as cards say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbdream import machine
from nbdream.session import environment


@pytest.fixture(autouse=True)
def _anew() -> None:
    machine.machine.cache_clear()


def test_what_this_machine_is() -> None:
    told = machine.machine()
    assert told["cores"] >= 1
    assert told["memory"] > 0.1
    assert told["processor"]
    assert environment()["machine"] == told


def test_gpus_are_named_without_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, model in enumerate(("NVIDIA H100 80GB HBM3", "NVIDIA A10")):
        (tmp_path / f"0000:0{number}:00.0").mkdir()
        (tmp_path / f"0000:0{number}:00.0" / "information").write_text(f"Model: \t\t {model}\nIRQ: 11\n")
    monkeypatch.setattr(machine, "GPUS", tmp_path)
    assert machine.machine()["gpus"] == ["NVIDIA H100 80GB HBM3", "NVIDIA A10"]


def test_what_is_not_known_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GPUS", tmp_path / "nothing")
    assert "gpus" not in machine.machine()
