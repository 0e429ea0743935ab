"""A device whose memory is full."""

from __future__ import annotations

import torch  # noqa: TID253 - only a worker imports this module

NO_MEMORY = "the device has no memory left for this row"


def out_of_memory(error: Exception) -> bool:
    """Whether the device had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in ("can't allocate memory", "out of memory"))


def free_memory() -> None:
    """Give back what is held of the device's memory and not used."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
