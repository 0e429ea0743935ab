"""Verifying: every table that is data, template and stored replies is made again and compared, and no code of the archive runs.

What cannot be told without running code is said so, with the code that it takes; a training run is held against what it was given and
what it said.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from nbdream import replies
from nbdream.cache import CallCache
from nbdream.errors import DataError, NbDreamError
from nbdream.files import read_object
from nbdream.hub import admission
from nbdream.hub.archive import MANIFEST, Progress, shown
from nbdream.hub.arguments import NeedsCodeError, code_name
from nbdream.hub.rebuild import MissingRepliesError, OtherInputsError, Rebuilder, Rebuilt
from nbdream.lineage import Names
from nbdream.objects import ROW, ResultFolder, StoredTable, column_digest
from nbdream.workers import runs
from nbdream.workers.paths import RunPaths

SAME, DIFFERS, NEEDS_CODE, TRAINING, SOURCE, NOT_STORED = "same", "differs", "needs code", "training run", "source", "not stored"
STATES = (SAME, SOURCE, TRAINING, NEEDS_CODE, NOT_STORED, DIFFERS)
SESSIONS = ("nbdream-output", "output", ".")
FILE_SOURCES = ("CSVDataSource", "HFHubDataSource", "JSONDataSource", "TextDataSource")


@dataclass(frozen=True)
class Table:
    """One result and what came of verifying it."""

    name: str
    state: str
    says: str
    rows: int
    recipe: str
    cell: str = ""


@dataclass
class Report:
    """What came of verifying a session."""

    path: str
    with_calls: bool
    tables: list[Table] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing differs, and no reply is missing that should be there."""
        wrong = (DIFFERS, NOT_STORED) if self.with_calls else (DIFFERS,)
        return not any(table.state in wrong for table in self.tables)

    def line(self) -> str:
        """How many tables are in which state."""
        found = [table.state for table in self.tables]
        return " · ".join(f"{found.count(state):,} {state}" for state in STATES if state in found) or "no results"


@dataclass(frozen=True)
class Unpacked:
    """Where a session lies that is looked at, and what came with it."""

    folder: Path
    session: Path
    manifest: Mapping[str, Any]


def verify(path: Path, say: Callable[[Table], None] = lambda table: None, progress: Progress | None = None) -> Report:
    """Verify an archive or a folder; ``say`` is told of each table. `DataError` when it is refused."""
    with opened(Path(path), progress) as found, contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nbdream-replies-")))
        cache = stack.enter_context(CallCache(scratch / "calls.sqlite"))
        replies.take(cache, stored_replies(found.session))
        report = Report(str(path), bool(found.manifest.get("calls", {}).get("included", True)))
        rebuilder = Rebuilder(found.session, cache.lookup)
        for key, use in in_order(found.session):
            table = _Check(found, rebuilder, key, use).table()
            report.tables.append(table)
            say(table)
    return report


@contextlib.contextmanager
def opened(path: Path, progress: Progress | None = None) -> Iterator[Unpacked]:
    """An archive unpacked for a while, or a folder as it is; looked at either way."""
    if not path.is_dir():
        with admission.opened(path) as archive, tempfile.TemporaryDirectory(prefix="nbdream-archive-") as scratch:
            folder = Path(scratch) / "unpacked"
            archive.unpack(folder, admission.checks(path, archive.manifest), progress)
            yield Unpacked(folder, folder / archive.manifest["session"], archive.manifest)
        return
    manifest = admission.read_manifest(path, MANIFEST)
    session = session_in(path, manifest)
    admission.check_session(path, session)
    yield Unpacked(path, session, manifest)


def session_in(folder: Path, manifest: Mapping[str, Any]) -> Path:
    """The session in a folder."""
    named = [str(manifest["session"])] if isinstance(manifest.get("session"), str) else []
    for name in (*named, *SESSIONS):
        if (folder / name / "session.json").is_file() and not (folder / name).is_symlink():
            return folder / name
    raise DataError(f"there is no session in {folder}", "give an archive that %dream share wrote, or a session's folder")


def stored_replies(session: Path) -> Iterator[tuple[str, Any]]:
    """The replies of a session: those of an archive, and those of its cache, which is only read."""
    if (session / admission.CALLS).is_file():
        yield from replies.read(session / admission.CALLS)
    cache = session / "calls.sqlite"
    if cache.is_file():
        with tempfile.TemporaryDirectory(prefix="nbdream-cache-") as scratch:
            copy = Path(scratch) / "calls.sqlite"
            try:
                where = f"{cache.resolve().as_uri()}?mode=ro"
                with contextlib.closing(sqlite3.connect(where, uri=True)) as old, contextlib.closing(sqlite3.connect(copy)) as new:
                    old.backup(new)
            except sqlite3.Error:  # a folder that cannot be written holds no memory to share
                for ending in ("", "-wal"):
                    with contextlib.suppress(FileNotFoundError):
                        shutil.copyfile(f"{cache}{ending}", f"{copy}{ending}")
            with CallCache(copy) as found:
                yield from found.items()


