"""What the evaluations of a session say of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbdream.cards.measured import Measured
from nbdream.hub.order import handle_of
from nbdream.objects import ResultFolder

MODELS = "models."
"""How the inputs of an evaluation that are models are called: this, and the name that the model has in it."""


def measured(trained: Any) -> list[Measured]:
    """The values that the session's current evaluations give for ``trained``, in their order."""
    handle = handle_of(trained)
    session = handle.runner
    found = []
    for name in getattr(session, "names", ()):
        entry = session.names.current(name)
        objects = Path(session.folder) / "objects"
        folder = ResultFolder(objects / str(entry["recipe"]))
        if (folder.node() or {}).get("type") != "Evaluate":
            continue
        inputs = folder.use(str(entry["use"]))["inputs"]
        called = [key.removeprefix(MODELS) for key, given in inputs.items() if key.startswith(MODELS) and given["recipe"] == handle.key]
        if called:
            rows = ResultFolder(objects / str(inputs["input"]["recipe"])).use(str(inputs["input"]["use"]))["name"]
            summary = session.load(name).summary
            found += [
                Measured(str(rows), metric, of.value, of.low, of.high, of.n)
                for model in called
                if model in summary.models
                for metric, of in summary[model].items()
            ]
    return found
