"""The graph of a session: what made each result, from what, and whether it is still what its name promises.

A node of the graph is a *use*: a result (``objects/<recipe>``) in one place, under one name, with the uses that its
inputs come from. Two names for one result are two uses of it; nothing is stored twice.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from nbdream.annotations import since
from nbdream.errors import BrokenFileError, SessionError
from nbdream.files import Lock, read_object, safe_name, write_json
from nbdream.fingerprint import difference, digest
from nbdream.objects import FORMAT, ROW, ResultFolder, StoredTable, column_digest

KEPT = 50
"""Entries that a name's history keeps."""


def now() -> str:
    """The time, in UTC, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class State:
    """Whether a name's result is what its cell would make now: ``fresh``, ``stale`` (with reasons) or ``unknown``."""

    state: str
    reasons: tuple[str, ...] = ()


class Names:
    """The pointers of a session: ``names/<name>.json``, each with its history."""

    def __init__(self, session: Path) -> None:
        self.folder = session / "names"
        self._objects = session / "objects"

    def path(self, name: str) -> Path:
        """The file of a pointer; names that differ only in what a file name cannot hold get a digest."""
        plain = safe_name(name)
        return self.folder / (f"{plain}.json" if plain == name else f"{plain}-{digest(name)[:8]}.json")

    def read(self, name: str) -> dict[str, Any] | None:
        """The pointer of ``name``, or None."""
        try:
            value = read_object(self.path(name))
        except FileNotFoundError:
            return None
        history = value.get("history")
        if not isinstance(history, list) or not history or not all(isinstance(h, dict) and "recipe" in h and "use" in h for h in history):
            raise BrokenFileError(self.path(name), "it is not a pointer with a history")
        return value

    def current(self, name: str) -> dict[str, Any] | None:
        """The newest entry of ``name``'s history, or None."""
        value = self.read(name)
        return None if value is None else dict(value["history"][-1])

    def move(self, name: str, entry: Mapping[str, Any]) -> None:
        """Let ``name`` point at a result; an entry that repeats the newest one replaces it."""
        with self._changing():
            self._move(name, entry)

    def _move(self, name: str, entry: Mapping[str, Any]) -> None:
        value = self.read(name) or {"format": FORMAT, "name": name, "history": []}
        history = list(value["history"])
        new = dict(entry)
        if history and (history[-1]["recipe"], history[-1]["use"]) == (entry["recipe"], entry["use"]):
            new["why"] = history[-1].get("why", [])
            new["made"] = history[-1].get("made", new.get("made"))
            history.pop()
        value["history"] = [*history, new][-KEPT:]
        if self.read(name) != value:
            write_json(self.path(name), value)

    def keep(self, name: str, key: str, setting: Any) -> None:
        """Keep a setting (how its rows are split) beside a pointer."""
        with self._changing():
            value = self.read(name)
            if value is None:
                raise SessionError(f"the session has no {name!r}", "run its cell first")
            write_json(self.path(name), {**value, key: setting})

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Alone among all kernels, for the moment of reading a pointer and writing it back."""
        with Lock(self.folder / ".lock"):
            yield

    def __iter__(self) -> Iterator[str]:
        entries = []
        for path in sorted(self.folder.glob("*.json")) if self.folder.is_dir() else []:
            value = read_object(path)
            if not isinstance(value.get("name"), str):
                raise BrokenFileError(path, "it is not a pointer")
            pointer = self.read(value["name"])
            if pointer:
                entries.append((pointer["history"][-1].get("made", ""), value["name"]))
        return iter([name for _, name in sorted(entries)])

    def why_moved(self, name: str, recipe: Mapping[str, Any]) -> list[str]:
        """In words, how ``recipe`` differs from that of ``name``'s current result; empty when there is none or it is the same."""
        entry = self.current(name)
        if entry is None:
            return []
        node = ResultFolder(self._objects / str(entry["recipe"])).node()
        return [] if node is None else difference(node["recipe"], dict(recipe))

    def state(self, name: str) -> State:
        """Whether ``name``'s result still follows from the current results of the names it was made from."""
        entry = self.current(name)
        if entry is None:
            return State("unknown", ("the session has no result of this name",))
        reasons = self.changed(str(entry["recipe"]), str(entry["use"]))
        return State("stale", tuple(reasons)) if reasons else State("fresh")

    def changed(self, recipe: str, use: str) -> list[str]:
        """In words, what has changed above a result since it was made."""
        return list(dict.fromkeys(_moved(self, _Places(self._objects), Source(recipe, use), None, set())))


class Source(NamedTuple):
    """A result in one place of the graph."""

    recipe: str
    use: str


