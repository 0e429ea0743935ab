"""What a front end is told of a session: the work that runs, how each cell stands, the results in order, the money.

Only what is on disk and what the session's events say: the page that shows it decides nothing.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbdream.errors import NbDreamError, Stopped

if TYPE_CHECKING:
    from nbdream.session import Session
    from nbdream.widgets.curve import History

Facts = dict[str, Any]

SIZE = 8_000
"""Bytes of a snapshot, at most."""
LONGEST = 160
"""Characters of a reason or a name that are told."""
MOST = 60
"""Results that are told: the newest."""
EDITED = "edited, not run"
KEPT = "what was done is kept; run the cell again to go on"
PATIENCE = 20
"""How often the price of all replies is summed up: at most once in so many times what it takes."""


def source_digest(source: str) -> str:
    """A cell's text in short, as the front end computes it too: it tells an edited cell from one that ran."""
    data = source.encode("utf-8", "surrogatepass")
    return f"{len(data)}-{zlib.crc32(data):08x}"


@dataclass(slots=True)
class _Step:
    """What the events of a running step say."""

    name: str
    began: float = field(default_factory=time.monotonic)
    progress: Mapping[str, Any] = field(default_factory=dict)
    waits: bool = False


@dataclass(slots=True)
class _Run:
    """What a training run has said so far."""

    history: History
    position: int = 0


@dataclass(slots=True)
class _Ended:
    """How a cell of this kernel ended."""

    state: str
    reason: str = ""


