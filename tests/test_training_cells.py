"""Training in a real kernel: killed in the middle it goes on, its cell attaches, and no process listens beyond this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbdream.cli.live import shown
from tests.notebook import Kernel, kernel_in

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
SETUP = """%load_ext nbdream
%dream open ./output
counting = [{'q': f'say {number}', 'a': f'number {number}'} for number in range(48)]"""
TRAIN = "%%train counter --on counting --base demo --devices 2\ninput: q\noutput: a\nepochs: 12\nbatch_size: 8\n"
STEPS = 72  # enough that it still trains when its killed kernel is back


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    with kernel_in(tmp_path) as opened:
        assert opened.run(SETUP).error == ""
        yield opened


def workers(folder: Path) -> list[psutil.Process]:
    """The processes that train in a session, started anew or forked: they work in the folder of their run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder / "output" / "objects"):
                found.append(process)
    return found


def listening(processes: list[psutil.Process]) -> set[str]:
    """The addresses on which any of these processes waits for connections."""
    addresses = set()
    for process in processes:
        try:
            addresses |= {found.laddr.ip for found in process.net_connections("inet") if found.status == psutil.CONN_LISTEN}
        except psutil.Error:
            continue
    return addresses


def points(message: dict[str, Any]) -> int:
    """How many points of loss a message to the page holds."""
    state = message["content"].get("data", {}).get("state", {}) if message["msg_type"] == "comm_msg" else {}
    return len(state.get("series", {}).get("loss", []))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training_outlives_its_kernel_and_its_cell_attaches(kernel: Kernel, tmp_path: Path) -> None:
    running = kernel.start(TRAIN)
    addresses: set[str] = set()
    for message in kernel.messages(running, timeout=240):
        addresses |= listening(workers(tmp_path))
        if points(message) >= 2:
            break
    assert addresses <= LOOPBACK
    assert addresses, "gloo does listen, or nothing was looked at"
    before = {process.pid for process in workers(tmp_path)}
    assert len(before) >= 3, "a supervisor and two ranks"
    os.kill(kernel.manager.provisioner.pid, signal.SIGKILL)
    kernel.manager.restart_kernel(now=True)
    assert before & {process.pid for process in workers(tmp_path)} == before, "training goes on"

    kernel.client.wait_for_ready(timeout=60)
    assert kernel.run(SETUP).error == ""
    attached = kernel.run(TRAIN, timeout=300)
    assert attached.error == ""
    assert f"counter · demo · {STEPS} steps" in attached.text
    assert max(points(message) for message in attached.messages) == STEPS
    assert any(f"step {STEPS} of {STEPS} · loss " in shown(message) for message in attached.messages), "as a terminal shows it"
    (run,) = tmp_path.glob("output/objects/*/events.jsonl")
    kinds = [json.loads(line)["type"] for line in run.read_text().splitlines()]
    assert (kinds.count("begin"), kinds.count("resumed"), kinds.count("log")) == (1, 0, STEPS), "it was not begun again"
    curve = kernel.run("print(list(counter.step.output['step']))")
    assert json.loads(curve.text) == list(range(1, STEPS + 1))

    renamed = kernel.run(TRAIN.replace("counter", "another"))
    assert renamed.error == ""
    assert kernel.run("assert another.step.key == counter.step.key").error == ""
    assert kinds == [json.loads(line)["type"] for line in run.read_text().splitlines()], "a trainer renamed trains nothing"
    assert not workers(tmp_path)

    assert kernel.run("said = counter('say 3')").error == ""
    own = psutil.Process(kernel.manager.provisioner.pid)
    models = own.children(recursive=True)
    commands = " ".join(word for process in models for word in process.cmdline())
    assert "nbdream.workers.model" in commands or commands.count("nbdream.workers.warm_server") == 2, "started anew, or forked"
    assert listening(models) == set()
    assert listening([own]) <= LOOPBACK
