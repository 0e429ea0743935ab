"""What a publication says about itself for programs: ``croissant.json`` and ``ro-crate-metadata.json``, beside its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nbdream import cards
from nbdream.hub.scan import refuse_secrets
from nbdream.hub.target import CRATE, CROISSANT, README, Content, Head, Target, sha256


def published_file(place: Target, path: str, content: Content) -> cards.PublishedFile:
    """A file as descriptions name it. Weights are large, and the Hub tells their digests itself; people edit the README."""
    if path == README:
        return cards.PublishedFile(path, place.link(path))
    size = content.stat().st_size if isinstance(content, Path) else len(content)
    digest = None if path.endswith(".safetensors") else sha256(content)
    return cards.PublishedFile(path, place.link(path), size, digest)


def described(
    place: Target,
    head: Head,
    graph: cards.Graph,
    words: str,
    files: Sequence[cards.PublishedFile],
    texts: Mapping[str, str],
    splits: Mapping[str, cards.Split] | None = None,
    synthetic: bool = True,
) -> dict[str, Content]:
    """``texts`` (the card and the README) with the descriptions beside them, ready to publish; secrets stop it.

    ``files`` hold the result; with ``splits`` they are rows, and there is a ``croissant.json``. A crate names the notebook
    where it lies among the files of ``head``.
    """
    licences = cards.stated(cards.stages(graph), cards.front_matter(texts[README]).get("license"))
    published = cards.Publication(place.repo_id.rpartition("/")[2], place.address, words, licences, files)
    made = dict(texts)
    results = {graph["root"]: [file.path for file in files]}
    if splits:
        existing = place.read(CROISSANT, head)
        made[CROISSANT] = cards.as_text(cards.dataset_croissant(graph, published, splits, synthetic, existing))
        results = {root: [path for part in splits.values() if part.root == root for path in part.paths] for root in _roots(splits)}
    beside = [published_file(place, path, text.encode()) for path, text in made.items()]
    whole = cards.Publication(published.name, published.address, words, licences, [*files, *beside])
    made[CRATE] = cards.as_text(cards.run_crate(graph, whole, results, cards.notebook_of(graph, head.files)))
    refuse_secrets({}, made)
    return {path: text.encode() for path, text in made.items()}


def _roots(splits: Mapping[str, cards.Split]) -> list[str]:
    return list(dict.fromkeys(part.root for part in splits.values()))
