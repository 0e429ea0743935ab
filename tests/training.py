"""Runs as folders, for the tests: prepared, followed to their end, compared."""

from __future__ import annotations

import atexit
import io
import math
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from nbdream.trainers import tokens, trained
from nbdream.workers import runs, warm
from nbdream.workers.paths import RunPaths
from tests import tiny

ROWS = 30  # no multiple of the batch: the last batch of an epoch is filled up
EPOCHS = 6
STEPS = 24


def prepare(folder: Path, base: Path, columns: dict[str, list[Any]] | None = None, **changed: Any) -> tuple[RunPaths, dict[str, Any]]:
    """A run's folder with its data (``rows``: how many to learn from and to measure on), and its spec."""
    paths = RunPaths(folder)
    columns = columns or dict(zip(("input", "output"), tiny.pairs(ROWS), strict=True))
    paths.data.mkdir(parents=True)
    for path, rows in zip((paths.train_data, paths.validation_data), changed.pop("rows", (ROWS, 9)), strict=True):
        table = pa.table({name: column[:rows] for name, column in columns.items()})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    devices = changed.get("devices", 1)
    spec = {
        "format": 1, "name": "tiny", "method": "sft", "model": {"path": os.path.relpath(base, folder), "local": True},
        "data": {"train": "input/train.arrow", "validation": "input/validation.arrow"},
        "arguments": {"num_train_epochs": EPOCHS, "learning_rate": 1e-3}, "batch": {"per_device": 8 // devices, "accumulation": 1},
        "devices": devices, "device": "cpu", "fsdp": True, "lora": None, "seed": 42, "truncate": True,
        "batching": "grouped", **changed,
    }  # fmt: skip
    return paths, spec


def finish(paths: RunPaths, hear: Callable[[dict[str, Any]], None] | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Follow a run to its end: how it ended, and its events, each with the time at which it was heard."""
    heard: list[dict[str, Any]] = []

    def on_event(event: dict[str, Any]) -> None:
        heard.append({**event, "heard": time.time()})
        if hear is not None:
            hear(event)

    return runs.follow(paths, on_event), heard


def losses(events: list[dict[str, Any]]) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in events if event["type"] == "log"}


def tensors(paths: RunPaths) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(next(paths.model.glob("*model.safetensors"))))


def farthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference between what two models share."""
    assert one.keys() & other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one.keys() & other.keys())


def wilson(right: int, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z, share = 1.959964, right / rows
    middle, spread = share + z * z / (2 * rows), z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return (middle - spread) / (1 + z * z / rows), (middle + spread) / (1 + z * z / rows)


REAL = {name: getattr(warm, name) for name in ("at_hand", "prepare", "packages")}
_server: warm.WarmServer | None = None


def _at_hand(environment: Mapping[str, str]) -> warm.WarmServer | None:
    """The server of these tests, if there may be one: started when it is first asked for, and anew for another environment."""
    global _server
    if _server is None or not _server.fits(environment):
        _end()
        _server = warm.WarmServer(environment) if sys.platform.startswith("linux") and warm.enough_memory() else None
    return _server if _server is not None and _server.ready(120) else None


def _end() -> None:
    if _server is not None and _server.lives:
        _server.end()
        _server.process.wait()


atexit.register(_end)


@contextmanager
def called_here() -> Iterator[None]:
    """What is started as ``python -m nbdream.workers.…`` for one answer runs in this process, which has its imports done."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        module, arguments = command[command.index("-m") + 1], command[command.index("-m") + 2 :]
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
            patch.delitem(sys.modules, module, raising=False)
            patch.setattr(sys, "argv", [module, *arguments])
            runpy.run_module(module, run_name="__main__")
        return subprocess.CompletedProcess(command, 0, said.getvalue(), "")

    with pytest.MonkeyPatch.context() as patch:
        for place in (tokens, trained):
            patch.setattr(place, "subprocess", SimpleNamespace(run=run, DEVNULL=subprocess.DEVNULL))
        yield


@contextmanager
def started_warm() -> Iterator[None]:
    """Runs and models start from one warm server: a test of what they do need not wait for their imports each time."""
    found = warm.packages()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm, "at_hand", _at_hand)
        patch.setattr(warm, "prepare", lambda *_, **__: None)  # who has followed a run prepares no other one
        patch.setattr(warm, "packages", lambda: found)  # files that somebody edits meanwhile do not matter here
        yield


@contextmanager
def started_cold() -> Iterator[None]:
    """They start as they do for everybody else: with imports of their own, or from a server that was prepared."""
    with pytest.MonkeyPatch.context() as patch:
        for name, real in REAL.items():
            patch.setattr(warm, name, real)
        yield
