"""What running again costs: in a fresh process, with everything there, with the step's result gone, with some rows edited."""

from __future__ import annotations

import tempfile

from benchmarks.measure import Result, Server, contender

ROWS = 20_000
ROUNDS = 3


def run() -> list[Result]:
    """The least of a few rounds: what is promised is about a quiet machine."""
    with tempfile.TemporaryDirectory() as folder, Server("--count") as server:
        options = {"rows": ROWS, "folder": folder, "warm": False}
        contender("nbdream", server.port, **options)
        again = [contender("nbdream", server.port, **options) for _ in range(ROUNDS)]
        contender("nbdream", server.port, forget=True, **options)
        gone = [contender("nbdream", server.port, forget=True, **options) for _ in range(ROUNDS)]
        calls = server.counts()["answered"]
        edited = contender("nbdream", server.port, edited=ROWS // 100, **options)
        more = server.counts()["answered"] - calls
    without = min(run["seconds"] for run in again)
    return [
        Result("20,000 rows again, fresh process, without imports", without, "s", most=0.35),
        Result("20,000 rows again, fresh process, with imports", min(run["seconds"] + run["imported"] for run in again), "s", most=0.8),
        Result("20,000 rows again, the step's result deleted", min(run["seconds"] for run in gone), "s", most=0.8),
        Result("calls of all those runs", calls - ROWS, "calls", most=0),
        Result("calls after 1 % of the rows was edited", more, "calls", "rows edited", ROWS / 100, most=1),
        Result("rows of the edited run", edited["rows"], "rows", "rows", ROWS, least=1),
    ]
