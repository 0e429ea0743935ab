"""What a publication says about itself for programs: ``croissant.json`` and ``ro-crate-metadata.json``, beside its card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nbdream import cards
from nbdream.hub.scan import CREDENTIALS, SECRETS, Scan, refuse
from nbdream.hub.target import CRATE, CROISSANT, README, Content, Head, Target, sha256, size


class Part:
    """A part of a place: the folder of a configuration, whose descriptions name files from there. ``under`` ends in ``/``."""

    def __init__(self, place: Target, under: str = "") -> None:
        self._place, self.under = place, under
        self.name = "-".join(part for part in (place.repo_id.rpartition("/")[2], under.rstrip("/")) if part)
        self.address = place.address

    def link(self, path: str) -> str:
        """Where a file of the part can be read: its address, or for a folder its path within the part."""
        return self._place.link(self.under + path) if self.address else path

    def read(self, path: str, head: Head) -> str | None:
        """A text file of the part, or None."""
        return self._place.read(self.under + path, head)


def published_file(part: Part, path: str, content: Content) -> cards.PublishedFile:
    """A file as descriptions name it. Weights are large, and the Hub tells their digests itself; people edit the README."""
    if path == README:
        return cards.PublishedFile(path, part.link(path))
    digest = None if path.endswith(".safetensors") else sha256(content)
    return cards.PublishedFile(path, part.link(path), size(content), digest)


def described(
    part: Part,
    head: Head,
    graph: cards.Graph,
    words: str,
    files: Sequence[cards.PublishedFile],
    texts: Mapping[str, str],
    licences: Sequence[str],
    notebooks: Iterable[str] = (),
    splits: Mapping[str, cards.Split] | None = None,
    synthetic: bool = True,
) -> dict[str, Content]:
    """``texts`` (the card, and the README where it is the part's) with the descriptions beside them, ready to publish.

    ``files`` hold the result; with ``splits`` they are rows, and there is a ``croissant.json``. A crate names the notebook
    where it lies among the files of ``head`` or among ``notebooks``. Secrets stop it.
    """
    published = cards.Publication(part.name, part.address, words, licences, files)
    made = dict(texts)
    results = {graph["root"]: [file.path for file in files]}
    if splits:
        existing = part.read(CROISSANT, head)
        made[CROISSANT] = cards.as_text(cards.dataset_croissant(graph, published, splits, synthetic, existing))
        results = {root: [path for part in splits.values() if part.root == root for path in part.paths] for root in _roots(splits)}
    beside = [published_file(part, path, text.encode()) for path, text in made.items()]
    whole = cards.Publication(published.name, published.address, words, licences, [*files, *beside])
    there = [] if part.under else [*head.files, *notebooks]
    made[CRATE] = cards.as_text(cards.run_crate(graph, whole, results, cards.notebook_of(graph, there)))
    refuse(Scan((CREDENTIALS, SECRETS)).texts({part.under + path: text for path, text in made.items()}))
    return {path: text.encode() for path, text in made.items()}


def _roots(splits: Mapping[str, cards.Split]) -> list[str]:
    return list(dict.fromkeys(part.root for part in splits.values()))
