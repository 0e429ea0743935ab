"""Python's collector of cycles, which would look again and again through all that a kernel holds while replies arrive."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

OFTEN = 20_000
"""New objects after which the young ones are looked through: those of a few thousand rows, nearly all of which are gone by then."""


@contextlib.contextmanager
def spared() -> Iterator[None]:
    """Leave what there is already to be looked through afterwards, and look less often: a tenth of the time of many quick calls.

    Only on the main thread: there the kernel's user waits for the end; beside a cell in the background they may want memory back.
    """
    if threading.current_thread() is not threading.main_thread() or gc.get_freeze_count():
        yield
        return
    before = gc.get_threshold()
    slower = 0 < before[0] < OFTEN
    try:
        gc.freeze()
        if slower:
            gc.set_threshold(OFTEN, *before[1:])
        yield
    finally:
        if slower and gc.get_threshold()[0] == OFTEN:  # else somebody has set another one meanwhile
            gc.set_threshold(*before)
        gc.unfreeze()
