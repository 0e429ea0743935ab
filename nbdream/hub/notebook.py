"""Publishing a notebook: with its outputs or without, beside the data that it made or by itself, with the card of its results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbdream import cards
from nbdream.errors import ArgumentError, BrokenFileError, HubError
from nbdream.files import read_object
from nbdream.hub.scan import Finding, Scan
from nbdream.hub.target import Content


def notebook_files(order: Any) -> dict[str, Content]:
    """The notebook of an order as it is published, by its name; nothing where none was asked for."""
    return {} if order.notebook is None else {order.notebook.name: notebook_bytes(order.notebook, order.strip)}


def notebook_findings(order: Any, scan: Scan) -> list[Finding]:
    """What stands in the notebook of an order that should not be published."""
    if order.notebook is None:
        return []
    return scan.texts(dict(_texts(_read(order.notebook), order.notebook.name, order.strip)))


def notebook_bytes(path: Path, strip: bool) -> bytes:
    """A notebook as a file; ``strip`` leaves out what running it has shown, and the number of each run.

    The state of widgets, which no reader needs, never goes along.
    """
    notebook = _read(path)
    notebook.get("metadata", {}).pop("widgets", None)
    for cell in notebook["cells"]:
        if strip and cell.get("cell_type") == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode("utf-8", errors="surrogatepass")


def _read(path: Path) -> dict[str, Any]:
    if path.suffix != ".ipynb":
        raise ArgumentError(f"{path.name} is no notebook", "give a file that ends in .ipynb")
    try:
        notebook = read_object(path)
    except FileNotFoundError:
        raise HubError(f"there is no file {path.name}", "save the notebook first") from None
    cells = notebook.get("cells")
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise BrokenFileError(path.name, "it is not a notebook with cells", "open it in Jupyter and save it again")
    return notebook


def _texts(notebook: dict[str, Any], name: str, strip: bool) -> Iterator[tuple[str, str]]:
    """What a reader sees of a notebook, by where it stands."""
    for number, cell in enumerate(notebook["cells"], 1):
        yield f"cell {number} of {name}", _joined(cell.get("source"))
        if not strip:
            yield f"the output of cell {number} of {name}", "\n".join(_shown(cell.get("outputs")))


def _shown(value: Any, key: str = "") -> Iterator[str]:
    """Every text of an output, at any depth; pictures are none."""
    if key.startswith("image/") and key != "image/svg+xml":
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            yield "".join(value)
        else:
            for item in value:
                yield from _shown(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name not in ("output_type", "metadata", "execution_count"):
                yield from _shown(item, name)


def _joined(source: Any) -> str:
    return "".join(str(line) for line in source) if isinstance(source, list) else str(source or "")


def is_saved(path: Path, source: str) -> bool:
    """Whether a cell of this source stands in the file: what is being run may not have been saved."""
    return any(_joined(cell.get("source")).strip() == source.strip() for cell in _read(path)["cells"])


def graph_of_notebook(session: Any, name: str) -> cards.Graph | None:
    """The graph of all current results that were made in the notebook of this name; None where there are none."""
    graphs = []
    for result in session.names:
        entry = session.names.current(result)
        if (entry.get("cell") or {}).get("notebook") == name:
            loaded = session.load(result)
            graphs.append(session.graph(loaded.step if hasattr(loaded, "model_path") else loaded))
    return cards.join(graphs) if graphs else None
