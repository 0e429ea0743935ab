"""The loop of our own recipes: transformers' `Trainer`, with averages that do not depend on the number of devices.

Four things differ from the library's, and each has its reason:

- A loss is a sum over all things of the *effective* batch (tokens, pairs, rows) divided by their number. The library's average
  over ranks, and its last batch filled up with rows seen before, would make one device and two give different models.
- Checkpoints hold no pickles (`nbdream.workers.checkpoint`), and there is no ``training_args.bin``.
- Nothing is shuffled by a generator that lives in a process: the order of an epoch is a function of seed and epoch.
- What is measured is summed over the rows and the ranks, and averaged once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch  # noqa: TID253 - only workers import this module
import torch.distributed as dist  # noqa: TID253
from transformers import EvalPrediction, PrinterCallback, Trainer, TrainerCallback  # noqa: TID253
from transformers.trainer_pt_utils import nested_concat  # noqa: TID253

from nbdream.errors import DataError
from nbdream.trainers.completion import IGNORED
from nbdream.workers import checkpoint
from nbdream.workers.batching import Order
from nbdream.workers.live import Live, agree, counted
from nbdream.workers.rank import Run

Batch = dict[str, torch.Tensor]
Sums = dict[str, torch.Tensor]


class Objective(Protocol):
    """What is learned: how a batch's loss comes about, and what else is measured."""

    def count(self, batch: Batch) -> torch.Tensor:
        """How many things the losses of ``batch`` are averaged over."""

    def tokens(self, batch: Batch) -> int:
        """How many tokens are read, for the speed that is shown."""

    def losses(self, model: Any, batch: Batch) -> tuple[torch.Tensor, Sums]:
        """The sum of the losses, and the sums of what else is measured."""

    def measured(self, loss: float, sums: Mapping[str, Any], count: float) -> dict[str, float]:
        """The averages of what else is measured, from sums over any number of batches and ranks."""

    def rank(self, metrics: Mapping[str, float]) -> float:
        """How good an evaluation is: the least is the best."""


class Examples(Sequence[dict[str, Any]]):
    """Prepared rows. Index -1 gives a row with nothing to learn, which fills up the last batch of an epoch."""

    def __init__(self, rows: Sequence[dict[str, Any]], blank: dict[str, Any]) -> None:
        self.rows, self.blank = rows, blank

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index] if index >= 0 else self.blank


class Said:
    """What a model says to the validation rows, for a ``compute_metrics`` of the user's: as the library gathers it."""

    def __init__(self) -> None:
        self._logits: Any = None
        self._labels: Any = None

    def take(self, loop: Trainer, model: Any, inputs: Batch) -> None:
        """Ask for a batch, and gather what all ranks were told. Rows that only fill up have no label."""
        with torch.no_grad():
            logits = model(**{name: value for name, value in inputs.items() if name != "labels"}).logits
        labels = inputs["labels"]
        if loop.preprocess_logits_for_metrics is not None:
            logits = loop.preprocess_logits_for_metrics(logits, labels)
        gathered = []
        for part in (logits, labels):
            whole = part if part.ndim < 2 else loop.accelerator.pad_across_processes(part, dim=1, pad_index=IGNORED)
            gathered.append(loop.accelerator.gather(whole.contiguous()))
        logits, labels = gathered
        there = (labels != IGNORED).reshape(len(labels), -1).any(1)
        made = [part[there].float().cpu().numpy() if part.is_floating_point() else part[there].cpu().numpy() for part in (logits, labels)]
        self._logits = made[0] if self._logits is None else nested_concat(self._logits, made[0], padding_index=IGNORED)
        self._labels = made[1] if self._labels is None else nested_concat(self._labels, made[1], padding_index=IGNORED)

    def metrics(self, function: Any) -> dict[str, float]:
        """What ``function`` makes of it: numbers by name."""
        told = function(EvalPrediction(predictions=self._logits, label_ids=self._labels))
        if not isinstance(told, Mapping):
            raise DataError(f"compute_metrics returned a {type(told).__name__}", 'return numbers by name: {"f1": 0.5}')
        return {str(name): float(value) for name, value in told.items()}


