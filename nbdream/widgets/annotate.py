"""An annotation as it shows itself: what was decided so far, static, and the live view that takes decisions.

What is saved is a pure function of rows and decisions, and names nobody. What a page may ask for is a closed list: where one stands
(``annotate_state``, of any row), ``decide``, ``undo``; each is answered with the state of the next row.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError, NbDreamError
from nbdream.escape import visible
from nbdream.steps.question import CHOOSE, EDIT, LONGEST, PREFER, RATE, Vote
from nbdream.widgets.cells import as_text
from nbdream.widgets.live import LIVE, enlivened, live_json, module
from nbdream.widgets.mime import MOST_BYTES, table_json
from nbdream.widgets.table import COLUMNS, PAGE, lines_html, table_html, table_text

if TYPE_CHECKING:
    from nbdream.annotations import Decision
    from nbdream.steps.annotation import Annotating, Annotation
    from nbdream.steps.question import Tally

ANNOTATE = "application/vnd.nbdream.annotate+json"
VERSION = 1
DECISION = "decision"
"""The column in which a decision is shown."""
SIDES = ("left", "right")
_WORDS = {"accept": "accepted", "reject": "rejected"}
_LONGEST = 200
"""Characters of an edited text that are shown in a table."""
WHOLE = 1_000_000
"""Characters of a value that reach a page."""


# --- what is saved ------------------------------------------------------------------------------------------------------


def annotation_bundle(annotation: Annotation) -> dict[str, Any]:
    """The MIME bundle of an annotation: how far it is, and the first rows with what was decided about them."""
    tally, rows = annotation.tally, annotation.rows
    names = rows.column_names[: COLUMNS - 1]
    names.append(DECISION if DECISION not in names else f"{DECISION} of people")
    values = [rows.column(name).values(range(min(PAGE, rows.num_rows))) for name in names[:-1]]
    said = [decision_words(tally, key) for key in tally.keys[:PAGE]]
    page = [dict(zip(names, row, strict=True)) for row in zip(*values, said, strict=True)]
    line, lines = tally.line(), visible(annotation.instruction).splitlines()
    left = [] if tally.done == len(tally.keys) else [f"{annotation.name}.annotate() takes decisions where this is not alive"]
    return {
        "text/plain": "\n".join([*lines, table_text(names, page, rows.num_rows, line), *left]),
        "text/html": lines_html(lines) + table_html(names, page, rows.num_rows, line) + lines_html(left),
        ANNOTATE: saved(annotation, line, said),
    }


def saved(annotation: Annotation, line: str, said: list[str]) -> dict[str, Any]:
    """What lies in a notebook for its renderer: enough to show without a kernel, and to ask a kernel for more."""
    page = table_json(annotation.rows, "")
    made: dict[str, Any] = {
        "version": VERSION,
        "name": annotation.name,
        "annotations": annotation.id,
        "mode": annotation.question.mode,
        "instruction": visible(annotation.instruction)[:10_000],
        "columns": [head["name"] for head in page["columns"]],
        "rows": page["rows"],
        "decisions": said,
        "total": page["total"],
        "line": line,
    }
    while made["rows"] and len(json.dumps(made, ensure_ascii=False).encode("utf-8", "replace")) > MOST_BYTES:
        made |= {"rows": made["rows"][:-1], "decisions": made["decisions"][:-1]}
    return made


def decision_words(tally: Tally, key: str) -> str:
    """What is shown of the decision about a row; empty where there is none."""
    vote = tally.decided(key)
    if vote is None:
        return "people disagree" if key in tally.votes else ""
    return _words(vote)


def _words(vote: Vote) -> str:
    do, value = vote
    if do == EDIT:
        return f"edited: {visible(value)[:_LONGEST]}{'…' if len(value) > _LONGEST else ''}"
    return visible(str(value)) if do in (RATE, CHOOSE) else _WORDS.get(do, do)


# --- what is asked ------------------------------------------------------------------------------------------------------


def respond(annotation: Annotation, message: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one of a page's three operations: the state of the row that comes next. `NbDreamError` in one line."""
    if message["op"] == "decide":
        row, do, value = (message.get(name) for name in ("row", "do", "value"))
        if not isinstance(row, int) or not 0 <= row < len(annotation.keys) or annotation.keys[row] != message.get("key"):
            raise ArgumentError("the rows are others by now", "run the cell again")
        if do == CHOOSE:
            value = _sides(annotation, row)[SIDES.index(value)] if value in SIDES else None
        annotation.decide(row, str(do), value)
        return state(annotation, after=row)
    if message["op"] == "undo":
        undone = annotation.undo()
        return {**state(annotation, row=undone), "undone": undone is not None}
    after, row = message.get("after"), message.get("row")
    if isinstance(row, int):
        return state(annotation, row=min(max(0, row), len(annotation.keys) - 1))
    return state(annotation, after=after if isinstance(after, int) else -1)


