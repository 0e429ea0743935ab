"""Every reply that was paid for, under its call key: ``calls.sqlite``, JSON values, shared by all kernels of a session.

The file is a table as ``sqlitedict`` makes it, with JSON values, in WAL mode. What reads and writes it are SQLite's own connections in the
threads of those who ask. ``sqlitedict`` has a thread for each connection, and each time that a statement goes there and its answer comes
back Python makes both threads wait for their turn (5 ms while another one computes): more than the writing takes. Its write path could not
be used anyway: a write that fails is reported to whoever calls next, a commit that fails (a full disk) ends its thread and leaves the
caller waiting for ever, and plain writes replace.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from nbdream import quickjson
from nbdream.errors import BrokenFileError, SessionError
from nbdream.files import Lock, disk_errors

Value = dict[str, Any]
T = TypeVar("T")

TABLE = "calls"
READ_AT_ONCE = 1000
WRITE_AT_ONCE = 2**26
"""Characters of one statement, unless a single reply has more: SQLite takes up to a billion."""
PAGES = 32_768
"""KiB of the file kept in memory: keys are digests, so that a look-up in order of rows is all over the file."""
LOG = 16_000
"""Pages in the log of writes before they are put into the file at once: many replies share a page, which is then written once."""
SMALLEST = 512
"""Bytes of the smallest database there can be."""
MENDED = 2
"""Times that one exchange goes on with a new file."""
PATIENCE = 120.0
"""Seconds of "database is locked" in a row after which another program holds the file for good."""

# The first reply stays; only a failure gives way, and only to a reply. A statement that may change what is there has SQLite keep the
# pages that it touches in a file of their own until it ends, which costs as much as the writing: so it is asked only where a key is taken.
_PUT = "INSERT OR IGNORE INTO calls (key, value) SELECT key, value FROM json_each(?)"
_GIVE_WAY = (
    "INSERT INTO calls (key, value) SELECT key, value FROM json_each(?) WHERE true ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    " WHERE json_extract(calls.value, '$.error') IS NOT NULL AND json_extract(excluded.value, '$.error') IS NULL"
)
# One row holds the whole answer: after each row of an answer SQLite waits for Python, which costs more than reading it. The values are JSON
# already; what is not even text (a pickle, say) is told by a null, which is no reply either.
_READ = (
    "SELECT '{' || group_concat(json_quote(key) || ':' || iif(typeof(value) = 'text', value, 'null')) || '}' FROM calls"
    " WHERE key IN (SELECT value FROM json_each(?))"
)
_PAGE = "SELECT json_group_object(key, json(value)), max(key) FROM (SELECT key, value FROM calls WHERE key > ? ORDER BY key LIMIT ?)"
_PAID = (
    "SELECT json_group_array(json_object('by', paid_by, 'model', model, 'calls', calls, 'failed_calls', failed, 'input_tokens', input,"
    " 'output_tokens', output, 'cost', cost)) FROM (SELECT json_extract(value, '$.by') AS paid_by, json_extract(value, '$.model') AS model,"
    " sum(json_extract(value, '$.cost')) AS cost, count(*) AS calls, sum(json_extract(value, '$.error') IS NOT NULL) AS failed,"
    " coalesce(sum(json_extract(value, '$.usage.input_tokens')), 0) AS input,"
    " coalesce(sum(json_extract(value, '$.usage.output_tokens')), 0) AS output"
    " FROM calls GROUP BY 1, 2, json_extract(value, '$.cost') IS NULL ORDER BY min(rowid))"
)
_HELD = (
    "SELECT json_group_array(json_object('by', paid_by, 'model', model, 'calls', calls, 'failed_calls', failed, 'input_tokens', input,"
    " 'output_tokens', output, 'cost', cost, 'unpriced', unpriced, 'bytes', bytes)) FROM (SELECT json_extract(value, '$.by') AS paid_by,"
    " json_extract(value, '$.model') AS model, count(*) AS calls, sum(json_extract(value, '$.error') IS NOT NULL) AS failed,"
    " coalesce(sum(json_extract(value, '$.usage.input_tokens')), 0) AS input,"
    " coalesce(sum(json_extract(value, '$.usage.output_tokens')), 0) AS output,"
    " coalesce(sum(json_extract(value, '$.cost')), 0.0) AS cost, sum(json_extract(value, '$.cost') IS NULL) AS unpriced,"
    " sum(length(key) + length(value)) AS bytes FROM calls GROUP BY 1, 2 ORDER BY min(rowid))"
)

_ASIDE = "put it aside to begin with an empty one: its replies are then paid for again"

logger = logging.getLogger("nbdream")


class CallCache:
    """The replies of a session. Safe to use from any thread; `put` returns when its rows are on disk.

    A damaged file ends nothing: it is set aside with a warning, and what can be read of it goes into a new one.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._repairing = threading.Lock()
        try:
            self._patiently(self._prepare)
        except _DamagedError as error:
            self._begin_anew(error)
        self._open()

    @classmethod
    def open(cls, path: Path) -> Self:
        """The cache in ``path``, made if there is none; `BrokenFileError` when something else is there."""
        return cls(path)

    def lookup(self, keys: Sequence[str]) -> dict[str, Value]:
        """What is stored under those of ``keys`` that are there."""
        found: dict[str, Value] = {}
        for start in range(0, len(keys), READ_AT_ONCE):
            stored = self._ask(_READ, json.dumps(keys[start : start + READ_AT_ONCE]))[0]
            found |= self._decode(stored or "{}")
        return found

    def put(self, items: Sequence[tuple[str, Value]]) -> dict[str, Value]:
        """Store ``items`` and return when they are on disk: {} or, for keys that were taken, what is stored there.

        The first reply stays; a stored failure gives way to a reply.
        """
        if not items:
            return {}
        wanted = dict(reversed(items))
        stored = _encode(wanted)
        if len(stored) > WRITE_AT_ONCE and len(wanted) > 1:
            parts = list(wanted.items())
            middle = len(parts) // 2
            return self.put(parts[:middle]) | self.put(parts[middle:])
        if self._exchange(lambda: self._writer.write(_PUT, [stored])) == len(wanted):
            return {}
        self._exchange(lambda: self._writer.write(_GIVE_WAY, [stored]))
        return {key: value for key, value in self.lookup(list(wanted)).items() if _encode(value) != _encode(wanted[key])}

    def settle(self) -> None:
        """Have what was stored survive a power cut, too: until then it survives the end of the process. Holds up no other thread."""
        self._exchange(lambda: self._settler.ask("PRAGMA wal_checkpoint(PASSIVE)"))

    def items(self) -> Iterator[tuple[str, Value]]:
        """All keys and values, in the order of their keys."""
        last = ""
        while last is not None:
            page, last = self._ask(_PAGE, last, READ_AT_ONCE)
            yield from sorted(self._decode(page).items())

    def paid(self) -> list[Value]:
        """What the stored replies cost, for each ``by`` (a step's name) and ``model``: calls, failed calls, tokens, dollars.

        Those whose price is not known are entries of their own.
        """
        paid: list[Value] = json.loads(self._ask(_PAID)[0])
        return paid

    def held(self) -> list[Value]:
        """What is stored, for each ``by`` and ``model``: calls, failed calls, tokens, dollars (of those with a price), bytes."""
        held: list[Value] = json.loads(self._ask(_HELD)[0])
        return held

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self.items())

    def __len__(self) -> int:
        return int(self._ask("SELECT count(*) FROM calls")[0])

    def close(self) -> None:
        """Close the file; harmless when it is closed."""
        for connection in (self._settler, self._writer, self._reader):
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- the file -----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Make or check the file with a connection of our own, whose errors arrive where they belong."""
        # SQLite takes a file of a few bytes for an empty one. We must not look into it: closing a file that is open elsewhere in this
        # process takes away the locks by which other kernels know that it is in use.
        with contextlib.suppress(FileNotFoundError):
            if self.path.is_file() and 0 < self.path.stat().st_size < SMALLEST:
                raise _DamagedError(self.path, "it is not a SQLite database")
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE IF NOT EXISTS calls (key TEXT PRIMARY KEY, value BLOB)")
            kinds = connection.execute("SELECT name, type FROM sqlite_master WHERE type IN ('table', 'view', 'trigger')").fetchall()
            columns = [row[1] for row in connection.execute("PRAGMA table_info(calls)")]
        finally:
            connection.close()
        if kinds != [(TABLE, "table")] or columns != ["key", "value"]:
            raise BrokenFileError(self.path, "it is a database of something else", _ASIDE)

    def _open(self) -> None:
        # Three, so that a look-up never waits for another process's transaction, and nothing for the log to be put into the file.
        self._writer, self._reader, self._settler = (self._patiently(lambda: _Connection(self.path)) for _ in range(3))
        self._inode = self.path.stat().st_ino

    def _is_elsewhere(self, inode: int) -> bool:
        """Whether another file lies where ours was: what is written to ours now would be lost."""
        try:
            return os.stat(self.path).st_ino != inode
        except FileNotFoundError:
            return False

    def _mend(self, error: _DamagedError, inode: int) -> None:
        """Go on with a new file after a damaged one; harmless when another thread has seen to it."""
        with self._repairing:
            if self._inode != inode:
                return
            self.close()
            self._begin_anew(error, inode)
            self._open()

    def _begin_anew(self, error: _DamagedError, inode: int | None = None) -> None:
        """Set the file aside, unless another kernel has done it, and begin a new one with the replies that can still be read."""
        with Lock(self.path.with_name(self.path.name + ".lock")):
            if inode is not None and self.path.exists() and self.path.stat().st_ino != inode:
                return
            aside = self.path.with_name(f"{self.path.name}.damaged-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}")
            for suffix in ("", "-wal", "-shm"):
                with disk_errors(self.path), contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
            self._patiently(self._prepare)
            saved = self._save_from(aside)
        logger.warning(
            "%s is damaged (%s): it was set aside as %s. %s replies of it were saved; what is missing is paid for again",
            self.path.name, error.why, aside.name, f"{saved:,}",
        )  # fmt: skip

    def _save_from(self, aside: Path) -> int:
        """Copy the replies that can be read from a damaged file, from both of its ends; how many there are."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as new:
            new.execute("BEGIN")
            for order in ("ASC", "DESC"):
                with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(f"file:{aside}?mode=ro", uri=True)) as old:
                    for key, value in old.execute(f"SELECT key, value FROM calls ORDER BY rowid {order}"):  # noqa: S608 - our own words
                        if isinstance(key, str) and isinstance(value, str) and _is_object(value):
                            new.execute("INSERT OR IGNORE INTO calls VALUES (?, ?)", (key, value))
            new.execute("COMMIT")
            return int(new.execute("SELECT count(*) FROM calls").fetchone()[0])

    def _exchange(self, exchange: Callable[[], T]) -> T:
        """The answer of ``exchange`` over one of the connections; where the file proves damaged, that of the new file."""
        for _ in range(MENDED):
            inode = self._inode
            try:
                if self._is_elsewhere(inode):
                    raise _DamagedError(self.path, "another kernel has set it aside")
                return self._patiently(exchange)
            except _DamagedError as error:
                self._mend(error, inode)
            except SessionError:
                with self._repairing:  # another thread may have closed the connection to mend the file
                    if self._inode == inode:
                        raise
        return self._patiently(exchange)

    def _patiently(self, exchange: Callable[[], T]) -> T:
        """The answer of ``exchange``, tried again while another process holds the file."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self._translated(exchange)
            except _LockedError as error:
                if time.monotonic() > until:
                    hint = "close what has it open and run the cell again"
                    raise SessionError(f"{self.path} is held by another program", hint) from error
                time.sleep(0.02)

    def _translated(self, work: Callable[[], T]) -> T:
        """``work()``, with SQLite's errors as ours."""
        with disk_errors(self.path):
            try:
                return work()
            except sqlite3.Error as error:
                raise self._meaning(error) from error

    def _meaning(self, error: sqlite3.Error) -> Exception:
        said = str(error)
        if "locked" in said or "busy" in said:
            return _LockedError(said)
        if "full" in said:
            return SessionError(f"the disk of {self.path} is full", "free some space and run the cell again: nothing is lost")
        if "readonly" in said or "unable to open" in said:
            return SessionError(f"{self.path} cannot be written", "open a session elsewhere: %dream open ./another-folder")
        if "disk image is malformed" in said or "not a database" in said or "Could not decode" in said:
            return _DamagedError(self.path, said)
        if "disk I/O" in said:
            return SessionError(f"{self.path} cannot be read or written: {said}", "check the disk and run the cell again")
        return BrokenFileError(self.path, said, _ASIDE)

    def _ask(self, sql: str, *values: Any) -> tuple[Any, ...]:
        return self._exchange(lambda: self._reader.ask(sql, values))

    def _decode(self, stored: str) -> dict[str, Value]:
        try:
            values: dict[str, Value] = quickjson.loads(stored)
        except (ValueError, RecursionError):
            values = {"": {}}
        if not all(isinstance(value, dict) and value for value in values.values()):
            raise BrokenFileError(self.path, "one of its values is not a JSON object", _ASIDE)
        return values


