"""Direct preference optimisation, on the worker's side: ``train(run)`` on every rank. Read it from top to bottom.

pairs → a tokenizer with a template → two rows of tokens a pair, labels on the answers → a model, with an adapter where there is
one → how likely the untrained model finds each answer → the loop → the model, saved
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - only a worker imports this module
import transformers  # noqa: TID253
from torch.distributed.fsdp import FSDPModule  # noqa: TID253
from torch.nn.functional import cross_entropy, logsigmoid, relu  # noqa: TID253
from transformers import TrainerCallback  # noqa: TID253

from nbdream.errors import DataError
from nbdream.files import read_json, write_json
from nbdream.trainers.completion import IGNORED, Prepared, max_length_of, prepare_causal, prepare_seq2seq
from nbdream.trainers.sft import tokenizer_of
from nbdream.workers import recipe
from nbdream.workers.batching import side_by_side
from nbdream.workers.live import Live, counted
from nbdream.workers.loop import Batch, Examples, Loop, Sums
from nbdream.workers.rank import Run

SIDES = ("chosen", "rejected")

# The difference of the log ratios of the chosen and of the rejected answer, and beta → the loss of a pair.
LOSSES: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "sigmoid": lambda margin, beta: -logsigmoid(beta * margin),
    "hinge": lambda margin, beta: relu(1 - beta * margin),
    "ipo": lambda margin, beta: (margin - 1 / (2 * beta)) ** 2,
}


def train(run: Run) -> None:
    """Train, and leave the model in the run's folder; or stop with a checkpoint."""
    recipe.begin(run)
    config = transformers.AutoConfig.from_pretrained(**recipe.source(run))
    seq2seq = bool(config.is_encoder_decoder)
    tokenizer = tokenizer_of(run, seq2seq=seq2seq)

    pairs, facts = _pairs(run, tokenizer, config, seq2seq, run.paths.train_data)
    held_out = _pairs(run, tokenizer, config, seq2seq, run.paths.validation_data)[0] if "validation" in run.spec["data"] else None
    run.say({"type": "data", **facts, **({"validation_rows": len(held_out)} if held_out else {})})

    kind, task = (transformers.AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM") if seq2seq else (transformers.AutoModelForCausalLM, "CAUSAL_LM")
    model = recipe.load(run, kind, task)
    if run.spec["disable_dropout"]:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    side = {"input_ids": [recipe.pad_id(tokenizer)], "labels": [IGNORED]}
    live = Live(run)
    objective = PreferenceLoss(run.spec["loss_type"], run.spec["dpo_beta"], shifts=not seq2seq)
    loop = Loop(
        run,
        live,
        objective,
        adapter=run.spec.get("lora") is not None,
        lengths=[max(len(pair[name]["input_ids"]) for name in SIDES) for pair in pairs] if run.spec["batching"] == "grouped" else None,
        model=model,
        args=recipe.arguments(run, len(pairs), evaluates=held_out is not None),
        train_dataset=Examples(pairs, dict.fromkeys(SIDES, side)),
        eval_dataset=Examples(held_out, dict.fromkeys(SIDES, side)) if held_out else None,
        data_collator=Collator(model, tokenizer, seq2seq=seq2seq),
    )
    reference = Reference(loop, {"train": pairs, **({"validation": held_out} if held_out else {})})
    loop.callback_handler.callbacks.insert(0, reference)  # before it is said that the run has begun: until then Stop ends it at once
    recipe.see_through(run, loop, live, tokenizer, facts)


def _pairs(run: Run, tokenizer: Any, config: Any, seq2seq: bool, path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The pairs as tokens. One of which an answer lies wholly behind the limit is left out."""
    prompts, *answers = recipe.columns(path, ("prompts", *SIDES))
    limits: dict[str, Any] = {"max_length": max_length_of(tokenizer, config, run.spec.get("max_length")), "truncate": run.spec["truncate"]}
    made = dict(zip(SIDES, (_side(run, tokenizer, seq2seq, prompts, texts, limits) for texts in answers), strict=True))
    kept = [set(part.numbers) for part in made.values()]
    numbers = sorted(set.intersection(*kept))
    rows = {name: dict(zip(part.numbers, part.rows, strict=True)) for name, part in made.items()}
    if not numbers:
        raise DataError("no pair fits the model", f"the model takes {limits['max_length']} tokens: shorten the prompts or raise max_length")
    pairs = [{name: rows[name][number] for name in SIDES} for number in numbers]
    facts = {
        **made["chosen"].facts(),
        "rows": len(pairs),
        "dropped": len(prompts) - len(pairs),
        **{name: sum(part.facts()[name] for part in made.values()) for name in ("tokens", "trained_tokens", "truncated")},
    }
    return pairs, {**facts, "batching": run.spec["batching"]}


def _side(run: Run, tokenizer: Any, seq2seq: bool, prompts: list[str], answers: list[str], limits: dict[str, Any]) -> Prepared:
    if seq2seq:
        return prepare_seq2seq(tokenizer, prompts, answers, **limits)
    return prepare_causal(tokenizer, prompts, answers, system=run.spec.get("system_prompt"), **limits)


class PreferenceLoss:
    """What a pair costs: little where the chosen answer has become likelier than the rejected one, against the untrained model."""

    def __init__(self, loss_type: str, beta: float, *, shifts: bool) -> None:
        self.loss_type, self.beta, self.shifts = loss_type, beta, shifts

    def count(self, batch: Batch) -> torch.Tensor:
        """The pairs."""
        return self._valid(batch).sum()

    def tokens(self, batch: Batch) -> int:
        """The tokens that are read."""
        return int(batch["attention_mask"].sum())

    def likelihoods(self, model: Any, batch: Batch) -> torch.Tensor:
        """The log likelihood of each answer, the chosen ones first: (2 × pairs,); for ``ipo`` per token."""
        labels = batch["labels"]
        logits = model(**{name: value for name, value in batch.items() if name not in ("labels", "reference")}).logits
        if self.shifts:
            logits, labels = logits[:, :-1], labels[:, 1:]
        trained = labels != IGNORED
        each = -cross_entropy(logits[trained].float(), labels[trained], reduction="none")
        rows = trained.nonzero()[:, 0]
        summed = torch.zeros(len(labels), dtype=each.dtype, device=each.device).index_add(0, rows, each)
        return summed / trained.sum(1).clamp(min=1) if self.loss_type == "ipo" else summed

    def losses(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Sums]:
        """The sum over the pairs, and the sums of the implicit rewards."""
        ratios = self.likelihoods(model, batch) - batch["reference"]
        chosen, rejected = ratios.chunk(2)
        valid = self._valid(batch)
        margin = chosen - rejected
        losses = torch.where(valid, LOSSES[self.loss_type](margin, self.beta), 0.0)
        rewards = {"chosen": chosen, "rejected": rejected, "margins": margin}
        sums = {f"rewards/{name}": (self.beta * part * valid).detach().sum() for name, part in rewards.items()}
        return losses.sum(), {**sums, "rewards/accuracies": ((margin > 0) & valid).sum()}

    def measured(self, loss: float, sums: Mapping[str, Any], count: float) -> dict[str, float]:
        """The averages over the pairs."""
        return {name: float(part) / count for name, part in sums.items()}

    def rank(self, metrics: Mapping[str, float]) -> float:
        """The loss."""
        return metrics["eval_loss"]

    def _valid(self, batch: Batch) -> torch.Tensor:
        return batch["labels"].ne(IGNORED).any(1).chunk(2)[0]


class Reference(TrainerCallback):
    """How likely the untrained model finds the answers: computed by all ranks before the first step, and kept for a resumed run."""

    def __init__(self, loop: Loop, parts: dict[str, list[dict[str, Any]]]) -> None:
        self.loop, self.parts = loop, parts

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Give every pair its two numbers."""
        batches = sum(map(self._count, self.parts.values()))
        ticks = counted(self.loop.run, "reference", range(batches), batches)
        for name, pairs in self.parts.items():
            path = self.loop.run.paths.data / f"{name}.reference.json"
            numbers = read_json(path) if state.global_step else self._computed(pairs, ticks)
            if self.loop.run.first and not state.global_step:
                write_json(path, numbers)
            for pair, reference in zip(pairs, numbers, strict=True):
                pair["reference"] = reference

    def _computed(self, pairs: list[dict[str, Any]], ticks: Iterator[int]) -> list[list[float]]:
        model = self.loop.model_wrapped
        was_training = model.training
        model.eval()
        found = torch.zeros(len(pairs), 2, dtype=torch.float64, device=self.loop.args.device)
        for (numbers, batch), _ in zip(self._batches(pairs), ticks, strict=False):  # the ticks are those of all parts
            with torch.no_grad():
                told = self.loop.objective.likelihoods(model, self.loop._prepare_inputs(batch))  # type: ignore[attr-defined]
            mine = [at for at, number in enumerate(numbers) if number is not None]
            rows = torch.tensor([numbers[at] for at in mine], dtype=torch.long, device=found.device)
            found[rows] = told.double().view(2, -1).T[mine]
        model.train(was_training)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # without a backward pass nothing else would
        whole: list[list[float]] = self.loop.accelerator.reduce(found, "sum").tolist()
        return whole

    def _count(self, pairs: list[dict[str, Any]]) -> int:
        at_once: int = self.loop.args.per_device_eval_batch_size * self.loop.run.world
        return math.ceil(len(pairs) / at_once)

    def _batches(self, pairs: list[dict[str, Any]]) -> Iterator[tuple[list[int | None], Batch]]:
        """This rank's batches: as many on every rank, since the ranks of a sharded model must compute together."""
        run, size = self.loop.run, self.loop.args.per_device_eval_batch_size
        ordered = sorted(range(len(pairs)), key=lambda number: -max(len(pairs[number][name]["input_ids"]) for name in SIDES))
        blank = self.loop.train_dataset.blank
        for start in range(0, len(ordered), size * run.world):
            mine = ordered[start + size * run.rank : start + size * (run.rank + 1)]
            numbers: list[int | None] = [*mine, *[None] * (size - len(mine))]
            yield numbers, self.loop.data_collator([blank if number is None else pairs[number] for number in numbers])


class Collator:
    """The chosen answers above the rejected ones, filled up at the right to the longest."""

    def __init__(self, model: Any, tokenizer: Any, *, seq2seq: bool) -> None:
        self.base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.pad, self.seq2seq = recipe.pad_id(tokenizer), seq2seq

    def __call__(self, pairs: list[dict[str, Any]]) -> Batch:
        """One batch: 2 × pairs rows, and the untrained model's log likelihoods."""
        rows = [pair[name] for name in SIDES for pair in pairs]
        references = [pair.get("reference", (0.0, 0.0)) for pair in pairs]
        made = {
            "input_ids": side_by_side([row["input_ids"] for row in rows], self.pad),
            "attention_mask": side_by_side([[1] * len(row["input_ids"]) for row in rows], 0),
            "labels": side_by_side([row["labels"] for row in rows], IGNORED),
            "reference": torch.tensor([reference[at] for at in (0, 1) for reference in references], dtype=torch.float32),
        }
        if self.seq2seq:
            made["decoder_input_ids"] = self.base.prepare_decoder_input_ids_from_labels(labels=made["labels"])
        return made
