"""The way between a notebook's page and its kernel: a comm on which the page asks, and broadcasts in which the kernel tells.

The page opens the comm, and the kernel never sends on it: so its messages reach a thread of their own while a cell blocks.
Answers and broadcasts go out as messages of their own. Nothing is sent before a page has opened the comm.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from nbdream import context, optional
from nbdream.errors import ArgumentError, NbDreamError
from nbdream.magics import recompute
from nbdream.magics.snapshot import Watch

if TYPE_CHECKING:
    from nbdream.magics.notebook import Notebook
    from nbdream.session import Session

logger = logging.getLogger("nbdream")

TARGET = "nbdream"
"""The comm's target, and the id under which a page finds that this kernel has nbdream loaded, and reads what is broadcast."""
PERIOD = 1.0
"""Seconds between two broadcasts while work runs."""
HEARTBEAT = 5.0
"""Seconds after which a cell that blocks is told of again, though nothing has changed: the page may be a new one."""
LONGEST = 500_000
"""Characters of a message, at most."""

_TEXT = {"type": "string", "maxLength": 10_000}
_NAME = {"type": "string", "maxLength": 400}
_COUNT = {"type": "integer", "minimum": 0}
_USE = {"type": "string", "pattern": "^[0-9a-f]{8,64}$"}


class Op(NamedTuple):
    """One thing that a page may ask for."""

    do: Callable[[Bridge, Mapping[str, Any]], Any]
    properties: Mapping[str, Any]
    required: tuple[str, ...] = ()

    def schema(self, name: str) -> dict[str, Any]:
        """The JSON schema of its messages."""
        properties = {"op": {"const": name}, "id": {"type": "string", "maxLength": 64}, **self.properties}
        return {"type": "object", "properties": properties, "required": ["op", "id", *self.required], "additionalProperties": False}


