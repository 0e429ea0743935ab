"""Publishing a notebook by itself: into the repository of its data where there is one, else with a card of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbdream import cards, context
from nbdream.errors import ArgumentError, SessionError
from nbdream.hub.dataset import card_json, licences_of, told
from nbdream.hub.described import Part, described
from nbdream.hub.notebook import graph_of_notebook, notebook_files, notebook_findings
from nbdream.hub.order import Order, carry_out
from nbdream.hub.repository import target
from nbdream.hub.scan import Scan
from nbdream.hub.target import CARD, README, Change, Content, Head, is_folder


def publish_notebook(session: Any, notebook: str | Path, repo_id: str, *, kind: str = "dataset", **order: Any) -> str:
    """Publish a notebook of ``session``, and return the URL (or the path of a folder).

    Where the repository has a card already (data or a model was published to it), only the notebook is added; else it gets
    a README and the card of everything that the notebook made. ``kind``: ``dataset`` or ``model``. ``order``: the fields of
    `Order`.
    """
    path = Path(notebook).expanduser().absolute()
    if context.replaying() and not is_folder(repo_id):
        raise SessionError("a replay publishes nothing", "run the notebook itself")
    asked = Order(**{**order, "notebook": path})
    files = notebook_files(asked)
    graph = graph_of_notebook(session, path.name)
    if graph is None:
        raise ArgumentError(f"the session has no result of {path.name}", "run its cells first, or open its session: %dream open FOLDER")
    scan = Scan(folders=[Path(session.folder)])
    findings = notebook_findings(asked, scan) + scan.texts(told(cards.stages(graph)))
    place = target(repo_id, kind, branch=asked.branch, private=asked.private, token=asked.token, only_look=asked.dry_run)

    def build(head: Head, existing: str | None) -> Change:
        if CARD in head.files and existing is not None:
            return Change({**files, README: existing.encode()}, lambda path: False)
        readme = cards.readme_notebook(graph, existing, place.repo_id, path.name, asked.license)
        licences, terms = licences_of(graph, readme, place.repo_id)
        texts = {CARD: card_json({**cards.data_card(graph), **terms}), README: readme}
        words = f"The notebook {path.name}, with everything that it made"
        made: dict[str, Content] = {**files}
        return Change({**made, **described(Part(place), head, graph, words, [], texts, licences, list(files))}, lambda path: False)

    return carry_out(place, graph, build, findings, asked)
