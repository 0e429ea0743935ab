"""Task models: models that say of a text which labels it has. One file a provider, loaded when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbdream.optional import lazily

if TYPE_CHECKING:
    from nbdream.task_models.base import TaskModel
    from nbdream.task_models.hf_classification import HFClassificationTaskModel

__all__ = ["HFClassificationTaskModel", "TaskModel"]

_HOMES = {
    "HFClassificationTaskModel": "nbdream.task_models.hf_classification",
    "TaskModel": "nbdream.task_models.base",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
