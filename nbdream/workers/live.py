"""What a run says while it trains, and how it is stopped: one callback of transformers' for every recipe."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch  # noqa: TID253 - only workers import this module
import torch.distributed as dist  # noqa: TID253
from torch.distributed.tensor import DTensor  # noqa: TID253
from transformers import TrainerCallback  # noqa: TID253

from nbdream.errors import DataError
from nbdream.workers.rank import Run

T = TypeVar("T")

SAVE_SECONDS = 300.0
"""How long a run goes on without a checkpoint."""
QUIET = 1.0
"""Seconds that something beside the steps may take before the run says how far it is."""
OFTEN = 0.5
"""Seconds between two times that it says so."""


class Live(TrainerCallback):
    """Writes events, and has all ranks agree to stop or to save.

    A rank that left the loop alone would leave the others waiting in a collective: so after every step the largest of all
    flags counts.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.stopped = False
        self.tokens = 0
        self._saved = self._logged = time.monotonic()
        self._first = True

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Say what each rank really holds, then that training begins."""
        self.run.emit({"type": "ready", **holdings(model)})
        self.run.say({"type": "begin", "step": state.global_step, "max_steps": state.max_steps, "epochs": state.num_train_epochs})
        self._saved = self._logged = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop or save when any rank wants to."""
        if self._first:
            self._first = False
            self.run.say({"type": "first_step", "step": state.global_step, "max_steps": state.max_steps})
        overdue = self.run.first and time.monotonic() - self._saved > SAVE_SECONDS
        wanted = [control.should_training_stop, control.should_save, control.should_evaluate]  # also by callbacks of the user's
        stop, save, *wanted = agree([self.run.paths.stop.exists(), overdue, *wanted])
        control.should_training_stop, control.should_save, control.should_evaluate = wanted
        if stop and state.global_step < state.max_steps:
            self.stopped = True
            self.run.say({"type": "stopping", "step": state.global_step})
            control.should_training_stop = True
        control.should_save = control.should_save or save or self.stopped

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say that there is a checkpoint."""
        self._saved = time.monotonic()
        self.run.say({"type": "save", "step": state.global_step})

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Pass on the numbers of a training or evaluation step."""
        logs = logs or {}
        check_finite(logs.get("loss", 0.0), args, f"at step {state.global_step}")
        numbers = {name: float(value) for name, value in logs.items() if isinstance(value, (int, float)) and math.isfinite(value)}
        kind = "eval" if any(name.startswith("eval_") for name in numbers) else "log"
        if kind == "log" and "loss" not in numbers:
            return  # the summary at the end, which is in the result
        numbers.pop("epoch", None)
        where = {"step": state.global_step, "max_steps": state.max_steps, "epoch": round(state.epoch or 0.0, 4)}
        self.run.say({"type": kind, **where, **numbers, **(self._speed() if kind == "log" else {})})

    def _speed(self) -> dict[str, float]:
        now = time.monotonic()
        seconds, self._logged = max(now - self._logged, 1e-9), now
        tokens, self.tokens = self.tokens, 0
        return {"tokens_per_second": round(tokens * self.run.world / seconds, 1), "memory_mb": round(memory_mb(), 1)}


def counted(run: Run, kind: str, batches: Iterable[T], total: int) -> Iterator[T]:
    """``batches``, with an event of ``kind`` now and then that says how many of ``total`` are done, where they take a while."""
    due = time.monotonic() + QUIET
    for done, batch in enumerate(batches):
        if (now := time.monotonic()) > due:
            due = now + OFTEN
            run.say({"type": kind, "done": done, "of": total})
        yield batch


def check_finite(loss: float, args: Any, where: str) -> None:
    """Raise `DataError` where a run has lost its way: what comes after a loss that is no number is none either.

    With ``fp16`` a step that overflows is left out, and the next one may be a number again.
    """
    if not math.isfinite(loss) and not args.fp16:
        raise DataError(f"the loss is no number any more {where}", "a lower learning_rate, or more warmup_steps")


def agree(flags: list[bool]) -> list[bool]:
    """Each flag as true as on the rank where it is truest."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return flags
    device = "cpu" if dist.get_backend() == "gloo" else "cuda"
    shared = torch.tensor([int(flag) for flag in flags], device=device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in shared.tolist()]


def holdings(model: Any) -> dict[str, Any]:
    """What part of the model this rank holds: whether all parameters are DTensors, how placed, and which share is here.

    Also whether what backward needs is computed once more instead of being kept.
    """
    parameters = list(model.parameters())
    sharded = [parameter for parameter in parameters if isinstance(parameter.data, DTensor)]
    here = sum(p.data.to_local().numel() if isinstance(p.data, DTensor) else p.numel() for p in parameters)
    total = sum(p.numel() for p in parameters)
    return {
        "dtensor": len(sharded) == len(parameters),
        "placements": sorted({type(placement).__name__ for p in sharded for placement in p.data.placements}),
        "local_fraction": round(here / max(total, 1), 4),
        "parameters": total,
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "recomputes": any(getattr(module, "gradient_checkpointing", False) for module in model.modules()),
        "device": str(next((p.device for p in parameters), "cpu")),
    }


def memory_mb() -> float:
    """What this process holds now: of the device's memory where it has one, else resident."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 2**20
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
