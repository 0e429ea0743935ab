"""The Hub: publishing datasets, models and notebooks, with their cards, each in one commit; a folder can stand in for it."""

from __future__ import annotations

from typing import Any

from nbdream.errors import ArgumentError
from nbdream.hub.alone import publish_notebook
from nbdream.hub.dataset import publish_dataset
from nbdream.hub.model import publish_model
from nbdream.hub.order import ALLOWABLE
from nbdream.hub.target import is_folder

__all__ = ["ALLOWABLE", "is_folder", "publish", "publish_dataset", "publish_model", "publish_notebook"]

NOT_OF_MODELS = ("config", "train_size", "validation_size", "test_size", "stratify_by_column")
NOT_OF_ROWS = ("adapter_only",)
"""Options that only one of the two takes."""


def publish(thing: Any, repo_id: str, **options: Any) -> str:
    """Publish rows or a trained model; returns the URL, or the path of the folder (``./x``, ``~/x``, ``/x``).

    Options that are None count as not given.
    """
    given = {name: value for name, value in options.items() if value is not None}
    is_model = hasattr(thing, "model_path")
    for name in NOT_OF_MODELS if is_model else NOT_OF_ROWS:
        if given.pop(name, None):
            what = "rows, and this is a model" if is_model else "a model, and these are rows"
            raise ArgumentError(f"{name} is for {what}", "leave it out")
    return publish_model(thing, repo_id, **given) if is_model else publish_dataset(thing, repo_id, **given)
