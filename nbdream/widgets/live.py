"""What is live in an output: widgets' modules, what marks an output that holds a widget, and static HTML that a widget brings to life."""

from __future__ import annotations

import functools
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbdream.fingerprint import digest

LIVE = "application/vnd.nbdream.live+json"
"""JupyterLab's renderer shows the widget while it lives, else what lies beside it, and ``note``."""
STATIC = Path(__file__).parent / "static"
MOST = 64
"""Outputs that are brought to life at once; the oldest become still again."""
_IMPORT = re.compile(r'^import \{ \w+ \} from "\./(\w+\.js)";$', re.MULTILINE)
_alive: OrderedDict[str, Any] = OrderedDict()


def live_json(note: str = "") -> dict[str, Any]:
    """What marks an output that holds a widget; ``note`` is said where the widget is gone."""
    return {"version": 1, "note": note}


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
    if "JPY_SESSION_NAME" not in os.environ:
        return {**make("")._repr_mimebundle_()[0], **bundle}
    mark = digest(key)[:32]
    _retire(mark)
    _alive[mark] = make(mark)
    if len(_alive) > MOST:
        _retire(next(iter(_alive)))
    still = {kind: shown for kind, shown in bundle.items() if kind != LIVE}
    return {**still, "text/html": f'<div data-nbdream="{mark}">{bundle["text/html"]}</div>'}


def _retire(mark: str) -> None:
    """The places of this mark become still again."""
    if (widget := _alive.pop(mark, None)) is not None:
        widget.close()
