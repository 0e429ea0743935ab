"""`%dream VERB …`: the session, its models, what its results are and where they come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbdream.cards.graph import TAKEN_OVER
from nbdream.comparison import compare
from nbdream.errors import ArgumentError, nearest
from nbdream.frontmatter import parse_yaml
from nbdream.magics import inspecting, publishing, recompute, sharing
from nbdream.magics.grammar import Call, Magic, Option, read_words, split_line
from nbdream.magics.names import is_handle, is_model, is_trained
from nbdream.magics.notebook import shown_path
from nbdream.magics.options import result_of, split_size
from nbdream.widgets.browse import difference_json
from nbdream.widgets.lineage import lineage_view
from nbdream.widgets.mime import TABLE
from nbdream.widgets.show import View, lines_view, table_view, text_view
from nbdream.widgets.table import lines_html, table_html

if TYPE_CHECKING:
    from nbdream.comparison import Comparison
    from nbdream.magics.notebook import Notebook


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb of ``%dream``."""

    usage: str
    summary: str
    do: Callable[[Notebook, Call], Any]
    words: tuple[int, int]
    """The fewest and the most words after the verb."""
    options: tuple[Option, ...] = ()


def dream(notebook: Notebook, line: str) -> Any:
    """Do what a line of ``%dream`` says; alone, list the verbs."""
    words = split_line(line)
    if not words or words[0] in ("--help", "-h", "?"):
        return _verbs()
    name, *rest = words
    verb = VERBS.get(name)
    if verb is None:
        raise ArgumentError(f"%dream knows no verb {name!r}", nearest(name, VERBS, "its verbs are"))
    if name == "model":  # NAME = MODEL key=value …: not options
        return _model(notebook, rest)
    magic = Magic(name=f"dream {name}", summary=verb.summary, options=verb.options, body="none", line_only=True)
    call = Call(magic)
    if any(word in ("--help", "-h", "?") for word in rest):
        return text_view(
            "\n".join([f"%dream {verb.usage}", f"  {verb.summary}", *(f"  {option.flag:12} {option.help}" for option in verb.options)])
        )
    read_words(call, rest)
    few, many = verb.words
    if not few <= len(call.words) <= many:
        raise ArgumentError(f"%dream {name} takes {_count(few, many)}", f"%dream {verb.usage}")
    return verb.do(notebook, call)


def _verbs() -> View:
    width = max(len(verb.usage) for verb in VERBS.values())
    rows = [{"": f"%dream {verb.usage}", "what it does": verb.summary} for verb in VERBS.values()]
    lines = (f"%dream {verb.usage:{width}}  {verb.summary}" for verb in VERBS.values())
    return View({"text/plain": "\n".join(lines), "text/html": table_html(list(rows[0]), rows, len(rows), numbered=False)})


def _count(few: int, many: int) -> str:
    counts = f"{few}" if few == many else f"{few} to {many}"
    return "no words" if many == 0 else f"{counts} word{'' if many == 1 else 's'}"


# --- the session and its models -------------------------------------------------------------------------------------


def _open(notebook: Notebook, call: Call) -> View:
    session = notebook.open(call.words[0] if call.words else notebook.config.session)
    return lines_view([f"session: {shown_path(session.folder)}"])


_ASSIGNED = re.compile(r"(\w+)\s*=\s*(.+)$", re.DOTALL)


def _model(notebook: Notebook, words: list[str]) -> View | None:
    found = _ASSIGNED.match(" ".join(words[:3]) if len(words) > 1 and words[1] == "=" else " ".join(words[:1]))
    if not words:
        return _models(notebook)
    if found is None:
        raise ArgumentError("%dream model needs a name and a model", "%dream model gpt = openai/gpt-4o-mini temperature=0.7")
    name, given = found.group(1), found.group(2)
    settings = words[3:] if len(words) > 1 and words[1] == "=" else words[1:]
    force = "--force" in settings
    options = dict(_setting(word) for word in settings if word != "--force")
    notebook.bindings.check(name, force, model=True)
    from nbdream.llms import resolve_llm

    model = resolve_llm(given, **options)
    notebook.hide_credentials()  # an api_key on the line is known now
    notebook.bindings.bind(name, model)
    return None


def _setting(word: str) -> tuple[str, Any]:
    key, equals, value = word.partition("=")
    if not equals or not key.isidentifier():
        raise ArgumentError(f"{word!r} is no setting", "settings are written name=value, without spaces: temperature=0.7")
    if value[:1] in "\"'" and value[-1:] == value[:1] and len(value) > 1:
        return key, value[1:-1]
    return key, parse_yaml(value)