class Watch:
    """Takes in cells and events of sessions, from any thread, and tells where they stand."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: dict[str, _Step] = {}
        self._runs: dict[str, _Run] = {}
        self._ended: dict[str, _Ended] = {}
        self._taken: dict[str, bool] = {}
        """By name: whether this kernel found it there and paid nothing."""
        self._ran: dict[str, str] = {}
        self._order: dict[str, int] = {}
        """By cell: the how manieth it was when it last ran in this kernel."""
        self._count = itertools.count()
        self._named: dict[str, str] = {}
        self._page: dict[str, str] = {}
        self._known: dict[tuple[str, str], Facts] = {}
        self._results: list[Facts] = []
        self._changed = True
        self._paid = 0.0
        self._paid_next = 0.0

    # --- what happens -----------------------------------------------------------------------------------------------

    def take(self, event: Mapping[str, Any], step: Any = None) -> None:
        """Take in an event of a session, and the step that it is about, if it runs in this kernel."""
        kind, key, name = str(event.get("type")), str(event.get("recipe")), str(event.get("name"))
        with self._lock:
            if kind in ("step.started", "step.progress", "step.waiting"):
                step = self._steps.setdefault(key, _Step(name))
                step.waits = kind == "step.waiting"
                if kind == "step.progress":
                    step.progress = dict(event)
            elif kind in ("step.done", "step.loaded", "step.failed"):
                self._steps.pop(key, None)
                self._changed = True
                usage = event.get("usage") or {}
                cell = None if step is None else _cell(step.cell)
                if kind == "step.failed" and cell is not None:  # in the background: the cell itself is over
                    stopped = step.stopping.is_set()
                    self._ended[cell] = _Ended("stopped" if stopped else "failed", KEPT if stopped else _cut(str(event.get("error"))))
                elif kind != "step.failed" and not getattr(step, "preview", False):
                    self._taken[name] = kind == "step.loaded" or bool(usage.get("cached_calls") and not usage.get("calls"))

    def began(self, cell: str, source: str) -> None:
        """A cell begins to run."""
        self.ran(cell, source)
        with self._lock:
            words = source.split(maxsplit=2)
            self._named[cell] = words[1] if len(words) > 1 and words[1].isidentifier() else ""
            self._ended.pop(cell, None)

    def ran(self, cell: str, source: str) -> None:
        """A cell runs, one of ours or of plain Python."""
        with self._lock:
            self._ran[cell] = self._page[cell] = source_digest(source)
            self._order[cell] = next(self._count)

    def ended(self, cell: str, error: BaseException | None) -> None:
        """A cell is over; ``error`` is what it raised."""
        with self._lock:
            self._changed = True
            if error is not None:
                self._ended[cell] = _Ended("stopped" if isinstance(error, Stopped | KeyboardInterrupt) else "failed", _first_line(error))

    def edited(self, cells: Mapping[str, str]) -> None:
        """Take in what the page's cells hold now: digests of their sources, by cell."""
        with self._lock:
            self._page |= cells

    def refresh(self) -> None:
        """Read again what is on disk, next time."""
        with self._lock:
            self._changed = True

    # --- where things stand -----------------------------------------------------------------------------------------

    def snapshot(self, session: Session | None) -> dict[str, Any]:
        """Everything that a page shows, in at most `SIZE` bytes of JSON."""
        if session is None:
            nothing: dict[str, Any] = {"works": [], "nodes": [], "between": [], "spend": None, "budget": None}
            return _fitted({"session": None, "cells": self._cells([], []), **nothing})
        works = self.works(session)
        with self._lock:
            changed, self._changed = self._changed, False
        if changed:
            self._results = self._read(session)
            self._sum_up(session, works)
        spend = self._paid + sum(work["paid"] or 0.0 for work in works)
        nodes = [_with_work(node, works) for node in self._standing()]
        return _fitted(
            {
                "session": session.folder.name,
                "works": works,
                "cells": self._cells(nodes, works),
                "nodes": [{key: value for key, value in node.items() if key not in _NOT_TOLD} for node in nodes],
                "between": list(dict.fromkeys(cell for node in nodes for cell, _ in node["through"])),
                "spend": _money(spend),
                "budget": _money(session.budget),
                "share": None if not session.budget else round(spend / session.budget, 4),
            }
        )

    def stale(self, session: Session) -> list[str]:
        """The cells that make everything fresh: those whose results are stale, and the Python between them and what has changed."""
        told = self.snapshot(session)["cells"]
        nodes = self._standing()
        cells = {str(node["name"]): node["cell"] for node in nodes}
        stale = [node for node in nodes if told.get(node["cell"], {}).get("state") == "stale"]
        runs = {node["name"] for node in stale}
        edited = self._edited(nodes)
        found = dict.fromkeys(str(node["cell"]) for node in stale)
        for node in stale:
            through = [cell for cell, _ in node["through"]]
            again = runs & set(node["above"]) or edited & set(through)
            if again or (node["moved"] and not self._since(through, [cells.get(name) for name in node["above"]])):
                found |= dict.fromkeys(through)
        return list(found)

    def _since(self, cells: Iterable[str], above: Iterable[str | None]) -> bool:
        """Whether ``cells`` ran in this kernel after those ``above`` them."""
        with self._lock:
            order = [self._order.get(str(cell)) for cell in above]
            last = max((at for at in order if at is not None), default=None)
            return last is not None and None not in order and all(self._order.get(cell, -1) > last for cell in cells)

    def _standing(self) -> list[Facts]:
        """The results, and whether they are stale for what the page's cells hold or what has run since."""
        edited = self._edited(self._results)
        with self._lock:
            ran = dict(self._ran)
        return _with_edits(self._results, edited, ran)

    def works(self, session: Session) -> list[Facts]:
        """What runs now: the steps of this kernel, and the training runs that live, whoever started them."""
        from nbdream.workers import runs
        from nbdream.workers.paths import RunPaths

        living = {paths.folder.name: (name, paths) for name, paths in runs.living(session.folder / "objects").items()}
        told = []
        for step in session.running():
            if step.kind == "run" and not RunPaths(session.folder / "objects" / step.key).lock.exists():
                told.append({**self._work(step.key, step.name, _cell(step.cell)), "kind": "training", "state": "starting"})
            elif step.key in living:
                name, paths = living.pop(step.key)
                told.append({**self._work(step.key, name, _cell(step.cell)), **self._training(paths)})
            elif step.kind != "run":
                told.append({**self._work(step.key, step.name, _cell(step.cell)), **self._step(step)})
        told += [{**self._work(key, name, None), **self._training(paths)} for key, (name, paths) in living.items()]
        return told

    def _work(self, key: str, name: str, cell: str | None) -> Facts:
        return {"id": key, "name": _cut(name), "cell": cell, "stoppable": True, "paid": None}

    def _step(self, step: Any) -> Facts:
        with self._lock:
            seen = self._steps.get(step.key) or _Step(step.name)
        said, seconds = seen.progress, time.monotonic() - seen.began
        done, total, new = said.get("done") or 0, said.get("total"), said.get("new") or 0
        speed = new / seconds if seconds > 0 else 0.0
        cost, saved = said.get("cost"), said.get("saved")
        state = "stopping" if step.stopping.is_set() else "waiting for another kernel" if seen.waits else "running"
        told = {
            "kind": type(step).__name__,
            "state": state,
            "done": done,
            "total": total,
            **{name: said.get(name) for name in ("cached", "new", "failed")},
            "rate": round(speed, 2) if speed else None,
            "eta": round((total - done) / speed, 1) if speed and total and total > done else None,
            "cost": _money(cost or None),
            "saved": _money(saved or None),
            "paid": cost,
            "stoppable": state != "stopping",
        }
        return told if said.get("cached") is not None else {**told, "kind": "step"}

    def _training(self, paths: Any) -> Facts:
        from nbdream.files import read_lines
        from nbdream.widgets.curve import History
        from nbdream.workers import runs

        run = self._runs.setdefault(paths.folder.name, _Run(History()))
        found, run.position = read_lines(paths.events, run.position)
        for event in found:
            run.history.add(event)
        last, left = run.history.last, run.history.left()
        stops = runs.stopping(paths)
        return {
            "kind": "training",
            "state": "stopping" if stops else run.history.state,
            "done": last.get("step") or 0,
            "total": last.get("max_steps"),
            **{name: last.get(name) for name in ("step", "max_steps", "loss", "eval_loss")},
            "eta": None if left is None else round(left, 1),
            "stoppable": not stops,
        }

    def _read(self, session: Session) -> list[Facts]:
        from nbdream.magics.dream import is_taken_over
        from nbdream.objects import ResultFolder

        found = []
        for name in list(session.names)[-MOST:]:
            entry = session.names.current(name)
            if entry is None:
                continue
            place = (str(entry["recipe"]), str(entry["use"]))
            if place not in self._known:
                folder = ResultFolder(session.folder / "objects" / place[0])
                self._known[place] = _facts(session, folder, place[1])
            facts = self._known[place]
            if facts and not is_taken_over(name, facts):
                state = session.names.state(name)
                cell = entry.get("cell") or {}
                found.append(
                    {
                        **{key: value for key, value in facts.items() if key != "type"},
                        "name": _cut(name),
                        "cell": cell.get("id"),
                        "ran": source_digest(str(cell.get("source") or "")),
                        "state": state.state,
                        "reason": _cut("; ".join(state.reasons)),
                        "moved": state.state == "stale",
                    }
                )
        return _in_order(found)

    def _edited(self, results: Iterable[Facts]) -> set[str]:
        """The cells whose text on the page is not what ran: in this kernel or, before it ran here, in an earlier one."""
        ran = {cell: digest for node in results for cell, digest in node["through"]}
        ran |= {str(node["cell"]): str(node["ran"]) for node in results if node["cell"]} | self._ran
        with self._lock:
            return {cell for cell, digest in ran.items() if self._page.get(cell, digest) != digest}

    def _cells(self, nodes: Iterable[Facts], works: Iterable[Facts]) -> dict[str, Facts]:
        told: dict[str, Facts] = {}
        for node in nodes:
            if node["cell"]:
                kept = ("name", "state", "reason", "kind", "rows", "failed", "cost")
                told[node["cell"]] = {**{name: node[name] for name in kept}, "cached": bool(self._taken.get(node["name"]))}
        with self._lock:
            ended = dict(self._ended)
        for cell, end in ended.items():
            told[cell] = {**told.get(cell, {"name": self._named.get(cell, "")}), "state": end.state, "reason": end.reason, "cached": False}
        for work in works:
            if work["cell"]:
                told[work["cell"]] = {"name": work["name"], "state": "running", "work": work["id"]}
        return told

    def _sum_up(self, session: Session, works: Iterable[Facts]) -> None:
        """What all stored replies cost; what the running work has paid so far is told apart."""
        from nbdream import ledger

        began = time.monotonic()
        if began < self._paid_next or not (session.folder / "calls.sqlite").exists():
            return
        running = sum(work["paid"] or 0.0 for work in works)
        self._paid = max(0.0, ledger.at_least(session.engine.paid()) - running)
        self._paid_next = began + PATIENCE * (time.monotonic() - began)


