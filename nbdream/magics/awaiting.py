"""Waiting for work that runs in a thread: awaited where a cell can await, blocking elsewhere; an interrupt always gets through.

Awaited, a notebook's comms and buttons work while the cell runs. The work itself is never killed: it is asked to stop,
given a moment, and what it has paid for is on disk by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from nbdream.errors import Stopped

T = TypeVar("T")

TICK = 0.2
"""Seconds between two looks. A kernel's interrupt reaches a cell that awaits only when its loop wakes up."""
GRACE = 0.5
"""Seconds that interrupted work has to end before the cell returns without it."""
LEAVING = 0.3
"""Seconds after an interrupt in which a kernel hears that it ends: whoever shuts it down, or restarts it, interrupts it first."""
INTERRUPTED = "interrupted"
GOES_ON = "what was done is kept; run the cell again to go on"


def leaves() -> bool:
    """Whether an interrupt came because this kernel is shut down."""
    from IPython import get_ipython

    shell = get_ipython()
    deadline = time.monotonic() + (LEAVING if hasattr(shell, "kernel") else 0.0)
    while not getattr(shell, "exit_now", False):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


class Work(Generic[T]):
    """A call in a thread of its own, with the context (and so the output cell) of whoever started it."""

    def __init__(self, call: Callable[[], T], name: str, when_over: Callable[[], None] | None = None) -> None:
        self._call = call
        self._when_over = when_over
        self._result: T | None = None
        self._error: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._run,), name=f"nbdream-{name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error
        finally:
            self._over.set()
            if self._when_over is not None:
                self._when_over()

    def over(self, timeout: float = 0.0) -> bool:
        """Whether the work is over, at once or within ``timeout`` seconds."""
        return self._over.wait(timeout)

    def stopped(self) -> Stopped | None:
        """What the work had to say when it was asked to stop, if it is over."""
        return self._error if isinstance(self._error, Stopped) else None

    def result(self) -> T:
        """What the call gave; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]


async def awaited(call: Callable[[], T], stop: Callable[[], None], tick: Callable[[], None], name: str = "cell") -> T:
    """Await ``call`` in a thread. Interrupted (cancelled), it calls ``stop`` and raises `Stopped`."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def ring() -> None:
        if not over.done():
            over.set_result(None)

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed before the work ended
            loop.call_soon_threadsafe(ring)

    work = Work(call, name, wake)
    try:
        while not work.over():
            await asyncio.wait([over], timeout=TICK)
            tick()
    except (asyncio.CancelledError, KeyboardInterrupt):
        stop()
        await asyncio.wait([over], timeout=GRACE)
        stopped = work.stopped()
        raise Stopped(INTERRUPTED, stopped.hint if stopped else GOES_ON) from None
    return work.result()


def blocking(call: Callable[[], T], stop: Callable[[], None], tick: Callable[[], None], name: str = "cell") -> T:
    """Run ``call`` in a thread and block. Interrupted, it calls ``stop`` and raises ``KeyboardInterrupt``."""
    work = Work(call, name)
    try:
        while not work.over(TICK):
            tick()
    except KeyboardInterrupt:
        stop()
        work.over(GRACE)
        if (stopped := work.stopped()) is not None:
            print(stopped)
        raise
    return work.result()
