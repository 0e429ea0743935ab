"""Rows as a model sees them, shown: what is learned is marked, what is only read is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nbdream.escape import html
from nbdream.widgets.table import lines_html

if TYPE_CHECKING:
    from nbdream.trainers.tokens import Tokens

LEARNED = "background:rgba(47,134,201,.25);border-radius:3px;padding:1px 2px"
SHOWN = 2000
"""Characters of a stretch that are shown; the middle of a longer one is left out."""
WORDS = {"grouped": "rows of like length in a batch", "packed": "several rows in one", "as they come": "rows as they come"}


def tokens_bundle(tokens: Tokens) -> dict[str, str]:
    """What training would see: a line of numbers, and the first examples."""
    lines = [facts_line(tokens.facts), "marked: what is learned; | ends an example"]
    text, page = [*lines], [lines_html(lines)]
    for number, row in enumerate(tokens.examples, start=1):
        plain = " | ".join("".join(f"[[{_cut(piece.text)}]]" if piece.learned else _cut(piece.text) for piece in part) for part in row)
        marked = ' <b title="an example ends">|</b> '.join(
            "".join(
                f'<span style="{LEARNED}" title="{piece.tokens} tokens, learned">{html(_cut(piece.text))}</span>'
                if piece.learned
                else html(_cut(piece.text))
                for piece in part
            )
            for part in row
        )
        text.append(f"{number}  {plain}")
        page.append(f'<pre style="white-space:pre-wrap">{number}  {marked}</pre>')
    return {"text/plain": "\n".join(text), "text/html": "".join(page)}


def facts_line(facts: Mapping[str, Any]) -> str:
    """The numbers in one line."""
    parts = [
        f"{facts['rows']:,} rows",
        f"{facts['tokens']:,} tokens, {facts['trained_tokens']:,} of them learned",
        f"median {facts['median']:g}, longest {facts['longest']:,} of {facts['max_length']:,}",
    ]
    if facts["truncated"]:
        of_contexts = f", {facts['contexts_cut']:,} in their contexts" if facts.get("contexts_cut") else ""
        parts.append(f"{facts['truncated']:,} cut{of_contexts}")
    if facts["dropped"]:
        parts.append(f"{facts['dropped']:,} left out: nothing of their output fits")
    parts.append(WORDS[facts["batching"]])
    if "packed_rows" in facts:
        parts.append(f"{facts['packed_rows']:,} packed rows, {facts['filling']:.1%} full")
    return " · ".join(parts)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} … {text[-SHOWN // 2 :]}"
