"""`Session`: the folder that remembers every model call, every step's rows, every training run, and where each came from."""

from __future__ import annotations

import functools
import logging
import math
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nbdream import __version__, context
from nbdream.errors import ArgumentError, BrokenFileError, NbDreamError, SessionError, SplitError, Stopped, nearest
from nbdream.files import Lock, disk_errors, read_object, write_json
from nbdream.fingerprint import digest
from nbdream.lineage import Names, graph, now
from nbdream.machine import machine
from nbdream.objects import FORMAT, ResultFolder
from nbdream.optional import versions
from nbdream.secrets import redact

if TYPE_CHECKING:
    from nbdream.engine import Engine
    from nbdream.steps.base import Step
    from nbdream.steps.handle import StepHandle

logger = logging.getLogger("nbdream")

MEMORY = ":memory:"
DEFAULT = "./nbdream-output"
PROGRESS_EVERY = 0.5
"""Seconds between two notes of progress on disk."""
PACKAGES = (
    "accelerate", "aiohttp", "anthropic", "datasets", "huggingface_hub", "ipykernel", "ipython", "jupyterlab", "nbdream", "numpy", "openai",
    "pandas", "peft", "polars", "pyarrow", "rouge_score", "sacrebleu", "safetensors", "sentence-transformers", "tokenizers",
    "torch", "transformers", "trl",
)  # fmt: skip
"""The packages whose versions a node records, where they are installed."""


