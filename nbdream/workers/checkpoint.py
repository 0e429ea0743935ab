"""Checkpoints without pickles: safetensors and JSON, the same from one process and from several.

    checkpoint-N/
      weights.safetensors     what is trained: all weights, or those of the adapter
      optimizer.safetensors   the optimiser's tensors, named by parameter; optimizer.json its numbers and groups
      scheduler.json  trainer_state.json
      rng-0.json …            the random states of each rank
      whole.json              sizes and digests of the others; written last, so its existence means the rest is whole

A checkpoint of two ranks resumes on one and the other way round: how many devices there are is no part of a recipe.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253 - only workers import this module
import torch.distributed as dist  # noqa: TID253
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import (  # noqa: TID253
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from nbdream.errors import BrokenFileError
from nbdream.files import read_json, read_object, write_json
from nbdream.workers.paths import FORMAT

KEPT = 2
WEIGHTS = "weights.safetensors"
WHOLE = "whole.json"
SEPARATOR = "::"
HEAD = 2**20


def trained_state(model: Any, *, adapter: bool) -> dict[str, torch.Tensor]:
    """The full tensors of what is trained, on the first rank; all ranks must call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapter)
    found: dict[str, torch.Tensor] = get_model_state_dict(model, options=options)
    # Tied weights have several names; safetensors stores no tensor twice, and loading ties them again.
    own = {name for name, _ in model.named_parameters()}
    further = {name for name, _ in model.named_parameters(remove_duplicate=False)} - own
    return {name: tensor.contiguous() for name, tensor in found.items() if name not in further}


def save(folder: Path, *, model: Any, optimizer: Any, scheduler: Any, state: Any, adapter: bool) -> None:
    """Write a checkpoint; all ranks must call it."""
    rank, world = _place()
    weights = trained_state(model, adapter=adapter)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapter)
    tensors, numbers = _flat(get_optimizer_state_dict(model, _bare(optimizer), options=options))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"rng-{rank}.json", _rng())
    if rank == 0:
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        save_file(tensors, folder / "optimizer.safetensors")
        write_json(folder / "optimizer.json", numbers)
        write_json(folder / "scheduler.json", _plain(scheduler.state_dict()))
        state.save_to_json(str(folder / "trainer_state.json"))
    _barrier()
    if rank == 0:
        files = {path.name: _mark(path) for path in sorted(folder.iterdir()) if path.name != WHOLE}
        write_json(folder / WHOLE, {"format": FORMAT, "step": state.global_step, "ranks": world, "files": files})
        for old in whole_checkpoints(folder.parent)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    _barrier()


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that were written to their end, oldest first."""
    found = [(int(path.name.rpartition("-")[2]), path) for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return [path for _, path in sorted(found) if (path / WHOLE).exists()]


def last_whole(folder: Path) -> Path | None:
    """The checkpoint to resume from, looked through; `BrokenFileError` names a file that is not what was written."""
    found = whole_checkpoints(folder)
    if not found:
        return None
    last = found[-1]
    whole = read_object(last / WHOLE)
    if whole.get("format") != FORMAT or not isinstance(whole.get("files"), dict):
        raise BrokenFileError(last / WHOLE, "it does not describe a checkpoint", _hint(last))
    for name, mark in whole["files"].items():
        path = last / Path(name).name
        if not path.exists() or _mark(path) != mark:
            raise BrokenFileError(path, "it is not what the run wrote", _hint(last))
    return last


def save_weights(path: Path, model: Any, *, adapter: bool) -> None:
    """Write what is trained, and nothing else of the run; all ranks must call it."""
    weights = trained_state(model, adapter=adapter)
    if _place()[0] == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        save_file(weights, beside, metadata={"format": "pt"})
        os.replace(beside, path)
    _barrier()


def load_weights(path: Path, model: Any, *, adapter: bool) -> None:
    """Put weights that were written here into ``model``, sharded or not; all ranks must call it."""
    options = StateDictOptions(full_state_dict=True, strict=False, ignore_frozen_params=adapter)
    set_model_state_dict(model, _tensors(path), options=options)
    if not adapter and hasattr(model, "tie_weights") and not _sharded(model):
        model.tie_weights()


def load_optimizer(folder: Path, model: Any, optimizer: Any, scheduler: Any, *, adapter: bool) -> None:
    """Put a checkpoint's optimiser and schedule in place; all ranks must call it."""
    tensors, numbers = _tensors(folder / "optimizer.safetensors"), read_object(folder / "optimizer.json")
    state: dict[str, dict[str, Any]] = {name: dict(values) for name, values in numbers["state"].items()}
    for key, tensor in tensors.items():
        name, _, field = key.rpartition(SEPARATOR)
        state.setdefault(name, {})[field] = tensor
    groups = [_group(group) for group in numbers["param_groups"]]
    options = StateDictOptions(full_state_dict=True, ignore_frozen_params=adapter)
    set_optimizer_state_dict(model, _bare(optimizer), {"state": state, "param_groups": groups}, options=options)
    scheduler.load_state_dict(read_object(folder / "scheduler.json"))


def load_rng(folder: Path) -> None:
    """Set this rank's random states."""
    rank, _ = _place()
    path = folder / f"rng-{rank}.json"
    states = read_json(path if path.exists() else folder / "rng-0.json")
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_bytes(states["torch"]))
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(_bytes(states["cuda"]))


def _rng() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    made = {"python": random.getstate(), "numpy": [kind, np.asarray(keys).tolist(), *rest], "torch": _text(torch.get_rng_state())}
    if torch.cuda.is_available():
        made["cuda"] = _text(torch.cuda.get_rng_state())
    return made


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def _flat(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimiser's state as tensors and as what JSON holds."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for name, fields in state.get("state", {}).items():
        for field, value in fields.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{name}{SEPARATOR}{field}"] = value.contiguous()
            else:
                numbers.setdefault(name, {})[field] = _plain(value)
    return tensors, {"state": numbers, "param_groups": [_plain(group) for group in state.get("param_groups", [])]}


def _plain(value: Any) -> Any:
    """``value`` as JSON gives it back, so that what cannot be kept is noticed when it is saved and not when it is needed."""
    if isinstance(value, torch.Tensor):
        return value.item()
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return json.loads(json.dumps(value))


def _group(group: dict[str, Any]) -> dict[str, Any]:
    """A parameter group as the optimiser wants it: JSON has no tuples."""
    return {name: tuple(value) if name == "betas" else value for name, value in group.items()}


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        found: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BrokenFileError(path, "it is not a safetensors file", _hint(path.parent)) from error
    return found


def _mark(path: Path) -> list[Any]:
    """A file's size and the digest of its first MiB: enough to see that it was replaced or cut, cheap for any size."""
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.sha256(file.read(HEAD)).hexdigest()]


def _hint(folder: Path) -> str:
    return f"delete {folder} to go on from the checkpoint before it"


def _bare(optimizer: Any) -> Any:
    """The optimiser inside accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def _sharded(model: Any) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def _place() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
