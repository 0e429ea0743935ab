"""Merges a run's adapter into its base model: ``python -P -m nbdream.workers.merge RUN TARGET [trusted]``."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nbdream.files import read_object, read_text, write_json
from nbdream.trainers.labels import ID_TO_LABEL, LABEL_TO_ID, values_of
from nbdream.workers.encoder import load_classifier, load_sentences
from nbdream.workers.loading import load
from nbdream.workers.paths import CONTEXT_TEMPLATE, RunPaths


def main(arguments: Sequence[str]) -> None:
    """Write the merged model with its tokenizer; the folder appears when it is whole."""
    paths, target = RunPaths(arguments[0]), Path(arguments[1])
    told = read_object(paths.spec)
    base = told["model"]
    spec = {
        "model": str((paths.folder / base["path"]).resolve()) if base.get("local") else base["path"],
        "revision": base.get("revision"),
        "trust_remote_code": "trusted" in arguments[2:],  # what the kernel says, and not the folder
        "adapter": str(paths.model),
        "dtype": told.get("dtype"),
        "device": "cpu",
    }
    beside = target.with_name(f".{target.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    WRITERS.get(told["method"], language_model)(spec, paths, beside)
    if target.exists():
        target.rmdir()  # an empty folder, or there is nothing to do here
    os.replace(beside, target)


def language_model(spec: dict[str, Any], paths: RunPaths, target: Path) -> None:
    """With the templates that were trained."""
    model, tokenizer, _ = load(spec)
    if (template := paths.model / "chat_template.jinja").is_file():
        tokenizer.chat_template = read_text(template)
    model.merge_and_unload().save_pretrained(target)
    tokenizer.save_pretrained(target)
    if (contexts := paths.model / CONTEXT_TEMPLATE).is_file():
        shutil.copyfile(contexts, target / CONTEXT_TEMPLATE)


def classifier(spec: dict[str, Any], paths: RunPaths, target: Path) -> None:
    """With its labels, in the configuration and beside it."""
    labels = {name: read_object(paths.model / name) for name in (ID_TO_LABEL, LABEL_TO_ID)}
    multi = bool((read_object(paths.result).get("data") or {}).get("multi_label"))
    model, tokenizer = load_classifier({**spec, "labels": [str(value) for value in values_of(labels[ID_TO_LABEL])]})
    merged = model.merge_and_unload()
    merged.config.label2id = labels[LABEL_TO_ID]
    merged.config.problem_type = "multi_label_classification" if multi else "single_label_classification"
    merged.save_pretrained(target)
    tokenizer.save_pretrained(target)
    for name, value in labels.items():
        write_json(target / name, value)


def sentences(spec: dict[str, Any], paths: RunPaths, target: Path) -> None:
    """As sentence-transformers loads it."""
    load_sentences(spec).save_pretrained(str(target), create_model_card=False)


WRITERS: dict[str, Callable[[dict[str, Any], RunPaths, Path], None]] = {"classifier": classifier, "embedder": sentences}


if __name__ == "__main__":
    main(sys.argv[1:])
