"""The best evaluation of a run: its weights are kept, and training ends when nothing better comes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback  # noqa: TID253 - only workers import this module

from nbdream.errors import DataError
from nbdream.workers import checkpoint
from nbdream.workers.loop import Loop


class Best(TrainerCallback):
    """Follows the evaluations, which it reads from the trainer's history: so a resumed run knows them all."""

    def __init__(self, loop: Loop, patience: int | None, threshold: float) -> None:
        self.loop, self.patience, self.threshold = loop, patience, threshold
        self.folder = Path(loop.args.output_dir)
        self.ended = False
        """Whether nothing better came for long enough."""

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep what is best, on all ranks; end when there was nothing better for long."""
        step, since = self._standing()
        if step is not None and step == state.global_step:
            checkpoint.save_weights(self._path(step), self.loop.model, adapter=self.loop.adapter)
            self._forget()
        if self.patience is not None and since >= self.patience:
            self.loop.run.say({"type": "early_stop", "step": state.global_step, "best_step": step})
            control.should_training_stop = self.ended = True

    def restore(self) -> int | None:
        """Give the model the weights of the best evaluation, on all ranks; its step, or None when there was none."""
        step, _ = self._standing()
        if step is not None and step != self.loop.state.global_step:
            checkpoint.load_weights(self._path(step), self.loop.model, adapter=self.loop.adapter)
        return step

    def _standing(self) -> tuple[int | None, int]:
        """The step of the best evaluation, and how many evaluations came after the last real improvement."""
        best: float | None = None
        mark: float | None = None
        step: int | None = None
        since = 0
        for entry in self.loop.state.log_history:
            if "eval_loss" not in entry:
                continue
            rank = self._rank(entry)
            since += 1
            if mark is None or rank < mark - self.threshold:
                mark, since = rank, 0
            if best is None or rank < best:
                best, step = rank, int(entry["step"])
        return step, since

    def _rank(self, entry: dict[str, float]) -> float:
        """How good an evaluation was, by the metric that the user has named or by the objective's own; the least is the best."""
        args = self.loop.args
        if args.metric_for_best_model is None:
            return self.loop.objective.rank(entry)
        name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        if name not in entry:
            there = [key.removeprefix("eval_") for key in entry if key.startswith("eval_")]
            raise DataError(f"there is no metric {args.metric_for_best_model!r}", f"metric_for_best_model is one of: {', '.join(there)}")
        if math.isnan(entry[name]):
            return math.inf  # nothing would ever be better than no number
        return -entry[name] if args.greater_is_better else entry[name]

    def _path(self, step: int) -> Path:
        return self.folder / f"best-{step}.safetensors"

    def _forget(self) -> None:
        """Leave the best weights of now, and those that were the best at a checkpoint: a resumed run may have to go back to them.

        Those of later steps are of an attempt that was killed.
        """
        if self.loop.run.first:
            there = {path: int(path.name.partition("-")[2].partition(".")[0]) for path in self.folder.glob("best-*.safetensors")}
            now = self.loop.state.global_step
            marks = [now, *(int(path.name.rpartition("-")[2]) for path in checkpoint.whole_checkpoints(self.folder))]
            kept = {max((step for step in there.values() if step <= min(mark, now)), default=now) for mark in marks}
            for path in (path for path, step in there.items() if step not in kept):
                path.unlink(missing_ok=True)
