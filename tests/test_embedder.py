"""`TrainSentenceTransformer`: its losses, real small runs, stopped and resumed, on one process and on two, with an adapter."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nbdream import Session
from nbdream.embedders import Embedder, SentenceTransformersEmbedder
from nbdream.errors import ArgumentError, DataError, ModelError
from nbdream.steps import DataSource
from nbdream.trainers import TrainedEmbedder, TrainSentenceTransformer
from nbdream.trainers.embedding import LOSSES
from nbdream.workers import merge, runs
from nbdream.workers.paths import RunPaths
from tests import tiny
from tests.notebook import Shell
from tests.training import farthest, finish, losses, prepare, tensors, wilson


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.bert(tmp_path_factory.mktemp("models") / "bert")


def translated(rows: int, seed: int = 0) -> dict[str, list[str]]:
    """Texts, the same in words of which each stands for another, and something else."""
    draw = random.Random(seed)
    half = len(tiny.WORDS) // 2
    spoken = [draw.sample(range(half), 3) for _ in range(rows)]
    other = [draw.sample(range(half), 3) for _ in range(rows)]
    return {
        "anchors": [" ".join(tiny.WORDS[word] for word in words) for words in spoken],
        "positives": [" ".join(tiny.WORDS[half + word] for word in words) for words in spoken],
        "negatives": [" ".join(tiny.WORDS[half + word] for word in words) for words in other],
    }


def batch(sides: int, rows: int = 5, *, blanks: int = 2) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...], dict[str, Any]]:
    """Vectors, the same followed by those of rows that only fill a batch up, and what the loop hands over with them."""
    torch.manual_seed(1)
    whole = torch.randn(sides, rows + blanks, 4)
    there = torch.tensor([1] * rows + [0] * blanks)
    same = torch.arange(2 * (rows + blanks)).view(-1, 2)
    told = {"there": there, "same": same, "label": torch.linspace(-1, 1, rows + blanks)}
    return tuple(whole[:, :rows]), tuple(whole), told


@pytest.mark.parametrize("learns", list(LOSSES))
def test_the_losses_are_the_library_s(learns: str) -> None:
    from sentence_transformers.sentence_transformer import losses as library

    kind = LOSSES[learns]
    real, filled, told = batch(len(kind.sides))
    theirs: Any = {
        "triplets": lambda: library.TripletLoss(None, triplet_margin=2.0),
        "positive pairs": lambda: library.MultipleNegativesRankingLoss(
            None, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
        ),
        "labeled pairs": lambda: library.CosineSimilarityLoss(None),
    }[learns]()
    expected = theirs.compute_loss_from_embeddings(list(real), told["label"][:5])
    objective = kind({"margin": 2.0})

    def model(**_: Any) -> torch.Tensor:
        return torch.cat(filled)

    given = {**told, "input_ids": torch.zeros(1), "attention_mask": torch.ones(1)}
    total, _ = objective.losses(model, given)
    assert int(objective.count(given)) == 5
    assert float(total) / 5 == pytest.approx(float(expected), abs=1e-6)


def test_a_pair_that_shares_a_text_is_no_negative() -> None:
    objective = LOSSES["positive pairs"]({})
    real, _, told = batch(2, 3, blanks=0)
    told["same"][2, 0] = told["same"][0, 0]  # the same anchor twice
    each, _ = objective.compared(real, told)
    pairs = tuple(side[[0, 1]] for side in real)
    alone, _ = objective.compared(pairs, {name: value[:2] for name, value in told.items()})
    assert float(each[0]) == pytest.approx(float(alone[0]), abs=1e-6)


def embedder(folder: Path, base: Path, **changed: Any) -> tuple[RunPaths, dict[str, Any]]:
    columns = {name: translated(30)[name] for name in ("anchors", "positives")}
    return prepare(
        folder, base, columns=columns, method="embedder", learns="positive pairs", compared_pairs=8,
        **{"early_stopping": {"patience": 5, "threshold": 0.0}, "arguments": {"num_train_epochs": 3, "learning_rate": 3e-3}, **changed},
    )  # fmt: skip


@pytest.mark.slow
def test_stopped_and_resumed_equals_uninterrupted_and_two_ranks_equal_one(
    base: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    whole, spec = embedder(tmp_path / "whole", base)
    runs.launch(whole, spec)
    result, uninterrupted = finish(whole)
    assert result["state"] == "done", result
    paths, spec = embedder(tmp_path / "stopped", base)
    runs.launch(paths, spec)
    result, _ = finish(paths, lambda event: runs.ask_to_stop(paths) if event["type"] == "log" and event["step"] == 4 else None)
    assert result["state"] == "stopped", result
    assert [path.name for path in paths.folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")] == []
    runs.launch(paths, spec)
    result, resumed = finish(paths)
    assert result["state"] == "done", result
    assert any(event["type"] == "resumed" for event in resumed)
    assert losses(resumed) == losses(uninterrupted)
    assert farthest(tensors(paths), tensors(whole)) == 0.0

    # What a pair is told from is on both devices.
    two, spec = embedder(tmp_path / "two", base, devices=2)
    runs.launch(two, spec)
    result, both = finish(two)
    assert result["state"] == "done", result
    assert all(event["dtensor"] for event in both if event["type"] == "ready")
    farthest_loss = max(abs(losses(both)[step] - loss) for step, loss in losses(uninterrupted).items())
    record_property("one and two ranks: losses apart", f"{farthest_loss:.1e}")
    assert farthest_loss < 1e-5
    evaluations = [[event["eval_loss"] for event in events if event["type"] == "eval"] for events in (uninterrupted, both)]
    assert evaluations[0] == pytest.approx(evaluations[1], abs=1e-5)


def found(model: Embedder, test: dict[str, list[str]], *, among: int = 20) -> int:
    """How many anchors have their own positive as the nearest of so many."""
    anchors, positives = (model.run(test[name]) for name in ("anchors", "positives"))
    right = 0
    for start in range(0, len(anchors), among):
        near = anchors[start : start + among] @ positives[start : start + among].T
        right += int((near.argmax(1) == np.arange(len(near))).sum())
    return right


@pytest.mark.slow
def test_an_embedder_learns_to_find(session: Session, base: Path, tmp_path: Path) -> None:
    rows, held_out = DataSource("rows", data=translated(400)), DataSource("held_out", data=translated(60, seed=1))
    trainer = TrainSentenceTransformer("finder", str(base), device="cpu")
    model = trainer.train_with_positive_pairs(
        rows.output["anchors"], rows.output["positives"], held_out.output["anchors"], held_out.output["positives"],
        epochs=4, batch_size=32, learning_rate=3e-3,
    )  # fmt: skip
    assert isinstance(model, TrainedEmbedder)
    assert isinstance(model, Embedder)
    test = translated(240, seed=2)
    before, after = found(model.base, test), found(model, test)
    assert wilson(before, 240)[1] < wilson(after, 240)[0], (before, after)
    vectors = model.run(test["anchors"][:3])
    assert vectors.shape == (3, model.dims) == (3, 32)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert model.run([]).shape == (0, 32)
    with pytest.raises(ModelError, match=r"text 1 has .* tokens"):
        model("red " * 100)
    assert max(row["eval_accuracy"] or 0 for row in model.curve) > 0.3
    assert (Path(model.model_path) / "modules.json").is_file()
    published = Path(model.publish_to_hf_hub(str(tmp_path / "published")))
    assert "sentence-similarity" in (published / "README.md").read_text()
    again = SentenceTransformersEmbedder(str(published), device="cpu")
    assert again(test["anchors"][0]) == pytest.approx(vectors[0], abs=1e-6)
    loaded = session.load("finder")
    assert isinstance(loaded, TrainedEmbedder)
    for used in (model, model.base, again):
        used.unload_model()


@pytest.mark.slow
def test_triplets_with_an_adapter_and_labels_on_a_saved_model(session: Session, base: Path, tmp_path: Path) -> None:
    data = translated(200)
    rows = DataSource("rows", data=data)
    trainer = TrainSentenceTransformer("tripled", str(base), device="cpu", peft_config={"r": 8})
    model = trainer.train_with_triplets(
        *(rows.output[name] for name in data), margin=1.0, epochs=4, batch_size=16, learning_rate=1e-2,
    )  # fmt: skip
    assert isinstance(model, TrainedEmbedder)
    assert model.adapted
    assert model.curve[-1]["accuracy"] > 0.8
    merge.main([str(model.paths.folder), whole := str(tmp_path / "merged")])  # as export_to_disk does in a process of its own
    merged = SentenceTransformersEmbedder(whole, device="cpu")
    assert merged(data["anchors"][0]) == pytest.approx(model(data["anchors"][0]), abs=1e-5)
    # What was written is a model of sentence-transformers, and can be learned on from.
    labels = DataSource(
        "labels", data={"a": data["anchors"] * 2, "b": data["positives"] + data["negatives"], "alike": [1] * 200 + [0] * 200}
    )
    further = TrainSentenceTransformer("further", whole, device="cpu").train_with_labeled_pairs(
        *(labels.output[name] for name in ("a", "b", "alike")), epochs=2, batch_size=16, learning_rate=1e-3
    )
    assert isinstance(further, TrainedEmbedder)
    assert further.curve[-1]["loss"] < further.curve[0]["loss"]
    for used in (model, merged):
        used.unload_model()


def test_train_says_what_to_call(session: Session, base: Path) -> None:
    rows = DataSource("rows", data=translated(10))
    with pytest.raises(ArgumentError, match="train_with_triplets, train_with_positive_pairs or train_with_labeled_pairs"):
        TrainSentenceTransformer("finder", str(base)).train(rows.output["anchors"], rows.output["positives"])


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "null": ({"positives": ["red", None] * 5}, {}, "row 1 of .* is null"),
    "empty": ({"anchors": ["red", " "] * 5}, {}, "row 1 of .* is empty"),
    "numbers": ({"anchors": list(range(10))}, {}, "holds int64, not text"),
    "margin": ({}, {"margin": 2.0}, "margin has no meaning for positive pairs"),
    "one pair": ({}, {"batch_size": 1}, "a batch of one pair"),
    "unknown": ({}, {"epoch": 3}, "epoch"),
}


@pytest.mark.parametrize("changed", list(WRONG))
def test_what_cannot_be_learned_is_said_before_a_process_starts(
    session: Session, base: Path, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "launch", lambda *args, **more: pytest.fail("a process was started"))
    data, settings, words = WRONG[changed]
    rows = DataSource("rows", data={**translated(10), **data})
    with pytest.raises((ArgumentError, DataError), match=words):
        TrainSentenceTransformer("finder", str(base)).train_with_positive_pairs(
            rows.output["anchors"], rows.output["positives"], **settings
        )


@pytest.mark.parametrize(("labels", "words"), [([0.5, 3.0] * 5, "row 1 of .* is 3.0"), (["a", "b"] * 5, "holds string, not numbers")])
def test_labels_are_cosines(session: Session, base: Path, labels: list[Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "launch", lambda *args, **more: pytest.fail("a process was started"))
    rows = DataSource("rows", data={**translated(10), "labels": labels})
    with pytest.raises(DataError, match=words):
        TrainSentenceTransformer("finder", str(base)).train_with_labeled_pairs(
            *(rows.output[name] for name in ("anchors", "positives", "labels"))
        )


def test_how_large_a_batch_is_compared_is_in_the_recipe_and_devices_are_not(base: Path) -> None:
    def compared(devices: int, **settings: Any) -> Any:
        trainer = TrainSentenceTransformer("finder", str(base), devices=devices, device="cpu")
        told: dict[str, Any] = {}
        trainer.start = lambda columns, own, **more: told.update(own)  # type: ignore[method-assign]
        trainer.train_with_positive_pairs(None, None, batch_size=8, **settings)
        return told["compared_pairs"]

    assert compared(1) == compared(2) == 8
    assert compared(1, per_device_train_batch_size=4) == 4


@pytest.mark.slow
def test_a_cell_trains_an_embedder_on_what_its_columns_are(base: Path) -> None:
    shell = Shell()
    shell["rows"] = [dict(zip("apn", row, strict=True)) for row in zip(*translated(40).values(), strict=True)]
    cell = f"%%train finder --method embedder --on rows --base {base}\ndevice: cpu\nepochs: 1\nanchor: a\n"
    shell.run(f"{cell}positive: p\nnegative: n\nmargin: 2")
    assert shell["finder"].step.node["type"] == "SentenceTriplets"
    shell["finder"].unload_model()
    with pytest.raises(ArgumentError, match="'positive'"):
        shell.run(cell)
    with pytest.raises(ArgumentError, match="'chosen'"):
        shell.run(f"{cell}positive: p\nchosen: n")
    with pytest.raises(ArgumentError, match="'other'"):
        shell.run(f"{cell}label: n")
    shell.close()
