"""What ``%dream`` shows of training: runs as a figure, rows as tokens."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError, Stopped
from nbdream.magics.grammar import Call, Option
from nbdream.magics.options import needs, positive, rows_of
from nbdream.magics.train import base_model

if TYPE_CHECKING:
    from nbdream.magics.notebook import Notebook
    from nbdream.workers.paths import RunPaths

TOKENS = (
    Option(name="base", help="the model whose tokens they are: a name on the Hub, a folder, or demo"),
    Option(name="input", help="the column that is the question (default: the first column of text)"),
    Option(name="output", help="the column that is the answer (default: the second column of text)"),
    Option(name="contexts", help="the column of passages that stand before the input"),
    Option(name="n", kind="integer", help="how many examples are shown (default 3)"),
    Option(name="max_length", kind="integer", help="the most tokens of a row (default: the model's own limit)"),
    Option(name="batch_size", kind="integer", help="rows in a step (default 8), of which the choice between packing and grouping depends"),
    Option(name="packing", kind="flag", help="as if packing: true"),
)


def plot(notebook: Notebook, call: Call) -> Any:
    """The runs of models, laid over each other; those that are going on are watched to their end first."""
    from nbdream.widgets.overlay import Overlay
    from nbdream.widgets.plot import training_figure
    from nbdream.widgets.progress import NotebookScreen, TerminalScreen
    from nbdream.workers import runs

    found = {word: _run(notebook, word) for word in call.words}
    try:
        cell = str((notebook.cell or {}).get("id"))
        Overlay(found, NotebookScreen(result=False) if notebook.has_kernel else TerminalScreen(), cell).watch()
    except KeyboardInterrupt:
        raise Stopped("not watched any longer", f"the runs go on; %dream plot {' '.join(call.words)} shows them again") from None
    return training_figure({word: runs.events(paths) for word, paths in found.items()})


def _run(notebook: Notebook, word: str) -> RunPaths:
    """The run that a name means: one that is going on, whoever has started it, or the one behind a model."""
    from nbdream.workers import runs
    from nbdream.workers.paths import RunPaths

    living = runs.living(notebook.session().folder / "objects")
    if word in living:
        return living[word]
    value = notebook.value(word, "%dream plot")
    step = getattr(value, "step", None)
    while not getattr(step, "done", True):  # a cell before has started it in the background
        begun: RunPaths | None = getattr(step, "paths", None)
        if begun is not None and begun.events.exists():
            return begun
        time.sleep(runs.POLL)
    if step is None or not (paths := RunPaths(step.folder.path)).events.exists():
        raise ArgumentError(f"{word} was not trained here", "name a model that %%train made")
    return paths


def tokens(notebook: Notebook, call: Call) -> Any:
    """Rows as training would see them."""
    from nbdream.trainers import TrainHFFineTune

    for name in ("n", "max_length", "batch_size"):
        positive(call, name)
    base = base_model(notebook, needs(call, "base", "for example --base demo"))
    rows = rows_of(notebook.data(call.words[0], "%dream tokens"), f"{call.words[0]} tokens").output
    texts = [name for name in rows.column_names if str(rows[name].array().type) in ("string", "large_string")]
    chosen = [call.options.get("input"), call.options.get("output")]
    left = [name for name in texts if name not in chosen]
    for at, side in enumerate(("input", "output")):
        if chosen[at] is None:
            if not left:
                raise ArgumentError(f"which column is the {side}?", f"--{side} COLUMN: {', '.join(rows.column_names)}")
            chosen[at] = left.pop(0)
    given: dict[str, Any] = {name: call.options[name] for name in ("max_length", "batch_size", "packing") if name in call.options}
    if "contexts" in call.options:
        given["train_contexts"] = rows[call.options["contexts"]]
    if "n" in call.options:
        given["examples"] = call.options["n"]
    return TrainHFFineTune("tokens", base).tokens(rows[chosen[0]], rows[chosen[1]], **given)
