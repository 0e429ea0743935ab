"""Callbacks, metrics and collators of the notebook take part in a training run."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbdream import Session
from nbdream.errors import ArgumentError, DataError
from nbdream.workers import runs
from nbdream.workers.paths import RunPaths
from nbdream.workers.rank import Run
from tests import tiny
from tests.notebook import Shell
from tests.training import finish, prepare

CODE = """
import numpy as np
from transformers import TrainerCallback

LAST = 3

class Watch(TrainerCallback):
    '''Ends training early.'''
    def __init__(self, last=LAST):
        self.last = last
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= self.last:
            control.should_training_stop = True

def share(told):
    right = told.predictions[:, :-1] == told.label_ids[:, 1:]
    there = told.label_ids[:, 1:] != -100
    return {"right": (right & there).sum() / there.sum(), "rows": len(told.label_ids)}

def likeliest(logits, labels):
    return logits.argmax(-1)

def collate(rows):
    import torch
    longest = max(len(row["input_ids"]) for row in rows)
    fill = lambda name, pad: torch.tensor([row[name] + [pad] * (longest - len(row[name])) for row in rows])
    return {"input_ids": fill("input_ids", 0), "labels": fill("labels", -100),
            "attention_mask": torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows])}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.causal(tmp_path_factory.mktemp("base") / "causal")


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.chdir(tmp_path)
    made = Shell()
    made.run("%dream open ./output")
    made["rows"], made["held"] = (
        [dict(zip(("q", "a"), row, strict=True)) for row in zip(*tiny.pairs(count), strict=True)] for count in (24, 7)
    )
    made.run(CODE)
    yield made
    made.close()


def cell(base: Path, body: str, name: str = "told") -> str:
    return f"%%train {name} --on rows --eval held --base {base}\ninput: q\noutput: a\ndevice: cpu\n{body}"


@pytest.mark.slow
def test_a_cell_s_callback_and_metric_take_part(shell: Shell, base: Path) -> None:
    watched = "callbacks: [Watch]\ncompute_metrics: share\npreprocess_logits_for_metrics: likeliest\nmetric_for_best_model: right\n"
    shell.run(cell(base, watched + "logging_steps: 1\neval_strategy: steps\neval_steps: 1\nepochs: 4"))
    events = shell["told"].events
    assert max(event["step"] for event in events if event["type"] == "log") == 3
    measured = [event for event in events if event["type"] == "eval"]
    assert {event["eval_rows"] for event in measured} == {7.0}
    assert all(0 <= event["eval_right"] <= 1 for event in measured)
    best = max(measured, key=lambda event: (event["eval_right"], -event["step"]))
    assert [event["best_step"] for event in events if event["type"] == "done"] == [best["step"]]
    shell["told"].unload_model()


@pytest.mark.slow
def test_two_ranks_measure_what_one_does(shell: Shell, base: Path) -> None:
    body = "compute_metrics: share\npreprocess_logits_for_metrics: likeliest\nepochs: 1\nbatch_size: 4\n"
    measured: list[Any] = []
    for devices in (1, 2):
        shell.run(cell(base, f"{body}devices: {devices}", f"on_{devices}"))
        measured += [event["eval_right"] for event in shell[f"on_{devices}"].events if event["type"] == "eval"]
    assert len(measured) in (1, 2)  # the second has the first one's recipe: devices do not count
    shell.run(cell(base, f"{body}devices: 2\nforce: true", "again"))
    measured += [event["eval_right"] for event in shell["again"].events if event["type"] == "eval"]
    assert measured == [pytest.approx(measured[0], abs=1e-6)] * len(measured)


@pytest.mark.slow
def test_a_collator_of_the_notebook_gives_the_same_losses(shell: Shell, base: Path) -> None:
    losses = []
    for name, body in (("ours", "packing: false"), ("theirs", "data_collator: collate")):
        shell.run(cell(base, f"{body}\nepochs: 1\nlogging_steps: 1", name))
        losses.append([event["loss"] for event in shell[name].events if event["type"] == "log"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_what_they_do_is_in_the_recipe(shell: Shell, base: Path) -> None:
    from nbdream.fingerprint import digest

    def seen() -> str:
        return digest(shell["Watch"])

    first = seen()
    shell.run(CODE.replace("'''Ends training early.'''", "'''Other words.'''  # and a comment"))
    assert seen() == first
    shell.run(CODE.replace("LAST = 3", "LAST = 4"))
    assert seen() != first


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("callbacks: [Wach]", "Watch"),
        ("callbacks: [share]", "not a callback"),
        ("compute_metrics: rows", "not a function"),
        ("preprocess_logits_for_metrics: likeliest", "compute_metrics, which is not given"),
        ("compute_metrics: hidden", "handle"),
    ],
)
def test_what_cannot_take_part_is_refused(shell: Shell, base: Path, body: str, words: str) -> None:
    shell.run("import threading\nhandle = threading.Lock()\ndef hidden(told):\n    return {'x': handle}")
    with pytest.raises(ArgumentError, match=words) as raised:
        shell.run(cell(base, body))
    assert "\n" not in str(raised.value)
    assert not list(Path("output/objects").glob("*/events.jsonl"))


@pytest.mark.parametrize(("trainer", "name"), [("TrainHFDPO", "compute_metrics"), ("TrainSentenceTransformer", "data_collator")])
def test_a_method_without_rows_of_its_own_takes_no_metric(trainer: str, name: str, base: Path, tmp_path: Path) -> None:
    from nbdream import trainers

    with Session(tmp_path / "output"), pytest.raises(ArgumentError, match=name):
        getattr(trainers, trainer)("refused", str(base)).settled({}, kwargs={name: print})


