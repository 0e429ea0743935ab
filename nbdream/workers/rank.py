"""One rank of a run: ``python -P -m nbdream.workers.rank FOLDER``, started by `nbdream.workers.train`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nbdream.errors import DataError, NbDreamError, SessionError
from nbdream.files import append_line, read_object
from nbdream.portable import load
from nbdream.secrets import redact
from nbdream.workers.failures import hint_for
from nbdream.workers.paths import FORMAT, RunPaths
from nbdream.workers.runs import CODE, USER_PATH

METHODS = {
    "classifier": "nbdream.trainers.classifier",
    "dpo": "nbdream.trainers.dpo",
    "embedder": "nbdream.trainers.embedding",
    "sft": "nbdream.trainers.sft",
}
"""The module that trains by each method: its ``train(run)`` is called on every rank."""


class Run:
    """A run as one of its ranks sees it: the folder, the spec, who we are, and a way to say things."""

    def __init__(self, paths: RunPaths, spec: dict[str, Any]) -> None:
        self.paths, self.spec = paths, spec
        self.rank = int(os.environ.get("RANK", "0"))
        self.world = int(os.environ.get("WORLD_SIZE", "1"))

    @property
    def first(self) -> bool:
        """Whether this rank speaks for all of them."""
        return self.rank == 0

    def emit(self, event: Mapping[str, Any]) -> None:
        """Append an event of this rank."""
        append_line(self.paths.events, {**event, "rank": self.rank, "time": time.time()})

    def say(self, event: Mapping[str, Any]) -> None:
        """Append an event, once for all ranks."""
        if self.first:
            self.emit(event)

    def finished(self, state: str, **facts: Any) -> None:
        """The last word of a recipe: ``done`` or ``stopped``, and what the result is to say."""
        self.say({"type": "finished", "state": state, **facts})

    def hooks(self) -> dict[str, Any]:
        """The notebook's own code that takes part, by what it is for. Only what its kernel has handed over is executed."""
        names = self.spec.get("hooks") or {}
        if not names:
            return {}
        text = self.paths.code.read_text(encoding="utf-8")
        if hashlib.sha256(text.encode()).hexdigest() != os.environ.get(CODE):
            raise DataError("the code in the run's folder is not what a notebook has handed over", "run its cell again")
        module = load(text, str(self.paths.code))
        found = {name: getattr(module, given) for name, given in names.items() if isinstance(given, str)}
        callbacks = [getattr(module, given) for given in names.get("callbacks", ())]
        return {**found, "callbacks": [made() if isinstance(made, type) else made for made in callbacks]}

    @property
    def cpu(self) -> bool:
        """Whether this run is on CPU: it was asked for, or there is nothing else."""
        import torch

        return self.spec.get("device") == "cpu" or not torch.cuda.is_available()

    def meet(self) -> None:
        """Join the other ranks. They meet by a file: a TCP store would listen on every interface of the machine."""
        import torch

        if self.spec.get("device") not in (None, "cpu") and not torch.cuda.is_available():
            raise DataError("there is no GPU here that torch can use", "leave device out, or give cpu")
        if self.world == 1:
            return
        import torch.distributed as dist

        if not self.cpu:
            if torch.cuda.device_count() < self.world:
                raise DataError(
                    f"{self.world} devices were asked for, and there are {torch.cuda.device_count()}", "ask for fewer --devices"
                )
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        store = dist.FileStore(str(self.paths.rendezvous), self.world)
        dist.init_process_group("gloo" if self.cpu else "nccl", store=store, rank=self.rank, world_size=self.world)

    def part(self) -> None:
        """Leave the other ranks."""
        if self.world > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()


def main(arguments: Sequence[str]) -> None:
    """Train by the recipe that the spec in the folder names, and end this process."""
    paths = RunPaths(Path(arguments[0]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: paths.stop.touch())
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    if user := os.environ.get(USER_PATH):
        sys.path.append(user)
    run = Run(paths, {})
    try:
        run.spec = _spec(paths)
        importlib.import_module(METHODS[run.spec["method"]]).train(run)
        run.part()
    except BaseException as error:
        traceback.print_exc()
        sys.stderr.flush()
        with contextlib.suppress(SessionError):  # nothing can be written: who looks at the run sees why
            run.emit(_told(error))
        os._exit(1)  # without waiting for the others, who may wait for us in a collective
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # everything is on disk; taking torch down in order costs a second


def _spec(paths: RunPaths) -> dict[str, Any]:
    spec = read_object(paths.spec)
    if spec.get("format") != FORMAT or spec.get("method") not in METHODS:
        raise DataError(f"this version of nbdream does not know the run's format {spec.get('format')} and method {spec.get('method')!r}")
    return spec


def _told(error: BaseException) -> dict[str, Any]:
    """An error as an event: its kind, the first line of what it says, and what to do."""
    ours = isinstance(error, NbDreamError)
    text = error.message if isinstance(error, NbDreamError) else f"{type(error).__name__}: {error}"
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    hint = error.hint if isinstance(error, NbDreamError) else None
    return {"type": "error", "kind": type(error).__name__, "ours": ours, "message": redact(first[:500]), "hint": hint or hint_for(text)}


def _end_with_supervisor() -> None:
    """End this process when the supervisor's end of our standard input closes: without it nobody would say how we end."""
    os.read(0, 1)
    os._exit(70)


if __name__ == "__main__":
    main(sys.argv[1:])
