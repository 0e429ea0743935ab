"""`TrainHFClassifier`: its labels, its measures, real small runs, stopped and resumed, on one process and on two, with an adapter."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nbdream import Session
from nbdream.errors import ArgumentError, DataError, ModelError
from nbdream.steps import DataSource
from nbdream.task_models import HFClassificationTaskModel, TaskModel
from nbdream.trainers import TrainedClassifier, TrainHFClassifier
from nbdream.trainers.classifier import LabelLoss
from nbdream.trainers.completion import IGNORED
from nbdream.trainers.labels import Labels
from nbdream.workers import merge, runs
from nbdream.workers.paths import RunPaths
from tests import tiny
from tests.notebook import Shell
from tests.training import farthest, finish, losses, prepare, tensors, wilson

TOPICS = {"animal": ["bird", "cat", "dog"], "colour": ["blue", "green", "red"], "place": ["house", "river", "tree"]}
PLAIN = ["sings", "runs", "sleeps", "over", "under", "the", "a", "big", "small"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a head for the topics."""
    return tiny.bert(tmp_path_factory.mktemp("models") / "bert", labels=list(TOPICS))


def about(rows: int, seed: int = 0) -> dict[str, list[Any]]:
    """Texts in which one word tells the topic."""
    draw = random.Random(seed)
    topics = [draw.choice(list(TOPICS)) for _ in range(rows)]
    texts = []
    for topic in topics:
        words = [*draw.choices(PLAIN, k=draw.randint(2, 6)), draw.choice(TOPICS[topic])]
        draw.shuffle(words)
        texts.append(" ".join(words))
    return {"input": texts, "output": topics}


def classifier(folder: Path, base: Path, **changed: Any) -> tuple[RunPaths, dict[str, Any]]:
    return prepare(
        folder, base, columns=about(40), method="classifier",
        **{"early_stopping": {"patience": 5, "threshold": 0.0}, "arguments": {"num_train_epochs": 4, "learning_rate": 3e-3}, **changed},
    )  # fmt: skip


class Says:
    """A model that says these logits."""

    def __init__(self, logits: list[list[float]]) -> None:
        self.logits = torch.tensor(logits)

    def __call__(self, **_: Any) -> Any:
        return type("Output", (), {"logits": self.logits})()


def test_measures_are_those_of_all_rows_together() -> None:
    objective = LabelLoss(Labels(("a", "b", "c", "never"), multi=False))
    logits = [[3.0, 0, 0, 0], [0, 3, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0], [9, 0, 0, 0]]
    labels = torch.tensor([0, 1, 0, 0, IGNORED])
    # One device has the first rows, another one the rest and a blank: what they count is added.
    parts = [objective.losses(Says(logits[at]), {"labels": labels[at]})[1] for at in (slice(0, 2), slice(2, 5))]
    sums = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    told = objective.measured(1.0, sums, 4)
    # a: 1 right, 2 missed → 2/4; b: 1 right, 1 wrong → 2/3; c: 1 wrong → 0; what neither occurs nor is said counts nothing.
    assert told == {"accuracy": 0.5, "f1": pytest.approx((0.5 + 2 / 3 + 0) / 3)}
    assert int(objective.count({"labels": labels})) == 4


