"""`Notebook`: one shell and what nbdream knows of it: its variables, the cell that runs, the session, what is said."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from nbdream import context
from nbdream.errors import ArgumentError, DataError, ModelError, NbDreamError, Stopped, nearest
from nbdream.ledger import at_least
from nbdream.magics import awaiting, recompute
from nbdream.magics.dataflow import Dataflow
from nbdream.magics.grammar import Call, Magic, parse
from nbdream.magics.names import Bindings, Scope, evaluate, is_data, is_model, trained
from nbdream.widgets.meter import Limit
from nbdream.widgets.progress import NotebookScreen, Progress, TerminalScreen

if TYPE_CHECKING:
    from nbdream.magics.extension import NbDream
    from nbdream.session import Session

logger = logging.getLogger("nbdream")

LAST_SECONDS = 5
"""How long a kernel may take to end once all work is done; JupyterLab gives it no longer."""
Plan = Callable[[], Any]
"""What a cell does once it is read: construct its step, and give the handle."""


class Notebook:
    """What the magics of one shell share."""

    def __init__(self, shell: Any, config: NbDream) -> None:
        self.shell = shell
        self.config = config
        self.bindings = Bindings(shell.user_ns)
        self.dataflow = Dataflow(shell.user_ns)
        self.cell: dict[str, Any] | None = None
        self.in_cell = False
        self._seen: Counter[str] = Counter()
        self._notes: list[str] = []
        self._watched: Any = None
        self._work: set[_Watched] = set()
        self.watchers: list[Callable[[Session], None]] = []
        """Called with every session that is opened here."""
        self.once: dict[str, str] = {}
        """What cells do the next time that they run, and only then: see `nbdream.magics.recompute`. A cell is named by its id or result."""

    @property
    def variables(self) -> dict[str, Any]:
        """The notebook's variables."""
        variables: dict[str, Any] = self.shell.user_ns
        return variables

    @property
    def has_kernel(self) -> bool:
        """Whether a front end shows rich output and can await."""
        return getattr(self.shell, "kernel", None) is not None

    @property
    def has_page(self) -> bool:
        """Whether a page shows what a cell displays while it runs: one that names its cells, and no headless run."""
        if not self.has_kernel or "NBDREAM_NOTEBOOK" in os.environ:
            return False
        parent: Any = getattr(self.shell.kernel, "get_parent", dict)()
        return bool((parent.get("metadata") or {}).get("cellId"))

    # --- the session ------------------------------------------------------------------------------------------------

    def session(self) -> Session:
        """The open session; opens the default one, and says so, when there is none."""
        session: Any = context.active()
        if session is None:
            session = self.open(self.config.session)
            self.note(f"session: {shown_path(session.folder)}")
        elif session is not self._watched:
            self._watch(session)
        return session  # type: ignore[no-any-return]

    def open(self, path: str) -> Session:
        """Open the session at ``path``; the one that is open is closed first, unless it is that one."""
        from nbdream.session import Session

        session = Session(path)
        active: Any = context.active()
        if active is not None:
            if active.folder == session.folder and not session.in_memory:
                self._watch(active)
                return active  # type: ignore[no-any-return]
            session.prepare()  # one that cannot be opened does not close the one that is
            active.stop()
        session.start()
        atexit.register(self._close, session)
        self._watch(session)
        return session

    def _close(self, session: Session) -> None:
        """At exit: what a cell was doing ends now, but for training; what runs in the background is waited for."""
        for work in list(self._work):
            work.leave()
        session.stop()
        if self.has_kernel:
            # ipykernel closes its sockets after this, and its threads may wait for each other while it does: without end.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LAST_SECONDS)

    def _watch(self, session: Session) -> None:
        if session is not self._watched:
            self._watched = session
            session.new_execution(self.cell)
            for watcher in self.watchers:
                watcher(session)

    # --- the cell ---------------------------------------------------------------------------------------------------

    def begin_cell(self, info: Any) -> None:
        """A cell begins: know which one, and let automatic names count anew."""
        self.in_cell = True
        source = str(info.raw_cell or "")
        self.cell = {
            "id": getattr(info, "cell_id", None) or self._identity(source),
            "notebook": os.environ.get("NBDREAM_NOTEBOOK")
            or os.environ.get("JPY_SESSION_NAME")
            or self.variables.get("__vsc_ipynb_file__"),
            # Some IPythons have counted this cell already, others not yet; its inputs are stored after this event in all of them.
            "number": len(self.shell.history_manager.input_hist_parsed) if info.store_history else None,
            "source": source,
        }
        if self.cell["notebook"]:
            self.cell["notebook"] = os.path.basename(self.cell["notebook"])  # nothing of this machine goes into a record
        self.hide_credentials()
        session: Any = context.active()
        if session is not None:
            session.new_execution(self.cell)

    def hide_credentials(self) -> None:
        """Take what is known by now to be a credential out of the cell's source, which goes into records."""
        from nbdream.secrets import redact

        if self.cell is not None:
            self.cell["source"] = redact(self.cell["source"])

    def end_cell(self, result: Any) -> None:
        """The cell is over: know what it has made of what."""
        self.in_cell = False
        transformed = getattr(getattr(result, "info", None), "transformed_cell", None)
        if self.cell is not None and transformed:
            self.dataflow.ran(transformed, self.cell)

    def _identity(self, source: str) -> str:
        """Where the front end gives no cell id: the content, and which occurrence of it this is."""
        content = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self._seen[content] += 1
        return content if self._seen[content] == 1 else f"{content}-{self._seen[content]}"

    # --- names ------------------------------------------------------------------------------------------------------

    def note(self, line: str) -> None:
        """Say a line before the result is shown."""
        if line not in self._notes:
            self._notes.append(line)

    def value(self, expression: str, what: str) -> Any:
        """The value of an expression of a cell."""
        return evaluate(expression, Scope(self.variables, self.session(), self.note), self.variables, what)

    def data(self, expression: str, what: str) -> Any:
        """The rows that an expression gives: a handle, a frame, a dataset, a list of dicts."""
        value = self.value(expression, what)
        if isinstance(value, list) and not value:
            raise DataError(f"{what} {expression} has no rows", "give at least one row")
        if not is_data(value):
            raise ArgumentError(
                f"{what} {expression} is a {type(value).__name__}", "give a result, a pandas or polars frame, a Dataset, or a list of dicts"
            )
        return value

    def model(self, given: str | None) -> Any:
        """The model that ``-m`` means: a variable, a trained model of the session, or ``provider/model``."""
        text = given or self.config.model
        if not text:
            raise _no_model()
        variable = trained(self.variables.get(text))
        if is_model(variable):
            return variable
        session = self.session()
        if text.isidentifier() and session.names.current(text) is not None:
            loaded = self.value(text, "-m")
            if is_model(loaded):
                return loaded
        if variable is not None and text.isidentifier():
            raise ArgumentError(f"-m {text} is a {type(variable).__name__}, not a model", self._models_hint(text))
        from nbdream.llms import resolve_llm

        try:
            return resolve_llm(text)
        except ModelError as error:
            known = [name for name, value in self.variables.items() if is_model(value)]
            if "/" in text or not known or str(error.hint).startswith("did you mean"):
                raise
            raise ModelError(error.message, nearest(text, [*known, "demo"], "the models are")) from None

    def _models_hint(self, text: str) -> str:
        known = [name for name, value in self.variables.items() if is_model(value) and not name.startswith("_")]
        return nearest(text, [*known, "demo"], "the models are")

    # --- running a cell ---------------------------------------------------------------------------------------------

    def prepare(self, magic: Magic, plan: Callable[[Notebook, Call], Plan], line: str, body: str) -> tuple[Call, Plan | None]:
        """Read a cell: what it says, and what is to be done; nothing to do when it asks for help."""
        self._notes.clear()
        call = parse(magic, line, body)
        if call.help:
            print(magic.help())
            return call, None
        recompute.apply(call, self.once.pop(str((self.cell or {}).get("id")), "") or self.once.pop(recompute.result(call.name), ""))
        if call.name:
            self.bindings.check(call.name, bool(call.get("force")))
        return call, plan(self, call)

    async def run_awaited(self, call: Call, plan: Plan) -> Any:
        """Do what a cell says while the notebook's loop stays free."""
        work = _Watched(self, call, plan)
        self._work.add(work)
        try:
            handle = await awaiting.awaited(work.call, work.interrupted, work.progress.tick, call.name)
        finally:
            self._work.discard(work)
            work.close()
        return self._finish(call, handle)

    def run_blocking(self, call: Call, plan: Plan) -> Any:
        """Do what a cell says where nothing can be awaited."""
        work = _Watched(self, call, plan)
        self._work.add(work)
        try:
            handle = awaiting.blocking(work.call, work.interrupted, work.progress.tick, call.name)
        finally:
            self._work.discard(work)
            work.close()
        return self._finish(call, handle)

    def stop(self, step: Any) -> None:
        """Ask a step to stop, and with it the whole cell that it belongs to."""
        step.stopping.set()
        for work in list(self._work):
            if work.does(step):
                work.stop()

    def _finish(self, call: Call, handle: Any) -> Any:
        for line in self._notes:
            print(line)
        self._notes.clear()
        if call.once == recompute.ESTIMATE:
            return None
        if call.name and handle is not None:
            self.bindings.bind(call.name, handle)
        return None if call.silent else handle