class Session:
    """A session folder, opened. A context manager; in notebooks `start` and `stop`.

    ``output_folder_path``: where it lies, relative to the notebook's folder where that is known, else to the working
    directory; ``NBDREAM_SESSION`` overrides it. ``":memory:"`` is a private temporary folder that goes away at `stop`.
    ``verbose``, ``log_level``, ``log_date`` and ``hf_log`` are accepted without effect: nbdream takes over no logger.

    Raises `ArgumentError` (a ``ValueError``) when the path is a file or empty; `SessionError` (a ``RuntimeError``) for a
    folder of a newer version or one that cannot be written, and when a session is open already.
    """

    def __init__(
        self,
        output_folder_path: str | os.PathLike[str] = DEFAULT,
        verbose: bool | None = None,
        log_level: int | None = None,
        log_date: bool = False,
        hf_log: bool = False,
    ) -> None:
        self.in_memory = MEMORY in (os.fspath(output_folder_path), os.environ.get("NBDREAM_SESSION"))
        self.folder = Path() if self.in_memory else resolve(output_folder_path)
        self.cell: dict[str, Any] | None = None
        """The notebook cell that is being executed: id, notebook, number, source; set by the magics."""
        self._taken: dict[str, str] = {}
        self._subscribers: list[Callable[[dict[str, Any]], None]] = []
        self._open = False
        self._progress_told = 0.0
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()
        self._running: dict[Any, None] = {}

    # --- opening and closing ----------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Open the folder and make this the session in which steps run."""
        if context.active() is not None:
            raise SessionError("a session is open already", "stop it first: there is one at a time")
        if self.in_memory:
            self.folder = Path(tempfile.mkdtemp(prefix="nbdream-"))
        self.prepare()
        self.names = Names(self.folder)
        self._taken = {}
        self._open = True
        context.enter(self)
        return self

    def prepare(self) -> None:
        """Make the folder, or see that it can be opened; raises what `start` would."""
        if not self.in_memory or self.folder.name:
            _open_folder(self.folder)

    def stop(self) -> None:
        """Wait for what still runs in the background, stop the engine and close the folder. Harmless when it is closed."""
        if not self._open:
            return
        raised: list[Exception] = []
        try:
            for step in self.running():
                try:
                    step.wait()
                except Exception as error:
                    raised.append(error)
            if raised:
                raise raised[0]
        finally:
            self._open = False
            context.leave(self)
            if self._engine is not None:
                self._engine.stop()
                self._engine = None
            if self.in_memory:
                shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @staticmethod
    def initialized() -> bool:
        """Whether a session is open."""
        return context.active() is not None

    @staticmethod
    def is_running_in_memory() -> bool:
        """Whether the open session is a temporary one."""
        return bool(getattr(context.active(), "in_memory", False))

    @staticmethod
    def get_output_folder_path() -> str:
        """The folder of the open session."""
        return str(context.current().folder)

    @property
    def engine(self) -> Engine:
        """The engine that puts requests to models; started when it is first asked for."""
        with self._engine_lock:
            if not self._open:
                raise SessionError("the session is closed", "open it again: session.start()")
            if self._engine is None:
                from nbdream import replies
                from nbdream.cache import CallCache
                from nbdream.engine import Engine

                cache = CallCache(self.folder / "calls.sqlite")
                replies.take_over(cache, self.folder)
                self._engine = Engine(cache, folder=self.folder)
                self._engine.limit(self.budget)
                self._engine.start()
            return self._engine

    # --- who watches ------------------------------------------------------------------------------------------------

    def subscribe(self, watcher: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Have ``watcher`` called with every event, from any thread; returns what ends that."""
        self._subscribers.append(watcher)
        return functools.partial(_remove, self._subscribers, watcher)

    @property
    def watched(self) -> bool:
        """Whether anybody sees what is emitted."""
        return bool(self._subscribers)

    def emit(self, event: dict[str, Any]) -> None:
        """Hand an event to all who watch, and progress to other kernels that wait for the same result."""
        if event["type"] == "step.progress" and time.monotonic() - self._progress_told > PROGRESS_EVERY:
            self._progress_told = time.monotonic()
            write_json(ResultFolder(self.folder / "objects" / event["recipe"]).progress_path, event)
        for watcher in list(self._subscribers):
            try:
                watcher(event)
            except Exception:  # who only looks must not end the work
                _remove(self._subscribers, watcher)
                logger.warning("what watched the session has failed, and watches no longer", exc_info=True)

    # --- the one door -----------------------------------------------------------------------------------------------

    def new_execution(self, cell: dict[str, Any] | None = None) -> None:
        """A cell (or script) begins: automatic names count from one again."""
        self.cell = cell
        self._taken = {}

    def announce(self, step: Step) -> None:
        """Give a step that is about to run its name and its cell: in the background, both may be another's when it does."""
        if not step.preview:
            step.name = self._free_name(step.name, step.key)
        step.cell = self.cell
        self._running[step] = None

    def run(self, step: Step) -> None:
        """Load what ``step`` would make if it is there; run it if not; record it, and point its name at it."""
        recipe_key = step.key
        try:
            folder, node = self._find(step)
            while node is None and not self._make(step, folder):
                folder, node = self._find(step)  # another kernel made it while this one waited
            if node is not None:
                step.load(folder, node)
                step.emit({"type": "step.loaded", "total": node["rows"], "done": node["rows"]})
            self._record(step, folder)
        except BaseException:
            if self._taken.get(step.name) == recipe_key:  # what has failed leaves its name to the next try
                del self._taken[step.name]
            raise
        finally:
            self._running.pop(step, None)

    def running(self) -> list[Step]:
        """The steps that run now, the first one first: each can be stopped by ``step.stopping.set()``."""
        return [step for step in list(self._running) if not step.done]  # one that was stopped may never have come to `run`

    def _free_name(self, name: str, key: str) -> str:
        """``name``, or ``name #2`` … (``X (map #2)``) when this execution gave it to another recipe."""
        free, number = name, 1
        while self._taken.setdefault(free, key) != key:
            number += 1
            free = f"{name[:-1]} #{number})" if name.endswith(")") else f"{name} #{number}"
        return free

    def _find(self, step: Step) -> tuple[ResultFolder, dict[str, Any] | None]:
        """The newest attempt at ``step``'s recipe and its node; where it is to run again, the next attempt and None."""
        first = ResultFolder(self.folder / "objects" / step.key)
        folder, node, number = first, first.node(), 1
        if context.replaying():
            step.attempt = str(read_object(self.folder / "session.json").get("attempts", {}).get(step.key, ""))
        while node is not None:
            number += 1
            further = ResultFolder(first.path.with_name(f"{step.key}-{number}"))
            found = further.node()
            if found is None:
                if not step.runs_again(node):
                    return folder, node
                step.attempt = str(number) if step.force else str(node.get("attempt", ""))
                return further, None
            folder, node = further, found
        return folder, None

    def _make(self, step: Step, folder: ResultFolder) -> bool:
        """Run ``step`` into ``folder``; False when another kernel has filled it meanwhile."""
        lock = folder.lock()
        while not lock.acquire():
            step.emit({**_progress(folder), "type": "step.waiting", "name": step.name})
            if step.stopping.wait(0.1):
                raise Stopped(f"{step.name} was stopped while another kernel makes it", "the other kernel goes on")
        try:
            if folder.node() is not None:
                return False
            self._run(step, folder)
        finally:
            lock.release()
        return True

    def _run(self, step: Step, folder: ResultFolder) -> None:
        from nbdream.steps.writing import write

        began, clock = now(), time.monotonic()
        recipe_key, step.key = step.key, folder.key
        step.emit({"type": "step.started"})
        folder.clear()
        try:
            with context.using(self):
                written = write(step, folder)
        except BaseException as error:
            step.emit({"type": "step.failed", "error": redact(str(error) if isinstance(error, NbDreamError) else repr(error))})
            raise
        finally:
            step.hang_up()
        seconds = round(time.monotonic() - clock, 3)
        node = {
            "format": FORMAT,
            "kind": step.kind,
            "type": type(step).__name__,
            "name": step.name,
            "version": str(step.version),
            "recipe_key": recipe_key,
            "recipe": step.recipe_made,
            **written,
            "made": {"started": began, "finished": now(), "seconds": seconds},
            "usage": step.usage if step.usage["calls"] or step.usage["cached_calls"] else {},
            "draws": dict(step.draws),
            **({"attempt": step.attempt} if step.attempt else {}),
            "models": step.models,
            "source": step.source,
            "cards": step.cards,
            "cell": step.cell,
            "environment": environment(),
        }
        write_json(folder.node_path, node)
        folder.progress_path.unlink(missing_ok=True)
        step.load(folder, node)
        step.emit(
            {
                "type": "step.done",
                "total": node["rows"],
                "done": node["rows"],
                "failed": node["failures"],
                "seconds": seconds,
                "usage": step.usage,
            }
        )

    def _record(self, step: Step, folder: ResultFolder) -> None:
        place = {**step.use(), "recipe": folder.key}
        step.use_id = digest(place)[:40]
        folder.record_use(step.use_id, place)
        if not step.preview:
            why = self.names.why_moved(step.name, step.recipe_made)
            self.names.move(step.name, {"recipe": folder.key, "use": step.use_id, "cell": step.cell, "made": now(), "why": why})
        draws = step.node.get("draws", {})
        others = {name: count for name, count in draws.items() if name != step.name and self.names.current(name)}
        if others:
            step.emit({"type": "step.notice", "text": _shared(others, sum(draws.values()))})

    # --- what is there ----------------------------------------------------------------------------------------------

    def load(self, name: str) -> Any:
        """The last result of ``name``: a `StepHandle`, or for a training run its model. `ArgumentError` when there is none."""
        entry = self.names.current(name)
        if entry is None:
            raise ArgumentError(f"the session has no result {name!r}", nearest(name, self.names, "its results are"))
        from nbdream.steps.saved import SavedStep

        place = (self, str(entry["recipe"]), str(entry["use"]))
        saved = SavedStep(*place)
        if saved.node["type"] == "Evaluate" and "code" not in saved.node["recipe"]:  # ours, and no class of the user's
            from nbdream.steps.summary import SavedEvaluation

            return SavedEvaluation(*place)
        if saved.node["kind"] != "run":
            return saved
        from nbdream.trainers.trained import trained

        return trained(saved)

    def why(self, name: str) -> list[str]:
        """In words, why ``name`` ran when it last ran, and what has changed above it since."""
        entry = self.names.current(name)
        if entry is None:
            raise ArgumentError(f"the session has no result {name!r}", nearest(name, self.names, "its results are"))
        return [*entry.get("why", []), *self.names.state(name).reasons]

    def graph(self, handle: StepHandle) -> dict[str, Any]:
        """Everything that a result comes from; see `lineage.graph`."""
        return graph(self.folder, handle.key, handle.use_id)

    def card(self, handle: StepHandle) -> dict[str, Any]:
        """The data card of a result."""
        from nbdream.cards import data_card

        return data_card(self.graph(handle))

    def publish(self, thing: Any, repo_id: str, **options: Any) -> str:
        """Publish rows or a trained model to the Hub or a folder; returns the URL or path."""
        from nbdream import hub, pruning
        from nbdream.hub.target import is_folder

        if context.replaying() and not is_folder(repo_id):
            raise SessionError("a replay publishes nothing", "run the notebook itself")
        publish: Callable[..., str] = hub.publish
        where = publish(thing, repo_id, **options)
        if not options.get("dry_run"):
            pruning.remember(self.folder, thing, where)
        return where

    # --- splits that follow a name ----------------------------------------------------------------------------------

    def set_splits(self, name: str, sizes: Mapping[str, float], seed: int = 42, stratify_by_column: str | None = None) -> None:
        """Remember how ``name``'s rows are split: ``name.train`` … follow its rows when they change."""
        self.names.keep(name, "splits", {"sizes": dict(sizes), "seed": seed, "stratify_by_column": stratify_by_column})

    def split(self, handle: StepHandle, part: str) -> Step:
        """One part of ``handle``'s rows, by the rule that was set for its name."""
        rule = (self.names.read(handle.name) or {}).get("splits")
        if rule is None:
            raise SplitError(f"{handle.name} is not split", f"%dream split {handle.name} 0.9 0.1")
        if part not in rule["sizes"]:
            raise SplitError(f"{handle.name} has no split {part!r}", f"its splits are: {', '.join(rule['sizes'])}")
        sizes = {f"{name}_size": size for name, size in rule["sizes"].items()}
        return handle.splits(**sizes, seed=rule["seed"], stratify_by_column=rule["stratify_by_column"])[part]

    # --- what it may cost -------------------------------------------------------------------------------------------

    @property
    def budget(self) -> float | None:
        """The dollars that all of its calls together may cost, those of earlier days included; None: there is no limit."""
        found = read_object(self.folder / "session.json").get("budget")
        return float(found) if isinstance(found, int | float) else None

    @budget.setter
    def budget(self, dollars: float | None) -> None:
        if dollars is not None and (isinstance(dollars, bool) or not isinstance(dollars, int | float) or not 0 <= dollars < math.inf):
            raise ArgumentError(f"a budget of {dollars!r}", "it is an amount in dollars: 5, or None for no limit")
        path = self.folder / "session.json"
        with Lock(self.folder / ".lock"):
            write_json(path, {**read_object(path), "budget": dollars})
        if self._engine is not None:
            self._engine.limit(dollars)

    # --- what stays the same ----------------------------------------------------------------------------------------

    def pin(self, name: str, find: Callable[[], str]) -> str:
        """The commit that a Hub name stands for in this session: found once, then kept."""
        path = self.folder / "session.json"
        pinned = read_object(path).get("pins", {}).get(name)
        if pinned is None:
            found = find()
            with Lock(self.folder / ".lock"):  # two kernels, or two steps at once, pin different names
                value = read_object(path)
                pinned = value.setdefault("pins", {}).setdefault(name, found)
                write_json(path, value)
        return str(pinned)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __repr__(self) -> str:
        return f"Session({str(self.folder)!r}{'' if self._open else ', closed'})"


def resolve(path: str | os.PathLike[str]) -> Path:
    """Where a session lies: absolute; relative paths begin at the notebook's folder where that is known."""
    given = os.environ.get("NBDREAM_SESSION") or os.fspath(path)
    if not given.strip():
        raise ArgumentError("the session's path is empty", "give a folder, or ':memory:' for a session that is not kept")
    found = Path(given).expanduser()
    return found if found.is_absolute() else (notebook_folder() or Path.cwd()) / found


def notebook_path() -> Path | None:
    """The notebook that runs this kernel, where the front end says so."""
    for name in (os.environ.get("NBDREAM_NOTEBOOK"), os.environ.get("JPY_SESSION_NAME"), _vscode_notebook()):
        if name and Path(name).is_absolute() and Path(name).parent.is_dir():
            return Path(name)
    return None


def notebook_folder() -> Path | None:
    """The folder of the notebook that runs this kernel, where the front end says so."""
    path = notebook_path()
    return None if path is None else path.parent


def _vscode_notebook() -> str | None:
    module = sys.modules.get("__main__")
    found = getattr(module, "__vsc_ipynb_file__", None)
    return found if isinstance(found, str) else None


@functools.cache
def environment() -> dict[str, Any]:
    """What the work ran on: nbdream, interpreter, platform, machine, and the versions of the packages that matter."""
    told = {"nbdream": __version__, "python": platform.python_version(), "platform": platform.platform()}
    return {**told, "machine": machine(), "packages": versions(PACKAGES)}


def _open_folder(folder: Path) -> None:
    with disk_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise ArgumentError(f"{folder} is a file, not a folder", "give the session a folder of its own")
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / "session.json"
    try:
        found = read_object(path).get("format")
    except FileNotFoundError:
        write_json(path, {"format": FORMAT, "pins": {}})
        return
    if not isinstance(found, int) or found > FORMAT:
        raise SessionError(f"{folder} was made by a newer nbdream (format {found}; this one reads {FORMAT})", "pip install -U nbdream")
    if not os.access(folder, os.W_OK):
        raise SessionError(f"{folder} cannot be written", "open a session elsewhere: %dream open ./another-folder")


def _shared(others: Mapping[str, int], total: int) -> str:
    """Law 3's notice: whose draws a result shows, so that nobody takes them for new ones."""
    whose = ", ".join(f"`{name}`" for name in others)
    return f"{sum(others.values()):,} of {total:,} replies were already drawn for {whose}: add --seed 1 for new ones"


def _progress(folder: ResultFolder) -> dict[str, Any]:
    """How far another kernel says it is; empty when it says nothing."""
    try:
        return read_object(folder.progress_path)
    except (FileNotFoundError, BrokenFileError):
        return {}


def _remove(items: list[Any], item: Any) -> None:
    if item in items:
        items.remove(item)
