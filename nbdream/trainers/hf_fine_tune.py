"""`TrainHFFineTune`: a causal or seq2seq model that learns to give the output column for the input column."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pyarrow as pa

from nbdream import secrets
from nbdream.datasets import OutputDatasetColumn
from nbdream.errors import ArgumentError, BrokenFileError, DataError, MissingPackageError, Stopped, TrainingError
from nbdream.files import disk_errors, read_object
from nbdream.llms.hf_transformers import DEMO, HFTransformers
from nbdream.llms.weights import DEMO_FOLDER, commit
from nbdream.objects import ResultFolder
from nbdream.optional import installed, require
from nbdream.steps.base import Step
from nbdream.trainers.arguments import check_names, counted, cut_batch, devices_of, number, plain_adapter
from nbdream.trainers.base import Trainer
from nbdream.workers import runs
from nbdream.workers.paths import FORMAT, RunPaths

if TYPE_CHECKING:
    from nbdream.trainers.trained import TrainedModel

CURVE = ("step", "epoch", "loss", "learning_rate", "grad_norm", "eval_loss", "eval_perplexity")
"""The columns of a run's rows: what was measured, a row a step. How long it took is in the events, and is no result."""

LEARNING_RATES = {"lora": 2e-4, "full": 2e-5, "t5": 1e-3}
OWN = frozenset({
    "train_input", "train_output", "validation_input", "validation_output", "truncate", "epochs", "batch_size", "optim", "learning_rate",
    "weight_decay", "lr_scheduler_type", "warmup_steps", "neftune_noise_alpha", "seed", "max_length", "gradient_accumulation_steps",
})  # fmt: skip


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