class _Places:
    """What is on disk about places in the graph, read once, and what their columns hold."""

    def __init__(self, objects: Path) -> None:
        self._objects = objects
        self._use = functools.cache(lambda source: self._folder(source).use(source.use))
        self._node = functools.cache(lambda source: self._folder(source).node() or {})

    def _folder(self, source: Source) -> ResultFolder:
        return ResultFolder(self._objects / source.recipe)

    def is_there(self, source: Source) -> bool:
        """Whether the place is in the session: a result may have been deleted."""
        return self._folder(source).use_path(source.use).exists()

    def use(self, source: Source) -> dict[str, Any]:
        """The place."""
        found: dict[str, Any] = self._use(source)
        return found

    def node(self, source: Source) -> dict[str, Any]:
        """How the work went; empty when the result is not there."""
        found: dict[str, Any] = self._node(source)
        return found

    def made(self, source: Source) -> dict[str, str]:
        """The columns that the result made itself: shown name → its own."""
        shown = self.use(source)["outputs"]
        return {shown.get(name, name): name for name in self.node(source).get("columns", {}) if name != ROW}

    def carried(self, source: Source) -> dict[str, str]:
        """The columns that it shows of its input: shown name → the input's."""
        place = self.use(source)
        if place["carries"] not in place["inputs"]:
            return {}
        view = place["view"]
        if view is None:
            above = self._carrier(source)
            view = {name: name for name in (*self.carried(above), *self.made(above))}
        made = self.made(source)
        return {shown: name for shown, name in view.items() if shown not in made}

    def digest(self, source: Source, column: str) -> str | None:
        """The content of a column, by its shown name; None when there is none of this name."""
        name = self.made(source).get(column)
        if name is not None:
            return str(self.node(source)["columns"][name]["digest"])
        above = self.carried(source).get(column)
        if above is None:
            return None
        return column_digest(self._array(source, column)) if self._selects(source) else self.digest(self._carrier(source), above)

    def _array(self, source: Source, column: str) -> pa.ChunkedArray:
        name = self.made(source).get(column)
        if name is not None:
            return self._table(source).column(name)
        values = self._array(self._carrier(source), self.carried(source)[column])
        return values.take(self._table(source).column(ROW)) if self._selects(source) else values

    def _table(self, source: Source) -> pa.Table:
        node = self.node(source)
        return StoredTable(self._folder(source).data, node["columns"], node["rows"]).table

    def _selects(self, source: Source) -> bool:
        node = self.node(source)
        return ROW in node["columns"] and not node["every_row"]

    def _carrier(self, source: Source) -> Source:
        place = self.use(source)
        above = place["inputs"][place["carries"]]
        return Source(above["recipe"], above["use"])


def _moved(names: Names, places: _Places, source: Source, wanted: frozenset[str] | None, seen: set[Any]) -> Iterator[str]:
    """What has changed above a result, as far as its columns ``wanted`` (None: all) depend on it."""
    place = places.use(source)
    if "annotations" in place and (said := since(names.folder.parent, place["annotations"])):
        yield f"{said} in {place['name']}"
    carried = places.carried(source)
    through = frozenset(name for shown, name in carried.items() if wanted is None or shown in wanted)
    for input_name, given in place["inputs"].items():
        above = Source(given["recipe"], given["use"])
        columns = frozenset(given["columns"]) | (through if input_name == place["carries"] else frozenset())
        if (above, columns) in seen:
            continue
        seen.add((above, columns))
        if not places.is_there(above):
            yield f"its input {input_name!r} is no longer in the session"
            continue
        name = places.use(above)["name"]
        entry = names.current(name)
        current = above if entry is None else Source(str(entry["recipe"]), str(entry["use"]))
        if entry is not None and current != above and _differs(places, above, current, columns):
            why = "; ".join(entry.get("why") or ["it was made anew"])
            yield f"its input {input_name!r} has changed: {name} ({why})"
        else:
            yield from _moved(names, places, current, columns, seen)


def _differs(places: _Places, old: Source, new: Source, columns: frozenset[str]) -> bool:
    """Whether two results differ in what was read of the old one: these columns, the number of rows, or a trained model."""
    was, now = places.node(old), places.node(new)
    if not was or not now or was["rows"] != now["rows"]:
        return True
    if not columns and "run" in (was["kind"], now["kind"]):
        return old.recipe != new.recipe
    return any((found := places.digest(old, name)) is None or found != places.digest(new, name) for name in columns)


def graph(session: Path, recipe: str, use: str) -> dict[str, Any]:
    """Everything that a use comes from: ``{"root": use, "nodes": {use: {"use": …, "node": …}}}``."""
    nodes: dict[str, Any] = {}
    waiting = [(recipe, use)]
    while waiting:
        key, place_id = waiting.pop()
        if place_id in nodes:
            continue
        folder = ResultFolder(session / "objects" / key)
        place = folder.use(place_id)
        node = folder.node()
        if node is None:
            raise SessionError(f"the result of {place['name']!r} is not in the session", "run its cell again")
        nodes[place_id] = {"use": place, "node": node}
        waiting += [(source["recipe"], source["use"]) for source in place["inputs"].values()]
    return {"root": use, "nodes": nodes}
