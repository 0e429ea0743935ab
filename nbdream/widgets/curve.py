"""What a run says of itself, as a line and as curves; and a small widget that shows them while the training runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nbdream.cards.curve import LOOKS, Look, Point, thin
from nbdream.widgets.live import module
from nbdream.widgets.status import seconds

STATES = {
    "queued": "waiting for the GPU",
    "spawned": "starting",
    "imported": "loading the model",
    "data": "loading the model",
    "reference": "asking the base model about the pairs",
    "ready": "ready",
    "begin": "training",
    "first_step": "training",
    "log": "training",
    "evaluating": "evaluating",
    "eval": "training",
    "stopping": "saving a checkpoint",
}
"""What a run does after each type of event."""


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
    trouble: dict[str, str] = field(default_factory=dict)
    """What went wrong with a tracker that the run is reported to."""

    def add(self, event: Mapping[str, Any]) -> None:
        """Take in one line of ``events.jsonl``."""
        kind, step, when = str(event.get("type") or ""), event.get("step"), event.get("time")
        if kind == "tracker":
            if "message" in event:
                self.trouble[str(event.get("tracker"))] = str(event["message"])
            return
        self._go_on(kind, event)
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

    def _go_on(self, kind: str, event: Mapping[str, Any]) -> None:
        """What the run does now. One that is ending may still evaluate."""
        if kind == "finished":
            self.state = str(event.get("state"))
        elif kind in STATES and not (self.state == STATES["stopping"] and kind in ("evaluating", "eval", "log")):
            self.state = STATES[kind]
            if isinstance(done := event.get("done"), int) and isinstance(total := event.get("of"), int):
                self.state += f", {done / max(total, 1):.0%}"

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
        """Everything that is known now, in one line; what matters most stands first, for a line may be cut."""
        step, steps = self.last.get("step"), self.last.get("max_steps")
        parts = [self.state]
        if isinstance(step, (int, float)):
            parts.append(f"step {int(step):,}" + (f" of {int(steps):,}" if isinstance(steps, (int, float)) else ""))
        parts += self._numbers(("loss", "loss {:.4g}"), ("eval_loss", "eval loss {:.4g}"), ("epoch", "epoch {:.4g}"))
        if left := self.left():
            parts.append(f"{seconds(left)} left")
        parts += self._numbers(
            ("tokens_per_second", "{:,.0f} tokens/s"),
            ("memory_mb", "{:,.0f} MB"),
            ("learning_rate", "learning rate {:.2g}"),
            ("grad_norm", "gradient norm {:.3g}"),
        )
        return " · ".join([*parts, *(f"{name}: {message}" for name, message in self.trouble.items())])

    def _numbers(self, *forms: tuple[str, str]) -> list[str]:
        return [form.format(self.last[name]) for name, form in forms if isinstance(self.last.get(name), (int, float))]

    def left(self) -> float | None:
        """The seconds that the run will still take, by its speed so far."""
        step, steps = self.last.get("step"), self.last.get("max_steps")
        if self.state != "training" or not step or not steps or self.started is None or self.updated is None or step <= self.started_at:
            return None
        return float(max(0.0, (self.updated - self.started) / (step - self.started_at) * (steps - step)))


def curve_widget(title: str, on_stop: Callable[[], None] | None, looks: Mapping[str, Look] = LOOKS, mark: str = "") -> Any:
    """A widget that draws curves live, with a Stop button where there is something to stop; None where no widget can be shown.

    Everything it shows is in its traits, so it is whole again after a page reload.
    """
    try:
        import anywidget
        import traitlets
    except ImportError:
        return None

    class LossCurve(anywidget.AnyWidget):
        _esm = module("curve.js")
        mark = traitlets.Unicode("").tag(sync=True)
        title = traitlets.Unicode("").tag(sync=True)
        line = traitlets.Unicode("").tag(sync=True)
        tail = traitlets.Unicode("").tag(sync=True)
        series = traitlets.Dict().tag(sync=True)
        looks = traitlets.Dict().tag(sync=True)
        running = traitlets.Bool(True).tag(sync=True)

    shown = {name: list(look) for name, look in looks.items()}
    widget = LossCurve(title=title, looks=shown, running=on_stop is not None, mark=mark)

    def received(_widget: Any, message: Any, _buffers: Any) -> None:
        # The closed list of what the page may ask for; it names nothing and carries no data.
        if message == {"op": "stop"} and on_stop is not None:
            on_stop()

    widget.on_msg(received)
    return widget
