"""How something is published: what its author asks for, what is checked first, and the one way that all publications go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbdream import cards
from nbdream.errors import ArgumentError, HubError, nearest
from nbdream.hub.overlap import OVERLAP, overlaps
from nbdream.hub.preview import Preview, preview, show
from nbdream.hub.scan import PATHS, PERSONAL, SECRETS, Finding, refuse
from nbdream.hub.target import README, Change, Head, Say, Target, is_folder, update

DEMO, STALE = "demo", "stale"
QUALITY = (DEMO, STALE, OVERLAP)
"""What ``yes`` allows: what is to be said of the rows, and harms nobody."""
ALLOWABLE = (*QUALITY, SECRETS, PERSONAL, PATHS)
"""What ``allow`` names: kinds of findings that shall not stop a publication."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the author of a publication asks for."""

    branch: str | None = None
    private: bool = False
    token: str | None = None
    license: str | None = None
    """An identifier of the Hub, or the address of a text."""
    yes: bool = False
    """Publish what the demo model made, what is stale, and the same reply in two splits."""
    allow: Sequence[str] = ()
    """Kinds of findings that do not stop it."""
    dry_run: bool = False
    """Say what would be published, and do nothing."""
    notebook: Path | None = None
    """A notebook to publish beside it."""
    strip: bool = False
    """Whether the notebook goes without its outputs."""
    say: Say = print
    """Hears how far it is."""
    show: Callable[[Preview], None] | None = None
    """Sees what will be published, before it is; without it, the notebook's page does, or ``say`` hears the text."""

    def __post_init__(self) -> None:
        for kind in self.allow:
            if kind not in ALLOWABLE:
                raise ArgumentError(f"allow cannot be {kind!r}", nearest(kind, ALLOWABLE, "it is"))
        if self.license is not None:
            cards.licence.checked(self.license)

    @property
    def allowed(self) -> tuple[str, ...]:
        """All kinds of findings that do not stop it."""
        return (*self.allow, *(QUALITY if self.yes else ()))


def handle_of(thing: Any) -> Any:
    """The step of rows, of a column, or of a trained model; itself, where it is one."""
    return thing if hasattr(thing, "runner") else thing.step


def graph_of(thing: Any) -> cards.Graph:
    """The graph of a step, of its rows, or of a trained model."""
    handle = handle_of(thing)
    graph: cards.Graph = handle.runner.graph(handle)
    return graph


def doubts(graph: cards.Graph, parts: Mapping[str, Any], repo_id: str) -> list[Finding]:
    """What stands against publishing ``parts`` (by split): the demo model, stale ancestors, the same reply twice."""
    found = []
    if cards.is_demo(graph) and not is_folder(repo_id):
        found.append(Finding(DEMO, "the demo model, which knows next to nothing, made this", ""))
    reasons = dict.fromkeys(reason for part in parts.values() for reason in _changed(handle_of(part)))
    found += [Finding(STALE, reason, "") for reason in reasons]
    return found + overlaps(parts)


def _changed(handle: Any) -> list[str]:
    names = getattr(handle.runner, "names", None)
    return [] if names is None else [f"{handle.name} is stale: {reason}" for reason in names.changed(handle.key, handle.use_id)]


def carry_out(
    place: Target,
    graph: cards.Graph,
    build: Callable[[Head, str | None], Change],
    findings: Sequence[Finding],
    order: Order,
    rows: Mapping[str, int] | None = None,
) -> str:
    """Check, show what will be published, and publish it in one commit; the URL, or the path of the folder."""
    if not order.dry_run:
        refuse(findings, order.allowed)
    unreached = ""
    try:
        head = place.look()
    except HubError as error:
        if not order.dry_run:
            raise
        head, unreached = None, f"what is there was not looked up: {error}"
    change = build(head or Head("", {}), place.read(README, head) if head else None)
    found = cards.stages(graph)
    readme = change.files[README]
    front = cards.front_matter(readme.decode() if isinstance(readme, bytes) else readme.read_text(encoding="utf-8"))
    licence = cards.licence.decided(found, front, order.license)
    told = preview(found, (place.url, place.told()), head, change, licence, place.repo_id, findings, rows)
    (order.show or (lambda preview: show(preview, order.say)))(told)
    if unreached:
        order.say(unreached)
    if order.dry_run:
        order.say("nothing was published: this was a dry run")
    elif not update(place, build, "Publish with nbdream", order.say):
        order.say("nothing was sent: all of it is there already")
    return place.url
