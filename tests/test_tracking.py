"""`report_to`: trackio and W&B are told what was measured, once; what they do or fail to do is no business of the training."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbdream import Session
from nbdream.errors import ArgumentError, MissingPackageError, NbDreamError, Stopped
from nbdream.files import append_line, write_json
from nbdream.steps import DataSource
from nbdream.trainers import TrainHFFineTune
from nbdream.widgets.curve import History
from nbdream.workers import runs, tracking
from nbdream.workers.paths import RunPaths
from nbdream.workers.tracking import Tracking
from tests import tiny

KEY = "0123456789abcdef0123456789abcdef01234567"
GONE = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


@pytest.fixture
def notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The notebook's folder, and trackers that stay on this machine: the one's store, and the other's files."""
    folder = tmp_path / "my notebooks"
    folder.mkdir()
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv(runs.USER_PATH, str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "packages"), os.environ["PYTHONPATH"]]))
    return folder


class Told:
    """A run without ranks: its supervisor's part in telling of it, with events as the ranks would write them."""

    def __init__(self, folder: Path, to: str, **arguments: Any) -> None:
        self.paths, self.to = RunPaths(folder), to
        model = {"path": "../secret place/base", "local": True}
        self.spec = {
            "format": 1, "name": "tweeter", "method": "sft", "model": model, "devices": 2, "seed": 42, "lora": {"r": 8},
            "batch": {"per_device": 4, "accumulation": 1}, "arguments": {"report_to": to, "learning_rate": 1e-3, **arguments},
        }  # fmt: skip
        folder.mkdir(exist_ok=True)
        write_json(self.paths.spec, self.spec)

    def attempt(self, first: int, last: int, state: str) -> float:
        """Steps ``first`` to ``last``, each with its loss, and an evaluation at the end; how long the end of it took."""
        given = tracking.environment(self.spec)
        with self.paths.lock.open("w") as lock, pytest.MonkeyPatch.context() as patch:
            for name in given:
                patch.setenv(name, given[name])  # put back afterwards: they are taken out of the supervisor's environment
            told = Tracking(self.paths, lock.fileno())
            assert not any(name.startswith(("TRACKIO_", "WANDB_")) for name in os.environ), "ranks get none of them"
            if first > 1:
                self.say({"type": "resumed", "step": first - 1})
            self.say({"type": "begin", "step": first - 1, "max_steps": 6})
            for step in range(first, last + 1):
                self.say({"type": "log", "step": step, "loss": 1 / step, "tokens_per_second": 9.0, "rewards/margins": 0.5})
            self.say({"type": "eval", "step": last, "eval_loss": 2 / last})
            self.say({"type": state, "step": last})
            began = time.monotonic()
            told.finish()
            return time.monotonic() - began

    def say(self, event: dict[str, Any]) -> None:
        append_line(self.paths.events, {**event, "epoch": 0.5, "rank": 0, "time": time.time()})

    def trackers(self) -> list[dict[str, Any]]:
        return [event for event in runs.events(self.paths) if event["type"] == "tracker"]


def stored(store: Path, project: str) -> list[tuple[str, str, int, dict[str, float]]]:
    """What trackio has of a project: the run's id and name, the step and what was measured, in order."""
    with sqlite3.connect(store / f"{project}.db") as database:
        found = database.execute("select run_id, run_name, step, metrics from metrics order by id").fetchall()
    return [(run, name, step, json.loads(told)) for run, name, step, told in found]


def records(path: Path) -> Iterator[Any]:
    """The records of a file of W&B's: a log of LevelDB's, with a header of its own."""
    from wandb.proto import wandb_internal_pb2

    data, at, held = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        held += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(held)
            held = b""
            yield record


