"""The worker of a training run: ``python -P -m nbdream.workers.train FOLDER``.

It holds the run's lock, starts one process per device, writes what they print into ``log.txt``, notices when one of them
dies, and says in ``result.json`` how the run ended. It imports no torch itself, so it is there at once and
stays small; forked from the warm server, where torch is loaded, it forks its processes in turn.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nbdream.errors import NbDreamError, SessionError, TrainingError
from nbdream.files import Lock, append_line, read_lines, read_object, write_json
from nbdream.workers.devices import Turn, wanted
from nbdream.workers.failures import blame
from nbdream.workers.paths import FORMAT, RunPaths
from nbdream.workers.process import RankProcess, Start, spawned
from nbdream.workers.runs import LOCK_FD, POLL
from nbdream.workers.tracking import Tracking

QUEUE_POLL = 0.2
GRACE = 1.0
"""Seconds the other ranks get to say why they fail, after one has failed."""


class Supervisor:
    """Starts the ranks of a run and sees them to their end."""

    def __init__(self, paths: RunPaths, spec: dict[str, Any], lock_fd: int, start: Start = spawned) -> None:
        self.paths, self.spec, self.lock_fd, self.start = paths, spec, lock_fd, start
        self.world = max(1, int(spec.get("devices", 1)))
        self.ranks: list[RankProcess] = []
        self.said_before = paths.events.stat().st_size if paths.events.exists() else 0

    def run(self) -> dict[str, Any]:
        """Run to the end, when it is this run's turn; what `result.json` is to say."""
        devices = wanted(self.spec, self.world, os.environ.get("CUDA_VISIBLE_DEVICES"))
        with Turn(devices, str(self.spec.get("name"))) as turn:
            if not self._queued(turn):
                return {"state": "stopped", "step": self._step()}
            try:
                for rank in range(self.world):
                    process = RankProcess(self.paths, self.spec, rank, self.world, self.lock_fd, self.start)
                    self.ranks.append(process)
                    self.emit({"type": "spawned", "rank": rank, "pid": process.pid})
                for process in self.ranks:
                    process.listen()
                return self._watch()
            finally:
                self._end()

    def _queued(self, turn: Turn) -> bool:
        """Wait for this run's turn; False when it was asked to stop meanwhile."""
        told = None
        while (ahead := turn.ahead()) is not None:
            if ahead != told:
                self.emit({"type": "queued", "behind": ahead})
                told = ahead
            if self.paths.stop.exists():
                return False
            time.sleep(QUEUE_POLL)
        return True

    def emit(self, event: dict[str, Any]) -> None:
        """Append an event of our own."""
        append_line(self.paths.events, {**event, "time": time.time()})

    def _watch(self) -> dict[str, Any]:
        while True:
            codes = [rank.exit_code() for rank in self.ranks]
            if any(code not in (None, 0) for code in codes):
                return self._failed()
            if all(code == 0 for code in codes):
                return self._finished()
            if self.paths.stop.exists() and not self._said("begin"):
                return {"state": "stopped", "step": self._step()}  # no step has been made: there is nothing to save
            time.sleep(POLL)

    def _step(self) -> int:
        """The step of the last checkpoint: how far a run is that has not gone on yet."""
        found = (path.parent.name.rpartition("-")[2] for path in self.paths.checkpoints.glob("checkpoint-*/whole.json"))
        return max((int(step) for step in found if step.isdigit()), default=0)

    def _finished(self) -> dict[str, Any]:
        said = self._said("finished")
        if not said:
            raise TrainingError("the ranks ended without saying how", "this is a mistake in the recipe: it must end with run.finished(…)")
        return {name: value for name, value in said[-1].items() if name not in ("type", "time", "rank")}

    def _failed(self) -> dict[str, Any]:
        end = time.monotonic() + GRACE
        while time.monotonic() < end and any(rank.exit_code() is None for rank in self.ranks):
            time.sleep(POLL)
        codes = {rank.rank: rank.exit_code() for rank in self.ranks}  # before the rest is ended by us
        self._end()
        return {"state": "failed", **blame(self.world, codes, self._said("error"), {rank.rank: list(rank.tail) for rank in self.ranks})}

    def _said(self, kind: str) -> list[dict[str, Any]]:
        found, _ = read_lines(self.paths.events, self.said_before)
        return [event for event in found if event.get("type") == kind]

    def _end(self) -> None:
        for rank in self.ranks:
            rank.end()


def main(arguments: Sequence[str], start: Start = spawned) -> int:
    """Run the worker for the folder in ``arguments``; ``start`` is how it comes by its ranks."""
    paths = RunPaths(Path(arguments[0]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a kernel interrupt is for the kernel
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: paths.stop.touch())
    lock_fd = _lock(paths)
    started = time.time()
    tracking = Tracking(paths, lock_fd)
    result = _outcome(paths, lock_fd, start)
    made = {"started": _iso(started), "finished": _iso(time.time()), "seconds": round(time.time() - started, 3)}
    last = {name: value for name, value in result.items() if name != "log_tail"}
    with contextlib.suppress(SessionError):  # nothing can be written: who looks at the run sees why
        append_line(paths.events, {"type": result["state"], **last, "time": time.time()})
    paths.rendezvous.unlink(missing_ok=True)
    with contextlib.suppress(SessionError):
        write_json(paths.result, {"format": FORMAT, **result, "made": made})
    tracking.finish()  # after the result: whatever happens while a service is waited for, the model is done
    return 0 if result["state"] != "failed" else 1


def _lock(paths: RunPaths) -> int:
    """The descriptor that holds the run's lock: the kernel's, handed over, or our own when started by hand."""
    given = os.environ.pop(LOCK_FD, None)
    if given is not None:
        return int(given)
    lock = Lock(paths.lock)
    if not lock.acquire():
        raise SystemExit("the run is going on already")
    _held.append(lock)
    return lock.fileno()


_held: list[Lock] = []


def _outcome(paths: RunPaths, lock_fd: int, start: Start) -> dict[str, Any]:
    try:
        return Supervisor(paths, read_object(paths.spec), lock_fd, start).run()
    except Exception as error:
        hint = error.hint if isinstance(error, NbDreamError) else None
        message = error.message if isinstance(error, NbDreamError) else f"{type(error).__name__}: {error}"
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return {"state": "failed", "rank": None, "exit_code": None, "message": message, "hint": hint, "log_tail": []}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
