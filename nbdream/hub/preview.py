"""What is about to be published, in words: what goes where, under which licence, and what should be known before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nbdream import cards
from nbdream.cards.graph import Stage
from nbdream.escape import terminal
from nbdream.hub.scan import Finding
from nbdream.hub.target import Change, Head, shown, size

LONGEST = 12
"""Files that are listed one by one."""


@dataclass(frozen=True)
class Preview:
    """A publication before it is made. Its text is what a person reads."""

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

    def lasting(self) -> list[str]:
        """What is so of the publication itself, whenever it is sent."""
        told = ["  rows: " + " · ".join(f"{split} {count:,}" for split, count in self.rows.items())] if self.rows else []
        told.append(f"  licence: {self.licence}")
        told += [f"  terms: {text}" for text in self.terms]
        told += [f"  conflict: {text}" for text in self.conflicts]
        told += [f"  {finding.kind}: {finding}" for finding in self.findings]
        return [_line(text) for text in [*told, *(f"  note: {text}" for text in self.notes)]]

    def lines(self) -> list[str]:
        """The text, line by line."""
        new = {path: count for path, count in self.files.items() if path not in self.unchanged}
        there = f", {len(self.unchanged)} of them there already" if self.unchanged else ""
        told = [f"{self.name} → {self.where} ({self.place})", *self.lasting()]
        told.append(f"  files: {len(self.files)}{there}; {shown(sum(new.values()))} are sent")
        told += [f"    {path} ({shown(count)})" for path, count in list(new.items())[:LONGEST]]
        told += [f"    … and {len(new) - LONGEST} more"] if len(new) > LONGEST else []
        return [_line(text) for text in [*told, *(f"    {path} is deleted" for path in self.gone)]]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def _line(text: str) -> str:
    """What others wrote is in it: one line, and no escape sequence of a terminal."""
    return terminal(" ".join(text.splitlines()))


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
