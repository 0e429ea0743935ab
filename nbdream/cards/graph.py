"""Reading a graph: its steps in order, their names, what each column was made by, which models and sources it has.

A graph is ``{"root": use, "nodes": {use: {"use": …, "node": …}}}``: each step in its place, ``use`` says where its
inputs come from and ``node`` how the work went.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nbdream.secrets import known, redact

ROW = "__row__"
TAKEN_OVER = " (data)"
"""How the name of rows ends that a cell took over from a variable."""
PROMPT_ARGUMENTS = ("system", "system_prompt", "instruction", "template", "prompt")
"""The arguments that are words to a model: shown whole, as prompts."""


Graph = Mapping[str, Any]
"""What `nbdream.lineage.graph` gives; ``also`` names further results of the same publication (other splits)."""


@dataclass(frozen=True)
class Stage:
    """One step of a graph as a card shows it: ``name`` is unique within the card."""

    id: str
    name: str
    use: Mapping[str, Any]
    node: Mapping[str, Any]
    inputs: tuple[str, ...]

    @property
    def rows(self) -> int | None:
        """How many rows the step made, where it made rows."""
        rows = self.node.get("rows")
        return rows if isinstance(rows, int) and not self.is_run else None

    @property
    def kind(self) -> str:
        """What kind of step it is."""
        return _text(self.node.get("type")) or "step"

    @property
    def failures(self) -> int:
        """How many rows failed."""
        failed = self.node.get("failures")
        return failed if isinstance(failed, int) else 0

    @property
    def rows_in(self) -> int | None:
        """How many rows it was given, where all that it read from were of one number."""
        given = {source.get("rows") for source in map(_mapping, _mapping(_mapping(self.node.get("recipe")).get("inputs")).values())}
        number = given.pop() if len(given) == 1 else None
        return number if isinstance(number, int) and not self.is_run else None

    @property
    def is_run(self) -> bool:
        """Whether it is a training run, whose result is a model."""
        return self.node.get("kind") == "run"

    @property
    def made(self) -> list[str]:
        """The columns that the step made itself, by the names it shows."""
        shown = _mapping(self.use.get("outputs"))
        return [str(shown.get(name, name)) for name in _mapping(self.node.get("columns")) if name != ROW]

    def digest(self, column: str) -> str | None:
        """The digest of a column that the step made, by the name it shows."""
        shown = _mapping(self.use.get("outputs"))
        own = {str(shown.get(name, name)): _mapping(made) for name, made in _mapping(self.node.get("columns")).items()}
        return _text(own.get(column, {}).get("digest"))

    @property
    def reads(self) -> dict[str, list[str]]:
        """The columns that it read, by the step they are of; none where it took the rows as they are."""
        read: dict[str, list[str]] = {}
        for source in _mapping(self.use.get("inputs")).values():
            if isinstance(source, dict) and isinstance(source.get("use"), str):
                read.setdefault(source["use"], []).extend(texts(source.get("columns")))
        return read

    @property
    def started(self) -> str | None:
        """When the work itself began."""
        return _text(_mapping(self.node.get("made")).get("started"))

    @property
    def finished(self) -> str | None:
        """When the work itself was done."""
        return _text(_mapping(self.node.get("made")).get("finished"))

    @property
    def models(self) -> list[dict[str, Any]]:
        """The models that the step asked, or that the run started from."""
        models = [model for model in self.node.get("models") or [] if isinstance(model, dict) and _text(model.get("name"))]
        return [{**model, "name": without_folders(model["name"])} for model in models]

    @property
    def source(self) -> dict[str, Any]:
        """The dataset that the step read, if it is a source."""
        return _mapping(self.node.get("source"))

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that decided the result."""
        args: dict[str, Any] = without_folders(_mapping(_mapping(self.node.get("recipe")).get("args")))
        return args

    @property
    def prompts(self) -> dict[str, str]:
        """The words that a model was given, by the argument's name; a model's own system prompt too."""
        given = {name: text for name in PROMPT_ARGUMENTS if (text := _text(self.arguments.get(name)))}
        models = [value for value in self.arguments.values() if isinstance(value, dict)]
        own = dict.fromkeys(text for found in _under(models, "system_prompt") if (text := _text(found)))
        return given | {"system prompt of the model" + (f" #{number}" if number > 1 else ""): text for number, text in enumerate(own, 1)}

    @property
    def code(self) -> dict[str, str]:
        """The Python that decided the result: functions among the arguments, and the cells between it and what it was made from."""
        shown = {name: _mapping(_mapping(value).get("$shown")).get("source") for name, value in self.arguments.items()}
        cells = [_mapping(cell).get("source") for cell in self.use.get("through") or []]
        given = {**shown, **{f"Python before it #{number}": source for number, source in enumerate(cells, 1)}}
        return {name: text for name, source in given.items() if (text := _text(source))}

    @property
    def settings(self) -> dict[str, Any]:
        """The other arguments that are short values."""
        return {name: value for name, value in self.arguments.items() if name not in PROMPT_ARGUMENTS and _is_short(value)}


def stages(graph: Graph) -> list[Stage]:
    """The steps of ``graph``, every input before what is made of it, the root last; same names get `` #2``, `` #3``.

    A frame that several cells took over from a variable is one of them.
    """
    graph = _once(_clean(graph, known()))
    nodes = graph["nodes"]
    found, taken = [], set[str]()
    for use_id in _ordered(graph):
        use, node = nodes[use_id]["use"], nodes[use_id]["node"]
        name = _free(str(use.get("name") or node.get("name") or "unnamed"), taken)
        inputs = tuple(dict.fromkeys(source for source in _inputs(use) if source in nodes))
        found.append(Stage(use_id, name, use, node, inputs))
    return found