class TrainHFFineTune(Trainer):
    """Supervised fine-tuning of a causal or seq2seq model, whole or as a LoRA adapter; the loss is on the output only.

    ``model_name``: a folder, a name on the Hub, or ``demo``. ``peft_config``: a ``peft.LoraConfig`` or a dict like
    ``{"r": 8}``. ``device``: ``"cpu"``, ``"cuda:0"``, or a list with an entry a process; ``devices``: how many processes.
    Several processes shard the parameters between them (FSDP2); ``fsdp=False`` gives each a whole copy (DDP).
    """

    def __init__(
        self,
        name: str,
        model_name: str,
        chat_prompt_template: str | None = None,
        system_prompt: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        device: Any = None,
        dtype: Any = None,
        quantization_config: Any = None,
        peft_config: Any = None,
        fsdp: bool | str | None = None,
        fsdp_config: Mapping[str, Any] | None = None,
        devices: int | None = None,
        force: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, force)
        check_names(kwargs, OWN)
        self.base = HFTransformers(
            str(DEMO_FOLDER) if str(model_name) == DEMO else str(model_name),
            revision=revision,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            quantization_config=quantization_config,
        )
        self.chat_prompt_template, self.system_prompt = chat_prompt_template, system_prompt
        self.lora = plain_adapter(peft_config)
        self.count, self.device = devices_of(device, devices)
        self.fsdp = fsdp is None or bool(fsdp)
        self.fsdp_config = dict(fsdp_config or {})

    def train(
        self,
        train_input: Any,
        train_output: Any,
        validation_input: Any = None,
        validation_output: Any = None,
        truncate: bool = True,
        epochs: float = 3.0,
        batch_size: int = 8,
        optim: str = "adamw_torch",
        learning_rate: float | None = None,
        weight_decay: float = 0.01,
        lr_scheduler_type: str = "linear",
        warmup_steps: float = 0,
        neftune_noise_alpha: float | None = None,
        seed: int = 42,
        max_length: int | None = None,
        background: bool = False,
        replace: bool = False,
        **kwargs: Any,
    ) -> TrainedModel | Self:
        """Train, or load what was trained: the model.

        ``batch_size`` is over all devices, per step; with ``gradient_accumulation_steps`` a step takes that many of them.
        ``learning_rate`` is by default 1e-3 for T5, else 2e-4 with an adapter and 2e-5 without. ``max_length`` is by default
        the model's own limit. ``background`` returns the trainer at once, whose ``model`` waits. ``replace`` stops a run of this
        name that is going on with other settings. Further arguments are those of ``transformers.TrainingArguments``.

        Raises `ArgumentError` or `DataError` before a process is started where that can be known; `TrainingError` when the
        run fails; `Stopped` when it was stopped with a checkpoint.
        """
        _require_packages(adapter=self.lora is not None)
        accumulation, per_device = kwargs.pop("gradient_accumulation_steps", 1), kwargs.pop("per_device_train_batch_size", None)
        batch = cut_batch(batch_size, accumulation, self.count, per_device)
        given = _plain_values(check_names(kwargs, OWN))
        settings = {
            "epochs": number("epochs", epochs),
            "batch_size": batch.effective,
            "seed": number("seed", seed, whole=True, least=0),
            "truncate": bool(truncate),
            "max_length": None if max_length is None else number("max_length", max_length, whole=True),
            "lora": self.lora,
            "quantization": self.base.quantization_config,
            "dtype": self.base.dtype,
            "chat_prompt_template": self.chat_prompt_template,
            "system_prompt": self.system_prompt,
            "arguments": {
                "learning_rate": self._learning_rate(learning_rate),
                "optim": optim,
                "weight_decay": number("weight_decay", weight_decay, least=0),
                "lr_scheduler_type": lr_scheduler_type,
                "warmup_steps": number("warmup_steps", warmup_steps, least=0),
                **(
                    {}
                    if neftune_noise_alpha is None
                    else {"neftune_noise_alpha": number("neftune_noise_alpha", neftune_noise_alpha, least=0)}
                ),
                **counted(given),
            },
        }
        job = {
            "arguments": {name: value for name, value in given.items() if name not in settings["arguments"]},
            "batch": {"per_device": batch.per_device, "accumulation": batch.accumulation},
            "devices": self.count,
            "device": self.device,
            "fsdp": self.fsdp,
            "fsdp_config": _plain_values(self.fsdp_config),
            "replace": replace,
        }
        inputs = {
            "train_input": train_input, "train_output": train_output,
            "validation_input": validation_input, "validation_output": validation_output,
        }  # fmt: skip
        self._model = None
        self.step = HFFineTune(
            self.name, inputs, {"model": self.base, "settings": settings, "job": job}, force=self.force, background=background
        )
        return self if background else self.model

    def _learning_rate(self, given: float | None) -> float:
        if given is not None:
            return float(number("learning_rate", given))
        if str(self._config().get("model_type", "")).endswith("t5"):
            return LEARNING_RATES["t5"]
        return LEARNING_RATES["full" if self.lora is None else "lora"]

    def _config(self) -> dict[str, Any]:
        """The base model's ``config.json``."""
        if self.base.folder is not None:
            if (self.base.folder / "adapter_config.json").is_file() and not (self.base.folder / "config.json").is_file():
                raise ArgumentError(
                    f"{self.base.folder.name} is an adapter, not a whole model", "merge it first: model.export_to_disk('./merged')"
                )
            return read_object(self.base.folder / "config.json")
        hub: Any = require("huggingface_hub", "train")
        found = hub.hf_hub_download(self.base.model_name, "config.json", revision=commit(self.base.model_name, self.base.revision))
        return read_object(Path(found))


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
            row = next(number for number, value in enumerate(values, start=1) if not value.is_valid)
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


def _plain_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as JSON; a function or an object cannot be handed to another process."""
    for name, value in given.items():
        if not isinstance(value, (str, bool, int, float, list, dict, type(None))) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise ArgumentError(
                f"{name} is a {type(value).__name__}, which a training process cannot be given", "give numbers, texts, lists or dicts"
            )
        if isinstance(value, str) and secrets.contains(value):
            raise ArgumentError(f"{name} contains a credential", "set HF_TOKEN in the environment instead")
    return dict(given)


def _require_packages(*, adapter: bool) -> None:
    for module in ("torch", "transformers", "accelerate", *(("peft",) if adapter else ())):
        if not installed(module):
            raise MissingPackageError(f"{module} is not installed", "pip install 'nbdream[train]'")


def _how_far(paths: RunPaths) -> str:
    last = next((event for event in reversed(runs.events(paths)) if event.get("max_steps")), None)
    return f" ({100 * last.get('step', 0) // last['max_steps']} %)" if last else ""
