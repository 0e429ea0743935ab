"""The sections of a README: Markdown that says what something is, how it was made, and from what."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nbdream import escape
from nbdream.cards.fields import CITATION, DATASET, DATASET_CARD, LICENSE, MODEL, MODEL_CARD, URL, step_fields
from nbdream.cards.graph import Stage, maker

LARGEST_PICTURE = 60
"""Steps that a picture shows; with more the table alone is readable."""
LONGEST_CELL = 300
"""Characters of an example value."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(stages: Sequence[Stage]) -> str:
    """The lineage as a Mermaid flowchart: steps, and the models that they asked."""
    if len(stages) > LARGEST_PICTURE:
        return ""
    names = {stage.id: f"n{number}" for number, stage in enumerate(stages)}
    lines = ["```mermaid", "flowchart TD"]
    for stage in stages:
        rows = "" if stage.rows is None else f" · {stage.rows:,} rows"
        kind = escape.mermaid(stage.node.get("type") or "step")
        lines.append(f'    {names[stage.id]}["{escape.mermaid(stage.name)}<br/>{kind}{rows}"]')
    models = dict.fromkeys(str(model["name"]) for stage in stages for model in stage.models)
    nicks = {model: f"m{number}" for number, model in enumerate(models)}
    lines += [f'    {nick}(["{escape.mermaid(model)}"])' for model, nick in nicks.items()]
    for stage in stages:
        lines += [f"    {names[source]} --> {names[stage.id]}" for source in stage.inputs]
        asked = dict.fromkeys(str(model["name"]) for model in stage.models)
        lines += [f"    {nicks[model]} -.-> {names[stage.id]}" for model in asked]
    return "\n".join([*lines, "```"])


def lineage(stages: Sequence[Stage]) -> str:
    """The steps as a table: what each is, of how many rows, by which model, when, at what cost."""
    rows = []
    for stage in stages:
        failed = stage.node.get("failures") or 0
        made = "" if stage.rows is None else f"{stage.rows:,}" + (f" ({failed:,} failed)" if failed else "")
        models = ", ".join(dict.fromkeys(escape.markdown(str(model["name"])) for model in stage.models))
        cells = [escape.markdown(stage.name), escape.markdown(str(stage.node.get("type") or "")), made, models, _date(stage), _usage(stage)]
        rows.append(cells)
    return table(["step", "kind", "rows", "model", "made", "calls and tokens"], rows)


def prompts(stages: Sequence[Stage]) -> str:
    """What the models were told, step by step, with the settings."""
    parts = []
    for stage in stages:
        if not stage.prompts:
            continue
        parts.append(f"### {escape.markdown(stage.name)}")
        parts += [f"{escape.markdown(name)}:\n\n{_fence(text)}" for name, text in stage.prompts.items()]
        if stage.settings:
            parts.append("Settings: " + " · ".join(escape.markdown(f"{name} {value}") for name, value in stage.settings.items()))
    return "\n\n".join(parts)


def columns(stages: Sequence[Stage], types: Mapping[str, str]) -> str:
    """What each column holds and which step made it."""
    found = {stage.id: stage for stage in stages}
    rows = [(name, kind, maker(found, stages[-1], name).name) for name, kind in types.items()]
    return table(["column", "type", "made by"], [[escape.markdown(text) for text in row] for row in rows])


def examples(rows: Sequence[Mapping[str, Any]]) -> str:
    """A few rows as a table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return table([escape.markdown(name) for name in names], [[escape.markdown(cell(row.get(name))) for name in names] for row in rows])


def terms(stages: Sequence[Stage]) -> str:
    """The datasets and models that were used, with their licences and citations, as their own cards give them."""
    rows, citations = list[list[str]](), list[str]()
    for stage in stages:
        known = step_fields(stage)
        names = known.get(DATASET, []) + known.get(MODEL, [])
        cards = ", ".join(_link(text) for text in known.get(URL, []) + known.get(DATASET_CARD, []) + known.get(MODEL_CARD, []))
        licenses = ", ".join(_link(text) for text in known.get(LICENSE, []))
        if names or cards or licenses:
            rows.append([", ".join(map(escape.markdown, names)), cards, licenses or "not known"])
        citations += known.get(CITATION, [])
    if not rows and not citations:
        return ""
    unique = [list(row) for row in dict.fromkeys(map(tuple, rows))]
    parts = [table(["dataset or model", "card", "licence"], unique)] if unique else []
    return "\n\n".join(parts + [_fence(text, "bibtex") for text in dict.fromkeys(citations)])


def section(title: str, *parts: str) -> str:
    """A heading and what stands below it; nothing at all when nothing does."""
    given = [part for part in parts if part]
    return "\n\n".join([f"## {title}", *given]) if given else ""


def cell(value: Any) -> str:
    """A value as a short text; lists and dicts as JSON, bytes by their number."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_CELL else text[:LONGEST_CELL].rstrip() + " …"


def _date(stage: Stage) -> str:
    return escape.markdown((stage.finished or "")[:10])


def _usage(stage: Stage) -> str:
    usage = stage.node.get("usage") or {}
    calls = (usage.get("calls") or 0) + (usage.get("cached_calls") or 0)
    tokens = (usage.get("input_tokens") or 0) + (usage.get("output_tokens") or 0)
    return " · ".join(([f"{calls:,} calls"] if calls else []) + ([f"{tokens:,} tokens"] if tokens else []))


def _fence(text: str, language: str = "") -> str:
    return escape.fence(text, language).rstrip("\n")


def _link(text: str) -> str:
    address = escape.link(text)
    return f"<{address}>" if address else escape.markdown(text)
