"""`Tokens`: rows as a model sees them when it is trained: which tokens it reads, which it learns, where packed rows end."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbdream.errors import DataError, TrainingError
from nbdream.workers import runs
from nbdream.workers.paths import RunPaths


@dataclass(frozen=True)
class Piece:
    """A stretch of tokens that are all learned, or all only read."""

    text: str
    tokens: int
    learned: bool


@dataclass(frozen=True)
class Tokens:
    """What training would see: the numbers for all rows, and the first of them token by token."""

    facts: Mapping[str, Any]
    """``rows``, ``tokens``, ``trained_tokens``, ``max_length``, ``truncated``, ``dropped``, ``longest``, ``median``, ``batching``; of
    packed rows also ``packed_rows`` and ``filling``."""
    examples: tuple[tuple[tuple[Piece, ...], ...], ...]
    """The first rows of a batch: each holds one example, or several where they are packed."""


def look(write: Callable[[Path], Mapping[str, Any]], examples: int) -> Tokens:
    """Have a worker tokenize what ``write`` puts into a folder (it gives the spec of the run). Takes the import of a tokenizer."""
    with tempfile.TemporaryDirectory(prefix="nbdream-tokens-") as folder:
        paths = RunPaths(folder)
        paths.spec.write_text(json.dumps(write(paths.folder)))
        command = [sys.executable, "-P", "-m", "nbdream.workers.tokens", folder, str(examples)]
        done = subprocess.run(command, env=runs.worker_environment(), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    told = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
    if "error" in told:
        raise DataError(told["error"], told["hint"])
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "the process ended without a word")
        raise TrainingError(f"the rows could not be tokenized: {last}")
    pieces = tuple(tuple(tuple(Piece(*piece) for piece in part) for part in row) for row in told["examples"])
    return Tokens(told["facts"], pieces)
