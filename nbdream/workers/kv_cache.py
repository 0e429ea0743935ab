"""The keys and values of rows that come and go.

All rows end in the same column: a shorter one begins further right. So one column is written at each step, whatever the rows'
lengths, and the columns in use are never more than the longest row has. The tensors are larger than what is in use; rows and
columns are taken from what is left over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch  # noqa: TID253 - only a worker imports this module
from transformers import Cache, DynamicCache  # noqa: TID253
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer  # noqa: TID253


class _Place:
    """Where the rows lie in the tensors of every layer."""

    def __init__(self, slots: int, columns: int) -> None:
        self.slots, self.columns = slots, columns
        self.rows = 0
        self.begin = self.end = 0


class _Layer(CacheLayerMixin):
    """One layer's keys and values, ``[slot, head, column, size]``."""

    def __init__(self, place: _Place, window: int | None) -> None:
        super().__init__()
        self.place = place
        self.window = window
        self.is_sliding = window is not None

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        # Zeros: what lies before a row's beginning is multiplied by nought, and must not be NaN.
        shape = (self.place.slots, key_states.shape[1], self.place.columns)
        self.keys = key_states.new_zeros((*shape, key_states.shape[3]))
        self.values = value_states.new_zeros((*shape, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Write the next columns; what the queries look at. Done again, it does the same: the columns count only later."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place, new = self.place, key_states.shape[2]
        self.keys[: place.rows, :, place.end : place.end + new] = key_states
        self.values[: place.rows, :, place.end : place.end + new] = value_states
        length, offset = self.get_mask_sizes(new)
        seen = slice(place.begin + offset, place.begin + offset + length)
        return self.keys[: place.rows, :, seen], self.values[: place.rows, :, seen]

    def get_seq_length(self) -> int:
        return self.place.end - self.place.begin

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        length = self.get_seq_length() + query_length
        seen = length if self.window is None else min(length, self.window - 1 + query_length)
        return seen, length - seen

    def get_max_length(self) -> int:
        return -1

    def move(self, before: slice, slots: int, columns: int, after: slice) -> None:
        """Have the columns ``before`` of the rows lie at ``after``, in tensors of another size."""
        rows = self.place.rows
        for name in ("keys", "values"):
            old = getattr(self, name)
            live = old[:rows, :, before]
            if (slots, columns) == (old.shape[0], old.shape[2]):
                live = live.clone()  # the two may overlap
            else:
                old = old.new_zeros((slots, old.shape[1], columns, old.shape[3]))
            old[:rows, :, after] = live
            setattr(self, name, old)


class RowCache(Cache):
    """The cache of a batch. ``lengths`` are the rows' own; the place of a row is its number."""

    SLACK = 64

    def __init__(self, config: Any, slots: int, columns: int) -> None:
        self.place = _Place(slots, columns)
        self.lengths: list[int] = []
        super().__init__(layers=[_Layer(self.place, window) for window in windows(config)])

    @classmethod
    def for_prompts(cls, config: Any, lengths: Sequence[int]) -> Self:
        """The cache of prompts that are read together, each of them padded on its left."""
        made = cls(config, len(lengths), max(lengths))
        made.place.rows = len(lengths)
        made.lengths = [0] * len(lengths)
        return made

    @property
    def width(self) -> int:
        """The columns in use."""
        return self.place.end - self.place.begin

    @property
    def cell_bytes(self) -> int:
        """What one column of one row takes."""
        tensors = [tensor for layer in self.layers if layer.is_initialized for tensor in (layer.keys, layer.values)]
        return sum(tensor.shape[1] * tensor.shape[3] * tensor.element_size() for tensor in tensors)

    def mask(self, more: Sequence[int], device: Any) -> Any:
        """The attention mask of a step in which each row reads so many tokens: which columns are its own, those included."""
        whole = self.width + max(more)
        lengths = torch.tensor([old + new for old, new in zip(self.lengths, more, strict=True)], device=device)
        return torch.arange(whole, device=device)[None] >= whole - lengths[:, None]

    def read(self, lengths: Sequence[int]) -> None:
        """The next columns have been written, of which each row has so many of its own, at the right."""
        self.place.end += max(lengths)
        self.lengths = [old + new for old, new in zip(self.lengths, lengths, strict=True)]
        self.place.begin = self.place.end - max(self.lengths)

    def reserve(self, rows: int, width: int) -> None:
        """Make room for so many rows of up to ``width`` columns, and the next column."""
        place = self.place
        slots = place.slots if rows <= place.slots else max(rows, min(2 * place.slots, rows + 64))
        if slots == place.slots and place.end >= width and place.end < place.columns:
            return
        slots = min(slots, 2 * rows)  # what rows that left have taken is given back
        used = self.width
        end = max(used, width)
        columns = place.columns if end + self.SLACK <= place.columns else end + max(self.SLACK, end // 2)
        for layer in self.layers:
            if layer.is_initialized:
                layer.move(slice(place.begin, place.end), slots, columns, slice(end - used, end))
        place.slots, place.columns, place.begin, place.end = slots, columns, end - used, end

    def join(self, other: RowCache, sources: Sequence[int]) -> None:
        """Take over rows of another cache; one that is named twice is copied twice."""
        lengths = [other.lengths[source] for source in sources]
        width = max(lengths)
        self.reserve(len(self.lengths) + len(sources), width)
        place = self.place
        slots = slice(place.rows, place.rows + len(sources))
        columns, from_columns = slice(place.end - width, place.end), slice(other.place.end - width, other.place.end)
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            if not theirs.is_initialized:  # a layer that shares another one's keys
                continue
            if not mine.is_initialized:
                mine.lazy_initialization(theirs.keys, theirs.values)
            mine.keys[slots, :, columns] = theirs.keys[list(sources), :, from_columns]
            mine.values[slots, :, columns] = theirs.values[list(sources), :, from_columns]
        place.rows += len(sources)
        self.lengths += lengths
        place.begin = place.end - max(self.lengths)

    def leave(self, gone: Sequence[int]) -> list[int]:
        """Take rows off: the last ones move to their places. The old place of each row that stays, in the new order."""
        stay = len(self.lengths) - len(gone)
        holes = sorted(place for place in gone if place < stay)
        movers = [place for place in range(stay, len(self.lengths)) if place not in set(gone)]
        place = self.place
        if movers:
            columns = slice(place.end - max(self.lengths[mover] for mover in movers), place.end)
            for layer in self.layers:
                if layer.is_initialized:
                    layer.keys[holes, :, columns] = layer.keys[movers, :, columns]
                    layer.values[holes, :, columns] = layer.values[movers, :, columns]
        order = list(range(stay))
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        self.lengths = [self.lengths[old] for old in order]
        place.rows = stay
        place.begin = place.end - max(self.lengths, default=0)
        return order


def windows(config: Any) -> list[int | None]:
    """The sliding window of each layer, None where it sees everything; raises ``ValueError`` for a layer of another kind."""
    if getattr(config.get_text_config(decoder=True), "attention_chunk_size", None):
        raise ValueError("chunks of attention begin where the prompt does")
    found: list[int | None] = []
    for layer in DynamicCache(config=config).layers:
        if type(layer) is DynamicLayer:
            found.append(None)
        elif type(layer) is DynamicSlidingWindowLayer:
            found.append(int(layer.sliding_window))
        else:
            raise ValueError(f"a {type(layer).__name__} cannot be cut by rows")
    return found