_NOT_TOLD = ("ran", "through", "moved")
"""What is known of a result, and not the page's business."""


def _facts(session: Session, folder: Any, use: str) -> Facts:
    """What never changes about a result: what it is, its size, what it cost, the names and the Python cells that it was made from."""
    from nbdream.ledger import sum_known

    try:
        node = folder.node()
        above, through = _above(session, folder.use(use))
    except NbDreamError:  # it was deleted, or is broken: its own cell says so
        return {}
    if node is None:
        return {}
    usage = node.get("usage") or {}
    return {
        "type": node.get("type"),
        "kind": "model" if node.get("kind") == "run" else "rows",
        "rows": None if node.get("kind") == "run" else node.get("rows"),
        "failed": node.get("failures") or 0,
        "cost": _money(sum_known(usage.get("cost"), usage.get("saved", 0.0)) or None),
        "above": list(dict.fromkeys(_cut(name) for name in above)),
        "through": [(str(cell.get("id")), source_digest(str(cell.get("source") or ""))) for cell in through],
    }


def _above(session: Session, place: Mapping[str, Any]) -> tuple[list[str], list[Mapping[str, Any]]]:
    """The names that a result was made from, and the cells of plain Python between it and them."""
    from nbdream.magics.dream import is_taken_over
    from nbdream.objects import ResultFolder

    names, cells = [], []
    for source in place["inputs"].values():
        above = ResultFolder(session.folder / "objects" / source["recipe"]).use(source["use"])
        if is_taken_over(above["name"], above):
            further, more = _above(session, above)
            names += further
            cells += [*more, *above.get("through", ())]
        else:
            names.append(str(above["name"]))
    return names, list({str(cell.get("id")): cell for cell in cells}.values())


