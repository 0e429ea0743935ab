"""The kernel's end of a model process: starts it, asks it, ends it. Imports no torch."""

from __future__ import annotations

import itertools
import json
import os
import queue
import subprocess
import sys
import sysconfig
import tempfile
import threading
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any

from nbdream.errors import MissingPackageError, ModelError
from nbdream.secrets import redact
from nbdream.workers import warm
from nbdream.workers.runs import worker_environment
from nbdream.workers.warm import WarmProcess

END_SECONDS = 5.0

Answer = dict[str, Any]
Process = subprocess.Popen[bytes] | WarmProcess

_numbers = itertools.count(1)  # of all children: a late stop must not hit another child's question


class ModelProcess:
    """A child process that holds one local model. It starts with the first question and dies with this process."""

    def __init__(self, spec: dict[str, Any], worker: str = "model") -> None:
        """``worker``: the module of `nbdream.workers` that is its program."""
        self.spec = spec
        self.worker = worker
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def ask(self, op: str, **message: Any) -> tuple[int, Future[Answer]]:
        """Send a question; its number, and the answer to come. Starts and loads the model where that is still to do."""
        with self._lock:
            if self._child is None or not self._child.alive:
                self._child = _Child(self.spec, self.worker)
            return self._child.send(op, message)

    def stop(self, number: int) -> None:
        """Make the child give up question ``number`` between two tokens."""
        with self._lock:
            if self._child is not None and self._child.alive:
                self._child.stop(number)

    def wait(self, op: str, **message: Any) -> Answer:
        """The answer to a question; an interrupt gives the question up."""
        number, future = self.ask(op, **message)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                self.stop(number)
            raise

    def end(self) -> None:
        """End the child and give its memory back."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.end()

    def end_if_idle(self) -> None:
        """End the child unless somebody waits for it to answer."""
        with self._lock:
            child = self._child
            if child is None or child.waiting:
                return
            self._child = None
        child.end()

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        child = self._child
        return child.process.pid if child is not None and child.alive else None


class _Child:
    """One life of the process. A thread writes questions, another reads answers; what it prints goes to an unnamed file."""

    def __init__(self, spec: dict[str, Any], worker: str) -> None:
        # A Jupyter restart signals the kernel's whole process group, and so does Ctrl-C: the child has a session of its own.
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self.process: Process = _forked(worker, self.log) or subprocess.Popen(
            [sys.executable, "-P", "-m", f"nbdream.workers.{worker}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, start_new_session=True, env=environment(),
        )  # fmt: skip
        self.name = str(spec.get("name", "the model"))
        self.waiting: dict[int, Future[Answer]] = {}
        self.lock = threading.Lock()
        self.alive = True
        self.refusal: Exception | None = None
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._finalizer = weakref.finalize(self, _close, self.process, self.log, self._outbox)
        threading.Thread(target=_write, args=(self._outbox, self.process.stdin), name="nbdream-model", daemon=True).start()
        threading.Thread(target=_read, args=(weakref.ref(self), self.process.stdout), name="nbdream-model", daemon=True).start()
        _, loaded = self.send("load", {"spec": spec})
        loaded.add_done_callback(self._loaded)

    def send(self, op: str, message: Answer) -> tuple[int, Future[Answer]]:
        """Put a question into the child's input."""
        future: Future[Answer] = Future()
        with self.lock:
            number = next(_numbers)
            if self.refusal is not None or not self.alive:
                future.set_exception(self.refusal or self._died())
                return number, future
            self.waiting[number] = future
        self._put({"op": op, "id": number, **message})
        return number, future

    def stop(self, number: int) -> None:
        """Give a question up."""
        with self.lock:
            self.waiting.pop(number, None)
        self._put({"op": "stop", "id": number})

    def end(self) -> None:
        """Close the child's input, which ends it; kill it when it does not."""
        _end(self.process, self._outbox)
        self.ended()

    def answered(self, line: bytes) -> None:
        """Hand an answer to the one who waits for it."""
        answer = json.loads(line)
        with self.lock:
            future = self.waiting.pop(answer.pop("id"), None)
        if future is None or not future.set_running_or_notify_cancel():
            return
        if self.refusal is not None:
            future.set_exception(self.refusal)
        elif "error" in answer:
            future.set_exception(error_from(answer["error"]))
        else:
            future.set_result(answer)

    def ended(self) -> None:
        """Tell those who wait that the child is gone."""
        with self.lock:
            self.alive = False
            waiting, self.waiting = self.waiting, {}
        for future in waiting.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(self.refusal or self._died())
        self._finalizer()

    def _loaded(self, future: Future[Answer]) -> None:
        """A model that cannot be loaded refuses every question in the same words, and its process ends."""
        if future.cancelled() or (error := future.exception()) is None:
            return
        self.refusal = error if isinstance(error, Exception) else ModelError(str(error))
        self.alive = False
        threading.Thread(target=self.end, daemon=True).start()

    def _put(self, message: Answer) -> None:
        self._outbox.put((json.dumps(message) + "\n").encode())

    def _died(self) -> ModelError:
        """Why the process is gone, with the end of what it printed."""
        try:
            code: int | None = self.process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        how = "was killed (out of memory?)" if code == -9 else f"ended with code {code}"
        said = self._last_line()
        return ModelError(f"the process of {self.name} {how}", f"it last said: {said}" if said else "ask again to start it anew")

    def _last_line(self) -> str:
        if self.log.closed:
            return ""
        self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, self.log.tell() - 2000))
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return redact(lines[-1].strip()[:300]) if lines else ""


