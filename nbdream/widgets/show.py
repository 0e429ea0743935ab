"""How handles show themselves: MIME bundles of text, HTML and SVG, made of what is on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nbdream.cards.curve import curve_svg
from nbdream.errors import MissingPackageError
from nbdream.escape import html
from nbdream.widgets.curve import History
from nbdream.widgets.measures import CURVE, curve_json, measured
from nbdream.widgets.mime import TABLE, table_json
from nbdream.widgets.status import saved_line, saved_training_line
from nbdream.widgets.table import PAGE, lines_html, table_html, table_text

Bundle = dict[str, Any]


class View:
    """Something made to be shown: a MIME bundle that IPython displays."""

    def __init__(self, bundle: Mapping[str, Any]) -> None:
        self.bundle = dict(bundle)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        return self.bundle

    def __repr__(self) -> str:
        return str(self.bundle.get("text/plain", ""))


def lines_view(lines: Sequence[str]) -> View:
    """A few lines of text."""
    return View({"text/plain": "\n".join(lines), "text/html": lines_html(lines)})


def text_view(text: str) -> View:
    """Text whose lines and columns stay as they are."""
    return View({"text/plain": text, "text/html": f"<pre>{html(text)}</pre>"})


def table_view(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], note: str = "") -> View:
    """A whole small table, whose rows have no numbers."""
    html_table = table_html(columns, rows, len(rows), note, numbered=False)
    return View({"text/plain": table_text(columns, rows, len(rows), note), "text/html": html_table})


def step_bundle(handle: Any) -> Bundle:
    """A result: the first page of its rows and the line that tells of the work."""
    if getattr(handle, "done", True) is False:
        return _lines([f"{handle.name} is being made in the background; using it waits for it"])
    return page_bundle(handle.output, saved_line(handle.node))


def evaluation_bundle(handle: Any) -> Bundle:
    """An evaluation: what it comes to, and a few examples; its rows alone, where the packages for that are not installed."""
    from nbdream.widgets import evaluation

    if getattr(handle, "done", True) is False:
        return step_bundle(handle)
    try:
        return evaluation.evaluation_bundle(handle)
    except MissingPackageError as error:
        return page_bundle(handle.output, f"{saved_line(handle.node)} · the summary takes {error}")


def rows_bundle(rows: Any) -> Bundle:
    """Rows, or one column of them."""
    return page_bundle(rows, "")


def page_bundle(rows: Any, note: str) -> Bundle:
    """The first page of rows, for whoever can show what: as text, as HTML, and as JSON that can be paged on from."""
    columns = list(rows.column_names)
    if not columns:
        return _lines([note or "no rows"])
    owner = getattr(rows, "owner", rows)
    values = [owner.column(name).values(range(min(PAGE, rows.num_rows))) for name in columns]
    page = [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
    return {
        "text/plain": table_text(columns, page, rows.num_rows, note),
        "text/html": table_html(columns, page, rows.num_rows, note),
        TABLE: table_json(rows, note),
    }


def browse_bundle(browse: Any) -> Bundle:
    """Rows that are looked at: a live table."""
    from nbdream.widgets.browse import browse_bundle as bundle

    return bundle(browse)


def annotation_bundle(annotation: Any) -> Bundle:
    """A question put to people: what was decided so far."""
    from nbdream.widgets.annotate import annotation_bundle as bundle

    return bundle(annotation)


def annotating_bundle(live: Any) -> Bundle:
    """A question put to people: the live view that takes decisions."""
    from nbdream.widgets.annotate import annotating_bundle as bundle

    return bundle(live)


def model_bundle(model: Any) -> Bundle:
    """A trained model: the curve of its training."""
    base = next((str(found.get("name")) for found in model.node.get("models") or ()), "")
    return training_bundle(str(model.name), base, model.events, model.node)


def trainer_bundle(trainer: Any) -> Bundle:
    """A trainer: the model that it made, or what it is doing."""
    if trainer.step is not None and trainer.step.done:
        return model_bundle(trainer.model)
    if trainer.step is None:
        return _lines([repr(trainer)])
    return _lines([f"{trainer.name} is training in the background; {trainer.name}.model waits for it"])


def tokens_bundle(tokens: Any) -> Bundle:
    """Rows as training would see them."""
    from nbdream.widgets.tokens import tokens_bundle as bundle

    return bundle(tokens)


def training_bundle(name: str, base: str, events: Sequence[Mapping[str, Any]], node: Mapping[str, Any]) -> Bundle:
    """A finished training run: its curves, the loss as a picture, and what it came to."""
    history = History.of(events)
    line = f"{name} · {saved_training_line(base, node, history.last)}"
    # SVG alone: a page of HTML around it is sanitized away by GitHub and by a notebook that is not trusted yet.
    return {"text/plain": line, "image/svg+xml": curve_svg(history.series(), name, line), CURVE: curve_json({name: measured(events)}, line)}


def _lines(lines: Sequence[str]) -> Bundle:
    return lines_view(lines).bundle
