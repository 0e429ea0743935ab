"""Recompute: what a cell does differently the next time that it runs, and only then; and seeds that no result of a name has had.

Of the same recipe, a further attempt stands beside the first, with replies of its own (``RECOMPUTE``) or with those that are there, where
only failed rows are asked again (``RETRY``); the name points at it. With another seed, the recipe is another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError
from nbdream.magics.grammar import Call, Option

if TYPE_CHECKING:
    from nbdream.magics.notebook import Notebook
    from nbdream.session import Session
    from nbdream.widgets.show import View

RECOMPUTE, RETRY, ESTIMATE = HOW = ("recompute", "retry", "estimate")
"""All that a page may ask of a cell's next run."""
_DECIDED = "annotate"
"""The magic whose result people make."""

OPTIONS = (Option(name="failed", kind="flag", help="ask again for the rows that failed, and for no other"),)


def apply(call: Call, once: str) -> None:
    """Have a cell that was read do what was asked of its next run."""
    call.once = once
    known = {option.name for option in call.magic.options}
    if once == ESTIMATE:
        if "dry_run" not in known:
            raise ArgumentError(f"what {call.magic.shown} costs cannot be estimated", "it asks no model that is paid")
        call.options["dry_run"] = True
    elif once == RETRY:
        if "retry_failed" not in known:
            raise ArgumentError(f"{call.magic.shown} asks for no rows that could be asked again", "run the cell")
        call.options["retry_failed"] = True
    elif once == RECOMPUTE and call.magic.name == _DECIDED:
        raise ArgumentError("what people decided is not made anew", "another name asks everything again")


def result(name: str) -> str:
    """The key in `Notebook.once` of the cell that makes ``name``, where its id is not known."""
    return f"result:{name}"


def verb(notebook: Notebook, call: Call) -> View:
    """``%dream recompute NAME``."""
    from nbdream.widgets.show import lines_view

    (name,) = call.words
    if notebook.session().names.current(name) is None:
        raise ArgumentError(f"the session has no result {name!r}", "name a result of the session: see %dream status")
    failed = "failed" in call.options
    notebook.once[result(name)] = RETRY if failed else RECOMPUTE
    what = "asks again for the rows that failed" if failed else "makes it anew; what was made is kept"
    return lines_view([f"{name}: its cell, when it runs next, {what}"])


def new_seed(session: Session, name: str) -> int:
    """The smallest seed above all that results of this name were made with."""
    return max(_seeds(session, name), default=0) + 1


def _seeds(session: Session, name: str) -> Iterator[int]:
    from nbdream.objects import ResultFolder

    for entry in (session.names.read(name) or {"history": []})["history"]:
        node: Mapping[str, Any] = ResultFolder(session.folder / "objects" / str(entry["recipe"])).node() or {}
        seed = ((node.get("recipe") or {}).get("args") or {}).get("seed")
        if isinstance(seed, int) and not isinstance(seed, bool):
            yield seed
