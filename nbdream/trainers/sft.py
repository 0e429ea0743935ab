"""Supervised fine-tuning, on the worker's side: ``train(run)`` on every rank. Read it from top to bottom.

    rows → a tokenizer with a template → tokens with labels on the output → a model, with an adapter where there is one
    → the library's arguments → the loop, from the last whole checkpoint on → the model, saved

Started by ``python -P -m nbdream.workers.train FOLDER``, one process a device; the folder's ``spec.json`` says everything.
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch  # noqa: TID253 - only a worker imports this module
import transformers  # noqa: TID253

from nbdream.errors import BrokenFileError, DataError
from nbdream.optional import require
from nbdream.trainers.completion import Prepared, chat_template, max_length_of, prepare_causal, prepare_seq2seq
from nbdream.workers import checkpoint
from nbdream.workers.fsdp import enable_on_cpu, keep_shared_embeddings_together
from nbdream.workers.live import Live
from nbdream.workers.loading import check_folder
from nbdream.workers.loop import IGNORED, Examples, Loop
from nbdream.workers.rank import Run

LOSS_POINTS = 500
"""A run shows each step, and a long one about this many of them."""


def train(run: Run) -> None:
    """Train, and leave the model in the run's folder; or stop with a checkpoint."""
    transformers.utils.logging.disable_progress_bar()
    run.say({"type": "imported"})
    run.meet()
    transformers.set_seed(run.spec["seed"])

    source = _source(run)
    if run.spec["model"].get("local"):
        check_folder(Path(source["pretrained_model_name_or_path"]))
    config = transformers.AutoConfig.from_pretrained(**source)
    seq2seq = bool(config.is_encoder_decoder)
    tokenizer = _tokenizer(run, seq2seq)
    data = _prepare(run, tokenizer, config, seq2seq, run.paths.train_data)
    held_out = _prepare(run, tokenizer, config, seq2seq, run.paths.validation_data) if run.spec["data"].get("validation") else None
    run.say({"type": "data", **data.facts(), **({"validation_rows": len(held_out.rows)} if held_out else {})})

    model = _model(run, seq2seq)
    blank: dict[str, list[int]] = {"input_ids": [_pad_id(tokenizer)], "labels": [IGNORED]}
    live = Live(run)
    loop = Loop(
        run,
        live,
        shifts=not seq2seq,
        adapter=run.spec.get("lora") is not None,
        model=model,
        args=_arguments(run, len(data.rows), evaluates=held_out is not None),
        train_dataset=Examples(data.rows, blank),
        eval_dataset=Examples(held_out.rows, blank) if held_out else None,
        data_collator=_collator(model, tokenizer, seq2seq),
    )

    last = checkpoint.last_whole(run.paths.checkpoints)
    if last is not None:
        run.say({"type": "resumed", "step": int(last.name.rpartition("-")[2])})
    trained = loop.train(resume_from_checkpoint=str(last) if last else None)
    facts = {"step": loop.state.global_step, "max_steps": loop.state.max_steps, "epochs": loop.state.epoch, "devices": run.world}
    if live.stopped:
        run.finished("stopped", **facts)
        return
    _save(run, loop, tokenizer)
    measured = [entry["eval_loss"] for entry in loop.state.log_history if "eval_loss" in entry]
    run.finished("done", **facts, train_loss=trained.training_loss, eval_loss=measured[-1] if measured else None, data=data.facts())


def _source(run: Run) -> dict[str, Any]:
    """Where the base model comes from. A local folder is given relative to the run's."""
    model = run.spec["model"]
    path = str((run.paths.folder / model["path"]).resolve()) if model.get("local") else model["path"]
    found = {"pretrained_model_name_or_path": path, "trust_remote_code": bool(model.get("trust_remote_code"))}
    return found if model.get("local") else {**found, "revision": model.get("revision")}


def _tokenizer(run: Run, seq2seq: bool) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(**_source(run))
    if not seq2seq:
        tokenizer.chat_template = chat_template(tokenizer, run.spec.get("chat_template"))
    return tokenizer


def _prepare(run: Run, tokenizer: Any, config: Any, seq2seq: bool, path: Path) -> Prepared:
    inputs, outputs = _read(path)
    limits: dict[str, Any] = {"max_length": max_length_of(tokenizer, config, run.spec.get("max_length")), "truncate": run.spec["truncate"]}
    if seq2seq:
        made = prepare_seq2seq(tokenizer, inputs, outputs, **limits)
    else:
        made = prepare_causal(tokenizer, inputs, outputs, system=run.spec.get("system"), **limits)
    if not made.rows:
        raise DataError(
            "no row has an output that fits the model", f"the model takes {made.max_length} tokens: shorten the inputs or raise max_length"
        )
    return made


