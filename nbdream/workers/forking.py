"""Forking a child that then is as one that was started: its own standard streams, nothing of its parent's held open."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable


def fork(work: Callable[[], int | None], streams: tuple[int, int, int], close: Iterable[int] = ()) -> int:
    """Fork a child that does ``work`` and ends with the exit code that it gives; its pid.

    ``streams`` become its standard input, output and error; ``close`` are the descriptors that only its parent may hold.
    To be called before any thread is started: a child has none of them, and the locks that they held stay locked in it.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()  # or the child would write it once more
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for place, stream in enumerate(streams):
            os.dup2(stream, place)
        for number in {*streams, *close}:
            os.close(number)
        code = work() or 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # never back into what the parent was doing


def take_threads() -> None:
    """Give torch the threads that OMP_NUM_THREADS says: it reads them at its import, which was before the fork."""
    torch = sys.modules.get("torch")
    count = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if torch is not None and count.isdigit() and int(count) > 0:
        torch.set_num_threads(int(count))
