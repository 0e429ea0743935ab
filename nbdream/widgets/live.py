"""What marks an output that holds a widget."""

from __future__ import annotations

from typing import Any

LIVE = "application/vnd.nbdream.live+json"
"""JupyterLab's renderer shows the widget while it lives, else what lies beside it, and ``note``."""


def live_json(note: str = "") -> dict[str, Any]:
    """What marks an output that holds a widget; ``note`` is said where the widget is gone."""
    return {"version": 1, "note": note}
