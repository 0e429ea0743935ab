"""When a training cell is likely: then a warm server is started, so that the first step comes in a second and not in ten.

Two signs are taken. The notebook that is open holds a training cell, as it was last saved: its first run is warm. And a run was
followed to its end in this kernel (`nbdream.workers.runs.follow`): who has trained changes something and trains again. A notebook
that shows neither pays nothing; asking a local model is no sign, since most who ask never train.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path

TRAINING = re.compile(rb'(?:"|\\n)%%train\b|\bTrain(?:HF|Sentence)')
"""A line of a notebook's JSON that begins with the magic, or a trainer's name."""
DELAY = 2.0
"""Seconds after loading. A notebook that is run again from cache is through by then, and needs no server."""


def expect() -> None:
    """Have this kernel's training runs start warm, soon where its notebook holds one. Returns at once."""
    from nbdream import context
    from nbdream.workers import warm

    if context.replaying():
        return
    warm.enable()
    timer = threading.Timer(DELAY, _prepare)
    timer.daemon = True
    timer.start()


def _prepare() -> None:
    from nbdream.session import notebook_path
    from nbdream.workers import runs, warm

    notebook = notebook_path()
    if notebook is not None and holds_training(notebook):
        warm.prepare(runs.worker_environment, again=False)


def holds_training(notebook: Path) -> bool:
    """Whether a cell of the notebook trains."""
    try:
        return TRAINING.search(notebook.read_bytes()) is not None
    except OSError:
        return False
