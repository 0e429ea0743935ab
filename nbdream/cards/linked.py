"""What JSON-LD about a publication is made of: its files, ids of our own making, days and sentences."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nbdream import escape
from nbdream.cards.graph import Stage, texts

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|\+00:00)")


@dataclass(frozen=True)
class PublishedFile:
    """A file of a publication: its path there, where it can be read (an address, or its path), its bytes and digest if told."""

    path: str
    address: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Publication:
    """What a folder or a repository holds, as a description names it; ``address`` is empty for a folder."""

    name: str
    address: str
    description: str
    licenses: Sequence[str]
    files: Sequence[PublishedFile]


def sha256(text: str) -> str:
    """The sha256 of a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def node_id(kind: str, *of: str) -> str:
    """An id of our own: no text of a model or a stranger stands in it."""
    return f"#{kind}-{sha256(json.dumps(of))[:16]}"


def as_text(document: object) -> str:
    """JSON-LD as the text of a file, the same for the same document."""
    return escape.script_json(document, indent=1) + "\n"


def moment(text: object) -> str | None:
    """A time of the work as ISO 8601 with its offset; None for what is no time."""
    if not isinstance(text, str) or not _MOMENT.fullmatch(text):
        return None
    try:
        return datetime.datetime.fromisoformat(text).isoformat()
    except ValueError:
        return None


def words(value: object) -> str | None:
    """A text, or texts as one; None for what is neither: only what is a text may be said of something."""
    return ", ".join(texts(value)) or None


def description(found: Sequence[Stage], rows: int | None, synthetic: bool) -> str:
    """What was published, in a sentence or two: ``rows`` of a dataset, or a model."""
    return f"{_what(found, rows, synthetic)}. {f'Made with nbdream {version(found[-1])}'.rstrip()}."


def version(stage: Stage) -> str:
    """The version of nbdream that a step ran on; empty where it is not known."""
    environment = stage.node.get("environment")
    return words(environment.get("nbdream")) or "" if isinstance(environment, dict) else ""


def _what(found: Sequence[Stage], rows: int | None, synthetic: bool) -> str:
    if rows is None:
        bases = " and ".join(str(model["name"]) for model in found[-1].models)
        return f"A model trained{f' from {bases}' if bases else ''}"
    names = dict.fromkeys(str(model["name"]) for stage in found if not stage.is_run for model in stage.models)
    written = f", written by {' and '.join(names)}" if names and synthetic else ""
    return f"{rows:,} {'synthetic ' if synthetic else ''}rows{written}"


def told(stage: Stage) -> str:
    """A step in a few words: its kind, by which models (of which, for a training), how many rows."""
    models = " and ".join(dict.fromkeys(str(model["name"]) for model in stage.models))
    by = f" {'from' if stage.is_run else 'by'} {models}" if models else ""
    rows = "" if stage.rows is None else f", {stage.rows:,} rows"
    return f"{stage.kind}{by}{rows}"
