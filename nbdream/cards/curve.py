"""The picture of a training: its curves as SVG that needs nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from nbdream.escape import html

WIDTH, HEIGHT = 560, 240  # what a notebook beside a panel has room for in a window of 1,000 pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 30
_CAPTION, _CAPTION_LINE = 10, 16
_CAPTION_LENGTH = 80
"""Characters of the caption that fit on one line."""
_GREY = "#767676"
"""As readable on white as on black: the picture has no background of its own."""
COLOURS = ("#2f86c9", "#d9730d", "#3a9d5d", "#9c5fc7", "#c94f4f", "#8c6d4f", "#d05ca8", "#6f7b83")
MOST_POINTS = 600
"""Points that a curve shows; a longer run is thinned evenly."""

Point = tuple[float, float]


class Look(NamedTuple):
    """How a curve is drawn; one without a label is told by its colour."""

    label: str
    colour: str
    dashed: bool = False


LOOKS: Mapping[str, Look] = {"loss": Look("training loss", COLOURS[0]), "eval_loss": Look("validation loss", COLOURS[1])}


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most ``most`` of ``points``: evenly spread, first and last among them."""
    if len(points) <= most:
        return list(points)
    step = (len(points) - 1) / (most - 1)
    return [points[round(at * step)] for at in range(most)]


def curve_svg(series: Mapping[str, Sequence[Point]], title: str = "", caption: str = "", looks: Mapping[str, Look] = LOOKS) -> str:
    """The curves as a picture of its own, with a line below them: no script, no font, no reference to anything."""
    drawn = {name: thin(points) for name, points in series.items() if points}
    every = [point for points in drawn.values() for point in points]
    named = html(title or "loss")
    lines = folded(caption)
    height = HEIGHT + (_CAPTION + _CAPTION_LINE * len(lines) if lines else 0)
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{named}">'
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
    labels = 0
    for name, points in drawn.items():
        label, colour, dashed = looks.get(name, Look(name, _GREY))
        dashes = ' stroke-dasharray="4 3"' if dashed else ""
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"{dashes}/>')
        x, y = points[-1]
        parts.append(f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="2.5" fill="{colour}"/>')
        if label:
            said, below_top = f"{html(label)} {y:.4g}", _TOP + 12 + 15 * labels
            parts.append(f'<text x="{WIDTH - _RIGHT - 4}" y="{below_top}" text-anchor="end" fill="{colour}">{said}</text>')
            labels += 1
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
