"""The process that tells a tracker of a run: ``python -P -m nbdream.workers.tracker FOLDER TRACKER EVENTS``.

It follows the run's events as a notebook does, loads the tracker's package once training begins, and ends with the run. A run that
goes on after a stop goes on in the tracker too: which run it is there stands in the run's folder. ``EVENTS``: how many of the events
are of earlier attempts.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from nbdream.errors import BrokenFileError
from nbdream.files import append_line, read_lines, read_object, write_json
from nbdream.secrets import redact, scrub
from nbdream.workers import tracking
from nbdream.workers.paths import RunPaths
from nbdream.workers.runs import USER_PATH

POLL = 0.2
ENDS = ("done", "stopped", "failed")
NO_MEASURES = ("type", "time", "rank", "step", "max_steps")
NOT_TOLD = ("project", "report_to", "run_name", "trackio_bucket_id", "trackio_space_id", "trackio_static_space_id")
QUIET = {
    "console": "off", "disable_code": True, "disable_git": True, "init_timeout": 30, "silent": True, "x_disable_machine_info": True,
    "x_disable_meta": True, "x_disable_stats": True,
}  # fmt: skip
"""Settings of W&B's: it is told of the run, and neither of this machine nor of the user's code."""


class Reporter(Protocol):
    """A run as a tracker has it."""

    id: str

    def log(self, measured: Mapping[str, float], step: int) -> None:
        """Tell what was measured at a step."""

    def finish(self, state: str) -> None:
        """Tell how the run ended, once all is told."""


class Trackio:
    """A run of trackio's: in its local store, or on a Space."""

    def __init__(self, project: str, name: str, config: Mapping[str, Any], arguments: Mapping[str, Any], known: str | None) -> None:
        trackio: Any = importlib.import_module("trackio")
        options = {
            "project": project, "name": name, "config": dict(config), "space_id": arguments.get("trackio_space_id"),
            "bucket_id": arguments.get("trackio_bucket_id"), "private": True, "embed": False, "auto_log_cpu": False, "auto_log_gpu": False,
        }  # fmt: skip
        self._run = trackio.init(resume="allow" if known else "never", **options)
        if known and self._run.id != known:  # it knows runs by their name, which another run has had since
            self._run = trackio.init(resume="never", **options)
        self.id = str(self._run.id)

    def log(self, measured: Mapping[str, float], step: int) -> None:
        """Tell what was measured at a step."""
        self._run.log(dict(measured), step=step)

    def finish(self, state: str) -> None:
        """Wait until all is stored."""
        self._run.finish()


class Wandb:
    """A run of W&B's, online or, with ``WANDB_MODE=offline``, in the notebook's folder."""

    def __init__(self, project: str, name: str, config: Mapping[str, Any], arguments: Mapping[str, Any], known: str | None) -> None:
        self._wandb: Any = importlib.import_module("wandb")
        quiet = {setting: value for setting, value in QUIET.items() if setting in self._wandb.Settings.model_fields}
        given = {"project": arguments.get("project") or os.environ.get("WANDB_PROJECT") or project, "name": name, "config": dict(config)}
        self._run = self._wandb.init(**given, id=known or uuid.uuid4().hex[:8], resume="allow", settings=self._wandb.Settings(**quiet))
        self._run.define_metric("train/global_step")
        self._run.define_metric("*", step_metric="train/global_step")
        self.id = str(self._run.id)

    def log(self, measured: Mapping[str, float], step: int) -> None:
        """Tell what was measured at a step; W&B's own steps could only go up."""
        self._run.log(dict(measured))

    def finish(self, state: str) -> None:
        """Wait until all is passed on."""
        self._run.finish(exit_code=int(state == "failed"))
        self._wandb.teardown()


REPORTERS: Mapping[str, Callable[..., Reporter]] = {"trackio": Trackio, "wandb": Wandb}


