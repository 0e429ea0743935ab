"""The graph of a session: what made each result, from what, and whether it is still what its name promises.

A node of the graph is a *use*: a result (``objects/<recipe>``) in one place, under one name, with the uses that its
inputs come from. Two names for one result are two uses of it; nothing is stored twice.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbdream.errors import BrokenFileError, SessionError
from nbdream.files import Lock, read_object, safe_name, write_json
from nbdream.fingerprint import difference, digest
from nbdream.objects import FORMAT, ResultFolder

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
        lock = Lock(self.folder / ".lock")
        lock.acquire(wait=True)
        try:
            yield
        finally:
            lock.release()

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
        reasons = list(self._moved_inputs(str(entry["recipe"]), str(entry["use"]), set()))
        return State("stale", tuple(dict.fromkeys(reasons))) if reasons else State("fresh")

    def _moved_inputs(self, recipe: str, use: str, seen: set[str]) -> Iterator[str]:
        place = ResultFolder(self._objects / recipe).use(use)
        for input_name, source in place["inputs"].items():
            if source["use"] in seen:
                continue
            seen.add(source["use"])
            above = ResultFolder(self._objects / source["recipe"])
            name = above.use(source["use"])["name"]
            entry = self.current(name)
            if entry is not None and entry["use"] != source["use"] and self._content_moved(source, entry):
                why = "; ".join(entry.get("why") or ["it was made anew"])
                yield f"its input {input_name!r} has changed: {name} ({why})"
            else:
                yield from self._moved_inputs(source["recipe"], source["use"], seen)

    def _content_moved(self, source: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
        """Whether the columns that were read have other content in the name's current result."""
        old, new = (ResultFolder(self._objects / str(place["recipe"])) for place in (source, entry))
        old_use, new_use = old.use(str(source["use"])), new.use(str(entry["use"]))
        old_node, new_node = old.node(), new.node()
        if old_node is None or new_node is None:
            return True
        if old_node["rows"] != new_node["rows"]:
            return True
        for column in source["columns"]:
            before = _own_digest(old_node, old_use, column)
            after = _own_digest(new_node, new_use, column)
            if before is None or before != after:
                return True
        return not source["columns"] and old_node["recipe"] != new_node["recipe"]


def _own_digest(node: Mapping[str, Any], use: Mapping[str, Any], shown: str) -> str | None:
    """The digest of a column that the result itself made, by its shown name."""
    made = {use["outputs"].get(name, name): entry["digest"] for name, entry in node["columns"].items()}
    found: str | None = made.get(shown)
    return found


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
