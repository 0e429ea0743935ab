"""``nbdream share``, ``unpack``, ``verify`` and ``replay``: a session in one file, looked at, executed, gone on with."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nbdream.errors import ArgumentError, NbDreamError, SessionError
from nbdream.escape import terminal
from nbdream.magics.notebook import shown_path

if TYPE_CHECKING:
    from nbdream.cli.runner import NotebookRun
    from nbdream.hub.replay import Outcome
    from nbdream.hub.verify import Table

REFUSED = 2
"""The exit code where an archive cannot be looked at."""
SESSIONS = ("nbdream-output", "output")


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Enter the commands."""
    share = command("share", _share, "a notebook and its session in one archive, for a colleague to verify, replay and extend")
    share.add_argument("notebook", type=Path)
    share.add_argument("archive", type=Path, help="the zip to write")
    share.add_argument("--session", type=Path, help="the session's folder (default: the one beside the notebook)")
    share.add_argument("--no-calls", action="store_true", help="without the replies: the tables can be read, not made again")
    share.add_argument("--yes", action="store_true", help="share what is stale, too")
    share.add_argument("--allow", default="", metavar="KINDS", help="findings that shall not stop it, by commas: secrets, paths, stale")
    unpack = command("unpack", _unpack, "unpack a shared archive, once it has been looked at, to go on with")
    unpack.add_argument("archive", type=Path)
    unpack.add_argument("folder", nargs="?", type=Path, help="a new folder (default: the archive's name)")
    verify = command(
        "verify", _verify, "make every table again that needs no code, from stored replies, and compare: 0 same, 1 differs, 2 refused"
    )
    verify.add_argument("archive", help="an archive or a folder")
    replay = command("replay", _replay, "execute a shared notebook with the network shut, from stored replies alone, and compare")
    replay.add_argument("archive", help="an archive, a folder, or a repository on the Hub that holds an archive")
    replay.add_argument("--folder", type=Path, help="a new folder in which it is replayed, and that stays (default: one that goes away)")
    replay.add_argument("--yes", action="store_true", help="execute its code without asking")


def _share(given: argparse.Namespace) -> int:
    from nbdream.hub.share import STALE, share
    from nbdream.session import Session

    if not given.notebook.is_file():
        raise ArgumentError(f"there is no notebook {given.notebook}", "give the path of an .ipynb file")
    allow = [*(kind.strip() for kind in given.allow.split(",") if kind.strip()), *([STALE] if given.yes else [])]
    with Session(_session_beside(given.notebook, given.session)) as session, _Meter(given, "packed") as meter:
        shared = share(session, given.archive, given.notebook, calls=not given.no_calls, allow=allow, say=meter.say)
    if given.json:
        print(json.dumps({**asdict(shared), "path": str(shared.path)}))
    else:
        print(shared.line())
    return 0


def _session_beside(notebook: Path, named: Path | None) -> Path:
    told = named or os.environ.get("NBDREAM_SESSION")
    places = [Path(told)] if told else [notebook.resolve().parent / name for name in SESSIONS]
    for place in places:
        if (place / "session.json").is_file():
            return place.resolve()
    where = str(told) if told else " or ".join(f"./{name}" for name in SESSIONS) + f" beside {notebook.name}"
    raise SessionError(f"there is no session in {where}", "run the notebook first, or name its folder: --session FOLDER")


def _unpack(given: argparse.Namespace) -> int:
    from nbdream.hub.unpack import unpack

    folder = given.folder or Path(given.archive.stem)
    with _Meter(given, "unpacked") as meter:
        session = unpack(given.archive, folder, meter)
    if given.json:
        print(json.dumps({"folder": str(folder), "session": str(session)}))
    else:
        print(f"{shown_path(folder)}: its session is {shown_path(session)}; what the notebook asks again costs nothing")
    return 0


# --- verify -----------------------------------------------------------------------------------------------------------


