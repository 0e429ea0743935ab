"""Steps side by side."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from nbdream import Session
from nbdream.llms import EchoLLM
from nbdream.steps import DataFromPrompt, DataSource, Prompt, Step, concurrent, wait


class Fails(Step):
    def setup(self) -> None:
        self.register_output("x")

    def run(self) -> Any:
        raise ValueError("on purpose")


def test_wait_returns_when_all_are_done(session: Session) -> None:
    steps = [
        DataFromPrompt(f"step {i}", args={"llm": EchoLLM(delay=0.01), "instruction": f"Write {i}.", "n": 2}, background=True)
        for i in range(3)
    ]
    wait(*steps)
    assert all(step.done for step in steps)
    assert [step.output["generations"][0] for step in steps] == ["Write 0.", "Write 1.", "Write 2."]


def test_wait_raises_what_a_step_raised_at_once_and_the_others_run_on(session: Session) -> None:
    going = threading.Event()

    class Waits(Step):
        def setup(self) -> None:
            self.register_output("x")

        def run(self) -> Any:
            going.wait(20)
            return {"x": [1]}

    slow = Waits("slow", background=True)
    bad = Fails("bad", background=True)
    began = time.monotonic()
    with pytest.raises(ValueError, match="on purpose"):
        wait(slow, bad)
    assert time.monotonic() - began < 1
    assert not slow.done
    going.set()
    wait(slow)
    assert slow.output["x"][:] == [1]
    with pytest.raises(ValueError, match="on purpose"):
        _ = bad.output


def test_what_runs_stands_in_the_order_in_which_it_began(session: Session) -> None:
    going = threading.Event()

    class Waits(Step):
        def setup(self) -> None:
            self.register_arg("number")
            self.register_output("x")

        def run(self) -> Any:
            going.wait(20)
            return {"x": [1]}

    steps = [Waits(f"step {number}", args={"number": number}, background=True) for number in range(8)]
    assert [step.name for step in session.running()] == [step.name for step in steps]
    going.set()
    wait(*steps)


def test_concurrent_raises_at_once(session: Session) -> None:
    going = threading.Event()
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        concurrent(lambda: going.wait(20), lambda: 1 // 0)
    assert time.monotonic() - began < 1
    going.set()


def test_a_step_waits_for_its_input(session: Session) -> None:
    data = DataFromPrompt("data", args={"llm": EchoLLM(delay=0.05), "instruction": "Write.", "n": 1}, background=True)
    step = Prompt("again", inputs={"prompts": data.output["generations"]}, args={"llm": EchoLLM()})
    assert step.output["generations"][:] == ["Write."]


def test_concurrent_runs_at_the_same_time_and_keeps_the_order(session: Session) -> None:
    met = threading.Barrier(2, timeout=10)

    def make(number: int) -> Any:
        met.wait()
        return DataSource(f"data {number}", {"x": [number]}).output["x"][0]

    assert concurrent(lambda: make(1), lambda: make(2)) == [1, 2]
    assert concurrent() == []
    with pytest.raises(ZeroDivisionError):
        concurrent(lambda: 1, lambda: 1 // 0)
