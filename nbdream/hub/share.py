"""Sharing: the session and its notebook in one archive, for a colleague to verify, replay and extend.

What goes in is what the notebook's names reach: their results and all that these come from, the replies that they are made of, the
decisions of people without their names. Names of other notebooks, earlier results, checkpoints and logs stay here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nbdream import __version__, replies
from nbdream.annotations import Decisions
from nbdream.cache import CallCache
from nbdream.errors import ArgumentError, DataError, NbDreamError, SessionError
from nbdream.files import read_lines, read_object
from nbdream.fingerprint import path_digest
from nbdream.hub import admission, archive
from nbdream.hub.arguments import NeedsCodeError
from nbdream.hub.notebook import notebook_bytes
from nbdream.hub.rebuild import MissingRepliesError, OtherInputsError, Rebuilder
from nbdream.hub.scan import CREDENTIALS, PATHS, SECRETS, Scan, refuse
from nbdream.hub.target import Say
from nbdream.lineage import Source
from nbdream.objects import FORMAT, ROW, ResultFolder, StoredTable
from nbdream.steps.saved import SavedStep

if TYPE_CHECKING:
    from nbdream.session import Session

RUN_FILES = ("spec.json", "code.py", "events.jsonl", "result.json", "input/train.arrow", "input/validation.arrow")
ELSEWHERE = "not-shared"
"""Where a run's base model lies that was a folder of this machine: nowhere in the archive."""
STALE = "stale"
"""What ``allow`` takes besides the kinds of findings: results that no longer follow from what they were made of."""
ALLOWED = (SECRETS, PATHS, STALE)
LARGEST_INPUT = 2_000_000_000
AT_ONCE = 1000


@dataclass(frozen=True)
class Shared:
    """What was packed."""

    path: Path
    tables: int
    models: int
    calls: int | None
    size: int
    left_out: list[str] = field(default_factory=list)
    """Names of the session that the notebook does not have."""

    def line(self) -> str:
        """It in one line."""
        parts = [f"{self.tables:,} table{'' if self.tables == 1 else 's'}"]
        parts += [f"{self.models:,} model{'' if self.models == 1 else 's'}"] if self.models else []
        parts.append("no replies" if self.calls is None else f"{self.calls:,} replies")
        return f"{self.path}: {' · '.join(parts)} · {archive.size_words(self.size)}"


def share(
    session: Session,
    target: Path,
    notebook: Path | None,
    *,
    calls: bool = True,
    allow: Sequence[str] = (),
    say: Say = lambda line: None,
) -> Shared:
    """Pack ``session`` and ``notebook``, as it is on disk, into ``target``. ``say`` hears how far it is.

    Raises `DataError` for results that are stale and `HubError` for a secret or a path of this machine, each with its place, unless
    ``allow`` names the kind.
    """
    target = Path(target).expanduser()
    if target.is_dir() or target.suffix.lower() != ".zip":
        raise ArgumentError(f"{target} is no name of an archive", "give a file that ends in .zip")
    for kind in allow:
        if kind not in ALLOWED:
            raise ArgumentError(f"{kind!r} cannot be allowed", f"it is one of: {', '.join(ALLOWED)}")
    packing = _Packing(session, notebook, say)
    if STALE not in allow:
        packing.refuse_stale()
    files = packing.files(calls)
    packing.refuse_findings(files, allow)
    manifest = archive.write(target, packing.manifest(calls), files, lambda done, total: say(f"packed {100 * done // total} %"))
    models = sum(node.get("kind") == "run" for node in packing.nodes.values())
    count = manifest["calls"]["count"] if calls else None
    return Shared(target, len(packing.nodes) - models, models, count, target.stat().st_size, packing.left_out)


