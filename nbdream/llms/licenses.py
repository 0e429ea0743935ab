"""What the card of a model or a dataset says of its licence: a name, a link, and whether it is gated."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nbdream.errors import NbDreamError
from nbdream.optional import require

_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---", re.DOTALL)


def in_card(text: str, page: str | None = None) -> dict[str, Any]:
    """The ``license`` of a README's front matter, with ``license_link`` where it has one; ``page``: where the README lies.

    Of ``license: other``, the name that the card gives it.
    """
    front = _FRONT.match(text)
    if front is None:
        return {"license": None}
    import yaml

    try:
        said = yaml.safe_load(front[1])
    except (yaml.YAMLError, ValueError):
        return {"license": None}
    if not isinstance(said, Mapping):
        return {"license": None}
    found = said.get("license")
    name = ", ".join(map(str, found)) if isinstance(found, list) else None if found is None else str(found)
    if name in ("other", "unknown"):
        name = str(said["license_name"]) if said.get("license_name") else None if name == "unknown" else name
    link = said.get("license_link")
    if not isinstance(link, str) or not link.strip():
        return {"license": name}
    return {"license": name, "license_link": link if "://" in link else f"{page}/blob/main/{link}" if page else link}


def in_folder(folder: Path) -> dict[str, Any]:
    """What the README of a model's folder says."""
    with contextlib.suppress(OSError):
        return in_card((folder / "README.md").read_text(encoding="utf-8", errors="replace"))
    return {"license": None}


def on_hub(name: str, kind: str, revision: Callable[[], str], page: str) -> dict[str, Any]:
    """What the page of a model or dataset says, at a commit; what cannot be asked now is not known."""
    with contextlib.suppress(NbDreamError):
        return dict(_on_hub(name, kind, revision(), page))
    return {"license": None}


@functools.cache
def _on_hub(name: str, kind: str, revision: str, page: str) -> dict[str, Any]:
    hub: Any = require("huggingface_hub", "hub")
    at = {"repo_type": kind, "revision": revision}
    found: dict[str, Any] = {}
    try:
        if hub.HfApi().repo_info(name, **at).gated:
            found["gated"] = True
        readme = hub.hf_hub_download(name, "README.md", **at)
    except Exception:  # it has no README, or is out of reach: then what was fetched before is all that is known
        readme = hub.try_to_load_from_cache(name, "README.md", **at)
    text = Path(readme).read_text("utf-8", errors="replace") if isinstance(readme, str) else ""
    return {**in_card(text, page), **found}
