"""A loss curve: as SVG that needs nothing, and as a small widget that grows while the training runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbdream.escape import html
from nbdream.widgets.status import seconds

WIDTH, HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 30
_CAPTION, _CAPTION_LINE = 10, 16
_CAPTION_LENGTH = 92
"""Characters of the caption that fit on one line."""
_GREY = "#767676"
"""As readable on white as on black: the picture has no background of its own."""
_COLOURS = {"loss": "#2f86c9", "eval_loss": "#d9730d"}
_NAMES = {"loss": "training loss", "eval_loss": "validation loss"}
MOST_POINTS = 600
"""Points that a curve shows; a longer run is thinned evenly."""

STATES = {
    "queued": "waiting for the GPU",
    "spawned": "starting",
    "imported": "loading the model",
    "data": "loading the model",
    "ready": "ready",
    "begin": "training",
    "first_step": "training",
    "log": "training",
    "stopping": "saving a checkpoint",
}
"""What a run does after each type of event."""

Point = tuple[float, float]


@dataclass(slots=True)
class History:
    """What the events of a run say, in the form in which it is drawn."""

    loss: list[Point] = field(default_factory=list)
    eval_loss: list[Point] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    state: str = "starting"
    started: float | None = None
    """When the present attempt began, at which step."""
    started_at: float = 0.0
    updated: float | None = None

    def add(self, event: Mapping[str, Any]) -> None:
        """Take in one line of ``events.jsonl``."""
        kind, step, when = str(event.get("type") or ""), event.get("step"), event.get("time")
        self.state = str(event.get("state")) if kind == "finished" else STATES.get(kind, self.state)
        if isinstance(when, (int, float)):
            if self.started is None or kind in ("spawned", "resumed", "begin", "first_step"):
                self.started, self.started_at = when, step if isinstance(step, (int, float)) else self.started_at
            self.updated = when
        for name, series in (("loss", self.loss), ("eval_loss", self.eval_loss)):
            value = event.get(name)
            if isinstance(step, (int, float)) and isinstance(value, (int, float)) and math.isfinite(value):
                while series and series[-1][0] >= step:  # a run that resumed from a checkpoint goes through some steps again
                    series.pop()
                series.append((float(step), float(value)))
        self.last.update({key: value for key, value in event.items() if value is not None and key not in ("type", "time")})

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]]) -> History:
        """The history that ``events`` tell."""
        history = cls()
        for event in events:
            history.add(event)
        return history

    def series(self) -> dict[str, list[Point]]:
        """The curves, thinned."""
        return {name: thin(points) for name, points in (("loss", self.loss), ("eval_loss", self.eval_loss)) if points}

    def line(self) -> str:
        """Loss, step, speed, time left and memory in one line."""
        step, steps = self.last.get("step"), self.last.get("max_steps")
        parts = [self.state]
        if isinstance(step, (int, float)):
            parts.append(f"step {int(step):,}" + (f" of {int(steps):,}" if isinstance(steps, (int, float)) else ""))
        for key, label in (("loss", "loss"), ("eval_loss", "eval loss")):
            if isinstance(self.last.get(key), (int, float)):
                parts.append(f"{label} {self.last[key]:.4g}")
        if isinstance(self.last.get("learning_rate"), (int, float)):
            parts.append(f"learning rate {self.last['learning_rate']:.2g}")
        if isinstance(self.last.get("tokens_per_second"), (int, float)):
            parts.append(f"{self.last['tokens_per_second']:,.0f} tokens/s")
        if left := self.left():
            parts.append(f"{seconds(left)} left")
        if isinstance(self.last.get("memory_mb"), (int, float)):
            parts.append(f"{self.last['memory_mb']:,.0f} MB")
        return " · ".join(parts)

    def left(self) -> float | None:
        """The seconds that the run will still take, by its speed so far."""
        step, steps = self.last.get("step"), self.last.get("max_steps")
        if self.state != "training" or not step or not steps or self.started is None or self.updated is None or step <= self.started_at:
            return None
        return float(max(0.0, (self.updated - self.started) / (step - self.started_at) * (steps - step)))


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most ``most`` of ``points``: evenly spread, first and last among them."""
    if len(points) <= most:
        return list(points)
    step = (len(points) - 1) / (most - 1)
    return [points[round(at * step)] for at in range(most)]


