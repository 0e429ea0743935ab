"""The card as HTML for a notebook: static, readable on light and dark, and every text in it is text."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from nbdream import escape
from nbdream.cards import terms
from nbdream.cards.fields import DATE, step_fields
from nbdream.cards.graph import Graph, Stage, stages

_BOX = "border:1px solid color-mix(in srgb, currentColor 30%, transparent);border-radius:4px;padding:.4em .8em;margin:.4em 0"
_KEY = "text-align:left;vertical-align:top;padding:2px 1em 2px 0;font-weight:normal;opacity:.7;white-space:nowrap"
_VALUE = "text-align:left;vertical-align:top;padding:2px 0;overflow-wrap:anywhere"
_NAME = "opacity:.7;margin:.4em 0 0"
_WORDS = "white-space:pre-wrap;overflow-wrap:anywhere;margin:0;font-size:.9em"


def card_html(graph: Graph, picture: str = "") -> str:
    """The card of ``graph`` as HTML: the result first, then what it comes from; without script, widget or random id.

    ``picture``: an SVG of the result.
    """
    found = stages(graph)
    above = len(found) - 1
    head = f"<p><strong>{escape.html(found[-1].name)}</strong> · {above} step{'' if above == 1 else 's'} before it</p>"
    if picture:  # as an image: of SVG within HTML, what removes it would leave the words
        head += f'<img alt="{escape.html(found[-1].name)}" src="data:image/svg+xml;base64,{b64encode(picture.encode()).decode()}">'
    head += "".join(f"<p><strong>Conflict:</strong> {escape.html(text)}</p>" for text in terms.conflicts(found))
    return f'<div class="nbdream-card">{head}{"".join(_stage(stage, stage is found[-1]) for stage in reversed(found))}{_terms(found)}</div>'


def _terms(found: Sequence[Stage]) -> str:
    """What the sources and models ask of what is made of them."""
    asked = "".join(f"<li>{escape.html(text)}</li>" for text in terms.asked(found))
    return f'<details style="{_BOX}"><summary>Licences and terms</summary><ul>{asked}</ul></details>' if asked else ""


def _stage(stage: Stage, is_root: bool) -> str:
    lines = [*_work(stage), *((name, value) for name, value in step_fields(stage).items() if name != DATE)]
    rows = "".join(_row(name, value) for name, value in lines)
    words = "".join(
        f'<p style="{_NAME}">{escape.html(name)}</p><pre style="{_WORDS}">{escape.html(text)}</pre>' for name, text in stage.prompts.items()
    )
    summary = f"<summary>{escape.html(stage.name)} <small>{escape.html(str(stage.node.get('type') or ''))}</small></summary>"
    return f'<details style="{_BOX}"{" open" if is_root else ""}>{summary}<table style="background:none">{rows}</table>{words}</details>'


def _work(stage: Stage) -> list[tuple[str, Any]]:
    """How the work went, as lines of a name and a value; what is not known is left out."""
    node = stage.node
    failed, seconds, cost = node.get("failures"), (node.get("made") or {}).get("seconds"), (node.get("usage") or {}).get("cost")
    settings = " · ".join(f"{name} {value}" for name, value in stage.settings.items())
    lines: list[tuple[str, Any]] = [
        (DATE, (stage.finished or "").replace("T", " ").replace("Z", " UTC")),
        ("Rows", None if stage.rows is None else f"{stage.rows:,}" + (f" ok, {failed:,} failed" if failed else "")),
        ("Took", None if seconds is None else f"{seconds:,.1f} s"),
        ("Cost", None if cost is None else f"${cost:,.2f}"),
        ("Settings", settings or None),
    ]
    return [(name, value) for name, value in lines if value]


def _row(name: str, value: Any) -> str:
    return f'<tr><th scope="row" style="{_KEY}">{escape.html(name)}</th><td style="{_VALUE}">{_value(value)}</td></tr>'


def _value(value: Any) -> str:
    texts = value if isinstance(value, list) else [str(value)]
    return "<br>".join(_text(text) for text in texts)


def _text(text: str) -> str:
    address = escape.link(text)
    if address:
        shown = escape.html(address)
        return f'<a style="color:inherit" href="{shown}" rel="noopener noreferrer" target="_blank">{shown}</a>'
    return f'<span style="white-space:pre-wrap">{escape.html(text)}</span>'