def test_several_labels_a_row_are_each_learned_by_themselves() -> None:
    labels = Labels.of([["b", "a"], [], ["a"]])
    assert labels == Labels(("a", "b"), multi=True)
    assert labels.numbers([["b", "a"], [], ["a"]]) == [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    objective = LabelLoss(labels)
    batch = {"labels": torch.tensor([[1.0, 1], [0, 0], [IGNORED, IGNORED]])}
    loss, sums = objective.losses(Says([[2.0, -2], [-2, -2], [0, 0]]), batch)
    likely, unlikely = torch.nn.functional.softplus(torch.tensor([-2.0, 2.0])).tolist()
    assert float(loss) == pytest.approx((likely + unlikely) / 2 + likely, abs=1e-6)
    assert objective.measured(0.0, sums, 2) == {"accuracy": 0.5, "f1": pytest.approx(0.5)}


def test_f1_comes_before_the_loss() -> None:
    objective = LabelLoss(Labels(("a", "b"), multi=False))
    better, worse = {"eval_f1": 0.5001, "eval_loss": 9.0}, {"eval_f1": 0.5, "eval_loss": 0.1}
    assert objective.rank(better) < objective.rank(worse) < objective.rank({**worse, "eval_loss": 0.2})


@pytest.mark.slow
def test_stopped_and_resumed_equals_uninterrupted_and_two_ranks_equal_one(
    base: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    whole, spec = classifier(tmp_path / "whole", base, devices=2)
    runs.launch(whole, spec)
    result, uninterrupted = finish(whole)
    assert result["state"] == "done", result
    assert all(event["dtensor"] for event in uninterrupted if event["type"] == "ready")
    evaluations = [event for event in uninterrupted if event["type"] == "eval"]
    assert len(evaluations) == 4

    paths, spec = classifier(tmp_path / "stopped", base, devices=2)
    runs.launch(paths, spec)
    result, _ = finish(paths, lambda event: runs.ask_to_stop(paths) if event["type"] == "log" and event["step"] == 4 else None)
    assert result["state"] == "stopped", result
    runs.launch(paths, spec)
    result, resumed = finish(paths)
    assert result["state"] == "done", result
    assert any(event["type"] == "resumed" for event in resumed)
    assert losses(resumed) == losses(uninterrupted)
    assert farthest(tensors(paths), tensors(whole)) == 0.0

    one, spec = classifier(tmp_path / "one", base)
    runs.launch(one, spec)
    result, single = finish(one)
    assert result["state"] == "done", result
    farthest_loss = max(abs(losses(single)[step] - loss) for step, loss in losses(uninterrupted).items())
    record_property("one and two ranks: losses apart", f"{farthest_loss:.1e}")
    assert farthest_loss < 1e-5
    measured = [event["eval_f1"] for event in single if event["type"] == "eval"]
    assert measured == pytest.approx([event["eval_f1"] for event in evaluations], abs=1e-9)


@pytest.mark.slow
def test_an_adapter_is_resumed_with_its_head(base: Path, tmp_path: Path) -> None:
    lora = {"r": 4, "target_modules": "all-linear", "peft_type": "LORA"}
    whole, spec = classifier(tmp_path / "whole", base, lora=lora)
    runs.launch(whole, spec)
    result, uninterrupted = finish(whole)
    assert result["state"] == "done", result
    saved = tensors(whole)
    assert any("classifier" in name and "lora" not in name for name in saved)
    paths, spec = classifier(tmp_path / "stopped", base, lora=lora)
    runs.launch(paths, spec)
    result, _ = finish(paths, lambda event: runs.ask_to_stop(paths) if event["type"] == "log" and event["step"] == 4 else None)
    assert result["state"] == "stopped", result
    runs.launch(paths, spec)
    result, resumed = finish(paths)
    assert result["state"] == "done", result
    assert losses(resumed) == losses(uninterrupted)
    assert farthest(tensors(paths), saved) == 0.0


@pytest.mark.slow
def test_a_classifier_learns_and_knows_its_labels(session: Session, untrained: Path, tmp_path: Path) -> None:
    train, held_out = DataSource("train", data=about(300)), DataSource("held_out", data=about(60, seed=1))
    trainer = TrainHFClassifier("topics", str(untrained), device="cpu")
    columns = {"train_input": train.output["input"], "train_output": train.output["output"]}
    model = trainer.train(
        **columns, validation_input=held_out.output["input"], validation_output=held_out.output["output"],
        epochs=4, batch_size=16, learning_rate=3e-3,
    )  # fmt: skip
    assert isinstance(model, TrainedClassifier)
    assert isinstance(model, TaskModel)
    test = about(240, seed=2)
    before = HFClassificationTaskModel(str(untrained), device="cpu")
    right = [
        sum(said == told for said, told in zip(asked.predict(test["input"]), test["output"], strict=True)) for asked in (before, model)
    ]
    assert wilson(right[0], 240)[1] < wilson(right[1], 240)[0], right
    scores = model("the red a")
    assert list(scores) == ["animal", "colour", "place"]
    assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
    assert max(scores, key=lambda label: scores[label]) == "colour"
    with pytest.raises(ModelError, match=r"text 2 has .* tokens"):
        model.run(["red", "red " * 100])
    assert len(model.run(["red " * 100], truncate=True)) == 1
    best = max(model.curve, key=lambda row: row["eval_f1"] or 0)
    assert best["eval_accuracy"] > 0.6

    folder = Path(model.model_path)
    assert json.loads((folder / "label2id.json").read_text()) == {"animal": 0, "colour": 1, "place": 2}
    assert json.loads((folder / "id2label.json").read_text()) == {"0": "animal", "1": "colour", "2": "place"}
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "animal", "1": "colour", "2": "place"}
    assert [path.name for path in model.paths.folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")] == []
    loaded = session.load("topics")
    assert isinstance(loaded, TrainedClassifier)
    assert loaded.predict(["the red a"]) == ["colour"]
    assert TrainHFClassifier("topics", str(untrained), device="cpu").train(
        **columns, validation_input=held_out.output["input"], validation_output=held_out.output["output"],
        epochs=4, batch_size=16, learning_rate=3e-3,
    ).fingerprint == model.fingerprint  # fmt: skip
    exported = HFClassificationTaskModel(model.export_to_disk(tmp_path / "exported"), device="cpu")
    assert exported("the red a") == pytest.approx(scores)
    published = Path(model.publish_to_hf_hub(str(tmp_path / "published")))
    assert "text-classification" in (published / "README.md").read_text()
    for asked in (before, model, loaded, exported):
        asked.unload_model()


@pytest.mark.slow
def test_an_adapter_over_a_language_model_gives_several_labels(session: Session, tmp_path: Path) -> None:
    causal = tiny.causal(tmp_path / "causal")
    draw = random.Random(3)
    kinds = {1: "red", 2: "cat", 3: "tree"}
    labels = [sorted(draw.sample(sorted(kinds), draw.randint(0, 3))) for _ in range(240)]
    texts = [" ".join([*(kinds[label] for label in row), *draw.choices(PLAIN, k=3)]) for row in labels]
    rows = DataSource("rows", data={"text": texts, "kinds": labels})
    trainer = TrainHFClassifier("kinds", str(causal), device="cpu", peft_config={"r": 8})
    model = trainer.train(rows.output["text"], rows.output["kinds"], epochs=5, batch_size=16, learning_rate=1e-2)
    assert isinstance(model, TrainedClassifier)
    assert model.multi_label
    said = model.predict(texts[:100])
    assert sum(row == told for row, told in zip(said, labels, strict=False)) > 60
    assert all(type(label) is int for row in said for label in row)
    merge.main([str(model.paths.folder), whole := str(tmp_path / "merged")])  # as export_to_disk does in a process of its own
    merged = HFClassificationTaskModel(whole, device="cpu")
    assert merged(texts[0]) == pytest.approx(model(texts[0]), abs=1e-5)
    assert merged.multi_label
    for asked in (model, merged):
        asked.unload_model()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"validation_output": ["animal", "plant"] * 10}, "row 1 of .* has the label 'plant', which no training row has"),
    "kind": ({"validation_output": [["animal"]] * 20}, "unlike the training rows"),
    "null": ({"train_output": ["animal", None] * 10}, "row 1 of .* is null"),
    "null inside": ({"train_output": [["animal"], [None]] * 10}, "row 1 of .* has no label"),
    "empty": ({"train_output": ["animal", " "] * 10}, "row 1 of .* has no label"),
    "one class": ({"train_output": ["animal"] * 20}, "every row of .* has the label 'animal'"),
    "always": ({"train_output": [["animal"]] * 20}, "every row of .* has the label 'animal'"),
    "none": ({"train_output": [[]] * 20}, "no row of|not labels"),
    "floats": ({"train_output": [0.5, 1.5] * 10}, "holds double, not labels"),
    "no texts": ({"train_input": list(range(20))}, "holds int64, not text"),
}


