"""`TrainingRun`: the step behind a trainer. It starts a run, attaches to it, or resumes it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from nbdream import context
from nbdream.datasets import OutputDatasetColumn
from nbdream.errors import ArgumentError, BrokenFileError, DataError, Stopped, TrainingError
from nbdream.files import disk_errors, read_object
from nbdream.llms.hf_transformers import HFTransformers
from nbdream.llms.weights import commit
from nbdream.objects import ResultFolder
from nbdream.steps.base import Step
from nbdream.trainers.hooks import HOOKS, handed_over
from nbdream.workers import runs
from nbdream.workers.paths import FORMAT, RunPaths

WHERE = ("step", "epoch")
NOT_FOR_THE_WORKER = ("arguments", "batch_size", "epochs", *HOOKS)
"""Settings that the library's arguments say, and code, of which the spec has the names."""


class TrainingRun(Step):
    """A run: its rows are the curve, its folder holds the model.

    Subclasses name the ``method`` (the recipe of `nbdream.workers.rank.METHODS`), the ``columns`` that it learns from, and its
    ``measures``: the further columns of the curve. How long a step took is in the events, and is no result.
    """

    kind: ClassVar[str] = "run"
    version: ClassVar[float | str] = 1.0
    method: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    measures: ClassVar[tuple[str, ...]] = ("loss", "learning_rate", "grad_norm", "eval_loss")

    def setup(self) -> None:
        """Columns in, the curve out."""
        for name in self.columns:
            self.register_input(f"train_{name}", help="a column of a step: step.output['column']")
        for name in self.columns:
            self.register_input(f"validation_{name}", required=False)
        self.register_arg("model", help="the base model")
        self.register_arg("settings", help="what decides the result")
        self.register_arg("job", help="how it is made: devices, batches, what is shown")
        for name in (*WHERE, *self.measures):
            self.register_output(name)

    def validate(self) -> None:
        """Refuse rows that cannot be learned, before a process is started."""
        given = [name for name in self.columns if f"validation_{name}" in self.inputs]
        if given and len(given) < len(self.columns):
            names = " and ".join(f"validation_{name}" for name in self.columns)
            raise ArgumentError("validation needs the same columns as training", f"give {names}")
        for part in ("train", "validation") if given else ("train",):
            columns = {name: self._column(f"{part}_{name}") for name in self.columns}
            check_lengths(columns)
            self.check(part, columns)

    def check(self, part: str, columns: Mapping[str, OutputDatasetColumn]) -> None:
        """Refuse values that the method cannot learn from; here: everything is text, and there is something to learn."""
        for name, column in columns.items():
            check_texts(column)
            if not any(value.as_py().strip() for value in column.array()):
                raise DataError(f"every row of {column.name!r} is empty", f"give another column for {name}")

    def recipe_args(self) -> dict[str, Any]:
        """The base model by its content, and the settings by their own names, so that a difference reads well."""
        settings = self.args["settings"]
        flat = {**{name: value for name, value in settings.items() if name != "arguments"}, **settings["arguments"]}
        return {"model": self.args["model"], **{name: value for name, value in flat.items() if value is not None}}

    def run(self) -> Any:
        """Start the run, or attach to it, or resume it; the curve when it is done."""
        self.paths = RunPaths(self._folder())
        while (ended := runs.result(self.paths)) is None or ended["state"] != "done" or not self.paths.model.is_dir():
            if runs.stopping(self.paths):
                self._wait_for_the_stop()
                continue
            if not runs.alive(self.paths):
                self._start()
            self._follow()
        return curve(runs.events(self.paths), self.measures)

    # --- the run ------------------------------------------------------------------------------------------------------

    def _column(self, name: str) -> OutputDatasetColumn:
        column = self.inputs[name]
        assert isinstance(column, OutputDatasetColumn)
        return column

    def _folder(self) -> Path:
        """The folder of this attempt: that of the recipe, or with ``force`` the first further one that is not finished."""
        first = self.folder
        if not self.force:
            return first.path
        further = (ResultFolder(first.path.with_name(f"{first.key}-{number}")) for number in itertools.count(2))
        return next(folder for folder in itertools.chain([first], further) if folder.node() is None).path

    def _start(self) -> None:
        if context.replaying():
            raise TrainingError(f"the run of {self.name} is not in the archive", "a replay trains nothing: its rows or settings are others")
        self._refuse_another_of_this_name()
        columns = {
            part: {name: self._column(f"{part}_{name}") for name in self.columns}
            for part in ("train", "validation")
            if f"{part}_{self.columns[0]}" in self.inputs
        }
        code, names = handed_over({name: value for name, value in self.args["settings"].items() if name in HOOKS})
        spec = write_run(self.paths, self.name, self.method, self.args, columns)
        runs.launch(self.paths, {**spec, **({"hooks": names} if names else {})}, code=code)

    def _follow(self) -> None:
        """Follow the run to its end; `Stopped` or `TrainingError` when that is not a model."""
        try:
            ended = runs.follow(self.paths, self._heard, self.stopping, lambda: self.left)
        except KeyboardInterrupt:
            runs.ask_to_stop(self.paths)
            raise
        state = ended["state"]
        if state == "left":
            raise Stopped(f"{self.name} goes on without this kernel", "run the cell again to see it")
        if state == "stopping":
            raise Stopped(f"{self.name} has been asked to stop, and saves a checkpoint", "run the cell again to resume")
        if state == "stopped":
            raise Stopped(f"{self.name} was stopped at step {ended.get('step', 0)}", "run the cell again to resume")
        if state != "done":
            raise TrainingError(f"training {self.name} failed: {ended.get('message', 'it never ran')}", ended.get("hint"))
        if not self.paths.model.is_dir():
            raise BrokenFileError(self.paths.model, "the run says that it is done, and there is no model")

    def _heard(self, event: dict[str, Any]) -> None:
        self.emit({"type": "run.event", "event": event})
        if event.get("max_steps"):
            self.progress = event.get("step", 0) / event["max_steps"]

    def _wait_for_the_stop(self) -> None:
        """A run that is ending is waited for, and then resumed."""
        while not runs.wait_until_dead(self.paths, timeout=0.2):
            if self.stopping.is_set():
                raise Stopped(f"{self.name} is being stopped", "run the cell again to resume")

    def _refuse_another_of_this_name(self) -> None:
        for lock in sorted(self.paths.folder.parent.glob("*/run.lock")):
            other = RunPaths(lock.parent)
            if other.folder == self.paths.folder or not runs.alive(other) or _name_of(other) != self.name:
                continue
            if not self.args["job"]["replace"]:
                raise TrainingError(
                    f"{self.name} is training{_how_far(other)} with other settings", "--replace stops it with a checkpoint, or rename"
                )
            runs.ask_to_stop(other)
            while not runs.wait_until_dead(other, timeout=0.2):
                if self.stopping.is_set():
                    raise Stopped(f"{self.name} was stopped while it waited for the run before it", "run the cell again")


