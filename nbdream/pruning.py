"""What of a session is no longer reached, and taking it away.

Reached is what the last few results of each name are, what a run that lives or a step that is being made is, what was published, and
all that these come from. Replies are paid for and decisions of people are theirs: neither is ever pruned.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbdream.errors import BrokenFileError
from nbdream.files import Lock, append_line, disk_errors, read_lines, read_object
from nbdream.lineage import Names, Source, now
from nbdream.objects import ResultFolder

LAST = 3
"""Results of a name that are kept."""
PUBLISHED = "published.jsonl"
"""Where a session keeps what was published: a line ``{"recipe", "use", "where", "when"}``."""
LOCKS = ("step.lock", "run.lock")


@dataclass(frozen=True)
class Unreached:
    """A result that nothing reaches."""

    key: str
    name: str
    made: str
    size: int


def unreached(session: Path, last: int = LAST) -> list[Unreached]:
    """The results that nothing reaches, the oldest first."""
    kept = {source.recipe for source in _reached(session, _roots(session, last))}
    found = []
    for folder in sorted((session / "objects").iterdir()) if (session / "objects").is_dir() else []:
        if folder.is_dir() and not folder.is_symlink() and folder.name not in kept and not _lives(folder):
            node = _node(folder)
            made = str((node.get("made") or {}).get("finished") or "")
            found.append(Unreached(folder.name, str(node.get("name") or "unfinished"), made, size_of(folder)))
    return sorted(found, key=lambda result: (result.made, result.key))


def prune(session: Path, last: int = LAST) -> list[Unreached]:
    """Take away what nothing reaches; what was taken. A result that is made meanwhile stays."""
    with Lock(session / "names" / ".lock"):  # no name comes to point at what goes
        gone = unreached(session, last)
        for result in gone:
            folder = session / "objects" / result.key
            lock = ResultFolder(folder).lock()
            if not lock.acquire():
                continue
            try:
                with disk_errors(folder):
                    (folder / "node.json").unlink(missing_ok=True)  # first: what is half gone is no result
                    shutil.rmtree(folder)
            finally:
                lock.release()
        return [result for result in gone if not (session / "objects" / result.key).exists()]


def remember(session: Path, thing: Any, where: str) -> None:
    """Note that rows (or their splits, by name) or a trained model were published, so that they stay."""
    for part in thing.values() if isinstance(thing, Mapping) else (thing,):
        handle = part if hasattr(part, "use_id") else part.step
        append_line(session / PUBLISHED, {"recipe": handle.key, "use": handle.use_id, "where": where, "when": now()})


def _roots(session: Path, last: int) -> Iterable[Source]:
    names = Names(session)
    for name in names:
        yield from (Source(str(entry["recipe"]), str(entry["use"])) for entry in (names.read(name) or {"history": []})["history"][-last:])
    for line in read_lines(session / PUBLISHED)[0]:
        yield Source(str(line.get("recipe")), str(line.get("use")))


def _reached(session: Path, roots: Iterable[Source]) -> set[Source]:
    found: set[Source] = set()
    waiting = list(roots)
    while waiting:
        place = waiting.pop()
        if place in found:
            continue
        found.add(place)
        try:
            use = read_object(ResultFolder(session / "objects" / place.recipe).use_path(place.use))
        except (FileNotFoundError, BrokenFileError):
            continue
        waiting += [Source(str(above["recipe"]), str(above["use"])) for above in use["inputs"].values()]
    return found


def _lives(folder: Path) -> bool:
    """Whether it is being made, or was made this moment and has no name yet."""
    nameless = (folder / "node.json").exists() and not any((folder / "uses").glob("*.json"))
    return nameless or any(Lock(folder / name).is_taken() for name in LOCKS)


def _node(folder: Path) -> dict[str, Any]:
    try:
        return ResultFolder(folder).node() or {}
    except BrokenFileError:
        return {}


def size_of(folder: Path) -> int:
    """The bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