def _in_order(nodes: list[Facts]) -> list[Facts]:
    """Results behind those that they were made from, and otherwise as they come: within a second, times do not tell."""
    placed: dict[str, Facts] = {}
    by_name = {str(node["name"]): node for node in nodes}

    def place(node: Facts, path: tuple[str, ...]) -> None:
        for name in node["above"]:
            if name in by_name and name not in placed and name not in path:
                place(by_name[name], (*path, str(node["name"])))
        placed.setdefault(str(node["name"]), node)

    for node in nodes:
        place(node, ())
    return list(placed.values())


def _with_edits(nodes: Iterable[Facts], edited: set[str], ran: Mapping[str, str]) -> list[Facts]:
    """Results whose cell, or the Python before it, was edited or is another by now are stale, and so is all that was made from them."""
    told: list[Facts] = []
    why: dict[str, str] = {}
    for node in nodes:
        name, above = node["name"], next((name for name in node["above"] if name in why), None)
        if node["cell"] in edited:
            why[name], reason = f"{name} was {EDITED}", EDITED
        elif any(cell in edited for cell, _ in node["through"]):
            why[name] = reason = f"the Python before {name} was {EDITED}"
        elif above is not None:
            why[name] = reason = why[above]
        elif any(ran.get(cell, digest) != digest for cell, digest in node["through"]):
            why[name] = reason = f"the Python before {name} has changed"
        else:
            reason = ""
        told.append({**node, "state": "stale", "reason": _cut(reason)} if reason else node)
    return told


def _with_work(node: Facts, works: Iterable[Facts]) -> Facts:
    work = next((work for work in works if work["name"] == node["name"]), None)
    return node if work is None else {**node, "state": "running", "reason": ""}


def _fitted(snapshot: dict[str, Any]) -> dict[str, Any]:
    """``snapshot``, without its oldest results where it would be too large."""
    for work in snapshot["works"]:
        work.pop("paid")
    left_out = 0
    while snapshot["nodes"] and len(json.dumps(snapshot, ensure_ascii=False).encode()) > SIZE:
        few = max(1, len(snapshot["nodes"]) // 8)
        for node in snapshot["nodes"][:few]:
            snapshot["cells"].pop(node["cell"], None)
        del snapshot["nodes"][:few]
        left_out += few
    return {**snapshot, "left_out": left_out}


def _cell(cell: Mapping[str, Any] | None) -> str | None:
    found = (cell or {}).get("id")
    return None if found is None else str(found)


def _money(dollars: float | None) -> str | None:
    from nbdream.prices import shown

    return None if dollars is None else shown(dollars)


def _first_line(error: BaseException) -> str:
    text = error.message if isinstance(error, NbDreamError) else str(error) or type(error).__name__
    return _cut(text.strip().partition("\n")[0])


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
