"""``ro-crate-metadata.json``: a publication as a Workflow Run RO-Crate, each step of the work an action with its times.

RO-Crate 1.1, which the run profiles 0.5 are made for. With the notebook beside it, a publication is a run of that workflow,
step by step (Provenance Run Crate); without it, the runs of its steps (Process Run Crate).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from nbdream import escape
from nbdream.cards.graph import Graph, Stage, stages
from nbdream.cards.linked import Publication, moment, node_id, sha256, told, version, words

Node = dict[str, Any]

SPECIFICATION = "https://w3id.org/ro/crate/1.1"
CONTEXT = [f"{SPECIFICATION}/context", {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}]
PROCESS = (("https://w3id.org/ro/wfrun/process/0.5", "Process Run Crate", "0.5"),)
WORKFLOW = (
    *PROCESS,
    ("https://w3id.org/ro/wfrun/workflow/0.5", "Workflow Run Crate", "0.5"),
    ("https://w3id.org/ro/wfrun/provenance/0.5", "Provenance Run Crate", "0.5"),
    ("https://w3id.org/workflowhub/workflow-ro-crate/1.0", "Workflow RO-Crate", "1.0"),
)
_MEDIA = {
    ".ipynb": "application/x-ipynb+json",
    ".jinja": "text/plain",
    ".json": "application/json",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
_DONE = "http://schema.org/CompletedActionStatus"
_ENGINE, _JUPYTER, _RUN = "#nbdream", "#jupyter", "#run"


def run_crate(graph: Graph, published: Publication, results: Mapping[str, Sequence[str]], notebook: str | None = None) -> Node:
    """The crate of ``published``. ``results``: the files that hold the result of a place in the graph; ``notebook``: its file."""
    found = stages(graph)
    files = list(dict.fromkeys([*(file.path for file in published.files), *([notebook] if notebook else [])]))
    profiles = WORKFLOW if notebook else PROCESS
    steps = [_run_id(stage) for stage in found]
    day = (moment(found[-1].finished) or "")[:10]
    root: Node = {
        "@id": "./",
        "@type": "Dataset",
        "name": published.name,
        "description": published.description,
        "datePublished": day,
        "license": [{"@id": address} if (address := escape.link(text)) else text for text in published.licenses],
        "conformsTo": [{"@id": address} for address, _, _ in profiles],
        "hasPart": [{"@id": _file(path)} for path in files],
        "mentions": [{"@id": place} for place in ([_RUN, "#orchestration"] if notebook else []) + steps],
        "mainEntity": {"@id": _file(notebook)} if notebook else None,
        "url": published.address,
    }
    entities = [
        {
            "@id": "ro-crate-metadata.json",
            "@type": "CreativeWork",
            "about": {"@id": "./"},
            "conformsTo": [{"@id": SPECIFICATION}, *([{"@id": WORKFLOW[-1][0]}] if notebook else [])],
        },
        root,
        *({"@id": address, "@type": "CreativeWork", "name": name, "version": version} for address, name, version in profiles),
        *({"@id": address, "@type": "CreativeWork", "name": text} for text in published.licenses if (address := escape.link(text))),
        *_published_files(published, notebook),
        {"@id": _ENGINE, "@type": "SoftwareApplication", "name": "nbdream", "softwareVersion": version(found[-1])},
        *(node for stage in found for node in _step(stage, found, results)),
        *(_workflow(found, results, notebook) if notebook else ()),
    ]
    unique: dict[str, Node] = {}
    for entity in entities:
        unique.setdefault(entity["@id"], {key: _one(value) for key, value in entity.items() if value not in (None, "", [])})
    return {"@context": CONTEXT, "@graph": list(unique.values())}


def _published_files(published: Publication, notebook: str | None) -> Iterator[Node]:
    for file in published.files:
        if file.path != notebook:
            media = "application/ld+json" if file.path == "croissant.json" else _MEDIA.get(PurePosixPath(file.path).suffix)
            size = None if file.size is None else str(file.size)
            about = {"encodingFormat": media or "application/octet-stream", "contentSize": size, "sha256": file.sha256}
            readme = {"about": {"@id": "./"}} if file.path == "README.md" else {}
            yield {"@id": _file(file.path), "@type": "File", "name": file.path, **about, **readme}


def notebook_of(graph: Graph, paths: Iterable[str]) -> str | None:
    """The notebook that the work was done in, where it is among ``paths``."""
    cells = [stage.node.get("cell") for stage in reversed(stages(graph))]
    names = [str(cell["notebook"]) for cell in cells if isinstance(cell, dict) and cell.get("notebook")]
    there = {PurePosixPath(path).name: path for path in sorted(paths, reverse=True) if path.endswith(".ipynb")}
    return next((there[name] for name in names if name in there), None)


# --- the steps --------------------------------------------------------------------------------------------------------


def _step(stage: Stage, found: Sequence[Stage], results: Mapping[str, Sequence[str]]) -> Iterator[Node]:
    """The run of a step, and what it is about: the tool, the models, what went in and what came out."""
    above = {other.id: other for other in found}
    inputs = [place for use in stage.inputs for place in _result(above[use], results)]
    given = [*_parameters(stage)]
    source = _source(stage)
    yield {
        "@id": _run_id(stage),
        "@type": "CreateAction",
        "name": stage.name,
        "description": told(stage),
        "instrument": [{"@id": _tool_id(stage)}, *({"@id": _model_id(model)} for model in stage.models)],
        "object": [{"@id": place} for place in [*inputs, *([source["@id"]] if source else []), *(node["@id"] for node in given)]],
        "result": [{"@id": place} for place in _result(stage, results)],
        "startTime": moment(stage.started),
        "endTime": moment(stage.finished),
        "actionStatus": _DONE,
    }
    yield {
        "@id": _tool_id(stage),
        "@type": "SoftwareApplication",
        "name": stage.kind,
        "softwareVersion": words(stage.node.get("version")),
        "softwareRequirements": {"@id": _ENGINE},
    }
    for model in stage.models:
        about = {"url": escape.link(model.get("card_url")), "license": words(model.get("license"))}
        yield {"@id": _model_id(model), "@type": "SoftwareApplication", "name": str(model["name"]), **about}
    if source:
        yield source
    yield from given
    if stage.id not in results:
        yield {"@id": _rows_id(stage), "@type": "PropertyValue", "name": stage.name, "value": _content(stage)}


def _parameters(stage: Stage) -> Iterator[Node]:
    """Prompts, settings and the digests of code: what the step was told, beside its rows."""
    code = {name: f"sha256:{sha256(source)}" for name, source in stage.code.items()}
    for name, value in {**stage.prompts, **code, **stage.settings}.items():
        yield {"@id": node_id("parameter", stage.id, name), "@type": "PropertyValue", "name": name, "value": value}


def _source(stage: Stage) -> Node | None:
    """What a source read; in a crate a dataset elsewhere is what has an address, anything else is named."""
    source = stage.source
    if not source:
        return None
    address = escape.link(source.get("url"))
    said = {"name": "name", "version": "revision", "license": "license", "citation": "citation"}
    about = {key: words(source.get(known_as)) for key, known_as in said.items()}
    return {"@id": node_id("source", stage.id), "@type": "CreativeWork", **about, "url": address}


def _content(stage: Stage) -> str:
    """What came out of a step whose result is not among the files: how much, and the digests of the columns that it made."""
    if stage.is_run:
        return "a model"
    columns = stage.node.get("columns")
    made = columns.values() if isinstance(columns, dict) else ()
    digests = [str(column.get("digest")) for column in made if isinstance(column, dict)]
    return " · ".join([f"{stage.rows or 0:,} rows", *digests])


# --- the notebook -----------------------------------------------------------------------------------------------------


def _workflow(found: Sequence[Stage], results: Mapping[str, Sequence[str]], notebook: str) -> Iterator[Node]:
    """The notebook as a workflow, its run, and each of its steps as one that the run went through."""
    started, finished = ([when for text in texts if (when := moment(text))] for texts in _times(found))
    sources = [source["@id"] for stage in found if (source := _source(stage))]
    yield {
        "@id": _file(notebook),
        "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
        "name": notebook,
        "encodingFormat": _MEDIA[".ipynb"],
        "programmingLanguage": {"@id": _JUPYTER},
        "hasPart": [{"@id": place} for place in dict.fromkeys(map(_tool_id, found))],
        "step": [{"@id": _how_id(stage)} for stage in found],
    }
    yield {"@id": _JUPYTER, "@type": "ComputerLanguage", "name": "Jupyter Notebook", "url": "https://jupyter.org"}
    yield {
        "@id": _RUN,
        "@type": "CreateAction",
        "name": f"Run of {notebook}",
        "description": f"{len(found):,} steps, each of them an action of its own",
        "instrument": {"@id": _file(notebook)},
        "object": [{"@id": place} for place in dict.fromkeys(sources)],
        "result": [{"@id": _file(path)} for paths in results.values() for path in paths],
        "startTime": min(started, default=None),
        "endTime": max(finished, default=None),
        "actionStatus": _DONE,
    }
    for position, stage in enumerate(found, 1):
        tool = {"@id": _tool_id(stage)}
        yield {"@id": _how_id(stage), "@type": "HowToStep", "name": stage.name, "position": str(position), "workExample": tool}
        yield {
            "@id": node_id("control", stage.id),
            "@type": "ControlAction",
            "name": stage.name,
            "instrument": {"@id": _how_id(stage)},
            "object": {"@id": _run_id(stage)},
        }
    yield {
        "@id": "#orchestration",
        "@type": "OrganizeAction",
        "name": f"nbdream running {notebook}",
        "instrument": {"@id": _ENGINE},
        "object": [{"@id": node_id("control", stage.id)} for stage in found],
        "result": {"@id": _RUN},
    }


def _times(found: Sequence[Stage]) -> tuple[list[str | None], list[str | None]]:
    return [stage.started for stage in found], [stage.finished for stage in found]


# --- ids --------------------------------------------------------------------------------------------------------------


def _result(stage: Stage, results: Mapping[str, Sequence[str]]) -> list[str]:
    return [_file(path) for path in results[stage.id]] if stage.id in results else [_rows_id(stage)]


def _file(path: str) -> str:
    return quote(path)


def _run_id(stage: Stage) -> str:
    return node_id("step", stage.id)


def _how_id(stage: Stage) -> str:
    return node_id("how", stage.id)


def _rows_id(stage: Stage) -> str:
    return node_id("rows", stage.id)


def _tool_id(stage: Stage) -> str:
    return node_id("tool", stage.kind, str(words(stage.node.get("version"))))


def _model_id(model: Mapping[str, Any]) -> str:
    return node_id("agent", str(model.get("kind")), str(model["name"]))


def _one(value: Any) -> Any:
    """A list of one as the one: RO-Crate would rather have it so."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value
