"""Training runs as folders: real ranks, real shards, stopped, killed, resumed, broken."""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbdream.errors import BrokenFileError, TrainingError
from nbdream.files import Lock, append_line, read_object
from nbdream.workers import failures, process, runs
from nbdream.workers.paths import RunPaths
from tests import tiny
from tests.training import EPOCHS, STEPS, farthest, finish, losses, prepare, tensors


class Canary:
    """Sings when it is unpickled."""

    def __init__(self, song: Path) -> None:
        self.song = str(song)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.song}",))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"causal": tiny.causal(folder / "causal"), "t5": tiny.t5(folder / "t5")}


class Watched:
    """A finished run and what was seen of it from outside."""

    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths
        self.listening: list[str] = []
        self.pids: list[int] = []
        self.result, self.events = finish(paths, self.hear)

    def hear(self, event: dict[str, Any]) -> None:
        if event["type"] == "spawned":
            self.pids.append(event["pid"])
        if event["type"] == "log" and event["step"] == 3:
            for pid in self.pids:
                found = psutil.Process(pid).net_connections(kind="inet")
                self.listening += [connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN]


@pytest.fixture(scope="module")
def sharded(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """Two ranks, started by a process that is killed with its whole group at once, from a folder with misleading names."""
    folder = tmp_path_factory.mktemp("sharded")
    user = folder / "notebooks"
    user.mkdir()
    for name in ("h2.py", "transformers.py", "json.py", "torch.py"):
        (user / name).write_text("raise ImportError('the file of the user')\n")
    paths, spec = prepare(folder / "run", models["causal"], devices=2)
    script = (
        "import json, os, sys, time; from pathlib import Path\n"
        "from nbdream.workers import runs; from nbdream.workers.paths import RunPaths\n"
        f"runs.launch(RunPaths({str(paths.folder)!r}), json.loads({json.dumps(spec)!r}),\n"
        f"    environment=runs.worker_environment(Path({str(user)!r})))\n"
        "print('launched', flush=True); time.sleep(600)\n"
    )
    kernel = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert kernel.stdout is not None
    assert kernel.stdout.readline() == "launched\n"
    os.killpg(kernel.pid, signal.SIGKILL)
    kernel.wait()
    kernel.stdout.close()
    return Watched(paths)


@pytest.fixture(scope="module")
def single(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    paths, spec = prepare(tmp_path_factory.mktemp("single") / "run", models["causal"])
    runs.launch(paths, spec)
    return Watched(paths)


# --- two ranks -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_outlives_the_kernel_that_started_it(sharded: Watched) -> None:
    assert sharded.result["state"] == "done", sharded.result
    assert sorted(losses(sharded.events)) == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_each_rank_holds_its_shard_of_every_parameter(sharded: Watched) -> None:
    ready = [event for event in sharded.events if event["type"] == "ready"]
    assert sorted(event["rank"] for event in ready) == [0, 1]
    for event in ready:
        assert event["dtensor"] is True
        assert event["placements"] == ["Shard"]
        assert event["local_fraction"] <= 0.6


@pytest.mark.slow
def test_two_ranks_learn_what_one_process_learns(sharded: Watched, single: Watched, record_property: Callable[[str, object], None]) -> None:
    two, one = losses(sharded.events), losses(single.events)
    assert one.keys() == two.keys()
    farthest_loss = max(abs(two[step] - one[step]) for step in one)
    record_property("losses apart", f"{farthest_loss:.1e}")
    assert farthest_loss < 1e-5
    assert one[STEPS] < one[1] - 0.5  # it learned something, so that there was something to differ in
    assert farthest(tensors(sharded.paths), tensors(single.paths)) < 1e-3
    measured = [[event["eval_loss"] for event in run.events if event["type"] == "eval"] for run in (sharded, single)]
    assert len(measured[0]) == EPOCHS
    assert max(abs(a - b) for a, b in zip(*measured, strict=True)) < 1e-5


@pytest.mark.slow
def test_ranks_listen_on_loopback_only(sharded: Watched) -> None:
    assert sharded.listening  # gloo does listen, or nothing was looked at
    assert set(sharded.listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.slow
def test_losses_are_heard_while_it_trains(sharded: Watched) -> None:
    points = [event for event in sharded.events if event["type"] == "log"]
    early = [event for event in points if event["heard"] < sharded.events[-1]["time"]]
    assert len(early) >= 10
    assert {"loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_mb", "epoch", "max_steps"} <= points[0].keys()


@pytest.mark.slow
def test_nothing_of_a_run_is_left(sharded: Watched) -> None:
    assert not runs.alive(sharded.paths)
    assert [pid for pid in sharded.pids if psutil.pid_exists(pid)] == []
    names = {path.name for path in sharded.paths.folder.iterdir()}
    assert names == {"spec.json", "input", "run.lock", "events.jsonl", "log.txt", "model", "result.json"}


@pytest.mark.slow
def test_the_saved_model_loads_with_plain_transformers(sharded: Watched) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(sharded.paths.model)
    tokenizer = AutoTokenizer.from_pretrained(sharded.paths.model)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "red"}], tokenize=False, add_generation_prompt=True)
    assert asked == "red\n\n"


