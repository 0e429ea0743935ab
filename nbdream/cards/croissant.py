"""``croissant.json`` of a published dataset: Croissant 1.1 with the files, the fields, PROV-O down to columns, and RAI.

Readers of Croissant follow every reference between described nodes, so what is referred to refers to nothing further:
activities name the entities that they used and generated, and entities are ends. All of the lineage is there, and none of it
is walked twice, however long or wide it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbdream import escape
from nbdream.cards.fields import CITATION, declared, step_fields
from nbdream.cards.graph import Graph, Stage, origin, stages, texts
from nbdream.cards.linked import Publication, moment, node_id, sha256, told, version, words

if TYPE_CHECKING:
    import pyarrow as pa

Node = dict[str, Any]

CONFORMS = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
_CR = (
    "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet",
    "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
    "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
CONTEXT: Node = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{term: f"cr:{term}" for term in _CR},
}
"""The context of Croissant 1.1, with PROV."""
OWN = (
    "rai:annotationsPerItem", "rai:annotatorDemographics", "rai:dataBiases", "rai:dataImputationProtocol",
    "rai:dataPreprocessingProtocol", "rai:dataReleaseMaintenancePlan", "rai:dataSocialImpact", "rai:dataUseCases",
    "rai:machineAnnotationTools", "rai:personalSensitiveInformation",
)  # fmt: skip
"""What only a person can say."""
LIMITS = "Language models wrote what stands here: it can be wrong, biased or made up."


@dataclass(frozen=True)
class Split:
    """One split: where its rows stand in the graph, how many there are, their types, and the paths of its files."""

    root: str
    rows: int
    schema: pa.Schema
    paths: Sequence[str]


def dataset_croissant(
    graph: Graph, published: Publication, splits: Mapping[str, Split], synthetic: bool = True, existing: str | None = None
) -> Node:
    """The description of a dataset in Croissant 1.1; what is not known is left out. The dates are those of the work.

    What a person added to the ``existing`` one about biases, use, impact and the like stays.
    """
    from nbdream.cards.records import record_sets  # with pyarrow, for which a notebook that loads nbdream need not wait

    stages_found = stages(graph)
    found = {stage.id: stage for stage in stages_found}
    root = stages_found[-1]
    finished = moment(root.finished)
    day = (finished or "")[:10]
    about: Node = {
        "name": published.name,
        "description": published.description,
        "conformsTo": CONFORMS,
        "url": published.address,
        "license": list(published.licenses),
        "version": _version(day, published),
        "datePublished": day,
        "dateCreated": finished,
        "keywords": [*(["synthetic"] if synthetic else []), "nbdream"],
        "citeAs": _cite_as(root, published, day),
        "citation": list(dict.fromkeys(text for stage in stages_found for text in step_fields(stage).get(CITATION, []))),
        **_responsible(stages_found, synthetic),
        **_own(existing),
        "prov:wasDerivedFrom": _sources(stages_found),
        "prov:wasAttributedTo": _agents(stages_found),
        "prov:wasGeneratedBy": [_activity(stage, found) for stage in stages_found],
        "distribution": _files(published, splits),
        "recordSet": record_sets(splits, lambda split, column: _field(found, splits[split].root, column)),
    }
    known = {key: value for key, value in about.items() if value is not None and value != "" and value != []}
    return {"@context": CONTEXT, "@type": "sc:Dataset", **known}


def _own(existing: str | None) -> Node:
    """What a person says of the dataset in the description that is there: texts, under the names of `OWN`."""
    try:
        found = json.loads(existing or "{}")
    except (ValueError, RecursionError):
        return {}
    given = {key: found.get(key) for key in OWN} if isinstance(found, dict) else {}
    return {key: value if isinstance(value, str) else texts(value) for key, value in given.items() if texts(value)}


def _version(day: str, published: Publication) -> str:
    """The day of the work, as a version has it, and its files' content."""
    content = sha256("".join(file.sha256 or "" for file in published.files))[:12]
    year, month, date = map(int, day.split("-")) if day else (0, 0, 0)
    return f"{year}.{month}.{date}+{content}"


def _cite_as(root: Stage, published: Publication, day: str) -> str:
    """How to cite the dataset: as its author says, else what it is, from when, and where."""
    made = f"{published.name} ({day[:4]})." if day else f"{published.name}."
    return "\n\n".join(declared(root, CITATION)) or " ".join(part for part in (made, published.description, published.address) if part)


def _files(published: Publication, splits: Mapping[str, Split]) -> list[Node]:
    """Every file of rows, and a set of files for each split that has more than one."""
    from nbdream.cards.records import word

    paths = {path for split in splits.values() for path in split.paths}
    parquet = "application/x-parquet"
    files: list[Node] = [
        {
            "@type": "cr:FileObject",
            "@id": file.path,
            "name": file.path,
            "contentUrl": file.address,
            "contentSize": f"{file.size} B",
            "encodingFormat": parquet,
            "sha256": file.sha256,
        }
        for file in published.files
        if file.path in paths
    ]
    sets: list[Node] = [
        {"@type": "cr:FileSet", "@id": f"{word(name)}-files", "name": name, "encodingFormat": parquet, "includes": f"data/{name}-*.parquet"}
        for name, split in splits.items()
        if len(split.paths) > 1
    ]
    return files + sets


# --- provenance -------------------------------------------------------------------------------------------------------


