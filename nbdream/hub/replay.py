"""Replaying: the notebook of an archive is executed in a kernel without a network, from stored replies alone, and compared.

Results are made again, all of them but training runs, which are found by their recipes, and rows that came from the Hub, which stay
pinned. What a name's rows are then is held against what was shared.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbdream import replies
from nbdream.cache import CallCache
from nbdream.comparison import compare
from nbdream.errors import DataError, HubError, NbDreamError
from nbdream.files import read_object, write_json
from nbdream.fingerprint import difference
from nbdream.hub import admission
from nbdream.hub.archive import Progress
from nbdream.hub.arguments import NeedsCodeError
from nbdream.hub.rebuild import MissingRepliesError, OtherInputsError, Rebuilder
from nbdream.hub.verify import Unpacked, cell_words, opened, stored_replies
from nbdream.lineage import Names, graph
from nbdream.objects import FORMAT, ResultFolder
from nbdream.steps.saved import SavedStep

SAME, DIFFERS, NOT_MADE = "same", "differs", "not made"
KEPT_SOURCES = ("HFHubDataSource",)
REPO = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
MOST_SAID = 3


@dataclass(frozen=True)
class Replayed:
    """A result, as it was shared and as it came out."""

    name: str
    state: str
    says: str
    bytes_same: bool | None = None
    """Whether the files are the same; None where they were not written by the same versions, or not written again."""
    cell: str = ""


@dataclass
class Outcome:
    """What came of a replay."""

    path: str
    network: str = ""
    tables: list[Replayed] = field(default_factory=list)
    cells_failed: list[str] = field(default_factory=list)
    calls: int = 0

    @property
    def ok(self) -> bool:
        """Whether every result has the content that it had."""
        return bool(self.tables) and all(table.state == SAME for table in self.tables)

    def line(self) -> str:
        """It in one line."""
        found = [table.state for table in self.tables]
        counts = [f"{found.count(state):,} {state}" for state in (SAME, DIFFERS, NOT_MADE) if state in found]
        written = [table.bytes_same for table in self.tables if table.bytes_same is not None]
        counts += [f"{sum(written):,} of {len(written):,} to the byte"] if written else []
        return " · ".join([*(counts or ["no results"]), f"{self.calls:,} calls"])


@dataclass(frozen=True)
class Stage:
    """Where a notebook is replayed."""

    found: Unpacked
    notebook: Path
    session: Path

    @property
    def environment(self) -> dict[str, str]:
        """What the kernel is told: of the user's environment no credentials and no proxies."""
        from nbdream.context import REPLAY
        from nbdream.secrets import ENDINGS

        kept = {name: value for name, value in os.environ.items() if not name.upper().endswith((*ENDINGS, "_PROXY"))}
        offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
        return {**kept, **offline, REPLAY: "1", "NBDREAM_SESSION": str(self.session), "NBDREAM_NOTEBOOK": str(self.notebook)}


@contextlib.contextmanager
def fetched(path: str) -> Iterator[Path]:
    """The archive or folder that ``path`` names: a file, a folder, or a repository on the Hub that holds one archive."""
    if Path(path).exists() or not REPO.fullmatch(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="nbdream-fetched-") as folder:
        yield _download(path, folder)


def _download(repo: str, folder: str) -> Path:
    from nbdream.hub.errors import hub_errors
    from nbdream.optional import require

    hub: Any = require("huggingface_hub", "hub")
    with hub_errors(repo):
        for kind in ("dataset", "model"):
            if hub.repo_exists(repo, repo_type=kind):
                archives = [name for name in hub.list_repo_files(repo, repo_type=kind) if name.endswith(".zip")]
                if len(archives) == 1:
                    return Path(hub.hf_hub_download(repo, archives[0], repo_type=kind, local_dir=folder))
                said = "holds no archive" if not archives else f"holds {len(archives)} archives"
                raise HubError(f"{repo} {said}", "download the one that you mean, and replay the file")
    raise HubError(f"there is neither a file {repo} here nor a repository of this name", "look at the name; set HF_TOKEN if it is private")


@contextlib.contextmanager
def stage(path: Path, folder: Path | None, progress: Progress | None = None) -> Iterator[Stage]:
    """A place in which the notebook of ``path`` finds its replies, and no result: ``folder``, or one that goes away."""
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(opened(path, progress))
        notebook = _notebook(found)
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nbdream-replay-")))
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"{folder} is there already", "give a new folder")
        folder = folder.resolve()
        below = found.session.relative_to(found.folder)
        session = folder / (below if below.parts else Path("session"))
        session.mkdir(parents=True)
        for name in {notebook.name, *(name for name in found.manifest.get("files", {}) if not Path(name).is_relative_to(below))}:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found.folder / name, folder / name)
        _furnish(found, session)
        yield Stage(found, folder / notebook.name, session)


def _notebook(found: Unpacked) -> Path:
    named = found.manifest.get("notebook")
    here = [found.folder / named] if isinstance(named, str) else sorted(found.folder.glob("*.ipynb"))
    books = [path for path in here if not path.name.endswith(".executed.ipynb")]
    if len(books) != 1:
        said = "no notebook" if not books else f"{len(books)} notebooks"
        raise DataError(f"{found.folder} holds {said}", "replay an archive that was shared from a notebook")
    return books[0]