def measures(event: Mapping[str, Any]) -> dict[str, float]:
    """What an event measured, under the names that transformers gives it to trackers."""
    told = {name: value for name, value in event.items() if name not in NO_MEASURES and isinstance(value, (int, float))}
    kind = "eval" if event["type"] == "eval" else "train"
    found = {f"{kind}/{name.removeprefix('eval_')}": float(value) for name, value in told.items() if name != "epoch"}
    return {**found, "train/epoch": float(event.get("epoch") or 0.0), "train/global_step": int(event.get("step") or 0)}


def config(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a tracker is told of the settings: nothing of where things lie on this machine."""
    model, batch = spec["model"], spec["batch"]
    arguments = {name: value for name, value in spec["arguments"].items() if name not in NOT_TOLD}
    told = {
        "method": spec["method"],
        "base": Path(model["path"]).name if model.get("local") else model["path"],
        "devices": spec["devices"],
        "batch_size": batch["per_device"] * batch["accumulation"] * spec["devices"],
        "seed": spec["seed"],
        "lora": spec.get("lora"),
        **arguments,
    }
    return dict(scrub({name: value for name, value in told.items() if value is not None}))


class Telling:
    """A run being told: what the tracker knows of it already, and what is new."""

    def __init__(self, paths: RunPaths, tracker: str, before: int) -> None:
        self.paths, self.tracker, self.before = paths, tracker, before
        self.reporter: Reporter | None = None
        self._told = {"log": -1, "eval": -1}

    def follow(self) -> None:
        """Tell of the run until it ends."""
        found, position = read_lines(self.paths.events)
        earlier, found = found[: self.before], found[self.before :]
        while True:
            if self.reporter is None and any(event.get("type") == "begin" for event in found):
                self._open(earlier)
            for event in found:
                self._tell(event)
                if event.get("type") in ENDS:
                    if self.reporter is not None:
                        self.reporter.finish(str(event["type"]))
                    return
            time.sleep(POLL)
            found, position = read_lines(self.paths.events, position)

    def _open(self, earlier: Sequence[Mapping[str, Any]]) -> None:
        spec = read_object(self.paths.spec)
        arguments = spec["arguments"]
        name = str(arguments.get("run_name") or spec["name"])
        project = tracking.project(arguments, Path(os.environ.get(USER_PATH) or "."))
        where = {"project": project, "name": name, "space": arguments.get("trackio_space_id")}
        record = self._record()
        known = record.get("id") if {field: record.get(field) for field in where} == where else None
        self.reporter = REPORTERS[self.tracker](project, name, config(spec), arguments, known)
        for event in earlier:
            self._tell(event, already=self.reporter.id == known)
        write_json(self.paths.tracked(self.tracker), {"id": self.reporter.id, **where})
        self.say({"project": project, "name": name})

    def _record(self) -> dict[str, Any]:
        try:
            return read_object(self.paths.tracked(self.tracker))
        except (FileNotFoundError, BrokenFileError):
            return {}

    def _tell(self, event: Mapping[str, Any], *, already: bool = False) -> None:
        """Tell of an event, once: what a killed run goes through again is what it was."""
        kind, step = str(event.get("type")), int(event.get("step") or 0)
        if kind in self._told and step > self._told[kind] and self.reporter is not None:
            self._told[kind] = step
            if not already:
                self.reporter.log(measures(event), step)

    def say(self, facts: Mapping[str, Any]) -> None:
        """Append an event of the tracker's."""
        append_line(self.paths.events, {"type": "tracker", "tracker": self.tracker, **facts, "time": time.time()})


def main(arguments: Sequence[str]) -> None:
    """Tell the tracker of the run in the folder, and end this process."""
    folder, tracker, before = arguments
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    if (user := os.environ.get(USER_PATH)) and Path(user).is_dir():
        os.chdir(user)  # where relative paths of the user's lead from, and W&B puts its files
    telling = Telling(RunPaths(Path(folder)), tracker, int(before))
    try:
        telling.follow()
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        telling.say({"message": redact(f"{type(error).__name__}: {lines[0] if lines else ''}"[:300])})
        os._exit(1)
    os._exit(0)  # everything is told


def _end_with_supervisor() -> None:
    """End this process when its supervisor is gone: nobody would see it to its end."""
    sys.stdin.buffer.read(1)
    os._exit(70)


if __name__ == "__main__":
    main(sys.argv[1:])
