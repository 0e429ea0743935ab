"""Training runs as a Plotly figure, laid over each other: one panel a measure, one colour a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nbdream.cards.curve import COLOURS
from nbdream.optional import require
from nbdream.widgets.curve import History
from nbdream.widgets.overlay import picture

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


def training_figure(runs: Mapping[str, Iterable[Mapping[str, Any]]]) -> Any:
    """A ``plotly.graph_objects.Figure`` of the events of runs, by name; measures that none of them has get no panel."""
    subplots: Any = require("plotly.subplots", "lab")
    graphs: Any = require("plotly.graph_objects", "lab")
    said = {name: list(events) for name, events in runs.items()}
    told = {name: measured(events) for name, events in said.items()}
    panels = [(title, measures) for title, measures in PANELS if any(measure in found for found in told.values() for measure in measures)]
    columns = min(2, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    titles = [title for title, _ in panels]
    figure = subplots.make_subplots(rows=rows, cols=columns, subplot_titles=titles, horizontal_spacing=0.1, vertical_spacing=0.25 / rows)
    for at, (_, measures) in enumerate(panels):
        place = {"row": at // columns + 1, "col": at % columns + 1}
        for number, (name, found) in enumerate(told.items()):
            for measure in measures:
                if measure in found:
                    figure.add_trace(_trace(graphs, name, measure, found[measure], COLOURS[number % len(COLOURS)], first=at == 0), **place)
        figure.update_xaxes(title_text="step", **place)
    figure.update_layout(height=120 + 240 * rows, margin={"l": 60, "r": 20, "t": 50, "b": 50}, template="plotly_white")
    return _with_picture(figure, picture({name: History.of(events) for name, events in said.items()}))


def _with_picture(figure: Any, svg: str) -> Any:
    """``figure``; displayed, it has the losses as a picture beside it, for pages that know no Plotly or run no script."""

    def show() -> None:
        from IPython.display import display

        display({**figure._repr_mimebundle_(), "image/svg+xml": svg}, raw=True)

    figure._ipython_display_ = show
    return figure


def measured(events: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
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


def _trace(graphs: Any, run: str, measure: str, points: list[tuple[int, float]], colour: str, *, first: bool) -> Any:
    of_validation = measure.startswith("eval_")
    return graphs.Scatter(
        x=[step for step, _ in points],
        y=[value for _, value in points],
        name=run,
        legendgroup=run,
        showlegend=first and not of_validation,
        mode="lines+markers" if of_validation or len(points) == 1 else "lines",
        line={"color": colour, "dash": "dot" if of_validation else "solid"},
        hovertemplate=f"{measure.removeprefix('eval_')}{' (validation)' if of_validation else ''} %{{y:.4g}} at step %{{x}}",
    )
