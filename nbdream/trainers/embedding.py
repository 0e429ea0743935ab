"""Training an embedder, on the worker's side: ``train(run)`` on every rank. Read it from top to bottom.

texts side by side → tokens → a model of sentence-transformers, with an adapter where there is one → the loop → the model, saved as
that library loads it

Each of the three losses is the library's, as sums over the rows that really are there: see `LOSSES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch  # noqa: TID253 - only a worker imports this module
import torch.distributed as dist  # noqa: TID253
import torch.distributed.nn.functional as gathering  # noqa: TID253
from torch.nn.functional import cosine_similarity, cross_entropy, normalize, relu  # noqa: TID253

from nbdream.errors import TrainingError
from nbdream.optional import require
from nbdream.trainers.completion import max_length_of
from nbdream.trainers.encoding import encode
from nbdream.workers import recipe
from nbdream.workers.batching import side_by_side
from nbdream.workers.live import Live
from nbdream.workers.loop import Batch, Examples, Loop, Sums
from nbdream.workers.rank import Run

SCALE = 20.0
"""What cosines are multiplied with, so that a softmax of them can be sure of something."""


def train(run: Run) -> None:
    """Train, and leave the model in the run's folder; or stop with a checkpoint."""
    recipe.begin(run)
    model = Sentences(run)
    kind = LOSSES[run.spec["learns"]]
    longest = max_length_of(model.tokenizer, model.config, run.spec.get("max_length"))
    limits = {"max_length": longest, "truncate": run.spec["truncate"]}
    texts: dict[str, int] = {}
    rows, facts = _rows(model.tokenizer, run.paths.train_data, kind, limits, texts)
    validated = "validation" in run.spec["data"]
    held_out = _rows(model.tokenizer, run.paths.validation_data, kind, limits, texts)[0] if validated else None
    facts |= {"learns": run.spec["learns"], "batching": run.spec["batching"]}
    run.say({"type": "data", **facts, **({"validation_rows": len(held_out)} if held_out else {})})

    blank = min(rows, key=_length) | {"there": 0}
    live = Live(run)
    args = recipe.arguments(run, len(rows), evaluates=held_out is not None)
    args.per_device_eval_batch_size = args.per_device_train_batch_size  # a pair is measured among as many others as it is learned
    loop = Loop(
        run,
        live,
        kind(run.spec),
        adapter=run.spec.get("lora") is not None,
        lengths=[_length(row) for row in rows] if run.spec["batching"] == "grouped" else None,
        model=model,
        args=args,
        train_dataset=Examples(rows, blank),
        eval_dataset=Examples(held_out, blank) if held_out else None,
        data_collator=Collator(recipe.pad_id(model.tokenizer), kind),
    )
    recipe.see_through(run, loop, live, model.tokenizer, facts)


