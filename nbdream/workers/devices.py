"""Whose turn it is on a GPU: runs that want the same one go one after the other, in the order in which they came.

Each run draws a ticket, a file on which it holds a lock (``flock``) until it ends, and goes when no older ticket that is still
held names a device of its own. All devices of a run are had at once, so two runs cannot wait for each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nbdream.errors import SessionError
from nbdream.files import Lock
from nbdream.workers.process import visible_devices

GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What is there where there is a GPU: NVIDIA's, AMD's, Windows' under WSL. The supervisor has no torch to ask."""


def wanted(spec: Mapping[str, Any], world: int, before: str | None) -> list[str]:
    """The devices that a run will use, as the machine counts them; ``before`` is the CUDA_VISIBLE_DEVICES that it was given."""
    device = spec.get("device")
    if device == "cpu" or (device is None and not any(os.path.exists(path) for path in GPUS)):
        return []
    return [name.strip() for name in (visible_devices(dict(spec), world, before) or "").split(",") if name.strip()]


class Turn:
    """A run's place in the queue for ``devices``. A context manager: entering draws the ticket, leaving gives it back."""

    def __init__(self, devices: Sequence[str], name: str, folder: Path | None = None) -> None:
        self.devices, self.name = set(devices), name
        self.folder = folder or (private_folder() if devices else None)
        self._ticket: Path | None = None
        self._fd: int | None = None

    def __enter__(self) -> Self:
        if self.devices and self.folder is not None:
            with contextlib.suppress(OSError, SessionError), Lock(self.folder / "lock"):  # where the disk is full, nobody queues
                self._draw(self.folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._ticket is not None and self._fd is not None:
            self._ticket.unlink(missing_ok=True)
            os.close(self._fd)
            self._ticket = self._fd = None

    def ahead(self) -> str | None:
        """The name of the run that this one has to wait for, or None when it is its turn."""
        if self._ticket is None:
            return None
        for path in reversed(list(self._older())):
            with contextlib.suppress(OSError, ValueError):
                told = json.loads(path.read_bytes())
                if self.devices & set(told["devices"]) and Lock(path).is_taken():
                    return str(told["name"])
        return None

    def _older(self) -> Iterator[Path]:
        assert self._ticket is not None
        for path in sorted(self._ticket.parent.glob("*.ticket")):
            if path.name >= self._ticket.name:
                return
            yield path

    def _draw(self, folder: Path) -> None:
        """Put our ticket behind the others; those of runs that are no more go. Called by one process at a time."""
        last = 0
        for path in sorted(folder.glob("*.ticket")):
            if Lock(path).is_taken():
                last = int(path.stem)
            else:
                path.unlink(missing_ok=True)
        ticket = folder / f"{last + 1:012d}.ticket"
        fd = os.open(ticket, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, json.dumps({"name": self.name, "devices": sorted(self.devices)}).encode())
        self._ticket, self._fd = ticket, fd


def private_folder() -> Path | None:
    """The user's own folder for what processes of different sessions share while they run; None where it is not safe."""
    path = Path(tempfile.gettempdir()) / f"nbdream-{os.geteuid()}"
    with contextlib.suppress(OSError):
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
            return path
    return None
