"""Cards: what a dataset or a model is and where it comes from, as pure functions of its graph."""

from __future__ import annotations

from nbdream.cards.fields import FIELDS, data_card, model_card
from nbdream.cards.graph import Graph, is_demo, join, stages
from nbdream.cards.page import card_html
from nbdream.cards.readme import DatasetFacts, ModelFacts, front_matter, readme_dataset, readme_model

__all__ = [
    "FIELDS", "DatasetFacts", "Graph", "ModelFacts", "card_html", "data_card", "front_matter", "is_demo", "join", "model_card",
    "readme_dataset", "readme_model", "stages",
]  # fmt: skip
