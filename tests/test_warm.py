"""The warm server: the same runs, sooner; a server that goes with its kernel, and is missed by nobody when it is not there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import psutil
import pytest
import torch

from nbdream.errors import ModelError
from nbdream.files import write_json
from nbdream.magics import warming
from nbdream.workers import runs, warm, warm_server
from nbdream.workers.client import ModelProcess
from nbdream.workers.forking import take_threads
from nbdream.workers.paths import RunPaths
from nbdream.workers.warm import WarmServer
from tests import tiny
from tests.notebook import kernel_in
from tests.training import finish, losses, prepare, started_cold, tensors

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.fixture(scope="module", autouse=True)
def _cold() -> Iterator[None]:
    with started_cold():
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.causal(tmp_path_factory.mktemp("models") / "causal")


@pytest.fixture(scope="module")
def imported() -> Iterator[WarmServer]:
    """A server that has done its imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm, "_enabled", True)
        warm.prepare(runs.worker_environment)
        server = warm._server
        assert server is not None
        assert server.ready(120)
    yield server
    server.end()
    server.process.wait()


@pytest.fixture
def server(imported: WarmServer, monkeypatch: pytest.MonkeyPatch) -> WarmServer:
    """The server at hand; files that somebody edits meanwhile do not matter here."""
    monkeypatch.setattr(warm, "_enabled", False)  # following a run prepares no other one
    monkeypatch.setattr(warm, "_server", imported)
    monkeypatch.setattr(warm, "packages", lambda: imported.packages)
    return imported


class Seen:
    """A finished run, and what was seen of its processes while it trained."""

    def __init__(self, paths: RunPaths, spec: dict[str, Any]) -> None:
        self.paths = paths
        self.ranks: list[psutil.Process] = []
        self.listening: set[str] = set()
        self.parents: list[int] = []
        self.groups: list[tuple[int, int]] = []
        self.folders: set[str] = set()
        began = time.time()
        runs.launch(paths, spec)
        self.result, self.events = finish(paths, self.hear)
        self.first = next((event["time"] - began for event in self.events if event["type"] == "log"), None)

    def hear(self, event: dict[str, Any]) -> None:
        if event["type"] == "spawned":
            self.ranks.append(psutil.Process(event["pid"]))
        if event["type"] == "log" and event["step"] == 1:
            for rank in self.ranks:
                supervisor = rank.parent()
                assert supervisor is not None
                self.parents.append(supervisor.ppid())
                self.groups.append((os.getpgid(rank.pid) - rank.pid, os.getsid(rank.pid) - supervisor.pid))
                self.folders.add(rank.cwd())
                self.listening |= {told.laddr.ip for told in rank.net_connections("inet") if told.status == psutil.CONN_LISTEN}


# --- training --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_warm_run_is_a_cold_run_but_sooner(
    devices: int, base: Path, server: WarmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm_run = Seen(*prepare(tmp_path / "warm", base, devices=devices))
    with monkeypatch.context() as patch:
        patch.setattr(warm, "_server", None)
        cold_run = Seen(*prepare(tmp_path / "cold", base, devices=devices))
    for run in (warm_run, cold_run):
        assert run.result["state"] == "done", run.result
        assert run.groups == [(0, 0)] * devices, "each rank in a group of its own, in the session of its supervisor"
        assert run.folders == {str(run.paths.folder)}
        assert run.listening <= LOOPBACK
        assert not any(rank.is_running() for rank in run.ranks)
    assert warm_run.parents == [server.process.pid] * devices
    assert server.process.pid not in cold_run.parents
    assert warm_run.first is not None
    assert warm_run.first < 4
    assert losses(warm_run.events) == losses(cold_run.events)
    one, other = tensors(warm_run.paths), tensors(cold_run.paths)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    held = [{name: value for name, value in event.items() if name != "time"} for event in warm_run.events if event["type"] == "ready"]
    assert all(event["dtensor"] is (devices == 2) for event in held)
    assert children(server) == []


