"""``%dream share``: the session and this notebook in one archive, for a colleague."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from nbdream.errors import DataError
from nbdream.magics.grammar import Call, Option
from nbdream.widgets.progress import PERIOD, QUIET, NotebookScreen, Screen, TerminalScreen
from nbdream.widgets.show import View, lines_view

if TYPE_CHECKING:
    from nbdream.magics.notebook import Notebook

USAGE = "share ARCHIVE.zip [--no-calls] [--yes] [--allow KINDS]"
SUMMARY = "session and notebook in one archive, for a colleague to verify, replay and extend"
OPTIONS = (
    Option(name="no_calls", kind="flag", help="without the replies: the tables can be read, not made again"),
    Option(name="yes", kind="flag", help="share what is stale, too"),
    Option(name="allow", kind="names", help="findings that shall not stop it: secrets, paths, stale"),
)


def share(notebook: Notebook, call: Call) -> View | None:
    """Pack the session, and the notebook as it was last saved; who runs no notebook file packs the session alone."""
    from nbdream import context
    from nbdream.hub.share import STALE, share
    from nbdream.magics.notebook import shown_path

    if context.replaying():
        return lines_view(["a replay shares nothing"])
    allow = [*call.get("allow", ()), *([STALE] if call.get("yes") else [])]
    page = _Page(notebook.has_kernel)
    try:
        shared = share(notebook.session(), Path(call.words[0]), _saved(notebook), calls=not call.get("no_calls"), allow=allow, say=page.say)
    except BaseException:
        page.clear()
        raise
    lines = [f"{shown_path(shared.path)}{shared.line().removeprefix(str(shared.path))}"]
    if shared.left_out:
        lines.append(f"not in it, since another notebook made them: {', '.join(shared.left_out)}")
    return page.end(lines)


class _Page:
    """What a cell shows while it packs: how far it is, in one line; and in its place what was packed."""

    def __init__(self, live: bool) -> None:
        self._live = live
        self._screen: Screen = NotebookScreen() if live else TerminalScreen()
        self._next = time.monotonic() + QUIET
        self._shown = False

    def say(self, line: str) -> None:
        """Show a line, when it is time."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PERIOD
            self._shown = True
            self._screen.show(lines_view([line]).bundle)

    def clear(self) -> None:
        """Show nothing any more; what else the cell has put on the page stays."""
        if not self._live:
            self._screen.clear()
        elif self._shown:
            self._screen.show(lines_view([]).bundle)

    def end(self, lines: list[str]) -> View | None:
        """What stays."""
        if not self._live:
            self._screen.clear()
            return lines_view(lines)
        self._screen.show(lines_view(lines).bundle)
        return None


def _saved(notebook: Notebook) -> Path | None:
    """The file of this notebook, which must have been saved since the cell was written; None outside of a notebook."""
    from nbdream.hub.notebook import is_saved
    from nbdream.session import notebook_path

    path = notebook_path()
    if path is None or not path.is_file():
        return None
    if notebook.cell and not is_saved(path, str(notebook.cell["source"])):
        raise DataError(f"{path.name} on disk is older than this cell", "save the notebook, and run the cell again")
    return path
