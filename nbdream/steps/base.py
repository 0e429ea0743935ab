"""`Step`: constructing one runs it.

A step declares what it takes in `Step.setup` and gives its rows in `Step.run`; everything else (binding, the recipe,
loading what is there, writing, lineage, views of carried columns) is written once, here and in the session.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nbdream import context, ledger
from nbdream.datasets import Column, OutputDataset, OutputDatasetColumn, StoredColumn, ViewColumn
from nbdream.errors import ArgumentError, nearest
from nbdream.fingerprint import canonical, form_digest, function_code
from nbdream.objects import ROW, ResultFolder, StoredTable, check_column
from nbdream.steps.handle import StepHandle

if TYPE_CHECKING:
    from nbdream.engine import Progress
    from nbdream.engine.budget import Budget
    from nbdream.engine.stream import Review
    from nbdream.llms.base import LLM, Reply, Request

logger = logging.getLogger("nbdream")

WITHOUT_EFFECT = ("verbose", "log_level", "progress_interval", "save_num_proc", "save_num_shards")
"""Accepted because published programs give them."""

NOT_IN_RECIPE = (
    "adaptive_batch_size", "batch_scheduler_buffer_size", "batch_size", "column", "concurrency", "lazy", "limit_is_preview",
    "log_level", "max_concurrency", "progress_interval", "save_num_proc", "save_num_shards", "timeout", "verbose",
    "writer_batch_size", "total_num_rows", "auto_progress", "retry_failed", "cache_only", "force",
)  # fmt: skip
"""Arguments that cannot change a result."""


class Registered:
    """What a step declared under one name."""

    def __init__(self, required: bool = True, default: Any = None, help: str | None = None) -> None:  # noqa: A002
        self.required, self.default, self.help = required, default, help


class _Help:
    """``Class.help`` and ``instance.help``: what a step takes and makes, as text."""

    def __get__(self, instance: Step | None, owner: type[Step]) -> str:
        blank = object.__new__(owner) if instance is None else instance
        if instance is None:
            blank._declare()
        lines = [f"{owner.__name__}(name, inputs, args, outputs)"]
        for what, declared in (("inputs", blank._inputs_declared), ("args", blank._args_declared), ("outputs", blank.outputs_declared)):
            lines += [f"  {what}:"] if declared else []
            for name, entry in declared.items():
                note = "" if what == "outputs" or entry.required else f" = {entry.default!r}"
                lines.append(f"    {name}{note}" + (f"  {entry.help}" if entry.help else ""))
        return "\n".join(lines)


class Step(StepHandle):
    """A node of the graph. Subclass it, declare in `setup`, return rows from `run`.

    ``inputs`` maps input names to columns (``other.output["text"]``), ``args`` argument names to values, ``outputs``
    renames the columns that the step makes. ``force=True`` runs the step even if its result is there.
    ``background=True`` returns at once; using the result waits for it.

    Raises `ArgumentError` for unknown or missing inputs, arguments and outputs, before anything is paid for.
    """

    _progress: float

    help = _Help()
    version: ClassVar[float | str] = 1.0
    """Change it to have a step run again whose code cannot tell that it changed."""
    kind: ClassVar[str] = "step"
    """``"run"`` for a training run, whose result is a model and whose rows are its curve."""
    carries: ClassVar[str | None] = None
    """The input whose other columns pass through as views."""
    preview: bool = False
    """A preview binds and shows, but moves no pointer."""
    attempt: str = ""
    """Which replies it asks for: those of the first attempt, or those that a further one has of its own; given by the session."""
    dynamic_outputs: ClassVar[bool] = False
    """Whether the columns that the step makes are known only from what `run` gives."""

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, Any] | None = None,
        args: Mapping[str, Any] | None = None,
        outputs: Mapping[str, str] | None = None,
        *,
        force: bool = False,
        background: bool = False,
        **without_effect: Any,
    ) -> None:
        for given in without_effect:
            if given not in WITHOUT_EFFECT:
                raise ArgumentError(
                    f"{type(self).__name__} takes no argument {given!r}", nearest(given, (*WITHOUT_EFFECT, "force", "background"))
                )
        if without_effect:
            logger.debug("%s: without effect: %s", name, ", ".join(without_effect))
        self.name = _checked_name(name)
        self.force = force
        self.stopping = threading.Event()
        self.left = False
        """Whether the kernel ends: what outlives it is not to be stopped then."""
        self.usage: dict[str, Any] = ledger.nothing()
        self.draws: Counter[str] = Counter()
        """How many sampled replies were paid for under which name."""
        self.source: dict[str, Any] | None = None
        self.cell: dict[str, Any] | None = None
        """The notebook cell in which it was constructed; given by the session."""
        self._asked: list[Generator[list[Reply], None, None]] = []
        self.runner = context.current()
        self._declare()
        self.inputs = self._bind_inputs(dict(inputs or {}))
        self.args = self._bind_args(dict(args or {}))
        self._renames = self._bind_outputs(dict(outputs or {}))
        self.validate()
        self._open(background)

    def __init_subclass__(cls) -> None:
        if "__init__" in cls.__dict__ and not _is_ours(cls):  # the sources have their own signatures
            raise ArgumentError(
                f"{cls.__name__} overrides __init__, which binds and runs a step", "declare inputs, args and outputs in setup(self)"
            )
        super().__init_subclass__()

    # --- what a subclass writes -------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Declare inputs, arguments and outputs with the ``register_*`` methods."""

    def validate(self) -> None:
        """Raise an error for what binding cannot see (a template's unknown column), before anything is paid for."""

    def run(self) -> Any:
        """The rows: a dict of columns, a list of dicts, tuples, a generator, a ``Dataset`` … (see the docs)."""
        raise NotImplementedError(f"{type(self).__name__} has no run(self)")

    def reads(self) -> dict[str, list[str]]:
        """Of each input that is a whole dataset, the columns that the result depends on. Default: all of them."""
        return {name: value.column_names for name, value in self.inputs.items() if isinstance(value, OutputDataset)}

    def recipe_args(self) -> dict[str, Any]:
        """The arguments that change the result. Default: those that are set, of our own steps without those of `NOT_IN_RECIPE`."""
        left_out = NOT_IN_RECIPE if _is_ours(type(self)) else ()  # what `column` means to a step of the user's, only its code knows
        return {name: value for name, value in self.args.items() if name not in left_out and value is not None}

    def shown_names(self) -> dict[str, str]:
        """The name under which each column that the step makes is shown. Default: what ``outputs`` says."""
        return self._renames

    def view(self) -> dict[str, str] | None:
        """Which columns of the carried input pass through: shown name → the input's name. None: all, as they are."""
        return None

    def register_input(self, name: str, required: bool = True, help: str | None = None) -> None:  # noqa: A002
        """Declare an input column."""
        self._inputs_declared[name] = Registered(required, None, help)

    def register_arg(
        self,
        name: str,
        required: bool = True,
        default: Any = None,
        help: str | None = None,  # noqa: A002
        default_help: str | None = None,
    ) -> None:
        """Declare an argument; ``"**kwargs"`` takes whatever else is given."""
        self._args_declared[name] = Registered(required and default is None and name != "**kwargs", default, help or default_help)

    def register_output(self, name: str, help: str | None = None) -> None:  # noqa: A002
        """Declare a column that the step makes."""
        self.outputs_declared[name] = Registered(help=help)

    def register_data_card(self, data_card_type: str, data_card: Any) -> None:
        """Add an entry to the step's data card."""
        self.cards.append({"type": data_card_type, "value": data_card})

    # --- while it runs ----------------------------------------------------------------------------------------------

    def ask(
        self,
        llm: LLM,
        requests: Iterable[Request],
        *,
        total: int | None = None,
        draws: int = 1,
        limit: int | None = None,
        retry_failed: bool = False,
        review: Review | None = None,
        budget: Budget | None = None,
        batch: bool = False,
    ) -> Iterator[list[Reply]]:
        """Put requests to a model through the session's engine: a list of ``draws`` replies for each, in order.

        Progress, usage and stopping are seen to. A failed request gives a reply with ``error``. A further attempt that
        ``force`` asked for gets replies of its own; one for ``retry_failed`` shares those of the attempt before it.
        """
        sampled = False

        def watched() -> Iterator[Request]:
            nonlocal sampled
            for request in requests:
                sampled = not request.greedy
                yield request

        stream = self.runner.engine.stream(
            llm,
            watched(),
            draws=draws,
            limit=limit,
            on_progress=lambda p: self._report(p, total, draws),
            stop=self.stopping,
            retry_failed=retry_failed,
            attempt=self.attempt,
            by=self.name,
            review=review,
            budget=budget,
            batch=batch,
        )
        self._asked.append(stream)
        try:
            for replies in stream:
                for reply in replies:
                    ledger.add_reply(self.usage, reply)
                    if sampled:
                        self.draws[self.name if reply.by is None else reply.by] += 1
                yield replies
        except KeyboardInterrupt:
            if self._at_provider:
                from nbdream.engine.batch_jobs import GOES_ON

                print(GOES_ON)
            raise

    def hang_up(self) -> None:
        """Send no further request; called by the session when `run` is over, or has failed with requests under way."""
        for stream in self._asked:
            stream.close()
        self._asked.clear()

    @property
    def progress(self) -> float:
        """How far the run is: 0 … 1."""
        return self._progress

    @progress.setter
    def progress(self, value: float) -> None:
        self._progress = max(self._progress, min(1.0, float(value)))
        self.emit({"type": "step.progress", "total": 1000, "done": int(self._progress * 1000)})

    def emit(self, event: Mapping[str, Any]) -> None:
        """Hand an event about this step to those who watch the session."""
        self.runner.emit({"name": self.name, "recipe": self.key, **event})

    def _report(self, progress: Progress, total: int | None, draws: int) -> None:
        whole = None if total is None else total * draws
        self._at_provider = progress.batch is not None
        if whole:
            self._progress = max(self._progress, progress.done / whole)
        self.emit(
            {
                "type": "step.progress",
                "total": whole,
                "done": progress.done,
                "cached": progress.cached,
                "new": progress.new,
                "failed": progress.failed,
                "input_tokens": progress.input_tokens,
                "output_tokens": progress.output_tokens,
                "cost": progress.cost,
                "saved": progress.saved,
                "batch": progress.batch,
            }
        )

    # --- binding ----------------------------------------------------------------------------------------------------

    def _declare(self) -> None:
        self._inputs_declared: dict[str, Registered] = {}
        self._args_declared: dict[str, Registered] = {}
        self.outputs_declared: dict[str, Registered] = {}
        self.cards: list[dict[str, Any]] = []
        self._progress = 0.0
        self._at_provider = False
        self.setup()

    def _bind_inputs(self, given: dict[str, Any]) -> dict[str, OutputDataset | OutputDatasetColumn]:
        self._check_names("input", given, self._inputs_declared)
        return {name: self._as_input(name, value) for name, value in given.items() if value is not None}

    def _as_input(self, name: str, value: Any) -> OutputDataset | OutputDatasetColumn:
        if isinstance(value, StepHandle):
            value = value.output
        if isinstance(value, OutputDataset) and name not in self.reads_datasets() and value.num_columns == 1:
            value = value[value.column_names[0]]
        if isinstance(value, (OutputDataset, OutputDatasetColumn)) and Path(value.step.runner.folder) != Path(self.runner.folder):
            raise ArgumentError(f"input {name!r} of {self.name!r} comes from another session", "run its cell again in this one")
        if isinstance(value, OutputDatasetColumn) or (isinstance(value, OutputDataset) and name in self.reads_datasets()):
            return value
        if isinstance(value, OutputDataset):
            raise ArgumentError(
                f"input {name!r} of {self.name!r} takes one column",
                f"pick one: …output[{value.column_names[0]!r}] of {', '.join(value.column_names)}",
            )
        raise ArgumentError(
            f"input {name!r} of {self.name!r} is a {type(value).__name__}, not a column of a step",
            "wrap your data: DataSource('name', data=…).output['column']",
        )

    def reads_datasets(self) -> tuple[str, ...]:
        """The inputs that take a whole dataset rather than a column."""
        return (self.carries,) if self.carries else ()

    def _bind_args(self, given: dict[str, Any]) -> dict[str, Any]:
        free = "**kwargs" in self._args_declared
        declared = {name: value for name, value in self._args_declared.items() if name != "**kwargs"}
        self._check_names("argument", given, declared, free=free)
        bound = {name: entry.default for name, entry in declared.items() if name not in given}
        return {**bound, **given}

    def _bind_outputs(self, given: dict[str, str]) -> dict[str, str]:
        if not self.dynamic_outputs:
            self._check_names("output", given, {name: Registered(required=False) for name in self.outputs_declared})
        shown = [given.get(name, name) for name in self.outputs_declared]
        for name in shown:
            check_column(name)
        if len(set(shown)) != len(shown):
            raise ArgumentError(f"two outputs of {self.name!r} have the same name", "give each output its own name")
        return given

    def _check_names(self, what: str, given: Mapping[str, Any], declared: Mapping[str, Registered], *, free: bool = False) -> None:
        for name in given:
            if name not in declared and not free:
                raise ArgumentError(f"{type(self).__name__} has no {what} {name!r}", nearest(name, declared, f"its {what}s are"))
        for name, entry in declared.items():
            if entry.required and given.get(name) is None:
                raise ArgumentError(
                    f"{type(self).__name__} {self.name!r} needs the {what} {name!r}", entry.help or f"give {what}s={{{name!r}: …}}"
                )

    # --- the recipe -------------------------------------------------------------------------------------------------

    def recipe(self) -> dict[str, Any]:
        """What decides the result, as canonical JSON: kind, code, arguments, and the content of exactly what is read."""
        kind = type(self)
        made = {"kind": kind.__name__, "version": str(self.version), "args": canonical(self.recipe_args()), "inputs": self._recipe_inputs()}
        return made if _is_ours(kind) else {**made, "code": function_code(kind)}

    def _recipe_inputs(self) -> dict[str, Any]:
        reads = self.reads()
        found: dict[str, Any] = {}
        for name, value in self.inputs.items():
            if isinstance(value, OutputDatasetColumn):
                found[name] = {"digest": value.digest()}
            else:
                columns = reads.get(name, [])
                found[name] = {"rows": value.num_rows, "columns": {column: value.digest(column) for column in columns}}
                if len(columns) > 1:  # JSON objects have no order, and a function sees that of a row
                    found[name]["order"] = columns
        return found

    @property
    def models(self) -> list[dict[str, Any]]:
        """The cards of the models among the arguments."""
        return [
            {**value.card, "identity": value.identity}
            for value in self.args.values()
            if hasattr(value, "identity") and hasattr(value, "card")
        ]

    def runs_again(self, node: Mapping[str, Any]) -> bool:
        """Whether to make a further attempt, although there is one: ``node`` is that of the newest."""
        return self.force

    def use(self) -> dict[str, Any]:
        """This step's place in the graph: what it is called and where its inputs come from."""
        reads = self.reads()
        inputs = {}
        for name, value in self.inputs.items():
            columns = [value.name] if isinstance(value, OutputDatasetColumn) else reads.get(name, [])
            inputs[name] = {
                "recipe": value.step.key,
                "use": value.step.use_id,
                "columns": columns,
                "whole": isinstance(value, OutputDataset),
            }
        inputs |= {name: made for name, value in self.args.items() if (made := made_by(value)) is not None}
        return {
            "name": self.name,
            "type": type(self).__name__,
            "inputs": inputs,
            "outputs": self.shown_names(),
            "carries": self.carries,
            "view": self.view(),
        }

    def _open(self, background: bool) -> None:
        self.recipe_made = self.recipe()
        self.key = form_digest(self.recipe_made)[:40]
        self.use_id = ""
        self._finished = threading.Event()
        self._raised: BaseException | None = None
        self.runner.announce(self)
        if background:
            threading.Thread(target=self._run_quietly, name=f"nbdream-{self.name}", daemon=True).start()
        else:
            try:
                self.runner.run(self)
            except BaseException as error:
                self._raised = error
                raise
            finally:
                self._finished.set()

    def _run_quietly(self) -> None:
        try:
            with context.using(self.runner):
                self.runner.run(self)
        except BaseException as error:  # it is raised again where the result is used
            self._raised = error
        finally:
            self._finished.set()

    @property
    def done(self) -> bool:
        """Whether the result is there (or the error is)."""
        return self._finished.is_set()

    def __repr__(self) -> str:
        # A step that is still running, or that never got its result, must not be waited for by who prints a traceback.
        return super().__repr__() if "_output" in self.__dict__ else f"{type(self).__name__}({self.__dict__.get('name')!r})"

    def finished(self, seconds: float) -> bool:
        """Whether the result (or the error) is there, at the latest after so many seconds."""
        return self._finished.wait(seconds)

    def wait(self) -> None:
        """Return when the result is there; raise what the run raised."""
        self._finished.wait()
        if self._raised is not None:
            raise self._raised

    @property
    def output(self) -> OutputDataset:
        """The rows. Waits for a background step."""
        self.wait()
        return self._output

    @property
    def failures(self) -> OutputDataset:
        """The rows that failed: ``row`` (of the input), ``error``, ``said``, and the input's columns."""
        self.wait()
        return self._failures

    def load(self, folder: ResultFolder, node: Mapping[str, Any]) -> None:
        """Make the output of what is on disk; called by the session."""
        self.node = dict(node)
        self.key = folder.key
        carried = self.inputs.get(self.carries) if self.carries else None
        whole = carried if isinstance(carried, OutputDataset) else None
        self._output = assemble(self, folder, node, self.shown_names(), whole, self.view())
        self._failures = failed_rows(self, folder, node, whole)


