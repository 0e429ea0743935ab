"""Supervised fine-tuning, on the worker's side: ``train(run)`` on every rank. Read it from top to bottom.

    rows → a tokenizer with a template → tokens with labels on the output → rows grouped by length or packed → a model, with an
    adapter where there is one → the loop, from the last whole checkpoint on → the model, saved

Started by ``python -P -m nbdream.workers.train FOLDER``, one process a device; the folder's ``spec.json`` says everything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - only a worker imports this module
import transformers  # noqa: TID253

from nbdream.errors import DataError
from nbdream.llms.contexts import ContextTemplate
from nbdream.trainers.completion import IGNORED, Prepared, chat_template, max_length_of, prepare_causal, prepare_seq2seq
from nbdream.workers import recipe
from nbdream.workers.batching import choose, filling, keeps_apart, pack, positions, side_by_side
from nbdream.workers.live import Live
from nbdream.workers.loop import Batch, Examples, Loop, Sums
from nbdream.workers.rank import Run


def train(run: Run) -> None:
    """Train, and leave the model in the run's folder; or stop with a checkpoint."""
    recipe.begin(run)
    config = transformers.AutoConfig.from_pretrained(**recipe.source(run))
    seq2seq = bool(config.is_encoder_decoder)
    tokenizer = tokenizer_of(run, seq2seq=seq2seq)
    data = prepare(run, tokenizer, config, run.paths.train_data, seq2seq=seq2seq)
    measured = "validation" in run.spec["data"]
    held_out = prepare(run, tokenizer, config, run.paths.validation_data, seq2seq=seq2seq) if measured else None
    kind, task = (transformers.AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM") if seq2seq else (transformers.AutoModelForCausalLM, "CAUSAL_LM")
    model = recipe.load(run, kind, task)
    batching = _batching(run, model, data, seq2seq)
    facts = {**data.facts(), "batching": batching}
    rows = data.rows
    if batching == "packed":
        rows = packed(data)
        facts |= {"packed_rows": len(rows), "filling": round(filling(data.tokens, len(rows), data.max_length), 4)}
    run.say({"type": "data", **facts, **({"validation_rows": len(held_out.rows)} if held_out else {})})

    blank = {"input_ids": [recipe.pad_id(tokenizer)], "labels": [IGNORED]}
    live = Live(run)
    loop = Loop(
        run,
        live,
        TokenLoss(shifts=not seq2seq),
        adapter=run.spec.get("lora") is not None,
        lengths=[len(row["input_ids"]) for row in rows] if batching == "grouped" else None,
        model=model,
        args=recipe.arguments(run, len(rows), evaluates=held_out is not None),
        train_dataset=Examples(rows, blank),
        eval_dataset=Examples(held_out.rows, blank) if held_out else None,
        data_collator=Collator(model, tokenizer, seq2seq=seq2seq),
    )
    recipe.see_through(run, loop, live, tokenizer, facts)


class TokenLoss:
    """Cross entropy of the trained tokens; ``shifts`` says whether a label belongs to the token before it (causal)."""

    def __init__(self, *, shifts: bool) -> None:
        self.shifts = shifts

    def count(self, batch: Batch) -> torch.Tensor:
        """The trained tokens."""
        labels = batch["labels"]
        return (labels[:, 1:] if self.shifts else labels).ne(IGNORED).sum()

    def tokens(self, batch: Batch) -> int:
        """The tokens that are read."""
        return int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()

    def losses(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Sums]:
        """The sum over the trained tokens. Only their logits are copied: prompts may be long."""
        labels = batch["labels"]
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        if self.shifts:
            logits, labels = logits[:, :-1], labels[:, 1:]
        trained = labels != IGNORED
        return torch.nn.functional.cross_entropy(logits[trained].float(), labels[trained], reduction="sum"), {}

    def measured(self, loss: float, sums: Mapping[str, Any], count: float) -> dict[str, float]:
        """The perplexity per token."""
        return {"perplexity": math.exp(min(loss, 700.0))}

    def rank(self, metrics: Mapping[str, float]) -> float:
        """The loss."""
        return metrics["eval_loss"]


def tokenizer_of(run: Run, *, seq2seq: bool) -> Any:
    """The base model's tokenizer, for a causal model with the chat template that is trained."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(**recipe.source(run))
    if not seq2seq:
        tokenizer.chat_template = chat_template(tokenizer, run.spec.get("chat_prompt_template"))
    return tokenizer


def prepare(run: Run, tokenizer: Any, config: Any, path: Path, *, seq2seq: bool) -> Prepared:
    """The rows of ``path`` as tokens, with labels on the output."""
    inputs, outputs = recipe.columns(path, ("input", "output"))
    limits: dict[str, Any] = {"max_length": max_length_of(tokenizer, config, run.spec.get("max_length")), "truncate": run.spec["truncate"]}
    written = run.spec.get("context_template")
    if written is not None and recipe.has_column(path, "contexts"):  # else the base model has read some
        template, (contexts,) = ContextTemplate(written), recipe.columns(path, ("contexts",))
        limits["blocks"] = [template.block(texts, row) for row, texts in enumerate(contexts)]
    if seq2seq:
        made = prepare_seq2seq(tokenizer, inputs, outputs, **limits)
    else:
        made = prepare_causal(tokenizer, inputs, outputs, system=run.spec.get("system_prompt"), **limits)
    if not made.rows:
        raise DataError(
            "no row has an output that fits the model", f"the model takes {made.max_length} tokens: shorten the inputs or raise max_length"
        )
    return made


def _batching(run: Run, model: Any, data: Prepared, seq2seq: bool) -> str:
    """How rows come together: as the user said, or by the rule on the lengths."""
    wanted: str = run.spec["batching"]
    if wanted == "packed":
        if seq2seq:
            raise DataError("a model with an encoder cannot learn packed rows", "leave packing out")
        if not keeps_apart(model, model.config.get_text_config().vocab_size):
            raise DataError("this model reads packed rows as one text", "leave packing out")
    if wanted != "by lengths":
        return wanted
    batch = run.spec["batch"]["per_device"] * run.spec["batch"]["accumulation"] * run.world
    found = "grouped" if seq2seq else choose([len(row["input_ids"]) for row in data.rows], data.max_length, batch)
    packs = found == "packed" and keeps_apart(model, model.config.get_text_config().vocab_size)
    return "packed" if packs else "grouped"


def packed(data: Prepared) -> list[dict[str, Any]]:
    """The rows of ``data``, several in one of at most ``max_length`` tokens; ``lengths`` says where each ends."""
    bins = pack([len(row["input_ids"]) for row in data.rows], data.max_length)
    return [
        {
            "input_ids": [token for row in members for token in data.rows[row]["input_ids"]],
            "labels": [label for row in members for label in data.rows[row]["labels"]],
            "lengths": [len(data.rows[row]["input_ids"]) for row in members],
        }
        for members in bins
    ]


class Collator:
    """Rows side by side, filled up at the right to the longest; packed rows with positions and without a mask."""

    def __init__(self, model: Any, tokenizer: Any, *, seq2seq: bool) -> None:
        self.base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.pad, self.seq2seq = recipe.pad_id(tokenizer), seq2seq

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        """One batch."""
        ids = [row["input_ids"] for row in rows]
        made = {"input_ids": side_by_side(ids, self.pad), "labels": side_by_side([row["labels"] for row in rows], IGNORED)}
        if any("lengths" in row for row in rows):
            lengths = [row.get("lengths", [len(row["input_ids"])]) for row in rows]
            return {**made, "position_ids": positions(lengths, made["input_ids"].shape[1])}
        made["attention_mask"] = side_by_side([[1] * len(row) for row in ids], 0)
        if self.seq2seq:  # the loss is computed outside the model, so the decoder's inputs are made here
            made["decoder_input_ids"] = self.base.prepare_decoder_input_ids_from_labels(labels=made["labels"])
        return made
