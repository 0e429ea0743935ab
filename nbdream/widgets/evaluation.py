"""An evaluation as it shows itself: what it comes to, model by model, then a few examples side by side. Static, all of it text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nbdream.steps.metrics import INPUT, JUDGE, MODEL, PREDICTION, REFERENCE, ROW
from nbdream.steps.summary import RESAMPLES, Summary, shown
from nbdream.widgets.status import saved_line
from nbdream.widgets.table import lines_html, table_html, table_text

EXAMPLES = 3
"""Examples that are shown."""
METRIC, N = "metric", "n"
OTHERS = (METRIC, N, INPUT, REFERENCE)
"""The columns beside those of the models."""
WIDTH = 140
"""Characters of a line of the tables in plain text."""


def evaluation_bundle(evaluation: Any) -> dict[str, str]:
    """The MIME bundle of an evaluation."""
    summary = evaluation.summary
    rows = [_line(summary, metric) for metric in summary.metrics]
    examples = list(_examples(evaluation.output))
    tables = [(list(dict.fromkeys(name for row in table for name in row)), table) for table in (rows, examples) if table]
    lines = [saved_line(evaluation.node), *([_how(summary)] if rows else [])]
    text = [table_text(columns, table, len(table), width=WIDTH) for columns, table in tables]
    html = [table_html(columns, table, len(table), numbered=False) for columns, table in tables]
    return {"text/plain": "\n\n".join([*text, "\n".join(lines)]), "text/html": "".join([*html, lines_html(lines)])}


def _line(summary: Summary, metric: str) -> dict[str, str]:
    """A metric: its value for each model, how they differ from the first, and the number of examples; of each, where it is not the same."""
    measures = {model: found.get(metric) for model, found in summary.measures.items()}
    values = {_side(model): "" if measure is None else shown(measure) for model, measure in measures.items()}
    apart = {
        f"{model} − {summary.models[0]}": shown(found[metric], signed=True) if metric in found else ""
        for model, found in summary.differences.items()
    }
    counts = dict.fromkeys(f"{measure.n:,}" for measure in measures.values() if measure is not None)
    return {METRIC: metric, **values, **apart, N: " / ".join(counts)}


def _examples(rows: Any) -> Iterator[dict[str, Any]]:
    """The first examples: input, reference, and what each model answered."""
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        number = row[ROW]
        if number not in found and len(found) == EXAMPLES:
            break
        sides = found.setdefault(number, {INPUT: row[INPUT], REFERENCE: row[REFERENCE]})
        sides[_side(row[MODEL])] = row[PREDICTION]
    yield from found.values()


def _side(model: str) -> str:
    """A model's name as a column beside the others."""
    return f"{model} (model)" if model in OTHERS else model


def _how(summary: Summary) -> str:
    """What the numbers are."""
    parts = [f"[95 % interval] by {RESAMPLES:,} bootstrap resamples of the examples"]
    if JUDGE in summary.metrics:
        parts.append(f"{JUDGE}: how often the answer was better than that of {summary.models[0]}; a tie counts half")
    return " · ".join(parts)
