"""The parts that recipes are written with: where things come from, the library's arguments, the way from first step to saved model."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch  # noqa: TID253 - only a worker imports this module
import transformers  # noqa: TID253

from nbdream.errors import BrokenFileError
from nbdream.files import write_atomic, write_json
from nbdream.optional import require
from nbdream.workers import checkpoint
from nbdream.workers.best import Best
from nbdream.workers.fsdp import enable_on_cpu, keep_shared_embeddings_together
from nbdream.workers.live import Live, check_finite
from nbdream.workers.loading import check_folder
from nbdream.workers.loop import Loop
from nbdream.workers.paths import CONTEXT_TEMPLATE
from nbdream.workers.rank import Run

LOSS_POINTS = 500
"""A run shows each step, and a long one about this many of them."""


def begin(run: Run) -> None:
    """What comes before anything else on every rank."""
    transformers.utils.logging.disable_progress_bar()
    run.say({"type": "imported"})
    run.meet()
    transformers.set_seed(run.spec["seed"])
    if run.spec["model"].get("local"):
        check_folder(Path(source(run)["pretrained_model_name_or_path"]))


def source(run: Run) -> dict[str, Any]:
    """Where the base model comes from. A local folder is given relative to the run's."""
    model = run.spec["model"]
    path = str((run.paths.folder / model["path"]).resolve()) if model.get("local") else model["path"]
    found = {"pretrained_model_name_or_path": path, "trust_remote_code": bool(model.get("trust_remote_code"))}
    return found if model.get("local") else {**found, "revision": model.get("revision")}


def columns(path: Path, names: Sequence[str]) -> list[list[Any]]:
    """The columns that the run was given."""
    try:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        return [table.column(name).to_pylist() for name in names]
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise BrokenFileError(path, "it is not the table that the run was given") from error


def has_column(path: Path, name: str) -> bool:
    """Whether the run was given a column."""
    return name in pa.ipc.open_stream(pa.memory_map(str(path))).schema.names


def load(run: Run, kind: Any, task: str) -> Any:
    """The base model as ``kind`` (an ``AutoModelFor…``), with an adapter for ``task`` where the run has one."""
    return adapted(run, bare(run, kind), task)


def bare(run: Run, kind: Any, *, unquantized: Sequence[str] = (), **more: Any) -> Any:
    """The base model as ``kind``, or what that gives for ``more``; ``unquantized`` names layers that stay as they are."""
    found = kind.from_pretrained(**source(run), **placed(run, unquantized), **more)
    model = found[0] if isinstance(found, tuple) else found
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    return found


def placed(run: Run, unquantized: Sequence[str] = ()) -> dict[str, Any]:
    """How the base model is to be loaded: as what kind of numbers, and where they are quantised where to."""
    quantization = run.spec.get("quantization")
    options: dict[str, Any] = {"dtype": getattr(torch, run.spec.get("dtype") or "float32")}
    if quantization:
        skipped = {"llm_int8_skip_modules": list(unquantized)} if unquantized else {}
        options["quantization_config"] = transformers.BitsAndBytesConfig(**{**skipped, **quantization})
        options["device_map"] = {"": "cpu" if run.cpu else int(os.environ.get("LOCAL_RANK", "0"))}
    return options


def adapted(run: Run, model: Any, task: str, *, modules_to_save: Sequence[str] = ()) -> Any:
    """``model`` with an adapter where the run has one; ``modules_to_save`` are trained and saved whole beside it."""
    if run.spec.get("lora") is None:
        return model
    peft = require("peft", "train")
    if run.spec.get("quantization"):
        model = peft.prepare_model_for_kbit_training(model)
    return peft.get_peft_model(model, adapter(run, task, modules_to_save))


def adapter(run: Run, task: str, modules_to_save: Sequence[str] = ()) -> Any:
    """The configuration of the run's adapter."""
    peft = require("peft", "train")
    given = {name: value for name, value in run.spec["lora"].items() if name != "peft_type"}
    if modules_to_save:
        given["modules_to_save"] = sorted({*modules_to_save, *(given.get("modules_to_save") or ())})
    return peft.PEFT_TYPE_TO_CONFIG_MAPPING[str(run.spec["lora"].get("peft_type", "LORA"))](**{"task_type": task, **given})


def pad_id(tokenizer: Any) -> int:
    """The token that fills rows up."""
    return next((found for found in (tokenizer.pad_token_id, tokenizer.eos_token_id) if found is not None), 0)