def assemble(
    step: Any,
    folder: ResultFolder,
    node: Mapping[str, Any],
    shown: Mapping[str, str],
    carried: OutputDataset | None,
    view: Mapping[str, str] | None,
) -> OutputDataset:
    """The rows of a result: its own columns under their shown names, before them the columns it carries."""
    stored = StoredTable(folder.data, node["columns"], node["rows"])
    own = {name: StoredColumn(stored, name, entry["digest"]) for name, entry in node["columns"].items() if name != ROW}
    made: dict[str, Column] = {shown.get(name, name): column for name, column in own.items()}
    columns: dict[str, Column] = {}
    if carried is not None:
        rows = (lambda: stored.table.column(ROW)) if ROW in node["columns"] and not node["every_row"] else None
        shown_view = {name: name for name in carried.column_names} if view is None else view
        columns = {name: ViewColumn(carried.column(source), rows) for name, source in shown_view.items()}
    for name, column in made.items():
        columns.pop(name, None)
        columns[name] = column
    return OutputDataset(step, columns, node["rows"])


def failed_rows(step: Any, folder: ResultFolder, node: Mapping[str, Any], carried: OutputDataset | None) -> OutputDataset:
    """The failed rows of a result, with the columns of the input."""
    entries = node.get("failed_columns", {})
    stored = StoredTable(folder.failures, entries, node.get("failures", 0))
    columns: dict[str, Column] = {name: StoredColumn(stored, name, entry["digest"]) for name, entry in entries.items()}
    if carried is not None and "row" in columns:
        views: dict[str, Column] = {
            name: ViewColumn(carried.column(name), lambda: stored.table.column("row")) for name in carried.column_names
        }
        columns = {**columns, **{name: view for name, view in views.items() if name not in columns}}
    return OutputDataset(step, columns, node.get("failures", 0))


class SuperStep(Step):
    """A step that runs other steps inside its ``run``."""


def made_by(argument: Any) -> dict[str, Any] | None:
    """The edge to the run that made an argument, when it is a model that was trained in this session."""
    if not isinstance(getattr(argument, "key", None), str) or not isinstance(getattr(argument, "use_id", None), str):
        return None
    return {"recipe": argument.key, "use": argument.use_id, "columns": [], "whole": True}


def _is_ours(kind: type[Step]) -> bool:
    """Whether a step's class is nbdream's own."""
    return kind.__module__.partition(".")[0] == "nbdream"


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ArgumentError("a step needs a name", "give a short text as the first argument")
    return name.strip()


__all__ = ["NOT_IN_RECIPE", "Registered", "Step", "SuperStep", "assemble", "failed_rows"]