class Bridge:
    """One kernel's end of the way to its pages."""

    def __init__(self, notebook: Notebook, is_ours: Callable[[str], bool]) -> None:
        self._notebook = notebook
        self._says_ours = is_ours
        self._kernel: Any = getattr(notebook.shell, "kernel", None)
        self._watch = Watch()
        self._session: Any = None
        self._leave: Callable[[], None] = lambda: None
        self._pages: dict[str, Any] = {}
        self._marker: Any = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._urgent = threading.Event()
        self._over = threading.Event()
        self._told: tuple[float, Any] = (0.0, None)
        self._fails = False
        self._is_ours = False
        self._results: dict[str, Any] = {}
        """How our cells ended when they last ran here, by cell: a page that was reloaded meanwhile has not seen it."""

    # --- coming and going -------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Let pages find this kernel; where there is no kernel, nothing."""
        manager = getattr(self._kernel, "comm_manager", None)
        if manager is None:
            return
        import comm

        self._marker = comm.create_comm(target_name=TARGET, comm_id=TARGET, primary=False)
        manager.register_comm(self._marker)
        manager.register_target(TARGET, self._opened)
        events = self._notebook.shell.events
        events.register("pre_run_cell", self._begin_cell)
        events.register("post_run_cell", self._end_cell)
        self._notebook.watchers.append(self.watch)

    def unload(self) -> None:
        """Close what pages have opened, and say no more."""
        if self._marker is None:
            return
        self._over.set()
        self._wake.set()
        self._urgent.set()
        self._leave()
        self._notebook.watchers.remove(self.watch)
        self._notebook.shell.events.unregister("pre_run_cell", self._begin_cell)
        self._notebook.shell.events.unregister("post_run_cell", self._end_cell)
        self._kernel.comm_manager.unregister_target(TARGET, self._opened)
        for opened in (*self._pages.values(), self._marker):
            opened.close()
        self._marker = None

    def watch(self, session: Session) -> None:
        """Follow the events of the session that was opened."""
        if session is not self._session:
            self._leave()
            self._session = session
            self._leave = session.subscribe(self._take)
            self._watch.refresh()
        self._wake.set()

    def _take(self, event: Mapping[str, Any]) -> None:
        step = next((step for step in self._session.running() if step.key == event.get("recipe")), None)
        self._watch.take(event, step)
        self._wake.set()
        if event["type"] in ("step.done", "step.loaded", "step.failed"):
            self._urgent.set()

    def _begin_cell(self, info: Any) -> None:
        self._is_ours = self._says_ours(str(info.raw_cell or ""))
        if self._notebook.cell is not None:
            begin = self._watch.began if self._is_ours else self._watch.ran
            begin(str(self._notebook.cell["id"]), str(info.raw_cell or ""))
        self._wake.set()

    def _end_cell(self, result: Any) -> None:
        if self._is_ours and self._notebook.cell is not None:
            cell = str(self._notebook.cell["id"])
            self._results[cell] = result
            self._watch.ended(cell, result.error_before_exec or result.error_in_exec)
        session: Any = context.active()
        if session is not None:
            self.watch(session)  # it may have been opened by a line of Python
        self._watch.refresh()
        self._wake.set()
        self._urgent.set()

    # --- what is asked ----------------------------------------------------------------------------------------------

    def _opened(self, page: Any, _message: Mapping[str, Any]) -> None:
        self._pages[page.comm_id] = page
        page.on_msg(lambda message: self._asked(page.comm_id, message["content"]["data"]))
        page.on_close(lambda _message: self._pages.pop(page.comm_id, None))
        if self._thread is None:
            self._thread = threading.Thread(target=self._tell_on, name="nbdream-bridge", daemon=True)
            self._thread.start()
        self._told = (0.0, None)
        self._wake.set()
        self._urgent.set()

    def _asked(self, page: str, data: Any) -> None:
        answer = self.answer(data)
        self._send(page, answer)

    def answer(self, data: Any) -> dict[str, Any]:
        """The answer to a message: ``{"op", "id", "result"}``, or ``error`` in place of a result."""
        head = {key: str(data.get(key))[:64] for key in ("op", "id")} if isinstance(data, Mapping) else {"op": "", "id": ""}
        try:
            op = OPS.get(head["op"])
            if op is None:
                raise ArgumentError("the page asks for something that this kernel does not know", "reload the page")
            check(data, op.schema(head["op"]))
            result = op.do(self, data)
            return {**head, **(result if isinstance(result, dict) and "error" in result else {"result": result})}
        except NbDreamError as error:
            return {**head, "error": str(error)}
        except Exception as error:  # of ours: the page shows a line, the log has the rest
            logger.warning("a message of the page could not be answered", exc_info=True)
            return {**head, "error": f"{type(error).__name__}: {error}"[:400]}

    def open_session(self) -> Session:
        """The open session; `ArgumentError` where none is."""
        session: Any = context.active()
        if session is None:
            raise ArgumentError("no session is open", "run the notebook's first cells")
        return session  # type: ignore[no-any-return]

    def stop(self, data: Mapping[str, Any]) -> str:
        """Ask work to stop: that of a cell of this kernel, or a training run, whoever started it."""
        from nbdream.workers import runs
        from nbdream.workers.paths import RunPaths

        session, found = self.open_session(), False
        for step in session.running():
            if step.key == data["work"]:
                self._notebook.stop(step)
                found = True
        paths = RunPaths(session.folder / "objects" / str(data["work"]))
        if paths.lock.exists() and runs.alive(paths):
            runs.ask_to_stop(paths)
            found = True
        self._wake.set()
        self._urgent.set()
        return "stopping" if found else "over"

    def snapshot(self, _data: Mapping[str, Any]) -> dict[str, Any]:
        """Where everything stands."""
        self._watch.refresh()
        return self._snapshot()

    def sources(self, data: Mapping[str, Any]) -> int:
        """Take in what the page's cells hold."""
        self._watch.edited({cell["id"]: cell["hash"] for cell in data["cells"]})
        self._wake.set()
        self._urgent.set()
        return len(data["cells"])

    def stale(self, _data: Mapping[str, Any]) -> list[str]:
        """The cells that are to run so that nothing is stale any more: `Watch.stale`."""
        self._watch.refresh()
        return self._watch.stale(self.open_session())

    def outputs(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """What a cell of ours showed when it last ran in this kernel, as it stands in a notebook; nothing is run for it."""
        result = self._results.get(str(data["cell"]))
        if result is None:
            return {"outputs": [], "execution_count": None}
        number, error = result.execution_count, result.error_before_exec or result.error_in_exec
        outputs: list[dict[str, Any]] = []
        if isinstance(error, NbDreamError):
            told = {"ename": type(error).__name__, "evalue": str(error), "traceback": error._render_traceback_()}
            outputs = [{"output_type": "error", **told}]
        elif result.result is not None:
            bundle, metadata = self._notebook.shell.display_formatter.format(result.result)
            outputs = [{"output_type": "execute_result", "data": bundle, "metadata": metadata, "execution_count": number}]
        return {"outputs": outputs, "execution_count": number}

    def once(self, data: Mapping[str, Any]) -> str:
        """Have a cell do something else when it is next run: `Notebook.once`."""
        self._notebook.once[str(data["cell"])] = str(data["how"])
        return str(data["how"])

    def seed(self, data: Mapping[str, Any]) -> int:
        """A seed that no result of a name was made with."""
        return recompute.new_seed(self.open_session(), str(data["name"]))

    def page(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """A page of a result's rows."""
        from nbdream.widgets import pager

        found: dict[str, Any] = pager.page(self.open_session(), data)
        return found

    def value(self, data: Mapping[str, Any]) -> Any:
        """One whole value of a result."""
        from nbdream.widgets import pager

        return pager.value(self.open_session(), data)

    def annotate(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked of a question that a cell of this kernel puts to people: where one stands, a decision, to take one back."""
        from nbdream.steps.annotation import Annotation
        from nbdream.widgets.annotate import respond

        bound = [value for name, value in list(self._notebook.variables.items()) if not name.startswith("_")]
        asked = next((value for value in bound if isinstance(value, Annotation) and value.id == data["annotations"]), None)
        if asked is None:
            raise ArgumentError("this kernel does not ask it yet", "run the cell to decide")
        answer = respond(asked, data)
        self._watch.refresh()
        self._wake.set()
        return answer

    # --- what is told -----------------------------------------------------------------------------------------------

    def _tell_on(self) -> None:
        """Broadcast after what happens, and once a second while a cell or work runs."""
        busy = self._tell()
        optional.jsonschema()  # not while a cell computes
        while not self._over.is_set():
            self._wake.wait(PERIOD if busy else None)
            self._wake.clear()
            self._urgent.clear()
            if self._over.is_set():
                return
            busy = self._tell() or self._notebook.in_cell
            self._urgent.wait(PERIOD)

    def _tell(self) -> bool:
        """Broadcast where everything stands, unless that was just told; whether it is soon to be told again."""
        try:
            found = self._snapshot()
            now = time.monotonic()
            when, told = self._told
            if found != told or now - when > HEARTBEAT:
                self._told = (now, found)
                self._send(TARGET, {"op": "snapshot", **found})
        except Exception:  # whoever only tells must not end, nor end the work
            if not self._fails:
                logger.warning("where the session stands could not be told", exc_info=True)
            self._fails, self._told = True, (0.0, None)
            return True
        self._fails = False
        return bool(found["works"])

    def _snapshot(self) -> dict[str, Any]:
        session: Any = self._session if self._session is context.active() else None
        cell = self._notebook.cell if self._notebook.in_cell else None
        return {"executing": None if cell is None else cell["id"], **self._watch.snapshot(session)}

    def _send(self, comm_id: str, data: Mapping[str, Any]) -> None:
        kernel = self._kernel
        if kernel is not None and kernel.iopub_socket is not None:
            content = {"comm_id": comm_id, "data": data}
            kernel.session.send(kernel.iopub_socket, "comm_msg", content, ident=f"comm-{comm_id}".encode())


def check(data: Any, schema: Mapping[str, Any]) -> None:
    """`ArgumentError` unless a message has its op's form."""
    jsonschema = optional.jsonschema()
    if len(str(data)) > LONGEST:
        raise ArgumentError("the page's message is too long", "reload the page")
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(data))
    if error is not None:
        raise ArgumentError(f"the page's message is malformed: {error.message}"[:400], "reload the page")


_ASKED = {"annotations": _USE}
_BESIDE = {"use": {"type": ["string", "null"], "maxLength": 64}, "columns": {"type": ["array", "null"], "items": _NAME, "maxItems": 400}}
_ROWS = {
    "use": _USE,
    "split": {"type": ["string", "null"], "maxLength": 400},
    "beside": {"type": ["object", "null"], "properties": _BESIDE, "additionalProperties": False},
    "failures": {"type": "boolean"},
}

OPS: dict[str, Op] = {
    "snapshot": Op(Bridge.snapshot, {}),
    "stop": Op(Bridge.stop, {"work": {"type": "string", "pattern": "^[0-9a-f]{8,64}(-[0-9]{1,6})?$"}}, ("work",)),
    "stale": Op(Bridge.stale, {}),
    "outputs": Op(Bridge.outputs, {"cell": {"type": "string", "maxLength": 100}}, ("cell",)),
    "once": Op(Bridge.once, {"cell": {"type": "string", "maxLength": 100}, "how": {"enum": list(recompute.HOW)}}, ("cell", "how")),
    "seed": Op(Bridge.seed, {"name": _NAME}, ("name",)),
    "sources": Op(
        Bridge.sources,
        {
            "cells": {
                "type": "array",
                "maxItems": 2_000,
                "items": {
                    "type": "object",
                    "properties": {"id": {"type": "string", "maxLength": 100}, "hash": {"type": "string", "maxLength": 40}},
                    "required": ["id", "hash"],
                    "additionalProperties": False,
                },
            }
        },
        ("cells",),
    ),
    "page": Op(
        Bridge.page,
        {
            **_ROWS,
            "start": _COUNT,
            "count": {"type": "integer", "minimum": 1, "maximum": 1_000},
            "columns": {"type": ["array", "null"], "items": _NAME, "maxItems": 400},
            "sort": {
                "type": "array",
                "maxItems": 8,
                "items": {
                    "type": "object",
                    "properties": {"column": _NAME, "reverse": {"type": "boolean"}},
                    "required": ["column"],
                    "additionalProperties": False,
                },
            },
            "search": _TEXT,
            "filter": {"type": "object", "additionalProperties": _TEXT, "maxProperties": 100},
            "changed": {"type": "boolean"},
        },
        ("use",),
    ),
    "value": Op(Bridge.value, {**_ROWS, "row": _COUNT, "column": _NAME}, ("use", "row", "column")),
    "annotate_state": Op(Bridge.annotate, {**_ASKED, "after": {"type": "integer", "minimum": -1}, "row": _COUNT}, ("annotations",)),
    "decide": Op(
        Bridge.annotate,
        {
            **_ASKED,
            "row": _COUNT,
            "key": _USE,
            "do": {"enum": ["accept", "edit", "reject", "rate", "choose", "tie"]},
            "value": {"type": ["string", "integer", "null"], "maxLength": LONGEST},
        },
        ("annotations", "row", "key", "do"),
    ),
    "undo": Op(Bridge.annotate, _ASKED, ("annotations",)),
}  # fmt: skip
"""All that a page may ask for. Values are data: none carries code, a path or a repository."""
