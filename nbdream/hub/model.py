"""Publishing a trained model: weights, tokenizer and configuration as ``transformers`` reads them, with its card."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nbdream import cards
from nbdream.cards.graph import Stage
from nbdream.errors import ArgumentError, HubError
from nbdream.files import read_object
from nbdream.hub.dataset import card_json, licences_of, told
from nbdream.hub.described import Part, described, published_file
from nbdream.hub.measured import measured
from nbdream.hub.notebook import notebook_files, notebook_findings
from nbdream.hub.order import Order, carry_out, doubts, graph_of, handle_of
from nbdream.hub.repository import target
from nbdream.hub.scan import CREDENTIALS, PATHS, SECRETS, Finding, Scan
from nbdream.hub.target import CARD, README, Change, Content, Head

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".spm")
"""Files of a model folder that are published. Nothing that is unpickled is among them."""
ARGUMENTS = "training_args.json"
CURVE = "training.svg"


def publish_model(trained: Any, repo_id: str, *, adapter_only: bool = False, is_synthetic: bool = True, **order: Any) -> str:
    """Publish a trained model and return the URL (or the path of a folder). Publishing the same again makes no commit.

    Of a LoRA run the adapter is merged into its base; ``adapter_only``: the adapter without the base model's weights.
    ``order``: the fields of `Order`. Raises `HubError` as `publish_dataset` does.
    """
    asked = Order(**order)
    graph = graph_of(trained)
    run = cards.stages(graph)[-1]
    with _folder(trained, adapter_only) as (folder, is_adapter):
        found = (path for path in sorted([*folder.glob("*"), *folder.glob("*/*")]) if _is_published(path, is_adapter))
        files: dict[str, Content] = {path.relative_to(folder).as_posix(): path for path in found}
        files |= {name: _without_paths(folder / name, run) for name in files if name in ("config.json", "adapter_config.json")}
        files[ARGUMENTS] = card_json(run.arguments).encode()
        if picture := getattr(trained, "picture", ""):
            files[CURVE] = picture.encode()
        examples = [str(text) for text in getattr(trained, "examples", None) or []]
        place = target(repo_id, "model", branch=asked.branch, private=asked.private, token=asked.token, only_look=asked.dry_run)
        facts = cards.ModelFacts(
            repo_id=place.repo_id,
            seq2seq=_is_seq2seq(folder),
            adapter=is_adapter,
            task=str(getattr(trained, "task", "text-generation")),
            labels=len(read_object(folder / "id2label.json")) if "id2label.json" in files else None,
            chat="chat_template.jinja" in files,
            examples=examples,
            synthetic=is_synthetic,
            picture=CURVE if picture else "",
            measured=measured(trained),
            licence=asked.license,
        )
        part = Part(place)
        weights = [published_file(part, path, content) for path, content in files.items()]
        words = cards.description(cards.stages(graph), None, is_synthetic)

        def build(head: Head, existing: str | None) -> Change:
            notebook = notebook_files(asked)
            readme = cards.readme_model(graph, existing, facts)
            licences, terms = licences_of(graph, readme, place.repo_id)
            texts = {CARD: card_json({**cards.model_card(graph), **terms}), README: readme}
            made = described(part, head, graph, words, weights, texts, licences, list(notebook))
            return Change({**files, **notebook, **made}, _is_weights)

        findings = _findings(trained, graph, files, examples, asked, repo_id)
        return carry_out(place, graph, build, findings, asked)


def _findings(
    trained: Any, graph: cards.Graph, files: Mapping[str, Content], examples: list[str], asked: Order, repo_id: str
) -> list[Finding]:
    """What stands against publishing a model: in its files, in the examples of its page, in the prompts above it."""
    handle = handle_of(trained)
    scan = Scan(folders=[Path(handle.runner.folder)] if getattr(handle.runner, "folder", None) else [])
    texts = {name: content for name, content in files.items() if not name.endswith((".safetensors", ".model", ".spm"))}
    # Tokenizers hold tens of thousands of pieces of words: any number of them looks like a path.
    own = {name: _text(content) for name, content in texts.items() if not name.startswith(("tokenizer", "vocab", "merges"))}
    secret = Scan((CREDENTIALS, SECRETS)).texts({name: _text(content) for name, content in texts.items()})
    shown = {f"example {number} of its page": text for number, text in enumerate(examples, 1)} | told(cards.stages(graph))
    found = [*secret, *Scan((PATHS,), scan.folders).texts(own), *scan.texts(shown), *notebook_findings(asked, scan)]
    return [*doubts(graph, {"": trained}, repo_id), *dict.fromkeys(found)]


@contextlib.contextmanager
def _folder(trained: Any, adapter_only: bool) -> Iterator[tuple[Path, bool]]:
    """The folder to publish from, and whether it is published as an adapter; an adapter is merged into its base."""
    folder, is_adapter = _found(Path(trained.model_path), adapter_only)
    if not is_adapter or adapter_only:
        yield folder, is_adapter
        return
    with tempfile.TemporaryDirectory(prefix="nbdream-merged-") as merged:
        yield Path(trained.export_to_disk(Path(merged) / "model")), False


def _found(path: Path, adapter_only: bool) -> tuple[Path, bool]:
    """The folder of the model, and whether it is an adapter."""
    if not path.is_dir():
        raise HubError("the model has no files to publish", "train it first, or wait until its run is done")
    adapter = next((folder for folder in (path, path / "adapter") if (folder / ADAPTER[0]).is_file()), None)
    if adapter_only and adapter is None:
        raise ArgumentError("this model has no adapter", "publish it without adapter_only: it was trained whole")
    whole = any(path.glob("model*.safetensors"))
    if adapter is not None and (adapter_only or not whole):
        return adapter, True
    if not whole:
        raise HubError(f"{path.name} holds no model.safetensors", "train it again: its run was not finished")
    return path, False


def _is_published(path: Path, is_adapter: bool) -> bool:
    if not path.is_file() or path.suffix not in SUFFIXES or path.name.startswith(".") or path.parent.name.startswith("."):
        return False
    if path.name in ADAPTER:
        return is_adapter
    return not (is_adapter and path.name.startswith("model")) or path.suffix == ".model"


def _is_weights(path: str) -> bool:
    """Whether a file of an earlier push would be loaded instead of, or beside, what is pushed now."""
    return "/" not in path and (path in ADAPTER or path.endswith(".safetensors") or path == "model.safetensors.index.json")


def _without_paths(path: Path, run: Stage) -> bytes:
    """A configuration that names its base model as the Hub does, and no folder of this machine."""
    value = read_object(path)
    base = next((str(model["name"]) for model in run.models), None)
    for key in ("_name_or_path", "base_model_name_or_path"):
        given = value.get(key)
        if isinstance(given, str) and (given.startswith(("/", ".", "~")) or Path(given).exists()):
            value[key] = base or Path(given).name
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _is_seq2seq(folder: Path) -> bool:
    config, adapter = folder / "config.json", folder / ADAPTER[0]
    if config.is_file():
        return bool(read_object(config).get("is_encoder_decoder"))
    return adapter.is_file() and read_object(adapter).get("task_type") == "SEQ_2_SEQ_LM"


def _text(content: Content) -> str:
    data = content if isinstance(content, bytes) else content.read_bytes()
    return data.decode("utf-8", errors="replace")
