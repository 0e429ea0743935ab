"""`TrainSentenceTransformer`: an embedder that learns which texts belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pyarrow as pa

from nbdream.datasets import OutputDatasetColumn
from nbdream.embedders.sentence_transformers import content_of_modules
from nbdream.errors import ArgumentError, DataError, MissingPackageError
from nbdream.optional import installed
from nbdream.trainers.arguments import check_names, cut_batch, number
from nbdream.trainers.hugging_face import HFTrainer
from nbdream.trainers.run_step import TrainingRun, check_nulls, check_texts

if TYPE_CHECKING:
    from nbdream.trainers.trained_embedder import TrainedEmbedder


class SentencePairs(TrainingRun):
    """The step behind `TrainSentenceTransformer.train_with_positive_pairs`."""

    method: ClassVar[str] = "embedder"
    columns: ClassVar[tuple[str, ...]] = ("anchors", "positives")
    measures: ClassVar[tuple[str, ...]] = (*TrainingRun.measures, "accuracy", "eval_accuracy")

    def check(self, part: str, columns: Mapping[str, OutputDatasetColumn]) -> None:
        """Texts, none of them empty."""
        for name, column in columns.items():
            if name != "labels":
                check_texts(column)
                if (empty := next((at for at, value in enumerate(column.array()) if not value.as_py().strip()), None)) is not None:
                    raise DataError(f"row {empty} of {column.name!r} is empty", "leave such rows out: .filter(…)")


class SentenceTriplets(SentencePairs):
    """The step behind `TrainSentenceTransformer.train_with_triplets`."""

    columns: ClassVar[tuple[str, ...]] = ("anchors", "positives", "negatives")


class LabeledSentences(SentencePairs):
    """The step behind `TrainSentenceTransformer.train_with_labeled_pairs`."""

    columns: ClassVar[tuple[str, ...]] = ("anchors", "others", "labels")
    measures: ClassVar[tuple[str, ...]] = TrainingRun.measures

    def check(self, part: str, columns: Mapping[str, OutputDatasetColumn]) -> None:
        """Texts, and labels that a cosine can be."""
        super().check(part, columns)
        labels = columns["labels"]
        kind = labels.array().type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise DataError(f"column {labels.name!r} holds {kind}, not numbers", "a label says how alike two texts are: 0.0 to 1.0")
        check_nulls(labels)
        for row, value in enumerate(labels.array().to_pylist()):
            if not math.isfinite(value) or not -1 <= value <= 1:
                raise DataError(f"row {row} of {labels.name!r} is {value}", "a label is a cosine: between -1 and 1; scale them")


class TrainSentenceTransformer(HFTrainer):
    """An embedder out of a model of sentence-transformers, or out of any encoder, whose tokens' vectors are averaged then.

    Whole, or as an adapter. What the rows are decides what is called: `train_with_triplets`, `train_with_positive_pairs`, or
    `train_with_labeled_pairs`. All three give the trained model, and take what `TrainHFFineTune.train` takes but for ``packing``.
    ``learning_rate`` is by default 2e-4 with an adapter and 2e-5 without.
    """

    step_type: ClassVar[type[TrainingRun]] = SentencePairs
    own: ClassVar[frozenset[str]] = frozenset({"margin"})
    learning_rates: ClassVar[Mapping[str, float]] = {"lora": 2e-4, "full": 2e-5}

    def __init__(
        self,
        name: str,
        model_name: str,
        trust_remote_code: bool = False,
        device: Any = None,
        dtype: Any = None,
        quantization_config: Any = None,
        peft_config: Any = None,
        fsdp: bool | str | None = None,
        fsdp_config: Mapping[str, Any] | None = None,
        devices: int | None = None,
        revision: str | None = None,
        force: bool = False,
        **kwargs: Any,
    ) -> None:
        check_names(kwargs, self.arguments())
        super().__init__(
            name, model_name, revision=revision, trust_remote_code=trust_remote_code, device=device, dtype=dtype,
            quantization_config=quantization_config, peft_config=peft_config, fsdp=fsdp, fsdp_config=fsdp_config, devices=devices,
            force=force,
        )  # fmt: skip
        if self.base.folder is not None:  # how it pools stands in folders of its own
            self.base.identity = {"provider": "sentence-transformers", "content": content_of_modules(self.base.folder)}

    def train(self, *columns: Any, **settings: Any) -> Any:
        """Refuses: the rows may be three things."""
        ways = "train_with_triplets, train_with_positive_pairs or train_with_labeled_pairs"
        raise ArgumentError("train cannot tell what the rows are", f"call {ways}")

    def train_with_triplets(
        self,
        train_anchors: Any,
        train_positives: Any,
        train_negatives: Any,
        validation_anchors: Any = None,
        validation_positives: Any = None,
        validation_negatives: Any = None,
        margin: float = 5.0,
        **settings: Any,
    ) -> TrainedEmbedder | Self:
        """Learn that an anchor is nearer to its positive than to its negative, by ``margin`` in Euclidean distance."""
        columns = {
            "train_anchors": train_anchors, "train_positives": train_positives, "train_negatives": train_negatives,
            "validation_anchors": validation_anchors, "validation_positives": validation_positives,
            "validation_negatives": validation_negatives,
        }  # fmt: skip
        return self._begin(SentenceTriplets, columns, {"learns": "triplets", "margin": number("margin", margin)}, settings)

    def train_with_positive_pairs(
        self,
        train_anchors: Any,
        train_positives: Any,
        validation_anchors: Any = None,
        validation_positives: Any = None,
        **settings: Any,
    ) -> TrainedEmbedder | Self:
        """Learn that an anchor is nearest to its positive among those of all pairs of a batch, and the other way round.

        The other pairs are what there is to tell it from: a larger ``batch_size`` makes it harder, and the model better. On several
        devices the pairs of all of them are compared, so their number changes nothing; ``gradient_accumulation_steps`` does, since
        only pairs that are read at once are compared.
        """
        columns = {
            "train_anchors": train_anchors, "train_positives": train_positives,
            "validation_anchors": validation_anchors, "validation_positives": validation_positives,
        }  # fmt: skip
        accumulation, per_device = (settings.get(name) for name in ("gradient_accumulation_steps", "per_device_train_batch_size"))
        batch = cut_batch(settings.get("batch_size", 8), 1 if accumulation is None else accumulation, self.count, per_device)
        compared = batch.per_device * self.count
        if compared < 2:
            raise ArgumentError("a batch of one pair has nothing to tell it from", "give a larger batch_size, for example 32")
        return self._begin(SentencePairs, columns, {"learns": "positive pairs", "compared_pairs": compared}, settings)

    def train_with_labeled_pairs(
        self,
        train_anchors: Any,
        train_others: Any,
        train_labels: Any,
        validation_anchors: Any = None,
        validation_others: Any = None,
        validation_labels: Any = None,
        **settings: Any,
    ) -> TrainedEmbedder | Self:
        """Learn the cosine of two texts: ``train_labels`` holds it, for example 1 for alike and 0 for not."""
        columns = {
            "train_anchors": train_anchors, "train_others": train_others, "train_labels": train_labels,
            "validation_anchors": validation_anchors, "validation_others": validation_others, "validation_labels": validation_labels,
        }  # fmt: skip
        return self._begin(LabeledSentences, columns, {"learns": "labeled pairs"}, settings)

    def _begin(
        self, step_type: type[TrainingRun], columns: Mapping[str, Any], own: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> TrainedEmbedder | Self:
        if not installed("sentence_transformers"):
            raise MissingPackageError("sentence_transformers is not installed", "pip install 'nbdream[train]'")
        if "margin" in settings:
            raise ArgumentError(f"margin has no meaning for {own['learns']}", "leave it out, or give negatives")
        common = {name: value for name, value in settings.items() if name in TAIL}
        grouped = settings.get("group_by_length", True)
        more = {name: value for name, value in settings.items() if name not in TAIL and name not in NOT_COMMON}
        made: TrainedEmbedder | Self = self.start(
            columns,
            {**own, "batching": "grouped" if grouped else "as they come"},
            step_type=step_type,
            background=bool(settings.get("background")),
            replace=bool(settings.get("replace")),
            kwargs=more,
            **common,
        )
        return made


TAIL = frozenset({
    "batch_size", "early_stopping_patience", "early_stopping_threshold", "epochs", "learning_rate", "lr_scheduler_type", "max_length",
    "neftune_noise_alpha", "optim", "seed", "truncate", "warmup_steps", "weight_decay",
})  # fmt: skip
NOT_COMMON = ("background", "group_by_length", "replace")
