"""`TrainHFClassifier`: a model that learns to give each text one label, or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from nbdream.datasets import OutputDatasetColumn
from nbdream.trainers.arguments import check_names
from nbdream.trainers.hooks import FUNCTIONS
from nbdream.trainers.hugging_face import PATIENCE, HFTrainer
from nbdream.trainers.labels import check_known, labels_of
from nbdream.trainers.run_step import TrainingRun, check_texts

if TYPE_CHECKING:
    from nbdream.trainers.trained_classifier import TrainedClassifier


class HFClassifier(TrainingRun):
    """The step behind `TrainHFClassifier`."""

    method: ClassVar[str] = "classifier"
    columns: ClassVar[tuple[str, ...]] = ("input", "output")
    measures: ClassVar[tuple[str, ...]] = (*TrainingRun.measures, "accuracy", "eval_accuracy", "eval_f1")

    def check(self, part: str, columns: Mapping[str, OutputDatasetColumn]) -> None:
        """Texts, and labels of at least two kinds; among the validation rows none that no training row has."""
        check_texts(columns["input"])
        known = labels_of(self._column("train_output"))
        if part == "validation":
            check_known(columns["output"], known)


class TrainHFClassifier(HFTrainer):
    """A classifier out of any model with or without a head for labels: an encoder as BERT, or a language model; whole or as an adapter.

    With an adapter the head is trained whole, and saved with it.
    """

    step_type: ClassVar[type[TrainingRun]] = HFClassifier
    own: ClassVar[frozenset[str]] = frozenset(FUNCTIONS)
    learning_rates: ClassVar[Mapping[str, float]] = {"lora": 2e-4, "full": 5e-5}

    def __init__(
        self,
        name: str,
        model_name: str,
        revision: str | None = None,
        trust_remote_code: bool = False,
        device: Any = None,
        dtype: Any = None,
        quantization_config: Any = None,
        peft_config: Any = None,
        fsdp: bool | str | None = None,
        fsdp_config: Mapping[str, Any] | None = None,
        devices: int | None = None,
        force: bool = False,
        **kwargs: Any,
    ) -> None:
        check_names(kwargs, self.arguments())
        super().__init__(
            name, model_name, revision=revision, trust_remote_code=trust_remote_code, device=device, dtype=dtype,
            quantization_config=quantization_config, peft_config=peft_config, fsdp=fsdp, fsdp_config=fsdp_config, devices=devices,
            force=force,
        )  # fmt: skip

    def train(
        self,
        train_input: Any,
        train_output: Any,
        validation_input: Any = None,
        validation_output: Any = None,
        truncate: bool = True,
        epochs: float = 3.0,
        batch_size: int = 8,
        optim: str = "adamw_torch",
        learning_rate: float | None = None,
        weight_decay: float = 0.01,
        lr_scheduler_type: str = "linear",
        warmup_steps: float = 0,
        neftune_noise_alpha: float | None = None,
        seed: int = 42,
        max_length: int | None = None,
        group_by_length: bool = True,
        early_stopping_patience: int | None = PATIENCE,
        early_stopping_threshold: float = 0.0,
        background: bool = False,
        replace: bool = False,
        **kwargs: Any,
    ) -> TrainedClassifier | Self:
        """Train, or load what was trained: the model, which gives each label its probability.

        ``train_output`` holds a text, a whole number or a truth value a row; or lists of them, of any length: then each label is
        learned by itself, and a row has those that are likelier than not. The labels are those of the training rows, in order.
        With validation rows the evaluation with the best macro F1 is the model, and among equal ones that with the least loss.
        ``learning_rate`` is by default 2e-4 with an adapter and 5e-5 without. Everything else, and what is raised, is as in
        `TrainHFFineTune.train`.
        """
        made: TrainedClassifier | Self = self.start(
            {
                "train_input": train_input, "train_output": train_output,
                "validation_input": validation_input, "validation_output": validation_output,
            },
            {"batching": "grouped" if group_by_length else "as they come"},
            truncate=truncate, epochs=epochs, batch_size=batch_size, optim=optim, learning_rate=learning_rate, weight_decay=weight_decay,
            lr_scheduler_type=lr_scheduler_type, warmup_steps=warmup_steps, neftune_noise_alpha=neftune_noise_alpha, seed=seed,
            max_length=max_length, early_stopping_patience=early_stopping_patience, early_stopping_threshold=early_stopping_threshold,
            background=background, replace=replace, kwargs=kwargs,
        )  # fmt: skip
        return made
