"""The graph of results as it is shown: a tree of text, a picture, and data that a page draws and jumps from.

Results stand in layers, each below what it was made from; a layer that is too wide goes on in the next line. A page does the same
(``static/lineage.js``), as wide as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nbdream.cards.graph import TAKEN_OVER, Stage, join, stages
from nbdream.escape import html, visible
from nbdream.widgets.show import View
from nbdream.widgets.status import saved_line, saved_training_line

LINEAGE = "application/vnd.nbdream.lineage+json"
VERSION = 1
MOST = 200
"""Results that are drawn: the last ones."""
COLUMNS = 4
_WIDTH, _HEIGHT, _ACROSS, _DOWN, _MARGIN = 200, 42, 16, 34, 4
_NAME, _DETAIL = 24, 34
"""Characters that fit into a box."""
_GREY = "#767676"
"""As readable on white as on black: the picture has no background of its own."""
_COLOURS = {"rows": "#2f86c9", "model": "#d9730d", "python": _GREY, "data": _GREY}

Box = dict[str, Any]


def lineage_view(graphs: Sequence[Mapping[str, Any]]) -> View:
    """What the roots of ``graphs`` come from."""
    if not graphs:
        return View({"text/plain": "no results yet"})
    above = {use for graph in graphs for use in graph["nodes"] if use != graph["root"]}
    trees = [_tree(graph, graph["root"], 0) for graph in graphs if graph["root"] not in above]  # the others stand in one of these
    drawn = boxes(stages(join(graphs)))
    left_out = max(0, len(drawn) - MOST)
    kept = [{**box, "above": [at - left_out for at in box["above"] if at >= left_out]} for box in drawn[left_out:]]
    told = {"version": VERSION, "name": "lineage", "nodes": kept, "left_out": left_out}
    bundle: dict[str, Any] = {
        "text/plain": "\n".join(visible(line) for tree in trees for line in tree),
        "image/svg+xml": lineage_svg(kept),
        LINEAGE: told,
    }
    return View(bundle)


def _tree(graph: Mapping[str, Any], use: str, depth: int) -> list[str]:
    found = graph["nodes"][use]
    node = found["node"]
    line = f"{'   ' * depth}{'└─ ' if depth else ''}{found['use']['name']} ({node.get('type')}, {_said(node)})"
    below = dict.fromkeys(source["use"] for source in found["use"]["inputs"].values())
    return [line, *(text for source in below for text in _tree(graph, source, depth + 1))]


def _said(node: Mapping[str, Any]) -> str:
    base = next((str(model.get("name")) for model in node.get("models") or ()), "")
    return saved_training_line(base, node, {}) if node.get("kind") == "run" else saved_line(node)


def boxes(found: Sequence[Stage]) -> list[Box]:
    """What is drawn of the stages of a graph: each with the numbers of those ``above`` it, which come before it."""
    number = {stage.id: at for at, stage in enumerate(found)}
    return [{**_box(stage), "above": sorted(number[source] for source in stage.inputs)} for stage in found]


def _box(stage: Stage) -> Box:
    cell, said = stage.node.get("cell") or {}, _said(stage.node)
    name, kind, detail = stage.name, "model" if stage.is_run else "rows", said.partition(" · made ")[0]
    if stage.kind == "DataSource" and str(stage.use.get("name")).endswith(TAKEN_OVER):
        through = [step for step in stage.use.get("through") or () if isinstance(step, Mapping)]
        kind, name = ("python", "Python") if through else ("data", "data of the notebook")
        if through:
            cell = through[-1]
            lines = [line for line in str(cell.get("source") or "").splitlines() if line.strip()]
            detail = lines[-1].strip() if lines else ""
    shown = {"name": name, "detail": detail, "title": said}
    return {
        **{key: visible(text)[:limit] for (key, text), limit in zip(shown.items(), (100, 100, 200), strict=True)},
        "kind": kind,
        "cell": None if cell.get("id") is None else str(cell["id"])[:100],
    }


# --- where each stands --------------------------------------------------------------------------------------------------


def layout(above: Sequence[Sequence[int]], columns: int) -> list[tuple[int, int]]:
    """The line and the column of each box, of which some stand ``above`` it.

    What hangs together stands together; what does not stands beside it, or below, as there is room.
    """
    places: list[tuple[int, int]] = [(0, 0)] * len(above)
    top = left = below = 0
    for part in parts_of(above):
        number = {box: at for at, box in enumerate(part)}
        found = _layered([[number[at] for at in above[box]] for box in part], columns)
        lines, width = (1 + max(place[side] for place in found) for side in (0, 1))
        if left + width > columns:
            top, left, below = top + below, 0, 0
        for box, (line, column) in zip(part, found, strict=True):
            places[box] = (top + line, left + column)
        left, below = left + width, max(below, lines)
    return places


def parts_of(above: Sequence[Sequence[int]]) -> list[list[int]]:
    """The boxes that hang together, by their first."""
    first = list(range(len(above)))

    def root(box: int) -> int:
        while first[box] != box:
            box = first[box]
        return box

    for box, sources in enumerate(above):
        for at in sources:
            one, other = root(at), root(box)
            first[max(one, other)] = min(one, other)
    parts: dict[int, list[int]] = {}
    for box in range(len(above)):
        parts.setdefault(root(box), []).append(box)
    return list(parts.values())


def _layered(above: Sequence[Sequence[int]], columns: int) -> list[tuple[int, int]]:
    """Of boxes that hang together, each in a line below those that it comes from, and as near to them as there is room."""
    layers: list[int] = []
    for sources in above:
        layers.append(1 + max((layers[at] for at in sources), default=-1))
    places: list[tuple[int, int]] = [(0, 0)] * len(above)
    line = 0
    for layer in range(max(layers, default=-1) + 1):
        wanted = [(_mean([places[at][1] for at in above[box]]), box) for box in range(len(above)) if layers[box] == layer]
        wanted.sort()
        for start in range(0, len(wanted), columns):
            part, column = wanted[start : start + columns], 0
            for done, (mean, box) in enumerate(part):
                column = min(max(column, int(mean + 0.5)), columns - len(part) + done)
                places[box] = (line, column)
                column += 1
            line += 1
    return places


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0


# --- the picture --------------------------------------------------------------------------------------------------------


def lineage_svg(nodes: Sequence[Box]) -> str:
    """The graph as a picture of its own: no script, no font, no reference to anything."""
    places = layout([node["above"] for node in nodes], COLUMNS)
    lines, columns = (1 + max((place[side] for place in places), default=0) for side in (0, 1))
    width = 2 * _MARGIN + columns * (_WIDTH + _ACROSS)
    height = 2 * _MARGIN + lines * (_HEIGHT + _DOWN) - _DOWN
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="lineage"><g font-family="sans-serif" fill="{_GREY}">']
    for node, place in zip(nodes, places, strict=True):
        for at in node["above"]:
            path = edge(places[at], place)
            parts.append(f'<path d="{path}" fill="none" stroke="{_GREY}" stroke-opacity=".6" stroke-width="1.4"/>')
    for node, place in zip(nodes, places, strict=True):
        x, y = _corner(place)
        dashes = ' stroke-dasharray="4 3"' if node["kind"] in ("python", "data") else ""
        parts.append(
            f"<g><title>{html(node['name'])}: {html(node['title'])}</title>"
            f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="5" fill="none" stroke="{_COLOURS[node["kind"]]}"{dashes}/>'
            f'<text x="{x + 10}" y="{y + 18}" font-size="12" font-weight="600">{html(_cut(node["name"], _NAME))}</text>'
            f'<text x="{x + 10}" y="{y + 33}" font-size="10">{html(_cut(node["detail"], _DETAIL))}</text></g>'
        )
    return "".join([*parts, "</g></svg>"])


def _corner(place: tuple[int, int]) -> tuple[int, int]:
    return _MARGIN + place[1] * (_WIDTH + _ACROSS), _MARGIN + place[0] * (_HEIGHT + _DOWN)


def edge(above: tuple[int, int], below: tuple[int, int]) -> str:
    """The way from a box to one below it: straight into the next line, else down between the columns."""
    (x0, y0), (x1, y1) = _corner(above), _corner(below)
    x0, y0, x1 = x0 + _WIDTH // 2, y0 + _HEIGHT, x1 + _WIDTH // 2
    half = _DOWN // 2
    if below[0] == above[0] + 1:
        return f"M{x0},{y0}C{x0},{y0 + half} {x1},{y1 - half} {x1},{y1}"
    left = x0 < x1 or (x0 == x1 and below[1] > 0)
    aside = x1 + (-1 if left else 1) * (_WIDTH + _ACROSS) // 2
    into, out = y0 + _DOWN, y1 - _DOWN
    return f"M{x0},{y0}C{x0},{y0 + half} {aside},{into - half} {aside},{into}L{aside},{out}C{aside},{out + half} {x1},{y1 - half} {x1},{y1}"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
