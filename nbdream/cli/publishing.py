"""``nbdream publish``: a result of a session, or a notebook, to the Hub or a folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbdream.errors import ArgumentError, nearest


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command; it takes the options of ``%dream publish``."""
    from nbdream.magics.publishing import OPTIONS, SUMMARY

    parser = command("publish", _publish, SUMMARY)
    parser.add_argument("--session", type=Path, help="the session's folder (default: NBDREAM_SESSION, ./nbdream-output or ./output)")
    parser.add_argument("name", nargs="?", help="the result; with --notebook it may be left out")
    parser.add_argument("repo", help="owner/name on the Hub, or a folder: ./x, ~/x, /x")
    for option in OPTIONS:
        if option.name == "notebook":
            parser.add_argument("--notebook", type=Path, metavar="FILE", help="a notebook to publish, too; without a result, by itself")
        elif option.kind == "flag":
            parser.add_argument(option.flag, action="store_true", help=option.help)
        else:
            parser.add_argument(*option.spellings, dest=option.name, help=option.help)


def _publish(given: argparse.Namespace) -> int:
    from nbdream.cli import _session_folder
    from nbdream.session import Session

    with Session(_session_folder(given)) as session:
        return publish(session, given)


def publish(session: Any, given: argparse.Namespace) -> int:
    """Publish what the command line names; 0 when it is there."""
    from nbdream import hub
    from nbdream.magics.publishing import FLAGS, TAKEN, check_alone, sizes

    options: dict[str, Any] = {name: getattr(given, name) for name in (*TAKEN, *FLAGS) if getattr(given, name)}
    options |= {"allow": tuple(part.strip() for part in (given.allow or "").split(",") if part.strip()), **sizes(given.splits)}
    if given.json:  # the standard output holds one JSON value and nothing else
        options["say"] = lambda line: print(line, file=sys.stderr, flush=True)
    if given.strip_outputs and given.notebook is None:
        raise ArgumentError("--strip-outputs is for a notebook", "add --notebook FILE")
    beside = {} if given.notebook is None else {"notebook": given.notebook, "strip": given.strip_outputs}
    if given.name is not None:
        published = hub.publish(session.load(given.name), given.repo, **options, **beside)
    elif beside:
        check_alone(options)
        published = hub.publish_notebook(session, repo_id=given.repo, **options, **beside)
    else:
        hint = f"nbdream publish NAME REPO; {nearest(given.repo, session, 'the results are')}"
        raise ArgumentError("a result and a repository are needed", hint)
    if given.json:
        print(json.dumps({"published": published, "dry_run": given.dry_run}))
    elif not given.dry_run:
        print(published)
    return 0
