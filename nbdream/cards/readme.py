"""The README of a dataset or model on the Hub: front matter, and a managed part that leaves a person's own words alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from nbdream import escape
from nbdream.cards import body, licence, measured, terms
from nbdream.cards.fields import data_card
from nbdream.cards.graph import Graph, Stage, stages, texts
from nbdream.cards.managed import replace
from nbdream.cards.measured import Measured
from nbdream.errors import HubError
from nbdream.optional import require

_FRONT = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_SIZES = (
    "n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B", "100B<n<1T", "n>1T",
)  # fmt: skip
DEFAULT = "default"
"""The configuration that is loaded when none is named."""
CLASSIFICATION, SIMILARITY = "text-classification", "sentence-similarity"
_AS_DATA = (
    "`nbdream.json` holds this card for programs: every step, with its date, models, sources, licences and citations."
    " `ro-crate-metadata.json` tells the same as an RO-Crate (<https://w3id.org/ro/wfrun>)"
)
_CROISSANT = ", `croissant.json` as Croissant with the provenance of each column (<https://docs.mlcommons.org/croissant/>)"


@dataclass(frozen=True)
class DatasetFacts:
    """What a dataset's README says beside its graph: the rows of each split, column types, a few rows, the loader's metadata."""

    repo_id: str
    splits: Mapping[str, int]
    columns: Mapping[str, str]
    preview: Sequence[Mapping[str, Any]]
    metadata: Mapping[str, Any]
    synthetic: bool = True
    licence: str | None = None
    """The licence that was given, if one was."""
    config: str = DEFAULT
    total: int | None = None
    """The rows of all configurations together, where there are several."""


@dataclass(frozen=True)
class ModelFacts:
    """What a model's README says beside its graph: what its files are, and prompts to try it with."""

    repo_id: str
    seq2seq: bool
    adapter: bool
    chat: bool = False
    examples: Sequence[str] = ()
    synthetic: bool = True
    task: str = "text-generation"
    """What it is for, as the Hub calls it."""
    labels: int | None = None
    """How many labels a classifier has."""
    picture: str = ""
    """The file of its curve, beside the README."""
    measured: Sequence[Measured] = ()
    """What it was evaluated to do."""
    licence: str | None = None
    """The licence that was given, if one was."""


def front_matter(readme: str | None) -> dict[str, Any]:
    """The YAML at the head of a README; empty where there is none, `HubError` where it is not YAML."""
    return _split(readme)[0]


def readme_dataset(graph: Graph, existing: str | None, facts: DatasetFacts) -> str:
    """The README of a dataset. What ``existing`` says beside what is ours stays as it is."""
    found = stages(graph)
    given, text = _split(existing)
    stated = licence.decided(found, given, facts.licence)
    ours = {
        "tags": _tags(given, graph, found, facts.synthetic),
        "source_datasets": _hub_names(found, texts(given.get("source_datasets")) if facts.config != DEFAULT else ())
        or given.get("source_datasets"),
        "annotations_creators": _annotators(found) or given.get("annotations_creators"),
        "size_categories": [_size(sum(facts.splits.values()) if facts.total is None else facts.total)],
        "library_name": "nbdream",
        **stated.front_matter(),
        **facts.metadata,
    }
    card = require("huggingface_hub", "hub").DatasetCardData(**{**given, **ours})
    content = _dataset_body(found, facts, stated)
    if facts.config == DEFAULT:
        return _assemble(card, given, text, facts.repo_id, content)
    return _assemble(card, given, text, facts.repo_id, f"# {escape.markdown(facts.config)}\n\n{content}", facts.config)


def readme_model(graph: Graph, existing: str | None, facts: ModelFacts) -> str:
    """The README of a trained model. What ``existing`` says beside what is ours stays as it is."""
    found = stages(graph)
    given, text = _split(existing)
    bases = [str(model.get("name")) for model in found[-1].node.get("models") or [] if isinstance(model, dict)]
    stated = licence.decided(found, given, facts.licence)
    ours = {
        "tags": _tags(given, graph, found, facts.synthetic),
        "base_model": [name for name in bases if _is_hub_name(name)] or given.get("base_model"),
        "datasets": _hub_names(found) or given.get("datasets"),
        "library_name": "peft" if facts.adapter else "sentence-transformers" if facts.task == SIMILARITY else "transformers",
        "pipeline_tag": given.get("pipeline_tag") or facts.task,
        "widget": [{"text": example} for example in facts.examples] or given.get("widget"),
        measured.INDEX: measured.index(facts.measured, facts.repo_id.rpartition("/")[2], facts.task, given),
        **stated.front_matter(),
    }
    card = require("huggingface_hub", "hub").ModelCardData(**{**given, **ours})
    return _assemble(card, given, text, facts.repo_id, _model_body(found, facts, stated))


