"""Embedders: models that turn a text into a vector. One file a provider, loaded when it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbdream.embedders.base import Embedder
    from nbdream.embedders.sentence_transformers import SentenceTransformersEmbedder

__all__ = ["Embedder", "SentenceTransformersEmbedder"]

_HOMES = {
    "Embedder": "nbdream.embedders.base",
    "SentenceTransformersEmbedder": "nbdream.embedders.sentence_transformers",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'nbdream.embedders' has no attribute {name!r}") from None
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
