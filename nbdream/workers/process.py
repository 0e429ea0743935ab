"""One rank of a run as its supervisor sees it: started, read, ended."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import IO, Any

from nbdream.secrets import redact
from nbdream.workers.paths import RunPaths

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_log_lock = threading.Lock()


class RankProcess:
    """A rank's process. What it prints goes into the run's log, and the end of it is kept."""

    def __init__(self, paths: RunPaths, spec: dict[str, Any], rank: int, world: int, lock_fd: int) -> None:
        self.rank = rank
        self.tail: collections.deque[str] = collections.deque(maxlen=60)
        self._paths, self._prefix = paths, f"[rank {rank}] " if world > 1 else ""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "nbdream.workers.rank", str(paths.folder)],
            env={**os.environ, **rank_environment(spec, rank, world)},
            cwd=paths.folder,
            stdin=subprocess.PIPE,  # never written to: its end tells the rank that its supervisor is gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(lock_fd,),  # the run lives while any of its processes does
            process_group=0,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """The exit code (minus the signal that ended it), or None while it runs."""
        code = self._process.poll()
        if code is not None:
            self._reader.join(timeout=1)
        return code

    def end(self) -> None:
        """End the process and its children, and wait for it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(timeout=1)
        if self._process.stdin is not None:
            self._process.stdin.close()

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
