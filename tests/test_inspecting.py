"""What is shown of training beside the curve: rows as tokens, and runs laid over each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nbdream import Session
from nbdream.errors import ArgumentError, DataError
from nbdream.steps import DataSource
from nbdream.trainers import TrainHFFineTune
from nbdream.widgets.measures import measured
from nbdream.widgets.plot import training_figure
from nbdream.widgets.tokens import tokens_bundle
from tests import hostile, tiny
from tests.notebook import kernel_in
from tests.test_attach import LiveRun
from tests.training import called_here


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"causal": tiny.causal(folder / "causal"), "t5": tiny.t5(folder / "t5")}


def rows(count: int = 24) -> Any:
    inputs, outputs = tiny.pairs(count)
    return DataSource("rows", data={"question": inputs, "answer": outputs}).output


@pytest.mark.slow
def test_tokens_are_those_that_training_reads(session: Session, models: dict[str, Path]) -> None:
    data = rows()
    trainer = TrainHFFineTune("learner", str(models["causal"]), device="cpu", system_prompt="be brief")
    with called_here():
        told = trainer.tokens(data["question"], data["answer"], packing=True)
    model = trainer.train(data["question"], data["answer"], packing=True, epochs=1)
    facts = next(event for event in model.events if event["type"] == "data")
    assert {name: told.facts[name] for name in ("rows", "tokens", "trained_tokens", "packed_rows", "filling", "batching")} == {
        name: facts[name] for name in ("rows", "tokens", "trained_tokens", "packed_rows", "filling", "batching")
    }
    assert len(told.examples) == 3
    assert len(told.examples[0]) > 1, "several examples in a row"
    for row in told.examples:
        for part in row:
            read, learned = part
            assert (read.learned, learned.learned) == (False, True)
            assert read.text.startswith("be brief")
            number = data["question"].array().to_pylist().index(read.text.removeprefix("be brief").strip())
            assert learned.text == f"{data['answer'][number]}<eos>"
    assert model.node["rows"] == facts["packed_rows"] // 8 + bool(facts["packed_rows"] % 8)


@pytest.mark.slow
def test_tokens_of_an_encoder_and_what_cannot_be_looked_at(session: Session, models: dict[str, Path]) -> None:
    data = rows()
    with called_here():
        told = TrainHFFineTune("learner", str(models["t5"])).tokens(data["question"], data["answer"], examples=1)
    ((read, learned),) = told.examples[0]
    assert read.text == f"{data['question'][0]}<eos>"
    assert learned.text == f"{data['answer'][0]}<eos>"
    assert told.facts["batching"] == "grouped"
    trainer = TrainHFFineTune("learner", str(models["causal"]))
    with called_here(), pytest.raises(DataError, match="row 0 has"):
        trainer.tokens(data["question"], data["answer"], max_length=3, truncate=False)
    with pytest.raises(DataError, match="rows and"):
        trainer.tokens(data["question"], rows(23)["answer"])
    with pytest.raises(ArgumentError, match="packing is 'yes'"):
        trainer.tokens(data["question"], data["answer"], packing="yes")  # type: ignore[arg-type]


def test_tokens_show_what_is_learned_and_run_nothing() -> None:
    from nbdream.trainers.tokens import Piece, Tokens

    facts = {
        "rows": 2, "tokens": 9, "trained_tokens": 4, "median": 4.5, "longest": 5, "max_length": 8, "truncated": 1, "dropped": 1,
        "batching": "packed", "packed_rows": 2, "filling": 0.5,
    }  # fmt: skip
    for said in hostile.HOSTILE:
        shown = tokens_bundle(Tokens(facts, (((Piece("ask: ", 2, False), Piece(said, 3, True)),),)))
        assert "<script" not in shown["text/html"]
        assert "<img" not in shown["text/html"]
        assert "1 cut" in shown["text/plain"]
        assert "2 packed rows, 50.0% full" in shown["text/plain"]
        assert len(shown["text/plain"]) < 3000


EVENTS = [
    {"type": "begin", "step": 0},
    {"type": "log", "step": 1, "loss": 3.0, "learning_rate": 1e-3},
    {"type": "log", "step": 2, "loss": 2.0, "learning_rate": 5e-4},
    {"type": "eval", "step": 2, "eval_loss": 2.5},
    {"type": "log", "step": 3, "loss": 9.0},
    {"type": "resumed", "step": 2},
    {"type": "log", "step": 3, "loss": 1.0, "rewards/margins": 0.5},
]


def test_what_a_killed_run_measured_twice_is_drawn_once() -> None:
    assert measured(EVENTS)["loss"] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert measured(EVENTS)["eval_loss"] == [(2, 2.5)]
    again = [*EVENTS, {"type": "begin", "step": 0}, {"type": "log", "step": 1, "loss": 7.0}]
    assert measured(again)["loss"] == [(1, 7.0)]


def test_runs_are_laid_over_each_other_with_a_panel_for_what_was_measured() -> None:
    figure = training_figure({"one": EVENTS, "two": EVENTS[:3]})
    assert [title.text for title in figure.layout.annotations] == ["loss", "rewards/margins", "learning rate"]
    losses = [trace for trace in figure.data if "loss" in trace.hovertemplate or trace.yaxis == "y"]
    assert {trace.name for trace in losses} == {"one", "two"}
    assert next(list(trace.y) for trace in figure.data if trace.name == "two") == [3.0, 2.0]
    assert sum(trace.showlegend for trace in figure.data) == 2
    assert len(training_figure({"none": []}).data) == 0


@pytest.mark.slow
def test_the_verbs_in_a_notebook(tmp_path: Path) -> None:
    with kernel_in(tmp_path) as kernel:
        assert kernel.run("%load_ext nbdream\ncounting = [{'q': f'say {n}', 'a': f'{n}'} for n in range(20)]").error == ""
        shown = kernel.run("%dream tokens counting --base demo -n 2", timeout=120)
        assert shown.error == ""
        assert "20 rows" in shown.text
        assert "[[0<|end|>]]" in shown.text
        assert "--base demo" in kernel.run("%dream tokens counting").error
        assert "'zz'" in kernel.run("%dream tokens counting --base demo --output zz").error
        assert "was not trained here" in kernel.run("%dream plot counting").error
        assert kernel.run("%%train counter --on counting --base demo\ninput: q\noutput: a\nepochs: 1", timeout=200).error == ""
        plotted = kernel.run("figure = %dream plot counter\nfigure.data[0].x")
        assert plotted.error == ""
        assert "1" in plotted.text


def points(message: dict[str, Any]) -> dict[str, int]:
    """How many points of each curve a message to the page holds."""
    state = message["content"].get("data", {}).get("state", {}) if message["msg_type"] == "comm_msg" else {}
    return {name: len(curve) for name, curve in state.get("series", {}).items()}


@pytest.mark.slow
def test_runs_that_go_on_grow_in_one_picture_and_end_as_a_figure(tmp_path: Path) -> None:
    with kernel_in(tmp_path) as kernel:
        assert kernel.run("%load_ext nbdream\n%dream open ./output").error == ""
        one, two = LiveRun(tmp_path / "output", "one"), LiveRun(tmp_path / "output", "two")
        running = kernel.start("figure = %dream plot one two")
        seen = []
        for message in kernel.messages(running):
            seen.append(message)
            if points(message) == {"one": 2, "two": 2}:
                one.say({"type": "eval", "step": 2, "max_steps": 24, "eval_loss": 0.7})
                two.log(3)
            if points(message) == {"one": 2, "one (validation)": 1, "two": 3}:
                one.end(state="done", step=2)
                two.log(4)
            if points(message).get("two") == 4:
                two.end(state="stopped", step=4)
        assert {"one": 2, "one (validation)": 1, "two": 4} in [points(message) for message in seen]
        shown = next(message["content"]["data"] for message in seen if message["msg_type"] == "display_data")
        assert "two: training · step 2 of 24" in shown["text/plain"]
        assert shown["text/html"].count("<polyline") == 2
        assert (seen[-1]["msg_type"], seen[-1]["content"]) == ("clear_output", {"wait": False}), "what was live does not stay"
        assert "['one', 'one', 'two'] [1.0, 0.5, 0.3" in kernel.run("print([t.name for t in figure.data[:3]], list(figure.data[2].y))").text

        (shown,) = [message["content"]["data"] for message in kernel.run("figure").outputs]
        assert shown["application/vnd.plotly.v1+json"]["data"][0]["name"] == "one"
        assert shown["image/svg+xml"].count("<polyline") == 3

        three = LiveRun(tmp_path / "output", "three")
        running = kernel.start("%dream plot three")
        left = []
        for message in kernel.messages(running):
            left.append(message)
            if points(message):
                kernel.manager.interrupt_kernel()
        (error,) = [message["content"] for message in left if message["msg_type"] == "error"]
        assert (error["ename"], "the runs go on" in error["evalue"]) == ("Stopped", True)
        assert not three.paths.stop.exists()
        three.lock.release()
