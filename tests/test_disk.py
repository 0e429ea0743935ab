"""A disk that is full or read-only: one line with a hint, a failed step, and nothing lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdream import Session
from nbdream.errors import SessionError
from nbdream.llms import EchoLLM
from nbdream.steps import DataFromPrompt, DataSource

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
