"""How rows come together in batches: in what order, grouped by length, or packed. Pure functions of lengths and a seed.

Padding is computed and thrown away. *Grouped* batches hold rows of like length. *Packed* rows hold several examples that do not see
each other: their positions begin anew at each of them, and there is no attention mask and no cache, from which transformers makes a
mask of blocks (with either of the two examples leak into their neighbours; `keeps_apart` looks).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch  # noqa: TID253 - only workers import this module
from torch.utils.data import Sampler  # noqa: TID253

WINDOW = 50
"""Batches whose rows are sorted together: longer ones would make every epoch the same."""
GAIN = 0.1
"""How much fuller packed rows must be than grouped batches to be chosen."""
STEPS = 50
"""Steps that an epoch of packed rows must still have to be chosen: short rows would make very few of them."""


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """The rows of each bin, by best fit of the longest first (Johnson 1974); a row as long as ``capacity`` fills one alone.

    Raises ``ValueError`` for a row that is longer.
    """
    if any(length > capacity for length in lengths):
        raise ValueError(f"a row has {max(lengths)} tokens, and {capacity} are the most")
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # sorted: what is left in a bin, and which
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        at = bisect.bisect_left(room, (lengths[row], -1))
        if at < len(room):
            left, number = room.pop(at)
        else:
            left, number = capacity, len(bins)
            bins.append([])
        bins[number].append(row)
        bisect.insort(room, (left - lengths[row], number))
    return bins


def filling(total: int, rows: int, capacity: int) -> float:
    """The share of ``rows`` rows of ``capacity`` tokens that ``total`` tokens fill."""
    return total / (rows * capacity) if rows else 0.0


def choose(lengths: Sequence[int], capacity: int, batch: int) -> str:
    """``packed`` where that leaves much less padding than grouping and enough steps in an epoch, else ``grouped``."""
    total = sum(lengths)
    ordered = sorted(lengths)
    padded = sum(batch_of[-1] * len(batch_of) for batch_of in (ordered[at : at + batch] for at in range(0, len(ordered), batch)))
    bins = len(pack(lengths, capacity))
    gains = filling(total, bins, capacity) - (total / padded if padded else 1.0)
    return "packed" if gains >= GAIN and bins >= STEPS * batch else "grouped"


class Order(Sampler[int]):
    """The order of the rows in an epoch, a function of seed and epoch, filled up with blanks (-1) to whole effective batches.

    With ``lengths`` the rows of a batch are of like length. ``seed`` None: the order in which they are.
    """

    def __init__(self, rows: int, batch: int, seed: int | None, lengths: Sequence[int] | None = None) -> None:
        self.rows, self.batch, self.seed, self.lengths, self.epoch = rows, batch, seed, lengths, 0

    def __len__(self) -> int:
        return math.ceil(self.rows / self.batch) * self.batch

    def __iter__(self) -> Iterator[int]:
        if self.seed is None:
            indices = list(range(self.rows))
        else:
            random = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
            indices = torch.randperm(self.rows, generator=random).tolist()
            if self.lengths is not None:
                indices = self._grouped(indices, random)
        yield from indices
        yield from [-1] * (len(self) - self.rows)

    def _grouped(self, shuffled: list[int], random: torch.Generator) -> list[int]:
        assert self.lengths is not None
        lengths, size = self.lengths, self.batch
        made: list[int] = []
        for start in range(0, len(shuffled), WINDOW * size):
            window = sorted(shuffled[start : start + WINDOW * size], key=lambda row: -lengths[row])
            whole, rest = divmod(len(window), size)
            batches = [window[at * size : (at + 1) * size] for at in range(whole)]
            # The batch that is not full stays last, since it is filled up with blanks.
            for at in torch.randperm(whole, generator=random).tolist():
                made += batches[at]
            made += window[len(window) - rest :]
        return made


def keeps_apart(model: Any, vocabulary: int) -> bool:
    """Whether ``model`` keeps examples in one row apart: the second must be read as if it stood alone."""
    first, second = [torch.arange(begin, begin + 6) % vocabulary for begin in (3, 11)]
    both = torch.cat([first, second])[None].to(model.device)
    positions = torch.cat([torch.arange(6), torch.arange(6)])[None].to(model.device)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        together = model(input_ids=both, position_ids=positions, use_cache=False).logits[0, 6:]
        alone = model(input_ids=second[None].to(model.device), use_cache=False).logits[0]
    model.train(was_training)
    return bool((together - alone).abs().max() <= 1e-3 * alone.abs().max().clamp(min=1.0))


def side_by_side(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """``rows`` filled up with ``value`` at the right to the longest: (rows, longest)."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def positions(lengths: Sequence[Sequence[int]], width: int) -> torch.Tensor:
    """The positions of packed rows, which begin anew at each example; what fills a row up is an example of its own."""
    made = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, parts in enumerate(lengths):
        at = 0
        for part in (*parts, width - sum(parts)):
            made[row, at : at + part] = torch.arange(part)
            at += part
    return made
