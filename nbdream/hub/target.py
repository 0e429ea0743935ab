"""Where a publication goes: a repository of the Hub or a folder; and the one way to bring it up to date."""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nbdream.errors import ArgumentError, BrokenFileError, HubError
from nbdream.files import disk_errors, read_object, write_atomic
from nbdream.hub.errors import Conflict, hub_errors, status
from nbdream.optional import require
from nbdream.secrets import remember

Content = Path | bytes
CARD = "nbdream.json"
README = "README.md"
CROISSANT = "croissant.json"
CRATE = "ro-crate-metadata.json"
TRIES = 6
BUSY = (409, 412, 429, 500, 502, 503, 504)
"""Answers to a commit after which the head is read again and the commit tried anew."""


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


class Target(Protocol):
    """A place to publish to."""

    url: str
    repo_id: str
    address: str
    """Where others find it; empty for a folder."""

    def link(self, path: str) -> str:
        """Where a file of it can be read: an address, or for a folder the path within it."""

    def head(self) -> Head:
        """What is there now."""

    def read(self, path: str, head: Head) -> str | None:
        """A text file of ``head``, or None."""

    def commit(self, files: Mapping[str, Content], gone: list[str], message: str, head: Head) -> None:
        """Write and delete files, all at once; `Conflict` when ``head`` is no longer what is there."""


def target(repo_id: str, kind: str, *, branch: str | None, private: bool, token: str | None) -> Target:
    """The folder or the repository that ``repo_id`` names; the repository is made when it is missing."""
    if is_folder(repo_id):
        return FolderTarget(Path(repo_id).expanduser())
    return HubTarget(repo_id, kind, branch=branch, private=private, token=token)


def is_folder(repo_id: str) -> bool:
    """Whether ``repo_id`` names a folder of this machine."""
    return repo_id.startswith(("/", "~", "./", "../")) or repo_id in (".", "..")


def update(place: Target, build: Callable[[Head, str | None], Change], message: str) -> bool:
    """Bring ``place`` up to date in one commit; False when nothing had to be done.

    ``build`` gives the files, made for what is there and for its README. After a conflict all is read again.
    """
    for attempt in range(TRIES):
        head = place.head()
        change = build(head, place.read(README, head))
        files = {path: content for path, content in change.files.items() if not head.holds(path, content)}
        gone = sorted(path for path in head.files if path not in change.files and change.is_stale(path))
        if not files and not gone:
            return False
        try:
            place.commit(files, gone, message, head)
        except Conflict as conflict:
            if attempt == TRIES - 1:
                raise conflict.error from conflict
            time.sleep(min(8.0, 0.1 * 4**attempt) * random.uniform(0.5, 1.5))
        else:
            return True
    raise AssertionError("unreachable")


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
        if folder.is_dir() and any(folder.iterdir()) and not _is_ours(folder):
            raise ArgumentError(f"{folder} is not empty and was not published by nbdream", "publish to a folder of its own")

    def link(self, path: str) -> str:
        """The path within the folder, which may be moved and sent."""
        return path

    def head(self) -> Head:
        """What is there now."""
        paths = [path for path in self.folder.rglob("*") if path.is_file()] if self.folder.is_dir() else []
        return Head("", {path.relative_to(self.folder).as_posix(): sha256(path) for path in paths})

    def read(self, path: str, head: Head) -> str | None:
        """A text file of the folder, or None."""
        return (self.folder / path).read_text(encoding="utf-8") if path in head.files else None

    def commit(self, files: Mapping[str, Content], gone: list[str], message: str, head: Head) -> None:
        """Write the card first, so that a folder left half-way is still known as ours, and the README last."""
        for path in sorted(files, key=lambda name: (name != CARD, name == README, name)):
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


class HubTarget:
    """A repository of the Hub."""

    def __init__(self, repo_id: str, kind: str, *, branch: str | None, private: bool, token: str | None) -> None:
        hub = require("huggingface_hub", "hub")
        remember(token, "the Hub token")
        token = token or hub.get_token()
        if not token:
            raise HubError("there is no token for the Hub", "set HF_TOKEN, run `hf auth login`, or publish to a folder: ./…")
        remember(token, "the Hub token")
        self._api = hub.HfApi(token=token)
        self._at: dict[str, Any] = {"repo_type": kind, "revision": branch}
        with hub_errors(repo_id):
            made = self._api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True)
            self.repo_id = str(made.repo_id)
            if branch:
                self._api.create_branch(self.repo_id, branch=branch, repo_type=kind, exist_ok=True)
        self.address = self.url = str(made) + (f"/tree/{branch}" if branch else "")

    def link(self, path: str) -> str:
        """The address of a file on the branch."""
        hub = require("huggingface_hub", "hub")
        return str(hub.hf_hub_url(self.repo_id, path, **self._at))

    def head(self) -> Head:
        """What the branch holds now."""
        with hub_errors(self.repo_id):
            oid = str(self._api.repo_info(self.repo_id, **self._at).sha)
            nodes = self._api.list_repo_tree(self.repo_id, recursive=True, repo_type=self._at["repo_type"], revision=oid)
            # A folder of the tree has no blob.
            files = {node.path: node.lfs.sha256 if node.lfs else node.blob_id for node in nodes if hasattr(node, "blob_id")}
        return Head(oid, files)

    def read(self, path: str, head: Head) -> str | None:
        """A text file of ``head``, or None."""
        if path not in head.files:
            return None
        with hub_errors(self.repo_id):
            local = self._api.hf_hub_download(self.repo_id, path, repo_type=self._at["repo_type"], revision=head.oid)
        return Path(local).read_text(encoding="utf-8")

    def commit(self, files: Mapping[str, Content], gone: list[str], message: str, head: Head) -> None:
        """Upload what the Hub does not have and commit, on top of ``head`` and nothing else."""
        hub = require("huggingface_hub", "hub")
        operations = [hub.CommitOperationAdd(path, content) for path, content in sorted(files.items())]
        operations += [hub.CommitOperationDelete(path, is_folder=False) for path in gone]
        try:
            with hub_errors(self.repo_id):
                self._api.create_commit(self.repo_id, operations, commit_message=message, parent_commit=head.oid, **self._at)
        except HubError as error:
            if status(error) in BUSY:
                raise Conflict(error) from error
            raise


def sha256(content: Content) -> str:
    """The sha256 of a file or of bytes."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_oid(content: Content) -> str:
    """The name that git gives a file or bytes."""
    data = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _is_ours(folder: Path) -> bool:
    try:
        return "data_card" in read_object(folder / CARD)
    except (FileNotFoundError, BrokenFileError):
        return False
