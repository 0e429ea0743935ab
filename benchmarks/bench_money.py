"""What budgets and dry runs promise: nothing is overspent, a rerun goes on, and the interval holds."""

from __future__ import annotations

import tempfile

from benchmarks.measure import Result, Server, contender

LIMIT = 0.2
ROWS = 1000
WORKLOADS = 100


def run() -> list[Result]:
    """A limit that is reached, then a run to the end; and the interval of a dry run over seeded workloads."""
    with tempfile.TemporaryDirectory() as folder, Server("--count", "--latency", "0.02") as server:
        options = {"rows": ROWS, "folder": folder, "warm": False, "max_tokens": 50}
        stopped = contender("nbdream", server.port, max_cost=LIMIT, **options)
        before = server.counts()["answered"]
        spent = sum(part["cost"] for part in stopped["paid"])
        contender("nbdream", server.port, **options)
        counts = server.counts()
    results = [
        Result("--max-cost reached: spent", spent, "$", "limit", LIMIT, most=1),
        Result("--max-cost reached: the rerun and it together, calls", counts["answered"], "calls", "rows", ROWS, most=1),
        Result("--max-cost reached: calls of the first", before, "calls", "rows", ROWS),
    ]
    from tests.test_money import covered

    for kind in ("lognormal", "with the prompt", "some refused", "some failed", "alike"):
        held, _ = covered(kind, WORKLOADS)
        results.append(Result(f"--dry-run, {kind}: the interval holds the truth", held, f"of {WORKLOADS}", least=90))
    return results
