"""`SavedStep`: a result that a session holds under a name, without the step that made it."""

from __future__ import annotations

from typing import Any

from nbdream.datasets import OutputDataset, OutputDatasetColumn
from nbdream.errors import SessionError
from nbdream.steps.base import assemble, failed_rows
from nbdream.steps.handle import StepHandle


class SavedStep(StepHandle):
    """The last result of a name. Its carried columns are those of its inputs as they were when it was made or last used."""

    def __init__(self, runner: Any, key: str, use_id: str) -> None:
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
        self.inputs = {name: self._input(place) for name, place in use["inputs"].items()}
        carried = self.inputs.get(use["carries"] or "")
        whole = carried if isinstance(carried, OutputDataset) else None
        self._output = assemble(self, folder, node, use["outputs"], whole, use["view"])
        self._failures = failed_rows(self, folder, node, whole)

    def _input(self, place: dict[str, Any]) -> OutputDataset | OutputDatasetColumn:
        rows = SavedStep(self.runner, place["recipe"], place["use"]).output
        return rows if place["whole"] else rows[place["columns"][0]]

    @property
    def output(self) -> OutputDataset:
        """The rows."""
        return self._output

    @property
    def failures(self) -> OutputDataset:
        """The rows that failed."""
        return self._failures
