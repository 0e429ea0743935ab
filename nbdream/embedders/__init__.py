"""Embedders: models that turn a text into a vector. One file a provider, loaded when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbdream.optional import lazily

if TYPE_CHECKING:
    from nbdream.embedders.base import Embedder
    from nbdream.embedders.sentence_transformers import SentenceTransformersEmbedder

__all__ = ["Embedder", "SentenceTransformersEmbedder"]

_HOMES = {
    "Embedder": "nbdream.embedders.base",
    "SentenceTransformersEmbedder": "nbdream.embedders.sentence_transformers",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
