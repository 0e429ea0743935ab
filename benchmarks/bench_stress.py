"""What takes longer than a test may: kills at random moments, two minutes at a rate limit, a million rows."""

from __future__ import annotations

import json
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.bench_faults import bucket
from benchmarks.measure import Result, Server, contender

KILLS = 50
ROWS = 10_000
IN_FLIGHT = 64
MANY = 1_000_000

TENTH = MANY // 10
TURN = 1.0
"""Seconds that one of two processes runs while the other one is held."""

MILLION = """
import json, resource, sys, tempfile, time
from nbdream import Session
from nbdream.llms import EchoLLM
from nbdream.steps import DataSource, Generate

rows, after = int(sys.argv[1]), int(sys.argv[2])
before = 0

def source():
    for number in range(rows):
        yield {"text": f"row {number} of a source that is never in memory as a whole"}

def seen(event):
    global before
    if event["type"] == "step.progress":
        done = event.get("done") or 0
        if before < after <= done:
            print(json.dumps({"from": done, "at": time.monotonic()}), flush=True)
        before = max(before, done)

with tempfile.TemporaryDirectory() as folder, Session(folder) as session:
    data = DataSource("rows", data=source, total_num_rows=rows)
    session.subscribe(seen)
    args = {"llm": EchoLLM(answers=["yes", "no"]), "template": "{{ text }}", "column": "reply"}
    made = Generate("made", inputs={"rows": data.output}, args=args)
    end = time.monotonic()
    assert len(made.output) == rows

memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"rows": rows, "at": end, "memory": memory}), flush=True)
"""


class Growing:
    """A process that generates rows, and is let run or held."""

    def __init__(self, rows: int, after: int) -> None:
        command = [sys.executable, "-c", MILLION, str(rows), str(after)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.turns: list[tuple[float, float]] = []
        self.began = self.told()
        self.process.send_signal(signal.SIGSTOP)
        self.turns.append((self.began["at"], time.monotonic()))
        self.ended: dict[str, Any] | None = None

    def told(self) -> dict[str, Any]:
        """The next thing that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise subprocess.CalledProcessError(self.process.wait(), self.process.args)
        told: dict[str, Any] = json.loads(line)
        return told

    def run(self) -> None:
        """Let it run for a turn."""
        assert self.process.stdout is not None
        begin = time.monotonic()
        self.process.send_signal(signal.SIGCONT)
        if select.select([self.process.stdout], [], [], TURN)[0]:
            self.ended = self.told()
            self.process.wait()
        else:
            self.process.send_signal(signal.SIGSTOP)
        self.turns.append((begin, time.monotonic()))

    def speed(self) -> float:
        """Rows a second of the time in which it ran."""
        assert self.ended is not None
        ran = sum(min(end, self.ended["at"]) - begin for begin, end in self.turns if begin < self.ended["at"])
        return float((self.ended["rows"] - self.began["from"]) / ran)


def million() -> Iterator[Result]:
    """Peak memory, and whether the end is as fast as the beginning: the last tenth of a million rows beside the first of others.

    They take turns, since a machine may be half as fast two minutes later.
    """
    last = Growing(MANY, MANY - TENTH)
    first = Growing(TENTH, 1)
    while last.ended is None or first.ended is None:
        for process in (last, first):
            if process.ended is None:
                process.run()
    yield Result(f"{MANY:,} rows: peak memory", last.ended["memory"], "MB", most=600)
    yield Result(f"{MANY:,} rows: speed of the last tenth", last.speed(), "rows/s", "of a first, in turns", first.speed(), least=0.9)


def killed() -> Iterator[Result]:
    """A generation that is killed again and again, then run to its end."""
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder, Server("--latency", "0.05", "--jitter", "0.02", "--count") as server:
        options = {"rows": ROWS, "in_flight": IN_FLIGHT, "folder": str(Path(folder) / "killed"), "warm": False}
        command = [sys.executable, "-m", "benchmarks.contenders", "nbdream", str(server.port), json.dumps(options)]
        kills = 0
        while kills < KILLS:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            try:
                process.wait(timeout=chance.uniform(0.6, 1.6))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
            else:
                break
        last = contender("nbdream", server.port, **options)
        counts = server.counts()
        undisturbed = contender("nbdream", server.port, **{**options, "folder": str(Path(folder) / "undisturbed")})
    twice, bound = counts["answered"] - counts["prompts"], float(kills * IN_FLIGHT)
    yield Result(f"{kills} kills: calls paid twice", twice, "calls", f"{IN_FLIGHT} in flight at each", bound, most=1)
    yield Result(f"{kills} kills: rows", last["rows"], "rows", "rows", ROWS, least=1)
    yield Result("the same content as an undisturbed run (1: yes)", float(last["digest"] == undisturbed["digest"]), "", least=1)


def run() -> list[Result]:
    """All of them: about ten minutes."""
    return [*killed(), *bucket(120), *bucket(120, "--headers"), *million()]