def curve_svg(series: Mapping[str, Sequence[Point]], title: str = "", caption: str = "") -> str:
    """The curves as a picture of its own, with a line below them: no script, no font, no reference to anything."""
    drawn = {name: thin(points) for name, points in series.items() if points}
    every = [point for points in drawn.values() for point in points]
    label = html(title or "loss")
    lines = folded(caption)
    height = HEIGHT + (_CAPTION + _CAPTION_LINE * len(lines) if lines else 0)
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}">'
    frame = f'<g font-family="sans-serif" font-size="11" fill="{_GREY}">'
    below = "".join(
        f'<text x="{_RIGHT}" y="{HEIGHT + _CAPTION + _CAPTION_LINE * at + 6}" font-size="12">{html(line)}</text>'
        for at, line in enumerate(lines)
    )
    if not every:
        return f'{head}{frame}<text x="{WIDTH // 2}" y="{HEIGHT // 2}" text-anchor="middle">no loss yet</text>{below}</g></svg>'
    x_of, y_of, x_ticks, y_ticks = _scales(every)
    parts = [head, frame]
    for tick in y_ticks:
        y = y_of(tick)
        parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GREY}" stroke-opacity=".25"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    whole = [tick for tick in x_ticks if tick == round(tick)]  # there is no half a step
    parts += [f'<text x="{x_of(tick):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{tick:,.0f}</text>' for tick in whole]
    for at, (name, points) in enumerate(drawn.items()):
        colour = _COLOURS.get(name, _GREY)
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>')
        x, y = points[-1]
        parts.append(f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="2.5" fill="{colour}"/>')
        said = f"{html(_NAMES.get(name, name))} {y:.4g}"
        parts.append(f'<text x="{WIDTH - _RIGHT - 4}" y="{_TOP + 12 + 15 * at}" text-anchor="end" fill="{colour}">{said}</text>')
    return "".join([*parts, below, "</g></svg>"])


def folded(caption: str) -> list[str]:
    """A caption in lines that the picture is wide enough for, broken between its parts."""
    lines: list[str] = []
    for part in caption.split(" · ") if caption else ():
        longer = f"{lines[-1]} · {part}" if lines else part
        lines[-1:] = [longer] if len(longer) <= _CAPTION_LENGTH else [*lines[-1:], part]
    return lines


def _scales(points: Sequence[Point]) -> tuple[Callable[[float], float], Callable[[float], float], list[float], list[float]]:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_low, x_high = min(0.0, *xs), max(*xs, min(xs) + 1.0)
    pad = (max(ys) - min(ys)) * 0.05 or max(abs(max(ys)) * 0.05, 0.05)
    y_low, y_high = min(ys) - pad, max(ys) + pad
    across, down = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def x_of(x: float) -> float:
        return _LEFT + (x - x_low) / (x_high - x_low) * across

    def y_of(y: float) -> float:
        return _TOP + (y_high - y) / (y_high - y_low) * down

    return x_of, y_of, ticks(x_low, x_high, 6), ticks(y_low, y_high, 5)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between ``low`` and ``high``, at most ``most`` of them."""
    size = 10 ** math.floor(math.log10((high - low) / most))
    steps = (size * factor for factor in (1, 2, 5, 10, 20))
    between = ((step, range(math.ceil(low / step), math.floor(high / step) + 1)) for step in steps)
    return next([number * step for number in numbers] for step, numbers in between if len(numbers) <= most)


def curve_widget(title: str, on_stop: Callable[[], None]) -> Any:
    """A widget that draws `History` live and has a Stop button; None where no widget can be shown.

    Everything it shows is in its traits, so it is whole again after a page reload.
    """
    try:
        import anywidget
        import traitlets
    except ImportError:
        return None

    class LossCurve(anywidget.AnyWidget):
        _esm = Path(__file__).parent / "static" / "curve.js"
        title = traitlets.Unicode("").tag(sync=True)
        line = traitlets.Unicode("").tag(sync=True)
        tail = traitlets.Unicode("").tag(sync=True)
        series = traitlets.Dict().tag(sync=True)
        running = traitlets.Bool(True).tag(sync=True)

    widget = LossCurve(title=title)

    def received(_widget: Any, message: Any, _buffers: Any) -> None:
        # The closed list of what the page may ask for; it names nothing and carries no data.
        if message == {"op": "stop"}:
            on_stop()

    widget.on_msg(received)
    return widget
