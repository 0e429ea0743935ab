"""What a running cell shows, as a line: one that is written over in a terminal, and now and then one of its own in a file."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from nbdream.escape import terminal
from nbdream.widgets.progress import TerminalScreen

FIRST, EVERY = 10.0, 30.0
"""Seconds after which a cell gets a line of its own, and between two of them, where nothing can be written over."""


class LiveLine:
    """The last line of what a cell shows while it runs; ``say`` prints a line that stays."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._screen = TerminalScreen() if sys.stdout.isatty() and sys.stderr.isatty() else None
        self._place, self._next = "", 0.0

    def begin(self, place: str) -> None:
        """A cell begins; ``place`` says which."""
        self._place, self._next = place, time.monotonic() + FIRST

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take in a message of the kernel's."""
        if not (text := shown(message)):
            return
        line = terminal(f"  {self._place} {text}")
        if self._screen is not None:
            self._screen.show({"text/plain": line[: shutil.get_terminal_size().columns - 1]})
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            self._say(line)

    def say(self, line: str) -> None:
        """Print a line that stays, in place of the one that changes."""
        self.clear()
        self._say(line)

    def clear(self) -> None:
        """Leave nothing behind."""
        if self._screen is not None:
            self._screen.clear()


def shown(message: Mapping[str, Any]) -> str:
    """The line of text in a message that shows something for now: a display that is updated, or a widget with a ``line``."""
    kind, content = message.get("msg_type"), message.get("content") or {}
    text: Any = None
    if kind == "comm_msg":
        text = ((content.get("data") or {}).get("state") or {}).get("line")
    elif kind in ("display_data", "update_display_data") and (content.get("transient") or {}).get("display_id"):
        text = (content.get("data") or {}).get("text/plain")
    lines = text.strip().splitlines() if isinstance(text, str) else []
    return " ".join(lines[-1].split()) if lines else ""