class _Packing:
    """What is reached from a notebook's names, and how it is called in the archive."""

    def __init__(self, session: Session, notebook: Path | None, say: Say) -> None:
        self.session, self.notebook, self.say = session, notebook, say
        self.objects = session.folder / "objects"
        self.names, self.left_out = _names(session, notebook)
        if not self.names:
            raise DataError("there is nothing to share", "run a cell that makes something first")
        self.uses: dict[Source, dict[str, Any]] = {}
        for name in self.names:
            self._reach(Source(*(str(session.names.current(name)[part]) for part in ("recipe", "use"))))  # type: ignore[index]
        self.nodes: dict[str, dict[str, Any]] = {key: self._node(key) for key in dict.fromkeys(source.recipe for source in self.uses)}
        self.people: dict[str, str] = {}
        self.calls = 0

    def _reach(self, source: Source) -> None:
        waiting = [source]
        while waiting:
            place = waiting.pop()
            if place not in self.uses:
                self.uses[place] = ResultFolder(self.objects / place.recipe).use(place.use)
                waiting += [Source(above["recipe"], above["use"]) for above in self.uses[place]["inputs"].values()]

    def _node(self, key: str) -> dict[str, Any]:
        node = ResultFolder(self.objects / key).node()
        if node is None:
            raise SessionError(f"the result {key[:12]} is not in the session", "run its cell again")
        return node

    @property
    def below(self) -> str:
        """Where the session lies in the archive: as beside the notebook, where it lies there."""
        beside = None if self.notebook is None else os.path.relpath(self.session.folder.resolve(), self.notebook.resolve().parent)
        if beside is None or beside.startswith("..") or beside == ".":
            return "nbdream-output"
        return Path(beside).as_posix()

    def refuse_stale(self) -> None:
        """Raise `DataError` for the first result that no longer follows from what it was made of."""
        for name in self.names:
            if reasons := self.session.names.state(name).reasons:
                raise DataError(f"{name} is stale: {reasons[0]}", "run its cell again, or share it as it is: --yes")

    # --- what goes in -------------------------------------------------------------------------------------------------

    def files(self, calls: bool) -> dict[str, archive.Content]:
        """Every file of the archive."""
        inside: dict[str, archive.Content] = dict(self._records())
        for key, node in self.nodes.items():
            inside |= self._result(key, node)
        if calls:
            inside[admission.CALLS] = b"".join(self._replies())
        made: dict[str, archive.Content] = {f"{self.below}/{name}": content for name, content in inside.items()}
        if self.notebook is not None:
            made |= {self.notebook.name: notebook_bytes(self.notebook, strip=False), **self._inputs()}
        return made

    def _records(self) -> Iterator[tuple[str, bytes]]:
        yield "session.json", _json({"format": FORMAT, "pins": self._pins()})
        marks = dict(self._decisions())
        for source, use in self.uses.items():
            mark = marks.get(str((use.get("annotations") or {}).get("id")), {})
            record = {**use, "annotations": mark["mark"]} if mark and mark["before"] == use["annotations"] else use
            yield f"objects/{source.recipe}/uses/{source.use}.json", _json(record)
        for name, mark in marks.items():
            yield f"annotations/{name}.jsonl", mark["lines"]
        for name in self.names:
            pointer = self.session.names.read(name) or {}
            yield f"names/{self.session.names.path(name).name}", _json({**pointer, "history": pointer["history"][-1:]})

    def _pins(self) -> dict[str, str]:
        """The pins of what is shared."""
        said = json.dumps(list(self.nodes.values()))
        pins = read_object(self.session.folder / "session.json").get("pins", {})
        return {name: commit for name, commit in sorted(pins.items()) if commit in said}

    def _decisions(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The decisions of people, who get numbers for names."""
        asked = sorted({str(use["annotations"]["id"]) for use in self.uses.values() if use.get("annotations")})
        for question in asked:
            before = Decisions(self.session.folder, question)
            lines = [{**line, "who": self._pseudonym(str(line.get("who")))} for line in read_lines(before.path)[0]]
            yield question, {"before": before.mark(), "mark": _mark(question, lines), "lines": b"".join(map(_line, lines))}

    def _pseudonym(self, who: str) -> str:
        return self.people.setdefault(who, f"annotator {len(self.people) + 1}")

    def _result(self, key: str, node: Mapping[str, Any]) -> dict[str, archive.Content]:
        folder = self.objects / key
        found: dict[str, archive.Content] = {"node.json": folder / "node.json"}
        paths = [*folder.glob("data/*.arrow"), *folder.glob("failures/*.arrow")]
        if node.get("kind") == "run":
            paths += [folder / name for name in RUN_FILES if (folder / name).is_file()]
            paths += [path for path in (folder / "model").rglob("*") if path.is_file() and _is_model_file(path.relative_to(folder))]
        found |= {path.relative_to(folder).as_posix(): path for path in paths}
        if "spec.json" in found:
            found["spec.json"] = _json(_placeless(read_object(folder / "spec.json")))
        return {f"objects/{key}/{name}": content for name, content in found.items()}

    def _replies(self) -> Iterator[bytes]:
        """The stored replies that the results are made of, and those that the notebook asked for itself, in the order of their keys."""
        path = self.session.folder / "calls.sqlite"
        if not path.exists():
            return
        with CallCache(path) as cache:
            used, payers = self._used(cache)
            kept = ((key, value) for key, value in cache.items() if key in used or value.get("by") is None or value["by"] in payers)
            for line in replies.lines(kept):
                self.calls += 1
                if self.calls % AT_ONCE == 0:
                    self.say(f"taking the replies along: {self.calls:,}")
                yield line

    def _used(self, cache: CallCache) -> tuple[set[str], set[str]]:
        """The keys of the replies that tables are made of, whoever paid for them; of tables that code makes, the names that paid."""
        looked_for = 0

        def lookup(keys: list[str]) -> Mapping[str, Mapping[str, Any]]:
            nonlocal looked_for
            looked_for += len(keys)
            self.say(f"looking for the replies of result {number} of {len(self.uses)}: {looked_for:,}")
            return cache.lookup(keys)

        rebuilder, used, payers = Rebuilder(self.session.folder, lookup), set[str](), set[str]()
        for number, (source, use) in enumerate(self.uses.items(), 1):  # noqa: B007 - `lookup` tells it
            node = self.nodes[source.recipe]
            try:
                rebuilder.rebuild(*source)
            except (NeedsCodeError, MissingRepliesError, OtherInputsError, NbDreamError, KeyError, TypeError, ValueError, AttributeError):
                payers |= {str(use["name"]), str(node["name"]), *map(str, node.get("draws") or ())} if node.get("usage") else set()
            used |= rebuilder.replies.used
        return used, payers

    def _inputs(self) -> dict[str, archive.Content]:
        """The files beside the notebook that its sources read, found by their content."""
        assert self.notebook is not None
        wanted = {
            str(sha)
            for node in self.nodes.values()
            for sha in _list((node["recipe"].get("args") or {}).get("files"))
        }  # fmt: skip
        home = self.notebook.resolve().parent
        if not wanted:
            return {}
        found: dict[str, archive.Content] = {}
        for folder, folders, names in os.walk(home):
            folders[:] = [
                name for name in sorted(folders) if not name.startswith(".") and not (Path(folder) / name / "session.json").exists()
            ]
            for path in (Path(folder) / name for name in sorted(names) if name.endswith(admission.DATA_FILES)):
                if path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGEST_INPUT and path_digest(path) in wanted:
                    found[path.relative_to(home).as_posix()] = path
        return found

    # --- what is said of it -------------------------------------------------------------------------------------------

    def manifest(self, calls: bool) -> dict[str, Any]:
        """What the archive says of itself: nothing that the day, the clock or the machine's folders decide."""
        from nbdream.session import environment

        told = [self._table(name) for name in self.names]
        made = max(str((node.get("made") or {}).get("finished") or "") for node in self.nodes.values())
        return {
            "kind": admission.KIND,
            "nbdream": __version__,
            "notebook": None if self.notebook is None else self.notebook.name,
            "session": self.below,
            "made": made,
            "calls": {"included": calls, "count": self.calls},
            "environment": environment(),
            "tables": told,
        }

    def _table(self, name: str) -> dict[str, Any]:
        entry = self.session.names.current(name) or {}
        saved = SavedStep(self.session, str(entry["recipe"]), str(entry["use"]))
        cell = entry.get("cell") or {}
        digests = {column: saved.output.digest(column) for column in saved.output.column_names}
        about = {"name": name, "type": saved.node["type"], "cell": cell.get("number"), "rows": len(saved)}
        return {**about, "recipe": saved.key, "use": saved.use_id, "kind": saved.node["kind"], "columns": digests}

    # --- what must not go in ------------------------------------------------------------------------------------------

    def refuse_findings(self, files: Mapping[str, archive.Content], allow: Sequence[str]) -> None:
        """Raise `HubError` for the first secret, or path of this machine, in what would be shared."""
        folders = [self.session.folder.resolve(), *([self.notebook.resolve().parent] if self.notebook is not None else [])]
        kinds = [CREDENTIALS, *(kind for kind in (SECRETS, PATHS) if kind not in allow)]
        scan = Scan(kinds, folders)
        for number, (source, use) in enumerate(self.uses.items(), 1):
            self.say(f"looking for secrets in result {number} of {len(self.uses)}")
            refuse(scan.tables(self._rows(source, use)), allow, "shared")
        for number, (name, content) in enumerate(files.items(), 1):
            if name.endswith((".safetensors", ".arrow", ".model")):
                continue
            self.say(f"looking for secrets in file {number} of {len(files)}")
            text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content.read_text("utf-8", "replace")
            refuse(scan.texts({name: text}), allow, "shared")

    def _rows(self, source: Source, use: Mapping[str, Any]) -> dict[str, pa.Table]:
        folder, node = ResultFolder(self.objects / source.recipe), self.nodes[source.recipe]
        good = StoredTable(folder.data, node["columns"], node["rows"]).table
        shown = [use["outputs"].get(name, name) for name in good.column_names if name != ROW]
        tables = {str(use["name"]): good.select([name for name in good.column_names if name != ROW]).rename_columns(shown)}
        if node["failures"]:
            tables[f"{use['name']}.failures"] = StoredTable(folder.failures, node["failed_columns"], node["failures"]).table
        return tables


def _names(session: Session, notebook: Path | None) -> tuple[list[str], list[str]]:
    """The names that a notebook's cells made, or that no notebook did; and the others."""
    found = {name: (session.names.current(name) or {}).get("cell") or {} for name in session.names}
    if notebook is None:
        return list(found), []
    mine = [name for name, cell in found.items() if cell.get("notebook") in (None, notebook.name)]
    if not any(found[name].get("notebook") for name in mine):  # it was renamed, or the session is of scripts
        return list(found), []
    return mine, [name for name in found if name not in mine]


def _placeless(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was told, without where the base model lay on this machine."""
    model = dict(spec["model"])
    return {**spec, "model": {**model, "path": ELSEWHERE} if model.get("local") else model}


def _is_model_file(path: Path) -> bool:
    return re.fullmatch(admission.MODEL_FILE, path.relative_to("model").as_posix()) is not None


def _mark(question: str, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mark of decisions as they are shared."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="nbdream-share-") as scratch:
        path = Path(scratch) / "annotations" / f"{question}.jsonl"
        path.parent.mkdir()
        path.write_bytes(b"".join(map(_line, lines)))
        return Decisions(Path(scratch), question).mark()


def _line(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode(errors="surrogatepass")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode(errors="surrogatepass")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
