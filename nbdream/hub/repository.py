"""A repository of the Hub as a place to publish to, and which place a name means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nbdream.errors import HubError
from nbdream.hub.errors import Conflict, hub_errors, is_cut_off, status
from nbdream.hub.target import TRIES, Content, FolderTarget, Head, Say, Target, is_folder, pause, shown
from nbdream.optional import require
from nbdream.secrets import remember

BUSY = (429, 500, 502, 503, 504)
"""Answers after which the same is asked again."""
MOVED = (409, 412)
"""Answers to a commit that is no longer on top of what is there."""
TOGETHER = 500_000_000
"""Bytes of files that are uploaded before the next word about it."""


def target(repo_id: str, kind: str, *, branch: str | None, private: bool, token: str | None, only_look: bool = False) -> Target:
    """The folder or the repository that ``repo_id`` names; ``only_look``: nothing will be written, which takes no token."""
    if is_folder(repo_id):
        return FolderTarget(Path(repo_id).expanduser())
    return HubTarget(repo_id, kind, branch=branch, private=private, token=token, only_look=only_look)


class HubTarget:
    """A repository of the Hub."""

    def __init__(self, repo_id: str, kind: str, *, branch: str | None, private: bool, token: str | None, only_look: bool = False) -> None:
        hub = require("huggingface_hub", "hub")
        remember(token, "the Hub token")
        token = token or hub.get_token()
        if not token and not only_look:
            raise HubError("there is no token for the Hub", "set HF_TOKEN, run `hf auth login`, or publish to a folder: ./…")
        remember(token, "the Hub token")
        with hub_errors(repo_id):
            hub.utils.validate_repo_id(repo_id)
        self._api = hub.HfApi(token=token or False)
        self._at: dict[str, Any] = {"repo_type": kind, "revision": branch}
        self._private, self._is_there, self._has_branch = private, False, False
        self.repo_id = repo_id
        if "/" not in repo_id and token:
            self.repo_id = f"{self._asked(self._api.whoami)['name']}/{repo_id}"
        prefix = "" if kind == "model" else f"{kind}s/"
        self.address = self.url = f"{self._api.endpoint}/{prefix}{self.repo_id}" + (f"/tree/{branch}" if branch else "")

    def link(self, path: str) -> str:
        """The address of a file on the branch."""
        hub = require("huggingface_hub", "hub")
        return str(hub.hf_hub_url(self.repo_id, path, **self._at))

    def look(self) -> Head | None:
        """What the branch holds now; None where there is no such repository, or no such branch."""
        errors = require("huggingface_hub", "hub").errors
        try:
            info = self._asked(lambda: self._info(None))
        except HubError as error:
            if isinstance(error.__cause__, errors.RepositoryNotFoundError):
                return None
            raise
        self._is_there = True
        if self._private and not info.private:
            raise HubError(f"{self.repo_id} is public, and was to be private", "make it private in its settings, or publish elsewhere")
        self._private = bool(info.private)
        try:
            head = self.head()
        except HubError as error:
            if isinstance(error.__cause__, errors.RevisionNotFoundError):
                return None
            raise
        self._has_branch = True
        return head

    def told(self) -> str:
        """Whether it is new, and who can read it."""
        kind = "private" if self._private else "public"
        if not self._is_there:
            return f"a new {kind} {self._at['repo_type']}"
        return f"a {kind} {self._at['repo_type']} that is there" + (
            "" if self._has_branch else f", without the branch {self._at['revision']}"
        )

    def open(self) -> None:
        """Make the repository and the branch where they are missing."""
        kind, branch = self._at["repo_type"], self._at["revision"]
        if not self._is_there:
            self._asked(lambda: self._api.create_repo(self.repo_id, repo_type=kind, private=self._private, exist_ok=True))
            self._is_there = True
        if branch and not self._has_branch:
            self._asked(lambda: self._api.create_branch(self.repo_id, branch=branch, repo_type=kind, exist_ok=True))
            self._has_branch = True

    def head(self) -> Head:
        """What the branch holds now."""
        oid = str(self._asked(lambda: self._info(self._at["revision"])).sha)
        # A folder of the tree has no blob.
        nodes = self._asked(
            lambda: list(self._api.list_repo_tree(self.repo_id, recursive=True, repo_type=self._at["repo_type"], revision=oid))
        )
        return Head(oid, {node.path: node.lfs.sha256 if node.lfs else node.blob_id for node in nodes if hasattr(node, "blob_id")})

    def read(self, path: str, head: Head) -> str | None:
        """A text file of ``head``, or None."""
        if path not in head.files:
            return None
        kind = self._at["repo_type"]
        local = self._asked(lambda: self._api.hf_hub_download(self.repo_id, path, repo_type=kind, revision=head.oid))
        return Path(local).read_text(encoding="utf-8")

    def commit(self, files: Mapping[str, Content], gone: list[str], message: str, head: Head, say: Say) -> None:
        """Upload what the Hub does not have and commit, on top of ``head`` and nothing else.

        What was uploaded stays on the Hub: when this is killed, the next try sends the rest.
        """
        hub = require("huggingface_hub", "hub")
        added = [hub.CommitOperationAdd(path, content) for path, content in sorted(files.items())]
        removed = [hub.CommitOperationDelete(path, is_folder=False) for path in gone]
        try:
            with hub_errors(self.repo_id):
                for batch, sentence in _batches([add for add in added if isinstance(files[add.path_in_repo], Path)]):
                    say(sentence)
                    self._api.preupload_lfs_files(self.repo_id, batch, num_threads=UPLOADS, **self._at)
                self._api.create_commit(self.repo_id, [*added, *removed], commit_message=message, parent_commit=head.oid, **self._at)
        except HubError as error:
            if status(error) in (*BUSY, *MOVED) or is_cut_off(error):
                raise Conflict(error) from error
            raise

    def _info(self, revision: str | None) -> Any:
        return self._api.repo_info(self.repo_id, repo_type=self._at["repo_type"], revision=revision)

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """What the Hub answers; while it is busy it is asked again, which its client does for uploads only."""
        for attempt in range(TRIES):
            try:
                with hub_errors(self.repo_id):
                    return ask()
            except HubError as error:
                if status(error) not in BUSY or attempt == TRIES - 1:
                    raise
                pause(attempt)
        raise AssertionError("unreachable")


UPLOADS = 5
"""Files that are uploaded at a time."""


def _batches(adds: list[Any]) -> Iterator[tuple[list[Any], str]]:
    """The files to upload, some at a time, each time with a sentence on how far it is."""
    sizes = [add.upload_info.size for add in adds]
    done = 0
    while done < len(adds):
        end = done + 1
        while end < len(adds) and sum(sizes[done : end + 1]) <= TOGETHER:
            end += 1
        which = f"file {done + 1}" if end == done + 1 else f"files {done + 1} to {end}"
        yield adds[done:end], f"uploading {which} of {len(adds)}: {shown(sum(sizes[:done]))} of {shown(sum(sizes))} are there"
        done = end
