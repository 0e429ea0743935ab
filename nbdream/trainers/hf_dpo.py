"""`TrainHFDPO`: a language model that learns to prefer one answer to another (direct preference optimisation)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from nbdream.datasets import OutputDatasetColumn
from nbdream.errors import ArgumentError, DataError, nearest
from nbdream.trainers.arguments import number
from nbdream.trainers.hugging_face import PATIENCE, HFTrainer
from nbdream.trainers.run_step import TrainingRun

if TYPE_CHECKING:
    from nbdream.trainers.trained import TrainedModel

LOSSES = ("sigmoid", "hinge", "ipo")
REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")


class HFDPO(TrainingRun):
    """The step behind `TrainHFDPO`."""

    method: ClassVar[str] = "dpo"
    columns: ClassVar[tuple[str, ...]] = ("prompts", "chosen", "rejected")
    measures: ClassVar[tuple[str, ...]] = (*TrainingRun.measures, *REWARDS, *(f"eval_{name}" for name in REWARDS))

    def check(self, part: str, columns: Mapping[str, OutputDatasetColumn]) -> None:
        """Texts, and pairs of which at least one holds two answers."""
        super().check(part, columns)
        pairs = zip(columns["chosen"].array(), columns["rejected"].array(), strict=True)
        if all(chosen == rejected for chosen, rejected in pairs):
            raise DataError(f"{columns['chosen'].name!r} and {columns['rejected'].name!r} are the same", "give two answers to each prompt")


class TrainHFDPO(HFTrainer):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290) of a causal or seq2seq model, whole or as an adapter.

    The reference is the base model: how likely it finds the answers is computed once, before the first step.
    """

    step_type: ClassVar[type[TrainingRun]] = HFDPO
    own: ClassVar[frozenset[str]] = frozenset({"disable_dropout", "dpo_beta", "loss_type"})
    learning_rates: ClassVar[Mapping[str, float]] = {"lora": 5e-5, "full": 1e-6}

    def train(
        self,
        train_prompts: Any,
        train_chosen: Any,
        train_rejected: Any,
        validation_prompts: Any = None,
        validation_chosen: Any = None,
        validation_rejected: Any = None,
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
        dpo_beta: float = 0.1,
        loss_type: str = "sigmoid",
        disable_dropout: bool = True,
        group_by_length: bool = True,
        early_stopping_patience: int | None = PATIENCE,
        early_stopping_threshold: float = 0.0,
        background: bool = False,
        replace: bool = False,
        **kwargs: Any,
    ) -> TrainedModel | Self:
        """Train, or load what was trained: the model.

        ``dpo_beta``: how dear it is to leave the base model. ``loss_type``: ``sigmoid`` (DPO), ``hinge`` (SLiC-HF, arXiv
        2305.10425) or ``ipo`` (arXiv 2310.12036, per token). ``learning_rate`` is by default 5e-5 with an adapter and 1e-6
        without. A model that reads contexts is asked with them as before; in the prompts they stand as it reads them.
        Everything else, and what is raised, is as in `TrainHFFineTune.train`.
        """
        if loss_type not in LOSSES:
            raise ArgumentError(f"loss_type cannot be {loss_type!r}", nearest(str(loss_type), LOSSES, "it is"))
        own = {
            "dpo_beta": number("dpo_beta", dpo_beta), "loss_type": loss_type, "disable_dropout": bool(disable_dropout),
            "batching": "grouped" if group_by_length else "as they come",
            **({} if self.context_template is None else {"context_template": self.context_template}),
        }  # fmt: skip
        made: TrainedModel | Self = self.start(
            {
                "train_prompts": train_prompts, "train_chosen": train_chosen, "train_rejected": train_rejected,
                "validation_prompts": validation_prompts, "validation_chosen": validation_chosen,
                "validation_rejected": validation_rejected,
            },
            own,
            truncate=truncate, epochs=epochs, batch_size=batch_size, optim=optim, learning_rate=learning_rate, weight_decay=weight_decay,
            lr_scheduler_type=lr_scheduler_type, warmup_steps=warmup_steps, neftune_noise_alpha=neftune_noise_alpha, seed=seed,
            max_length=max_length, early_stopping_patience=early_stopping_patience, early_stopping_threshold=early_stopping_threshold,
            background=background, replace=replace, kwargs=kwargs,
        )  # fmt: skip
        return made