def _models(notebook: Notebook) -> View:
    rows = [
        {"name": name, "model": str(value)} for name, value in notebook.variables.items() if is_model(value) and not name.startswith("_")
    ]
    if not rows:
        return lines_view(["no model yet: %dream model gpt = openai/gpt-4o-mini temperature=0.7"])
    return table_view(["name", "model"], rows)


# --- what there is --------------------------------------------------------------------------------------------------


def _rows(notebook: Notebook, expression: str) -> Any:
    value = result_of(notebook, expression)
    if is_model(value) or is_trained(value):
        raise ArgumentError(f"{expression} is a model, not rows", "name rows of the session: see %dream status")
    return value if hasattr(value, "splits") else value.step


def _status(notebook: Notebook, call: Call) -> View:
    session = notebook.session()
    rows = status_rows(session)
    if not rows:
        return lines_view([f"session: {shown_path(session.folder)}: no results yet"])
    return table_view(STATUS, [status_words(row) for row in rows], f"session: {shown_path(session.folder)}")


STATUS = ("name", "state", "result", "made")
"""The columns in which a status is shown."""


def status_rows(session: Any) -> list[dict[str, Any]]:
    """Every name of a session with its state, in words; without the rows that a cell took over from a variable."""
    from nbdream.objects import ResultFolder
    from nbdream.widgets.curve import History
    from nbdream.workers import runs

    training = {name: History.of(runs.events(paths)).line() for name, paths in runs.living(session.folder / "objects").items()}
    running = {**{step.name: "running" for step in session.running()}, **training}
    rows = []
    for name in session.names:
        entry = session.names.current(name)
        node = ResultFolder(session.folder / "objects" / str(entry["recipe"])).node() or {}
        if is_taken_over(name, node):
            continue
        state = session.names.state(name)
        said = running.get(name) or state.state + (f": {'; '.join(state.reasons)}" if state.reasons else "")
        made = str((node.get("made") or {}).get("finished") or "")[:19]
        is_model = node.get("kind") == "run"
        counts = {"rows": None if is_model else node.get("rows"), "failures": node.get("failures")}
        rows.append({"name": name, "state": said, "kind": "model" if is_model else "rows", **counts, "made": made})
    unnamed = sorted(running.keys() - {row["name"] for row in rows})
    return rows + [{"name": name, "state": running[name], "kind": "", "rows": None, "failures": None, "made": ""} for name in unnamed]


def status_words(row: Mapping[str, Any]) -> dict[str, str]:
    """One of `status_rows` as a person reads it."""
    count = row["rows"]
    result = row["kind"] if count is None else f"{count:,} row{'' if count == 1 else 's'}"
    failed = f" · {row['failures']:,} failed" if row["failures"] else ""
    return {"name": row["name"], "state": row["state"], "result": result + failed, "made": row["made"][:16].replace("T", " ")}


def is_taken_over(name: str, node: Mapping[str, Any]) -> bool:
    """Whether a result is only what a cell took over from a variable: a frame, a list of dicts."""
    return node.get("type") == "DataSource" and name.endswith(TAKEN_OVER)


def _why(notebook: Notebook, call: Call) -> View:
    return lines_view(why_lines(notebook.session(), _session_name(notebook, call.words[0])))


def why_lines(session: Any, name: str) -> list[str]:
    """Why ``name`` would run again, and why it did when it last ran."""
    reasons = session.why(name)
    stale = session.names.state(name).reasons
    ran = reasons[: len(reasons) - len(stale)]
    since = "nothing has changed since" if ran else "nothing has changed"
    now = [f"{name} is stale: {reason}" for reason in stale] or [f"{name}: {since}; its cell costs nothing to run again"]
    return [*(f"{name} ran again: {reason}" for reason in ran), *now]


def _diff(notebook: Notebook, call: Call) -> View:
    session = notebook.session()
    pair = versions(session, [_session_name(notebook, word) for word in call.words])
    found = compare(*pair)
    below = table_html(DIFFERENT, found.examples, len(found.examples), numbered=False) if found.examples else ""
    beside = difference_json(*pair, found.lines())
    shown: dict[str, Any] = {"text/plain": str(found), "text/html": lines_html(found.lines()) + below}
    return View(shown if beside is None else {**shown, TABLE: beside})


