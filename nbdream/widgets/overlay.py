"""Runs that are going on, laid over each other in one picture that grows until the last of them ends."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from nbdream.cards.curve import COLOURS, Look, Point, curve_svg
from nbdream.files import read_lines
from nbdream.widgets.curve import History, curve_widget
from nbdream.widgets.live import quickened, while_it_runs
from nbdream.widgets.progress import ANEW, PERIOD, NotebookScreen, Screen, key, was_running
from nbdream.workers import runs
from nbdream.workers.paths import RunPaths


class Overlay:
    """The curves of several runs: a colour a run, dashed what was measured on its validation rows."""

    def __init__(self, found: Mapping[str, RunPaths], screen: Screen, cell: str = "") -> None:
        self.found, self.screen, self.cell = found, screen, cell
        self.histories = {name: History() for name in found}
        self._read = dict.fromkeys(found, 0)
        self._widget: Any = None
        self._said = 0.0

    def watch(self) -> None:
        """Show the runs until all have ended, and leave nothing behind. Where none goes on there is nothing to wait for."""
        try:
            while self._hear():
                self._draw()
                time.sleep(PERIOD)
        finally:
            if self._widget:
                self._draw()
                self._widget.close()
            self.screen.clear()

    def _hear(self) -> bool:
        """Take in what is new; whether any run goes on."""
        going_on = False
        for name, paths in self.found.items():
            going_on |= runs.alive(paths)  # asked before reading: what is written before it ends is then read
            events, self._read[name] = read_lines(paths.events, self._read[name])
            for event in events:
                self.histories[name].add(event)
        return going_on

    def lines(self) -> list[str]:
        """What each run does now."""
        return [f"{name}: {history.line()}" for name, history in self.histories.items()]

    def _draw(self) -> None:
        lines = self.lines()
        drawn = picture(self.histories)
        if self._widget is None:
            make = partial(curve_widget, "", None, looks(self.found))
            self._widget = isinstance(self.screen, NotebookScreen) and quickened(key(self.cell, "plot"), make)
        if self._widget:
            with self._widget.hold_sync():
                self._widget.series = {name: [list(point) for point in points] for name, points in series(self.histories).items()}
                self._widget.line = "\n".join(lines)
            if not self._said or (self._widget.mark and time.monotonic() - self._said >= ANEW):
                self._said = time.monotonic()
                self.screen.show(while_it_runs(self._widget, {"text/plain": "\n".join(lines), "text/html": drawn + was_running(*lines)}))
        else:
            self.screen.show({"text/plain": " | ".join(lines), "image/svg+xml": drawn})


def picture(histories: Mapping[str, History]) -> str:
    """The losses of runs as one SVG."""
    return curve_svg(series(histories), " ".join(histories), looks=looks(histories))


def series(histories: Mapping[str, History]) -> dict[str, list[Point]]:
    """The curves of runs, by what `looks` calls them."""
    told = ((name, history.series()) for name, history in histories.items())
    return {_curve(name, kind): points for name, curves in told for kind, points in curves.items()}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """How the curves of runs are drawn."""
    colours = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(names)}
    trained = {_curve(name, "loss"): Look(name, colour) for name, colour in colours.items()}
    return trained | {_curve(name, "eval_loss"): Look("", colour, dashed=True) for name, colour in colours.items()}


def _curve(name: str, kind: str) -> str:
    return name if kind == "loss" else f"{name} (validation)"