class _Watched:
    """A plan being carried out: its progress, and a way to stop it."""

    def __init__(self, notebook: Notebook, call: Call, plan: Plan) -> None:
        self._plan = plan
        self._session = notebook.session()
        again = call.name if call.once == recompute.RECOMPUTE else None
        self._door = _Door(self._session, preview="limit" in call.options or "dry_run" in call.options, again=again)
        self.progress = Progress(
            NotebookScreen(result=not call.silent) if notebook.has_kernel else TerminalScreen(), self.stop, self._log_tail, notebook.note,
            lambda: _limit(self._session, call.options.get("max_cost")), live=notebook.has_page, cell=str((notebook.cell or {}).get("id")),
        )  # fmt: skip
        self._leave = self._session.subscribe(self.progress.take)

    def call(self) -> Any:
        """Carry it out."""
        with context.using(cast(Any, self._door)):
            return self._plan()

    def does(self, step: Any) -> bool:
        """Whether ``step`` is one of this cell's."""
        return self._door.let_in(step)

    def stop(self) -> None:
        """Ask what this cell started to stop; harmless when it is over."""
        self._door.shut()

    def leave(self) -> None:
        """The kernel ends: what can go on without it does."""
        self._door.shut(lambda: True)

    def interrupted(self) -> None:
        """Stop, unless the interrupt is the beginning of the kernel's end."""
        self._door.shut(awaiting.leaves)

    def _log_tail(self, recipe: str) -> list[str]:
        from nbdream.workers.paths import RunPaths
        from nbdream.workers.runs import log_tail

        return log_tail(RunPaths(self._session.folder / "objects" / recipe))

    def close(self) -> None:
        """Stop watching, and leave nothing of it on the page."""
        self._leave()
        self.progress.close()


