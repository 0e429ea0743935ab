"""Unpacking: an archive becomes a folder with a notebook and a session that goes on, its replies in their cache."""

from __future__ import annotations

from pathlib import Path

from nbdream import replies
from nbdream.cache import CallCache
from nbdream.hub import admission
from nbdream.hub.archive import Progress


def unpack(path: Path, folder: Path, progress: Progress | None = None) -> Path:
    """Unpack ``path`` to the new ``folder``; returns its session. What is refused leaves nothing behind."""
    with admission.opened(path) as archive:
        below = str(archive.manifest["session"])
        look = admission.checks(path, archive.manifest)

        def check(unpacked: Path) -> None:
            look(unpacked)
            with CallCache(unpacked / below / "calls.sqlite") as cache:
                replies.take_over(cache, unpacked / below)

        archive.unpack(folder, check, progress)
    return folder / below
