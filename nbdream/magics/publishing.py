"""``%dream publish``: results, and the notebook itself, to the Hub or a folder; what will be sent is shown first."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError, DataError
from nbdream.magics.grammar import Call, Option
from nbdream.magics.options import result_of, split_size
from nbdream.widgets.progress import NotebookScreen
from nbdream.widgets.show import View, lines_view
from nbdream.widgets.table import lines_html

if TYPE_CHECKING:
    from nbdream.hub.preview import Preview
    from nbdream.magics.notebook import Notebook

USAGE = "publish NAME REPO [options] · publish --notebook REPO"
SUMMARY = "publish with its card, to the Hub or a folder (./x, ~/x, /x); what will be sent is shown first"
SILENT = 0.8
"""Seconds after which a cell says that it looks through what will be published: a mistake is told before, and alone."""
OPTIONS = (
    Option(name="dry_run", kind="flag", help="show what would be sent, and send nothing"),
    Option(name="splits", help="sizes of train/validation/test, as 0.9/0.1"),
    Option(name="config", help="one of several configurations of a dataset; the others stay"),
    Option(name="license", also=("licence",), help="as the Hub calls it (cc-by-4.0), or the address of its text"),
    Option(name="private", kind="flag", help="a private repository"),
    Option(name="branch", help="a branch of the repository"),
    Option(name="adapter_only", kind="flag", help="of a LoRA model, the adapter alone"),
    Option(name="notebook", kind="flag", help="publish this notebook, too; without NAME, by itself"),
    Option(name="strip_outputs", kind="flag", help="the notebook without its outputs"),
    Option(name="yes", kind="flag", help="publish what the demo model made, what is stale, and the same reply in two splits"),
    Option(name="allow", kind="names", help="findings that shall not stop it: secrets, personal, paths, demo, stale, overlap"),
)
SIZES = ("train_size", "validation_size", "test_size")
TAKEN = ("branch", "config", "license")
FLAGS = ("private", "yes", "dry_run", "adapter_only")


def publish(notebook: Notebook, call: Call) -> View | None:
    """Publish a result, the notebook, or both, in one commit."""
    from nbdream import hub

    options: dict[str, Any] = {name: call.options[name] for name in TAKEN if name in call.options}
    options |= {name: True for name in FLAGS if call.get(name)}
    options |= {"allow": tuple(call.get("allow", ())), **sizes(call.get("splits"))}
    session, page = notebook.session(), _Page(notebook.has_kernel)
    options |= {"say": page.say, "show": page.show}
    if call.get("strip_outputs") and not call.get("notebook"):
        raise ArgumentError("--strip-outputs is for a notebook", "add --notebook")
    wants_notebook, alone = bool(call.get("notebook")), len(call.words) == 1
    if alone and not wants_notebook:
        raise ArgumentError("%dream publish needs a result and a repository", f"%dream {USAGE}")
    if alone:
        check_alone(options)
    beside: dict[str, Any] = {}
    if wants_notebook:
        beside = {"notebook": _this_notebook(notebook), "strip": bool(call.get("strip_outputs"))}
    name, where = ("the notebook", *call.words) if alone else call.words
    thing = None if alone else result_of(notebook, name)
    with page:
        if alone:
            published = hub.publish_notebook(session, repo_id=where, **beside, **options)
        else:
            published = session.publish(thing, where, **options, **beside)
    place = published if "://" in published else where
    return None if call.get("dry_run") else page.end(f"{name} → {place}")


class _Page:
    """What a cell shows while it publishes: everything, as it comes; in the end only what is so of the publication. A context manager.

    What was sent this time is not saved with the notebook, so that publishing the same again changes neither.
    """

    def __init__(self, live: bool) -> None:
        self._live = live
        self._preview: Preview | None = None
        self._lines: list[str] = []
        self._screen = NotebookScreen()
        self._drawing = threading.Lock()
        self._looking = threading.Timer(SILENT, contextvars.copy_context().run, (self._say_that_it_looks,))
        self._looked = False

    def __enter__(self) -> None:
        if self._live:
            self._looking.start()

    def _say_that_it_looks(self) -> None:
        with self._drawing:
            if not self._looking.finished.is_set():
                self._looked = True
                self._screen.show(lines_view(["looking through what will be published"]).bundle)

    def __exit__(self, *_: object) -> None:
        with self._drawing:
            self._looking.cancel()
            if self._looked and self._preview is None:
                self._screen.show(lines_view([]).bundle)

    def show(self, preview: Preview) -> None:
        """Show what will be published."""
        with self._drawing:
            self._looking.cancel()
        self._preview = preview
        if self._live:
            self._draw(str(preview), preview.html())
        else:
            print(preview)

    def say(self, text: str) -> None:
        """Show a further line."""
        self._lines += text.splitlines()
        if not self._live:
            print(text)
        elif self._preview is not None:
            self._draw(str(self._preview), self._preview.html())

    def end(self, sentence: str) -> View | None:
        """What stays when all is sent."""
        from nbdream.hub.preview import html_of, text_of

        if not self._live:
            return lines_view([sentence])
        self._lines = [sentence]
        facts = [] if self._preview is None else self._preview.lasting()
        self._draw(text_of(facts), html_of(facts))
        return None

    def _draw(self, text: str, html: str) -> None:
        """Put the publication, and the lines below it, in place of what was shown."""
        self._screen.show({"text/plain": "\n".join([text, *self._lines]), "text/html": html + lines_html(self._lines)})


def sizes(text: str | None) -> dict[str, float | int]:
    """The sizes of splits, as ``0.9/0.1`` says them."""
    return {} if text is None else dict(zip(SIZES, (split_size(part) for part in text.split("/")), strict=False))


def check_alone(options: Mapping[str, Any]) -> None:
    """Refuse what a notebook by itself has not."""
    for name in ("config", "adapter_only", *SIZES):
        if name in options:
            shown = "--splits" if name in SIZES else f"--{name.replace('_', '-')}"
            raise ArgumentError(f"{shown} is for a result", "name one, and add --notebook")


def _this_notebook(notebook: Notebook) -> Path:
    """The file of the notebook that runs, which must have been saved since this cell was written."""
    from nbdream.hub.notebook import is_saved
    from nbdream.session import notebook_path

    path = notebook_path()
    if path is None or not path.is_file():
        raise DataError("which file this notebook is, is not known", "publish it from a terminal: nbdream publish REPO --notebook FILE")
    if notebook.cell and not is_saved(path, str(notebook.cell["source"])):
        raise DataError(f"{path.name} on disk is older than this cell", "save the notebook, and run the cell again")
    return path
