"""Two ranks on a CPU, by every option: the losses of one process, each rank its part of a checkpoint, which any number of ranks reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbdream.errors import BrokenFileError
from nbdream.steps import DataSource
from nbdream.trainers import TrainHFFineTune
from nbdream.workers import checkpoint, runs
from tests import tiny
from tests.training import farthest, finish, losses, prepare, tensors

SHORT = {"num_train_epochs": 2, "learning_rate": 1e-3}
LORA = {"r": 4, "target_modules": "all-linear", "peft_type": "LORA"}
DROPPING = {**LORA, "lora_dropout": 0.3}
DDP = {"devices": 2, "fsdp": False}
FSDP = {"devices": 2}
RECOMPUTED = {"arguments": {**SHORT, "gradient_checkpointing": True}}

EQUAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "copies": ({}, {**DDP, "batch": {"per_device": 2, "accumulation": 2}}),
    "shards": ({}, {**FSDP, "batch": {"per_device": 2, "accumulation": 2}, "fsdp_config": {"reshard_after_forward": False}}),
    "computed twice, copies": ({"lora": LORA}, {**DDP, **RECOMPUTED, "lora": LORA}),
    "computed twice, shards": ({"lora": LORA}, {**FSDP, **RECOMPUTED, "lora": LORA}),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.causal(tmp_path_factory.mktemp("models") / "causal")


class Trained:
    """A run that came to its end."""

    def __init__(self, folder: Path, base: Path, changed: dict[str, Any]) -> None:
        self.paths, self.spec = prepare(folder, base, **{"arguments": SHORT, **changed})
        runs.launch(self.paths, self.spec)
        self.result, self.events = finish(self.paths)
        assert self.result["state"] == "done", self.result
        self.losses = losses(self.events)
        self.ready = [event for event in self.events if event["type"] == "ready"]


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One process with these settings, trained once."""
    found: dict[str, Trained] = {}
    folder = tmp_path_factory.mktemp("alone")

    def run(changed: dict[str, Any]) -> Trained:
        if str(changed) not in found:
            found[str(changed)] = Trained(folder / str(len(found)), base, changed)
        return found[str(changed)]

    return run


def apart(one: dict[int, float], other: dict[int, float]) -> float:
    assert one.keys() == other.keys()
    return max(abs(one[step] - other[step]) for step in one)


