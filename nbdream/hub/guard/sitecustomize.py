"""Python imports this at its start in a replay: it shuts the network of that process, then does what another of its name would do."""  # noqa: INP001

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def _load(name: str, path: Path) -> object:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if os.environ.get("NBDREAM_REPLAY"):
    sys.addaudithook(_load("_nbdream_shut", _HERE.parent / "shut.py").refuse)  # type: ignore[attr-defined]
for _folder in sys.path:
    _other = Path(_folder) / "sitecustomize.py"
    if _folder and Path(_folder).resolve() != _HERE and _other.is_file():
        _load("sitecustomize", _other)
        break
