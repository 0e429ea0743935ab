"""What a model was measured to do, on which rows: for the Hub's index of results and for the README."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbdream import escape
from nbdream.cards import body
from nbdream.optional import require

INDEX = "model-index"
BY = {"software": "nbdream"}
"""What our results are known by: those of others stay at every push."""


@dataclass(frozen=True)
class Measured:
    """The value of one metric, with the ends of its 95 % interval, on ``examples`` rows of the step ``rows``."""

    rows: str
    metric: str
    value: float
    low: float
    high: float
    examples: int


def index(measured: Sequence[Measured], name: str, task: str, given: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The Hub's ``model-index``: what was ``measured``, after the results of others that the front matter ``given`` has."""
    data = require("huggingface_hub.repocard_data", "hub")
    others = _others(given)
    ours = [
        data.EvalResult(
            task_type=task,
            dataset_type=_identifier(result.rows),
            dataset_name=result.rows,
            metric_type="rouge" if result.metric.startswith("rouge") else result.metric,
            metric_name=result.metric,
            metric_value=round(result.value, 6),
            metric_args={**BY, "examples": result.examples, "interval": [round(result.low, 6), round(result.high, 6)]},
        )
        for result in measured
    ]
    found: list[dict[str, Any]] = data.eval_results_to_model_index(name, [*others, *ours]) if others or ours else []
    return found or None


def section(measured: Sequence[Measured]) -> str:
    """The results as a table."""
    rows = [[*map(escape.markdown, (result.rows, result.metric)), *_numbers(result)] for result in measured]
    return body.section("Measured", body.table(["rows", "metric", "value", "95 % interval", "examples"], rows) if rows else "")


def _numbers(result: Measured) -> list[str]:
    return [f"{result.value:.4g}", f"{result.low:.4g} to {result.high:.4g}", f"{result.examples:,}"]


def _others(given: Mapping[str, Any]) -> list[Any]:
    if not isinstance(given.get(INDEX), list):
        return []
    try:
        _, results = require("huggingface_hub.repocard_data", "hub").model_index_to_eval_results(given[INDEX])
    except (KeyError, TypeError, AttributeError, IndexError):  # what a person wrote there is not in the Hub's form
        return []
    return [result for result in results if not BY.items() <= (result.metric_args or {}).items()]


def _identifier(name: str) -> str:
    """A name as the Hub identifies datasets."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "rows"
