"""The warm server: ``python -P -m nbdream.workers.warm_server FD``. Runs and local models are forked from it, imports done.

It answers one kernel, over the one end of a socket pair that it inherits: nothing listens, and nobody else can ask. A request is a
line of JSON with descriptors beside it; the answer is a line with the pid. Each child gets a process session of its own and
goes on when the server ends, which it does as soon as the kernel's end is closed. Nothing here may start a thread, touch a
GPU or join a process group: that would not survive a fork (`unfit`).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbdream.workers import encoder, model, train
from nbdream.workers.forking import fork, take_threads
from nbdream.workers.process import Forked
from nbdream.workers.rank import METHODS

PRELOADED = (
    "torch", "torch.distributed.fsdp", "torch._dynamo", "transformers", "transformers.trainer", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "accelerate", "peft", *METHODS.values(), "nbdream.workers.generation",
)  # fmt: skip
"""What a run or a model imports before it does anything of its own. What is not installed is left out."""

CACHES = ("transformers.utils.import_utils", "accelerate.utils.imports")
"""Modules whose ``is_…`` functions remember whether there is a GPU; a child may be shown other ones."""

GPUS_IN_USE = ("/dev/nvidia-uvm", "/dev/kfd")
WATCH_SECONDS = 1.0

STREAMS = ("stdin", "stdout", "stderr")
GO, EXIT = "go", "exit"
DESCRIPTORS = (GO, EXIT, *STREAMS)
"""What comes with every request, in this order: the pipe by which the kernel lets the child begin, the pipe into which its exit
code goes, and its streams. Further ones are for the child, which finds their numbers in its environment."""


class Server:
    """Forks children on request, and buries them."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.exits: dict[int, int] = {}
        self._path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._woken, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Answer until the kernel is gone."""
        self.say({"ready": os.getpid()})
        while True:
            ready, _, _ = select.select([self.connection.fileno(), self._wake], [], [])
            if self._wake in ready:
                os.read(self._wake, 4096)
                self.bury()
            if self.connection.fileno() in ready:
                received = receive(self.connection)
                if received is None:
                    return
                self.answer(*received)

    def say(self, answer: dict[str, Any]) -> None:
        """One line to the kernel."""
        self.connection.sendall((json.dumps(answer) + "\n").encode())

    def answer(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """Fork the child that is asked for."""
        given = dict(zip(DESCRIPTORS, descriptors, strict=False))
        passed = dict(zip(request["passed"], descriptors[len(DESCRIPTORS) :], strict=True))
        try:
            streams = (given["stdin"], given["stdout"], given["stderr"])
            ours = [self.connection.fileno(), self._wake, self._woken, *self.exits.values(), given[EXIT]]
            pid = fork(functools.partial(self._be, request, given[GO], passed), streams, ours)
        finally:
            for name, number in given.items():
                if name != EXIT:
                    os.close(number)
            for number in passed.values():
                os.close(number)
        self.exits[pid] = given[EXIT]
        self.say({"pid": pid})

    def bury(self) -> None:
        """Take leave of the children that have ended, and pass their exit codes on."""
        while self.exits:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            told = self.exits.pop(pid)
            with contextlib.suppress(OSError):  # nobody asks
                os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(told)

    def _be(self, request: dict[str, Any], go: int, passed: dict[str, int]) -> int:
        """The child: all that a process started anew would find, then its work."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGALRM, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        if os.read(go, 1) != b"g":
            return 0  # the kernel has given up waiting, and started another
        os.close(go)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.environ.update({name: str(number) for name, number in passed.items()})
        os.chdir(request["folder"])
        path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        sys.path[:] = [*path, *(entry for entry in sys.path if entry not in self._path)]
        sys.argv[1:] = request["arguments"]
        return TARGETS[request["target"]](request["arguments"])


def _train(arguments: Sequence[str]) -> int:
    return train.main(arguments, Forked)


def _model(_: Sequence[str]) -> int:
    take_threads()
    model.main()
    return 0


def _encoder(_: Sequence[str]) -> int:
    take_threads()
    model.main(encoder.EncoderServer)
    return 0


TARGETS = {"train": _train, "model": _model, "encoder": _encoder}


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next request and its descriptors, or None when the kernel is gone."""
    line, descriptors = b"", []
    while not line.endswith(b"\n"):
        part, more, _, _ = socket.recv_fds(connection, 65536, 16)
        if not part:
            return None
        line += part
        descriptors += more
    return json.loads(line), descriptors


def preload() -> None:
    """Import what a child will need."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in CACHES:
        for told, value in vars(sys.modules.get(name, object)).items():
            if told.startswith("is_") and callable(forget := getattr(value, "cache_clear", None)):
                forget()
    gc.collect()
    gc.freeze()  # a collection in a child would otherwise write to, and so copy, all of it


def unfit() -> str | None:
    """Why nothing may be forked from this process, or None."""
    torch = sys.modules.get("torch")
    if torch is None:
        return "torch is not installed"
    if threading.active_count() > 1:
        return "an import has started a thread"
    if torch.cuda.is_initialized() or any(held.startswith(GPUS_IN_USE) for held in _open_files()):
        return "an import has touched the GPU"
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return "an import has joined a process group"
    return None


def _open_files() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").is_dir() else ():
        with contextlib.suppress(OSError):
            found.append(os.readlink(entry))
    return found


@contextlib.contextmanager
def leaving_with(connection: socket.socket) -> Any:
    """End this process within a second of the kernel's end, while it is too busy importing to listen."""

    def look(*_: Any) -> None:
        try:
            if not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                os._exit(0)
        except BlockingIOError:
            pass

    signal.signal(signal.SIGALRM, look)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, WATCH_SECONDS, WATCH_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main(arguments: Sequence[str]) -> None:
    """Import, say that we are ready, and answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    connection = socket.socket(fileno=int(arguments[0]))
    os.set_inheritable(connection.fileno(), False)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        with leaving_with(connection):
            preload()
        server = Server(connection)
        if (why := unfit()) is None:
            server.serve()
        else:
            server.say({"unfit": why})


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # children that go on are none of our business