ON_ONE_RANK = """
import os
from transformers import TrainerCallback

FIRST = os.environ.get("RANK", "0") == "0"

class Watch(TrainerCallback):
    def on_log(self, args, state, control, **kwargs):
        control.should_save = FIRST and state.global_step == 2
        control.should_training_stop = FIRST and state.global_step >= 5

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_evaluate = not FIRST

def luck(told):
    return {"luck": told.label_ids[0, -1] * 0.0 + (len(steps) if FIRST else -len(steps))}

def counted(told):
    steps.append(told)
    return luck(told)

steps = []
"""


def ended(paths: RunPaths) -> dict[str, Any]:
    """How a run of two ranks ended, which may not."""
    try:
        assert runs.wait_until_dead(paths, 30), [(event["type"], event.get("step")) for event in runs.events(paths)]
    finally:
        for event in runs.events(paths):
            if event["type"] == "spawned" and psutil.pid_exists(event["pid"]):
                os.kill(event["pid"], signal.SIGKILL)
    return runs.result(paths) or {}


@pytest.mark.slow
def test_what_a_callback_wants_on_one_rank_all_do(base: Path, tmp_path: Path) -> None:
    arguments = {"num_train_epochs": 3, "learning_rate": 1e-3, "eval_strategy": "no"}
    paths, spec = prepare(tmp_path / "run", base, devices=2, arguments=arguments, hooks={"callbacks": ["Watch"]})
    runs.launch(paths, spec, code=ON_ONE_RANK)
    assert (ended(paths)["state"], ended(paths)["step"]) == ("done", 5)
    said = [(event["type"], event["step"]) for event in runs.events(paths) if event["type"] in ("save", "eval")]
    assert said == [("save", 2), ("eval", 4), ("eval", 5)]


@pytest.mark.slow
def test_a_metric_that_differs_between_ranks_is_the_first_one_s(base: Path, tmp_path: Path) -> None:
    arguments = {"num_train_epochs": 3, "learning_rate": 1e-3, "metric_for_best_model": "luck"}
    early = {"patience": 1, "threshold": 0.0}
    paths, spec = prepare(
        tmp_path / "run", base, devices=2, arguments=arguments, early_stopping=early, hooks={"compute_metrics": "counted"}
    )
    runs.launch(paths, spec, code=ON_ONE_RANK)
    assert (ended(paths)["state"], ended(paths)["best_step"]) == ("done", 12)


@pytest.mark.slow
def test_the_best_perplexity_is_the_least(base: Path, tmp_path: Path) -> None:
    arguments = {"num_train_epochs": 3, "learning_rate": 1e-3, "metric_for_best_model": "perplexity"}
    paths, spec = prepare(tmp_path / "run", base, arguments=arguments, early_stopping={"patience": None, "threshold": 0.0})
    runs.launch(paths, spec)
    result, events = finish(paths)
    measured = {event["step"]: event["eval_perplexity"] for event in events if event["type"] == "eval"}
    assert result["best_step"] == min(measured, key=lambda step: measured[step])


STOPS = """
import pathlib
from transformers import TrainerCallback

class Watch(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 4:
            pathlib.Path(args.output_dir).with_name("stop").touch()
"""


@pytest.mark.slow
def test_a_stop_in_the_step_that_ends_training_changes_nothing(base: Path, tmp_path: Path) -> None:
    arguments = {"num_train_epochs": 6, "learning_rate": 1e-3, "eval_strategy": "steps", "eval_steps": 2}
    early = {"patience": 1, "threshold": 9.0}
    paths, spec = prepare(tmp_path / "run", base, arguments=arguments, early_stopping=early, hooks={"callbacks": ["Watch"]})
    runs.launch(paths, spec, code=STOPS)
    result, events = finish(paths)
    assert [event["step"] for event in events if event["type"] in ("stopping", "early_stop")] == [4, 4]
    assert (result["state"], result["step"]) == ("done", 4)


def test_no_credential_travels_with_the_code(shell: Shell, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_API_KEY", "quiet-river-123")
    shell.run("KEY = 'quiet-river-123'\nclass Sends(TrainerCallback):\n    def on_log(self, *args, **kwargs):\n        print(KEY)")
    for body in ("callbacks: [Sends]", "system: say quiet-river-123"):
        with pytest.raises(ArgumentError, match="contains a credential") as raised:
            shell.run(cell(base, body))
        assert "quiet-river" not in str(raised.value)
    assert not [path for path in Path("output").rglob("*") if path.is_file() and b"quiet-river" in path.read_bytes()]
    assert not list(Path("output/objects").glob("*/events.jsonl"))


def test_code_that_no_kernel_has_handed_over_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, canary = RunPaths(tmp_path), tmp_path / "sings"
    paths.code.write_text(f"open({str(canary)!r}, 'w').close()\ncallback_0 = None\n")
    run = Run(paths, {"hooks": {"callbacks": ["callback_0"]}})
    for told in ("", "0" * 64):
        monkeypatch.setenv(runs.CODE, told)
        with pytest.raises(DataError, match="not what a notebook has handed over"):
            run.hooks()
    assert not canary.exists()
    monkeypatch.setenv(runs.CODE, hashlib.sha256(paths.code.read_bytes()).hexdigest())
    run.hooks()
    assert canary.exists()


@pytest.mark.slow
def test_what_a_stranger_left_in_the_folder_is_gone_at_a_start(base: Path, tmp_path: Path) -> None:
    paths, spec = prepare(tmp_path / "run", base, hooks={"callbacks": ["callback_0"]})
    canary = tmp_path / "sings"
    paths.code.write_text(f"open({str(canary)!r}, 'w').close()\ncallback_0 = None\n")
    runs.launch(paths, spec)
    assert finish(paths)[0]["state"] == "failed"
    assert not canary.exists()
