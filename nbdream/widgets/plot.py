"""Training runs as a Plotly figure, laid over each other: one panel a measure, one colour a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nbdream.cards.curve import COLOURS, Point, thin
from nbdream.optional import require
from nbdream.widgets.curve import History
from nbdream.widgets.measures import CURVE, PANELS, curve_json, measured
from nbdream.widgets.overlay import picture

FEWER = 1_500
"""Points of all curves in what is displayed: the figure itself has all that were measured."""


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
    beside = {"image/svg+xml": picture({name: History.of(events) for name, events in said.items()}), CURVE: curve_json(told)}
    return _with_pictures(figure, beside)


def _with_pictures(figure: Any, beside: Mapping[str, Any]) -> Any:
    """``figure``; displayed, it has curves beside it for JupyterLab's renderer, and a picture for pages that run no script."""

    def show() -> None:
        import numpy  # Plotly writes arrays of its in a few characters, and lists with a line a number
        from IPython.display import display

        shown = type(figure)(figure)
        most = max(50, min(300, FEWER // max(1, len(shown.data))))
        for trace in shown.data:
            points = thin(list(zip(trace.x, trace.y, strict=True)), most)
            trace.x, trace.y = numpy.array([x for x, _ in points], "int32"), numpy.array([y for _, y in points], "float32")
        display({**shown._repr_mimebundle_(), **beside}, raw=True)

    figure._ipython_display_ = show
    return figure


def _trace(graphs: Any, run: str, measure: str, points: list[Point], colour: str, *, first: bool) -> Any:
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
