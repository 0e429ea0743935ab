"""The jobs of batch services that are under way, as they stand on disk: from right before one is handed in until it is collected.

A file without the provider's id is an *intent*: the job may or may not have been accepted, and is looked for before its requests are
sent again. Whoever hands in holds the lock of that model's jobs, so that two kernels never send the same requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nbdream.errors import BrokenFileError
from nbdream.files import Lock, disk_errors, read_object, write_json

FORMAT = 1
LOCK_TICK = 0.1
"""Seconds between two tries to take the lock from another kernel."""
_TAG = re.compile(r"nbdream-[0-9a-f]{20}")


@dataclass(frozen=True, slots=True)
class Record:
    """One job: what was sent, and the provider's id as soon as it is known."""

    tag: str
    model: str
    """The digest of the model's identity."""
    keys: tuple[str, ...]
    """The call keys of its requests, in order: request ``n`` has the id ``tag-n``."""
    params: Mapping[str, Any]
    """The generation parameters, which may tell the price."""
    by: str | None
    made: str
    job: str | None = None

    def key(self, custom_id: str) -> str | None:
        """The call key of one of its requests."""
        tag, _, number = custom_id.rpartition("-")
        known = tag == self.tag and number.isdecimal() and int(number) < len(self.keys)
        return self.keys[int(number)] if known else None

    @property
    def since(self) -> datetime:
        """When it was made."""
        return datetime.fromisoformat(self.made)


def new_tag() -> str:
    """A name for a job that no other has, anywhere."""
    return f"nbdream-{uuid.uuid4().hex[:20]}"


def new_record(tag: str, model: str, keys: list[str], params: Mapping[str, Any], by: str | None) -> Record:
    """The intent of a job."""
    return Record(tag, model, tuple(keys), params, by, datetime.now(UTC).isoformat(timespec="seconds"))


class Records:
    """The folder of the jobs' files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.asynccontextmanager
    async def lock(self, model: str) -> AsyncIterator[None]:
        """Hold the jobs of one model, against other kernels and against other streams of this one."""
        lock = Lock(self._folder / f"{model}.lock")
        while not lock.acquire():  # noqa: ASYNC110 - another process tells no event of ours
            await asyncio.sleep(LOCK_TICK)
        try:
            yield
        finally:
            lock.release()

    def path(self, tag: str) -> Path:
        """Where a job's file lies."""
        return self._folder / f"{tag}.json"

    def of(self, model: str) -> list[Record]:
        """The jobs of one model, the oldest first."""
        found = [record for path in self._folder.glob("nbdream-*.json") if (record := self.read(path.stem)) is not None]
        return sorted((record for record in found if record.model == model), key=lambda record: record.made)

    def read(self, tag: str) -> Record | None:
        """A job, or None when it is no longer under way."""
        path = self.path(tag)
        try:
            stored = read_object(path)
        except FileNotFoundError:
            return None
        if stored.pop("format", None) != FORMAT or not _TAG.fullmatch(tag):
            raise BrokenFileError(path, "it is not the record of a batch of this version", "put it aside: what it says is sent again")
        try:
            record = Record(**{**stored, "tag": tag, "keys": tuple(map(str, stored["keys"]))})
            record.since  # noqa: B018 - a time, or the record is broken
        except (TypeError, KeyError, ValueError) as error:
            raise BrokenFileError(path, "it is not the record of a batch", "put it aside: what it says is sent again") from error
        return record

    def write(self, record: Record) -> None:
        """Put a job on disk."""
        write_json(self.path(record.tag), {"format": FORMAT, **asdict(record)})

    def note(self, record: Record, job: str) -> Record:
        """Put the provider's id on disk."""
        noted = replace(record, job=job)
        self.write(noted)
        return noted

    def remove(self, tag: str) -> None:
        """Forget a job; harmless when another kernel has."""
        with disk_errors(self.path(tag)):
            self.path(tag).unlink(missing_ok=True)

    def known(self, model: str) -> set[str]:
        """The provider's ids of the jobs of one model."""
        return {record.job for record in self.of(model) if record.job is not None}
