"""What is seen while work runs: a line that changes, and for a training run a curve. Nothing of it stays in the notebook."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from nbdream.cards.curve import LOOKS, curve_svg
from nbdream.widgets.curve import History, curve_widget
from nbdream.widgets.live import quickened, while_it_runs
from nbdream.widgets.meter import OVER, Limit, Meter, meter_widget, retire
from nbdream.widgets.status import live_line
from nbdream.widgets.table import lines_html

QUIET = 0.3
"""Seconds of work below which nothing is shown."""
WAS_RUNNING = "If nothing moves here, the cell was running when this was saved: run it again, what is done costs nothing."
PERIOD = 0.25
"""Seconds between two updates of what is shown."""
ANEW = 10.0
"""Seconds after which what would be saved is said anew, where a widget shows the rest."""


class Screen(Protocol):
    """Where a changing picture is shown."""

    def show(self, bundle: Mapping[str, Any]) -> None:
        """Show ``bundle`` (MIME type → content) in place of what was shown before."""

    def clear(self) -> None:
        """Leave nothing behind."""


class NotebookScreen:
    """An output of the running cell that is updated in place; ``result``: whether something is shown in its place in the end."""

    def __init__(self, *, result: bool = True) -> None:
        self._result = result
        self._handle: Any = None

    def show(self, bundle: Mapping[str, Any]) -> None:
        """Display ``bundle``, or update what is displayed."""
        from IPython.display import display

        if self._handle is None:
            self._handle = display(dict(bundle), raw=True, display_id=True)
        else:
            self._handle.update(dict(bundle), raw=True)

    def clear(self) -> None:
        """Empty the cell's output: as soon as the result comes, lest the page jump, and at once where none does."""
        from IPython.display import clear_output

        if self._handle is not None:
            clear_output(wait=self._result)
            self._handle = None


class TerminalScreen:
    """One line of a terminal, written over and over; silent when the output goes to a file."""

    def __init__(self) -> None:
        self._width = 0

    def show(self, bundle: Mapping[str, Any]) -> None:
        """Write the bundle's text over the line before."""
        if not sys.stderr.isatty():
            return
        line = str(bundle.get("text/plain", "")).splitlines()[-1:] or [""]
        sys.stderr.write("\r" + line[0].ljust(self._width))
        sys.stderr.flush()
        self._width = len(line[0])

    def clear(self) -> None:
        """Blank the line."""
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0


def key(cell: str, what: str) -> str:
    """What is shown while it runs: in which notebook, in which cell of it."""
    return f"{os.environ.get('JPY_SESSION_NAME')} {cell} {what}"


def was_running(*lines: str) -> str:
    """What is said of work where no widget shows it, true while it runs and once it is saved, as HTML."""
    return lines_html([*lines, WAS_RUNNING])


class Progress:
    """Takes the session's events from any thread; draws when the cell's own thread ticks."""

    def __init__(
        self,
        screen: Screen,
        on_stop: Callable[[], None],
        log_tail: Callable[[str], list[str]] = lambda recipe: [],
        note: Callable[[str], None] = print,
        limit: Callable[[], Limit | None] = lambda: None,
        *,
        live: bool = False,
        cell: str = "",
    ) -> None:
        self._screen = screen
        self._on_stop = on_stop
        self._log_tail = log_tail
        self._note = note
        self._limit = limit
        self._live = live
        """Whether somebody looks on who is shown widgets."""
        self._cell = cell
        self._said = 0.0
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._drawn = 0.0
        self._meter = Meter(self._began)
        self._dial: Any = None
        self._waits = False
        self._history: History | None = None
        self._recipe = ""
        self._title = ""
        self._fresh = False
        self._widget: Any = None

    def take(self, event: Mapping[str, Any]) -> None:
        """Take in an event of the session."""
        kind = event.get("type")
        with self._lock:
            if kind == "run.event":
                self._take_run(event)
            elif kind == "step.notice":
                self._note(str(event["text"]))
            elif kind == "step.waiting":
                self._waits = True
            elif kind == "step.progress":
                self._meter.add(event, time.monotonic())
                self._waits = False

    def _take_run(self, event: Mapping[str, Any]) -> None:
        self._history = self._history or History()
        self._title = str(event.get("name") or "")
        self._recipe = str(event.get("recipe") or "")
        self._history.add(event.get("event") or {})
        self._fresh = True

    def tick(self) -> None:
        """Draw, when it is time."""
        now = time.monotonic()
        if now - self._began < QUIET or now - self._drawn < PERIOD:
            return
        self._drawn = now
        with self._lock:
            if self._history is not None:
                self._draw_run(self._history)
            else:
                self._draw_line(now - self._began)

    def _draw_line(self, elapsed: float) -> None:
        line = "another kernel is making this; waiting for it" if self._waits else live_line(self._meter.event, elapsed)
        if self._live and self._dial is None:
            self._meter.limit = self._limit()
            self._dial = quickened(key(self._cell, "meter"), lambda mark: meter_widget(self._on_stop, mark)) or False
        if self._dial:
            said = self._draw_dial(self._dial, line)
            self._say(self._dial, {"text/plain": line, "text/html": was_running(said)})
        else:
            self._screen.show({"text/plain": line, "text/html": lines_html([line])})

    def _say(self, widget: Any, bundle: dict[str, Any]) -> None:
        """Show ``widget``, and from time to time in the output what is saved of it."""
        now = time.monotonic()
        if not self._said or (widget.mark and now - self._said >= ANEW):
            self._said = now
            self._screen.show(while_it_runs(widget, bundle))

    def _draw_dial(self, dial: Any, line: str) -> str:
        with dial.hold_sync():
            dial.title = str(self._meter.event.get("name") or "")
            dial.line = line if self._waits else self._meter.line(time.monotonic())
            dial.shares = self._meter.shares()
        return str(dial.line)

    def _draw_run(self, history: History) -> None:
        if not self._fresh:
            return
        self._fresh = False
        picture = curve_svg(history.series(), self._title)
        if self._widget is None and isinstance(self._screen, NotebookScreen):
            make = partial(curve_widget, self._title, self._on_stop, LOOKS)
            self._widget = quickened(key(self._cell, "curve"), make) or False
            self._said = 0.0
        if self._widget:
            with self._widget.hold_sync():
                self._widget.series = {name: [list(point) for point in points] for name, points in history.series().items()}
                self._widget.line = history.line()
                self._widget.tail = "\n".join(self._log_tail(self._recipe))
            self._say(self._widget, {"text/plain": history.line(), "text/html": picture + was_running(history.line())})
        else:
            self._screen.show({"text/plain": history.line(), "image/svg+xml": picture})

    def close(self) -> None:
        """Leave nothing behind. A page that shows the curve gets its end first: what replaces it may take a moment."""
        if self._dial:
            retire(self._dial, over=True, line=OVER)
        if self._widget:
            with self._lock:
                if self._history is not None:
                    self._draw_run(self._history)
            retire(self._widget, running=False, line=f"{self._widget.line} · {OVER}")
        self._screen.clear()
