"""Cards: what a dataset or a model is and where it comes from, as pure functions of its graph."""

from __future__ import annotations

from nbdream.cards import licence, terms
from nbdream.cards.crate import notebook_of, run_crate
from nbdream.cards.croissant import Split, dataset_croissant
from nbdream.cards.fields import FIELDS, data_card, model_card
from nbdream.cards.graph import Graph, is_demo, join, stages
from nbdream.cards.licence import Licence, stated
from nbdream.cards.linked import Publication, PublishedFile, as_text, description
from nbdream.cards.page import card_html
from nbdream.cards.readme import DatasetFacts, ModelFacts, front_matter, readme_dataset, readme_model, readme_notebook

__all__ = [
    "FIELDS", "DatasetFacts", "Graph", "Licence", "ModelFacts", "Publication", "PublishedFile", "Split", "as_text", "card_html",
    "data_card", "dataset_croissant", "description", "front_matter", "is_demo", "join", "licence", "model_card", "notebook_of",
    "readme_dataset", "readme_model", "readme_notebook", "run_crate", "stages", "stated", "terms",
]  # fmt: skip
