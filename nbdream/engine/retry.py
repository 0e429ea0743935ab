"""When to ask again: the provider says what an error is, the rule is here, once."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

TOO_MANY = 429
REFUSED = frozenset({TOO_MANY, 503, 529})
"""Statuses that say something about how much is asked, and nothing about the request: they count no try of it."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often a request is asked again."""

    first: float = 0.5
    """Seconds before the second try; doubled for each further one."""
    most: float = 20.0
    """The most seconds between two tries, unless the provider asks for more."""
    tries: int = 6
    """Tries of a request that meets time-outs and errors of the server."""
    lost_tries: int = 8
    """Tries to connect to a server that has answered before: it may be starting again."""
    limited_seconds: float = 1800.0
    """Seconds after which a request that has only been refused for their number is given up."""
    strange_tries: int = 4
    """Tries to connect to a server that has never answered."""
    strange_seconds: float = 5.0
    """No further try to connect to it later than this after the first one."""
    longest: float = 600.0
    """A provider that asks for a longer wait than this is not waited for."""

    def wait(
        self, error: Mapping[str, Any], tries: int, elapsed: float, answered: bool, draw: Callable[[], float] = random.random
    ) -> float | None:
        """Seconds to wait before asking again after ``tries`` tries, the last of which gave ``error``; None: give up.

        ``answered``: the model has answered something in this kernel; ``elapsed``: seconds since the first try.
        """
        backoff = min(self.most, self.first * 2.0 ** min(tries - 1, 30)) * (0.5 + draw() / 2)
        refused = error.get("status") in REFUSED
        strange = not answered and bool(error.get("unreachable") or error.get("no_completion"))
        asked = float(error.get("retry_after") or 0)
        # Never earlier than asked for, and not all lanes in the same instant.
        wait = max(backoff, asked * (1 + draw() / 10))
        if asked > self.longest or (strange and elapsed + wait > self.strange_seconds):
            return None
        if refused and answered:
            return wait if elapsed < self.limited_seconds else None
        return wait if tries < self._most_tries(error, strange or not answered) else None

    def _most_tries(self, error: Mapping[str, Any], strange: bool) -> int:
        if strange:
            return self.strange_tries
        if error.get("unreachable"):
            return self.lost_tries
        return self.tries
