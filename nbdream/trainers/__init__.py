"""Trainers: each turns rows into a model, in processes of its own. The kernel's half imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbdream.trainers.base import Trainer
    from nbdream.trainers.hf_dpo import TrainHFDPO
    from nbdream.trainers.hf_fine_tune import TrainHFFineTune
    from nbdream.trainers.trained import TrainedModel

__all__ = ["TrainHFDPO", "TrainHFFineTune", "TrainedModel", "Trainer"]

_HOMES = {
    "TrainHFDPO": "nbdream.trainers.hf_dpo",
    "TrainHFFineTune": "nbdream.trainers.hf_fine_tune",
    "TrainedModel": "nbdream.trainers.trained",
    "Trainer": "nbdream.trainers.base",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'nbdream.trainers' has no attribute {name!r}") from None
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
