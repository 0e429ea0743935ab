"""Two workflows side by side: which results differ, and at which step it began, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbdream.difference import difference
from nbdream.errors import SessionError
from nbdream.lineage import Names, graph

Graph = Mapping[str, Any]
"""What `nbdream.lineage.graph` gives."""


@dataclass(frozen=True)
class Begin:
    """A step that differs by itself, not because of what it was given."""

    name: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {'; '.join(self.reasons)}"


@dataclass(frozen=True)
class ResultDifference:
    """One name in two sessions: ``same``, ``same rows`` (made another way), ``differs``, or only in one of them."""

    name: str
    state: str
    began: tuple[Begin, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.state}" + (f" ({', '.join(begin.name for begin in self.began)})" if self.began else "")


@dataclass(frozen=True)
class SessionDifference:
    """Two sessions, name by name, each after those that the later session made it from."""

    results: list[ResultDifference] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether both hold the same results under the same names."""
        return all(result.state == "same" for result in self.results)

    @property
    def began(self) -> list[Begin]:
        """Where the differences began, each once, the first one first."""
        return list(dict.fromkeys(begin for result in self.results for begin in result.began))

    def __str__(self) -> str:
        if self.same:
            return f"the sessions hold the same {len(self.results):,} results"
        first = [f"first difference: {begin}" for begin in self.began[:1]] + [f"then: {begin}" for begin in self.began[1:]]
        return "\n".join([*first, *map(str, self.results)])


def began(before: Graph, after: Graph) -> list[Begin]:
    """The steps at which two workflows begin to differ, what comes first first; none where they are the same."""
    return list(dict.fromkeys(_began(before, str(before["root"]), after, str(after["root"]), set())))


def compare_sessions(before: Path, after: Path) -> SessionDifference:
    """Compare two session folders by the names of their results; `SessionError` where one of them holds none."""
    old, new = Names(before), Names(after)
    for folder, names in ((before, old), (after, new)):
        if not (folder / "session.json").is_file() or not list(names):
            raise SessionError(f"{folder} holds no results of a session", "name the folders of two sessions")
    found = [_compare(name, before, old, after, new) for name in _in_order(after, new)]
    return SessionDifference(found + [ResultDifference(name, f"only in {before}") for name in old if new.current(name) is None])


def _compare(name: str, before: Path, old: Names, after: Path, new: Names) -> ResultDifference:
    was, now = old.current(name), new.current(name)
    if was is None or now is None:
        return ResultDifference(name, f"only in {after}")
    if was["recipe"] == now["recipe"]:
        return ResultDifference(name, "same")
    first, second = (graph(folder, str(entry["recipe"]), str(entry["use"])) for folder, entry in ((before, was), (after, now)))
    nodes = [side["nodes"][side["root"]]["node"] for side in (first, second)]
    same = nodes[0]["kind"] != "run" and _content(nodes[0]) == _content(nodes[1])
    return ResultDifference(name, "same rows" if same else "differs", tuple(began(first, second)))


def _in_order(folder: Path, names: Names) -> list[str]:
    """The names of a session, each after those that it was made from."""
    given, ordered = list(names), dict[str, None]()
    for name in given:
        if entry := names.current(name):
            made = graph(folder, str(entry["recipe"]), str(entry["use"]))
            ordered |= dict.fromkeys(_upwards(made, str(made["root"]), set()))
    return [name for name in ordered if name in given]


def _upwards(made: Graph, use: str, seen: set[str]) -> Iterator[str]:
    if use in seen:
        return
    seen.add(use)
    place = made["nodes"][use]["use"]
    for source in place["inputs"].values():
        yield from _upwards(made, str(source["use"]), seen)
    yield str(place["name"])


def _content(node: Mapping[str, Any]) -> Any:
    return node["rows"], {name: made["digest"] for name, made in node["columns"].items()}


def _began(before: Graph, was: str, after: Graph, now: str, seen: set[tuple[str, str]]) -> Iterator[Begin]:
    if (was, now) in seen:
        return
    seen.add((was, now))
    old, new = before["nodes"].get(was), after["nodes"].get(now)
    if old is None or new is None or old["node"]["recipe_key"] == new["node"]["recipe_key"]:
        return
    inputs, others = old["use"]["inputs"], new["use"]["inputs"]
    above = [
        begin
        for name in others
        if name in inputs
        for begin in _began(before, str(inputs[name]["use"]), after, str(others[name]["use"]), seen)
    ]
    yield from above
    if own := _own(old, new, bool(above)):
        yield Begin(str(new["use"]["name"]), tuple(own))


def _own(old: Mapping[str, Any], new: Mapping[str, Any], explained: bool) -> list[str]:
    """In what a step differs by itself. What Python computed between two steps differs by its code, or by what it was given."""
    was, now = old["node"]["recipe"], new["node"]["recipe"]
    code = [[cell.get("source") for cell in side["use"].get("through") or []] for side in (old, new)]
    if code[0] != code[1]:
        return ["the Python that made it from other results changed"]
    if explained and (code[1] or new["use"]["inputs"]) and new["node"]["type"] == "DataSource":
        return []
    inputs = {name: was["inputs"].get(name, given) for name, given in now["inputs"].items()}
    return difference(was, {**now, "inputs": inputs})
