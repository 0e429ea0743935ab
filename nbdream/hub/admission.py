"""What a stranger's session may hold: files of our own kinds, and records that point nowhere but into it. None of it is executed."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from nbdream import objects, replies
from nbdream.errors import BrokenFileError, DataError
from nbdream.files import read_lines, read_object
from nbdream.fingerprint import form_digest
from nbdream.hub.archive import Archive, check_name, refusal, shown
from nbdream.lineage import Names

KIND = "session"
CALLS = replies.FILE
KEY = r"[0-9a-f]{40}(-[0-9]{1,6})?"
USE = "[0-9a-f]{40}"
DIGEST = re.compile("[0-9a-f]{64}")
ATTEMPT = re.compile("[0-9a-z]{0,64}")
"""What sets the replies of a further attempt apart: a part of their keys."""
MODEL_FILE = r"([\w.-]+/){0,3}[\w.-]+\.(safetensors|json|jinja|txt|model|md)"
OURS = re.compile(
    rf"session\.json|{re.escape(CALLS)}|names/[^/]+\.json|annotations/{USE}\.jsonl|objects/{KEY}/"
    rf"(node\.json|(data|failures)/\d{{5}}\.arrow|uses/{USE}\.json|spec\.json|result\.json|events\.jsonl|code\.py"
    rf"|input/(train|validation)\.arrow|model/{MODEL_FILE})"
)
DATA_FILES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt", ".md", ".text")
"""Files beside the notebook that sources read."""
NOTEBOOK = ".ipynb"
_key, _use = re.compile(KEY), re.compile(USE)


def opened(path: Path) -> Archive:
    """The archive of a session, if all that it says it holds is of our kinds."""
    archive = Archive(path, KIND)
    try:
        check_kinds(path, archive.manifest)
    except BaseException:
        archive.__exit__()
        raise
    return archive


def check_kinds(path: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest with files that nbdream would not write."""
    session, notebook, calls = (manifest.get(name) for name in ("session", "notebook", "calls"))
    if not isinstance(session, str) or not (notebook is None or isinstance(notebook, str)) or not isinstance(calls, dict):
        raise refusal(path, "its manifest does not say what it holds")
    check_name(session)
    if notebook is not None and ("/" in notebook or not notebook.endswith(NOTEBOOK) or notebook not in manifest["files"]):
        raise refusal(path, f"{shown(notebook)} is not its notebook")
    for name in manifest["files"]:
        inside = name.removeprefix(session + "/")
        ours = OURS.fullmatch(inside) if inside != name else name == notebook or name.endswith(DATA_FILES)
        if not ours:
            raise refusal(path, f"{shown(name)} is of a kind that does not belong there, and might run code")
    if f"{session}/session.json" not in manifest["files"]:
        raise refusal(path, "it holds no session")


def check_session(path: Path | str, folder: Path) -> None:
    """Refuse a session folder whose records are not what they say; ``path`` is what a refusal calls it."""
    try:
        _check_pins(path, read_object(folder / "session.json"))
        uses = dict(_uses(path, folder))
        for place, record in uses.items():
            _check_inputs(path, place, record, uses)
        _check_acyclic(path, uses)
        for found in sorted(folder.glob("names/*.json")):
            _check_pointer(path, folder, found, uses)
        for found in sorted(folder.glob("objects/*/node.json")):
            _check_node(path, found)
        for found in sorted([*folder.glob("objects/*/*/*.arrow")]):
            _check_rows(path, folder, found)
        for found in sorted([*folder.glob("annotations/*.jsonl"), *folder.glob("objects/*/events.jsonl")]):
            read_lines(found)
        for found in sorted([*folder.glob("objects/*/spec.json"), *folder.glob("objects/*/result.json")]):
            read_object(found)
        if (folder / CALLS).exists():
            for _ in replies.read(folder / CALLS):
                pass
    except FileNotFoundError as error:
        raise refusal(path, f"{Path(str(error.filename)).name} is missing from it") from None
    except BrokenFileError as error:
        raise refusal(path, f"{error.message.replace(str(folder) + '/', '')}") from None


def _check_pins(path: Path | str, found: Mapping[str, Any]) -> None:
    version, pins = found.get("format"), found.get("pins", {})
    if type(version) is not int or not isinstance(pins, dict) or not all(isinstance(pin, str) for pin in pins.values()):
        raise refusal(path, "its session.json is not one")
    if version > objects.FORMAT:
        raise DataError(
            f"{path} holds a session of the format {version}, and this nbdream reads {objects.FORMAT}", "pip install -U nbdream"
        )


def _uses(path: Path | str, folder: Path) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    for found in sorted(folder.glob("objects/*/uses/*.json")):
        record = read_object(found)
        view, through = record.get("view"), record.get("carries")
        good = (
            isinstance(record.get("name"), str)
            and isinstance(record.get("inputs"), dict)
            and _texts(record.get("outputs"))
            and (view is None or _texts(view))
            and (through is None or isinstance(through, str))
        )
        if not good:
            raise refusal(path, f"{found.relative_to(folder)} is no place in a graph")
        yield (found.parent.parent.name, found.stem), record


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(part, str) for part in value.values())


