"""A warm start, from the kernel's side: a server that has torch and transformers loaded forks what would import them for ten seconds.

Whatever is wrong with it (not there, ended, other packages by now), the process is started as it would be without it: nobody is
told, and the losses are the same. Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from nbdream.optional import installed

LEAST_MEMORY = 4 * 2**30
"""Bytes that must be available for a server to be started: it holds about a tenth of that, which a model may need more."""
ANSWER_SECONDS = 3.0
"""How long a fork may take. It takes milliseconds; where it does not, something is wrong."""
IMPORT_SECONDS = 20.0
"""How long a server is waited for that is still importing. One that has died is not."""
LATE = frozenset({
    "CUDA_VISIBLE_DEVICES", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "NBDREAM_CODE_SHA256", "NBDREAM_USER_PATH", "PATH", "PYTHONPATH",
    "TORCHINDUCTOR_CACHE_DIR",
})  # fmt: skip
"""Variables that are read when they are used, not at an import: a child may be given other values than the server had."""
MADE_FOR = ("torch", "transformers", "accelerate")
WORKERS_HAVE = ("", "trainers/", "workers/")
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


class WarmProcess:
    """A process that the server has forked: as much of `subprocess.Popen` as is used of it."""

    def __init__(self, pid: int, exit_code: int, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self._exit, self._lock = exit_code, threading.Lock()
        self._close = weakref.finalize(self, os.close, exit_code)
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it is there. Raises `subprocess.TimeoutExpired`."""
        with self._lock:
            if self._code is None:
                poll = select.poll()
                poll.register(self._exit, select.POLLIN)
                if not poll.poll(None if timeout is None else timeout * 1000):
                    raise subprocess.TimeoutExpired("nbdream", timeout or 0)
                # Nothing said: the server is gone, and only a kill ends it while its kernel lives.
                self._code = int(os.read(self._exit, 16) or -9)
                self._close()
            return self._code

    def kill(self) -> None:
        """End it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(timeout=0)
            return  # its number may be another's by now
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 9)


class WarmServer:
    """The server's process and our end of the socket pair that leads to it. It ends when this end is closed, or this process dies."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.packages = packages()
        self._owner, self._lock = os.getpid(), threading.Lock()
        self._ready, self._heard = False, b""
        self._socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "nbdream.workers.warm_server", str(theirs.fileno())],
                # Ranks set the first themselves, where it is not too late; the second keeps torch from touching the GPU to count them.
                env={**environment, "HF_HUB_DISABLE_TELEMETRY": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        threading.Thread(target=self.process.wait, name="nbdream-warm-reaper", daemon=True).start()

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether its imports are those that a process of ``environment`` would do now."""
        return self.lives and _early(environment) == _early(self.environment) and packages() == self.packages

    @property
    def lives(self) -> bool:
        """Whether it can be asked by this process."""
        return self._owner == os.getpid() and self.process.poll() is None and self._socket.fileno() != -1

    def ready(self, timeout: float = 0.0) -> bool:
        """Whether it has imported everything, now or within ``timeout`` seconds."""
        with self._lock:
            if not self._ready and self.lives:
                try:
                    self._ready = "ready" in self._answer(timeout)
                except (BlockingIOError, TimeoutError):
                    pass
                except (OSError, ValueError):
                    self._close()
            return self._ready and self.lives

    def start(
        self,
        target: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        streams: tuple[int, int, int],
        passed: Mapping[str, int] | None = None,
    ) -> WarmProcess | None:
        """Have a process forked, in ``folder``; None when that failed.

        ``passed`` are descriptors of which it finds the numbers in its environment, under these names.
        """
        passed = passed or {}
        request = {
            "target": target, "arguments": list(arguments), "environment": dict(environment), "folder": str(folder), "passed": list(passed),
        }  # fmt: skip
        if not self.ready():
            return None
        going, go = os.pipe()
        exit_code, exits = os.pipe()
        with self._lock:
            try:
                self._socket.settimeout(ANSWER_SECONDS)
                line = (json.dumps(request) + "\n").encode()
                sent = socket.send_fds(self._socket, [line], [going, exits, *streams, *passed.values()])
                self._socket.sendall(line[sent:])
                pid = int(self._answer(ANSWER_SECONDS)["pid"])
                os.write(go, b"g")  # without it the child ends: who has given up waiting starts another, and there must not be two
            except (OSError, ValueError, KeyError):
                os.close(exit_code)
                self._close()
                return None
            finally:
                for number in (going, go, exits):
                    os.close(number)
        return WarmProcess(pid, exit_code)

    def end(self) -> None:
        """End the server. What was forked from it goes on."""
        with self._lock:
            self._close()

    def _answer(self, timeout: float) -> dict[str, Any]:
        self._socket.settimeout(timeout)
        while not self._heard.endswith(b"\n"):
            part = self._socket.recv(4096)
            if not part:
                raise ValueError("the server is gone")
            self._heard += part
        line, self._heard = self._heard, b""
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _close(self) -> None:
        self._socket.close()
        if self._owner == os.getpid() and self.process.poll() is None:
            self.process.kill()


_server: WarmServer | None = None
_lock = threading.Lock()
_enabled = _missed = False


def enable() -> None:
    """Let this process have a server. Notebooks do: a script that trains once would pay for it, and gain nothing."""
    global _enabled
    _enabled = True


def prepare(environment: Callable[[], Mapping[str, str]], *, again: bool = True) -> None:
    """Have a server started, where it is worth its memory; its imports take a while, and nobody waits for them.

    ``again`` is False where only the first run was to be helped: a run that has started without a server meanwhile needs the
    processor itself. Not on macOS: what its own libraries hold does not survive a fork without an exec.
    """
    global _server
    if not _enabled or (_missed and not again) or not sys.platform.startswith("linux"):
        return
    with _lock, contextlib.suppress(Exception):  # a start that is slow as ever is nobody's error
        now = environment()
        if (_server is not None and _server.fits(now)) or not all(installed(name) for name in MADE_FOR):
            return
        drop()
        if enough_memory():
            _server = WarmServer(now)


def drop() -> None:
    """End the server, if there is one."""
    global _server
    server, _server = _server, None
    if server is not None:
        server.end()


def at_hand(environment: Mapping[str, str]) -> WarmServer | None:
    """The server, if its imports are those of ``environment``.

    One that is still importing is waited for: what would be started instead would begin with the same imports.
    """
    global _missed
    server = _server
    if server is not None and server.fits(environment) and server.ready(IMPORT_SECONDS):
        return server
    _missed = True
    return None


def _early(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in LATE}


def packages() -> dict[str, int]:
    """What tells that packages were installed or removed, or what workers have of ours was edited: when it last changed."""
    ours = Path(__file__).resolve().parents[1]
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    found = {}
    for path in (*map(Path, folders), *(file for room in WORKERS_HAVE for file in ours.glob(f"{room}*.py"))):
        with contextlib.suppress(OSError):
            found[str(path)] = path.stat().st_mtime_ns
    return found


def enough_memory() -> bool:
    """Whether there is memory for a server."""
    available = available_memory()
    return available is None or available >= LEAST_MEMORY


def available_memory() -> int | None:
    """The bytes that can still be had: of the machine's memory or of the container's, whichever are fewer. None: not known."""
    found = [available for available in (_machine(), _container()) if available is not None]
    return min(found, default=None)


def _machine() -> int | None:
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _container() -> int | None:
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        limit, used = (int((CGROUP / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
        told = (line.split() for line in (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        return limit - used + next(int(size) for name, size in told if name == "inactive_file")  # cached files make room
    return None
