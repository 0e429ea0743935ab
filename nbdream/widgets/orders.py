"""`Orders`: the rows that were asked for, in the order that was asked for, remembered while there is room."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

MOST_BYTES = 64 * 2**20
"""Memory of all orders of a kernel together: sixteen orders of a million rows."""

_numbers = itertools.count()


class Orders:
    """Arrays of Arrow by what was asked; those not used for longest are forgotten when there are too many."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._found: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def owner() -> int:
        """A number for a table, which its keys begin with."""
        return next(_numbers)

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What is remembered under ``key``, else what ``make`` gives."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        made = make()
        with self._lock:
            self._found[key] = made
            while self.nbytes > self._most and len(self._found) > 1:
                self._found.popitem(last=False)
        return made

    @property
    def nbytes(self) -> int:
        """What is remembered, in bytes."""
        return sum(found.nbytes for found in self._found.values() if found is not None)


ORDERS = Orders()
"""Those of this kernel."""