def _check_inputs(path: Path | str, place: tuple[str, str], record: Mapping[str, Any], uses: Mapping[tuple[str, str], Any]) -> None:
    for name, given in record["inputs"].items():
        where = (given.get("recipe"), given.get("use")) if isinstance(given, dict) else (None, None)
        columns = given.get("columns") if isinstance(given, dict) else None
        if where not in uses or not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
            raise refusal(path, f"the input {shown(name)} of {shown(record['name'])} is not in it")


def _check_acyclic(path: Path | str, uses: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
    waiting = {place: {(given["recipe"], given["use"]) for given in record["inputs"].values()} for place, record in uses.items()}
    done: set[tuple[str, str]] = set()
    while waiting:
        ready = [place for place, above in waiting.items() if above <= done]
        if not ready:
            raise refusal(path, f"{shown(uses[next(iter(waiting))]['name'])} is made of itself")
        done.update(ready)
        for place in ready:
            del waiting[place]


def _check_pointer(path: Path | str, folder: Path, found: Path, uses: Mapping[tuple[str, str], Any]) -> None:
    record = read_object(found)
    name, history = record.get("name"), record.get("history")
    if (
        not isinstance(name, str)
        or not isinstance(history, list)
        or not history
        or not all(isinstance(entry, dict) for entry in history)
        or Names(folder).path(name) != found
    ):
        raise refusal(path, f"{found.relative_to(folder)} is no pointer")
    if (history[-1].get("recipe"), history[-1].get("use")) not in uses:
        raise refusal(path, f"the result of {shown(name)} is not in it")
    for entry in history:
        if not (_key.fullmatch(str(entry.get("recipe"))) and _use.fullmatch(str(entry.get("use")))):
            raise refusal(path, f"{found.relative_to(folder)} points out of it")


def _check_node(path: Path | str, found: Path) -> None:
    node = objects.ResultFolder(found.parent).node() or {}
    columns = [*node["columns"].values(), *(node.get("failed_columns") or {}).values()]
    good = (
        all(isinstance(entry, dict) and DIGEST.fullmatch(str(entry.get("digest"))) for entry in columns)
        and isinstance(node.get("recipe"), dict)
        and all(isinstance(node["recipe"].get(part), dict) for part in ("args", "inputs"))
        and type(node.get("rows")) is int
        and type(node.get("failures")) is int
        and isinstance(node.get("failed_columns", {}), dict)
        and bool(ATTEMPT.fullmatch(str(node.get("attempt", ""))))
    )
    if not good:
        raise refusal(path, f"the node of {found.parent.name[:12]} is not one")
    if form_digest(node["recipe"])[:40] != found.parent.name.partition("-")[0]:
        raise refusal(path, f"the recipe of {shown(str(node.get('name')))} is not that of its folder {found.parent.name[:12]}")


def _check_rows(path: Path | str, folder: Path, found: Path) -> None:
    """Refuse what is no Arrow stream, or is one that would read beyond its end or grow in memory."""
    name = found.relative_to(folder)
    try:
        with pa.memory_map(str(found)) as file:
            for message in pa.ipc.MessageReader.open_stream(file):
                if _is_packed(bytes(message.metadata)):
                    raise refusal(path, f"{name} is compressed, which rows of ours are not")
        with pa.memory_map(str(found)) as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                batch.validate(full=True)
    except (pa.ArrowException, OSError, struct.error, IndexError) as error:
        raise refusal(path, f"{name} is not an Arrow stream ({str(error).splitlines()[0][:120]})") from None


def _is_packed(message: bytes) -> bool:
    """Whether an Arrow message says that its buffers are compressed: they could be of any size."""
    root = _number("<I", message, 0)
    kind, header = _field(message, root, 1), _field(message, root, 2)
    if kind is None or header is None:
        return False
    batch = header + _number("<I", message, header)
    if message[kind] == DICTIONARY:
        data = _field(message, batch, 1)
        return data is not None and _field(message, data + _number("<I", message, data), 3) is not None
    return message[kind] == RECORDS and _field(message, batch, 3) is not None


DICTIONARY, RECORDS = 2, 3
"""Kinds of Arrow messages."""


def _field(message: bytes, table: int, number: int) -> int | None:
    """Where a field of a table lies in a flat buffer; None where it is not set."""
    names = table - _number("<i", message, table)
    at = 4 + 2 * number
    offset = _number("<H", message, names + at) if at < _number("<H", message, names) else 0
    return table + offset if offset else None


def _number(form: str, message: bytes, at: int) -> int:
    found: int = struct.unpack_from(form, message, at)[0]
    return found


def read_manifest(folder: Path, name: str) -> dict[str, Any]:
    """The manifest that lies beside an unpacked session; empty where there is none."""
    try:
        return read_object(folder / name)
    except FileNotFoundError:
        return {}


Check = Callable[[Path], None]


def checks(path: Path, manifest: Mapping[str, Any]) -> Check:
    """What looks at an unpacked archive before it is kept."""
    return lambda folder: _check_unpacked(path, folder, manifest)


def _check_unpacked(path: Path, folder: Path, manifest: Mapping[str, Any]) -> None:
    check_session(path, folder / str(manifest["session"]))
    notebook = manifest["notebook"]
    if notebook is not None:
        try:
            found = json.loads((folder / notebook).read_bytes())
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("cells"), list):
            raise refusal(path, f"{shown(notebook)} is not a notebook")


__all__ = ["CALLS", "KIND", "check_session", "checks", "opened", "read_manifest"]
