"""One committer for the whole kernel: replies that arrive while it writes go out together in its next batch."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nbdream.cache import CallCache
from nbdream.errors import NbDreamError

BATCH = 1000
SETTLING = 1.0
"""Seconds after which what was written survives a power cut, not only the end of the process."""

Entry = tuple[str, dict[str, Any], "asyncio.Future[dict[str, Any] | None]"]


class Commits:
    """Puts replies on disk, in a thread of its own that goes from batch to batch without waiting for the engine's loop."""

    def __init__(self, cache: CallCache) -> None:
        self._cache = cache
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nbdream-commits")
        self._settler = ThreadPoolExecutor(1, thread_name_prefix="nbdream-settling")
        self._lock = threading.Lock()
        self._waiting: list[Entry] = []
        self._writing = False
        """Whether the thread is at work, or is about to be."""
        self._written = False
        """Whether anything was."""
        # What follows is touched on the loop only.
        self._unsettled = 0
        self._flushes: list[asyncio.Future[None]] = []
        self._settling: asyncio.TimerHandle | None = None

    def put(self, key: str, value: dict[str, Any]) -> asyncio.Future[dict[str, Any] | None]:
        """Have ``value`` stored; the future is done when it is on disk: None, or what was stored there before.

        A caller who goes away (a cancelled task) takes nothing back: what was handed over is written.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[dict[str, Any] | None] = loop.create_future()
        self._unsettled += 1
        with self._lock:
            self._waiting.append((key, value, done))
            idle, self._writing = not self._writing, True
        if idle:
            loop.call_soon(self._begin, loop)  # with those that arrive in the same breath
        return done

    async def flush(self) -> None:
        """Return when everything handed over so far is on disk, or has failed to get there."""
        if self._unsettled:
            flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._flushes.append(flushed)
            await flushed

    def close(self) -> None:
        """End the threads; what was written is settled."""
        self._settler.shutdown(wait=True)
        self._thread.shutdown(wait=True)
        if self._written:
            with contextlib.suppress(NbDreamError):  # closing the file does the same, unless another kernel has it open
                self._cache.settle()

    # --- on the loop --------------------------------------------------------------------------------------------------

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._thread.submit(self._write, loop)
        except RuntimeError as error:  # Python ends, and takes no more work for its threads
            with self._lock:
                batch, self._waiting, self._writing = self._waiting, [], False
            self._done(batch, error)

    def _done(self, batch: list[Entry], outcome: dict[str, dict[str, Any]] | Exception) -> None:
        for key, _, done in batch:
            if done.done():
                continue
            if isinstance(outcome, Exception):
                done.set_exception(outcome)
            else:
                done.set_result(outcome.get(key))
        self._unsettled -= len(batch)
        if not self._unsettled:
            flushes, self._flushes = self._flushes, []
            for flushed in flushes:
                if not flushed.done():
                    flushed.set_result(None)
        if self._settling is None and not isinstance(outcome, Exception):
            self._settling = asyncio.get_running_loop().call_later(SETTLING, self._settle_file)

    def _settle_file(self) -> None:
        with contextlib.suppress(RuntimeError):  # Python ends, and takes no more work for its threads: `close` sees to it
            self._settler.submit(self._settle)
            self._settling = None

    # --- in the threads -----------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Settle most of what was written while the next batches are, and the rest between two of them: so the log begins anew.

        Where it fails, the next batch does, and says why.
        """
        self._cache.settle()
        self._thread.submit(self._cache.settle)

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        """Write the next batch, and have the one after it written."""
        with self._lock:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
        self._put(batch, loop)
        with self._lock:
            self._writing = more = bool(self._waiting)
        if more:
            try:
                self._thread.submit(self._write, loop)
            except RuntimeError:  # Python ends, and takes no more work for its threads: what has arrived is paid for
                with self._lock:
                    batch, self._waiting, self._writing = self._waiting, [], False
                self._put(batch, loop)

    def _put(self, batch: list[Entry], loop: asyncio.AbstractEventLoop) -> None:
        outcome: dict[str, dict[str, Any]] | Exception
        try:
            outcome = self._cache.put([(key, value) for key, value, _ in batch])
        except Exception as error:
            outcome = error
        else:
            self._written = True
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile: what is written is written
            loop.call_soon_threadsafe(self._done, batch, outcome)