def _forked(worker: str, log: IO[bytes]) -> WarmProcess | None:
    """The process from a warm server, which has its imports done; None where there is none."""
    server = warm.at_hand(worker_environment())
    if server is None:
        return None
    questions, stdin = os.pipe()
    stdout, answers = os.pipe()
    streams = (questions, answers, log.fileno())
    started = server.start(worker, [], environment=environment(), folder=Path.cwd(), streams=streams)
    for number in (questions, answers, *(() if started else (stdin, stdout))):
        os.close(number)
    if started is not None:
        started.stdin, started.stdout = os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb")
    return started


def _close(process: Process, log: IO[bytes], outbox: queue.SimpleQueue[bytes | None]) -> None:
    _end(process, outbox)
    log.close()


def _end(process: Process, outbox: queue.SimpleQueue[bytes | None]) -> None:
    outbox.put(None)
    try:
        process.wait(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _write(outbox: queue.SimpleQueue[bytes | None], questions: IO[bytes]) -> None:
    """Write what is put into ``outbox``, as much at once as there is: who asks never waits for a full pipe."""
    last: bytes | None = b""
    try:
        with questions:
            while last is not None:
                last = outbox.get()
                parts = [last or b""]
                while last is not None and not outbox.empty():
                    last = outbox.get()
                    parts.append(last or b"")
                questions.write(b"".join(parts))
                questions.flush()
    except OSError:
        pass  # it died: the reader tells those who wait


def _read(child: weakref.ref[_Child], answers: IO[bytes]) -> None:
    """Read answers until the child ends. Holds the child weakly, so that a model nobody has any more can go."""
    with answers:
        for line in answers:
            if (alive := child()) is None:
                return
            if line.endswith(b"\n"):  # else it died over it
                alive.answered(line)
            del alive
    if (alive := child()) is not None:
        alive.ended()


def environment() -> dict[str, str]:
    """The environment of a worker: this process's, with nbdream found last on the path where it is not installed."""
    made = dict(os.environ)
    home = str(Path(__file__).resolve().parents[2])
    if home not in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        made["PYTHONPATH"] = os.pathsep.join([part for part in (made.get("PYTHONPATH"), home) if part])
    made.setdefault("TOKENIZERS_PARALLELISM", "false")
    made["PYTHONUNBUFFERED"] = "1"
    return made


def error_from(told: dict[str, Any]) -> ModelError | MissingPackageError:
    """The error that a child reported."""
    kind = MissingPackageError if told.get("kind") == "package" else ModelError
    return kind(redact(str(told["message"])), told.get("hint"))
