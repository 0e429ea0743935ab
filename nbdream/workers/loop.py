"""The loop of our own recipes: transformers' `Trainer`, with averages that do not depend on the number of devices.

Three things differ from the library's, and each has its reason:

- A loss is the sum over all trained tokens of the *effective* batch divided by their number. The library's average over
  ranks, and its last batch filled up with rows seen before, would make one device and two give different models.
- Checkpoints hold no pickles (`nbdream.workers.checkpoint`), and there is no ``training_args.bin``.
- Nothing is shuffled by a generator that lives in a process: the order of an epoch is a function of seed and epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - only workers import this module
from torch.utils.data import Sampler  # noqa: TID253
from transformers import PrinterCallback, Trainer, TrainerCallback  # noqa: TID253

from nbdream.workers import checkpoint
from nbdream.workers.live import Live
from nbdream.workers.rank import Run

IGNORED = -100
"""The label of a token that is not learned."""


class Examples(Sequence[dict[str, list[int]]]):
    """Tokenised rows. Index -1 gives a row with nothing to learn, which fills up the last batch of an epoch."""

    def __init__(self, rows: Sequence[dict[str, list[int]]], blank: dict[str, list[int]]) -> None:
        self.rows, self.blank = rows, blank

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index] if index >= 0 else self.blank


class Order(Sampler[int]):
    """The order of the rows in an epoch, filled up with blanks to whole effective batches."""

    def __init__(self, rows: int, batch: int, seed: int | None) -> None:
        self.rows, self.batch, self.seed, self.epoch = rows, batch, seed, 0

    def __len__(self) -> int:
        return math.ceil(self.rows / self.batch) * self.batch

    def __iter__(self) -> Iterator[int]:
        if self.seed is None:
            indices = list(range(self.rows))
        else:
            indices = torch.randperm(self.rows, generator=torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)).tolist()
        yield from indices
        yield from [-1] * (len(self) - self.rows)


class _Epochs(TrainerCallback):
    """Tells the order which epoch begins."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.order.epoch = int(state.epoch or 0)


class Loop(Trainer):
    """Trains a language model on token losses; ``shifts`` says whether a label belongs to the token before it (causal)."""

    def __init__(self, run: Run, live: Live, *, shifts: bool, adapter: bool, **options: Any) -> None:
        self.run, self.live, self.shifts, self.adapter = run, live, shifts, adapter
        super().__init__(compute_loss_func=self._token_loss, callbacks=[live], **options)
        batch = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * run.world
        self._order = Order(len(self.train_dataset), batch, self.args.seed)
        self.add_callback(_Epochs(self._order))
        self.remove_callback(PrinterCallback)  # the events say it better

    # --- the loss ---------------------------------------------------------------------------------------------------

    def _losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The sum of the losses of the trained tokens. Only their logits are copied: prompts may be long."""
        if self.shifts:
            logits, labels = logits[:, :-1], labels[:, 1:]
        trained = labels != IGNORED
        return torch.nn.functional.cross_entropy(logits[trained].float(), labels[trained], reduction="sum")

    def _token_loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        losses = self._losses(outputs.logits, labels)
        return losses / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum().clamp(min=1))

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        """The library's, counting what is read for the speed that is shown."""
        batches, count = super().get_batch_samples(*args, **options)
        self.live.tokens += sum(int(batch["attention_mask"].sum()) for batch in batches)
        return batches, count

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """The loss per token, and its perplexity, over all validation rows; the same on any number of devices."""
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for batch in self.get_eval_dataloader(eval_dataset):
            inputs = self._prepare_inputs(batch)
            labels = inputs.pop("labels")
            with torch.no_grad():
                losses = self._losses(model(**inputs).logits, labels)
            total += torch.stack([losses.double(), (labels != IGNORED).sum().double()])
        model.train(was_training)
        losses, tokens = self.accelerator.reduce(total, "sum").tolist()
        loss = losses / max(tokens, 1.0)
        metrics = {f"{metric_key_prefix}_loss": loss, f"{metric_key_prefix}_perplexity": math.exp(min(loss, 700.0))}
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # --- the order of the rows --------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        return self._order

    def _get_eval_sampler(self, eval_dataset: Any) -> Order:
        return Order(len(eval_dataset), self.args.per_device_eval_batch_size * self.run.world, seed=None)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        checkpoint.save(
            folder, model=self.model, optimizer=self.optimizer, scheduler=self.lr_scheduler, state=self.state, adapter=self.adapter
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoint.load_weights(Path(resume_from_checkpoint), model or self.model, adapter=self.adapter)

    def _load_optimizer_and_scheduler(self, checkpoint_folder: str | None) -> None:
        if checkpoint_folder is not None:
            checkpoint.load_optimizer(Path(checkpoint_folder), self.model, self.optimizer, self.lr_scheduler, adapter=self.adapter)

    def _load_rng_state(self, checkpoint_folder: str | None) -> None:
        if checkpoint_folder is not None:
            checkpoint.load_rng(Path(checkpoint_folder))

    def save(self, folder: Path) -> None:
        """Write the trained model, or its adapter, so that plain transformers or peft load it; all ranks must call it."""
        weights = checkpoint.trained_state(self.model, adapter=self.adapter)
        if self.run.first:
            self.accelerator.unwrap_model(self.model).save_pretrained(folder, state_dict=weights)
