"""What is about to be published, in words: what goes where, under which licence, and what should be known before."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbdream import cards, escape
from nbdream.cards.graph import Stage
from nbdream.hub.scan import Finding
from nbdream.hub.target import Change, Head, Say, shown, size

LONGEST = 12
"""Files that are listed one by one."""


@dataclass(frozen=True)
class Fact:
    """One thing that is said of a publication; what others wrote may be in its texts."""

    label: str
    text: str
    listed: tuple[str, ...] = ()
    """What it consists of, one by one."""
    doubtful: bool = False
    """Whether a person should look at it before publishing."""


@dataclass(frozen=True)
class Preview:
    """A publication before it is made: text, and in a notebook HTML of the same facts."""

    name: str
    """The result."""
    where: str
    """The address, or the folder."""
    place: str
    """What is there now."""
    files: Mapping[str, int]
    """What the publication consists of, with sizes."""
    unchanged: frozenset[str]
    """What is there already."""
    gone: Sequence[str]
    """What is deleted."""
    licence: str
    terms: Sequence[str] = ()
    conflicts: Sequence[str] = ()
    findings: Sequence[Finding] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def lasting(self) -> list[Fact]:
        """What is so of the publication itself, whenever it is sent."""
        told = [Fact("rows", " · ".join(f"{split} {count:,}" for split, count in self.rows.items()))] if self.rows else []
        told.append(Fact("licence", self.licence))
        told += [Fact("terms", text) for text in self.terms]
        told += [Fact("conflict", text, doubtful=True) for text in self.conflicts]
        told += [Fact(finding.kind, str(finding), doubtful=True) for finding in self.findings]
        return [*told, *(Fact("note", text) for text in self.notes)]

    def sent(self) -> Fact:
        """What is sent this time, file by file."""
        new = {path: count for path, count in self.files.items() if path not in self.unchanged}
        there = f", {len(self.unchanged)} of them there already" if self.unchanged else ""
        listed = [f"{path} ({shown(count)})" for path, count in list(new.items())[:LONGEST]]
        listed += [f"… and {len(new) - LONGEST} more"] if len(new) > LONGEST else []
        listed += [f"{path} is deleted" for path in self.gone]
        return Fact("files", f"{len(self.files)}{there}; {shown(sum(new.values()))} are sent", tuple(listed))

    def __str__(self) -> str:
        return "\n".join([_line(f"{self.name} → {self.where} ({self.place})"), text_of([*self.lasting(), self.sent()], "  ")])

    def html(self) -> str:
        """The same as a static piece of a page."""
        where = f"{escape.html(_line(self.where))} ({escape.html(_line(self.place))})"
        head = f'<p style="{_WRAPPED}"><strong>{escape.html(_line(self.name))}</strong> → {where}</p>'
        return head + html_of([*self.lasting(), self.sent()])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self.html()}


def text_of(facts: Sequence[Fact], indent: str = "") -> str:
    """Facts for a terminal, a line each."""
    return "\n".join(
        line
        for fact in facts
        for line in (f"{indent}{_line(f'{fact.label}: {fact.text}')}", *(f"{indent}  {_line(text)}" for text in fact.listed))
    )


def html_of(facts: Sequence[Fact]) -> str:
    """Facts for a notebook: words stay whole however narrow the page is, but for those that are longer than a line."""
    rows = "".join(
        f'<tr><th scope="row" style="{_KEY}{_DOUBTFUL if fact.doubtful else ""}">{escape.html(fact.label)}</th>'
        f'<td style="{_VALUE}">{"<br>".join(escape.html(_line(text)) for text in (fact.text, *fact.listed))}</td></tr>'
        for fact in facts
    )
    return f'<table class="nbdream-preview" style="margin-left:0">{rows}</table>'


_WRAPPED = "overflow-wrap:anywhere"
_KEY = "text-align:left;vertical-align:top;padding:2px 1em 2px 6px;white-space:nowrap;font-weight:normal;"
_DOUBTFUL = "font-weight:bold;border-left:3px solid var(--jp-warn-color1, currentColor);"
_VALUE = f"text-align:left;vertical-align:top;padding:2px 0;{_WRAPPED}"


def _line(text: str) -> str:
    """What others wrote is in it: one line, and no escape sequence of a terminal."""
    return escape.terminal(" ".join(text.splitlines()))


def show(preview: Preview, say: Say) -> None:
    """Show ``preview`` to whoever runs this: as HTML where a notebook's page shows it, elsewhere as text."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if getattr(shell, "kernel", None) is None:
        say(str(preview))
    else:
        ipython.display.display(preview)


def preview(
    found: Sequence[Stage],
    where: tuple[str, str],
    head: Head | None,
    change: Change,
    licence: cards.Licence,
    name: str,
    findings: Sequence[Finding],
    rows: Mapping[str, int] | None = None,
) -> Preview:
    """The preview of a change. ``where``: the address, and what is there; ``name``: what the publication is called."""
    unknown = cards.terms.unknown(found)
    notes = [f"no licence or terms are known of {', '.join(unknown)}"] if unknown else []
    through = [stage.name for stage in found if stage.use.get("through")]
    notes += (
        [f"Python of the notebook stands between {', '.join(through)} and its inputs: whether they are current is not known"]
        if through
        else []
    )
    return Preview(
        name=found[-1].name,
        where=where[0],
        place=where[1],
        files={path: size(content) for path, content in change.files.items()},
        unchanged=frozenset(path for path, content in change.files.items() if head is not None and head.holds(path, content)),
        gone=[] if head is None else change.gone(head),
        licence=licence.shown + (f" ({licence.by})" if licence.by else ""),
        terms=cards.terms.asked(found),
        conflicts=cards.terms.conflicts(found, licence.name, name),
        findings=findings,
        rows=rows or {},
        notes=notes,
    )