@pytest.mark.slow
def test_no_file_of_a_run_is_a_pickle(sharded: Watched) -> None:
    for path in sharded.paths.folder.rglob("*"):
        if path.is_file():
            assert path.suffix in {".json", ".jsonl", ".txt", ".lock", ".arrow", ".safetensors", ".jinja"}, path
            assert not path.read_bytes().startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")), path


@pytest.mark.slow
def test_a_shared_embedding_and_an_adapter_are_sharded_too(
    models: dict[str, Path], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    lora = {"peft_type": "LORA", "r": 8, "target_modules": "all-linear"}
    arguments = {"num_train_epochs": 2, "learning_rate": 1e-2}
    found = []
    for devices in (1, 2):
        paths, spec = prepare(tmp_path / str(devices), models["t5"], devices=devices, lora=lora, arguments=arguments)
        runs.launch(paths, spec)
        result, events = finish(paths)
        assert result["state"] == "done", result
        found.append((paths, events))
    (one, events), (two, sharded) = found
    assert all(event["dtensor"] and event["local_fraction"] <= 0.6 for event in sharded if event["type"] == "ready")
    farthest_loss = max(abs(losses(events)[step] - loss) for step, loss in losses(sharded).items())
    record_property("losses apart", f"{farthest_loss:.1e}")
    assert farthest_loss < 1e-5
    assert farthest(tensors(one), tensors(two)) < 1e-4
    assert tensors(one).keys() == tensors(two).keys()
    modules = json.loads((two.model / "adapter_config.json").read_text())["target_modules"]
    assert sorted(modules) == ["k", "o", "q", "v", "wi_0", "wi_1", "wo"]


# --- stopped, killed, resumed ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A run of two ranks that was asked to stop in the middle of an epoch."""
    paths, spec = prepare(tmp_path_factory.mktemp("stopped") / "run", models["causal"], devices=2)
    runs.launch(paths, spec)
    result, _ = finish(paths, lambda event: runs.ask_to_stop(paths) if event["type"] == "log" and event["step"] == 5 else None)
    assert result["state"] == "stopped", result
    assert 5 <= result["step"] < STEPS
    return paths


def copied(paths: RunPaths, folder: Path, models: dict[str, Path]) -> tuple[RunPaths, dict[str, Any]]:
    shutil.copytree(paths.folder, folder)
    spec = json.loads(paths.spec.read_text())
    return RunPaths(folder), {**spec, "model": {**spec["model"], "path": os.path.relpath(models["causal"], folder)}}


@pytest.mark.slow
def test_stopped_and_resumed_equals_uninterrupted(stopped: RunPaths, sharded: Watched, models: dict[str, Path], tmp_path: Path) -> None:
    at = json.loads(stopped.result.read_text())["step"]
    paths, spec = copied(stopped, tmp_path / "resumed", models)
    runs.launch(paths, spec)
    result, events = finish(paths)
    assert result["state"] == "done", result
    assert [event["step"] for event in events if event["type"] == "resumed"] == [at]
    logged = [event["step"] for event in events if event["type"] == "log"]
    assert logged == list(range(1, STEPS + 1))  # each step once, those before the stop among them
    assert losses(events) == losses(sharded.events)
    assert farthest(tensors(paths), tensors(sharded.paths)) == 0.0
    assert result["train_loss"] == pytest.approx(sharded.result["train_loss"], abs=1e-5)  # of all steps, not of those since


@pytest.mark.slow
def test_a_checkpoint_of_two_ranks_resumes_on_one(
    stopped: RunPaths, single: Watched, models: dict[str, Path], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    paths, spec = copied(stopped, tmp_path / "resumed", models)
    runs.launch(paths, {**spec, "devices": 1, "batch": {"per_device": 8, "accumulation": 1}})
    result, events = finish(paths)
    assert result["state"] == "done", result
    ours, theirs = losses(events), losses(single.events)
    farthest_loss = max(abs(ours[step] - theirs[step]) for step in theirs)
    record_property("losses apart", f"{farthest_loss:.1e}")
    assert farthest_loss < 1e-5


@pytest.mark.slow
def test_a_broken_checkpoint_is_named_and_nothing_in_it_runs(stopped: RunPaths, tmp_path: Path) -> None:
    from nbdream.workers import checkpoint

    song = tmp_path / "song"
    last = checkpoint.last_whole(stopped.checkpoints)
    assert last is not None
    files = sorted(path.name for path in last.iterdir())
    assert {"weights.0.safetensors", "weights.1.safetensors", "optimizer.1.safetensors", "whole.json", "rng-1.json"} <= set(files)
    for name in files:
        copy = tmp_path / "checkpoints"
        shutil.copytree(stopped.checkpoints, copy)
        (copy / last.name / name).write_bytes(pickle.dumps(Canary(song)))
        with pytest.raises(BrokenFileError) as raised:
            checkpoint.last_whole(copy)
        assert name in str(raised.value)
        shutil.rmtree(copy)
    assert not song.exists()


@pytest.mark.slow
@pytest.mark.stress  # of ranks that were forked `test_warm` has it
@pytest.mark.usefixtures("cold")
def test_a_killed_rank_is_named_at_once(models: dict[str, Path], tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    paths, spec = prepare(tmp_path / "run", models["causal"], devices=2)
    pids: dict[int, int] = {}
    killed: list[float] = []

    def kill(event: dict[str, Any]) -> None:
        if event["type"] == "spawned":
            pids[event["rank"]] = event["pid"]
        if event["type"] == "log" and event["step"] == 3:
            os.kill(pids[1], signal.SIGKILL)
            killed.append(time.time())

    runs.launch(paths, spec)
    result, _ = finish(paths, kill)
    seconds = time.time() - killed[0]
    record_property("named after", f"{seconds:.2f} s")
    assert seconds < 5
    assert result["state"] == "failed"
    assert (result["rank"], result["exit_code"]) == (1, -9)
    assert "rank 1 of 2 was killed (SIGKILL)" in result["message"]
    assert "memory" in result["hint"]
    assert not any(psutil.pid_exists(pid) for pid in pids.values())


@pytest.mark.slow
def test_what_cannot_be_trained_is_said_with_a_hint(models: dict[str, Path], tmp_path: Path) -> None:
    base = shutil.copytree(models["causal"], tmp_path / "base")
    (base / "model.safetensors").write_bytes(pickle.dumps(Canary(tmp_path / "song")))
    paths, spec = prepare(tmp_path / "run", Path(base))
    runs.launch(paths, spec)
    result, _ = finish(paths)
    assert result["state"] == "failed"
    assert (result["rank"], result["exit_code"]) == (0, 1)
    assert "model.safetensors" in result["message"]
    assert result["hint"]
    assert any("Error" in line for line in result["log_tail"])
    assert not (tmp_path / "song").exists()


def test_a_run_asked_to_stop_before_it_began_stops_at_once(models: dict[str, Path], tmp_path: Path) -> None:
    paths, spec = prepare(tmp_path / "run", models["causal"])
    runs.launch(paths, spec)
    runs.ask_to_stop(paths)
    result, _ = finish(paths)
    assert (result["state"], result["step"]) == ("stopped", 0)


@pytest.mark.slow
def test_a_resumed_run_stopped_before_it_began_is_where_it_was(stopped: RunPaths, models: dict[str, Path], tmp_path: Path) -> None:
    at = json.loads(stopped.result.read_text())["step"]
    paths, spec = copied(stopped, tmp_path / "resumed", models)
    runs.launch(paths, spec)
    runs.ask_to_stop(paths)
    result, _ = finish(paths)
    assert (result["state"], result["step"]) == ("stopped", at)


def test_following_ends_when_it_is_told_to(models: dict[str, Path], tmp_path: Path) -> None:
    paths, spec = prepare(tmp_path / "run", models["causal"])
    runs.launch(paths, spec)
    stop = threading.Event()
    stop.set()
    began = time.monotonic()
    assert runs.follow(paths, lambda event: None, stop) == {"state": "stopping"}
    assert time.monotonic() - began < 1
    assert finish(paths)[0]["state"] == "stopped"


# --- the folder ----------------------------------------------------------------------------------------------------------


def test_an_unknown_method_is_refused_without_loading_anything(tmp_path: Path) -> None:
    paths, spec = prepare(tmp_path / "run", tmp_path, method="alchemy")
    runs.launch(paths, spec)
    result, events = finish(paths)
    assert result["state"] == "failed"
    assert "alchemy" in result["message"]
    assert events[-1]["type"] == "failed"


def test_how_a_run_ended_does_not_wait_for_its_trackers(tmp_path: Path) -> None:
    paths, spec = prepare(tmp_path / "run", tmp_path, method="alchemy")
    paths.spec.write_text(json.dumps(spec))
    script = (
        "import sys; from nbdream.workers import train\n"
        "train.Tracking.finish = lambda told: print(told.paths.result.exists())\n"
        f"train.main([{str(paths.folder)!r}])\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout == "True\n"


@pytest.mark.parametrize(
    ("there", "checkpoints", "now", "kept"),
    [
        ([4, 8, 12, 16], [8], 16, [8, 16]),  # two better ones came after the checkpoint
        ([8, 12, 16, 20], [8], 12, [8, 12]),  # a killed attempt was further on
        ([4, 8], [], 8, [8]),
        ([4, 8, 12], [9, 11], 12, [8, 12]),
    ],
)
def test_the_best_weights_of_a_checkpoint_stay(there: list[int], checkpoints: list[int], now: int, kept: list[int], tmp_path: Path) -> None:
    from types import SimpleNamespace

    from nbdream.workers.best import Best

    for step in there:
        for rank in (0, 1):
            (tmp_path / f"best-{step}.{rank}.safetensors").touch()
    for step in checkpoints:
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "whole.json").touch()
    loop: Any = SimpleNamespace(
        args=SimpleNamespace(output_dir=str(tmp_path)), run=SimpleNamespace(first=True), state=SimpleNamespace(global_step=now)
    )
    Best(loop, None, 0.0)._forget()
    assert sorted(path.name for path in tmp_path.glob("best-*")) == sorted(
        f"best-{step}.{rank}.safetensors" for step in kept for rank in (0, 1)
    )


def test_a_metric_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from nbdream.workers.best import Best

    told = [float("nan"), 0.2, 0.4, float("nan")]
    history = [{"step": step, "eval_loss": 1.0, "eval_f1": told} for step, told in enumerate(told, 1)]
    args = SimpleNamespace(output_dir=str(tmp_path), metric_for_best_model="f1", greater_is_better=True)
    assert Best(SimpleNamespace(args=args, state=SimpleNamespace(log_history=history)), 2, 0.0)._standing() == (3, 1)  # type: ignore[arg-type]


def test_a_run_that_lives_is_not_started_twice(tmp_path: Path) -> None:
    paths, spec = prepare(tmp_path / "run", tmp_path)
    lock = Lock(paths.lock)
    assert lock.acquire()
    with pytest.raises(TrainingError, match="going on"):
        runs.launch(paths, spec)
    lock.release()
    assert not runs.alive(paths)


@pytest.mark.parametrize("name", ["spec.json", "result.json", "events.jsonl"])
def test_a_pickle_in_place_of_a_file_is_named(name: str, tmp_path: Path) -> None:
    song = tmp_path / "song"
    paths, spec = prepare(tmp_path / "run", tmp_path)
    (paths.folder / name).write_bytes(pickle.dumps(Canary(song)))
    if name == "spec.json":
        with pytest.raises(BrokenFileError, match=name):
            read_object(paths.spec)
    else:
        with pytest.raises(BrokenFileError, match=name):
            finish(paths)
    if name == "events.jsonl":
        with pytest.raises(BrokenFileError, match=name):
            runs.launch(paths, spec)
    assert not song.exists()


def test_a_run_that_died_without_a_word_has_failed(tmp_path: Path) -> None:
    paths, spec = prepare(tmp_path / "run", tmp_path)
    assert runs.result(paths) is None
    paths.spec.write_text(json.dumps(spec))
    paths.log.write_text("the last line\n")
    result = runs.result(paths)
    assert result is not None
    assert result["state"] == "failed"
    assert result["log_tail"] == ["the last line"]


def test_an_unfinished_last_event_is_cut_off_before_more_are_written(tmp_path: Path) -> None:
    paths, spec = prepare(tmp_path / "run", tmp_path, method="alchemy")
    append_line(paths.events, {"type": "log", "step": 1})
    with paths.events.open("a") as file:
        file.write('{"type": "log", "st')
    runs.launch(paths, spec)
    _, events = finish(paths)
    assert [event["type"] for event in events][:2] == ["log", "spawned"]


def test_a_worker_is_given_no_credential_but_the_hubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("OPENAI_API_KEY", "HF_SECRET", "AWS_SECRET_ACCESS_KEY", "MY_TOKEN", "TORCH_KEY", "UNRELATED"):
        monkeypatch.setenv(name, "secret-value")
    monkeypatch.setenv("HF_TOKEN", "hf_for_the_hub")
    given = runs.worker_environment(tmp_path)
    assert given["HF_TOKEN"] == "hf_for_the_hub"
    assert "secret-value" not in given.values()
    assert given["PATH"]


def test_the_notebooks_folder_comes_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(tmp_path), "/elsewhere"]))
    given = runs.worker_environment(tmp_path)
    assert str(tmp_path) not in given["PYTHONPATH"].split(os.pathsep)
    assert given["PYTHONPATH"].split(os.pathsep)[0] == "/elsewhere"
    assert given[runs.USER_PATH] == str(tmp_path)


