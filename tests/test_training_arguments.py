"""What is said about a training run has its effect, or is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nbdream.errors import ArgumentError
from nbdream.trainers.arguments import NO_PLACE, check_names, counted
from nbdream.workers import checkpoint, runs
from tests import tiny
from tests.training import finish, prepare

GIVEN = {"batch_eval_metrics": True, "include_for_metrics": ["inputs", "loss"], "label_smoothing_factor": 0.1}
NOTHING = {"batch_eval_metrics": False, "include_for_metrics": [], "label_smoothing_factor": 0.0}


@pytest.mark.parametrize("name", NO_PLACE)
def test_what_would_do_nothing_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^{name} has no place here: .*$") as caught:
        check_names({name: GIVEN[name]}, frozenset())
    assert caught.value.hint == "leave it out"
    assert check_names({name: NOTHING[name]}, frozenset()) == {name: NOTHING[name]}, "as the library has it by itself"


@pytest.mark.parametrize("limit", [0, -1, "2", 1.5, True])
def test_how_many_checkpoints_is_a_number(limit: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^save_total_limit is "):
        check_names({"save_total_limit": limit}, frozenset())


def test_how_many_checkpoints_changes_no_model() -> None:
    assert counted(check_names({"save_total_limit": 1, "save_steps": 2}, frozenset())) == {}


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "there"), [(1, 1), (3, 3), (None, 2)])
def test_as_many_checkpoints_as_asked_for(tmp_path: Path, limit: int | None, there: int) -> None:
    given = {"num_train_epochs": 6, "learning_rate": 1e-3, "save_strategy": "steps", "save_steps": 1, "save_total_limit": limit}
    paths, spec = prepare(tmp_path / "run", tiny.causal(tmp_path / "causal"), arguments=given)

    def hear(event: dict[str, Any]) -> None:
        if event["type"] == "save" and event["step"] >= 5:
            runs.ask_to_stop(paths)

    runs.launch(paths, spec)
    ended, _ = finish(paths, hear)
    assert ended["state"] == "stopped"
    assert len(checkpoint.whole_checkpoints(paths.checkpoints)) == there