@pytest.mark.slow
@pytest.mark.parametrize("option", list(EQUAL))
def test_two_ranks_learn_what_one_process_learns(
    alone: Any, base: Path, option: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    single, double = EQUAL[option]
    made = Trained(tmp_path / "run", base, double)
    assert [event["dtensor"] for event in made.ready] == [double.get("fsdp", True)] * 2, "sharded, or copies"
    assert [event["recomputes"] for event in made.ready] == [option.startswith("computed")] * 2
    one = alone(single)
    record_property("losses apart", f"{apart(made.losses, one.losses):.1e}")
    assert apart(made.losses, one.losses) < 1e-5
    assert made.losses[8] < made.losses[1] - 0.01, "it learned something"
    assert tensors(made.paths).keys() == tensors(one.paths).keys()


@pytest.mark.slow
def test_what_is_computed_twice_drops_out_the_same(base: Path, tmp_path: Path) -> None:
    """However it is asked for: were dropout drawn anew, the gradients would be those of another step."""
    kept = Trained(tmp_path / "kept", base, {**FSDP, "lora": DROPPING})
    again = Trained(tmp_path / "again", base, {**FSDP, "lora": DROPPING, "fsdp_config": {"activation_checkpointing": True}})
    assert [event["recomputes"] for run in (kept, again) for event in run.ready] == [False, False, True, True]
    assert kept.losses == again.losses


@pytest.mark.slow
@pytest.mark.parametrize("changed", [{**FSDP, "arguments": {**SHORT, "bf16": True}}, {**DDP, "dtype": "bfloat16"}], ids=["mixed", "whole"])
def test_half_precision_is_near(alone: Any, base: Path, changed: dict[str, Any], tmp_path: Path) -> None:
    made = Trained(tmp_path / "run", base, changed).losses
    assert all(math.isfinite(loss) for loss in made.values())
    assert 0 < apart(made, alone({}).losses) < 0.02, "near, and not the same: it was really computed with fewer digits"


@pytest.mark.slow
def test_each_rank_writes_what_it_holds_and_any_number_goes_on_from_it(base: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    early = {"early_stopping": {"patience": 5, "threshold": 0.0}}  # the best weights are written in parts, too
    whole = Trained(tmp_path / "whole", base, {**FSDP, **early})
    paths, spec = prepare(tmp_path / "stopped", base, arguments=SHORT, **FSDP, **early)
    runs.launch(paths, spec)
    result, _ = finish(paths, lambda event: runs.ask_to_stop(paths) if event["type"] == "log" and event["step"] == 5 else None)
    assert result["state"] == "stopped", result
    last = checkpoint.last_whole(paths.checkpoints)
    assert last is not None
    held = []
    for rank in range(2):
        with safe_open(last / f"weights.{rank}.safetensors", framework="pt") as file:
            held.append({name: file.get_slice(name).get_shape() for name in file.keys()})  # noqa: SIM118 - it is no dict
    for name, tensor in tensors(whole.paths).items():
        rows = len(tensor)
        assert [part[name][0] for part in held] == [-(-rows // 2), rows // 2], "half of the rows each"
    runs.launch(paths, {**spec, "devices": 4, "batch": {"per_device": 2, "accumulation": 1}})
    result, events = finish(paths)
    assert result["state"] == "done", result
    assert [event["step"] for event in events if event["type"] == "resumed"] == [int(last.name.partition("-")[2])]
    assert apart(losses(events), whole.losses) < 1e-5
    assert farthest(tensors(paths), tensors(whole.paths)) < 1e-5


def test_parts_are_read_as_one_and_a_missing_one_is_named(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from nbdream.workers import shards

    path = tmp_path / "weights.safetensors"
    whole = torch.arange(22.0).reshape(11, 2)
    for rank, rows in enumerate((whole[:4], whole[4:8], whole[8:])):
        save_file({"w": rows.contiguous(), **({"step": torch.tensor(7.0)} if rank == 0 else {})}, tmp_path / f"weights.{rank}.safetensors")
    assert [part.name for part in shards.files(path)] == [f"weights.{rank}.safetensors" for rank in range(3)]
    parts = shards.Parts(path, "hint")
    read, step = torch.zeros_like(whole), torch.zeros(())
    parts.fill("w", read)
    parts.fill("step", step)
    assert torch.equal(read, whole)
    assert step == 7
    assert torch.equal(parts._rows("w", 3, 9), whole[3:9])
    with pytest.raises(BrokenFileError, match="it does not hold other"):
        parts.fill("other", read)
    shards.write(path, {"w": whole})
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"], "what lay there is gone"


@pytest.mark.slow
def test_the_options_of_a_trainer(session: Any, base: Path) -> None:
    rows = DataSource("rows", data=dict(zip(("q", "a"), tiny.pairs(16), strict=True))).output
    made: dict[str, Any] = {}
    several = {"cpu_offload": True, "cpu_ram_efficient_loading": True, "state_dict_type": "SHARDED_STATE_DICT"}
    for name, options, more in (
        ("one", {}, {}),
        (
            "two",
            {"devices": 2, "fsdp_config": several},
            {"gradient_checkpointing": True, "gradient_accumulation_steps": 2, "batch_size": 4},
        ),
    ):
        trainer = TrainHFFineTune(name, str(base), device="cpu", force=True, **options)
        made[name] = trainer.train(rows["q"], rows["a"], **{"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, **more})
    one, two = made["one"], made["two"]
    assert one.node["recipe_key"].partition("-")[0] == two.node["recipe_key"].partition("-")[0], "how it is made is no part of the recipe"
    assert list(two.curve["loss"]) == pytest.approx(list(one.curve["loss"]), abs=1e-5)
    assert [event["recomputes"] for model in (one, two) for event in model.events if event["type"] == "ready"] == [False, True, True]
