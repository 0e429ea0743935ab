"""Steps side by side: `wait` for those that were started with ``background=True``, `concurrent` for functions of steps."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbdream.steps.base import Step


def wait(*steps: Step, poll_interval: float = 1.0) -> None:
    """Return when all ``steps`` are done; raise what the first that failed has raised, once none runs any more."""
    raised: list[BaseException] = []
    for step in steps:
        try:
            step.wait()
        except Exception as error:
            raised.append(error)
    if raised:
        raise raised[0]


def concurrent(*functions: Callable[[], Any]) -> list[Any]:
    """Call ``functions`` at the same time, each in a thread, in this session; what they return, in order."""
    if not functions:
        return []
    with ThreadPoolExecutor(len(functions), thread_name_prefix="nbdream-concurrent") as pool:
        made = [pool.submit(contextvars.copy_context().run, function) for function in functions]
    return [future.result() for future in made]