DIFFERENT = ("row", "column", "before", "after")
"""The columns in which values that differ are shown."""


def compared(session: Any, names: Sequence[str]) -> Comparison:
    """Two results of a session compared; of one name, its earlier result with its current one."""
    return compare(*versions(session, names))


def versions(session: Any, names: Sequence[str]) -> tuple[Any, Any]:
    """Two results of a session; of one name, its earlier result and its current one."""
    before, after = (earlier(session, names[0]), session.load(names[0])) if len(names) == 1 else [session.load(name) for name in names]
    return _step(before), _step(after)


def earlier(session: Any, name: str) -> Any:
    """The result that a name pointed at before its current one."""
    from nbdream.steps.saved import SavedStep

    current = session.load(name)
    history = (session.names.read(name) or {"history": []})["history"]
    places = [(str(entry["recipe"]), str(entry["use"])) for entry in history]
    older = [place for place in places if place[0] != current.key and (session.folder / "objects" / place[0] / "node.json").exists()]
    if not older:
        raise ArgumentError(f"{name} has no earlier result", "name two results: %dream diff A B")
    return SavedStep(session, *older[-1])


def _step(thing: Any) -> Any:
    return thing.step if is_trained(thing) else thing


def _session_name(notebook: Notebook, word: str) -> str:
    value = notebook.variables.get(word)
    name = getattr(value, "name", None)
    return name if isinstance(name, str) and (is_handle(value) or is_model(value) or is_trained(value)) else word


def _cost(notebook: Notebook, call: Call) -> View:
    return cost_view(notebook.session())


def cost_view(session: Any) -> View:
    """What was paid for, by result and by model, as the stored replies say it; and what results took from the cache instead."""
    from nbdream import ledger
    from nbdream.objects import ResultFolder
    from nbdream.prices import shown

    found = {}
    for name in session.names:
        for entry in session.names.read(name)["history"]:
            node = ResultFolder(session.folder / "objects" / str(entry["recipe"])).node()
            if node is not None and node.get("usage"):
                found[str(entry["recipe"])] = node
    paid = session.engine.paid()
    taken = ledger.by(found.values(), lambda node: str(node["name"]))
    by_name = ledger.grouped(paid, lambda part: str(part["by"] or "asked directly"))
    by_model = ledger.grouped(paid, lambda part: str(part["model"] or "unknown"))
    rows = [_cost_row(name, by_name.get(name, []), taken.get(name, ledger.nothing())) for name in dict.fromkeys([*by_name, *taken])]
    rows += [_cost_row(f"model {name}", parts, None) for name, parts in by_model.items()]
    rows.append(_cost_row("all", paid, ledger.total(taken.values())))
    limit = session.budget
    note = "by the price on the day of each call" if limit is None else f"{_spent(paid)} of the session's {shown(limit)} is spent"
    return table_view(list(rows[0]), rows, note)


def _cost_row(name: str, paid: Sequence[Mapping[str, Any]], taken: Mapping[str, Any] | None) -> dict[str, Any]:
    """A line of `cost_view`; what was taken from the cache is known by result, not by model."""
    from nbdream import ledger
    from nbdream.prices import shown

    usage = ledger.total(paid)
    saved = None if taken is None else taken["saved"]
    return {
        "": name,
        "calls paid": usage["calls"],
        "cached": "" if taken is None else taken["cached_calls"],
        "failed": usage["failed_calls"],
        "tokens in": usage["input_tokens"],
        "tokens out": usage["output_tokens"],
        "spent": _spent(paid),
        "saved": "" if taken is None else "unknown" if saved is None else shown(saved),
    }


def _spent(paid: Sequence[Mapping[str, Any]]) -> str:
    from nbdream import ledger
    from nbdream.prices import shown

    unknown = ledger.unpriced(paid)
    known = shown(ledger.at_least(paid))
    if not unknown:
        return known
    return "unknown" if unknown == sum(part["calls"] for part in paid) else f"{known} + {unknown:,} calls of unknown price"


def _budget(notebook: Notebook, call: Call) -> View:
    from nbdream.prices import shown

    session = notebook.session()
    if call.words:
        session.budget = None if call.words[0] == "off" else _amount(call.words[0])
    said = "no budget" if session.budget is None else f"a budget of {shown(session.budget)}"
    return lines_view([f"session: {said}, {_spent(session.engine.paid())} spent"])


