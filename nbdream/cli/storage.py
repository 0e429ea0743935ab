"""``nbdream cache ls | prune | export | import``: what a session keeps, and moving stored replies between sessions."""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, cast

from nbdream import replies
from nbdream.cache import CallCache, Value
from nbdream.errors import ArgumentError, DataError
from nbdream.files import write_atomic

LISTED = ("step", "model", "replies", "failed", "tokens in", "tokens out", "spent", "bytes")
KIND = "replies"


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Enter the command and what it can do."""
    cache = command("cache", _list, "what a session keeps: list it, remove what nothing reaches, take replies out and in")
    verbs = cache.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, do: Any, summary: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=summary, description=summary)
        added.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON value on the standard output")
        added.add_argument("--session", type=Path, help="the session's folder (default: NBDREAM_SESSION, ./nbdream-output or ./output)")
        added.set_defaults(do=do)
        return added

    verb("ls", _list, "the stored replies by step and model: how many, tokens, money, bytes; and what results take")
    prune = verb("prune", _prune, "remove results that no name's last few, no live run and nothing published reaches; replies stay")
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")
    out = verb("export", _export, "write the stored replies to a file: JSON lines, or a zip with their sha256")
    out.add_argument("file", type=Path, help="a name that ends in .jsonl or .zip")
    into = verb("import", _import, "store the replies of a file, or of a shared archive, where there is none yet")
    into.add_argument("file", type=Path)


def _folder(given: argparse.Namespace) -> Path:
    from nbdream.cli import _session_folder

    return _session_folder(given)


# --- what there is ----------------------------------------------------------------------------------------------------


def _list(given: argparse.Namespace) -> int:
    from nbdream.cli import _width
    from nbdream.hub.archive import size_words
    from nbdream.pruning import size_of
    from nbdream.widgets.table import table_text

    session = _folder(given)
    held: list[Value] = []
    if (session / "calls.sqlite").exists():
        with CallCache(session / "calls.sqlite") as cache:
            replies.take_over(cache, session)
            held = cache.held()
    objects = session / "objects"
    results = {"count": len(list(objects.glob("*/node.json"))), "bytes": size_of(objects)}
    if given.json:
        print(json.dumps({"replies": held, "results": results}))
        return 0
    if held:
        rows = [_row(entry) for entry in held]
        print(table_text(LISTED, [*rows, _total(held)], len(rows) + 1, width=_width()))
    else:
        print("no replies are stored")
    print(f"{results['count']:,} results: {size_words(results['bytes'])}")
    return 0


def _row(entry: Value) -> dict[str, Any]:
    from nbdream.hub.archive import size_words

    counts = (f"{entry[name]:,}" for name in ("calls", "failed_calls", "input_tokens", "output_tokens"))
    told = (entry["by"] or "asked directly", entry["model"] or "unknown", *counts, _money(entry), size_words(entry["bytes"]))
    return dict(zip(LISTED, told, strict=True))


def _total(held: list[Value]) -> dict[str, Any]:
    names = ("calls", "failed_calls", "input_tokens", "output_tokens", "cost", "unpriced", "bytes")
    return {**_row({"by": "all", "model": "", **{name: sum(entry[name] for entry in held) for name in names}}), "model": ""}


def _money(entry: Value) -> str:
    from nbdream.prices import shown

    if not entry["unpriced"]:
        return shown(entry["cost"])
    return "unknown" if entry["unpriced"] == entry["calls"] else f"{shown(entry['cost'])} + {entry['unpriced']:,} unpriced"


def _prune(given: argparse.Namespace) -> int:
    from nbdream import pruning
    from nbdream.hub.archive import size_words

    session = _folder(given)
    gone = pruning.unreached(session) if given.dry_run else pruning.prune(session)
    if given.json:
        print(json.dumps({"removed": not given.dry_run, "results": [asdict(result) for result in gone]}))
        return 0
    for result in gone:
        print(f"{result.key[:12]}  {result.name:32} {result.made[:16].replace('T', ' '):16}  {size_words(result.size):>9}")
    total = size_words(sum(result.size for result in gone))
    print(f"{len(gone):,} result{'' if len(gone) == 1 else 's'}, {total}: {'would be removed' if given.dry_run else 'removed'}")
    return 0


# --- out and in -------------------------------------------------------------------------------------------------------


def _export(given: argparse.Namespace) -> int:
    from nbdream.cli.sharing import _Meter
    from nbdream.hub import archive

    session, target = _folder(given), given.file
    if target.suffix not in (".jsonl", ".zip"):
        raise ArgumentError(f"{target} is no name for replies", "give a file that ends in .jsonl or .zip")
    count = 0

    def counted() -> Iterator[bytes]:
        nonlocal count
        with CallCache(session / "calls.sqlite") as cache:
            for line in replies.lines(cache.items()):
                count += 1
                yield line

    content = b"".join(counted())
    if target.suffix == ".zip":
        with _Meter(given, "packed") as meter:
            archive.write(target, {"kind": KIND, "calls": {"included": True, "count": count}}, {replies.FILE: content}, meter)
    else:
        write_atomic(target, content)
    print(json.dumps({"replies": count, "file": str(target)}) if given.json else f"{target}: {count:,} replies")
    return 0


def _import(given: argparse.Namespace) -> int:
    session, source = _folder(given), given.file
    if not source.is_file():
        raise DataError(f"there is no file {source}", "give a file that nbdream cache export or nbdream share wrote")
    with CallCache(session / "calls.sqlite") as cache:
        new, total = replies.take(cache, _checked(source))
    if given.json:
        print(json.dumps({"new": new, "replies": total}))
    else:
        print(f"{source}: {new:,} of {total:,} replies are new here" + ("" if new == total else "; what was stored already stays"))
    return 0


def _checked(source: Path) -> list[tuple[str, Value]] | Iterator[tuple[str, Value]]:
    """The replies of a file, once all of them were looked at: of a file with anything wrong, none is taken."""
    if not zipfile.is_zipfile(source):
        for _ in replies.read(source):
            pass
        return replies.read(source)
    return list(_packed(source))


def _packed(source: Path) -> Iterator[tuple[str, Value]]:
    from nbdream.hub.archive import MANIFEST, Archive, refusal

    with Archive(source) as archive:
        names = [name for name in archive.manifest["files"] if name.rpartition("/")[2] == replies.FILE]
        if len(names) != 1:
            raise refusal(source, f"its {MANIFEST} names no replies")
        with closing(_Pieces(archive.content(names[0]))) as file:
            yield from replies.parse(cast("IO[bytes]", file), source)


class _Pieces:
    """Pieces of bytes as a file of lines."""

    def __init__(self, pieces: Any) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def readline(self, most: int) -> bytes:
        """The next line; at most so many bytes."""
        while b"\n" not in self._rest and len(self._rest) < most:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._rest += piece
        end = self._rest.find(b"\n") + 1 or len(self._rest)
        line, self._rest = self._rest[:end], self._rest[end:]
        return line

    def close(self) -> None:
        """Nothing is held."""
