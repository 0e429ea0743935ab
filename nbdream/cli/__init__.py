"""The command ``nbdream``: run a notebook without a front end, see what a session holds, follow what trains, try the demo.

Exit codes: 0 all is well · 1 a cell or a command failed · 2 the command line is wrong · 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbdream import __version__
from nbdream.errors import NbDreamError, SessionError

if TYPE_CHECKING:
    from nbdream.cli.runner import NotebookRun
    from nbdream.session import Session

DEMO_FOLDER = "demo-output"
SESSIONS = ("nbdream-output", "output")
"""Where a session is looked for when none is named."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        code: int = given.do(given)
    except NbDreamError as error:
        _fail(given, error)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what was done is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _fail(given: argparse.Namespace, error: NbDreamError) -> None:
    if given.json:
        print(json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint}))
    print(f"{type(error).__name__}: {error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    from nbdream.cli import publishing, sharing, storage

    parser = argparse.ArgumentParser(prog="nbdream", description="Synthetic data and model training in a notebook.")
    parser.add_argument("--version", action="version", version=f"nbdream {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, do: Any, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary)
        added.add_argument("--json", action="store_true", help="one JSON value on the standard output")
        added.set_defaults(do=do)
        return added

    demo = command("demo", _demo, "run the example notebook with the model that ships with nbdream; again: from cache")
    demo.add_argument("folder", nargs="?", default=DEMO_FOLDER, type=Path, help=f"where it runs (default ./{DEMO_FOLDER})")
    run = command("run", _run, "run a notebook without a front end, a line per cell; what is cached costs nothing")
    run.add_argument("notebook", type=Path)
    run.add_argument("--out", type=Path, help="folder of the executed notebook and its HTML (default: the notebook's)")
    run.add_argument("--no-html", action="store_true", help="write no HTML")
    for name, do, summary in (
        ("status", _status, "every result of a session: fresh, stale (and why), running"),
        ("card", _card, "the card of a result"),
        ("why", _why, "why a result would be made again, in words"),
        ("diff", _diff, "what differs from another result, or from its own earlier one; or between two sessions' folders"),
        ("attach", _attach, "follow a training run to its end; leaving it (Ctrl-C) leaves it running"),
        ("stop", _stop, "stop a training run with a checkpoint, and say at which step"),
    ):
        added = command(name, do, summary)
        if name != "status":
            added.add_argument("name")
        if name == "diff":
            added.add_argument(
                "other", nargs="?", help="the later of the two results or folders (default: the result that the name has now)"
            )
        added.add_argument("--session", type=Path, help="the session's folder (default: NBDREAM_SESSION, ./nbdream-output or ./output)")
    publishing.add(command)
    sharing.add(command)
    storage.add(command)
    return parser


# --- notebooks ------------------------------------------------------------------------------------------------------


def _run(given: argparse.Namespace) -> int:
    from nbdream.cli.runner import run_notebook

    say = _say(given)
    run = run_notebook(given.notebook, given.out or given.notebook.parent, say=say, html=not given.no_html)
    return _report(given, run, {"notebook": run.notebook, "page": run.html})


def _say(given: argparse.Namespace) -> Any:
    # With --json the standard output holds one JSON value and nothing else.
    return lambda line: print(line, file=sys.stderr if given.json else sys.stdout, flush=True)


def _report(given: argparse.Namespace, run: NotebookRun, places: dict[str, Path | None]) -> int:
    from nbdream.magics.notebook import shown_path

    shown = {name: shown_path(path) for name, path in places.items() if path is not None}
    if given.json:
        print(json.dumps({"ok": run.ok, **shown, "cells": [asdict(cell) for cell in run.cells]}))
    else:
        print()
        for name, path in shown.items():
            print(f"{name + ':':12} {path}")
    return 0 if run.ok else 1


def _demo(given: argparse.Namespace) -> int:
    from nbdream.cli.runner import run_notebook

    source = demo_notebook()
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    notebook = folder / source.name
    if not notebook.exists():  # a copy that was edited is the user's
        shutil.copyfile(source, notebook)
    run = run_notebook(notebook, folder, say=_say(given))
    places: dict[str, Path | None] = {"notebook": run.notebook, "page": run.html}
    others = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    places |= {"session" if (path / "session.json").exists() else path.name: path for path in others}
    return _report(given, run, places)


def demo_notebook() -> Path:
    """The example notebook: shipped beside the demo model, or in the repository."""
    here = Path(__file__).resolve().parent.parent
    for folder in (here / "demo" / "notebooks", here.parent / "example_notebooks"):
        found = sorted(folder.glob("01_*.ipynb"))
        if found:
            return found[0]
    raise SessionError("the example notebook is not installed", "pip install --force-reinstall nbdream")


# --- sessions -------------------------------------------------------------------------------------------------------


def _session(given: argparse.Namespace) -> Session:
    from nbdream.session import Session

    return Session(_session_folder(given))


def _session_folder(given: argparse.Namespace) -> Path:
    named = given.session or os.environ.get("NBDREAM_SESSION")
    places = [Path(named)] if named else [Path(name) for name in SESSIONS]
    for place in places:
        if (place / "session.json").is_file():
            return place.resolve()
    where = str(named) if named else " or ".join(f"./{place}" for place in places)
    raise SessionError(f"there is no session in {where}", "name its folder: --session FOLDER")


def _status(given: argparse.Namespace) -> int:
    from nbdream.magics.dream import STATUS, status_rows, status_words
    from nbdream.widgets.table import table_text

    with _session(given) as session:
        rows = status_rows(session)
    if given.json:
        print(json.dumps(rows))
    elif rows:
        print(table_text(STATUS, [status_words(row) for row in rows], len(rows), width=_width()))
    else:
        print("no results yet")
    return 0


def _width() -> int:
    return shutil.get_terminal_size((120, 40)).columns


def _card(given: argparse.Namespace) -> int:
    from nbdream.magics.dream import card_of

    with _session(given) as session:
        print(json.dumps(card_of(session.load(given.name)), indent=None if given.json else 1, ensure_ascii=False))
    return 0


def _why(given: argparse.Namespace) -> int:
    from nbdream.magics.dream import why_lines

    with _session(given) as session:
        reasons, lines = session.why(given.name), why_lines(session, given.name)
    print(json.dumps(reasons) if given.json else "\n".join(lines))
    return 0


def _diff(given: argparse.Namespace) -> int:
    from nbdream.magics.dream import compared
    from nbdream.workflows import compare_sessions

    if given.other and Path(given.name).is_dir() and Path(given.other).is_dir():
        between = compare_sessions(Path(given.name), Path(given.other))
        print(json.dumps(asdict(between)) if given.json else between)
        return 0
    with _session(given) as session:
        found = compared(session, [given.name, *([given.other] if given.other else [])])
    print(json.dumps(asdict(found), default=str) if given.json else found)
    return 0


# --- training runs --------------------------------------------------------------------------------------------------


def _attach(given: argparse.Namespace) -> int:
    from nbdream.cli import runs

    try:
        ended = runs.attach(_session_folder(given), given.name, _say(given))
    except KeyboardInterrupt:
        print(f"left: {given.name} goes on", file=sys.stderr)
        return 130
    _tell(given, ended)
    return 0 if ended["state"] == "done" else 1  # so that `nbdream attach x && …` goes on with a model only


def _stop(given: argparse.Namespace) -> int:
    from nbdream.cli import runs

    _tell(given, runs.stop(_session_folder(given), given.name, _say(given)))
    return 0


def _tell(given: argparse.Namespace, ended: dict[str, Any]) -> None:
    from nbdream.cli.runs import sentence

    print(json.dumps(ended) if given.json else sentence(given.name, ended))