def _limit(session: Session, dollars: float | None) -> Limit | None:
    """What a cell may cost: its own limit, else what its session may."""
    if dollars is not None:
        return Limit(dollars)
    budget = session.budget
    return None if budget is None else Limit(budget, at_least(session.engine.paid()))


class _Door:
    """The session as one cell's work sees it: it knows which steps are the cell's, and lets none in once it is shut.

    Nothing that a preview runs moves a pointer.
    """

    def __init__(self, session: Session, *, preview: bool, again: str | None = None) -> None:
        self._session = session
        self._preview = preview
        self._again = again
        self._steps: list[Any] = []
        self._shut = False

    def announce(self, step: Any) -> None:
        """Let a step of this cell into the session."""
        step.runner = self._session
        step.preview = step.preview or self._preview
        step.force = step.force or step.name == self._again
        self._steps.append(step)
        if self._shut:
            raise Stopped(awaiting.INTERRUPTED, awaiting.GOES_ON)
        self._session.announce(step)

    def let_in(self, step: Any) -> bool:
        """Whether ``step`` came through this door."""
        return step in self._steps

    def shut(self, leaves: Callable[[], bool] = lambda: False) -> None:
        """Ask the steps to stop, and let no further one begin. Training outlives a kernel that ``leaves``: it takes a moment to know."""
        self._shut = True
        lasting = [step for step in self._steps if step.kind == "run" and not step.done]
        for step in [step for step in self._steps if step not in lasting]:
            step.stopping.set()
        if lasting:
            left = leaves()
            for step in lasting:
                step.left = left
                step.stopping.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def shown_path(path: Any) -> str:
    """A path as a person writes it: relative to the working directory where it lies below it."""
    text = os.path.relpath(path)
    return str(path) if text.startswith("..") else f".{os.sep}{text}"


def _no_model() -> NbDreamError:
    if os.environ.get("OPENAI_API_KEY"):
        return ArgumentError("no model is given", "add -m openai/gpt-4o-mini")
    return ArgumentError(
        "no model is given", "add -m NAME (%dream model NAME = openai/gpt-4o-mini), or -m demo, the tiny model that ships with nbdream"
    )
