"""A disk that is full or read-only: one line with a hint, a failed step, and nothing lost."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbdream import Session
from nbdream.errors import SessionError
from nbdream.files import append_line, write_json
from nbdream.llms import EchoLLM
from nbdream.steps import DataFromPrompt, DataSource
from nbdream.workers import runs
from nbdream.workers.paths import RunPaths
from tests import tiny
from tests.training import EPOCHS, STEPS, finish, losses, prepare

pytestmark = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root mounts a small disk")

MiB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A file system of its own; ``disk(size=…)`` gives it so many bytes, ``disk(read_only=True)`` shuts it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: int = 64 * MiB, read_only: bool = False) -> Path:
        mode = "ro" if read_only else "rw"
        again = ",remount" if os.path.ismount(folder) else ""
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},{mode}{again}", "nbdream-test", str(folder)], check=True)
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def rows(n: int) -> Any:
    args = {"llm": EchoLLM(), "n": n, "instruction": "Say something. " * 40, "temperature": 1.0}
    return DataFromPrompt("rows", args=args).output


def test_a_disk_that_fills_up_is_one_line_and_with_more_space_the_work_goes_on(disk: Callable[..., Path]) -> None:
    folder = disk(size=1 * MiB)
    with Session(folder / "s"), pytest.raises(SessionError, match=r"is full \(free some space") as raised:
        rows(3000)
    assert "\n" not in str(raised.value)
    disk(size=64 * MiB)
    with Session(folder / "s"):
        assert len(rows(3000)) == 3000


def test_a_result_that_does_not_fit_leaves_what_was_there(disk: Callable[..., Path]) -> None:
    folder = disk(size=1 * MiB)
    with Session(folder / "s") as session:
        DataSource("small", data={"x": [1, 2, 3]})
        with pytest.raises(SessionError, match="is full"):
            DataSource("large", data={"x": ["long" * 1000] * 2000})
        assert list(session.load("small").output["x"]) == [1, 2, 3]


def test_a_read_only_folder_is_one_line(disk: Callable[..., Path]) -> None:
    folder = disk()
    with Session(folder / "s"):
        DataSource("small", data={"x": [1, 2, 3]})
    disk(read_only=True)
    with pytest.raises(SessionError, match="cannot be written"):
        Session(folder / "s").start()
    with pytest.raises(SessionError, match="cannot be written"):
        Session(folder / "another").start()
    disk()
    shutil.rmtree(folder / "s")


# --- training -------------------------------------------------------------------------------------------------------------


def fill(folder: Path) -> None:
    """Take what space there is."""
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(MiB))


@pytest.mark.slow
def test_a_run_whose_disk_fills_says_so_and_goes_on_from_its_last_whole_checkpoint(
    disk: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbdream.workers import checkpoint

    folder = disk()
    schedule = {"num_train_epochs": EPOCHS, "learning_rate": 1e-3, "save_strategy": "steps", "save_steps": 4}
    paths, spec = prepare(folder / "run", tiny.causal(tmp_path / "causal"), devices=2, arguments=schedule)
    pids: list[int] = []

    def attempt(at: int | None) -> dict[str, Any]:
        """Start the run, or go on; once the checkpoint of step ``at`` is there, the disk is full."""

        def hear(event: dict[str, Any]) -> None:
            if event["type"] == "spawned":
                pids.append(event["pid"])
            if event["type"] == "save" and event["step"] == at:
                fill(folder)

        runs.launch(paths, spec)
        return finish(paths, hear)[0]

    ended = attempt(4)
    assert ended["state"] == "failed"
    assert re.search("full|No space left", ended["message"]), ended
    assert "\n" not in ended["message"]
    assert "free some space" in ended["hint"]
    last = checkpoint.last_whole(paths.checkpoints)
    assert last is not None
    assert last.name == "checkpoint-4"
    assert not any(psutil.pid_exists(pid) for pid in pids)
    (folder / "filler").unlink()
    assert attempt(None)["state"] == "done"
    assert [event["step"] for event in runs.events(paths) if event["type"] == "resumed"] == [4]
    assert sorted(losses(runs.events(paths))) == list(range(1, STEPS + 1))


def test_no_half_a_line_is_left_and_a_run_that_could_not_say_why_it_ended_is_told_for_it(disk: Callable[..., Path]) -> None:
    folder = disk(size=1 * MiB)
    paths = RunPaths(folder / "run")
    write_json(paths.spec, {"format": 1})
    append_line(paths.events, {"type": "log", "step": 0})
    fill(folder)
    with pytest.raises(SessionError, match="is full"):
        append_line(paths.events, {"type": "log", "step": 0, "long": "x" * 5000})  # the file's last page still takes some of it
    told = runs.result(paths)
    assert told is not None
    assert (told["state"], told["message"]) == ("failed", f"the disk of {paths.folder} is full")
    (folder / "filler").unlink()
    append_line(paths.events, {"type": "log", "step": 1})
    assert {event["step"] for event in runs.events(paths)} == {0, 1}
    assert runs.result(paths) != told