def _furnish(found: Unpacked, session: Path) -> None:
    """Lay out what a replay starts from: pins, replies, decisions of people, training runs, rows of the Hub."""
    told = read_object(found.session / "session.json")
    objects = found.session / "objects"
    attempts = {}
    for path in sorted(objects.glob("*/node.json")):
        node = read_object(path)
        if attempt := str(node.get("attempt", "")):
            attempts[path.parent.name.partition("-")[0]] = attempt
        if node.get("kind") == "run" or node.get("type") in KEPT_SOURCES:
            shutil.copytree(path.parent, session / "objects" / path.parent.name, ignore=shutil.ignore_patterns("*.lock", "checkpoints"))
    write_json(session / "session.json", {"format": FORMAT, "pins": told.get("pins", {}), "attempts": attempts})
    if (found.session / "annotations").is_dir():
        shutil.copytree(found.session / "annotations", session / "annotations")
    with CallCache(session / "calls.sqlite") as cache:
        replies.take(cache, stored_replies(found.session))


# --- what came out ----------------------------------------------------------------------------------------------------


def outcome(path: str, where: Stage, cells_failed: Sequence[str]) -> Outcome:
    """What was shared, held against what the replay has made."""
    before, after = _Folder(where.found.session), _Folder(where.session)
    found = Outcome(path, cells_failed=list(cells_failed))
    names, made = Names(before.folder), Names(after.folder)
    with CallCache(where.session / "calls.sqlite") as cache:
        rebuilder = Rebuilder(before.folder, cache.lookup)
        for name in names:
            was, now = names.current(name) or {}, made.current(name)
            found.tables.append(_not_made(name, before, was, rebuilder) if now is None else _replayed(name, before, was, after, now))
    nodes = map(read_object, sorted((where.session / "objects").glob("*/node.json")))
    found.calls = sum(int((node.get("usage") or {}).get("calls") or 0) for node in nodes if node.get("kind") != "run")
    return found


class _Folder:
    """A session of which results are only read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def graph(self, handle: SavedStep) -> dict[str, Any]:
        """Everything that a result comes from."""
        return graph(self.folder, handle.key, handle.use_id)


def _not_made(name: str, before: _Folder, was: Mapping[str, Any], rebuilder: Rebuilder) -> Replayed:
    """A result that did not come out, and how many replies it lacks."""
    old = SavedStep(before, str(was["recipe"]), str(was["use"]))
    says = "its cell did not make it"
    try:
        rebuilder.rebuild(old.key, old.use_id)
    except MissingRepliesError as error:
        says = str(error)
    except (NeedsCodeError, OtherInputsError, NbDreamError):
        pass  # the cell's own line says why
    return Replayed(name, NOT_MADE, says, cell=cell_words(old.node))


def _replayed(name: str, before: _Folder, was: Mapping[str, Any], after: _Folder, now: Mapping[str, Any]) -> Replayed:
    old = SavedStep(before, str(was["recipe"]), str(was["use"]))
    cell = cell_words(old.node)
    try:
        new = SavedStep(after, str(now["recipe"]), str(now["use"]))
        digests = [{column: step.output.digest(column) for column in step.output.column_names} for step in (old, new)]
        if digests[0] == digests[1] and _failed(old) == _failed(new):
            says = "replayed from its run folder" if old.node.get("kind") == "run" else ""
            return Replayed(name, SAME, says, _same_bytes(old, new), cell)
        return Replayed(name, DIFFERS, "; ".join(_why(old, new)), None, cell)
    except NbDreamError as error:
        return Replayed(name, DIFFERS, error.message, None, cell)


def _failed(step: SavedStep) -> dict[str, Any]:
    return {name: entry["digest"] for name, entry in (step.node.get("failed_columns") or {}).items()}


def _why(old: SavedStep, new: SavedStep) -> list[str]:
    """What differs and why, in words: the recipes first, then rows, then the packages that made them."""
    said = difference(old.node["recipe"], new.node["recipe"])[:MOST_SAID]
    told = [line for line in compare(old, new).lines() if line not in said and line != "the recipes are the same"]
    packages = _versions(old.node, new.node) if not said else []
    return [*said, *told[:MOST_SAID], *packages]


def _versions(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    was, now = (_flat(node.get("environment") or {}) for node in (old, new))
    changed = [
        f"{name} {was.get(name, 'none')} → {now.get(name, 'none')}" for name in sorted({*was, *now}) if was.get(name) != now.get(name)
    ]
    return [f"made with other versions: {', '.join(changed[:5])}"] if changed else []


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    packages = environment.get("packages")
    told = {name: str(environment[name]) for name in ("nbdream", "python") if name in environment}
    return {**told, **({str(name): str(version) for name, version in packages.items()} if isinstance(packages, dict) else {})}


def _same_bytes(old: SavedStep, new: SavedStep) -> bool | None:
    """Whether the files are the same, where the same versions wrote them."""
    was, now = (_flat(step.node.get("environment") or {}) for step in (old, new))
    if old.node.get("kind") == "run" or any(was.get(name) != now.get(name) for name in ("nbdream", "pyarrow")):
        return None
    return _bytes(old.folder) == _bytes(new.folder)


def _bytes(folder: ResultFolder) -> list[tuple[str, str]]:
    files = [*sorted(folder.data.glob("*.arrow")), *sorted(folder.failures.glob("*.arrow"))]
    return [(f"{path.parent.name}/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def says_of(path: Path) -> dict[str, Any]:
    """What an archive says it was made with and holds, for whoever is asked whether to run it."""
    if path.is_dir():
        return admission.read_manifest(path, "nbdream-archive.json")
    with admission.opened(path) as archive:
        told: dict[str, Any] = json.loads(json.dumps(archive.manifest))
        return told