def state(annotation: Annotation, *, after: int = -1, row: int | None = None) -> dict[str, Any]:
    """How far ``who`` is, and what is shown of a row: of ``row``, or the next one behind ``after`` about which nothing is decided."""
    keys, mine = annotation.keys, annotation.mine()
    done = sum(key in mine for key in keys)
    if row is None:
        row = next((at % len(keys) for at in range(after + 1, after + 1 + len(keys)) if keys[at % len(keys)] not in mine), None)
    tally = annotation.tally
    found = {
        "version": VERSION,
        "name": annotation.name,
        "mode": annotation.question.mode,
        "highest": annotation.question.highest,
        "instruction": visible(annotation.instruction),
        "who": visible(annotation.who),
        "others": len([who for who in tally.people if who != annotation.who]),
        "total": len(keys),
        "done": done,
        "line": tally.line() if row is None else "",  # what others decided, or oneself so far, is not told before the end
        "row": row,
    }
    return (
        found
        if row is None
        else {**found, "key": keys[row], "mine": _mine(annotation, row, mine.get(keys[row])), **_shown(annotation, row)}
    )


def _mine(annotation: Annotation, row: int, decision: Decision | None) -> dict[str, Any] | None:
    """What oneself decided about a row, as the page says it; None where nothing is decided."""
    if decision is None:
        return None
    value = decision.value
    if decision.do == CHOOSE:
        value = SIDES[_sides(annotation, row).index(str(value))]
    return {"do": decision.do, "value": visible(value) if isinstance(value, str) else value}


def _shown(annotation: Annotation, row: int) -> dict[str, Any]:
    """What is shown of a row: what it is about, and what stands around it."""
    question = annotation.question
    about = _sides(annotation, row) if question.mode == PREFER else [question.column] if question.column else []
    around = [_field(annotation, name, row) for name in question.columns if name not in about]
    subject = [_field(annotation, str(name), row) for name in about]
    if question.mode == PREFER:  # the columns' names would say which model it was
        subject = [{**field, "name": side} for field, side in zip(subject, SIDES, strict=True)]
    return {"around": around, "about": subject}


def _field(annotation: Annotation, name: str, row: int) -> dict[str, Any]:
    """A value of a row: its text as it is seen, whole up to a million characters, and as it is where that differs and may be edited."""
    value = annotation.rows.column(name).values([row])[0]
    text = as_text(value)
    if text is None:
        return {"name": visible(name), "text": None}
    shown = visible(text[:WHOLE])
    field = {"name": visible(name), "text": shown, "length": len(text)}
    if name != annotation.question.column or not isinstance(value, str) or len(text) > LONGEST:
        return field
    return {**field, "edits": text if text != shown else True}


def _sides(annotation: Annotation, row: int) -> list[str]:
    """The two columns, as they stand from left to right."""
    pair = list(annotation.question.pair)
    return pair[::-1] if annotation.question.swapped(annotation.keys[row]) else pair


# --- the live view ------------------------------------------------------------------------------------------------------


def annotating_bundle(live: Annotating) -> dict[str, Any]:
    """The live view, with what was decided so far for when there is no kernel."""
    bundle = annotation_bundle(live.annotation)
    kind = annotate_class()
    if kind is None:
        return bundle

    def widget(mark: str) -> Any:
        made = kind(data=bundle[ANNOTATE], mark=mark)
        made.on_msg(functools.partial(_received, live.annotation))
        return made

    return enlivened({**bundle, LIVE: live_json()}, f"annotate {live.annotation.id} {live.annotation.name}", widget)


@functools.cache
def annotate_class() -> Any:
    """The live view's widget; None where there are none."""
    try:
        import anywidget
        import traitlets
    except ImportError:
        return None

    class Annotate(anywidget.AnyWidget):
        _esm = module("annotate.js")
        mark = traitlets.Unicode("").tag(sync=True)
        data = traitlets.Dict().tag(sync=True)

    return Annotate


OPERATIONS = ("annotate_state", "decide", "undo")
"""All that a page may ask for."""


def _received(annotation: Annotation, widget: Any, message: Any, _buffers: Any) -> None:
    """Answer what a page asks for; what is none of the operations gets no answer."""
    if not isinstance(message, Mapping) or message.get("op") not in OPERATIONS:
        return
    try:
        answer: dict[str, Any] = {"result": respond(annotation, message)}
    except NbDreamError as error:
        answer = {"error": str(error)}
    widget.send({**answer, "op": message["op"], "id": str(message.get("id"))[:64]})
