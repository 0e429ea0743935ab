"""`TrainHFDPO`: its loss, its reference, real small runs, stopped and resumed, on one process and on two."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nbdream import Session
from nbdream.errors import ArgumentError, DataError
from nbdream.steps import DataSource
from nbdream.trainers import TrainHFDPO
from nbdream.trainers.completion import IGNORED
from nbdream.trainers.dpo import PreferenceLoss
from nbdream.widgets.curve import History
from nbdream.workers import runs
from nbdream.workers.paths import RunPaths
from tests import tiny
from tests.training import ROWS, STEPS, farthest, finish, losses, prepare, tensors

PAIRS = 1000
"""So many, one at a time, take seconds."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.causal(tmp_path_factory.mktemp("models") / "causal")


def preferences(rows: int = ROWS) -> dict[str, list[str]]:
    """The chosen answer is the beginning backwards, the rejected one as it was."""
    prompts, chosen = tiny.pairs(rows)
    return {"prompts": prompts, "chosen": chosen, "rejected": [" ".join(text.split()[:3]) for text in prompts]}


class Words:
    """A model that finds token t at any place with the logit ``scores[t]``."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = torch.tensor(scores)

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> Any:
        logits = self.scores.expand(*input_ids.shape, -1)
        return type("Output", (), {"logits": logits})()


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("sigmoid", lambda margin, beta: math.log1p(math.exp(-beta * margin))),
        ("hinge", lambda margin, beta: max(0.0, 1 - beta * margin)),
        ("ipo", lambda margin, beta: (margin - 1 / (2 * beta)) ** 2),
    ],
)
def test_the_loss_is_that_of_the_papers(loss_type: str, expected: Any) -> None:
    objective = PreferenceLoss(loss_type, 0.3, shifts=True)
    # One pair, and a blank that fills the batch up: chosen, blank, rejected, blank.
    labels = torch.tensor([[IGNORED, 1, 1], [IGNORED] * 3, [IGNORED, 2, IGNORED], [IGNORED] * 3])
    batch = {
        "input_ids": torch.tensor([[0, 1, 1], [0, 0, 0], [0, 2, 0], [0, 0, 0]]), "attention_mask": torch.ones(4, 3, dtype=torch.long),
        "labels": labels, "reference": torch.tensor([-3.5, 0.0, -0.5, 0.0]),
    }  # fmt: skip
    scores = [0.0, 1.0, 2.0]
    normal = math.log(sum(math.exp(score) for score in scores))
    chosen, rejected = 2 * (1.0 - normal), 2.0 - normal
    if loss_type == "ipo":
        chosen /= 2
    margin = (chosen + 3.5) - (rejected + 0.5)
    total, sums = objective.losses(Words(scores), batch)
    assert float(total) == pytest.approx(expected(margin, 0.3), abs=1e-6)
    assert int(objective.count(batch)) == 1
    told = objective.measured(float(total), sums, 1)
    assert told["rewards/margins"] == pytest.approx(0.3 * margin, abs=1e-6)
    assert told["rewards/accuracies"] == (margin > 0)


def dpo(folder: Path, base: Path, **changed: Any) -> tuple[RunPaths, dict[str, Any]]:
    return prepare(
        folder, base, columns=changed.pop("columns", preferences()), method="dpo", dpo_beta=0.5, loss_type="sigmoid", disable_dropout=True,
        **{"early_stopping": {"patience": 5, "threshold": 0.0}, **changed},
    )  # fmt: skip


@pytest.mark.slow
def test_stopped_and_resumed_equals_uninterrupted_and_two_ranks_equal_one(
    base: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    whole, spec = dpo(tmp_path / "whole", base, devices=2)
    runs.launch(whole, spec)
    result, uninterrupted = finish(whole)
    assert result["state"] == "done", result
    assert all(event["dtensor"] for event in uninterrupted if event["type"] == "ready")
    first, last = (next(e for e in events if e["type"] == "log") for events in (uninterrupted, uninterrupted[::-1]))
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)  # nothing differs from the reference yet
    assert last["rewards/margins"] > first["rewards/margins"] + 0.1
    evaluations = [event for event in uninterrupted if event["type"] == "eval"]
    assert evaluations[-1]["eval_rewards/accuracies"] > 0.8

    paths, spec = dpo(tmp_path / "stopped", base, devices=2)
    runs.launch(paths, spec)
    result, _ = finish(paths, lambda event: runs.ask_to_stop(paths) if event["type"] == "log" and event["step"] == 5 else None)
    assert result["state"] == "stopped", result
    runs.launch(paths, spec)
    result, resumed = finish(paths)
    assert result["state"] == "done", result
    assert any(event["type"] == "resumed" for event in resumed)
    assert losses(resumed) == losses(uninterrupted)
    assert farthest(tensors(paths), tensors(whole)) == 0.0

    one, spec = dpo(tmp_path / "one", base)
    runs.launch(one, spec)
    result, single = finish(one)
    assert result["state"] == "done", result
    farthest_loss = max(abs(losses(single)[step] - loss) for step, loss in losses(uninterrupted).items())
    record_property("one and two ranks: losses apart", f"{farthest_loss:.1e}")
    assert farthest_loss < 1e-5


@pytest.mark.slow
def test_an_adapter_learns_the_preference_and_the_model_answers(session: Session, base: Path) -> None:
    rows = DataSource("rows", data=preferences())
    trainer = TrainHFDPO("preferring", str(base), peft_config={"r": 8}, device="cpu")
    model = trainer.train(**{f"train_{name}": rows.output[name] for name in preferences()}, epochs=4, learning_rate=1e-2, dpo_beta=0.5)
    curve = list(model.curve)
    assert len(curve) == STEPS * 4 // 6
    assert curve[-1]["rewards/margins"] > curve[0]["rewards/margins"]
    assert curve[-1]["loss"] < math.log(2)
    assert (Path(trainer.model_path) / "adapter_config.json").is_file()
    assert isinstance(model("red green blue", max_new_tokens=4), str)
    again = TrainHFDPO("preferring", str(base), peft_config={"r": 8}, device="cpu")
    again.train(**{f"train_{name}": rows.output[name] for name in preferences()}, epochs=4, learning_rate=1e-2, dpo_beta=0.5)
    assert again.fingerprint == trainer.fingerprint


@pytest.mark.parametrize(
    ("changed", "given", "words"),
    [
        ({"rejected": preferences()["chosen"]}, {}, "are the same"),
        ({"chosen": [""] * ROWS, "rejected": [""] * ROWS}, {}, "empty|the same"),
        ({}, {"loss_type": "sigmod"}, "sigmod"),
        ({}, {"dpo_beta": 0}, "dpo_beta is 0"),
        ({}, {"dpo_betta": 0.2}, "dpo_beta"),
    ],
    ids=str,
)
def test_what_cannot_be_learned_is_said_before_a_process_starts(
    session: Session, base: Path, changed: dict[str, Any], given: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "launch", lambda *args, **more: pytest.fail("a process was started"))
    rows = DataSource("rows", data={**preferences(), **changed})
    with pytest.raises((ArgumentError, DataError), match=words):
        TrainHFDPO("preferring", str(base)).train(**{f"train_{name}": rows.output[name] for name in preferences()}, **given)


@pytest.mark.slow
def test_the_reference_is_kept_for_a_resumed_run(base: Path, tmp_path: Path) -> None:
    paths, spec = dpo(tmp_path / "run", base, arguments={"num_train_epochs": 2, "learning_rate": 1e-3})
    runs.launch(paths, spec)
    assert finish(paths)[0]["state"] == "done"
    kept = json.loads((paths.data / "train.reference.json").read_text())
    assert len(kept) == ROWS
    assert all(value < 0 for pair in kept for value in pair)


@pytest.mark.slow
def test_what_takes_a_while_beside_the_steps_says_how_far_it_is_and_stop_does_not_wait_for_it(base: Path, tmp_path: Path) -> None:
    slow = {"per_device_eval_batch_size": 1, "max_steps": 1}
    paths, spec = dpo(tmp_path / "run", base, columns=preferences(PAIRS), rows=(PAIRS, PAIRS), arguments=slow)
    asked: list[float] = []

    def stop(event: dict[str, Any]) -> None:
        if event["type"] == "reference":
            asked.append(time.monotonic())
            runs.ask_to_stop(paths)

    runs.launch(paths, spec)
    result, events = finish(paths, stop)
    assert time.monotonic() - asked[0] < 2
    assert (result["state"], result["step"]) == ("stopped", 0), result
    first = next(number for number, event in enumerate(events) if event["type"] == "reference")
    assert 0 < events[first]["done"] < events[first]["of"] == 2 * PAIRS
    assert re.match(r"asking the base model about the pairs, \d+%", History.of(events[: first + 1]).line())

    runs.launch(paths, spec)
    result, events = finish(paths)
    assert result["state"] == "done", result
    began = max(number for number, event in enumerate(events) if event["type"] == "spawned")
    reference, evaluating = ([event["done"] for event in events[began:] if event["type"] == kind] for kind in ("reference", "evaluating"))
    assert reference == sorted(set(reference)), "of both parts as a whole"
    assert len(reference) > 1
    assert 0 < min(evaluating) < max(evaluating) < PAIRS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of other packages
def test_the_losses_are_those_of_the_reference_implementation(base: Path, tmp_path: Path) -> None:
    """Beside TRL's trainer: one batch an epoch, so that the order of the rows decides nothing."""
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    pairs = preferences(24)
    prompts = [f"{text}\n\n" for text in pairs["prompts"]]
    config = DPOConfig(
        output_dir=str(tmp_path / "trl"), per_device_train_batch_size=24, num_train_epochs=4, learning_rate=1e-3, beta=0.5,
        loss_type=["sigmoid"], logging_steps=1, bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none",
        save_strategy="no", max_length=64, precompute_ref_log_probs=True, disable_tqdm=True,
    )  # fmt: skip
    theirs = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(base), args=config, processing_class=AutoTokenizer.from_pretrained(base),
        train_dataset=datasets.Dataset.from_dict({"prompt": prompts, "chosen": pairs["chosen"], "rejected": pairs["rejected"]}),
    )  # fmt: skip
    theirs.train()
    paths, spec = dpo(
        tmp_path / "run", base, columns=pairs, batch={"per_device": 24, "accumulation": 1}, data={"train": "input/train.arrow"},
        arguments={"num_train_epochs": 4, "learning_rate": 1e-3}, early_stopping=None,
    )  # fmt: skip
    runs.launch(paths, spec)
    result, events = finish(paths)
    assert result["state"] == "done", result
    ours = [event for event in events if event["type"] == "log"]
    logged = [entry for entry in theirs.state.log_history if "loss" in entry]
    assert len(ours) == len(logged) == 4
    for one, other in zip(ours, logged, strict=True):
        for name in ("loss", "rewards/margins", "rewards/accuracies", "rewards/chosen"):
            assert one[name] == pytest.approx(other[name], abs=1e-5), name
    assert ours[-1]["loss"] < 0.6