def test_the_log_holds_no_credential(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    paths, spec = prepare(tmp_path / "run", tmp_path, method="hf_abcdefghijklmnop")
    runs.launch(paths, spec)
    result, _ = finish(paths)
    assert "***" in result["message"]
    said = b"".join(path.read_bytes() for path in (paths.log, paths.events, paths.result))
    assert b"hf_abcdefghijklmnop" not in said


# --- who is to blame -----------------------------------------------------------------------------------------------------


def error(rank: int, message: str, at: float) -> dict[str, Any]:
    return {"type": "error", "rank": rank, "message": message, "time": at}


@pytest.mark.parametrize(
    ("codes", "errors", "rank", "words", "hint"),
    [
        ({0: 1, 1: -9}, [error(0, "RuntimeError: Connection closed by peer", 1.0)], 1, "SIGKILL", "memory"),
        ({0: 1, 1: 1}, [error(1, "RuntimeError: Connection closed by peer", 1.0), error(0, "ValueError: no", 2.0)], 0, "ValueError", "log"),
        ({0: 1, 1: None}, [error(0, "OutOfMemoryError: CUDA out of memory", 1.0)], 0, "out of memory", "lora"),
        ({0: 1}, [error(0, "ModuleNotFoundError: No module named 'peft'", 1.0)], 0, "peft", "pip install peft"),
        ({0: 1}, [error(0, "OSError: [Errno 28] No space left on device", 1.0)], 0, "No space", "free some space"),
        ({0: 0, 1: 3}, [], 1, "exit code 3", "log"),
    ],
)
def test_blame(codes: dict[int, int | None], errors: list[dict[str, Any]], rank: int, words: str, hint: str) -> None:
    found = failures.blame(len(codes), codes, errors, {rank: ["a", "b"]})
    assert found["rank"] == rank
    assert words in found["message"]
    assert hint in found["hint"]
    assert found["log_tail"] == ["a", "b"]


@pytest.mark.parametrize(
    ("device", "world", "before", "seen"),
    [
        (None, 1, None, "0"), (None, 2, "2,3,5", "2,3"), ("cuda:1", 1, None, "1"), ("cuda:1", 1, "4,6", "6"),
        (["cuda:0", "cuda:2"], 2, None, "0,2"), ("cuda", 1, None, "0"),
    ],
)  # fmt: skip
def test_a_rank_sees_the_devices_of_its_run(device: Any, world: int, before: str | None, seen: str) -> None:
    assert process.visible_devices({"device": device}, world, before) == seen


def test_a_rank_on_cpu_sees_no_device() -> None:
    made = process.rank_environment({"device": "cpu"}, 1, 2)
    assert made["CUDA_VISIBLE_DEVICES"] == ""
    assert (made["RANK"], made["WORLD_SIZE"], made["OMP_NUM_THREADS"]) == ("1", "2", os.environ.get("OMP_NUM_THREADS", "1"))
    assert made["GLOO_SOCKET_IFNAME"] in {name for _, name in socket.if_nameindex()}


def test_random_states_survive_json(tmp_path: Path) -> None:
    import random

    import numpy as np
    import torch

    from nbdream.workers import checkpoint

    (tmp_path / "rng-0.json").write_text(json.dumps(checkpoint._rng()))
    drawn = [random.random(), np.random.rand(), torch.rand(1).item()]
    checkpoint.load_rng(tmp_path)
    assert [random.random(), np.random.rand(), torch.rand(1).item()] == drawn
    assert base64.b64decode(json.loads((tmp_path / "rng-0.json").read_text())["torch"])
