"""`nbdream attach`, `nbdream stop` and what `nbdream status` says of a run that another process has started."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdream import Session
from nbdream.cli import main
from nbdream.files import Lock, append_line, write_json
from nbdream.steps import DataSource
from nbdream.workers import runs
from nbdream.workers.paths import RunPaths


class LiveRun:
    """A run as its worker would have it: the lock held, events one by one, the result last."""

    def __init__(self, session: Path, name: str = "tweeter") -> None:
        self.paths = RunPaths(session / "objects" / f"run-{name}")
        self.lock = Lock(self.paths.lock)
        assert self.lock.acquire()
        write_json(self.paths.spec, {"format": 1, "name": name})
        self.say({"type": "begin", "step": 0, "max_steps": 24})
        for step in (1, 2):
            self.log(step)

    def say(self, event: dict[str, Any]) -> None:
        append_line(self.paths.events, {"time": time.time(), **event})

    def log(self, step: int) -> None:
        self.say({"type": "log", "step": step, "max_steps": 24, "loss": 1 / step, "tokens_per_second": 300.0})

    def end(self, **result: Any) -> None:
        write_json(self.paths.result, {"format": 1, **result})
        self.lock.release()

    def obey(self, step: int) -> None:
        """Stop with a checkpoint when asked to."""
        while not self.paths.stop.exists():
            time.sleep(0.01)
        self.end(state="stopped", step=step)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A session that holds rows."""
    with Session(str(tmp_path / "output")) as session:
        DataSource("rows", data={"a": [1, 2]})
        return session.folder


@pytest.fixture
def run(folder: Path) -> Iterator[LiveRun]:
    live = LiveRun(folder)
    yield live
    live.lock.release()


def command(folder: Path, *arguments: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """The command, as a terminal would start it."""
    line = [sys.executable, "-m", "nbdream", *arguments, "--session", str(folder)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=stderr, text=True)


def test_a_run_is_followed_in_lines_to_its_end(folder: Path, run: LiveRun) -> None:
    with command(folder, "attach", "tweeter") as attached:
        assert attached.stdout is not None
        assert attached.stdout.readline().startswith("training · step 2 of 24 · loss 0.5 · ")
        run.log(4)
        assert attached.stdout.readline().startswith("training · step 4 of 24 · loss 0.25 · ")
        run.say({"type": "save", "step": 4})  # no news for somebody who looks on
        run.say({"type": "stopping", "step": 4})
        assert attached.stdout.readline().startswith("saving a checkpoint · step 4 of 24")
        run.end(state="done", step=24, train_loss=0.125)
        assert attached.stdout.read() == "tweeter is done after 24 steps · loss 0.125\n"
        assert attached.wait(timeout=10) == 0


def test_with_json_the_output_is_one_value(folder: Path, run: LiveRun) -> None:
    with command(folder, "attach", "tweeter", "--json") as attached:
        assert attached.stderr is not None
        assert attached.stderr.readline().startswith("training · step 2")
        run.end(state="stopped", step=2)
        said, _ = attached.communicate(timeout=10)
    told = json.loads(said)
    assert (told["name"], told["state"], told["step"]) == ("tweeter", "stopped", 2)
    assert attached.returncode == 1, "there is no model to go on with"


def test_in_a_terminal_one_line_changes_and_leaving_it_leaves_the_run(folder: Path, run: LiveRun) -> None:
    ours, theirs = pty.openpty()
    with command(folder, "attach", "tweeter", stderr=theirs) as attached:
        os.close(theirs)
        shown = read_until(ours, "step 2 of 24")
        run.log(3)
        shown += read_until(ours, "step 3 of 24")
        assert "\n" not in shown
        assert shown.count("\r") == 2
        attached.send_signal(signal.SIGINT)
        assert "left: tweeter goes on" in read_until(ours, "goes on")
        assert attached.wait(timeout=10) == 130
    os.close(ours)
    assert runs.alive(run.paths)
    assert not run.paths.stop.exists()


def read_until(terminal: int, words: str) -> str:
    shown = ""
    while words not in shown:
        shown += os.read(terminal, 4096).decode()
    return shown


def test_a_run_that_fails_is_one_line_with_its_hint(folder: Path, run: LiveRun) -> None:
    with command(folder, "attach", "tweeter") as attached:
        assert attached.stdout is not None
        attached.stdout.readline()
        run.end(state="failed", message="rank 1 of 2 was killed (SIGKILL)", hint="use less")
        _, said = attached.communicate(timeout=10)
    assert said == "TrainingError: training tweeter failed: rank 1 of 2 was killed (SIGKILL) (use less)\n"
    assert attached.returncode == 1


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_run_is_stopped_and_its_checkpoint_waited_for(
    folder: Path, run: LiveRun, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    worker = threading.Thread(target=run.obey, args=(12,))
    worker.start()
    assert main(["stop", "tweeter", "--session", str(folder), *more]) == 0
    worker.join()
    said = capsys.readouterr().out
    if more:
        assert json.loads(said)["step"] == 12
    else:
        assert said == "tweeter was stopped at step 12: run its cell again to resume\n"


@pytest.mark.parametrize("verb", ["attach", "stop"])
def test_what_does_not_train_is_one_line(folder: Path, run: LiveRun, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    def said(name: str) -> str:
        assert main([verb, name, "--session", str(folder)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert said("tweter") == "ArgumentError: the session has no run 'tweter' (did you mean 'tweeter'?)"
    assert said("rows") == "ArgumentError: rows is no training run (see nbdream status)"
    run.end(state="stopped", step=2)
    assert said("tweeter") == "TrainingError: tweeter is not training: it was stopped at step 2 (run its cell again to resume)"
    write_json(run.paths.result, {"state": "failed", "message": "no"})
    assert said("tweeter") == "TrainingError: tweeter is not training: it failed (run its cell again to resume)"


def test_the_status_tells_how_far_a_run_is(folder: Path, run: LiveRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--session", str(folder), "--json"]) == 0
    rows = {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert rows["rows"] == "fresh"
    assert rows["tweeter"].startswith("training · step 2 of 24 · loss 0.5")
    run.end(state="stopped", step=2)
    assert main(["status", "--session", str(folder)]) == 0
    assert "tweeter" not in capsys.readouterr().out
