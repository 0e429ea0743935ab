"""Training a classifier, on the worker's side: ``train(run)`` on every rank. Read it from top to bottom.

texts and labels → tokens and numbers → a model with a head for the labels, with an adapter where there is one → the loop → the
model, saved, and its labels beside it
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - only a worker imports this module
import transformers  # noqa: TID253
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot  # noqa: TID253

from nbdream.trainers.completion import IGNORED, max_length_of
from nbdream.trainers.encoding import encode
from nbdream.trainers.labels import Labels
from nbdream.workers import recipe
from nbdream.workers.batching import side_by_side
from nbdream.workers.live import Live
from nbdream.workers.loop import Batch, Examples, Loop, Sums
from nbdream.workers.rank import Run

HEADS = ("classifier", "score", "classification_head", "pre_classifier", "head")
"""What the last layers of classifiers are called."""


def train(run: Run) -> None:
    """Train, and leave the model in the run's folder; or stop with a checkpoint."""
    recipe.begin(run)
    config = transformers.AutoConfig.from_pretrained(**recipe.source(run))
    tokenizer = transformers.AutoTokenizer.from_pretrained(**recipe.source(run))
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token

    texts, outputs = recipe.columns(run.paths.train_data, ("input", "output"))
    labels = Labels.of(outputs)
    limits = {"max_length": max_length_of(tokenizer, config, run.spec.get("max_length")), "truncate": run.spec["truncate"]}
    rows, facts = _rows(tokenizer, texts, outputs, labels, limits)
    held_out = _held_out(run, tokenizer, labels, limits) if "validation" in run.spec["data"] else None
    facts |= {"labels": len(labels.values), "multi_label": labels.multi, "batching": run.spec["batching"]}
    run.say({"type": "data", **facts, **({"validation_rows": len(held_out)} if held_out else {})})

    blank = min(rows, key=lambda row: len(row["input_ids"])) | {"labels": [IGNORED] * len(labels.values) if labels.multi else IGNORED}
    live = Live(run)
    loop = Loop(
        run,
        live,
        LabelLoss(labels),
        adapter=run.spec.get("lora") is not None,
        lengths=[len(row["input_ids"]) for row in rows] if run.spec["batching"] == "grouped" else None,
        model=_model(run, labels, tokenizer),
        args=recipe.arguments(run, len(rows), evaluates=held_out is not None),
        train_dataset=Examples(rows, blank),
        eval_dataset=Examples(held_out, blank) if held_out else None,
        data_collator=Collator(recipe.pad_id(tokenizer), labels),
    )
    recipe.see_through(run, loop, live, tokenizer, facts, labels.files())


def _rows(
    tokenizer: Any, texts: list[str], outputs: list[Any], labels: Labels, limits: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    encoded = encode(tokenizer, texts, **limits)
    rows = [{"input_ids": ids, "labels": label} for ids, label in zip(encoded.rows, labels.numbers(outputs), strict=True)]
    facts = {"rows": len(rows), "tokens": encoded.tokens, "max_length": encoded.max_length, "truncated": encoded.truncated}
    return rows, facts


def _held_out(run: Run, tokenizer: Any, labels: Labels, limits: dict[str, Any]) -> list[dict[str, Any]]:
    path: Path = run.paths.validation_data
    texts, outputs = recipe.columns(path, ("input", "output"))
    return _rows(tokenizer, texts, outputs, labels, limits)[0]


def _model(run: Run, labels: Labels, tokenizer: Any) -> Any:
    """The base model with a head for the labels. The head is trained and saved whole, with an adapter too."""
    kind = "multi_label_classification" if labels.multi else "single_label_classification"
    names = labels.names
    model, told = recipe.bare(
        run,
        transformers.AutoModelForSequenceClassification,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        problem_type=kind,
        pad_token_id=tokenizer.pad_token_id,  # where it is missing, a causal model cannot tell a row's last token
        ignore_mismatched_sizes=True,  # a base that was a classifier of other labels
        output_loading_info=True,
        unquantized=HEADS,
    )
    fresh = {key.rpartition(".")[0] for key in [*told["missing_keys"], *(key for key, *_ in told["mismatched_keys"])]}
    heads = {name for name, _ in model.named_children() if name in HEADS}
    whole = sorted(heads | {name for name in fresh if not any(name == head or name.startswith(f"{head}.") for head in heads)})
    return recipe.adapted(run, model, "SEQ_CLS", modules_to_save=whole)


class LabelLoss:
    """Cross entropy of a row's label; with several labels a row, the mean binary cross entropy of all of them."""

    def __init__(self, labels: Labels) -> None:
        self.labels = len(labels.values)
        self.multi = labels.multi

    def count(self, batch: Batch) -> torch.Tensor:
        """The rows."""
        return self._valid(batch).sum()

    def tokens(self, batch: Batch) -> int:
        """The tokens that are read."""
        return int(batch["attention_mask"].sum())

    def losses(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Sums]:
        """The sum over the rows, and of each label how often it was rightly said, wrongly said, and not said."""
        valid = self._valid(batch)
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits.float()[valid]
        labels = batch["labels"][valid]
        if self.multi:
            loss = binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1).sum()
            said, truth = logits > 0, labels > 0
        else:
            loss = cross_entropy(logits, labels, reduction="sum")
            said, truth = (one_hot(numbers, self.labels).bool() for numbers in (logits.argmax(1), labels))
        counts = torch.stack([(said & truth).sum(0), (said & ~truth).sum(0), (~said & truth).sum(0)])
        return loss, {"counts": counts, "right": (said == truth).all(1).sum()}

    def measured(self, loss: float, sums: Mapping[str, Any], count: float) -> dict[str, float]:
        """The share of rows with all labels right; the mean over the labels that occur of each one's F1."""
        right, wrong, missed = sums["counts"]
        there = 2 * right + wrong + missed
        each = (2 * right / there)[there > 0]
        return {"accuracy": float(sums["right"]) / count, "f1": float(each.mean()) if len(each) else 0.0}

    def rank(self, metrics: Mapping[str, float]) -> float:
        """F1 first; where it is the same, the loss."""
        loss = metrics["eval_loss"]
        return -round(metrics["eval_f1"], 6) + 5e-7 * loss / (1 + loss)

    def _valid(self, batch: Batch) -> torch.Tensor:
        labels = batch["labels"]
        return (labels[:, 0] if self.multi else labels) != IGNORED


class Collator:
    """Rows side by side, filled up at the right to the longest."""

    def __init__(self, pad: int, labels: Labels) -> None:
        self.pad = pad
        self.kind = torch.float32 if labels.multi else torch.long

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        """One batch."""
        ids = [row["input_ids"] for row in rows]
        return {
            "input_ids": side_by_side(ids, self.pad),
            "attention_mask": side_by_side([[1] * len(row) for row in ids], 0),
            "labels": torch.tensor([row["labels"] for row in rows], dtype=self.kind),
        }
