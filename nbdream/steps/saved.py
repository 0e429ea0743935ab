"""`SavedStep`: a result that a session holds under a name, without the step that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbdream.datasets import OutputDataset, OutputDatasetColumn
from nbdream.errors import SessionError
from nbdream.objects import ResultFolder
from nbdream.steps.base import assemble, failed_rows
from nbdream.steps.handle import StepHandle


class SavedStep(StepHandle):
    """The last result of a name. Its carried columns are those of its inputs as they were when it was made or last used."""

    def __init__(self, runner: Any, key: str, use_id: str, above: dict[str, SavedStep] | None = None) -> None:
        self.runner = runner
        self.key = key
        self.use_id = use_id
        folder = self.folder
        node = folder.node()
        if node is None:
            raise SessionError(f"the result {key[:12]} is not in the session", "run its cell again")
        use = folder.use(use_id)
        self.node = node
        self.name = str(use["name"])
        known = _above(runner, key, use_id) if above is None else above
        self.inputs = {name: _input(known[place["use"]], place) for name, place in use["inputs"].items()}
        carried = self.inputs.get(use["carries"] or "")
        whole = carried if isinstance(carried, OutputDataset) else None
        self._output = assemble(self, folder, node, use["outputs"], whole, use["view"])
        self._failures = failed_rows(self, folder, node, whole)

    @property
    def output(self) -> OutputDataset:
        """The rows."""
        return self._output

    @property
    def failures(self) -> OutputDataset:
        """The rows that failed."""
        return self._failures


def _above(runner: Any, key: str, use_id: str) -> dict[str, SavedStep]:
    """Everything that a place in the graph comes from, by its use: each opened once, however many ways lead to it."""
    made: dict[str, SavedStep] = {}
    objects = Path(runner.folder) / "objects"
    inputs: dict[str, list[tuple[str, str]]] = {}
    waiting = [(key, use_id)]
    while waiting:
        recipe, use = waiting[-1]
        if use not in inputs:
            inputs[use] = [(place["recipe"], place["use"]) for place in ResultFolder(objects / recipe).use(use)["inputs"].values()]
        missing = [place for place in inputs[use] if place[1] not in made]
        if missing:
            waiting += missing
            continue
        waiting.pop()
        if use != use_id and use not in made:
            made[use] = SavedStep(runner, recipe, use, made)
    return made


def _input(step: SavedStep, place: dict[str, Any]) -> OutputDataset | OutputDatasetColumn:
    return step.output if place["whole"] else step.output[place["columns"][0]]
