"""Training runs from the kernel's side: start one, see whether it lives, follow it, ask it to stop. No torch here.

A run is a folder (`RunPaths`). It belongs to no kernel: whoever opens the folder follows it, and it lives exactly as long
as a process holds its lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nbdream.errors import BrokenFileError, TrainingError
from nbdream.files import Lock, disk_errors, read_lines, read_object, write_json
from nbdream.workers import tracking, warm
from nbdream.workers.paths import RunPaths

POLL = 0.05
CODE = "NBDREAM_CODE_SHA256"
LOCK_FD = "NBDREAM_RUN_LOCK_FD"
USER_PATH = "NBDREAM_USER_PATH"

# What a worker needs of the kernel's environment. Everything else stays here: keys of services, above all.
PASSED = (
    "CONDA_PREFIX", "CURL_CA_BUNDLE", "DYLD_LIBRARY_PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "REQUESTS_CA_BUNDLE",
    "SHELL", "SSL_CERT_DIR", "SSL_CERT_FILE", "TEMP", "TMP", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV", "all_proxy", "http_proxy",
    "https_proxy", "no_proxy", "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip
PASSED_PREFIXES = (
    "ACCELERATE_",
    "BNB_",
    "CUDA",
    "HF_",
    "HIP_",
    "HSA_",
    "HUGGING",
    "LC_",
    "MKL_",
    "NCCL_",
    "NVIDIA_",
    "OMP_",
    "PYTORCH_",
    "ROCM",
    "TORCH",
    "TRANSFORMERS_",
    "XDG_",
)
PASSED_CREDENTIALS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
CREDENTIALS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
LAST_WORDS = 64 * 1024
"""Bytes without which a run cannot say how it ended."""


def launch(paths: RunPaths, spec: Mapping[str, Any], *, code: str | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Start the run of ``paths``, or resume it from its last whole checkpoint. Its data lies there already.

    ``code`` is the notebook's own that takes part. The worker is told its hash, and executes no other: what a stranger has left in
    a run's folder is never run.

    The worker gets the lock handed over while it is held, so there is no moment at which the run seems dead; it lives in a
    process session of its own, so that neither an interrupt nor a restart of the kernel reaches it.
    Raises `TrainingError` when the run lives.
    """
    lock = Lock(paths.lock)
    if not _acquired(lock):
        raise TrainingError(f"the run in {paths.folder.name} is going on already", "follow it, or ask it to stop")
    try:
        _mend(paths.events)
        paths.stop.unlink(missing_ok=True)
        paths.result.unlink(missing_ok=True)
        paths.rendezvous.unlink(missing_ok=True)
        write_json(paths.spec, dict(spec))
        with disk_errors(paths.log):
            given = dict(environment if environment is not None else worker_environment())
            _start(paths, lock, given | _handed_over(paths, code), tracking.environment(spec))
    finally:
        lock.release()


def _handed_over(paths: RunPaths, code: str | None) -> dict[str, str]:
    """Put the notebook's code into the folder; the hash of it that the worker is told."""
    if code is None:
        paths.code.unlink(missing_ok=True)
        return {}
    paths.code.write_text(code, encoding="utf-8")
    return {CODE: hashlib.sha256(code.encode()).hexdigest()}


def _acquired(lock: Lock) -> bool:
    """Take the lock. Others who ask whether the run lives hold it for a moment each: so one refusal is not believed."""
    for _ in range(10):
        if lock.acquire():
            return True
        time.sleep(0.02)
    return False


def _start(paths: RunPaths, lock: Lock, environment: dict[str, str], trackers: Mapping[str, str]) -> None:
    folder = paths.folder.resolve()
    with paths.log.open("ab") as log, open(os.devnull, "rb") as nothing:
        streams = (nothing.fileno(), log.fileno(), log.fileno())
        server, held = warm.at_hand(environment), {LOCK_FD: lock.fileno()}
        environment |= trackers
        if server and server.start("train", [str(folder)], environment=environment, folder=folder, streams=streams, passed=held):
            return
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "nbdream.workers.train", str(folder)],
            env={**environment, LOCK_FD: str(lock.fileno())},
            cwd=folder,
            stdin=nothing,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )
    # Nobody waits for the run, but somebody must wait for the process, or it stays as a zombie while the kernel lives.
    threading.Thread(target=process.wait, name="nbdream-run-reaper", daemon=True).start()