def children(server: WarmServer) -> list[psutil.Process]:
    """What the server has forked and not yet buried."""
    deadline = time.monotonic() + 5
    own = psutil.Process(server.process.pid)
    while (found := own.children()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


@pytest.mark.slow
def test_a_killed_warm_rank_is_named_at_once(
    base: Path, server: WarmServer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    pids: dict[int, int] = {}
    killed: list[float] = []

    def kill(event: dict[str, Any]) -> None:
        if event["type"] == "spawned":
            pids[event["rank"]] = event["pid"]
        if event["type"] == "log" and event["step"] == 3:
            os.kill(pids[1], signal.SIGKILL)
            killed.append(time.monotonic())

    paths, spec = prepare(tmp_path / "run", base, devices=2)
    runs.launch(paths, spec)
    result, _ = finish(paths, kill)
    seconds = time.monotonic() - killed[0]
    record_property("named after", f"{seconds:.2f} s")
    assert seconds < 5
    assert (result["state"], result["rank"], result["exit_code"]) == ("failed", 1, -9)
    assert "rank 1 of 2 was killed (SIGKILL)" in result["message"]
    assert not any(psutil.pid_exists(pid) for pid in pids.values())


@pytest.mark.slow
def test_warm_ranks_end_with_their_supervisor(base: Path, server: WarmServer, tmp_path: Path) -> None:
    """Neither holds the pipe by which another notices."""
    ranks: list[psutil.Process] = []
    gone: list[psutil.Process] = []
    killed: list[int] = []

    def kill(event: dict[str, Any]) -> None:
        if event["type"] == "spawned":
            ranks.append(psutil.Process(event["pid"]))
        if event["type"] == "log" and not killed:
            killed.append(ranks[0].ppid())
            assert killed[0] == os.getsid(ranks[0].pid)
            os.kill(killed[0], signal.SIGKILL)
            gone.extend(psutil.wait_procs(ranks, timeout=5)[0])
            for rank in {*ranks} - {*gone}:
                rank.kill()

    paths, spec = prepare(tmp_path / "run", base, devices=2, arguments={"num_train_epochs": 400, "learning_rate": 1e-3})
    runs.launch(paths, spec)
    result, _ = finish(paths, kill)
    assert result["message"] == "the run ended without a word"
    assert len(gone) == 2


# --- the server ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nobody_but_its_kernel_can_ask(server: WarmServer) -> None:
    own = psutil.Process(server.process.pid)
    assert own.net_connections("inet") == []
    assert [told.laddr for told in own.net_connections("unix")] == [""], "one end of a pair, without a name"
    assert os.getsid(own.pid) == own.pid != os.getsid(0)


@pytest.mark.slow
def test_a_local_model_starts_warm(base: Path, server: WarmServer) -> None:
    process = ModelProcess({"name": "tiny", "model": str(base), "device": "cpu"})
    began = time.monotonic()
    asked = {"messages": [{"role": "user", "content": "red"}], "params": {"max_new_tokens": 4}, "seed": 1}
    answer = process.wait("generate", request=asked)
    assert time.monotonic() - began < 4
    assert answer["usage"]["output_tokens"] == 4
    assert process.pid is not None
    assert psutil.Process(process.pid).ppid() == server.process.pid
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(ModelError, match="was killed"):
        process.wait("generate", request=asked)
    assert process.wait("generate", request=asked)["text"] == answer["text"]
    child = process._child
    assert child is not None
    process.end()
    assert child.process.wait(timeout=1) == 0


def starts_cold(folder: Path) -> bool:
    """Whether a run's worker is a new Python. It fails before it imports anything."""
    started: list[Any] = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:
            started.append(command)
            super().__init__(command, **options)

    paths, spec = prepare(folder, folder, method="alchemy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", Popen)
        runs.launch(paths, spec)
    result, events = finish(paths)
    assert "alchemy" in result["message"], "it fails as it would"
    assert [event["type"] for event in events] == ["spawned", "error", "failed"], "and once"
    return bool(started)


@pytest.mark.slow
def test_what_the_imports_would_read_must_be_as_it_was(server: WarmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not starts_cold(tmp_path / "same")
    monkeypatch.setenv("HF_TOKEN", "hf_of_another_cell")
    assert not starts_cold(tmp_path / "token")
    with monkeypatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path))
        assert starts_cold(tmp_path / "home")
    with monkeypatch.context() as patch:
        patch.setattr(warm, "packages", lambda: {**server.packages, "site-packages": 1})
        assert starts_cold(tmp_path / "packages")
    assert not starts_cold(tmp_path / "again")


@pytest.mark.slow
def test_who_is_given_up_begins_nothing(server: WarmServer, tmp_path: Path) -> None:
    """The kernel that heard no answer starts another process: the one that was forked must not go on."""
    paths, spec = prepare(tmp_path / "run", tmp_path, method="alchemy")
    write_json(paths.spec, spec)
    going, go = os.pipe()
    ended, exits = os.pipe()
    with open(os.devnull, "r+b") as nothing:
        request = {"target": "train", "arguments": [str(paths.folder)], "environment": {}, "folder": str(paths.folder), "passed": []}
        line = (json.dumps(request) + "\n").encode()
        socket.send_fds(server._socket, [line], [going, exits, *[nothing.fileno()] * 3])
        for number in (going, exits, go):
            os.close(number)
        assert server._answer(5)["pid"]
    assert os.read(ended, 16) == b"0"
    os.close(ended)
    assert not paths.events.exists()


def test_a_server_that_no_longer_fits_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Server:
        def __init__(self, environment: dict[str, str]) -> None:
            self.environment, self.ended = environment, False
            made.append(self)

        def fits(self, environment: dict[str, str]) -> bool:
            return environment == self.environment and not self.ended

        def ready(self, _: float) -> bool:
            return True

        def end(self) -> None:
            self.ended = True

    for name, value in (("WarmServer", Server), ("_server", None), ("_enabled", False), ("_missed", False)):
        monkeypatch.setattr(warm, name, value)
    monkeypatch.setattr(warm, "enough_memory", lambda: True)
    warm.prepare(lambda: {"HF_HOME": "a"})
    assert made == [], "no server for a script"
    warm.enable()
    assert warm.at_hand({"HF_HOME": "a"}) is None
    warm.prepare(lambda: {"HF_HOME": "a"}, again=False)
    assert made == [], "the first run has started without it, and needs the processor"
    for value in ("a", "a", "b"):
        warm.prepare(lambda value=value: {"HF_HOME": value})  # type: ignore[misc]
        assert warm.at_hand({"HF_HOME": value}) is made[-1]
    assert [server.ended for server in made] == [True, False]
    assert warm.at_hand({"HF_HOME": "a"}) is None
    warm.prepare(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert warm._server is made[-1], "what goes wrong is nobody's error"


def test_what_was_installed_or_edited_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm.sysconfig, "get_path", lambda _: str(tmp_path))
    before = warm.packages()
    assert any(path.endswith("workers/warm.py") for path in before)
    (tmp_path / "transformers-6.dist-info").mkdir()
    assert warm.packages() != before


@pytest.mark.parametrize(("given", "taken"), [("1", 1), ("1,4", 1), ("", 2), ("many", 2)])
def test_torch_learns_of_its_threads_after_a_fork(given: str, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    try:
        torch.set_num_threads(2)
        take_threads()
        assert torch.get_num_threads() == taken
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("how", ["late", "killed", "stuck"])
def test_without_its_server_a_run_starts_as_ever(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "_server", WarmServer(runs.worker_environment()))
    monkeypatch.setattr(warm, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(warm, "IMPORT_SECONDS", 0.2)
    server = warm._server
    assert server is not None
    monkeypatch.setattr(warm, "packages", lambda: server.packages)
    if how == "killed":
        server.process.kill()
    elif how == "stuck":
        os.kill(server.process.pid, signal.SIGSTOP)
        server._ready = True
    assert starts_cold(tmp_path / "run")
    if how == "late":
        assert server.process.poll() is None
    warm.drop()
    assert server.process.wait(timeout=5) == -9


@pytest.mark.parametrize(
    ("available", "limit", "enough"),
    [("8388608", None, True), ("2097152", None, False), ("8388608", "max", True), ("8388608", "3221225472", False)],
)
def test_no_server_where_memory_is_short(
    available: str, limit: str | None, enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:  {available} kB\n")
    if limit is not None:
        for name, content in (("max", limit), ("current", "1073741824"), ("stat", "anon 1\ninactive_file 536870912\n")):
            (tmp_path / f"memory.{name}").write_text(f"{content}\n")
    monkeypatch.setattr(warm, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(warm, "CGROUP", tmp_path)
    monkeypatch.setattr(warm, "_enabled", True)
    monkeypatch.setattr(warm, "_server", None)
    made: list[Any] = []
    monkeypatch.setattr(warm, "WarmServer", made.append)
    assert warm.enough_memory() is enough
    warm.prepare(runs.worker_environment)
    assert len(made) == enough
    monkeypatch.setattr(warm, "MEMINFO", tmp_path / "absent")
    monkeypatch.setattr(warm, "CGROUP", tmp_path / "absent")
    assert warm.enough_memory(), "where nobody can tell"


@pytest.mark.parametrize(
    ("touched", "why"),
    [({}, None), ({"threads": 2}, "thread"), ({"cuda": True}, "GPU"), ({"file": "/dev/nvidia-uvm"}, "GPU"), ({"group": True}, "group")],
)
def test_nothing_is_forked_from_what_a_fork_would_break(touched: dict[str, Any], why: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(
        cuda=SimpleNamespace(is_initialized=lambda: bool(touched.get("cuda"))),
        distributed=SimpleNamespace(is_available=lambda: True, is_initialized=lambda: bool(touched.get("group"))),
    )
    monkeypatch.setitem(sys.modules, "torch", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(threading, "active_count", lambda: touched.get("threads", 1))
    monkeypatch.setattr(warm_server, "_open_files", lambda: ["/dev/null", touched.get("file", "/dev/nvidiactl")])
    told = warm_server.unfit()
    assert told is None if why is None else why in str(told)


# --- in a notebook ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "likely"),
    [
        ("%%train tweeter --on rows --base demo\ninput: a", True),
        ("\n# a comment\n%%train tweeter --on rows", True),
        ("from nbdream import TrainHFFineTune", True),
        ("%%generate tweets\nHello", False),
        ("print('no %%train here')", False),
    ],
)
def test_a_notebook_that_trains_is_known(cell: str, likely: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]), path)
    assert warming.holds_training(path) is likely
    assert not warming.holds_training(tmp_path / "absent.ipynb")


TRAIN = "%%train tweeter --on rows --base {base} --devices 2\ninput: q\noutput: a\nepochs: 400\nbatch_size: 8\n"
WAIT = """import time
from nbdream.workers import warm
while warm._server is None or not warm._server.ready(60): time.sleep(0.05)
print(warm._server.process.pid)"""


@pytest.mark.slow
def test_the_first_cell_is_warm_and_the_server_goes_with_its_kernel(base: Path, tmp_path: Path) -> None:
    train = TRAIN.format(base=base)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(train)]), tmp_path / "notebook.ipynb")
    with kernel_in(tmp_path) as kernel:
        inputs, outputs = tiny.pairs(48)
        rows = [{"q": question, "a": answer} for question, answer in zip(inputs, outputs, strict=True)]
        assert kernel.run(f"%load_ext nbdream\n%dream open ./output\nrows = {rows!r}").error == ""
        server = psutil.Process(int(kernel.run(WAIT, timeout=60).text))
        began = time.monotonic()
        running = kernel.start(train)
        seen = next(message for message in kernel.messages(running, timeout=60) if points(message))
        assert seen
        assert time.monotonic() - began < 4, "the first point is on the page"
        print(time.monotonic() - began)
        (events,) = tmp_path.glob("output/objects/*/events.jsonl")
        paths = RunPaths(events.parent)
        ranks = [psutil.Process(event["pid"]) for event in runs.events(paths) if event["type"] == "spawned"]
        os.kill(kernel.manager.provisioner.pid, signal.SIGKILL)
        server.wait(timeout=10)
        last = max(losses(runs.events(paths)))
        result, heard = finish(paths, lambda event: runs.ask_to_stop(paths) if event.get("step", 0) > last else None)
    assert result["state"] == "stopped", "it went on until it was asked"
    assert max(losses(heard)) > last
    assert psutil.wait_procs(ranks, timeout=5)[1] == []


def points(message: dict[str, Any]) -> int:
    """How many points of loss a message to the page holds."""
    state = message["content"].get("data", {}).get("state", {}) if message["msg_type"] == "comm_msg" else {}
    return len(state.get("series", {}).get("loss", []))
