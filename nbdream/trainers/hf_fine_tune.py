"""`TrainHFFineTune`: a causal or seq2seq model that learns to give the output column for the input column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from nbdream.datasets import OutputDatasetColumn
from nbdream.errors import ArgumentError
from nbdream.llms.contexts import PLAIN, ContextTemplate, contexts_of
from nbdream.trainers.hooks import FUNCTIONS
from nbdream.trainers.hugging_face import PATIENCE, HFTrainer
from nbdream.trainers.run_step import TrainingRun, check_lengths, check_texts, write_run
from nbdream.trainers.tokens import Tokens, look
from nbdream.workers.paths import RunPaths

if TYPE_CHECKING:
    from nbdream.trainers.trained import TrainedModel


class HFFineTune(TrainingRun):
    """The step behind `TrainHFFineTune`."""

    method: ClassVar[str] = "sft"
    columns: ClassVar[tuple[str, ...]] = ("input", "output")
    measures: ClassVar[tuple[str, ...]] = (*TrainingRun.measures, "eval_perplexity")


class HFFineTuneWithContexts(HFFineTune):
    """The same where rows have contexts, passages that stand before the input."""

    columns: ClassVar[tuple[str, ...]] = ("input", "contexts", "output")

    def check(self, part: str, columns: Mapping[str, OutputDatasetColumn]) -> None:
        """Texts, lists of texts, and a template that each of these can be written by."""
        template = ContextTemplate(self.args["settings"]["context_template"])
        for row, texts in enumerate(contexts_of(columns["contexts"])):
            template.block(texts, row)
        super().check(part, {name: column for name, column in columns.items() if name != "contexts"})


class TrainHFFineTune(HFTrainer):
    """Supervised fine-tuning of a causal or seq2seq model, whole or as a LoRA adapter; the loss is on the output only."""

    step_type: ClassVar[type[TrainingRun]] = HFFineTune
    own: ClassVar[frozenset[str]] = frozenset({"context_template", "packing", *FUNCTIONS})
    learning_rates: ClassVar[Mapping[str, float]] = {"lora": 2e-4, "full": 2e-5, "t5": 1e-3}

    def train(
        self,
        train_input: Any,
        train_output: Any,
        validation_input: Any = None,
        validation_output: Any = None,
        train_contexts: Any = None,
        validation_contexts: Any = None,
        context_template: str | None = None,
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
        packing: bool | None = None,
        group_by_length: bool | None = None,
        early_stopping_patience: int | None = PATIENCE,
        early_stopping_threshold: float = 0.0,
        background: bool = False,
        replace: bool = False,
        **kwargs: Any,
    ) -> TrainedModel | Self:
        """Train, or load what was trained: the model.

        ``batch_size`` is over all devices, per step; with ``gradient_accumulation_steps`` a step takes that many of them.
        ``learning_rate`` is by default 1e-3 for T5, else 2e-4 with an adapter and 2e-5 without. ``max_length`` is by default
        the model's own limit. ``packing`` puts several rows into one of ``max_length`` tokens, kept apart, and ``batch_size``
        counts these; ``group_by_length`` puts rows of like length into one batch; which of the two, unless told, is decided by
        the lengths (`nbdream.workers.batching`). With validation rows the best checkpoint is the model, and training ends after
        ``early_stopping_patience`` evaluations that are not better by ``early_stopping_threshold`` (None: it goes on).
        ``background`` returns the trainer at once, whose ``model`` waits. ``replace`` stops a run of this name that is going on
        with other settings. Further arguments are those of ``transformers.TrainingArguments``.

        ``train_contexts`` holds a list of texts a row, which stand before the input, one a line, each as ``context_template`` says
        (``{{text}}``, and ``{{index}}`` from 1 on; by default as the base model was trained to read them, else the text alone). Where a
        row is too long, contexts are cut first, from their end.

        ``callbacks`` (``transformers.TrainerCallback`` classes or objects), ``compute_metrics`` (of the validation rows; the best by
        ``metric_for_best_model`` is the model), ``preprocess_logits_for_metrics`` and ``data_collator`` may be the notebook's own: they
        go to the training processes as source, and count in the recipe by what they do.

        Raises `ArgumentError` or `DataError` before a process is started where that can be known; `TrainingError` when the
        run fails; `Stopped` when it was stopped with a checkpoint.
        """
        if packing is None and kwargs.get("data_collator") is not None:
            packing = False  # a collator of the user's is given rows as they are
        made: TrainedModel | Self = self.start(
            {
                "train_input": train_input, "train_output": train_output,
                "validation_input": validation_input, "validation_output": validation_output,
                **({} if train_contexts is None else {"train_contexts": train_contexts, "validation_contexts": validation_contexts}),
            },
            {"batching": _batching(packing, group_by_length), **self._written(context_template, train_contexts, validation_contexts)},
            step_type=HFFineTune if train_contexts is None else HFFineTuneWithContexts,
            truncate=truncate, epochs=epochs, batch_size=batch_size, optim=optim, learning_rate=learning_rate, weight_decay=weight_decay,
            lr_scheduler_type=lr_scheduler_type, warmup_steps=warmup_steps, neftune_noise_alpha=neftune_noise_alpha, seed=seed,
            max_length=max_length, early_stopping_patience=early_stopping_patience, early_stopping_threshold=early_stopping_threshold,
            background=background, replace=replace, kwargs=kwargs,
        )  # fmt: skip
        return made

    def tokens(
        self,
        train_input: OutputDatasetColumn,
        train_output: OutputDatasetColumn,
        examples: int = 3,
        truncate: bool = True,
        batch_size: int = 8,
        max_length: int | None = None,
        packing: bool | None = None,
        group_by_length: bool | None = None,
        train_contexts: OutputDatasetColumn | None = None,
        context_template: str | None = None,
    ) -> Tokens:
        """What training on these rows would see, with the first ``examples`` of them token by token. Nothing is trained."""
        own = {"batching": _batching(packing, group_by_length), **self._written(context_template, train_contexts)}
        args = self.settled(own, truncate=truncate, batch_size=batch_size, max_length=max_length)
        columns = {"input": train_input, "output": train_output}
        for column in columns.values():
            check_texts(column)
        if train_contexts is not None:
            contexts_of(train_contexts)
            columns["contexts"] = train_contexts
        check_lengths(columns)
        return look(lambda folder: write_run(RunPaths(folder), self.name, "sft", args, {"train": columns}), examples)

    def _written(self, template: str | None, train: Any, validation: Any = None) -> dict[str, str]:
        """What the recipe says of how contexts are written; nothing where the model reads none."""
        usual = self.context_template
        given = ContextTemplate((usual or PLAIN) if template is None else template)
        if train is None and validation is not None:
            raise ArgumentError("validation_contexts is given, and train_contexts is not", "give both, or neither")
        if train is None and template not in (None, PLAIN):
            raise ArgumentError("context_template is given, and no contexts are", "name their column: contexts: COLUMN")
        if train is None:
            return {} if usual is None else {"context_template": usual}
        return {"context_template": given.source}


def _batching(packing: bool | None, group_by_length: bool | None) -> str:
    """What the recipe says of how rows come together; ``by lengths`` is the rule that decides."""
    for name, value in (("packing", packing), ("group_by_length", group_by_length)):
        if value is not None and not isinstance(value, bool):
            raise ArgumentError(f"{name} is {value!r}", "it is true or false")
    if packing and group_by_length:
        raise ArgumentError("packing and group_by_length are both true", "packed rows are of one length: leave one out")
    if packing:
        return "packed"
    if group_by_length or (group_by_length is None and packing is False):
        return "grouped"
    return "by lengths" if group_by_length is None else "as they come"
