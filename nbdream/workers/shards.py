"""Tensors of which each rank holds its rows, as files: nobody gathers a whole one, neither to write nor to read them.

    weights.safetensors       of one process, or of several that all hold the same
    weights.0.safetensors …   of ranks that hold parts: the rows of each, which in order are the whole

Who reads takes the rows that it holds, so that what two ranks wrote is read by one or by three.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - only workers import this module
import torch.distributed as dist  # noqa: TID253
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor, Shard, distribute_tensor  # noqa: TID253
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset  # noqa: TID253

from nbdream.errors import BrokenFileError


def place() -> tuple[int, int]:
    """This rank, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def barrier() -> None:
    """Wait for the other ranks."""
    if dist.is_initialized():
        dist.barrier()


def write(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write ``tensors``, each rank what it holds of them; all ranks must call it. What lay there goes."""
    rank, _ = place()
    split = any(isinstance(tensor, DTensor) for tensor in tensors.values())
    held = {name: part for name, tensor in tensors.items() if (part := _held(tensor, rank)) is not None}
    if rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in files(path):
            old.unlink()
    barrier()
    if split or rank == 0:
        mine = path.with_suffix(f".{rank}{path.suffix}") if split else path
        beside = mine.with_suffix(".part")
        save_file(held, beside, metadata={"format": "pt"})
        os.replace(beside, mine)
    barrier()


def files(path: Path) -> list[Path]:
    """The files that hold what was written to ``path``, in order."""
    parts = (part for part in path.parent.glob(f"{path.stem}.*{path.suffix}") if number(part).isdigit())
    return [path] if path.is_file() else sorted(parts, key=lambda part: int(number(part)))


def number(part: Path) -> str:
    """The rank that wrote a file."""
    return part.stem.rpartition(".")[2]


class Parts:
    """What was written to a path, read tensor by tensor and no further than is asked for."""

    def __init__(self, path: Path, hint: str) -> None:
        self.path, self.hint = path, hint
        try:
            self.files: list[Any] = [safe_open(str(part), framework="pt") for part in files(path)]
        except (SafetensorError, OSError) as error:
            raise BrokenFileError(path, "it is not a safetensors file", hint) from error
        self.holders: dict[str, list[Any]] = {}
        for file in self.files:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                self.holders.setdefault(name, []).append(file)

    def fill(self, name: str, tensor: torch.Tensor) -> None:
        """Put the values of that name into ``tensor``, of which this rank may hold a part."""
        if name not in self.holders:
            raise BrokenFileError(self.path, f"it does not hold {name}", self.hint)
        if not isinstance(tensor, DTensor):
            tensor.copy_(self._rows(name, 0, None))
        elif _by_rows(tensor):
            shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
            if shape[0]:
                tensor.to_local().copy_(self._rows(name, offset[0], offset[0] + shape[0]))
        else:
            whole = self._rows(name, 0, None).to(tensor.device)
            tensor.to_local().copy_(distribute_tensor(whole, tensor.device_mesh, tensor.placements).to_local())

    def _rows(self, name: str, start: int, stop: int | None) -> torch.Tensor:
        """The rows from ``start`` to ``stop`` of what the ranks hold one after the other."""
        holders = self.holders[name]
        if stop is None:
            return torch.cat([file.get_tensor(name) for file in holders]) if len(holders) > 1 else holders[0].get_tensor(name)
        found, at = [], 0
        for file in holders:
            part = file.get_slice(name)
            rows = part.get_shape()[0]
            begin, end = max(start - at, 0), min(stop - at, rows)
            if begin < end:
                found.append(part[begin:end])
            at += rows
        return torch.cat(found)


def _held(tensor: torch.Tensor, rank: int) -> torch.Tensor | None:
    """What this rank writes of a tensor; what all hold, the first one writes."""
    if isinstance(tensor, DTensor):
        if _by_rows(tensor):
            local = tensor.to_local()
            return local.detach().cpu().contiguous() if local.shape[0] else None
        tensor = tensor.full_tensor()
    return tensor.detach().cpu().contiguous() if rank == 0 else None


def _by_rows(tensor: DTensor) -> bool:
    """Whether each rank holds some of the rows, as FSDP2 shards."""
    return bool(tensor.placements == (Shard(0),))
