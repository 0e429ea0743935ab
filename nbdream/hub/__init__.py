"""The Hub: publishing datasets and models, with their cards, each in one commit; a folder can stand in for it."""

from __future__ import annotations

from typing import Any

from nbdream.hub.dataset import publish_dataset
from nbdream.hub.model import publish_model

__all__ = ["publish", "publish_dataset", "publish_model"]


def publish(thing: Any, repo_id: str, **options: Any) -> str:
    """Publish rows or a trained model; returns the URL, or the path of the folder (``./x``, ``~/x``, ``/x``).

    Options that are None count as not given.
    """
    given = {name: value for name, value in options.items() if value is not None}
    return publish_model(thing, repo_id, **given) if hasattr(thing, "model_path") else publish_dataset(thing, repo_id, **given)
