"""Files that are whole or absent: atomic writes, JSON lines, locks, safe names."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import unicodedata
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from nbdream import secrets
from nbdream.errors import BrokenFileError, SessionError


@contextlib.contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turn what the disk refuses (full, read-only, forbidden) into a `SessionError` that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SessionError(f"the disk of {path} is full", "free some space and run the cell again: nothing is lost") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise SessionError(f"{path} cannot be written", "open a session elsewhere: %dream open ./another-folder") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP):
            raise SessionError(f"{path} cannot be written: {error.strerror}", "look at the path, or give another one") from error
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` beside ``path``, then rename: a reader sees the old file or the new one, never half of it."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)  # less the umask: as the user's files are
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data.encode(errors="surrogatepass") if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; known credentials are masked."""
    write_atomic(path, json.dumps(secrets.scrub(value), indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in ``path``; `BrokenFileError` when it is not one, ``FileNotFoundError`` when it is absent."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BrokenFileError(path, "it is not JSON") from error


def read_text(path: Path) -> str:
    """The text in ``path``; `BrokenFileError` when it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BrokenFileError(path, "it is not text") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; `BrokenFileError` when it holds anything else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise BrokenFileError(path, "it is not a JSON object")
    return value


def append_line(path: Path, value: Any) -> None:
    """Append ``value`` as one JSON line in a single write, so that lines of two writers do not mix; known credentials are masked."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        line = (json.dumps(secrets.scrub(value), ensure_ascii=False) + "\n").encode(errors="surrogatepass")
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            written = os.write(fd, line)
            if written < len(line):  # the disk is full, and half a line would spoil the next one
                os.ftruncate(fd, os.fstat(fd).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(fd)


def read_lines(path: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects in the lines of ``path`` from byte ``start``, and the byte where the next read begins.

    A last line without its newline is still being written and is left for the next read.
    Raises `BrokenFileError` when a whole line is not a JSON object.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
    except FileNotFoundError:
        return [], start
    whole = data.rfind(b"\n") + 1
    values = []
    for line in data[:whole].splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BrokenFileError(path, "one of its lines is not JSON") from error
        if not isinstance(value, dict):
            raise BrokenFileError(path, "one of its lines is not a JSON object")
        values.append(value)
    return values, start + whole


class Lock:
    """An advisory lock on a file (``flock``): held by a process that lives, free the moment it dies.

    A pid is no proof of life (pids are reused, folders are copied); this is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self, *, wait: bool = False) -> bool:
        """Take the lock; False when another holds it and ``wait`` is not set."""
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def fileno(self) -> int:
        """The descriptor that holds the lock: a child process that inherits it holds the lock as well, until both are gone."""
        if self._fd is None:
            raise ValueError("the lock is not held")
        return self._fd

    def __enter__(self) -> Self:
        self.acquire(wait=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def is_taken(self) -> bool:
        """Whether any process, this one included, holds the lock. Leaves no file behind."""
        if self.held:
            return True
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who ask at once do not take each other for a holder
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False


def safe_name(name: str) -> str:
    """``name`` as a file name: letters, digits, ``. _ -``; never empty, hidden or longer than 120 bytes."""
    plain = unicodedata.normalize("NFKC", name).strip()
    kept = re.sub(r"[^\w.-]+", "-", plain, flags=re.UNICODE).strip("-.")
    return kept.encode()[:120].decode(errors="ignore") or "unnamed"
