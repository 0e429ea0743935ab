"""What a run outlives, from a kernel that has used torch itself: a closed page, a restart; and what is left of one that was stopped."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbdream.workers import runs
from nbdream.workers.paths import RunPaths
from tests import tiny
from tests.notebook import Kernel, kernel_in
from tests.test_training_cells import SETUP, STEPS, TRAIN, points, workers
from tests.training import finish, losses, prepare

USED = """import torch
torch.set_num_threads(2)
layer = torch.nn.Linear(512, 512)
layer(torch.randn(512, 512)).square().sum().backward()  # on threads of its own
assert layer.weight.grad.norm() > 0"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_kernel_that_has_used_torch_trains_with_the_page_closed_and_is_restarted(tmp_path: Path) -> None:
    train = TRAIN.replace("epochs: 12", "epochs: 36").replace("--base demo", f"--base {tiny.causal(tmp_path / 'causal')}")
    with kernel_in(tmp_path) as kernel:
        _closed_and_restarted(kernel, train, tmp_path)


def _closed_and_restarted(kernel: Kernel, train: str, tmp_path: Path) -> None:
    assert kernel.run(SETUP).error == ""
    assert kernel.run(USED).error == ""
    running = kernel.start(train)
    next(message for message in kernel.messages(running, timeout=240) if points(message) >= 1)
    (events,) = tmp_path.glob("output/objects/*/events.jsonl")
    paths = RunPaths(events.parent)
    ranks = [event["pid"] for event in runs.events(paths) if event["type"] == "spawned"]
    kernel.client.stop_channels()  # the page is closed: nobody reads what the kernel sends
    steps_after(paths, 5)
    kernel.manager.restart_kernel(now=False)  # as a page does: it interrupts the kernel first
    steps_after(paths, 5)
    assert all(psutil.pid_exists(pid) for pid in ranks)

    kernel.client = kernel.manager.client()
    kernel.client.start_channels()
    kernel.client.wait_for_ready(timeout=60)
    assert kernel.run(SETUP).error == ""
    attached = kernel.run(train, timeout=300)
    assert attached.error == ""
    assert max(points(message) for message in attached.messages) == 3 * STEPS
    said = runs.events(paths)
    assert [event["type"] for event in said].count("begin") == 1, "it was not begun again"
    assert sorted(losses(said)) == list(range(1, 3 * STEPS + 1))
    assert all(event["dtensor"] for event in said if event["type"] == "ready")
    assert not workers(tmp_path)


def steps_after(paths: RunPaths, more: int) -> None:
    """Return when a run has made some more steps."""
    last = max(losses(runs.events(paths)), default=0) + more
    deadline = time.monotonic() + 60
    while max(losses(runs.events(paths)), default=0) < last:
        assert time.monotonic() < deadline, "it stands still"
        assert runs.alive(paths), "it has ended"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_stop_is_a_checkpoint_within_five_seconds_and_nothing_else_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    from nbdream.workers import checkpoint

    paths, spec = prepare(tmp_path / "run", tiny.causal(tmp_path / "causal"), devices=2)
    seen: list[psutil.Process] = []
    ports: set[int] = set()

    def hear(event: dict[str, Any]) -> None:
        if event["type"] == "spawned":
            seen.append(psutil.Process(event["pid"]))
        if event["type"] == "log" and event["step"] == 5:
            ports.update(told.laddr.port for process in seen for told in process.net_connections("inet"))
            runs.ask_to_stop(paths)

    runs.launch(paths, spec)
    result, events = finish(paths, hear)
    assert result["state"] == "stopped"
    last = max(event["time"] for event in events if event["type"] == "log")
    assert next(event["time"] for event in events if event["type"] == "save") - last < 5
    assert time.time() - last < 5, "a step's end, the checkpoint, and the end of all processes"
    whole = checkpoint.last_whole(paths.checkpoints)
    assert whole is not None
    assert whole.name == f"checkpoint-{result['step']}"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "causal")
    before = model.get_input_embeddings().weight.detach().clone()
    checkpoint.load_weights(whole / checkpoint.WEIGHTS, model, adapter=False)
    assert not before.equal(model.get_input_embeddings().weight)
    assert not any(process.is_running() for process in seen)
    assert workers(tmp_path) == []
    assert ports, "the ranks do talk to each other"
    assert not ports & {told.laddr.port for told in psutil.net_connections("inet") if told.laddr and told.status != psutil.CONN_TIME_WAIT}
