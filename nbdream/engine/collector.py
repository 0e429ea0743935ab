"""Python's collector of cycles, which would look again and again through all that a kernel holds while replies arrive."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def spared() -> Iterator[None]:
    """Leave what there is already to be looked through afterwards: a tenth of the processor time of many quick calls.

    Only on the main thread: there the kernel's user waits for the end; beside a cell in the background they may want memory back.
    """
    ours = threading.current_thread() is threading.main_thread() and not gc.get_freeze_count()
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()
