"""Synthetic data and model training in a notebook: cached, reproducible, with cards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbdream.optional import lazily

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

__getattr__, __dir__ = lazily(__name__, _HOMES)
