"""`RunPaths`: the file names of a training run, given here and nowhere else."""

from __future__ import annotations

from pathlib import Path

FORMAT = 1
"""The version of what is written into a run's folder."""
CONTEXT_TEMPLATE = "context_template.jinja"
"""How contexts are written, in the folder of a model that was trained with them, beside ``chat_template.jinja``."""


class RunPaths:
    """The folder of one run: what the kernel writes, what the worker writes, and what says how it ended.

    spec.json            what to train, on what, how: written by the kernel before it starts the worker
    input/train.arrow    the rows (Arrow IPC stream); input/validation.arrow where there are any
    code.py              the notebook's own code that takes part, where there is any; runs only for who hands over its hash
    run.lock             held (flock) while any process of the run lives
    events.jsonl         one JSON line per event, from the first start to the last resume
    log.txt              what the processes printed, with the rank before each line
    trackio.json         which run this is in a tracker that it is reported to; wandb.json
    stop                 its existence asks the run to save a checkpoint and end
    checkpoints/         checkpoint-N/, each whole once its whole.json is there
    model/               the trained model, complete once the folder is there
    result.json          how the run ended; written last
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @property
    def spec(self) -> Path:
        """What to train, on what, how."""
        return self.folder / "spec.json"

    @property
    def code(self) -> Path:
        """The notebook's own code that takes part."""
        return self.folder / "code.py"

    @property
    def data(self) -> Path:
        """The folder of the rows."""
        return self.folder / "input"

    @property
    def train_data(self) -> Path:
        """The rows to learn from."""
        return self.data / "train.arrow"

    @property
    def validation_data(self) -> Path:
        """The rows to measure on."""
        return self.data / "validation.arrow"

    @property
    def lock(self) -> Path:
        """Held by the run's processes while one of them lives."""
        return self.folder / "run.lock"

    @property
    def events(self) -> Path:
        """One JSON line per event."""
        return self.folder / "events.jsonl"

    @property
    def log(self) -> Path:
        """What the processes printed."""
        return self.folder / "log.txt"

    @property
    def stop(self) -> Path:
        """The file whose existence asks the run to stop."""
        return self.folder / "stop"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.folder / "model"

    @property
    def result(self) -> Path:
        """How the run ended."""
        return self.folder / "result.json"

    def tracked(self, tracker: str) -> Path:
        """Which run this is in a tracker."""
        return self.folder / f"{tracker}.json"

    @property
    def rendezvous(self) -> Path:
        """The file by which the ranks find each other: a TCP store would listen on every interface."""
        return self.folder / "rendezvous"
