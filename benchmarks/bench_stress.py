"""What takes longer than a test may: kills at random moments, two minutes at a rate limit, a million rows."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.bench_faults import bucket
from benchmarks.measure import Result, Server, contender

KILLS = 50
ROWS = 10_000
IN_FLIGHT = 64
MANY = 1_000_000

MILLION = """
import json, resource, sys, tempfile, time
from nbdream import Session
from nbdream.llms import EchoLLM
from nbdream.steps import DataSource, Generate

rows = int(sys.argv[1])
marks = []

def source():
    for number in range(rows):
        yield {"text": f"row {number} of a source that is never in memory as a whole"}

with tempfile.TemporaryDirectory() as folder, Session(folder) as session:
    data = DataSource("rows", data=source, total_num_rows=rows)
    seen = lambda event: marks.append((time.monotonic(), event.get("done") or 0)) if event["type"] == "step.progress" else None
    session.subscribe(seen)
    args = {"llm": EchoLLM(answers=["yes", "no"]), "template": "{{ text }}", "column": "reply"}
    made = Generate("made", inputs={"rows": data.output}, args=args)
    assert len(made.output) == rows

def speed(low, high):
    part = [mark for mark in marks if low * rows <= mark[1] <= high * rows]
    return (part[-1][1] - part[0][1]) / (part[-1][0] - part[0][0])

print(json.dumps({"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "first": speed(0, 0.1), "last": speed(0.9, 1)}))
"""


def million(rows: int = MANY) -> Iterator[Result]:
    """Peak memory, and whether the end is as fast as the beginning."""
    done = subprocess.run([sys.executable, "-c", MILLION, str(rows)], check=True, capture_output=True, text=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    yield Result(f"{rows:,} rows: peak memory", told["memory"], "MB", most=600)
    yield Result(f"{rows:,} rows: speed of the last tenth", told["last"], "rows/s", "of the first", told["first"], least=0.9)


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
