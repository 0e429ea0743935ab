"""Publishing a trained model: weights, tokenizer and configuration as ``transformers`` reads them, with its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nbdream import cards
from nbdream.cards.graph import Stage
from nbdream.errors import ArgumentError, HubError
from nbdream.files import read_object
from nbdream.hub.dataset import card_json, graph_of, open_target
from nbdream.hub.described import described, published_file
from nbdream.hub.scan import refuse_secrets
from nbdream.hub.target import CARD, README, Change, Content, Head, update

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".spm")
"""Files of a model folder that are published. Nothing that is unpickled is among them."""
ARGUMENTS = "training_args.json"
CURVE = "training.svg"


def publish_model(
    trained: Any,
    repo_id: str,
    *,
    branch: str | None = None,
    private: bool = False,
    token: str | None = None,
    adapter_only: bool = False,
    is_synthetic: bool = True,
    yes: bool = False,
) -> str:
    """Publish a trained model and return the URL (or the path of a folder). Publishing the same again makes no commit.

    ``adapter_only``: of a LoRA run, the adapter without the base model's weights. ``yes`` allows what comes from the demo
    model to go to the Hub. Raises `HubError` as `publish_dataset` does.
    """
    graph = graph_of(trained)
    run = cards.stages(graph)[-1]
    folder, is_adapter = _folder(Path(trained.model_path), adapter_only)
    found = (path for path in sorted([*folder.glob("*"), *folder.glob("*/*")]) if _is_published(path, is_adapter))
    files: dict[str, Content] = {path.relative_to(folder).as_posix(): path for path in found}
    files |= {name: _without_paths(folder / name, run) for name in files if name in ("config.json", "adapter_config.json")}
    files[ARGUMENTS] = card_json(run.arguments).encode()
    card = card_json(cards.model_card(graph))
    files[CARD] = card.encode()
    if picture := getattr(trained, "picture", ""):
        files[CURVE] = picture.encode()
    refuse_secrets({}, {name: _text(content) for name, content in files.items() if not name.endswith((".safetensors", ".model", ".spm"))})
    place = open_target(repo_id, "model", graph, branch=branch, private=private, token=token, yes=yes)
    facts = cards.ModelFacts(
        repo_id=place.repo_id,
        seq2seq=_is_seq2seq(folder),
        adapter=is_adapter,
        task=str(getattr(trained, "task", "text-generation")),
        labels=len(read_object(folder / "id2label.json")) if "id2label.json" in files else None,
        chat="chat_template.jinja" in files,
        examples=[str(text) for text in getattr(trained, "examples", None) or []],
        synthetic=is_synthetic,
        picture=CURVE if picture else "",
    )

    weights = [published_file(place, path, content) for path, content in files.items() if path != CARD]
    words = cards.description(cards.stages(graph), None, is_synthetic)

    def build(head: Head, existing: str | None) -> Change:
        texts = {CARD: card, README: cards.readme_model(graph, existing, facts)}
        return Change({**files, **described(place, head, graph, words, weights, texts)}, _is_weights)

    update(place, build, "Publish with nbdream")
    return place.url


def _folder(path: Path, adapter_only: bool) -> tuple[Path, bool]:
    """The folder to publish from, and whether it is published as an adapter."""
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