def in_order(session: Path) -> list[tuple[str, str]]:
    """Every result that the session's names reach, once, each after those that it comes from."""
    names = Names(session)
    done: dict[tuple[str, str], None] = {}
    waiting = [(str(entry["recipe"]), str(entry["use"])) for name in names if (entry := names.current(name)) is not None][::-1]
    while waiting:
        key, use = waiting[-1]
        above = [(given["recipe"], given["use"]) for given in ResultFolder(session / "objects" / key).use(use)["inputs"].values()]
        missing = [place for place in above if place not in done]
        if missing and (key, use) not in done:
            waiting += missing
        else:
            waiting.pop()
            done[key, use] = None
    results: dict[str, tuple[str, str]] = {}
    for key, use in done:
        results.setdefault(key, (key, use))
    return list(results.values())


class _Check:
    """One result, looked at."""

    def __init__(self, found: Unpacked, rebuilder: Rebuilder, key: str, use: str) -> None:
        self.found, self.rebuilder, self.key, self.use = found, rebuilder, key, use
        self.folder = ResultFolder(found.session / "objects" / key)
        self.node = self.folder.node() or {}
        self.name = str(self.folder.use(use)["name"])
        self.recipe = self.node.get("recipe") or {}

    def table(self) -> Table:
        """What came of it."""
        try:
            state, says = self._state()
        except NbDreamError as error:
            state, says = DIFFERS, error.message
        except (KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:  # a stranger's records may say anything
            state, says = DIFFERS, f"its records cannot be read ({type(error).__name__}: {shown(str(error))})"
        return Table(self.name, state, says, self.node.get("rows", 0), self.key, cell_words(self.node))

    def _state(self) -> tuple[str, str]:
        if not self.node:
            return DIFFERS, "its result is not there"
        if wrong := self._stored():
            return DIFFERS, wrong
        if self.node.get("kind") == "run":
            return self._run()
        if (source := self._source()) is not None:
            return source
        try:
            return self._compared(self.rebuilder.rebuild(self.key, self.use))
        except NeedsCodeError as error:
            return NEEDS_CODE, f"{_code(self.recipe, str(error))}{_where(self.node)}: nbdream replay runs it"
        except OtherInputsError as error:
            return DIFFERS, str(error)
        except MissingRepliesError as error:
            if _checks_more(self.recipe):
                return NEEDS_CODE, f"the class of its answers{_where(self.node)}: nbdream replay runs it"
            return NOT_STORED, str(error)

    def _stored(self) -> str | None:
        """What is wrong with the columns on disk."""
        for folder, entries, rows in (
            (self.folder.data, self.node["columns"], self.node["rows"]),
            (self.folder.failures, self.node.get("failed_columns") or {}, self.node["failures"]),
        ):
            stored = StoredTable(folder, entries, rows)
            for name, entry in entries.items():
                if column_digest(stored.table.column(name)) != entry["digest"]:
                    return f"{_column(name)} is not what was written when it was made"
        return None

    def _source(self) -> tuple[str, str] | None:
        kind, args = self.recipe.get("kind"), self.recipe.get("args") or {}
        if kind in FILE_SOURCES:
            return SOURCE, f"as it was read{_named(self.node)}; its rows are what was written then"
        if kind != "DataSource":
            return None
        told = args.get("data")
        if not isinstance(told, dict) or "$" in told:
            return NEEDS_CODE, f"{code_name(told or {}, 'the function that gives its rows')}{_where(self.node)}: nbdream replay runs it"
        held = {name: entry["digest"] for name, entry in self.node["columns"].items()}
        if told.get("columns") != held:
            return DIFFERS, "its rows are not those that it was given"
        return SAME, "its rows are those that it was given"

    def _compared(self, made: Rebuilt) -> tuple[str, str]:
        columns = {name: entry["digest"] for name, entry in self.node["columns"].items()}
        failed = {name: entry["digest"] for name, entry in (self.node.get("failed_columns") or {}).items()}
        if (made.columns, made.failed) == (columns, failed):
            return SAME, ""
        if _checks_more(self.recipe):
            return NEEDS_CODE, f"the class of its answers{_where(self.node)}: nbdream replay runs it"
        return DIFFERS, self._difference(made, columns)

    def _difference(self, made: Rebuilt, columns: Mapping[str, str]) -> str:
        """Where, and what."""
        if made.rows != self.node["rows"]:
            return f"{made.rows:,} rows come of it, and {self.node['rows']:,} are there"
        if made.columns.keys() != columns.keys():
            return f"it has other columns: {', '.join(map(_column, sorted(made.columns.keys() ^ columns.keys())))}"
        stored = StoredTable(self.folder.data, self.node["columns"], self.node["rows"]).table
        for name in columns:
            if made.columns[name] != columns[name]:
                was, now = stored.column(name).to_pylist(), made.example(name).to_pylist()
                row = next((at for at, (one, other) in enumerate(zip(was, now, strict=True)) if one != other), 0)
                return f"row {row:,} of {_column(name)} is {_short(was[row])}, and should be {_short(now[row])}"
        return f"{made.failures:,} failed rows come of it, and {self.node['failures']:,} are there, or others"

    def _run(self) -> tuple[str, str]:
        """A training run held against what it was given, what it said, and what it left."""
        paths = RunPaths(self.folder.path)
        wrong = self._trained_on(paths) or self._curve(paths) or self._files(paths)
        if wrong:
            return DIFFERS, wrong
        return TRAINING, f"{self._kept(paths):,} files of its model are whole; its rows and its curve are its own"

    def _trained_on(self, paths: RunPaths) -> str | None:
        for part, file in (("train", paths.train_data), ("validation", paths.validation_data)):
            given = {name: entry["digest"] for name, entry in self.recipe["inputs"].items() if name.startswith(part + "_")}
            if not given or not file.exists():
                continue
            with pa.memory_map(str(file)) as source:
                table = pa.ipc.open_stream(source).read_all()
                for name, digest in given.items():
                    column = name.removeprefix(part + "_")
                    if column not in table.column_names or column_digest(table.column(column)) != digest:
                        return f"it was not trained on the rows that it says: {name!r} differs"
        return None

    def _curve(self, paths: RunPaths) -> str | None:
        from nbdream.trainers.run_step import WHERE, curve

        if not paths.events.exists():
            return None
        measures = [name for name in self.node["columns"] if name not in (*WHERE, ROW)]
        made = curve(runs.events(paths), measures)
        stored = StoredTable(self.folder.data, self.node["columns"], self.node["rows"]).table
        return None if stored.to_pydict() == made else "its curve is not what its events say"

    def _files(self, paths: RunPaths) -> str | None:
        if not paths.model.is_dir():
            return "its model is not there"
        if read_object(paths.result).get("state") != "done":
            return "it did not end with a model"
        for name, entry in self._listed(paths):
            path = self.found.folder / name
            if not path.is_file():
                return f"{path.name} of its model is missing"
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                    return f"{path.name} of its model is another one than was shared"
        return None

    def _listed(self, paths: RunPaths) -> list[tuple[str, Any]]:
        """The files of the model that a manifest names."""
        files = self.found.manifest.get("files")
        if not isinstance(files, dict):
            return []
        below = paths.model.relative_to(self.found.folder).as_posix() + "/"
        return [(name, entry) for name, entry in files.items() if name.startswith(below)]

    def _kept(self, paths: RunPaths) -> int:
        return sum(path.is_file() for path in paths.model.rglob("*"))


def cell_words(node: Mapping[str, Any]) -> str:
    """The cell that made a result."""
    cell = node.get("cell")
    number = cell.get("number") if isinstance(cell, dict) else None
    return f"cell {number}" if isinstance(number, int) else ""


def _where(node: Mapping[str, Any]) -> str:
    words = cell_words(node)
    return f" ({words})" if words else ""


def _code(recipe: Mapping[str, Any], what: str) -> str:
    kind = recipe.get("kind")
    if kind in ("MapStep", "FilterStep"):
        return code_name((recipe.get("args") or {}).get("function") or {}, "its function")
    return f"the class {kind}" if "code" in recipe else what


def _checks_more(recipe: Mapping[str, Any]) -> bool:
    """Whether answers are checked by a class, which may say more than its schema."""
    form = (recipe.get("args") or {}).get("schema")
    return isinstance(form, dict) and "code" in form


def _named(node: Mapping[str, Any]) -> str:
    name = (node.get("source") or {}).get("name")
    return f" from {shown(name)}" if isinstance(name, str) else ""


def _column(name: str) -> str:
    return "the choice of rows" if name == ROW else f"column {name!r}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
