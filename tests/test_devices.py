"""Runs that want the same GPU go one after the other. No GPU is needed to wait for one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from nbdream.workers import devices, runs
from nbdream.workers.devices import Turn, private_folder, wanted
from nbdream.workers.paths import RunPaths


@pytest.fixture(autouse=True)
def _own_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue of this machine's user is left alone: here, and in the workers, which get the variable."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def test_runs_go_in_the_order_in_which_they_came() -> None:
    with Turn(["0"], "first") as first, Turn(["0"], "second") as second, Turn(["0"], "third") as third:
        assert [turn.ahead() for turn in (first, second, third)] == [None, "first", "second"]
        second.__exit__(None, None, None)
        assert third.ahead() == "first", "a run that was stopped while it waited is nobody's hindrance"
        first.__exit__(None, None, None)
        assert third.ahead() is None
        with Turn(["0"], "fourth") as fourth:
            assert fourth.ahead() == "third"


def test_only_those_that_share_a_gpu_wait() -> None:
    with Turn(["0"], "a"), Turn(["1"], "b") as b, Turn(["0", "1"], "both") as both, Turn(["1", "2"], "last") as last:
        assert b.ahead() is None
        assert both.ahead() == "b"
        b.__exit__(None, None, None)
        assert both.ahead() == "a", "all devices are had at once"
        assert last.ahead() == "both"
    with Turn([], "on the processor") as none:
        assert none.ahead() is None


def test_who_was_killed_holds_nothing() -> None:
    code = (
        "import os, sys; from nbdream.workers.devices import Turn\n"
        "turn = Turn(['0'], 'killed').__enter__(); print('in', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        with Turn(["0"], "waits") as turn:
            assert turn.ahead() == "killed"
            process.kill()
            process.wait()
            assert turn.ahead() is None
    with Turn(["0"], "next"):
        folder = private_folder()
        assert folder is not None
        assert len(list(folder.glob("*.ticket"))) == 1, "what is left of the dead is cleared away"


def test_the_queue_lies_where_nobody_else_can_write(tmp_path: Path) -> None:
    folder = private_folder()
    assert folder == tmp_path / f"nbdream-{os.geteuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    assert private_folder() is None
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert private_folder() is None
    with Turn(["0"], "first"), Turn(["0"], "second") as second:
        assert second.ahead() is None, "without a place to queue, nobody is kept from running"


@pytest.mark.parametrize(
    ("spec", "world", "before", "expected"),
    [
        ({"device": "cpu"}, 2, None, []),
        ({"device": None}, 1, None, []),
        ({"device": "cuda:1"}, 1, None, ["1"]),
        ({"device": "cuda:1"}, 1, "4,6", ["6"]),
        ({"device": ["cuda:0", "cuda:2"]}, 2, None, ["0", "2"]),
        ({"device": "cuda"}, 2, "3, GPU-abc", ["3", "GPU-abc"]),
    ],
)
def test_the_devices_of_a_run(
    spec: dict[str, Any], world: int, before: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "GPUS", ())
    assert wanted(spec, world, before) == expected


def test_where_there_is_a_gpu_a_run_that_names_none_takes_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "GPUS", ("/dev/null",))
    assert wanted({}, 2, None) == ["0", "1"]
    assert wanted({}, 1, "") == []


def launched(folder: Path, name: str) -> RunPaths:
    """A run that wants a GPU, and would fail as soon as it began."""
    paths = RunPaths(folder / name)
    paths.folder.mkdir()
    runs.launch(paths, {"format": 1, "name": name, "method": "alchemy", "device": "cuda:0", "devices": 1})
    return paths


def followed(paths: RunPaths, at: str, do: Any) -> tuple[dict[str, Any], list[str]]:
    """Follow a run, and do something when it says ``at``: how it ended, and all that it said."""
    kinds = []

    def hear(event: dict[str, Any]) -> None:
        kinds.append(event["type"])
        if event["type"] == at:
            assert event["behind"] == "other"
            do()

    return runs.follow(paths, hear), kinds


def test_a_run_waits_for_its_gpu(tmp_path: Path) -> None:
    turn = Turn(["0"], "other")
    turn.__enter__()
    paths = launched(tmp_path, "waits")
    result, kinds = followed(paths, "queued", lambda: turn.__exit__(None, None, None))
    assert kinds == ["queued", "spawned", "error", "failed"]
    assert "alchemy" in result["message"]


def test_a_run_that_waits_can_be_stopped(tmp_path: Path) -> None:
    with Turn(["0"], "other"):
        paths = launched(tmp_path, "waits")
        result, kinds = followed(paths, "queued", lambda: runs.ask_to_stop(paths))
        assert (result["state"], result["step"]) == ("stopped", 0)
        assert kinds == ["queued", "stopped"]
