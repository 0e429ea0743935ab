"""What trainings measured, as it stays in a notebook: curves as JSON that a page can zoom into, thinned so that a long run stays small.

Like all that is saved, it says what was measured and nothing of the run of the cell: the same training is the same JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nbdream.cards.curve import COLOURS, LOOKS, Point, thin
from nbdream.escape import visible

CURVE = "application/vnd.nbdream.curve+json"
VERSION = 1
MOST_BYTES = 40_000
"""Of the JSON of one picture."""
MOST = 600
"""Points of a curve, at most; fewer where there are many curves."""
PANELS = (
    ("loss", ("loss", "eval_loss")),
    ("rewards/margins", ("rewards/margins", "eval_rewards/margins")),
    ("rewards/accuracies", ("rewards/accuracies", "eval_rewards/accuracies")),
    ("f1", ("eval_f1",)),
    ("accuracy", ("eval_accuracy",)),
    ("learning rate", ("learning_rate",)),
    ("gradient norm", ("grad_norm",)),
    ("tokens per second", ("tokens_per_second",)),
    ("memory (MB)", ("memory_mb",)),
)
"""The panels and what is drawn in them: a measure of training, and dotted the same of the validation rows."""

Measured = Mapping[str, Sequence[Point]]


def measured(events: Iterable[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """What was measured, as (step, value); what a killed run measured after its last checkpoint is measured again."""
    found: dict[str, dict[int, float]] = {}
    for event in events:
        step = int(event.get("step") or 0)
        if event.get("type") == "resumed" or (event.get("type") == "begin" and not step):
            found = {name: {at: value for at, value in points.items() if at <= step} for name, points in found.items()}
        if event.get("type") not in ("log", "eval"):
            continue
        for _, measures in PANELS:
            for measure in measures:
                if isinstance(event.get(measure), (int, float)):
                    found.setdefault(measure, {})[step] = float(event[measure])
    return {name: sorted(points.items()) for name, points in found.items() if points}


def curve_json(runs: Mapping[str, Measured], note: str = "") -> dict[str, Any]:
    """The curves of runs, by name: a panel a measure, a colour a run; of one run alone, a colour for each set of rows."""
    name = visible(" · ".join(runs))[:400]
    most = MOST
    while True:
        panels = [{"title": title, "curves": found} for title, measures in PANELS if (found := _curves(runs, title, measures, most))]
        made = {"version": VERSION, "name": name, "note": visible(note)[:1000], "panels": panels}
        if most <= 2 or len(json.dumps(made, ensure_ascii=False).encode("utf-8", "replace")) <= MOST_BYTES:
            return made
        most = most * 2 // 3


def _curves(runs: Mapping[str, Measured], title: str, measures: Sequence[str], most: int) -> list[dict[str, Any]]:
    found = []
    for number, (run, told) in enumerate(runs.items()):
        for measure in measures:
            points = [(step, value) for step, value in told.get(measure, ()) if math.isfinite(value)]
            if not points:
                continue
            validates = measure.startswith("eval_")
            if len(runs) == 1:
                label = LOOKS[measure].label if measure in LOOKS else f"validation {title}" if validates else title
                colour = COLOURS[1 if validates else 0]
            else:
                label, colour = "" if validates and len(measures) > 1 else visible(run)[:100], COLOURS[number % len(COLOURS)]
            dashed = validates and len(runs) > 1
            found.append({"label": label, "colour": colour, "dashed": dashed, "points": _text(thin(points, most))})
    return found


def _text(points: Sequence[Point]) -> str:
    """Points in the digits that can be seen. A notebook's file would give each number of a list a line of its own."""
    return " ".join(f"{step:g},{value:.6g}" if step != int(step) else f"{int(step)},{value:.6g}" for step, value in points)