def join(graphs: Iterable[Graph]) -> Graph:
    """One graph of several results (the splits of a publication); the last one is its root."""
    given = list(graphs)
    roots = list(dict.fromkeys(graph["root"] for graph in given))
    nodes = {use: place for graph in given for use, place in graph["nodes"].items()}
    return {"root": roots[-1], "nodes": nodes, "also": roots[:-1]}


def origin(found: Mapping[str, Stage], stage: Stage, column: str) -> tuple[Stage, str]:
    """The step that made the values of ``column`` of ``stage``, and what it is called there: carried columns are followed to it.

    A column that came through Python, or through a step that asks no model, is that of the step before, where its values are.
    """
    for _ in found:  # no path is longer than the graph
        if column in stage.made:
            above = None if stage.models else _unchanged(found, stage, column)
            return above or (stage, column)
        source = _mapping(_mapping(stage.use.get("inputs")).get(stage.use.get("carries") or ""))
        below = found.get(str(source.get("use")))
        if below is None:
            break
        column = _mapping(stage.use.get("view")).get(column, column)
        stage = below
    return stage, column


def _unchanged(found: Mapping[str, Stage], stage: Stage, column: str) -> tuple[Stage, str] | None:
    """The step before ``stage`` that made the same values under the same name."""
    for place in stage.inputs:
        maker, name = origin(found, found[place], column)
        if (digest := maker.digest(name)) is not None and digest == stage.digest(column):
            return maker, name
    return None


def maker(found: Mapping[str, Stage], stage: Stage, column: str) -> Stage:
    """The step that made the values of ``column`` of ``stage``."""
    return origin(found, stage, column)[0]


def is_demo(graph: Graph) -> bool:
    """Whether any of ``graph``'s rows or weights come from the demo model that ships with nbdream."""
    for place in graph["nodes"].values():
        node = place["node"]
        models = [model for model in node.get("models") or [] if isinstance(model, dict)]
        if any(model.get("name") == "demo" for model in models):
            return True
        if any(_mapping(identity).get("model") == "demo" for identity in _under([models, node.get("recipe")], "identity")):
            return True
    return False


def texts(value: Any) -> list[str]:
    """One text or a list of them as a list, without what is empty."""
    values = value if isinstance(value, list) else [value]
    return [text for item in values if (text := _text(item))]


def without_folders(value: Any) -> Any:
    """``value`` with every text that is a path of this machine cut to its last part, at any depth."""
    if isinstance(value, str):
        is_path = value.startswith(("/", "~/", "./", "../")) and "\n" not in value
        return value.rstrip("/").rpartition("/")[2] or value if is_path else value
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    return [without_folders(item) for item in value] if isinstance(value, list) else value


def _ordered(graph: Graph) -> Iterator[str]:
    nodes, done = graph["nodes"], set[str]()
    for root in [*graph.get("also", []), graph["root"]]:
        waiting = [(root, False)]
        while waiting:
            use_id, inputs_done = waiting.pop()
            if use_id in done or use_id not in nodes:
                continue
            if inputs_done:
                done.add(use_id)
                yield use_id
            else:
                waiting.append((use_id, True))
                waiting += [(source, False) for source in reversed(list(_inputs(nodes[use_id]["use"])))]


def _once(graph: Graph) -> Graph:
    """``graph`` in which rows that cells took over stand once: those of one content, computed by the same cells of the same results."""
    roots = {graph["root"], *graph.get("also", [])}
    nodes: dict[str, Any] = {}
    place_of: dict[str, str] = {}
    first: dict[str, str] = {}
    for use_id in _ordered(graph):
        node, use = graph["nodes"][use_id]["node"], _moved(graph["nodes"][use_id]["use"], place_of)
        name, recipe = _text(use.get("name")), _text(node.get("recipe_key"))
        if use_id not in roots and node.get("type") == "DataSource" and recipe and name and name.endswith(TAKEN_OVER):
            cells = [[cell.get("id"), cell.get("source")] for cell in map(_mapping, use.get("through") or [])]
            found = first.setdefault(json.dumps([recipe, use.get("inputs"), cells], sort_keys=True), use_id)
            if found != use_id:
                place_of[use_id] = found
                continue
        nodes[use_id] = {"use": use, "node": node}
    return {**graph, "nodes": nodes}


def _moved(use: dict[str, Any], place_of: Mapping[str, str]) -> dict[str, Any]:
    """A use whose inputs are where they stand now."""
    inputs = {
        name: {**source, "use": place_of[source["use"]]} if _mapping(source).get("use") in place_of else source
        for name, source in _mapping(use.get("inputs")).items()
    }
    return {**use, "inputs": inputs}


def _inputs(use: Mapping[str, Any]) -> Iterator[str]:
    for source in _mapping(use.get("inputs")).values():
        if isinstance(source, dict) and isinstance(source.get("use"), str):
            yield source["use"]


def _under(value: Any, key: str) -> Iterator[Any]:
    """All that stands under ``key``, at any depth."""
    if isinstance(value, list):
        for item in value:
            yield from _under(item, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name == key:
                yield item
            yield from _under(item, key)


def _free(name: str, taken: set[str]) -> str:
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name} #{number}"
    taken.add(free)
    return free


def _clean(value: Any, credentials: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return redact(value, credentials)
    if isinstance(value, dict):
        return {key: _clean(item, credentials) for key, item in value.items()}
    return [_clean(item, credentials) for item in value] if isinstance(value, list) else value


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _is_short(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and 0 < len(value) <= 60)