class _DamagedError(BrokenFileError):
    """The file is no longer a database, or is no longer where it was."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(path, why, _ASIDE)
        self.why = why


class _LockedError(Exception):
    """Another process holds the file: try again."""


class _Connection:
    """A connection that any thread may use: one statement at a time, each of them a transaction of its own."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._opened: sqlite3.Connection | None = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
        self.ask("PRAGMA synchronous = NORMAL")
        self.ask("PRAGMA trusted_schema = OFF")
        self.ask(f"PRAGMA cache_size = -{PAGES}")
        self.ask(f"PRAGMA wal_autocheckpoint = {LOG}")

    def ask(self, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
        """The first row of one statement; () when there is none."""
        with self._lock:
            return self._connection().execute(sql, values).fetchone() or ()

    def write(self, sql: str, values: Sequence[Any]) -> int:
        """How many rows one statement changed, committed."""
        with self._lock:
            return self._connection().execute(sql, values).rowcount

    def close(self) -> None:
        """Close it; harmless when it is closed."""
        with self._lock:
            opened, self._opened = self._opened, None
            if opened is not None:
                opened.close()

    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            raise SessionError("the session is closed", "open it again: %dream open")
        return self._opened


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _encode(value: Any) -> str:
    """``value`` as JSON. A number that is none, or infinite, is null: JSON has neither."""
    try:
        return _strict(value)
    except ValueError:
        return _strict(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ASCII: half a surrogate pair, which a model can say, has no UTF-8.
_strict: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
