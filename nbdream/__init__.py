"""Synthetic data and model training in a notebook: cached, reproducible, with cards."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbdream.magics import load_ipython_extension, unload_ipython_extension
    from nbdream.session import Session

__version__ = "0.1.0"
__all__ = ["Session", "__version__", "load_ipython_extension", "unload_ipython_extension"]

# What is loaded when it is first asked for, so that `import nbdream` costs next to nothing.
_HOMES = {
    "Session": "nbdream.session",
    "load_ipython_extension": "nbdream.magics",
    "unload_ipython_extension": "nbdream.magics",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'nbdream' has no attribute {name!r}") from None
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
