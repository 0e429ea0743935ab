"""The synthetic data card and model card as JSON (``nbdream.json``): for every step, what is known of where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbdream.cards import terms
from nbdream.cards.graph import Graph, Stage, stages, texts

DATE, DATASET, MODEL, URL = "Date & Time", "Dataset Name", "Model Name", "URL"
DATASET_CARD, MODEL_CARD, LICENSE, CITATION = "Dataset Card", "Model Card", "License Information", "Citation Information"
FIELDS = (DATE, DATASET, MODEL, URL, DATASET_CARD, MODEL_CARD, LICENSE, CITATION)
"""The fields of a card, in order. The date is one text, the others are lists; of what is not known, ``not_stated`` says why."""


def data_card(graph: Graph) -> dict[str, Any]:
    """The data card of ``graph``: a block for every step that its rows come from, the rows' own step last.

    It says when the work was done, not when it was read, so it is the same at every call.
    """
    found = stages(graph)
    above = {stage.name: step_fields(stage) for stage in found}
    return {"data_card": above, "not_stated": not_stated(found), **terms.told(found), **_about(found[-1])}


def model_card(graph: Graph) -> dict[str, Any]:
    """The model card of a training run: ``data_card`` has the steps that its data come from, ``model_card`` the run itself."""
    found = stages(graph)
    above = {stage.name: step_fields(stage) for stage in found[:-1]}
    run = {found[-1].name: step_fields(found[-1])}
    return {"data_card": above, "model_card": run, "not_stated": not_stated(found), **terms.told(found), **_about(found[-1])}


def step_fields(stage: Stage) -> dict[str, Any]:
    """What is known of one step, by the names of `FIELDS`; what the step's author registered comes after what was found."""
    source, models = stage.source, stage.models
    known: dict[str, list[str]] = {
        DATASET: texts(source.get("name")),
        MODEL: [text for model in models for text in texts(model.get("name"))],
        URL: texts(source.get("url")),
        DATASET_CARD: texts(source.get("card")),
        MODEL_CARD: [text for model in models for text in texts(model.get("card_url"))],
        LICENSE: [text for used in (source, *models) for key in ("license", "license_link") for text in texts(used.get(key))],
        CITATION: texts(source.get("citation")) + [text for model in models for text in texts(model.get("citation"))],
    }
    for card in stage.node.get("cards") or []:
        if isinstance(card, dict) and card.get("type"):
            known.setdefault(_field(str(card["type"])), []).extend(texts(card.get("value")))
    dated: dict[str, Any] = {DATE: stage.finished} if stage.finished else {}
    return dated | {field: list(dict.fromkeys(values)) for field, values in known.items() if values and field != DATE}


def not_stated(found: Sequence[Stage]) -> dict[str, dict[str, list[str]]]:
    """Why a field of `FIELDS` is not there: for each field the reasons, and for each reason the steps."""
    missing: dict[str, dict[str, list[str]]] = {}
    for stage in found:
        known = step_fields(stage)
        for field in FIELDS:
            if field not in known:
                missing.setdefault(field, {}).setdefault(_reason(stage, field), []).append(stage.name)
    return missing


def _reason(stage: Stage, field: str) -> str:
    is_source = not stage.reads
    if field in (DATASET, URL, DATASET_CARD):
        if not is_source:
            return "it reads other steps only"
        return "its rows come from memory" if not stage.source else "what it reads is not on the Hub"
    if field in (MODEL, MODEL_CARD):
        return "no page of the model is known" if stage.models else "it asks no model"
    if field == DATE:
        return "when it ended was not recorded"
    if stage.source or stage.models:
        return "what it uses states none that could be read"
    return "it uses neither a dataset nor a model from elsewhere"


def declared(stage: Stage, field: str) -> list[str]:
    """What the author of a step registered under ``field``, as one of `FIELDS`."""
    cards = [card for card in stage.node.get("cards") or [] if isinstance(card, dict) and card.get("type")]
    values = [text for card in cards if _field(str(card["type"])) == field for text in texts(card.get("value"))]
    return list(dict.fromkeys(values))


def _field(given: str) -> str:
    """The name of a field as cards have it, whether it was given as ``Model Name``, ``model_name`` or ``MODEL_NAME``."""
    plain = {field.lower().replace(" & ", "").replace(" ", ""): field for field in FIELDS}
    plain |= {"license": LICENSE, "citation": CITATION}
    return plain.get(given.lower().replace("_", "").replace(" ", ""), given)


def _about(root: Stage) -> dict[str, Any]:
    node = root.node
    environment, recipe = node.get("environment") or {}, node.get("recipe") or {}
    return {
        "__version__": environment.get("nbdream"),
        "datetime": root.finished,
        "type": node.get("type"),
        "name": root.name,
        "version": node.get("version", recipe.get("version")),
        "fingerprint": node.get("recipe_key"),
        "pickled": False,
        "req_versions": dict(sorted((environment.get("packages") or {}).items())),
        "interpreter": environment.get("python"),
        "platform": environment.get("platform"),
        "machine": environment.get("machine"),
    }
