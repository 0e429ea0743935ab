"""The licence of a publication: what its author stated, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from nbdream import escape
from nbdream.cards.fields import LICENSE, declared
from nbdream.cards.graph import Stage, texts

UNKNOWN = "unknown: no licence was stated"
SPDX = (
    "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0",
    "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "CDLA-Permissive-2.0", "ISC", "MIT", "MPL-2.0", "PDDL", "Unlicense",
)  # fmt: skip
"""Licences that the Hub calls by their SPDX identifier in lower case."""
_ADDRESSES = {name.lower(): f"https://spdx.org/licenses/{name}" for name in SPDX}
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.-]*")


def identifier(found: Sequence[Stage]) -> str | None:
    """The licence that the author of the last step declared for its result, where the Hub has a name for it."""
    names = declared(found[-1], LICENSE)
    return names[0] if len(names) == 1 and _IDENTIFIER.fullmatch(names[0]) else None


def stated(found: Sequence[Stage], given: Any = None) -> list[str]:
    """The licences declared for the result, else ``given`` (what a person wrote in the README), else that it is unknown.

    A known one is a web address. That of a source is not that of what is made of it.
    """
    names = declared(found[-1], LICENSE) or texts(given)
    return [_ADDRESSES.get(name.lower()) or escape.link(name) or name for name in names] or [UNKNOWN]
