"""Where a publication goes: a repository of the Hub or a folder; and the one way to bring it up to date."""

from __future__ import annotations

import functools
import hashlib
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nbdream.errors import ArgumentError, BrokenFileError
from nbdream.files import disk_errors, read_object, write_atomic
from nbdream.hub.errors import Conflict

Content = Path | bytes
CARD = "nbdream.json"
README = "README.md"
CROISSANT = "croissant.json"
CRATE = "ro-crate-metadata.json"
TRIES = 6
Say = Callable[[str], None]


@dataclass(frozen=True)
class Head:
    """What a target holds: each file with its digest (git's for small text, sha256 for the rest)."""

    oid: str
    files: Mapping[str, str]

    def holds(self, path: str, content: Content) -> bool:
        """Whether the file is there with exactly this content."""
        stored = self.files.get(path)
        return stored is not None and stored == (git_oid(content) if len(stored) == 40 else sha256(content))


@dataclass(frozen=True)
class Change:
    """The files that a target shall hold, and which of its other files are ours and in the way."""

    files: Mapping[str, Content]
    is_stale: Callable[[str], bool]

    def new(self, head: Head) -> dict[str, Content]:
        """The files that ``head`` does not hold like this."""
        return {path: content for path, content in self.files.items() if not head.holds(path, content)}

    def gone(self, head: Head) -> list[str]:
        """The files of ``head`` that are in the way."""
        return sorted(path for path in head.files if path not in self.files and self.is_stale(path))


class Target(Protocol):
    """A place to publish to."""

    url: str
    repo_id: str
    address: str
    """Where others find it; empty for a folder."""

    def link(self, path: str) -> str:
        """Where a file of it can be read: an address, or for a folder the path within it."""

    def look(self) -> Head | None:
        """What is there now, without changing anything; None where there is nothing yet."""

    def told(self) -> str:
        """In words, what was found there."""

    def open(self) -> None:
        """Make it where it is missing."""

    def head(self) -> Head:
        """What is there now."""

    def read(self, path: str, head: Head) -> str | None:
        """A text file of ``head``, or None."""

    def commit(self, files: Mapping[str, Content], gone: list[str], message: str, head: Head, say: Say) -> None:
        """Write and delete files, all at once; `Conflict` when it did not go through and may at another try."""


def is_folder(repo_id: str) -> bool:
    """Whether ``repo_id`` names a folder of this machine."""
    return repo_id.startswith(("/", "~", "./", "../")) or repo_id in (".", "..")


def update(place: Target, build: Callable[[Head, str | None], Change], message: str, say: Say) -> bool:
    """Bring ``place`` up to date in one commit; False when nothing had to be done.

    ``build`` gives the files, made for what is there and for its README. After a conflict all is read again.
    """
    place.open()
    for attempt in range(TRIES):
        head = place.head()
        change = build(head, place.read(README, head))
        files, gone = change.new(head), change.gone(head)
        if not files and not gone:
            return False
        try:
            place.commit(files, gone, message, head, say)
        except Conflict as conflict:
            if attempt == TRIES - 1:
                raise conflict.error from conflict
            say(f"{conflict.error.message}: trying again")
            pause(attempt)
        else:
            return True
    raise AssertionError("unreachable")


def pause(attempt: int) -> None:
    """Wait before the next try, longer each time."""
    time.sleep(min(8.0, 0.1 * 4**attempt) * random.uniform(0.5, 1.5))


class FolderTarget:
    """A folder: empty, new, or one that nbdream published to before."""

    address = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)
        # What the card calls it; the folders above are this machine's.
        self.repo_id = f"./{folder.absolute().name}"
        if folder.exists() and not folder.is_dir():
            raise ArgumentError(f"{folder} is a file", "publish to a folder of its own")
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()) and not _is_ours(folder):
            raise ArgumentError(f"{folder} is not empty and was not published by nbdream", "publish to a folder of its own")

    def link(self, path: str) -> str:
        """The path within the folder, which may be moved and sent."""
        return path

    def look(self) -> Head | None:
        """What is there now, if anything."""
        return self.head() if self.folder.is_dir() else None

    def told(self) -> str:
        """Whether the folder is new."""
        return "a folder that nbdream published to before" if self.folder.is_dir() and any(self.folder.iterdir()) else "a new folder"

    def open(self) -> None:
        """Nothing: folders are made with their files."""

    def head(self) -> Head:
        """What is there now."""
        paths = [path for path in self.folder.rglob("*") if path.is_file()] if self.folder.is_dir() else []
        return Head("", {path.relative_to(self.folder).as_posix(): sha256(path) for path in paths})

    def read(self, path: str, head: Head) -> str | None:
        """A text file of the folder, or None."""
        return (self.folder / path).read_text(encoding="utf-8") if path in head.files else None

    def commit(self, files: Mapping[str, Content], gone: list[str], message: str, head: Head, say: Say) -> None:
        """Write the card first, so that a folder left half-way is still known as ours, and the README last."""
        for path in sorted(files, key=lambda name: (not name.endswith(CARD), name == README, name)):
            self._write(self.folder / path, files[path])
        for path in gone:
            (self.folder / path).unlink()

    def _write(self, path: Path, content: Content) -> None:
        if isinstance(content, bytes):
            write_atomic(path, content)
            return
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.part")
            shutil.copyfile(content, beside)
            beside.replace(path)


def size(content: Content) -> int:
    """The bytes of a file."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def shown(count: int) -> str:
    """A number of bytes as a person reads it."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def sha256(content: Content) -> str:
    """The sha256 of a file or of bytes."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    state = content.stat()
    return _sha256(content, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _sha256(path: Path, size: int, changed: int) -> str:
    """The digest of a file, read once as long as its size and time stay the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_oid(content: Content) -> str:
    """The name that git gives a file or bytes."""
    data = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _is_ours(folder: Path) -> bool:
    for card in (folder / CARD, *sorted(folder.glob(f"*/{CARD}"))):
        try:
            if "data_card" in read_object(card):
                return True
        except (FileNotFoundError, BrokenFileError):
            continue
    return False