def readme_notebook(graph: Graph, existing: str | None, repo_id: str, notebook: str, given_licence: str | None = None) -> str:
    """The README of a notebook that is published by itself. What ``existing`` says beside what is ours stays as it is."""
    found = stages(graph)
    given, text = _split(existing)
    stated = licence.decided(found, given, given_licence)
    ours = {"tags": _tags(given, graph, found, synthetic=False), **stated.front_matter()}
    card = require("huggingface_hub", "hub").DatasetCardData(**{**given, **ours})
    named = f"[{escape.markdown(notebook)}]({quote(notebook)})"
    parts = [f"A notebook: {named}. Made with {_nbdream(found)}.", *_provenance(found, stated, repo_id)]
    return _assemble(card, given, text, repo_id, "\n\n".join(part for part in parts if part))


def _dataset_body(found: Sequence[Stage], facts: DatasetFacts, stated: licence.Licence) -> str:
    total = sum(facts.splits.values())
    models = list(dict.fromkeys(escape.markdown(str(model["name"])) for stage in found if not stage.is_run for model in stage.models))
    written = f", written by {_and(models)}" if models and facts.synthetic else ""
    what = f"{total:,} {'synthetic ' if facts.synthetic else ''}rows{written}. Made with {_nbdream(found)}."
    sizes = body.table(["split", "rows"], [[escape.markdown(name), f"{rows:,}"] for name, rows in facts.splits.items()])
    which = "" if facts.config == DEFAULT else f", {facts.config!r}"
    load = f"from datasets import load_dataset\n\ndata = load_dataset({facts.repo_id!r}{which})"
    return "\n\n".join(
        part
        for part in (
            what,
            body.section("Load it", f"```python\n{load}\n```", sizes),
            body.section("Columns", body.columns(found, facts.columns)),
            body.section("Example rows", body.examples(facts.preview)),
            body.section("Known limits", body.limits(found, facts.synthetic)),
            *_provenance(found, stated, facts.repo_id, _CROISSANT),
        )
        if part
    )


def _model_body(found: Sequence[Stage], facts: ModelFacts, stated: licence.Licence) -> str:
    run = found[-1]
    bases = " and ".join(escape.markdown(str(model["name"])) for model in run.models)
    kind = "A LoRA adapter" if facts.adapter else "A model"
    what = f"{kind} trained{f' from {bases}' if bases else ''} with {_nbdream(found)}."
    settings = body.table(["setting", "value"], [[escape.markdown(n), escape.markdown(str(v))] for n, v in run.settings.items()])
    return "\n\n".join(
        part
        for part in (
            what,
            body.section("Use it", f"```python\n{_usage(facts)}\n```"),
            body.section("Training", f"![loss]({facts.picture})" if facts.picture else "", settings if run.settings else ""),
            measured.section(facts.measured),
            body.section("Known limits", body.limits(found, facts.synthetic)),
            *_provenance(found, stated, facts.repo_id),
        )
        if part
    )


def _provenance(found: Sequence[Stage], stated: licence.Licence, name: str, further: str = "") -> list[str]:
    result = f"The licence of this: {escape.markdown(stated.shown)}{f' ({escape.markdown(stated.by)})' if stated.by else ''}."
    asked = terms.markdown(found, stated.name, name)
    return [
        body.section("How it was made", body.picture(found), body.lineage(found)),
        body.section("Prompts", body.prompts(found)),
        body.section("Python", body.code(found)),
        body.section("Sources, models and their licences", body.terms(found), result, asked),
        body.section("Make it again", body.again(found)),
        body.section("As data", f"{_AS_DATA}{further}."),
    ]