class _Epochs(TrainerCallback):
    """Tells the order which epoch begins."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.order.epoch = int(state.epoch or 0)


WANTED = ("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log")
"""What a callback may ask for, and what no rank may do alone."""


class Loop(Trainer):
    """Trains a model for an `Objective`; ``lengths`` groups rows of like length into a batch."""

    def __init__(
        self, run: Run, live: Live, objective: Objective, *, adapter: bool, lengths: Sequence[int] | None = None, **options: Any
    ) -> None:
        self.run, self.live, self.objective, self.adapter = run, live, objective, adapter
        hooks = run.hooks()
        # Ours comes last: what another callback wants, all ranks are to agree on.
        super().__init__(**{**options, **hooks, "callbacks": [*hooks.get("callbacks", ()), live]})
        self.loss_is_scaled_for_ga = True
        self._agrees = run.world > 1 and bool(hooks.get("callbacks"))
        batch = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * run.world
        self._order = Order(len(self.train_dataset), batch, self.args.seed, lengths)
        self._sums: Sums = {}
        self._things: Any = 0  # a tensor that stays on its device: reading it at each step would wait for it
        self.add_callback(_Epochs(self._order))
        self.remove_callback(PrinterCallback)  # the events say it better

    # --- the loss ---------------------------------------------------------------------------------------------------

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """This device's part of the average over the effective batch, such that the mean over the devices is that average."""
        total, sums = self.objective.losses(model, inputs)
        for name, part in sums.items():
            part = part.detach().double()
            self._sums[name] = self._sums[name] + part if name in self._sums else part
        self._things = self._things + self.objective.count(inputs).double()
        return total / num_items_in_batch * self.accelerator.num_processes

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        """The library's, counting what is read for the speed that is shown."""
        batches, count = super().get_batch_samples(*args, **options)
        self.live.tokens += sum(self.objective.tokens(batch) for batch in batches)
        return batches, count

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> torch.Tensor | None:
        if not batch_samples:
            return None
        count = torch.stack([self.objective.count(batch).to(device) for batch in batch_samples]).sum()
        whole: torch.Tensor = self.accelerator.reduce(count, "sum")
        return whole.clamp(min=1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The library's, with what else was measured since the last time."""
        if "loss" in logs and self._sums:
            logs.update(self._averaged(logs["loss"], self._sums, self._things))
        if "loss" in logs:
            self._sums, self._things = {}, 0
        super().log(logs, start_time)
        self._agree()

    def _averaged(self, loss: float, sums: Sums, count: torch.Tensor) -> dict[str, float]:
        whole = {name: self.accelerator.reduce(part.clone(), "sum").cpu() for name, part in {**sums, "": count}.items()}
        things = float(whole.pop(""))
        return self.objective.measured(loss, whole, max(things, 1.0))

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """The loss, and what else is measured, over all validation rows; the same on any number of devices."""
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        sums: Sums = {}
        said = Said()
        batches = self.get_eval_dataloader(eval_dataset)
        for batch in counted(self.run, "evaluating", batches, len(batches)):
            inputs = self._prepare_inputs(batch)
            with torch.no_grad():
                losses, parts = self.objective.losses(model, inputs)
            total += torch.stack([losses.double(), self.objective.count(inputs).to(losses.device).double()])
            for name, part in parts.items():
                sums[name] = sums[name] + part.double() if name in sums else part.double()
            if self.compute_metrics is not None:
                said.take(self, model, inputs)
        model.train(was_training)
        losses, things = self.accelerator.reduce(total.clone(), "sum").tolist()
        loss = losses / max(things, 1.0)
        told = {"loss": loss, **self._averaged(loss, sums, total[1])}
        if self.compute_metrics is not None:
            told |= self._first_says(said.metrics(self.compute_metrics))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in told.items()}
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._agree()
        return metrics

    def _first_says(self, told: dict[str, float]) -> dict[str, float]:
        """The first rank's numbers: a metric that draws lots gives each rank its own, and which is best is for all to know."""
        if self.run.world == 1:
            return told
        names = sorted(told)
        numbers = torch.tensor([told[name] for name in names], dtype=torch.float64, device=self.args.device)
        dist.broadcast(numbers, src=0)
        return dict(zip(names, numbers.tolist(), strict=True))

    # --- what callbacks of the user's want ----------------------------------------------------------------------------

    def _maybe_log_save_evaluate(self, *args: Any, **options: Any) -> None:
        self._agree()
        super()._maybe_log_save_evaluate(*args, **options)
        self._agree()

    def _agree(self) -> None:
        """What a callback wants on one rank, all do: one that left the loop alone would leave the others in a collective."""
        if self._agrees:
            for name, wanted in zip(WANTED, agree([getattr(self.control, name) for name in WANTED]), strict=True):
                setattr(self.control, name, wanted)

    # --- the order of the rows --------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        return self._order

    def _get_eval_sampler(self, eval_dataset: Any) -> Order:
        return Order(len(eval_dataset), self.args.per_device_eval_batch_size * self.run.world, seed=None)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        checkpoint.save(
            folder, model=self.model, optimizer=self.optimizer, scheduler=self.lr_scheduler, state=self.state, adapter=self.adapter,
            kept=self.args.save_total_limit,
        )  # fmt: skip

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoint.load_weights(Path(resume_from_checkpoint) / checkpoint.WEIGHTS, model or self.model, adapter=self.adapter)

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
