"""The one context: which session a step that is being constructed runs in; and whether it is a replay."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from nbdream.errors import SessionError

if TYPE_CHECKING:
    from pathlib import Path

    from nbdream.engine import Engine


class Runner(Protocol):
    """What a step, a model or a trainer may ask of the session. The session is the one implementation."""

    folder: Path

    @property
    def engine(self) -> Engine:
        """Puts requests to models."""

    @property
    def watched(self) -> bool:
        """Whether anybody sees what is emitted."""

    def announce(self, step: Any) -> None:
        """Give a step that is about to run its name and its cell."""

    def run(self, step: Any) -> None:
        """Load or run ``step`` and record it: the one door."""

    def publish(self, thing: Any, repo_id: str, **options: Any) -> str:
        """Publish a step's result or a trained model; returns where it lies."""

    def emit(self, event: dict[str, Any]) -> None:
        """Hand an event to those who watch (widgets, terminal, tests)."""


REPLAY = "NBDREAM_REPLAY"
"""The environment variable that is set where a shared notebook is replayed."""


def replaying() -> bool:
    """Whether this process replays a shared notebook: no model is asked, nothing is trained, nothing goes to the Hub."""
    return bool(os.environ.get(REPLAY))


_entered: ContextVar[Runner | None] = ContextVar("nbdream_runner", default=None)
# A notebook runs each cell in a context of its own, and threads start with an empty one: what `start()` sets in one
# cell would be gone in the next. So a started session is also the process's, and the ContextVar has precedence.
_started: list[Runner] = []


def current() -> Runner:
    """The session that is open here; `SessionError` when there is none."""
    runner = _entered.get() or (_started[-1] if _started else None)
    if runner is None:
        raise SessionError("no session is open", "with nbdream.Session('./output'): … or, in a notebook, %dream open ./output")
    return runner


def active() -> Runner | None:
    """The session that is open here, or None."""
    return _entered.get() or (_started[-1] if _started else None)


def enter(runner: Runner) -> None:
    """Make ``runner`` the process's session until `leave`."""
    _started.append(runner)


def leave(runner: Runner) -> None:
    """Undo `enter`."""
    with contextlib.suppress(ValueError):
        _started.remove(runner)


@contextlib.contextmanager
def using(runner: Runner) -> Iterator[None]:
    """Run a block in ``runner``, whatever else is open."""
    token = _entered.set(runner)
    try:
        yield
    finally:
        _entered.reset(token)