def _and(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def _usage(facts: ModelFacts) -> str:
    if facts.task in (CLASSIFICATION, SIMILARITY):
        return _usage_of_encoder(facts)
    kind = "AutoModelForSeq2SeqLM" if facts.seq2seq else "AutoModelForCausalLM"
    if facts.adapter:
        kind = kind.replace("AutoModel", "AutoPeftModel")
    example = facts.examples[0] if facts.examples else "Once upon a time"
    # ascii() keeps the example on one line, whatever a model wrote.
    prompt = ascii(example).replace("`", "\\x60")
    if facts.chat:
        message = f'[{{"role": "user", "content": {prompt}}}]'
        inputs = f'tokenizer.apply_chat_template({message}, add_generation_prompt=True, return_dict=True, return_tensors="pt")'
    else:
        inputs = f'tokenizer({prompt}, return_tensors="pt")'
    imports = [f"from transformers import {kind}, AutoTokenizer"]
    if facts.adapter:
        imports = [f"from peft import {kind}", "from transformers import AutoTokenizer"]
    decoded = "generated[0]" if facts.seq2seq else 'generated[0, inputs["input_ids"].shape[1]:]'
    return "\n".join(
        [
            *imports,
            "",
            f"tokenizer = AutoTokenizer.from_pretrained({facts.repo_id!r})",
            f"model = {kind}.from_pretrained({facts.repo_id!r})",
            f"inputs = {inputs}",
            "generated = model.generate(**inputs, max_new_tokens=200)",
            f"print(tokenizer.decode({decoded}, skip_special_tokens=True))",
        ]
    )


def _usage_of_encoder(facts: ModelFacts) -> str:
    name, text = repr(facts.repo_id), ascii(facts.examples[0] if facts.examples else "Once upon a time").replace("`", "\\x60")
    if facts.task == SIMILARITY:
        library, made = "from sentence_transformers import SentenceTransformer", f"model = SentenceTransformer({name})"
        return "\n".join([library, "", made, f"vectors = model.encode([{text}], normalize_embeddings=True)"])
    if not facts.adapter:
        return "\n".join(
            ["from transformers import pipeline", "", f'classify = pipeline("{facts.task}", model={name})', f"print(classify({text}))"]
        )
    return "\n".join(
        [
            "from peft import AutoPeftModelForSequenceClassification",
            "from transformers import AutoTokenizer",
            "",
            f"tokenizer = AutoTokenizer.from_pretrained({name})",
            f"model = AutoPeftModelForSequenceClassification.from_pretrained({name}, num_labels={facts.labels})",
            f'print(model(**tokenizer({text}, return_tensors="pt")).logits)',
        ]
    )


def _assemble(card: Any, given: Mapping[str, Any], text: str, repo_id: str, content: str, block: str = "") -> str:
    head = card.to_yaml(original_order=list(given) or None)
    title = f"# {escape.markdown(repo_id.rpartition('/')[2])}\n"
    return f"---\n{head}\n---\n{replace(text or title, content, block)}"


def _split(readme: str | None) -> tuple[dict[str, Any], str]:
    text = (readme or "").replace("\r\n", "\n")
    match = _FRONT.match(text)
    if match is None:
        return {}, text
    yaml = require("yaml", "hub")
    try:
        value = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError) as error:
        raise HubError("the front matter of the README that is there is not YAML", "mend its first lines, or delete it") from error
    if value is not None and not isinstance(value, dict):
        raise HubError("the front matter of the README that is there is not a mapping", "mend its first lines, or delete it")
    return {str(key): item for key, item in (value or {}).items()}, text[match.end() :]


def _tags(given: Mapping[str, Any], graph: Graph, found: Sequence[Stage], synthetic: bool) -> list[str]:
    version = f"nbdream-{data_card(graph)['__version__']}"
    kept = [tag for tag in texts(given.get("tags")) if tag == version or not re.fullmatch(r"nbdream-\d\S*", tag)]
    models = [str(model["name"]) for stage in found for model in stage.models]
    ours = [*(["synthetic"] if synthetic else []), "nbdream", version, *models]
    return list(dict.fromkeys([*kept, *ours]))


def _annotators(found: Sequence[Stage]) -> list[str]:
    """Who annotated, as the Hub has it, of all the steps that say so."""
    cards = [card for stage in found for card in stage.node.get("cards") or [] if isinstance(card, dict)]
    return list(dict.fromkeys(str(card.get("value")) for card in cards if card.get("type") == "annotations_creators"))


def _hub_names(found: Sequence[Stage], others: Sequence[str] = ()) -> list[str]:
    """The datasets of the Hub among the sources, after ``others``; a file on disk has no name that means anything elsewhere."""
    names = [str(stage.source["name"]) for stage in found if stage.source.get("name") and "/datasets/" in str(stage.source.get("url"))]
    return list(dict.fromkeys([*others, *names]))


def _is_hub_name(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+|[\w-][\w.-]*", name) is not None and name != "demo"


def _size(rows: int) -> str:
    place = 0 if rows < 1000 else len(str(rows)) - 3
    return _SIZES[min(place, len(_SIZES) - 1)]


def _nbdream(found: Sequence[Stage]) -> str:
    version = (found[-1].node.get("environment") or {}).get("nbdream")
    return escape.markdown(f"nbdream {version or ''}")
