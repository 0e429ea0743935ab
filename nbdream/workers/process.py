"""One rank of a run as its supervisor sees it: started, read, ended."""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar, Protocol

from nbdream.secrets import redact
from nbdream.workers import rank as worker
from nbdream.workers.forking import fork, take_threads
from nbdream.workers.paths import RunPaths

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_log_lock = threading.Lock()


class Child(Protocol):
    """What is used of a rank's process, however it was started; `subprocess.Popen` has it."""

    pid: int
    stdin: IO[bytes] | None
    """Never written to: its end tells the rank that its supervisor is gone."""
    stdout: IO[bytes] | None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""

    def wait(self) -> int:
        """The exit code, once it has ended."""


Start = Callable[[Path, Mapping[str, str], int], Child]
"""Starts a rank: for the folder, with these variables added to its environment, and holding the run's lock."""


def spawned(folder: Path, environment: Mapping[str, str], lock_fd: int) -> Child:
    """A rank in a new Python."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "nbdream.workers.rank", str(folder)],
        env={**os.environ, **environment},
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock_fd,),  # the run lives while any of its processes does
        process_group=0,
    )


class Forked:
    """A rank forked from this process, which has its imports done and no thread yet. It holds the run's lock as we do."""

    _ours: ClassVar[list[IO[bytes]]] = []
    """Our ends of the pipes to all ranks. One that held another's would keep it from noticing that we are gone."""

    def __init__(self, folder: Path, environment: Mapping[str, str], lock_fd: int) -> None:
        questions, stdin = os.pipe()
        stdout, answers = os.pipe()
        self.stdin: IO[bytes] | None = os.fdopen(stdin, "wb")
        self.stdout: IO[bytes] | None = os.fdopen(stdout, "rb")
        self._code: int | None = None
        type(self)._ours += [self.stdin, self.stdout]
        held = [stream.fileno() for stream in self._ours if not stream.closed]
        self.pid = fork(functools.partial(self._be, folder, environment), (questions, answers, answers), held)
        with contextlib.suppress(OSError):  # it does the same: whoever is first
            os.setpgid(self.pid, self.pid)
        os.close(questions)
        os.close(answers)

    def _be(self, folder: Path, environment: Mapping[str, str]) -> None:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        os.environ.update(environment)
        take_threads()
        worker.main([str(folder)])

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self) -> int:
        """The exit code, once it has ended."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code


class RankProcess:
    """A rank's process. What it prints goes into the run's log, and the end of it is kept."""

    def __init__(self, paths: RunPaths, spec: dict[str, Any], rank: int, world: int, lock_fd: int, start: Start = spawned) -> None:
        self.rank = rank
        self.tail: collections.deque[str] = collections.deque(maxlen=60)
        self._paths, self._prefix = paths, f"[rank {rank}] " if world > 1 else ""
        self._process = start(paths.folder, rank_environment(spec, rank, world), lock_fd)
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)

    def listen(self) -> None:
        """Begin to read what it prints: a thread, and so only when all ranks are there."""
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """The exit code (minus the signal that ended it), or None while it runs."""
        code = self._process.poll()
        if code is not None:
            self._hear_out()
        return code

    def end(self) -> None:
        """End the process and its children, and wait for it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._hear_out()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _hear_out(self) -> None:
        if self._reader.ident is not None:
            self._reader.join(timeout=1)

    def _read(self, stream: IO[bytes]) -> None:
        for raw in stream:
            line = redact(raw.decode(errors="replace").rstrip())
            self.tail.append(line)
            # A full disk must not stop the reading, or the rank would stop at a full pipe.
            with _log_lock, contextlib.suppress(OSError), self._paths.log.open("a", encoding="utf-8") as log:
                log.write(f"{self._prefix}{line}\n")


def rank_environment(spec: dict[str, Any], rank: int, world: int) -> dict[str, str]:
    """What a rank must find in its environment before torch is imported."""
    made = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1" if world > 1 else ""), "HF_HUB_DISABLE_TELEMETRY": "1"}
    if world > 1:
        made |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        made |= {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}
    if spec.get("device") == "cpu":
        made |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    elif (visible := visible_devices(spec, world, os.environ.get("CUDA_VISIBLE_DEVICES"))) is not None:
        made["CUDA_VISIBLE_DEVICES"] = visible
    return {name: value for name, value in made.items() if value or name == "CUDA_VISIBLE_DEVICES"}


def visible_devices(spec: dict[str, Any], world: int, before: str | None) -> str | None:
    """The devices that the ranks may see: those that were named, else the first ones. None: leave it as it is."""
    named = spec.get("device")
    names = [named] if isinstance(named, str) else list(named or [])
    numbers = [name.partition(":")[2] for name in names]
    if names and all(numbers):
        here = before.split(",") if before else None
        return ",".join(here[int(number)] if here and int(number) < len(here) else number for number in numbers)
    if before:
        return ",".join(before.split(",")[:world])
    # Trainer would wrap the model in DataParallel for a single rank that sees several devices.
    return ",".join(str(number) for number in range(world)) if before is None else None
