"""What a run of a thousand steps leaves in the notebook file: in the middle of it, and when it is over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.notebook import CellResult, kernel_in

MOST = 100_000
"""Bytes."""
TRAINS = """import math
from nbdream.widgets.progress import NotebookScreen, Progress
from nbdream.widgets.show import View, training_bundle

events = [
    {"type": "log", "time": 1e9 + step, "step": step, "max_steps": 1000, "epoch": step / 20, "loss": 8 * math.exp(-step / 300) + step % 7}
    | {"learning_rate": 1e-4 / step, "grad_norm": 5 / step, "tokens_per_second": 800 + step % 13, "memory_mb": 470 + step % 3}
    | ({"eval_loss": 3 / step} if step % 20 == 0 else {})
    for step in range(1, 1001)
]
screen = NotebookScreen()
progress = Progress(screen, lambda: None, live=True)
progress._began -= 1
for event in events:
    progress.take({"type": "run.event", "name": "tweeter", "recipe": "0" * 40, "event": event})
    if event["step"] % 20 == 0:
        progress._drawn = 0
        progress.tick()"""
ENDS = "progress.close()\nView(training_bundle('tweeter', 'demo', events, {}))"


def size(result: CellResult) -> int:
    """Bytes of what stays of a cell."""
    assert result.error == ""
    return len(json.dumps([message["content"]["data"] for message in result.outputs]))


@pytest.mark.slow
def test_a_thousand_steps_are_a_small_picture(tmp_path: Path) -> None:
    with kernel_in(tmp_path) as kernel:
        running = kernel.run(TRAINS)
        assert len(running.messages) > 50, "it was drawn while it ran"
        assert "application/vnd.nbdream.live+json" in running.outputs[0]["content"]["data"]
        assert 500 < size(running) < MOST
        over = kernel.run(f"{TRAINS}\n{ENDS}")
        assert over.error == ""
        (shown,) = over.outputs
        assert {"text/plain", "image/svg+xml"} <= set(shown["content"]["data"])
        assert 2_000 < size(over) < MOST
