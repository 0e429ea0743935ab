"""Steps side by side: `wait` for those that were started with ``background=True``, `concurrent` for functions of steps."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbdream.steps.base import Step


LOOK = 0.1
"""Seconds between two looks at whether a step has failed."""


def wait(*steps: Step, poll_interval: float = 1.0) -> None:
    """Return when all ``steps`` are done. What one raises is raised here at once; the others run on."""
    waiting = list(steps)
    while waiting:
        for step in [step for step in waiting if step.done]:
            step.wait()
            waiting.remove(step)
        if waiting:
            waiting[0].finished(LOOK)


def concurrent(*functions: Callable[[], Any]) -> list[Any]:
    """Call ``functions`` at the same time, each in a thread, in this session; what they return, in order.

    What one raises is raised here at once; the others run on.
    """
    if not functions:
        return []
    pool = ThreadPoolExecutor(len(functions), thread_name_prefix="nbdream-concurrent")
    try:
        made = [pool.submit(contextvars.copy_context().run, function) for function in functions]
        done, _ = futures.wait(made, return_when=futures.FIRST_EXCEPTION)
        for future in made:
            if future in done and future.exception() is not None:
                future.result()
        return [future.result() for future in made]
    finally:
        pool.shutdown(wait=False)