def write_run(
    paths: RunPaths, name: str, method: str, args: Mapping[str, Any], columns: Mapping[str, Mapping[str, OutputDatasetColumn]]
) -> dict[str, Any]:
    """Put the rows of a run into its folder; the spec that says what is to be done with them."""
    job, settings = args["job"], args["settings"]
    for part, given in columns.items():
        _write_rows({"train": paths.train_data, "validation": paths.validation_data}[part], given)
    return {
        "format": FORMAT,
        "name": name,
        "method": method,
        "model": {**_whereabouts(args["model"], paths.folder), "identity": args["model"].identity},
        "data": {part: f"input/{part}.arrow" for part in columns},
        "arguments": {**settings["arguments"], **job["arguments"], "num_train_epochs": settings["epochs"]},
        **{field: job[field] for field in ("batch", "devices", "device", "fsdp", "fsdp_config")},
        **{field: value for field, value in settings.items() if field not in NOT_FOR_THE_WORKER},
    }


def curve(events: Iterable[Mapping[str, Any]], measures: Sequence[str]) -> dict[str, list[Any]]:
    """The ``measures`` among ``events``, a row a step. What a killed run measured after its last checkpoint is measured again."""
    rows: dict[int, dict[str, Any]] = {}
    columns = (*WHERE, *measures)
    for event in events:
        kind, step = event.get("type"), int(event.get("step") or 0)
        if kind == "resumed":
            rows = {at: row for at, row in rows.items() if at <= step}
        elif kind == "begin" and not step:
            rows = {}
        elif kind in ("log", "eval"):
            rows.setdefault(step, {"step": step}).update({name: event[name] for name in columns if name in event})
    ordered = [rows[step] for step in sorted(rows)]
    return {name: [row.get(name) for row in ordered] for name in columns}


def check_lengths(columns: Mapping[str, OutputDatasetColumn]) -> None:
    """Raise `DataError` unless all columns have as many rows, and at least one."""
    first, *others = columns.values()
    for column in others:
        if len(column) != len(first):
            raise DataError(
                f"{first.name!r} has {len(first)} rows and {column.name!r} has {len(column)}", "take the columns of the same step"
            )
    if not len(first):
        raise DataError(f"there is no row in {first.name!r}", "give at least one")


def check_texts(column: OutputDatasetColumn) -> None:
    """Raise `DataError` unless every row of ``column`` is a text."""
    values = column.array()
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise DataError(
            f"column {column.name!r} holds {values.type}, not text",
            f"make it text: .map(lambda row: {{{column.name!r}: str(row[{column.name!r}])}})",
        )
    check_nulls(column)


def check_nulls(column: OutputDatasetColumn) -> None:
    """Raise `DataError` where a row of ``column`` is null."""
    if column.array().null_count:
        row = next(number for number, value in enumerate(column.array()) if not value.is_valid)
        raise DataError(f"row {row} of {column.name!r} is null", "leave such rows out: .filter(…)")


def _write_rows(path: Path, columns: Mapping[str, OutputDatasetColumn]) -> None:
    table = pa.table({name: column.array() for name, column in columns.items()})
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        with pa.OSFile(str(beside), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        os.replace(beside, path)


def _whereabouts(base: HFTransformers, folder: Path) -> dict[str, Any]:
    """Where the worker finds the base model: a folder relative to the run's, or a name at a commit."""
    made: dict[str, Any] = {"trust_remote_code": base.trust_remote_code}
    if base.folder is not None:
        return {**made, "path": os.path.relpath(base.folder, folder.resolve()), "local": True}
    return {**made, "path": base.model_name, "revision": commit(base.model_name, base.revision), "local": False}


def _name_of(paths: RunPaths) -> str | None:
    try:
        return str(read_object(paths.spec).get("name"))
    except FileNotFoundError:
        return None  # it is being started


def _how_far(paths: RunPaths) -> str:
    last = next((event for event in reversed(runs.events(paths)) if event.get("max_steps")), None)
    return f" ({100 * last.get('step', 0) // last['max_steps']} %)" if last else ""