def arguments(run: Run, rows: int, *, evaluates: bool) -> Any:
    """The library's arguments: the user's own, under the library's names, and what the devices ask for."""
    given = dict(run.spec["arguments"])
    batch = run.spec["batch"]
    steps = given.get("max_steps", -1)
    if steps <= 0:
        per_epoch = math.ceil(rows / (batch["per_device"] * batch["accumulation"] * run.world))
        steps = math.ceil(per_epoch * given["num_train_epochs"])
    if str(given.get("metric_for_best_model")).removeprefix("eval_") == "perplexity":
        given.setdefault("greater_is_better", False)  # the library goes by the name, and knows only of losses
    sharded = run.world > 1 and run.spec.get("fsdp", True)
    shards = {"version": 2, **(run.spec.get("fsdp_config") or {})}
    if shards.pop("activation_checkpointing", False):  # accelerate's own draws dropout anew when it computes once more
        given["activation_checkpointing"] = True
    if sharded:
        keep_shared_embeddings_together()
        if run.cpu:
            enable_on_cpu()
            shards.pop("cpu_offload", None)  # they are there already, and torch refuses
    set_by_us = {
        "output_dir": str(run.paths.checkpoints),
        "per_device_train_batch_size": batch["per_device"],
        "gradient_accumulation_steps": batch["accumulation"],
        "seed": run.spec["seed"],
        "use_cpu": run.cpu,
        "remove_unused_columns": False,
        "average_tokens_across_devices": True,
        "disable_tqdm": True,
        "push_to_hub": False,
        "report_to": "none",  # trackers follow the events, in processes of their own
        **({"fsdp": True, "fsdp_config": shards} if sharded else {}),
        **({"ddp_backend": "gloo" if run.cpu else "nccl", "ddp_find_unused_parameters": False} if run.world > 1 else {}),
    }
    defaults = {
        "per_device_eval_batch_size": batch["per_device"],
        "logging_strategy": "steps",
        "logging_steps": max(1, steps // LOSS_POINTS),
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would show 0 where the loss is no number
        "save_strategy": "no",
        "eval_strategy": "epoch" if evaluates else "no",
        "optim": "adamw_torch",
        "dataloader_pin_memory": not run.cpu,
    }
    return transformers.TrainingArguments(**{**defaults, **given, **set_by_us})


def see_through(run: Run, loop: Loop, live: Live, tokenizer: Any, facts: dict[str, Any], files: Mapping[str, Any] | None = None) -> None:
    """Train from the last whole checkpoint on, and leave the model in the run's folder; or stop with a checkpoint.

    ``files``: JSON files that belong beside the weights.
    """
    best = None
    if early := run.spec.get("early_stopping"):
        best = Best(loop, early["patience"], early["threshold"])
        loop.add_callback(best)
    last = checkpoint.last_whole(run.paths.checkpoints)
    if last is not None:
        run.say({"type": "resumed", "step": int(last.name.rpartition("-")[2])})
        loop.args.eval_on_start = False  # it has been evaluated: once more would count twice
    trained = loop.train(resume_from_checkpoint=str(last) if last else None)
    check_finite(trained.training_loss, loop.args, "at the end")
    loss = trained.training_loss if last is None else _mean_loss(loop.state.log_history, trained.training_loss)
    told = {"step": loop.state.global_step, "max_steps": loop.state.max_steps, "epochs": loop.state.epoch, "devices": run.world}
    if live.stopped and not (best is not None and best.ended):  # else it is at its end, and would go on beyond it
        run.finished("stopped", **told)
        return
    step = best.restore() if best is not None else None
    _save(run, loop, tokenizer, files or {})
    measured = {entry["step"]: entry["eval_loss"] for entry in loop.state.log_history if "eval_loss" in entry}
    kept = measured.get(step if step is not None else max(measured, default=0))
    run.finished("done", **told, train_loss=loss, eval_loss=kept, best_step=step, data=facts)


def _mean_loss(history: Sequence[Mapping[str, Any]], otherwise: float) -> float:
    """The mean over all steps of a run that was resumed: the library's is that of the steps since."""
    total, before = 0.0, 0
    for entry in (entry for entry in history if "loss" in entry):
        total, before = total + entry["loss"] * (entry["step"] - before), entry["step"]
    return total / before if before else otherwise


def _save(run: Run, loop: Loop, tokenizer: Any, files: Mapping[str, Any]) -> None:
    """The model appears whole: it is written beside, and renamed."""
    beside = run.paths.folder / "model.part"
    if run.first:
        shutil.rmtree(beside, ignore_errors=True)
    if hasattr(loop.model.config, "use_cache"):
        loop.model.config.use_cache = True
    loop.save(beside)
    if run.first:
        tokenizer.save_pretrained(beside)
        if template := run.spec.get("context_template"):
            write_atomic(beside / CONTEXT_TEMPLATE, template)
        for name, value in files.items():
            write_json(beside / name, value)
        shutil.rmtree(run.paths.model, ignore_errors=True)
        os.replace(beside, run.paths.model)
        shutil.rmtree(run.paths.checkpoints, ignore_errors=True)
