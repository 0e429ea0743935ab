"""`Meter`: how far a step is, how fast it goes, how long it will take and what it costs; and the small widget that shows it, with Stop."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nbdream.prices import shown
from nbdream.widgets.live import module
from nbdream.widgets.status import seconds

WINDOW = 15.0
"""Seconds over which the pace is taken."""
KEPT = 8
"""Widgets of cells that are over which a page may still show."""
OVER = "the cell is over: run it again to see its result here"
STEP = 0.1
"""Seconds between two of its points."""
WARM = 1.0
"""Seconds after which there is a pace to speak of."""


class Limit(NamedTuple):
    """The dollars that may be spent, and what of them had been spent when the cell began."""

    dollars: float
    spent: float = 0.0


@dataclass(slots=True)
class Meter:
    """Takes in the progress events of a step."""

    began: float
    limit: Limit | None = None
    event: Mapping[str, Any] = field(default_factory=dict)
    _paces: deque[tuple[float, int, int]] = field(default_factory=deque)
    """When, how many were done, and how many of those were cached."""

    def add(self, event: Mapping[str, Any], now: float) -> None:
        """Take in an event; that of another step of the cell begins anew."""
        if event.get("recipe") != self.event.get("recipe"):
            self._paces.clear()
        self.event = dict(event)
        if len(self._paces) > 1 and now - self._paces[-2][0] < STEP:  # a fast service tells of thousands in a second
            self._paces.pop()
        self._paces.append((now, int(event.get("done") or 0), int(event.get("cached") or 0)))
        while len(self._paces) > 2 and now - self._paces[1][0] > WINDOW:
            self._paces.popleft()

    def pace(self, now: float) -> float | None:
        """What is done in a second: of what has to be asked for, unless all was there."""
        if not self._paces or now - self._paces[0][0] < WARM:
            return None
        when, done, cached = self._paces[0]
        last = self._paces[-1]
        new = (last[1] - done) - (last[2] - cached)
        return max(0, new or last[1] - done) / (now - when)

    def left(self, now: float) -> float | None:
        """Seconds that the rest will take, if it goes on like this."""
        total, pace = self.event.get("total"), self.pace(now)
        return None if not total or not pace or self.event.get("batch") else max(0.0, (total - (self.event.get("done") or 0)) / pace)

    def money(self) -> str:
        """The cost so far, against the limit where there is one."""
        cost, saved = self.event.get("cost"), self.event.get("saved")
        parts = []
        if cost is not None and (cost or saved or self.limit):
            spent = cost if self.limit is None else cost + self.limit.spent
            parts.append(shown(spent) + (f" of {shown(self.limit.dollars)}" if self.limit else ""))
        return " ".join([*parts, *([f"(saved {shown(saved)})"] if saved else [])])

    def line(self, now: float) -> str:
        """All of it in a line."""
        event, parts = self.event, []
        if event.get("cached") is not None:
            parts = [f"{event.get('done') or 0:,} of {event['total']:,}"] if event.get("total") else []
            parts += [f"{event.get(key) or 0:,} {key}" for key in ("cached", "new", "failed")]
        elif event.get("total"):
            parts = [f"{100 * (event.get('done') or 0) // event['total']} %"]
        if event.get("batch"):
            done, sent = event["batch"]
            parts.append(f"{done:,} of {sent:,} done at the provider")
        pace, left = self.pace(now), self.left(now)
        if pace and event.get("cached") is not None:
            parts.append(f"{pace:.3g} a second")
        if left is not None:
            parts.append(f"{seconds(left)} left")
        return " · ".join([*parts, *filter(None, [self.money()]), seconds(now - self.began)])

    def shares(self) -> dict[str, float]:
        """How much of the whole is cached, new and failed, each between 0 and 1."""
        total = self.event.get("total") or 0
        if not total:
            return {}
        done, cached, failed = (int(self.event.get(key) or 0) for key in ("done", "cached", "failed"))
        counts = {"cached": cached, "new": max(0, done - cached - failed), "failed": failed}
        return {name: min(1.0, count / total) for name, count in counts.items() if count}


def meter_widget(on_stop: Callable[[], None], mark: str = "") -> Any:
    """A widget that shows a `Meter` and has a Stop button, in the places of ``mark``; None where no widget can be shown."""
    kind = meter_class()
    if kind is None:
        return None
    widget = kind(mark=mark)

    def received(_widget: Any, message: Any, _buffers: Any) -> None:
        # The closed list of what the page may ask for; it names nothing and carries no data.
        if message == {"op": "stop"}:
            on_stop()

    widget.on_msg(received)
    return widget


_over: deque[Any] = deque()


def retire(widget: Any, **last: Any) -> None:
    """The cell is over, and its output replaced: but a page that was reloaded meanwhile still shows the widget, as it is at ``last``."""
    with widget.hold_sync():
        for name, value in last.items():
            setattr(widget, name, value)
    _over.append(widget)
    while len(_over) > KEPT:
        _over.popleft().close()


@functools.cache
def meter_class() -> Any:
    """The widget's class; None where there is no anywidget. All that it shows is in its traits: it is whole again after a page reload."""
    try:
        import anywidget
        import traitlets
    except ImportError:
        return None

    class Working(anywidget.AnyWidget):
        _esm = module("meter.js")
        mark = traitlets.Unicode("").tag(sync=True)
        title = traitlets.Unicode("").tag(sync=True)
        line = traitlets.Unicode("").tag(sync=True)
        shares = traitlets.Dict().tag(sync=True)
        over = traitlets.Bool(False).tag(sync=True)

    return Working
