"""One committer for the whole kernel: replies that arrive while it writes go out together in its next batch."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nbdream.cache import CallCache
from nbdream.errors import NbDreamError

BATCH = 200
SETTLING = 5.0
"""Seconds after which what was written survives a power cut, not only the end of the process."""

Entry = tuple[str, dict[str, Any], "asyncio.Future[dict[str, Any] | None]"]


class Commits:
    """Puts replies on disk. Lives on the engine's loop; the writing is done by a thread of its own."""

    def __init__(self, cache: CallCache) -> None:
        self._cache = cache
        self._waiting: list[Entry] = []
        self._writer: asyncio.Task[None] | None = None
        self._settling: asyncio.TimerHandle | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nbdream-commits")

    def put(self, key: str, value: dict[str, Any]) -> asyncio.Future[dict[str, Any] | None]:
        """Have ``value`` stored; the future is done when it is on disk: None, or what was stored there before.

        A caller who goes away (a cancelled task) takes nothing back: what was handed over is written.
        """
        done: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, value, done))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        return done

    async def flush(self) -> None:
        """Return when everything handed over so far is on disk, or has failed to get there."""
        while self._writer is not None:
            await asyncio.wait([self._writer])

    def close(self) -> None:
        """End the thread; what was written is settled."""
        self._thread.shutdown(wait=True)
        if self._settling is not None:
            with contextlib.suppress(NbDreamError):  # closing the file does the same, unless another kernel has it open
                self._cache.settle()

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                try:
                    taken = await loop.run_in_executor(self._thread, self._cache.put, [(key, value) for key, value, _ in batch])
                except Exception as error:
                    _settle(batch, error)
                else:
                    _settle(batch, taken)
                    if self._settling is None:
                        self._settling = loop.call_later(SETTLING, self._settle_file)
        finally:
            self._writer = None

    def _settle_file(self) -> None:
        with contextlib.suppress(RuntimeError):  # Python ends, and takes no more work for its threads: `close` sees to it
            self._thread.submit(self._cache.settle)  # where it fails, the next batch does, and says why
            self._settling = None


def _settle(batch: list[Entry], outcome: dict[str, dict[str, Any]] | Exception) -> None:
    for key, _, done in batch:
        if done.done():
            continue
        if isinstance(outcome, Exception):
            done.set_exception(outcome)
        else:
            done.set_result(outcome.get(key))