def _verify(given: argparse.Namespace) -> int:
    from nbdream.hub.verify import verify

    try:
        with _Meter(given, "unpacked") as meter:
            report = verify(Path(given.archive), (lambda table: None) if given.json else _say_table(meter), meter)
    except NbDreamError as error:
        return _refused(given, error)
    if given.json:
        print(json.dumps({"ok": report.ok, "with_calls": report.with_calls, "tables": [asdict(table) for table in report.tables]}))
    else:
        print(f"\n{report.line()}" + ("" if report.with_calls else " · it was shared without its replies"))
    return 0 if report.ok else 1


def _say_table(meter: _Meter) -> Callable[[Table], None]:
    def say(table: Table) -> None:
        meter.clear()
        print(_line(table.state, table.name, table.says, f"{table.rows:,} rows"), flush=True)

    return say


def _line(state: str, name: str, says: str, count: str = "") -> str:
    mark = {"same": "✓", "differs": "✗", "not made": "✗", "not stored": "✗"}.get(state, "·")
    return terminal(f"{mark} {name:32} {count:>12}  {state}" + (f": {says}" if says else ""))


def _refused(given: argparse.Namespace, error: NbDreamError) -> int:
    from nbdream.cli import _fail

    _fail(given, error)
    return REFUSED


# --- replay -----------------------------------------------------------------------------------------------------------


def _replay(given: argparse.Namespace) -> int:
    from nbdream.hub import replay

    try:
        with replay.fetched(given.archive) as path:
            if not given.yes:
                _ask(path, replay.says_of(path))
            with _Meter(given, "unpacked") as meter, replay.stage(path, given.folder, meter) as where:
                meter.clear()
                run = _run(given, where)
                found = replay.outcome(
                    given.archive, where, [f"cell {cell.number}: {cell.says}" for cell in run.cells if cell.state != "done"]
                )
                found.network = _network(where.session)
    except NbDreamError as error:
        return _refused(given, error)
    if given.json:
        print(json.dumps({"ok": found.ok, **asdict(found)}))
    else:
        _tell(found)
    return 0 if found.ok else 1


def _run(given: argparse.Namespace, where: Any) -> NotebookRun:
    from nbdream.cli.runner import run_notebook

    def say(line: str) -> None:
        print(line, file=sys.stderr if given.json else sys.stdout, flush=True)

    return run_notebook(where.notebook, where.notebook.parent, say=say, html=False, replay=where.environment)


def _network(session: Path) -> str:
    from nbdream.files import read_object
    from nbdream.hub.shut import TOLD

    try:
        return str(read_object(session / TOLD).get("network"))
    except FileNotFoundError:
        return ""


def _ask(path: Path, manifest: Mapping[str, Any]) -> None:
    """Have a person say yes; `ArgumentError` where nobody does."""
    notebook = manifest.get("notebook") or "its notebook"
    question = f"{path}: execute the code of {terminal(notebook)} on this machine, with your rights and the network shut? [y/N] "
    if not sys.stdin.isatty():
        raise ArgumentError("a replay executes the archive's code", "say --yes if you trust who made it; nbdream verify executes nothing")
    if input(question).strip().lower() not in ("y", "yes"):
        raise ArgumentError("nothing was executed", "nbdream verify compares without executing anything")


def _tell(found: Outcome) -> None:
    print()
    for table in found.tables:
        print(_line(table.state, table.name, table.says, {True: "same bytes", False: "other bytes", None: ""}[table.bytes_same]))
    for cell in found.cells_failed:
        print(terminal(f"  {cell}"))
    print(f"\n{found.line()}")


class _Meter:
    """One line that says how far packing or unpacking is, where it would be seen. A context manager."""

    def __init__(self, given: argparse.Namespace, word: str) -> None:
        self._word = word
        self._shown = sys.stderr.isatty() and not given.json
        self._last = ""

    def __call__(self, done: int, total: int) -> None:
        self.say(f"{self._word} {100 * done // total if total else 100} %")

    def say(self, line: str) -> None:
        """Show a line in place of the one before."""
        if self._shown and line != self._last:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{terminal(line)[:width].ljust(min(len(self._last), width))}", end="", file=sys.stderr, flush=True)
            self._last = line

    def clear(self) -> None:
        """Take the line away."""
        if self._last:
            self.say("")
            print("\r", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
