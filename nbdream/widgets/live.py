"""What is live in an output: widgets' modules, what marks an output that holds a widget, and static HTML that a widget brings to life."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbdream.fingerprint import digest

LIVE = "application/vnd.nbdream.live+json"
"""JupyterLab's renderer shows the widget while it lives, else what lies beside it."""
STATIC = Path(__file__).parent / "static"
MOST = 64
"""Outputs that are brought to life at once; the oldest become still again."""
_IMPORT = re.compile(r'^import \{ \w+ \} from "\./(\w+\.js)";$', re.MULTILINE)
_alive: OrderedDict[str, Any] = OrderedDict()


def live_json(model: str = "") -> dict[str, Any]:
    """What marks an output that holds a widget: the one of this id, else the one whose view lies beside it."""
    return {"version": 1, "model": model}


@functools.cache
def module(name: str) -> str:
    """A module of ``static/`` as one text, as widgets take it: what it imports from its neighbours stands in it."""
    text = (STATIC / name).read_text("utf-8")
    return _IMPORT.sub(lambda found: re.sub(r"^export (?!default)", "", module(found[1]), flags=re.MULTILINE), text)


def enlivened(bundle: dict[str, Any], key: str, make: Callable[[str], Any]) -> dict[str, Any]:
    """``bundle``, which the widget that ``make(mark)`` gives brings to life wherever a page shows it.

    In JupyterLab and Notebook no view of the widget is part of the output, which is saved: the page finds the place by a mark of ``key``,
    which says what is shown. Elsewhere (VS Code, Colab) the view lies beside the HTML. A notebook that nobody looks at gets neither.
    Of two widgets of one mark, the later one is alive.
    """
    if "NBDREAM_NOTEBOOK" in os.environ:
        return bundle
    widget = quickened(key, make)
    if not widget.mark:
        return {**widget._repr_mimebundle_()[0], **bundle}
    still = {kind: shown for kind, shown in bundle.items() if kind != LIVE}
    return {**still, "text/html": _place(widget, bundle)}


def quickened(key: str, make: Callable[[str], Any]) -> Any:
    """The widget that ``make(mark)`` gives, None where there are none; in JupyterLab and Notebook it finds its place by the mark."""
    if not _finds_places():
        return make("")
    mark = digest(key)[:32]
    _retire(mark)
    if (widget := make(mark)) is not None:
        _alive[mark] = widget
    if len(_alive) > MOST:
        _retire(next(iter(_alive)))
    return widget


def while_it_runs(widget: Any, bundle: dict[str, Any]) -> dict[str, Any]:
    """What an output holds while ``widget`` shows work in it: ``bundle`` where the page has a mark to find, else its view beside it."""
    if not widget.mark:
        return {**widget._repr_mimebundle_()[0], **bundle, LIVE: live_json()}
    return {**bundle, "text/html": _place(widget, bundle), LIVE: live_json(widget.model_id)}


def _finds_places() -> bool:
    """Whether the page finds places by their mark; VS Code, which may have its kernels from a Jupyter server, does not."""
    return "JPY_SESSION_NAME" in os.environ and not hasattr(sys.modules.get("__main__"), "__vsc_ipynb_file__")


def _place(widget: Any, bundle: dict[str, Any]) -> str:
    return f'<div data-nbdream="{widget.mark}">{bundle["text/html"]}</div>'


def _retire(mark: str) -> None:
    """The places of this mark become still again."""
    if (widget := _alive.pop(mark, None)) is not None:
        widget.close()
