"""Known credentials: they are sent to their provider and to nobody else, and stand in no file of ours.

Known is what was given as ``api_key`` or ``token`` (`remember`), and what an environment variable holds whose name ends in
KEY, TOKEN, SECRET or PASSWORD; of 8 characters and more, since shorter ones occur in ordinary text. Data that merely looks like
a secret is no business of this module.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

ENDINGS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
SHORTEST = 8
MASK = "***"

_given: dict[str, str] = {}
_lock = threading.Lock()


def remember(value: str | None, name: str = "a given key") -> None:
    """Treat ``value`` as a credential from now on; ``name`` is what messages call it."""
    if value and len(value.strip()) >= SHORTEST:
        with _lock:
            _given.setdefault(value.strip(), name)


def known() -> dict[str, str]:
    """The credentials known now, longest first, each with the name that messages call it by."""
    told = {name: os.environ.get(name, "").strip() for name in os.environ if name.upper().endswith(ENDINGS)}
    found = {value: name for name, value in told.items() if len(value) >= SHORTEST}
    with _lock:
        found |= {value: name for value, name in _given.items() if value not in found}
    # The longest first: a key that begins with another one is replaced whole.
    return dict(sorted(found.items(), key=lambda item: (-len(item[0]), item[0])))


def found_in(text: str, credentials: Mapping[str, str] | None = None) -> str | None:
    """The name of a known credential that ``text`` contains, or None. ``credentials``: what `known` gave a moment ago."""
    for value, name in (known() if credentials is None else credentials).items():
        if value in text:
            return name
    return None


def contains(text: str) -> bool:
    """Whether ``text`` contains a known credential."""
    return found_in(text) is not None


def redact(text: str, credentials: Mapping[str, str] | None = None) -> str:
    """``text`` with every known credential replaced by ``***``."""
    for value in known() if credentials is None else credentials:
        if value in text:
            text = text.replace(value, MASK)
    return text


def scrub(value: Any, credentials: Mapping[str, str] | None = None) -> Any:
    """A JSON value with every known credential replaced in its texts, the keys of its objects included."""
    credentials = known() if credentials is None else credentials
    if isinstance(value, str):
        return redact(value, credentials)
    if isinstance(value, Mapping):
        return {scrub(key, credentials): scrub(part, credentials) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub(part, credentials) for part in value]
    return value