def _read(path: Path) -> tuple[list[str], list[str]]:
    try:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        return table.column("input").to_pylist(), table.column("output").to_pylist()
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise BrokenFileError(path, "it is not the table that the run was given") from error


def _model(run: Run, seq2seq: bool) -> Any:
    kind = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
    quantization = run.spec.get("quantization")
    options: dict[str, Any] = {"dtype": getattr(torch, run.spec.get("dtype") or "float32")}
    if quantization:
        options["quantization_config"] = transformers.BitsAndBytesConfig(**quantization)
    model = kind.from_pretrained(**_source(run), **options)
    model.config.use_cache = False
    if run.spec.get("lora") is not None:
        peft = require("peft", "train")
        if quantization:
            model = peft.prepare_model_for_kbit_training(model)
        model = peft.get_peft_model(model, _adapter(peft, run.spec["lora"], seq2seq))
    return model


def _adapter(peft: Any, given: dict[str, Any], seq2seq: bool) -> Any:
    kind = str(given.get("peft_type", "LORA"))
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    values = {name: value for name, value in given.items() if name != "peft_type"}
    return config(**{"task_type": "SEQ_2_SEQ_LM" if seq2seq else "CAUSAL_LM", **values})


def _pad_id(tokenizer: Any) -> int:
    return next((found for found in (tokenizer.pad_token_id, tokenizer.eos_token_id) if found is not None), 0)


def _collator(model: Any, tokenizer: Any, seq2seq: bool) -> Any:
    """Rows side by side, filled up at the right to the longest."""
    pad = _pad_id(tokenizer)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model

    def filled(rows: list[list[int]], value: int) -> torch.Tensor:
        longest = max(len(row) for row in rows)
        return torch.tensor([row + [value] * (longest - len(row)) for row in rows])

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        ids = [row["input_ids"] for row in rows]
        made = {
            "input_ids": filled(ids, pad),
            "attention_mask": filled([[1] * len(row) for row in ids], 0),
            "labels": filled([row["labels"] for row in rows], IGNORED),
        }
        if seq2seq:  # the loss is computed outside the model, so the decoder's inputs are made here
            made["decoder_input_ids"] = base.prepare_decoder_input_ids_from_labels(labels=made["labels"])
        return made

    return collate


def _arguments(run: Run, rows: int, *, evaluates: bool) -> Any:
    """The library's arguments: the user's own, under the library's names, and what the devices ask for."""
    given = dict(run.spec["arguments"])
    batch = run.spec["batch"]
    steps = given.get("max_steps", -1)
    if steps <= 0:
        per_epoch = math.ceil(rows / (batch["per_device"] * batch["accumulation"] * run.world))
        steps = math.ceil(per_epoch * given["num_train_epochs"])
    sharded = run.world > 1 and run.spec.get("fsdp", True)
    shards = {"version": 2, **(run.spec.get("fsdp_config") or {})}
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
        **({"fsdp": True, "fsdp_config": shards} if sharded else {}),
        **({"ddp_backend": "gloo" if run.cpu else "nccl", "ddp_find_unused_parameters": False} if run.world > 1 else {}),
    }
    defaults = {
        "per_device_eval_batch_size": batch["per_device"],
        "logging_strategy": "steps",
        "logging_steps": max(1, steps // LOSS_POINTS),
        "logging_first_step": True,
        "save_strategy": "no",
        "eval_strategy": "epoch" if evaluates else "no",
        "report_to": "none",
        "optim": "adamw_torch",
        "dataloader_pin_memory": not run.cpu,
    }
    return transformers.TrainingArguments(**{**defaults, **given, **set_by_us})


def _save(run: Run, loop: Loop, tokenizer: Any) -> None:
    """The model appears whole: it is written beside, and renamed."""
    beside = run.paths.folder / "model.part"
    if run.first:
        shutil.rmtree(beside, ignore_errors=True)
    loop.model.config.use_cache = True
    loop.save(beside)
    if run.first:
        tokenizer.save_pretrained(beside)
        shutil.rmtree(run.paths.model, ignore_errors=True)
        os.replace(beside, run.paths.model)
        shutil.rmtree(run.paths.checkpoints, ignore_errors=True)
