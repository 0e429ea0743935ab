"""Checkpoints without pickles: safetensors and JSON, the same from one process and from several.

    checkpoint-N/
      weights.safetensors     what is trained: all weights, or those of the adapter
      optimizer.safetensors   the optimiser's tensors, named by parameter; optimizer.json its numbers and groups
      scheduler.json  trainer_state.json
      rng-0.json …            the random states of each rank
      whole.json              sizes and digests of the others; written last, so its existence means the rest is whole

Ranks that hold parts of the tensors each write a file of what they hold (`nbdream.workers.shards`): a checkpoint needs no memory
for a whole model. One of two ranks resumes on one and the other way round: how many devices there are is no part of a recipe.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253 - only workers import this module
from torch.distributed.checkpoint.state_dict import (  # noqa: TID253
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from nbdream.errors import BrokenFileError
from nbdream.files import read_json, read_object, write_json
from nbdream.workers.paths import FORMAT
from nbdream.workers.shards import Parts, barrier, place, write

KEPT = 2
"""Checkpoints of a run that are kept, unless told otherwise."""
WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
WHOLE = "whole.json"
SEPARATOR = "::"
HEAD = 2**20


def trained_state(model: Any, *, adapter: bool) -> dict[str, torch.Tensor]:
    """The full tensors of what is trained, on the first rank; all ranks must call it."""
    found = _trained(model, adapter=adapter, whole=True)
    return {name: tensor.contiguous() for name, tensor in found.items()}


def save(folder: Path, *, model: Any, optimizer: Any, scheduler: Any, state: Any, adapter: bool, kept: int | None = None) -> None:
    """Write a checkpoint, and leave no more than ``kept``; all ranks must call it."""
    rank, world = place()
    if rank == 0:
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run has left there, perhaps with more ranks
    write(folder / WEIGHTS, _trained(model, adapter=adapter))
    tensors, numbers = _flat(_optimizer_state(model, optimizer, adapter=adapter))
    write(folder / OPTIMIZER, tensors)
    write_json(folder / f"rng-{rank}.json", _rng())
    if rank == 0:
        write_json(folder / "optimizer.json", numbers)
        write_json(folder / "scheduler.json", _plain(scheduler.state_dict()))
        state.save_to_json(str(folder / "trainer_state.json"))
    barrier()
    if rank == 0:
        files = {path.name: _mark(path) for path in sorted(folder.iterdir()) if path.name != WHOLE}
        write_json(folder / WHOLE, {"format": FORMAT, "step": state.global_step, "ranks": world, "files": files})
        for old in whole_checkpoints(folder.parent)[: -(kept or KEPT)]:
            shutil.rmtree(old, ignore_errors=True)
    barrier()


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
    write(path, _trained(model, adapter=adapter))


def load_weights(path: Path, model: Any, *, adapter: bool) -> None:
    """Put weights that were written here into ``model``, sharded or not; all ranks must call it."""
    parts = Parts(path, _hint(path.parent))
    for name, tensor in _trained(model, adapter=adapter).items():
        parts.fill(name, tensor)


def load_optimizer(folder: Path, model: Any, optimizer: Any, scheduler: Any, *, adapter: bool) -> None:
    """Put a checkpoint's optimiser and schedule in place; all ranks must call it."""
    parts, numbers = Parts(folder / OPTIMIZER, _hint(folder)), read_object(folder / "optimizer.json")
    state: dict[str, dict[str, Any]] = {name: dict(values) for name, values in numbers["state"].items()}
    for key, tensor in _flat(_optimizer_state(model, optimizer, adapter=adapter))[0].items():
        name, _, field = key.rpartition(SEPARATOR)
        if key in parts.holders:  # a parameter that has not been trained yet has none
            parts.fill(key, tensor)
            state.setdefault(name, {})[field] = tensor
    groups = [_group(group) for group in numbers["param_groups"]]
    options = StateDictOptions(ignore_frozen_params=adapter)
    set_optimizer_state_dict(model, _bare(optimizer), {"state": state, "param_groups": groups}, options=options)
    scheduler.load_state_dict(read_object(folder / "scheduler.json"))


def load_rng(folder: Path) -> None:
    """Set this rank's random states."""
    rank, _ = place()
    path = folder / f"rng-{rank}.json"
    states = read_json(path if path.exists() else folder / "rng-0.json")
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_bytes(states["torch"]))
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(_bytes(states["cuda"]))


def _trained(model: Any, *, adapter: bool, whole: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of what is trained, as they are held; ``whole``: put together on the first rank."""
    options = StateDictOptions(full_state_dict=whole, cpu_offload=whole, ignore_frozen_params=adapter)
    found: dict[str, torch.Tensor] = get_model_state_dict(model, options=options)
    # Tied weights have several names; safetensors stores no tensor twice, and loading ties them again.
    own = {name for name, _ in model.named_parameters()}
    further = {name for name, _ in model.named_parameters(remove_duplicate=False)} - own
    return {name: tensor for name, tensor in found.items() if name not in further}


def _optimizer_state(model: Any, optimizer: Any, *, adapter: bool) -> dict[str, Any]:
    """The optimiser's state by the names of parameters, as it is held; that of one which has not begun is as good as zero."""
    found: dict[str, Any] = get_optimizer_state_dict(model, _bare(optimizer), options=StateDictOptions(ignore_frozen_params=adapter))
    return found


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
                tensors[f"{name}{SEPARATOR}{field}"] = value
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


def _mark(path: Path) -> list[Any]:
    """A file's size and the digest of its first MiB: enough to see that it was replaced or cut, cheap for any size."""
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.sha256(file.read(HEAD)).hexdigest()]


def _hint(folder: Path) -> str:
    return f"delete {folder} to go on from the checkpoint before it"


def _bare(optimizer: Any) -> Any:
    """The optimiser inside accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)