def _activity(stage: Stage, found: Mapping[str, Stage]) -> Node:
    """The work of one step: by which software and models, when, of what, with which prompts and settings."""
    above = [found[place] for place in stage.inputs]
    read = [_column(*origin(found, found[place], name)) for place, names in stage.reads.items() if place in found for name in names]
    used = [{"@id": _rows(step)} for step in above] + [{"@id": place} for place in dict.fromkeys(read)] + _plans(stage)
    rows = {"@id": _rows(stage), "@type": "prov:Entity", "prov:label": f"{stage.name}{' (a model)' if stage.is_run else ''}"}
    columns = [] if stage.is_run else stage.made
    made: list[Node] = [{"@id": _column(stage, name), "@type": "prov:Entity", "prov:label": f"{stage.name}: {name}"} for name in columns]
    times = {"prov:startedAtTime": stage.started, "prov:endedAtTime": stage.finished}
    facts = [("rows", stage.rows), ("failed rows", stage.failures or None), *stage.settings.items()]
    known: Node = {
        **{key: {"@type": "xsd:dateTime", "@value": when} for key, value in times.items() if (when := moment(value))},
        "prov:used": used + ([{"@id": _source(stage)}] if stage.source else []),
        "additionalProperty": [{"@type": "sc:PropertyValue", "name": name, "value": value} for name, value in facts if value is not None],
    }
    return {
        "@type": "prov:Activity",
        "@id": _activity_id(stage),
        "prov:label": stage.name,
        "additionalType": stage.kind,
        "prov:wasAssociatedWith": [{"@id": "#nbdream"}, *({"@id": _model(model)} for model in stage.models)],
        "prov:generated": [rows, *made],
        **{key: value for key, value in known.items() if value},
    }


def _plans(stage: Stage) -> list[Node]:
    """The prompts and the Python, by their digests: the README has the words of the prompts."""
    return [
        {"@type": ["prov:Entity", "prov:Plan"], "@id": node_id("plan", stage.id, name), "prov:label": name, "sc:sha256": sha256(text)}
        for name, text in {**stage.prompts, **stage.code}.items()
    ]


def _agents(found: Sequence[Stage]) -> list[Node]:
    kinds = ["prov:SoftwareAgent", "sc:SoftwareApplication"]
    agents: dict[str, Node] = {"#nbdream": {"@type": kinds, "@id": "#nbdream", "name": "nbdream", "version": version(found[-1])}}
    for model in (model for stage in found for model in stage.models):
        about = {"name": model["name"], "url": escape.link(model.get("card_url")), "license": words(model.get("license"))}
        agents.setdefault(_model(model), {"@type": kinds, "@id": _model(model), **about})
    return [{key: value for key, value in agent.items() if value} for agent in agents.values()]


def _sources(found: Sequence[Stage]) -> list[Node]:
    # Not as datasets: readers take the first of those in a file for what the file describes.
    sources: dict[str, Node] = {}
    for stage in found:
        if stage.source:
            said = {"name": "name", "version": "revision", "license": "license"}
            known = {key: text for key, known_as in said.items() if (text := words(stage.source.get(known_as)))}
            sources.setdefault(_source(stage), {"@type": ["prov:Entity", "sc:CreativeWork"], "@id": _source(stage), **known})
    return list(sources.values())


def _field(found: Mapping[str, Stage], root: str, column: str) -> Node:
    """Which step made a column, and of what."""
    if root not in found:
        return {}
    stage, name = origin(found, found[root], column)
    read = [_column(*origin(found, found[place], other)) for place, names in stage.reads.items() if place in found for other in names]
    whole = [_rows(found[place]) for place, names in stage.reads.items() if place in found and (not names or found[place].is_run)]
    derived = [*dict.fromkeys([*read, *whole]), *([_source(stage)] if stage.source else [])]
    known: Node = {"prov:wasDerivedFrom": [{"@id": place} for place in derived]} if derived else {}
    return {"prov:specializationOf": {"@id": _column(stage, name)}, "prov:wasGeneratedBy": {"@id": _activity_id(stage)}, **known}


def _activity_id(stage: Stage) -> str:
    return node_id("step", stage.id)


def _rows(stage: Stage) -> str:
    return node_id("model" if stage.is_run else "rows", stage.id)


def _column(stage: Stage, name: str) -> str:
    return node_id("column", stage.id, name)


def _model(model: Mapping[str, Any]) -> str:
    return node_id("agent", str(model.get("kind")), str(model["name"]))


def _source(stage: Stage) -> str:
    """The address of a source where it has one, since others speak of it by that; else an id of our own."""
    source = stage.source
    return escape.link(source.get("url")) or node_id("source", stage.id)


# --- responsible AI ---------------------------------------------------------------------------------------------------


def _responsible(found: Sequence[Stage], synthetic: bool) -> Node:
    """The RAI properties that the graph answers; what only a person can know is left to the person."""
    writers = [stage for stage in found if stage.models and not stage.is_run]
    people = [stage for stage in found if stage.node.get("type") == "Annotate"]
    times = [when for stage in writers or found for when in (moment(stage.started), moment(stage.finished)) if when]
    failed = sum(stage.failures for stage in found)
    instructions = [text for stage in people for text in step_fields(stage).get("Annotation Instruction", [])]
    answers: Node = {
        "rai:dataCollection": "Made in steps: " + ", then ".join(f"{stage.name} ({told(stage)})" for stage in found) + ".",
        "rai:dataCollectionType": ["Synthetic data"] if synthetic else [],
        "rai:dataCollectionTimeFrame": [min(times), max(times)] if times else [],
        "rai:dataCollectionMissingData": f"{failed:,} rows failed on the way: each is left out, or null." if failed else "",
        "rai:dataAnnotationProtocol": instructions,
        "rai:dataAnnotationPlatform": ["nbdream, in the notebook"] if people else [],
        "rai:dataAnnotationAnalysis": [text for stage in people for text in step_fields(stage).get("Agreement", [])],
        "rai:dataLimitations": [LIMITS] if synthetic and writers else [],
    }
    return {"rai:hasSyntheticData": synthetic, **{key: value for key, value in answers.items() if value}}
