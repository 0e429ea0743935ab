"""The sections of a README: Markdown that says what something is, how it was made, and from what."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nbdream import escape
from nbdream.cards.fields import CITATION, DATASET, DATASET_CARD, LICENSE, MODEL, MODEL_CARD, URL, step_fields
from nbdream.cards.graph import Stage, maker
from nbdream.cards.terms import gathered

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
        kind = escape.mermaid(_kind(stage))
        lines.append(f'    {names[stage.id]}["{escape.mermaid(stage.name)}<br/>{kind}{rows}"]')
    trained = {stage.name for stage in stages if stage.is_run}  # these stand in the picture as steps
    asked = {
        stage.id: [name for name in dict.fromkeys(str(model["name"]) for model in stage.models) if name not in trained] for stage in stages
    }
    models = dict.fromkeys(name for names in asked.values() for name in names)
    nicks = {model: f"m{number}" for number, model in enumerate(models)}
    lines += [f'    {nick}(["{escape.mermaid(model)}"])' for model, nick in nicks.items()]
    for stage in stages:
        lines += [f"    {names[source]} --> {names[stage.id]}" for source in stage.inputs]
        lines += [f"    {nicks[model]} -.-> {names[stage.id]}" for model in asked[stage.id]]
    return "\n".join([*lines, "```"])


def lineage(stages: Sequence[Stage]) -> str:
    """The steps as a table: what each is, how many rows it read, made and failed at, by which model, when, at what cost."""
    rows = []
    for stage in stages:
        counts = [_count(stage.rows_in), _count(stage.rows), _count(stage.failures or None)]
        models = ", ".join(dict.fromkeys(escape.markdown(str(model["name"])) for model in stage.models))
        rows.append([escape.markdown(stage.name), escape.markdown(_kind(stage)), *counts, models, _date(stage), _usage(stage)])
    return table(["step", "kind", "rows read", "rows made", "failed", "model", "made", "calls, tokens and cost"], rows)


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


def code(stages: Sequence[Stage]) -> str:
    """The Python of the notebook that rows went through: functions, and cells between two steps; each text once."""
    shown: dict[str, list[str]] = {}
    for stage in stages:
        for source in stage.code.values():
            shown.setdefault(source, []).append(escape.markdown(stage.name))
    return "\n\n".join(f"For {', '.join(dict.fromkeys(names))}:\n\n{_fence(source, 'python')}" for source, names in shown.items())


def limits(stages: Sequence[Stage], synthetic: bool) -> str:
    """What a reader should know before using it, as far as the graph tells."""
    last = stages[-1]
    writers = [stage for stage in stages if stage.models and not stage.is_run]
    points = []
    if writers and synthetic:
        people = any(stage.kind == "Annotate" for stage in stages)
        read = "people looked at some of it (see the steps below)" if people else "nobody is known to have checked it"
        what = "what it was trained on" if last.is_run else "what stands here"
        points.append(f"Language models wrote {what}. It can be wrong, biased or made up, and {read}.")
    if any(str(model["name"]) == "demo" for stage in stages for model in stage.models):
        points.append("It comes from the demo model, a toy that ships with nbdream: good for trying things out, and for nothing else.")
    points += [
        f"{stage.failures:,} of {stage.rows_in:,} rows failed at {escape.markdown(stage.name)}."
        for stage in stages
        if stage.failures and stage.rows_in
    ]
    if last.is_run and not any(name.startswith("validation") for name in _inputs_of(last)):
        points.append("It was trained without held-out rows: how well it does on others is not known.")
    return "\n".join(f"- {point}" for point in points)


def again(stages: Sequence[Stage]) -> str:
    """How the same is made again."""
    environment = stages[-1].node.get("environment") or {}
    versions = " · ".join(
        f"{name} {environment[key]}" for name, key in (("nbdream", "nbdream"), ("Python", "python")) if environment.get(key)
    )
    machine = _machine(environment)
    made = escape.markdown(versions) + (f" on {escape.markdown(machine)}" if machine else "")
    asked = any(stage.models and not stage.is_run for stage in stages)
    differ = " The models, asked anew, may answer differently." if asked else ""
    return (
        f"Made with {made}; all packages stand in `nbdream.json`. With the archive of the session (`%dream share`),"
        " `nbdream verify` checks the rows against the stored replies without running code, and `nbdream replay` runs the notebook again"
        f" without asking a model. Without it, the prompts, settings and sources of this page are what each step was given.{differ}"
    )


def columns(stages: Sequence[Stage], types: Mapping[str, str]) -> str:
    """What each column holds and which step made it."""
    found = {stage.id: stage for stage in stages}
    rows = [[escape.markdown(name), escape.markdown(kind), _maker(maker(found, stages[-1], name))] for name, kind in types.items()]
    return table(["column", "type", "made by"], rows)


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
        cards = ", ".join(
            _link(text) for text in dict.fromkeys(known.get(URL, []) + known.get(DATASET_CARD, []) + known.get(MODEL_CARD, []))
        )
        listed = [str(term.listed["name"]) for term in gathered([stage]) if term.listed]
        licenses = ", ".join([*map(_link, known.get(LICENSE, [])), *map(escape.markdown, dict.fromkeys(listed))])
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


def _kind(stage: Stage) -> str:
    return "Python" if stage.use.get("through") else stage.kind


def _maker(stage: Stage) -> str:
    """A step with the model that it asked."""
    models = ", ".join(dict.fromkeys(escape.markdown(str(model["name"])) for model in stage.models))
    return escape.markdown(stage.name) + (f" ({models})" if models else f" ({escape.markdown(_kind(stage))})")


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _machine(environment: Mapping[str, Any]) -> str:
    machine = environment.get("machine") or {}
    memory = f"{machine['memory']:g} GiB" if machine.get("memory") else ""
    cores = f"{machine['cores']} cores" if machine.get("cores") else ""
    return ", ".join(part for part in (*map(str, machine.get("gpus") or []), machine.get("processor"), cores, memory) if part)


def _inputs_of(stage: Stage) -> list[str]:
    return list((stage.node.get("recipe") or {}).get("inputs") or {})


def _date(stage: Stage) -> str:
    return escape.markdown((stage.finished or "")[:10])


def _usage(stage: Stage) -> str:
    usage = stage.node.get("usage") or {}
    calls = (usage.get("calls") or 0) + (usage.get("cached_calls") or 0)
    if not calls:
        return ""
    tokens = (usage.get("input_tokens") or 0) + (usage.get("output_tokens") or 0)
    cost = usage.get("cost")
    paid = "price not known" if cost is None else f"${cost:,.2f}" if cost else ""
    return " · ".join(part for part in (f"{calls:,} calls", f"{tokens:,} tokens" if tokens else "", paid) if part)


def _fence(text: str, language: str = "") -> str:
    return escape.fence(text, language).rstrip("\n")


def _link(text: str) -> str:
    address = escape.link(text)
    return f"<{address}>" if address else escape.markdown(text)
