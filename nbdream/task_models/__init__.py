"""Task models: models that say of a text which labels it has. One file a provider, loaded when it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbdream.task_models.base import TaskModel
    from nbdream.task_models.hf_classification import HFClassificationTaskModel

__all__ = ["HFClassificationTaskModel", "TaskModel"]

_HOMES = {
    "HFClassificationTaskModel": "nbdream.task_models.hf_classification",
    "TaskModel": "nbdream.task_models.base",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'nbdream.task_models' has no attribute {name!r}") from None
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
