"""Merges a run's adapter into its base model: ``python -P -m nbdream.workers.merge RUN TARGET``."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from nbdream.files import read_object, read_text
from nbdream.workers.loading import load
from nbdream.workers.paths import RunPaths


def main(arguments: Sequence[str]) -> None:
    """Write the merged model with its tokenizer; the folder appears when it is whole."""
    paths, target = RunPaths(arguments[0]), Path(arguments[1])
    spec = read_object(paths.spec)
    base = spec["model"]
    model, tokenizer, _ = load({
        "model": str((paths.folder / base["path"]).resolve()) if base.get("local") else base["path"],
        "revision": base.get("revision"),
        "trust_remote_code": bool(base.get("trust_remote_code")),
        "adapter": str(paths.model),
        "dtype": spec.get("dtype"),
        "device": "cpu",
    })  # fmt: skip
    if (template := paths.model / "chat_template.jinja").is_file():
        tokenizer.chat_template = read_text(template)
    beside = target.with_name(f".{target.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    model.merge_and_unload().save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    if target.exists():
        target.rmdir()  # an empty folder, or there is nothing to do here
    os.replace(beside, target)


if __name__ == "__main__":
    main(sys.argv[1:])