def _amount(text: str) -> float:
    try:
        return float(text.removeprefix("$"))
    except ValueError:
        raise ArgumentError(f"{text!r} is no amount", "%dream budget 5 (dollars), or %dream budget off") from None


def _card(notebook: Notebook, call: Call) -> View:
    return card_view(notebook.session(), result_of(notebook, call.words[0]))


def card_view(session: Any, thing: Any) -> View:
    """The card of a result, as a page and as JSON text."""
    import json

    from nbdream.cards import card_html

    page = card_html(session.graph(thing.step), thing.picture) if is_trained(thing) else card_html(session.graph(thing))
    return View({"text/plain": json.dumps(card_of(thing), indent=1, ensure_ascii=False), "text/html": page})


def card_of(thing: Any) -> dict[str, Any]:
    """The card of rows or of a trained model, as JSON data."""
    card: dict[str, Any] = thing.training_card() if is_trained(thing) else thing.card()
    return card


def _failures(notebook: Notebook, call: Call) -> Any:
    handle = _rows(notebook, call.words[0])
    return handle.failures if len(handle.failures) else lines_view([f"{call.words[0]}: no row failed"])


def _lineage(notebook: Notebook, call: Call) -> View:
    session = notebook.session()
    found = [result_of(notebook, word) for word in call.words] or [session.load(row["name"]) for row in status_rows(session) if row["made"]]
    return lineage_view([session.graph(thing.step if is_trained(thing) else thing) for thing in found])


# --- what is made of it ---------------------------------------------------------------------------------------------


def _split(notebook: Notebook, call: Call) -> View:
    expression, *sizes = call.words
    handle = _rows(notebook, expression)
    parts = dict(zip(("train", "validation", "test"), (split_size(text) for text in sizes), strict=False))
    seed = call.get("seed", 42)
    notebook.session().set_splits(handle.name, parts, seed=seed, stratify_by_column=call.get("stratify"))
    made = {part: getattr(handle, part) for part in parts}
    return lines_view([" · ".join(f"{expression}.{part}: {len(step):,} rows" for part, step in made.items())])


VERBS: dict[str, Verb] = {
    "open": Verb("open [FOLDER]", "open a session folder (created if missing)", _open, (0, 1)),
    "model": Verb("model NAME = PROVIDER/MODEL [key=value …]", "bind a model to a variable; alone, list the models", _open, (0, 99)),
    "status": Verb("status", "every result: fresh, stale (and why), running", _status, (0, 0)),
    "why": Verb("why NAME", "why it would run again, in words", _why, (1, 1)),
    "diff": Verb("diff NAME [OTHER]", "what differs from another result, or from its own earlier one: recipe and rows", _diff, (1, 2)),
    "recompute": Verb(
        "recompute NAME [--failed]", "have its cell make it anew when it runs next; what was made is kept", recompute.verb, (1, 1),
        recompute.OPTIONS,
    ),
    "lineage": Verb("lineage [NAME]", "what comes from what, as a graph", _lineage, (0, 1)),
    "cost": Verb("cost", "calls, tokens and dollars, spent and saved, by result and by model", _cost, (0, 0)),
    "budget": Verb("budget [DOLLARS | off]", "the most that all calls of the session may cost together", _budget, (0, 1)),
    "failures": Verb("failures NAME", "the rows that failed, with what the model really said", _failures, (1, 1)),
    "split": Verb(
        "split NAME TRAIN VALIDATION [TEST] [--seed N]", "NAME.train, NAME.validation: follow NAME when it changes", _split, (2, 4),
        (
            Option(name="seed", kind="integer", help="another way to shuffle (default 42)"),
            Option(name="stratify", help="keep the shares of this column's values in each part"),
        ),
    ),
    "plot": Verb("plot NAME …", "the curves of trainings, laid over each other, as a Plotly figure", inspecting.plot, (1, 8)),
    "tokens": Verb(
        "tokens NAME --base MODEL", "rows as a model sees them: what is learned, where packed rows end", inspecting.tokens, (1, 1),
        inspecting.TOKENS,
    ),
    "card": Verb("card NAME", "the card: what it is and everything that it comes from", _card, (1, 1)),
    "publish": Verb(publishing.USAGE, publishing.SUMMARY, publishing.publish, (1, 2), publishing.OPTIONS),
    "share": Verb(sharing.USAGE, sharing.SUMMARY, sharing.share, (1, 1), sharing.OPTIONS),
}  # fmt: skip
