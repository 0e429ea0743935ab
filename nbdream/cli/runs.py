"""``nbdream attach`` and ``nbdream stop``: a training run followed, or asked to stop, from another process than its notebook's."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nbdream.errors import ArgumentError, TrainingError, nearest
from nbdream.escape import terminal
from nbdream.files import read_object
from nbdream.lineage import Names
from nbdream.objects import ResultFolder
from nbdream.widgets.curve import History
from nbdream.widgets.progress import TerminalScreen
from nbdream.workers import runs
from nbdream.workers.paths import RunPaths

TOLD = ("queued", "resumed", "log", "eval", "stopping")
"""Events that get a line of their own where lines cannot be written over."""
RESUME = "run its cell again to resume"


def living(session: Path, name: str) -> RunPaths:
    """The run of ``name`` that is going on; one line with what there is instead, where there is none."""
    found = runs.living(session / "objects")
    if name in found:
        return found[name]
    ended = [result for paths in _named(session, name) if (result := runs.result(paths)) is not None]
    names = Names(session)
    entry = names.current(name)
    if entry is not None:
        node = ResultFolder(session / "objects" / str(entry["recipe"])).node() or {}
        if node.get("kind") != "run":
            raise ArgumentError(f"{name} is no training run", "see nbdream status")
        raise TrainingError(f"{name} is not training: it is done", f"see nbdream card {name}")
    if ended:
        how = f"it was stopped at step {ended[-1].get('step', 0)}" if ended[-1]["state"] == "stopped" else "it failed"
        raise TrainingError(f"{name} is not training: {how}", RESUME)
    raise ArgumentError(f"the session has no run {name!r}", nearest(name, {*found, *names}, "its runs and results are"))


def _named(session: Path, name: str) -> list[RunPaths]:
    """The folders of all runs of a name, the one that was started last at the end."""
    specs = sorted((session / "objects").glob("*/spec.json"), key=lambda path: path.stat().st_mtime)
    return [RunPaths(path.parent) for path in specs if read_object(path).get("name") == name]


def attach(session: Path, name: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Follow a run to its end: how it ended. `TrainingError` when it failed."""
    paths = living(session, name)
    return _ended(name, _followed(paths, say))


def stop(session: Path, name: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Ask a run to stop and wait for its checkpoint: how it ended."""
    paths = living(session, name)
    runs.ask_to_stop(paths)
    return _ended(name, _followed(paths, say if sys.stderr.isatty() else None))


def sentence(name: str, result: Mapping[str, Any]) -> str:
    """How a run ended, in a line."""
    if result["state"] == "stopped":
        return f"{name} was stopped at step {result.get('step', 0)}: {RESUME}"
    loss = result.get("train_loss")
    return f"{name} is done" + (f" after {result['step']:,} steps" if "step" in result else "") + (f" · loss {loss:.4g}" if loss else "")


def _followed(paths: RunPaths, say: Callable[[str], None] | None) -> dict[str, Any]:
    """Follow a run, in a line that changes or, where nothing can be written over, in a line for each thing that is new."""
    history, screen = History(), TerminalScreen()
    behind = len(runs.events(paths))

    def hear(event: dict[str, Any]) -> None:
        nonlocal behind
        history.add(event)
        behind -= 1
        if say is None or behind > 0:  # what was said before is the beginning of the curve, and no news
            return
        if sys.stderr.isatty():
            screen.show({"text/plain": terminal(history.line())[: shutil.get_terminal_size().columns - 1]})
        elif behind == 0 or event.get("type") in TOLD:
            say(history.line())

    try:
        return runs.follow(paths, hear)
    finally:
        screen.clear()


def _ended(name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    if result["state"] not in ("done", "stopped"):
        raise TrainingError(f"training {name} failed: {result.get('message', 'it never ran')}", result.get("hint"))
    return {"name": name, **result}