@pytest.mark.parametrize("changed", list(WRONG))
def test_what_cannot_be_learned_is_said_before_a_process_starts(
    session: Session, base: Path, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "launch", lambda *args, **more: pytest.fail("a process was started"))
    rows = about(20)
    data = {"train_input": rows["input"], "train_output": ["animal", "place"] * 10, **WRONG[changed][0]}
    if "validation_output" in data:
        data["validation_input"] = rows["input"]
    columns = {name: DataSource(name, data={name: values}).output[name] for name, values in data.items()}
    with pytest.raises((ArgumentError, DataError), match=WRONG[changed][1]) as caught:
        TrainHFClassifier("topics", str(base)).train(**columns)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    nothing = DataSource("rows", data=rows).filter(lambda row: False)
    with pytest.raises(DataError, match="there is no row"):
        TrainHFClassifier("topics", str(base)).train(nothing.output["input"], nothing.output["output"])


def test_names_that_it_does_not_take_are_refused(session: Session, base: Path) -> None:
    rows = DataSource("rows", data=about(20))
    with pytest.raises(ArgumentError, match="packing"):
        TrainHFClassifier("topics", str(base)).train(rows.output["input"], rows.output["output"], packing=True)
    with pytest.raises(ArgumentError, match="system_prompt"):
        TrainHFClassifier("topics", str(base), system_prompt="Be brief.", peft_config=None)


@pytest.mark.slow
def test_a_cell_trains_a_classifier(base: Path) -> None:
    shell = Shell()
    shell["rows"], shell["held"] = (
        [{"text": text, "topic": topic} for text, topic in zip(*about(rows, seed).values(), strict=True)]
        for rows, seed in ((64, 0), (20, 1))
    )
    body = "input: text\noutput: topic\nepochs: 1\ndevice: cpu"
    shell.run(f"%%train topics --method classifier --on rows --eval held --base {base}\n{body}")
    model = shell["topics"]
    assert isinstance(model, TrainedClassifier)
    assert list(model("the red a")) == list(TOPICS)
    assert "image/svg+xml" in shell.ip.display_formatter.format(model)[0]
    assert shell.run("%dream card topics") is not None
    with pytest.raises(ArgumentError, match="topics is a TrainedClassifier, not a model"):
        shell.run("%%generate more -m topics\nSay {{text}}")
    model.unload_model()
    shell.close()