def _rows(
    tokenizer: Any, path: Path, kind: type[Comparison], limits: dict[str, Any], texts: dict[str, int]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows as tokens; ``texts`` gives every text the number by which it is known again."""
    columns = recipe.columns(path, (*kind.sides, *kind.labels))
    sides = dict(zip(kind.sides, columns, strict=False))
    encoded = {name: encode(tokenizer, column, **limits) for name, column in sides.items()}
    rows: list[dict[str, Any]] = [
        {
            **{name: encoded[name].rows[at] for name in sides},
            "same": [texts.setdefault(sides[name][at], len(texts)) for name in kind.sides[:2]],
            "label": float(columns[-1][at]) if kind.labels else 0.0,
            "there": 1,
        }
        for at in range(len(columns[0]))
    ]
    facts = {
        "rows": len(rows),
        "tokens": sum(part.tokens for part in encoded.values()),
        "max_length": limits["max_length"],
        "truncated": sum(part.truncated for part in encoded.values()),
    }
    return rows, facts


def _length(row: Mapping[str, Any]) -> int:
    return max(len(value) for name, value in row.items() if name not in ("same", "label", "there"))


class Sentences(torch.nn.Module):
    """A model of sentence-transformers as the loop wants one: tensors in, a tensor out."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.sentences = self._loaded()
        pooler = getattr(self.inner, "pooler", None)
        if isinstance(pooler, torch.nn.Module):
            pooler.requires_grad_(False)  # nothing reads what it gives, and nobody is to wait for its gradients

    def _loaded(self) -> Any:
        """The model that the run begins with."""
        library: Any = require("sentence_transformers", "train")
        source = recipe.source(self.run)
        made = library.SentenceTransformer(
            source.pop("pretrained_model_name_or_path"),
            device=None if self.run.spec.get("quantization") else "cpu",
            model_kwargs=recipe.placed(self.run),
            local_files_only=bool(self.run.spec["model"].get("local")),
            **source,
        )
        if self.run.spec.get("lora") is not None:
            if self.run.spec.get("quantization"):
                require("peft", "train").prepare_model_for_kbit_training(made.transformers_model)
            made.add_adapter(recipe.adapter(self.run, "FEATURE_EXTRACTION"))
        return made

    @property
    def inner(self) -> Any:
        """The model of transformers within."""
        return self.sentences.transformers_model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self.sentences.tokenizer

    @property
    def config(self) -> Any:
        """The configuration of the model within."""
        return self.inner.config

    @property
    def _no_split_modules(self) -> Any:
        return self.inner._no_split_modules

    def get_input_embeddings(self) -> Any:
        """Those of the model within."""
        return self.inner.get_input_embeddings()

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Compute what backward needs once more instead of keeping it."""
        self.inner.gradient_checkpointing_enable(**options)

    def forward(self, **batch: torch.Tensor) -> torch.Tensor:
        """The vectors of texts: (texts, dims)."""
        vectors: torch.Tensor = self.sentences(batch)["sentence_embedding"]
        return vectors

    def save_pretrained(self, folder: Path, state_dict: dict[str, torch.Tensor]) -> None:
        """Write the model with these weights, as sentence-transformers loads it; with an adapter, the adapter.

        It is loaded once more for that: of a sharded model, a rank holds no whole weights.
        """
        whole = self._loaded()
        told = whole.load_state_dict({name.removeprefix("sentences."): tensor for name, tensor in state_dict.items()}, strict=False)
        if told.unexpected_keys:
            raise TrainingError(f"the trained weights have no place in the model: {told.unexpected_keys[0]}")
        whole.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)


class Comparison(ABC):
    """What a row's texts are learned to be to each other. Subclasses say what the texts are, and write ``compared``."""

    sides: ClassVar[tuple[str, ...]]
    labels: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec

    @abstractmethod
    def compared(self, vectors: tuple[torch.Tensor, ...], batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The loss of each row, and whether it is right, where that can be said."""

    def count(self, batch: Batch) -> torch.Tensor:
        """The rows."""
        return batch["there"].sum()

    def tokens(self, batch: Batch) -> int:
        """The tokens that are read."""
        return int(batch["attention_mask"].sum())

    def losses(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Sums]:
        """The sum over the rows, and how many of them are right."""
        vectors = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).float()
        losses, right = self.compared(vectors.chunk(len(self.sides)), batch)
        there = batch["there"].bool()
        return torch.where(there, losses, 0.0).sum(), {} if right is None else {"accuracy": (right & there).sum()}

    def measured(self, loss: float, sums: Mapping[str, Any], count: float) -> dict[str, float]:
        """The averages over the rows."""
        return {name: float(part) / count for name, part in sums.items()}

    def rank(self, metrics: Mapping[str, float]) -> float:
        """The loss."""
        return metrics["eval_loss"]


class Triplets(Comparison):
    """The anchor nearer to the positive than to the negative, by at least a margin (Hermans et al. 2017, arXiv 1703.07737)."""

    sides = ("anchors", "positives", "negatives")

    def compared(self, vectors: tuple[torch.Tensor, ...], batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """By Euclidean distance. It is right where the positive is nearer."""
        anchors, positives, negatives = vectors
        near, far = (torch.linalg.vector_norm(anchors - other, dim=1) for other in (positives, negatives))
        return relu(near - far + self.spec["margin"]), near < far


class PositivePairs(Comparison):
    """Each anchor nearest to its own positive among those of all other pairs, and each positive to its own anchor.

    Pairs of all devices are compared, so that it does not matter how many there are. A pair of which one text stands in another
    pair, too, is no negative of it.
    """

    sides = ("anchors", "positives")

    def compared(self, vectors: tuple[torch.Tensor, ...], batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """By cosine. It is right where the anchor's own positive is the nearest."""
        anchors, positives = (normalize(part, dim=1) for part in vectors)
        all_anchors, all_positives = _everywhere(anchors), _everywhere(positives)
        same, all_same, all_there = batch["same"], _everywhere(batch["same"]), _everywhere(batch["there"])
        first = dist.get_rank() * len(anchors) if dist.is_initialized() else 0
        own = torch.arange(first, first + len(anchors), device=anchors.device)
        hidden = (same[:, None] == all_same[None]).any(2) | (all_there == 0)[None]
        hidden[torch.arange(len(own)), own] = False
        to_positives = (SCALE * anchors @ all_positives.T).masked_fill(hidden, -torch.inf)
        to_anchors = (SCALE * positives @ all_anchors.T).masked_fill(hidden, -torch.inf)
        losses = (cross_entropy(to_positives, own, reduction="none") + cross_entropy(to_anchors, own, reduction="none")) / 2
        return losses, to_positives.argmax(1) == own


class LabeledPairs(Comparison):
    """The cosine of two texts as the label says it: the square of the difference (Reimers and Gurevych 2019, arXiv 1908.10084)."""

    sides = ("anchors", "others")
    labels = ("labels",)

    def compared(self, vectors: tuple[torch.Tensor, ...], batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """There is no right or wrong."""
        return (cosine_similarity(*vectors, dim=1) - batch["label"]) ** 2, None


LOSSES: dict[str, type[Comparison]] = {"triplets": Triplets, "positive pairs": PositivePairs, "labeled pairs": LabeledPairs}


def _everywhere(part: torch.Tensor) -> torch.Tensor:
    """What all devices have of it, those of lower rank first; gradients find their way back."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return part
    if part.requires_grad:
        return torch.cat(gathering.all_gather(part))
    parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts)


class Collator:
    """The texts of one side above those of the next, filled up at the right to the longest."""

    def __init__(self, pad: int, kind: type[Comparison]) -> None:
        self.pad, self.kind = pad, kind

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        """One batch: sides × rows texts."""
        ids = [row[name] for name in self.kind.sides for row in rows]
        return {
            "input_ids": side_by_side(ids, self.pad),
            "attention_mask": side_by_side([[1] * len(row) for row in ids], 0),
            "same": torch.tensor([row["same"] for row in rows]),
            "label": torch.tensor([row["label"] for row in rows], dtype=torch.float32),
            "there": torch.tensor([row["there"] for row in rows]),
        }
