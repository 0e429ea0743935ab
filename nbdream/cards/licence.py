"""The licence of a publication: what its author gave, or what the terms of its sources leave no choice of; nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbdream import escape
from nbdream.cards import terms
from nbdream.cards.fields import LICENSE, declared
from nbdream.cards.graph import Stage, texts
from nbdream.errors import ArgumentError, nearest

UNKNOWN = "unknown: no licence was stated"
OTHER, README = "other", "the README"
SPDX = (
    "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0",
    "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "CDLA-Permissive-2.0", "ISC", "MIT", "MPL-2.0", "PDDL", "Unlicense",
)  # fmt: skip
"""Licences that the Hub calls by their SPDX identifier in lower case."""
_ADDRESSES = {name.lower(): f"https://spdx.org/licenses/{name}" for name in SPDX}
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True)
class Licence:
    """A licence, as the front matter of a README says it, and who said it."""

    name: str | None
    """The Hub's identifier; ``other`` for what it has none for; None where no licence is known."""
    by: str = ""
    title: str | None = None
    link: str | None = None

    @property
    def shown(self) -> str:
        """The licence as a person reads it."""
        if self.name is None:
            return UNKNOWN
        return " ".join(dict.fromkeys(filter(None, (self.title or (None if self.name == OTHER else self.name), self.link)))) or OTHER

    def front_matter(self) -> dict[str, str | None]:
        """The keys of the front matter that it sets; None takes one away. What a person wrote there stays as it is."""
        if self.name is None or self.by == README:
            return {}
        return {"license": self.name, "license_name": self.title, "license_link": self.link}


def checked(given: str) -> str:
    """``given`` as a person writes a licence: an identifier of the Hub, or the address of a text. `ArgumentError` for anything else."""
    if escape.link(given):
        return given
    names = terms.table()["hub"]
    if given.lower() not in names:
        raise ArgumentError(f"the Hub has no licence {given!r}", f"{nearest(given.lower(), names)}; or give the address of its text")
    return given.lower()


def decided(found: Sequence[Stage], front: Mapping[str, Any] | None = None, given: str | None = None) -> Licence:
    """The licence of the last of ``found``: the ``given`` one, else what its step declares, else what a person wrote into the README
    (its ``front`` matter), else what the terms of the sources leave no choice of.
    """
    if given is not None:
        name = checked(given)
        return Licence(OTHER, "given", link=name) if escape.link(name) else Licence(name, "given")
    front = front or {}
    name_there = ", ".join(texts(front.get("license"))) or None
    names = declared(found[-1], LICENSE)
    if len(names) == 1 and _IDENTIFIER.fullmatch(names[0]):
        return Licence(names[0], f"declared by {found[-1].name}")
    ruled = terms.by_rule(found)
    if ruled is not None and name_there in (None, ruled[0]) and ruled[0] in terms.table()["hub"]:
        return Licence(ruled[0], ruled[1])
    if name_there is not None:
        title, link = (next(iter(texts(front.get(key))), None) for key in ("license_name", "license_link"))
        return Licence(name_there, README, title, link)
    return Licence(None)


def stated(found: Sequence[Stage], given: Any = None) -> list[str]:
    """The licences declared for the result, else ``given`` (what the README's front matter says), else that it is unknown.

    A known one is a web address. That of a source is not that of what is made of it.
    """
    names = declared(found[-1], LICENSE) or texts(given)
    return [_ADDRESSES.get(name.lower()) or escape.link(name) or name for name in names] or [UNKNOWN]
