"""Trainers: each turns rows into a model, in processes of its own. The kernel's half imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbdream.optional import lazily

if TYPE_CHECKING:
    from nbdream.trainers.base import Trainer
    from nbdream.trainers.hf_classifier import TrainHFClassifier
    from nbdream.trainers.hf_dpo import TrainHFDPO
    from nbdream.trainers.hf_fine_tune import TrainHFFineTune
    from nbdream.trainers.sentence_transformer import TrainSentenceTransformer
    from nbdream.trainers.trained import Trained, TrainedModel
    from nbdream.trainers.trained_classifier import TrainedClassifier
    from nbdream.trainers.trained_embedder import TrainedEmbedder

__all__ = [
    "TrainHFClassifier", "TrainHFDPO", "TrainHFFineTune", "TrainSentenceTransformer", "Trained", "TrainedClassifier", "TrainedEmbedder",
    "TrainedModel", "Trainer",
]  # fmt: skip

_HOMES = {
    "TrainHFClassifier": "nbdream.trainers.hf_classifier",
    "TrainHFDPO": "nbdream.trainers.hf_dpo",
    "TrainHFFineTune": "nbdream.trainers.hf_fine_tune",
    "TrainSentenceTransformer": "nbdream.trainers.sentence_transformer",
    "Trained": "nbdream.trainers.trained",
    "TrainedClassifier": "nbdream.trainers.trained_classifier",
    "TrainedEmbedder": "nbdream.trainers.trained_embedder",
    "TrainedModel": "nbdream.trainers.trained",
    "Trainer": "nbdream.trainers.base",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
