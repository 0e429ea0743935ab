"""`HFFineTune`: the step behind `TrainHFFineTune`. It starts a run, attaches to it, or resumes it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from nbdream.datasets import OutputDatasetColumn
from nbdream.errors import ArgumentError, BrokenFileError, DataError, Stopped, TrainingError
from nbdream.files import disk_errors, read_object
from nbdream.llms.hf_transformers import HFTransformers
from nbdream.llms.weights import commit
from nbdream.objects import ResultFolder
from nbdream.steps.base import Step
from nbdream.workers import runs
from nbdream.workers.paths import FORMAT, RunPaths

CURVE = ("step", "epoch", "loss", "learning_rate", "grad_norm", "eval_loss", "eval_perplexity")
"""The columns of a run's rows: what was measured, a row a step. How long it took is in the events, and is no result."""


class HFFineTune(Step):
    """The step behind `TrainHFFineTune`: its rows are the curve, its folder holds the model."""

    kind: ClassVar[str] = "run"
    version: ClassVar[float | str] = 1.0

    def setup(self) -> None:
        """Columns in, the curve out."""
        for name in ("train_input", "train_output"):
            self.register_input(name, help="a column of a step: step.output['column']")
        for name in ("validation_input", "validation_output"):
            self.register_input(name, required=False)
        self.register_arg("model", help="the base model")
        self.register_arg("settings", help="what decides the result")
        self.register_arg("job", help="how it is made: devices, batches, what is shown")
        for name in CURVE:
            self.register_output(name)

    def validate(self) -> None:
        """Refuse rows that cannot be learned, before a process is started."""
        if ("validation_input" in self.inputs) != ("validation_output" in self.inputs):
            raise ArgumentError("validation needs both columns", "give validation_input and validation_output")
        for part in ("train", "validation"):
            if f"{part}_input" in self.inputs:
                _check_rows(self._column(f"{part}_input"), self._column(f"{part}_output"))

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
        return curve(runs.events(self.paths))

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
        self._refuse_another_of_this_name()
        job, settings = self.args["job"], self.args["settings"]
        for part, path in (("train", self.paths.train_data), ("validation", self.paths.validation_data)):
            if f"{part}_input" in self.inputs:
                _write_rows(path, self._column(f"{part}_input"), self._column(f"{part}_output"))
        spec = {
            "format": FORMAT,
            "name": self.name,
            "method": "sft",
            "model": {**_whereabouts(self.args["model"], self.paths.folder), "identity": self.args["model"].identity},
            "data": {"train": "input/train.arrow", "validation": "input/validation.arrow" if "validation_input" in self.inputs else None},
            "arguments": {**settings["arguments"], **job["arguments"], "num_train_epochs": settings["epochs"]},
            "batch": job["batch"],
            "devices": job["devices"],
            "device": job["device"],
            "fsdp": job["fsdp"],
            "fsdp_config": job["fsdp_config"],
            "lora": settings["lora"],
            "quantization": settings["quantization"],
            "dtype": settings["dtype"],
            "chat_template": settings["chat_prompt_template"],
            "system": settings["system_prompt"],
            "max_length": settings["max_length"],
            "truncate": settings["truncate"],
            "seed": settings["seed"],
        }
        runs.launch(self.paths, spec)

    def _follow(self) -> None:
        """Follow the run to its end; `Stopped` or `TrainingError` when that is not a model."""
        try:
            ended = runs.follow(self.paths, self._heard, self.stopping)
        except KeyboardInterrupt:
            runs.ask_to_stop(self.paths)
            raise
        state = ended["state"]
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
            if other.folder == self.paths.folder or not runs.alive(other) or read_object(other.spec).get("name") != self.name:
                continue
            if not self.args["job"]["replace"]:
                raise TrainingError(
                    f"{self.name} is training{_how_far(other)} with other settings", "--replace stops it with a checkpoint, or rename"
                )
            runs.ask_to_stop(other)
            while not runs.wait_until_dead(other, timeout=0.2):
                if self.stopping.is_set():
                    raise Stopped(f"{self.name} was stopped while it waited for the run before it", "run the cell again")


def curve(events: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The measurements among ``events``, a row a step. What a killed run measured after its last checkpoint is measured again."""
    rows: dict[int, dict[str, Any]] = {}
    for event in events:
        kind, step = event.get("type"), int(event.get("step") or 0)
        if kind == "resumed":
            rows = {at: row for at, row in rows.items() if at <= step}
        elif kind == "begin" and not step:
            rows = {}
        elif kind in ("log", "eval"):
            rows.setdefault(step, {"step": step}).update({name: event[name] for name in CURVE if name in event})
    ordered = [rows[step] for step in sorted(rows)]
    return {name: [row.get(name) for row in ordered] for name in CURVE}


def _check_rows(inputs: OutputDatasetColumn, outputs: OutputDatasetColumn) -> None:
    if len(inputs) != len(outputs):
        raise DataError(
            f"{inputs.name!r} has {len(inputs)} rows and {outputs.name!r} has {len(outputs)}", "take both columns of the same step"
        )
    if not len(inputs):
        raise DataError(f"there is no row in {inputs.name!r}", "give at least one")
    for column in (inputs, outputs):
        values = column.array()
        if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
            raise DataError(
                f"column {column.name!r} holds {values.type}, not text",
                f"make it text: .map(lambda row: {{{column.name!r}: str(row[{column.name!r}])}})",
            )
        if values.null_count:
            row = next(number for number, value in enumerate(values) if not value.is_valid)
            raise DataError(f"row {row} of {column.name!r} is null", "leave such rows out: .filter(…)")
    if not any(value.as_py().strip() for value in outputs.array()):
        raise DataError(f"every row of {outputs.name!r} is empty", "give the column that the model is to write")


def _write_rows(path: Path, inputs: OutputDatasetColumn, outputs: OutputDatasetColumn) -> None:
    table = pa.table({"input": inputs.array(), "output": outputs.array()})
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


def _how_far(paths: RunPaths) -> str:
    last = next((event for event in reversed(runs.events(paths)) if event.get("max_steps")), None)
    return f" ({100 * last.get('step', 0) // last['max_steps']} %)" if last else ""
