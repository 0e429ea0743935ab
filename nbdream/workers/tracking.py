"""Trackers: a run told to trackio or W&B, each by a process of its own that follows the run's events.

What a tracker does or fails to do is so no business of the ranks: a service that does not answer costs the training nothing. The
tracker's settings and keys go to its own process, and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from nbdream.errors import ArgumentError, MissingPackageError, NbDreamError
from nbdream.files import append_line, read_lines, read_object
from nbdream.optional import installed
from nbdream.workers.paths import RunPaths

VARIABLES = {"trackio": "TRACKIO_", "wandb": "WANDB_"}
"""The trackers, and how their environment variables begin."""
FINISH_SECONDS = 15.0
"""How long a tracker may take, after the run's end, to pass on what is left."""
DEFAULT_PROJECT = "nbdream"


def trackers(arguments: Mapping[str, Any]) -> list[str]:
    """The trackers that ``report_to`` names; `ArgumentError` for one that there is not."""
    given = arguments.get("report_to")
    names = [] if given in (None, "none") else [given] if isinstance(given, str) else given
    if not isinstance(names, Sequence) or any(name not in (*VARIABLES, "none") for name in names):
        raise ArgumentError(f"report_to is {given!r}", "give trackio, wandb, or a list of both")
    return [name for name in VARIABLES if name in names]


def check(arguments: Mapping[str, Any]) -> None:
    """Refuse, before a process is started, what no tracker could be told."""
    for name in trackers(arguments):
        if not installed(name):
            raise MissingPackageError(f"report_to is {name}, which is not installed", f"pip install {name}")
    if arguments.get("trackio_static_space_id"):
        raise ArgumentError("trackio_static_space_id is not made by a run", "trackio.sync(project, space_id, sdk='static') makes it")


def environment(spec: Mapping[str, Any]) -> dict[str, str]:
    """What the trackers of a run need of this process's environment, their keys among it."""
    beginnings = tuple(VARIABLES[name] for name in trackers(spec.get("arguments") or {}))
    return {name: value for name, value in os.environ.items() if beginnings and name.startswith(beginnings)}


def taken(variables: MutableMapping[str, str]) -> dict[str, str]:
    """The trackers' variables, taken out of ``variables``: the ranks get none of them."""
    return {name: variables.pop(name) for name in list(variables) if name.startswith(tuple(VARIABLES.values()))}


def project(arguments: Mapping[str, Any], folder: Path) -> str:
    """The project of a run: the one that is named, or that of the notebook's folder."""
    return str(arguments.get("project") or re.sub(r"[^\w.-]+", "-", folder.name).strip("-._") or DEFAULT_PROJECT)


class Tracking:
    """The processes that tell of a run, from the supervisor's side."""

    def __init__(self, paths: RunPaths, lock_fd: int) -> None:
        self.paths = paths
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        ours = taken(os.environ)
        with contextlib.suppress(NbDreamError, OSError):  # the supervisor says what is wrong with a spec
            names = trackers(read_object(paths.spec).get("arguments") or {})
            before = len(read_lines(paths.events)[0])
            for name in names:
                own = {variable: value for variable, value in ours.items() if variable.startswith(VARIABLES[name])}
                self._processes[name] = self._start(name, before, own, lock_fd)

    def _start(self, name: str, before: int, own: Mapping[str, str], lock_fd: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "nbdream.workers.tracker", str(self.paths.folder), name, str(before)],
            env={**os.environ, **own},
            cwd=self.paths.folder,
            stdin=subprocess.PIPE,  # its end tells the tracker that its supervisor is gone
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock_fd,),  # the run lives while any of its processes does
            process_group=0,
        )

    def finish(self) -> None:
        """Wait for the trackers to take the run's end, but not for ever: no process of a run outlives it."""
        end = time.monotonic() + FINISH_SECONDS
        for name, process in self._processes.items():
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._end(process)
                message = f"had not taken everything {FINISH_SECONDS:.0f} s after the run's end"
                with contextlib.suppress(NbDreamError):
                    append_line(self.paths.events, {"type": "tracker", "tracker": name, "message": message, "time": time.time()})
            assert process.stdin is not None
            process.stdin.close()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        for number in (*_children(process.pid), -process.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
        process.wait()


def _children(pid: int) -> list[int]:
    """What a process has started: W&B's helper leaves its group. Where nobody tells, it ends itself when it sees that it is alone."""
    told = (path.read_text(encoding="ascii").split() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    with contextlib.suppress(OSError):
        return [int(number) for numbers in told for number in numbers]
    return []