# --- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"report_to": "tensorboard"}, "give trackio, wandb, or a list of both"),
        ({"report_to": ["trackio", "all"]}, "give trackio, wandb, or a list of both"),
        ({"report_to": 7}, "report_to is 7"),
        ({"report_to": "wandb"}, "pip install wandb"),
        ({"report_to": ["trackio"]}, "pip install trackio"),
        ({"trackio_static_space_id": "me/space"}, "trackio.sync"),
    ],
)
def test_what_cannot_be_told_is_refused_before_anything_starts(
    given: dict[str, Any], words: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(runs, "launch", refuse)
    monkeypatch.setattr(tracking, "installed", lambda _: False)
    data = DataSource("rows", data={"q": ["a", "b"], "a": ["c", "d"]}).output
    trainer = TrainHFFineTune("tweeter", "demo", device="cpu")
    with pytest.raises(NbDreamError) as raised:
        trainer.train(data["q"], data["a"], **given)
    assert isinstance(raised.value, (ArgumentError, MissingPackageError))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("given", [{}, {"report_to": None}, {"report_to": "none"}, {"report_to": ["none"]}, {"report_to": []}])
def test_nobody_is_told_unless_asked(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    tracking.check(given)
    assert tracking.trackers(given) == []
    assert tracking.environment({"arguments": given}) == {}


def test_a_key_goes_to_the_tracker_that_it_belongs_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("TRACKIO_DIR", "here")
    assert tracking.environment({"arguments": {"report_to": "trackio"}}) == {"TRACKIO_DIR": "here"}
    assert tracking.environment({"arguments": {"report_to": ["wandb"]}}) == {"WANDB_API_KEY": KEY}
    assert not runs.worker_environment().keys() & {"WANDB_API_KEY", "TRACKIO_DIR"}


@pytest.mark.parametrize(("folder", "project"), [("paper", "paper"), ("my notebooks!", "my-notebooks"), ("…", "nbdream")])
def test_a_project_is_named_after_the_notebooks_folder(folder: str, project: str) -> None:
    assert tracking.project({}, Path("/home/me") / folder) == project
    assert tracking.project({"project": "mine"}, Path(folder)) == "mine"


# --- what is told ----------------------------------------------------------------------------------------------------------


def test_trackio_is_told_each_step_once_and_goes_on_after_a_stop(notebooks: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    run = Told(tmp_path / "run", "trackio")
    assert run.attempt(1, 4, "stopped") < tracking.FINISH_SECONDS
    run.attempt(3, 6, "done")  # the checkpoint was of step 2
    found = stored(tmp_path / "store", "my-notebooks")
    assert len({run for run, *_ in found}) == 1
    assert {name for _, name, *_ in found} == {"tweeter"}
    trained = [(step, told["train/loss"]) for _, _, step, told in found if "train/loss" in told]
    assert trained == [(step, 1 / step) for step in range(1, 7)]
    assert [(step, told["eval/loss"]) for _, _, step, told in found if "eval/loss" in told] == [(4, 0.5), (6, 1 / 3)]
    assert found[0][3] == {
        "train/loss": 1.0, "train/tokens_per_second": 9.0, "train/rewards/margins": 0.5, "train/epoch": 0.5, "train/global_step": 1,
    }  # fmt: skip
    assert [(told["project"], told["name"]) for told in run.trackers()] == [("my-notebooks", "tweeter")] * 2
    with sqlite3.connect(tmp_path / "store" / "my-notebooks.db") as database:
        config = json.loads(database.execute("select config from configs").fetchone()[0])
    assert "secret place" not in str(config)
    assert (config["base"], config["batch_size"]) == ("base", 8)


def test_another_run_of_the_name_is_another_run_in_trackio(notebooks: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    first, second = (Told(tmp_path / name, "trackio", project="p", run_name="n") for name in ("first", "second"))
    first.attempt(1, 2, "stopped")
    second.attempt(1, 3, "done")
    first.attempt(3, 4, "done")  # the name is the second's by now: the first is told anew, from its beginning
    steps: dict[str, list[int]] = {}
    for run, _, step, told in stored(tmp_path / "store", "p"):
        steps.setdefault(run, []).extend([step] if "train/loss" in told else [])
    assert list(steps.values()) == [[1, 2], [1, 2, 3], [1, 2, 3, 4]]


def test_wandb_offline_is_told_the_same_and_no_key_lies_anywhere(notebooks: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = Told(tmp_path / "run", "wandb", project="p")
    run.attempt(1, 3, "done")
    (file,) = notebooks.glob("wandb/offline-run-*/*.wandb")
    told = list(records(file))
    (named,) = {(record.run.project, record.run.display_name, record.run.run_id) for record in told if record.HasField("run")}
    assert named == ("p", "tweeter", json.loads(run.paths.tracked("wandb").read_text())["id"])
    rows = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in told
        if record.HasField("history")
    ]
    assert [(row["train/global_step"], row["train/loss"]) for row in rows if "train/loss" in row] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert [(row["train/global_step"], row["eval/loss"]) for row in rows if "eval/loss" in row] == [(3, 2 / 3)]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in files)
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in notebooks.rglob("*.wandb"))


# --- what goes wrong -------------------------------------------------------------------------------------------------------


def package(tmp_path: Path, source: str) -> None:
    """A trackio of another kind."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "trackio.py").write_text(source)


def test_a_tracker_that_fails_says_so_in_the_line_and_in_no_file_its_key(notebooks: Path, tmp_path: Path) -> None:
    package(tmp_path, f"def init(**_): raise OSError('no way to https://x?key={KEY}\\nand more')")
    run = Told(tmp_path / "run", "trackio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_WRITE_TOKEN", KEY)
        run.attempt(1, 2, "done")
    (told,) = run.trackers()
    assert told["message"] == "OSError: no way to https://x?key=***"
    assert History.of(runs.events(run.paths)).line().endswith("trackio: OSError: no way to https://x?key=***")


def test_a_tracker_that_hangs_ends_with_the_run(notebooks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has started in a session of its own, too."""
    package(
        tmp_path,
        "import subprocess, sys, time, pathlib\n"
        "def init(**_):\n"
        "    helper = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'], start_new_session=True)\n"
        f"    pathlib.Path({str(tmp_path / 'helper')!r}).write_text(str(helper.pid))\n"
        "    time.sleep(99)\n",
    )
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 1.5)
    run = Told(tmp_path / "run", "trackio")
    assert run.attempt(1, 2, "done") < 3
    assert run.trackers()[0]["message"].startswith("had not taken everything")
    helper = int((tmp_path / "helper").read_text())
    assert not psutil.pid_exists(helper) or psutil.Process(helper).status() in GONE


def test_a_tracker_ends_with_its_supervisor(notebooks: Path, tmp_path: Path) -> None:
    run = Told(tmp_path / "run", "trackio")
    script = (
        "import os, sys; from pathlib import Path\n"
        "from nbdream.workers.tracking import Tracking; from nbdream.workers.paths import RunPaths\n"
        f"told = Tracking(RunPaths(Path({str(run.paths.folder)!r})), os.open(os.devnull, os.O_RDONLY))\n"
        "print(told._processes['trackio'].pid, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        tracker = psutil.Process(int(supervisor.stdout.readline()))
        assert tracker.net_connections("inet") == []
        supervisor.kill()
    assert psutil.wait_procs([tracker], timeout=5)[1] == [] or tracker.status() in GONE


# --- a real run ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_of_two_ranks_stopped_and_resumed_is_one_run_in_trackio(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    inputs, outputs = tiny.pairs(24)
    data = DataSource("rows", data={"question": inputs, "answer": outputs}).output
    trainer = TrainHFFineTune("tweeter", str(tiny.causal(tmp_path / "causal")), device="cpu", devices=2)
    seen: dict[int, psutil.Process] = {}
    addresses: list[Any] = []

    def hear(event: dict[str, Any]) -> None:
        told = event.get("event") or {}
        if told.get("type") == "spawned" and psutil.pid_exists(told["pid"]):
            seen[told["pid"]] = psutil.Process(told["pid"])
        if told.get("type") == "log" and told["step"] == 5 and not addresses:
            (supervisor,) = {rank.parent() for rank in seen.values()}
            assert supervisor is not None
            (tracker,) = [child for child in supervisor.children() if "nbdream.workers.tracker" in child.cmdline()]
            addresses.append(tracker.net_connections("inet"))
            seen.update({process.pid: process for process in (supervisor, tracker)})
            runs.ask_to_stop(RunPaths(session.running()[0].paths.folder))

    def train() -> Any:
        given = {"report_to": ["trackio"], "project": "haiku", "trackio_space_id": None, "run_name": "first try"}
        return trainer.train(
            data["question"], data["answer"], validation_input=data["question"], validation_output=data["answer"],
            epochs=8, batch_size=8, early_stopping_patience=None, **given,
        )  # fmt: skip

    session.subscribe(hear)
    with pytest.raises(Stopped):
        train()
    model = train()
    assert addresses == [[]], "one tracker, and it opens no socket"
    assert len(seen) == 6, "two ranks at a time, and of the first attempt the supervisor and the tracker"
    assert all(not process.is_running() or process.status() in GONE for process in seen.values())
    found = stored(tmp_path / "store", "haiku")
    assert {(run, name) for run, name, *_ in found} == {(json.loads(model.paths.tracked("trackio").read_text())["id"], "first try")}
    events = {(event["type"], event["step"]): event for event in model.events if event["type"] in ("log", "eval")}
    trained = {step: told for _, _, step, told in found if "train/loss" in told}
    assert sorted(trained) == list(range(1, 25))
    assert sum("train/loss" in told for *_, told in found) == 24, "each step once, though two ranks make it"
    for step, told in trained.items():
        event = events["log", step]
        assert {name: told[f"train/{name}"] for name in ("loss", "grad_norm", "learning_rate", "memory_mb")} == {
            name: event[name] for name in ("loss", "grad_norm", "learning_rate", "memory_mb")
        }
    assert [told["eval/loss"] for *_, told in found if "eval/loss" in told] == [
        event["eval_loss"] for (kind, _), event in events.items() if kind == "eval"
    ]
    assert not {"report_to", "project", "run_name"} & model.node["recipe"]["args"].keys()