def worker_environment(user_path: Path | None = None) -> dict[str, str]:
    """The environment of a worker: what Python, Hugging Face and the devices need, and no credential but the Hub's.

    ``user_path`` (default: the working directory) is where the notebook's own modules lie. The worker appends it *last*: a
    file of the user's named like a library's module must not replace it.
    """
    kept = {name: value for name, value in os.environ.items() if _passes(name)}
    user = str((user_path or Path.cwd()).resolve())
    kept |= {"PYTHONPATH": os.pathsep.join(_module_paths(user)), USER_PATH: user}
    kept |= {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    return kept


def _passes(name: str) -> bool:
    if name in PASSED_CREDENTIALS:
        return True
    return (name in PASSED or name.startswith(PASSED_PREFIXES)) and not name.upper().endswith(CREDENTIALS)


def _module_paths(user: str) -> list[str]:
    """The kernel's PYTHONPATH without the notebook's folder, and where nbdream lies unless it is installed."""
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and os.path.realpath(entry) != user]
    root = str(Path(__file__).resolve().parents[2])
    installed = {os.path.realpath(entry) for entry in (*site.getsitepackages(), sysconfig.get_path("purelib"))}
    return [*given, *([] if root in installed or root in given else [root])]


def alive(paths: RunPaths) -> bool:
    """Whether a process of the run lives."""
    return Lock(paths.lock).is_taken()


def stopping(paths: RunPaths) -> bool:
    """Whether the run lives and has been asked to stop."""
    return paths.stop.exists() and alive(paths)


def ask_to_stop(paths: RunPaths) -> None:
    """Ask the run to save a checkpoint and end, at the end of its current step. Returns at once."""
    if alive(paths):
        with disk_errors(paths.stop):
            paths.stop.touch()


def events(paths: RunPaths) -> list[dict[str, Any]]:
    """Everything that the run has said so far; `BrokenFileError` when it is no list of events."""
    found, position = read_lines(paths.events)
    _check_rest(paths.events, position)
    return found


def result(paths: RunPaths) -> dict[str, Any] | None:
    """How the run ended (``state``: done, stopped, failed), or None while it lives or has never run."""
    if alive(paths):
        return None
    try:
        return read_object(paths.result)
    except FileNotFoundError:
        pass
    if not paths.spec.exists():
        return None
    message, hint = "the run ended without a word", "it was killed, or the machine went down: run the cell again to resume"
    if shutil.disk_usage(paths.folder).free < LAST_WORDS:
        message, hint = f"the disk of {paths.folder} is full", "free some space and run the cell again: it resumes"
    told = {"message": message, "hint": f"{hint} from the last checkpoint", "log_tail": log_tail(paths)}
    return {"state": "failed", "rank": None, "exit_code": None, **told}


def follow(
    paths: RunPaths,
    on_event: Callable[[dict[str, Any]], None],
    stop: threading.Event | None = None,
    leaves: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Hand every event of the run to ``on_event``, from the first one on, until the run has ended; how it ended.

    When ``stop`` is set, the run is asked to stop and ``{"state": "stopping"}`` is returned at once; where who follows ``leaves``,
    the run goes on: ``{"state": "left"}``. Who has trained is likely to train again: a warm server is prepared, now that its imports
    take nothing away from this run.
    """
    try:
        return _follow(paths, on_event, stop, leaves)
    finally:
        warm.prepare(worker_environment)


def _follow(
    paths: RunPaths, on_event: Callable[[dict[str, Any]], None], stop: threading.Event | None, leaves: Callable[[], bool]
) -> dict[str, Any]:
    position = 0
    while True:
        living = alive(paths)  # asked before reading: what is written before the lock goes is then read
        found, position = read_lines(paths.events, position)
        for event in found:
            on_event(event)
        if not living:
            _check_rest(paths.events, position)
            return result(paths) or {"state": "absent"}
        if stop is None:
            time.sleep(POLL)
        elif stop.wait(POLL):
            if leaves():
                return {"state": "left"}
            ask_to_stop(paths)
            return {"state": "stopping"}


def living(objects: Path) -> dict[str, RunPaths]:
    """The runs that live in a session's folder of objects, by name."""
    found = {}
    for lock in sorted(objects.glob("*/run.lock")):
        paths = RunPaths(lock.parent)
        if alive(paths):
            with contextlib.suppress(FileNotFoundError):  # it is being started
                found[str(read_object(paths.spec).get("name"))] = paths
    return found


def wait_until_dead(paths: RunPaths, timeout: float | None = None) -> bool:
    """Return when no process of the run lives; False when ``timeout`` seconds were not enough."""
    end = None if timeout is None else time.monotonic() + timeout
    while alive(paths):
        if end is not None and time.monotonic() > end:
            return False
        time.sleep(POLL)
    return True


def log_tail(paths: RunPaths, lines: int = 20) -> list[str]:
    """The last lines of the log."""
    try:
        with paths.log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []


def _mend(events_path: Path) -> None:
    """Cut off a last line that a killed process left unfinished, lest the next one be glued to it."""
    found, position = read_lines(events_path)
    _check_rest(events_path, position)
    if found or events_path.exists():
        with disk_errors(events_path):
            os.truncate(events_path, position)


def _check_rest(path: Path, position: int) -> None:
    """`BrokenFileError` unless what follows the whole lines could be the beginning of one."""
    try:
        with path.open("rb") as file:
            file.seek(position)
            begins = file.read(2)
    except FileNotFoundError:
        return
    if not b'{"'.startswith(begins[:2]):
        raise BrokenFileError(path, "it is not a list of events")
