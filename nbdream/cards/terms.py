"""Terms: what the sources and models of a graph ask of what is made of them, and where that cannot all be kept.

The licences are those that the graph names; what providers and families of models ask stands in ``terms.json``, which says
when it was read and where. What is not known is said to be unknown. nbdream reads terms, and gives no legal advice.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from nbdream import escape
from nbdream.cards.graph import Stage, texts

PATH = Path(__file__).with_name("terms.json")
UNKNOWN = "unknown"
ENCODERS = ("classifier", "embedder")
"""Methods of training whose models write nothing."""


@dataclass(frozen=True)
class Term:
    """What one source or model asks."""

    of: str
    """The dataset or the model."""
    stage: str
    """The step that used it."""
    is_model: bool
    license: str | None
    """As its own card names it, or the table by its name; None where neither does."""
    by: str
    """Who says so."""
    url: str | None = None
    asks: tuple[str, ...] = ()
    """In words, what is asked of what is made of it."""
    is_base: bool = False
    """Whether the step trained it further, and did not ask it."""
    listed: Mapping[str, Any] | None = None
    """Its row in the table."""


@functools.cache
def table() -> dict[str, Any]:
    """The table of terms."""
    return cast(dict[str, Any], json.loads(PATH.read_text(encoding="utf-8")))


def gathered(found: Sequence[Stage]) -> list[Term]:
    """The terms of every source and model of ``found``, in order, each once."""
    terms: dict[tuple[str, bool, bool], Term] = {}
    for stage in found:
        for term in _terms(stage):
            terms.setdefault((term.of, term.is_model, term.is_base), term)
    return list(terms.values())


def conflicts(found: Sequence[Stage], given: str | None = None, name: str | None = None) -> list[str]:
    """In words, which terms cannot be kept as things are: under the licence that the result is ``given``, and its ``name``."""
    terms = gathered(found)
    said = [*_of_training(found), *_between(terms), *(_of_license(terms, given) if given else ())]
    if name is not None and found[-1].is_run:
        said += _of_name(found[-1].name, terms, name)
    return list(dict.fromkeys([*said, *(f"{_of(term)}, and may not be shared in a changed form" for term in terms if _is(term, "nd"))]))


def by_rule(found: Sequence[Stage]) -> tuple[str, str] | None:
    """The licence that the terms leave no choice of, and why; None where they leave one, or ask for several."""
    is_run = found[-1].is_run
    asked = [term for term in gathered(found) if term.license and (_keeps(term) if is_run else _shared_alike(term))]
    if len({term.license for term in asked}) != 1:
        return None
    term = asked[0]
    return str(term.license), f"{_of(term)}, which asks for the same licence on what is made of it"


def told(found: Sequence[Stage], given: str | None = None, name: str | None = None) -> dict[str, Any]:
    """The terms and conflicts as data, for a card."""
    rows = [
        {"of": term.of, "license": term.license or UNKNOWN, "by": term.by or None, "url": term.url, "asks": list(term.asks)}
        for term in gathered(found)
    ]
    said = {"terms": [{key: value for key, value in row.items() if value} for row in rows], "conflicts": conflicts(found, given, name)}
    return {key: value for key, value in said.items() if value}


def markdown(found: Sequence[Stage], given: str | None = None, name: str | None = None) -> str:
    """What is asked, as a list for a README; conflicts first."""
    lines = [f"- **Conflict:** {escape.markdown(text)}" for text in conflicts(found, given, name)]
    lines += [f"- {escape.markdown(text)}" for text in asked(found)]
    return "\n".join(lines)


def asked(found: Sequence[Stage]) -> list[str]:
    """In words, what each source and model asks, with who says so."""
    return [f"{_of(term)}{f' ({term.by})' if term.by else ''}: {'; '.join(term.asks)}" for term in gathered(found) if term.asks]


def unknown(found: Sequence[Stage]) -> list[str]:
    """The sources and models of which no licence and no terms are known."""
    return [term.of for term in gathered(found) if term.license is None and term.listed is None]


# --- what is asked ----------------------------------------------------------------------------------------------------


def _terms(stage: Stage) -> Iterator[Term]:
    source = stage.source
    if source and stage.node.get("source"):
        of = next(iter(texts(source.get("name"))), stage.name)
        named = next(iter(texts(source.get("license"))), None)
        by = "its card" if named else ""
        asks = (*_asks(named), *(["gated: who reads it has agreed to its conditions"] if source.get("gated") else []))
        yield Term(of, stage.name, False, named, by, _address(source), asks, listed=None)
    for model in stage.models:
        yield _term_of_model(stage, model)


def _term_of_model(stage: Stage, model: Mapping[str, Any]) -> Term:
    of, named = str(model["name"]), next(iter(texts(model.get("license"))), None)
    identity = model.get("identity")
    identity = identity if isinstance(identity, dict) else {}
    host = _host(identity.get("base_url"))
    service = table()["services"].get(host)
    known = named.lower() if named and named.lower() in table()["licenses"] else None
    by_name = next((key for pattern, key in table()["models"].items() if re.search(pattern, str(identity.get("model") or of))), None)
    by_name = by_name if named is None and service is None else None
    listed = service or table()["licenses"].get(known or by_name or "")
    stated, by = named or by_name, "its card" if named else "by its name" if by_name else ""
    outputs: list[str] = []
    if listed:
        where = f"{listed['name']} {listed['edition']}, read {table()['as_of']}"
        by = f"{by}; {where}" if by else where
        outputs = [f"outputs {listed['outputs']}"]
    gated = ["gated: who loads it has agreed to its conditions"] if model.get("gated") else []
    url = listed["url"] if listed else _address(model)
    return Term(of, stage.name, True, stated, by, url, (*outputs, *_asks(stated), *gated), stage.is_run, listed)


def _asks(named: str | None) -> Iterator[str]:
    """What a licence of a known form asks of what is made of the licensed."""
    if named is None:
        return
    if "nc" in _parts(named):
        yield "non-commercial"
    if _is_share_alike(named):
        yield "share alike: what is made of it has the same licence"
    if "nd" in _parts(named):
        yield "no derivatives: it may not be shared in a changed form"


def _parts(named: str) -> list[str]:
    """The parts of a Creative Commons identifier; of any other name, what it says of commerce."""
    plain = named.lower()
    if plain.startswith("cc-"):
        return plain.split("-")
    return ["nc"] if re.search(r"non[-_ ]?commercial|research[-_ ]only", plain) else []


def _is_share_alike(named: str) -> bool:
    return named.lower() in table()["share_alike"]


def _host(address: object) -> str | None:
    try:
        return urlsplit(str(address)).hostname if address else None
    except ValueError:
        return None


def _address(about: Mapping[str, Any]) -> str | None:
    """Where the terms themselves stand: the link to the licence, else the page of the dataset or model."""
    return next((text for key in ("license_link", "url", "card_url") for text in texts(about.get(key)) if escape.link(text)), None)


# --- what cannot be kept ----------------------------------------------------------------------------------------------


def _is(term: Term, part: str) -> bool:
    return term.license is not None and part in _parts(term.license) and not (term.is_model and not term.is_base)


def _shared_alike(term: Term) -> bool:
    return term.license is not None and _is_share_alike(term.license) and not term.is_model


def _keeps(term: Term) -> bool:
    """Whether a model that was made of it keeps its licence."""
    return term.is_base and (bool(term.listed and term.listed.get("derived")) or _is_share_alike(str(term.license)))


def _of(term: Term) -> str:
    return f"{term.of} is {term.license}" if term.license else term.of


def _of_training(found: Sequence[Stage]) -> Iterator[str]:
    """Outputs that may train only models of a family, and trained another."""
    above: dict[str, set[str]] = {}
    for stage in found:
        above[stage.id] = {stage.id}.union(*(above.get(place, set()) for place in stage.inputs))
        if not stage.is_run or str((stage.node.get("recipe") or {}).get("kind")) in ENCODERS:
            continue
        upstream = gathered([other for other in found if other.id in above[stage.id] and other is not stage])
        for term in upstream:
            only = (term.listed or {}).get("only")
            bases = [str(model["name"]) for model in stage.models]
            strangers = [base for base in bases if not re.search((term.listed or {}).get("family", ""), base, re.IGNORECASE)]
            if only and term.is_model and strangers:
                by = f"{only} outputs" if only in term.of.replace("-", " ") else f"outputs of {term.of} ({only})"
                yield f"{by} may train only {only} models: `{stage.name}` is trained from {' and '.join(strangers)}"


def _between(terms: Sequence[Term]) -> Iterator[str]:
    alike: dict[str, Term] = {}
    for term in filter(_shared_alike, terms):
        alike.setdefault(str(term.license), term)
    if len(alike) > 1:
        yield " and ".join(_of(term) for term in alike.values()) + ": each asks for its own licence on what is made of it"


def _of_license(terms: Sequence[Term], given: str) -> Iterator[str]:
    for term in terms:
        if (_shared_alike(term) or _keeps(term)) and str(term.license).lower() != given.lower():
            yield f"{_of(term)}, and what is made of it has the same licence: it cannot be {given}"
        elif _is(term, "nc") and "nc" not in _parts(given):
            yield f"{_of(term)}, for non-commercial use: {given} would allow any"


def _of_name(result: str, terms: Sequence[Term], name: str) -> Iterator[str]:
    for term in terms:
        prefix = (term.listed or {}).get("prefix")
        if prefix and not name.rpartition("/")[2].lower().startswith(prefix.lower()):
            how = f"made of {term.of}" if term.is_base else f"trained with outputs of {term.of}"
            yield f"a model {how} has a name that begins with {prefix} ({(term.listed or {})['name']}): `{result}` is called {name}"
