"""Servers that refuse, fail and limit: what arrives, what it costs, and that nothing is lost."""

from __future__ import annotations

import time

from benchmarks.measure import Result, Server, contender

ALLOWED = 50
"""Requests a second of the token bucket; as many may be saved up."""


def bucket(seconds: float, *options: str, after: float = 10.0) -> list[Result]:
    """How much of a rate limit is used, and how much is refused, from ``after`` seconds on."""
    with Server("--rate", str(ALLOWED), "--burst", str(ALLOWED), "--latency", "0.1", "--jitter", "0.05", *options) as server:
        began = time.monotonic()
        contender("nbdream", server.port, rows=int(ALLOWED * seconds * 1.5), seconds=seconds, warm=False)
        times = server.counts()["times"]
    began = min(at for at, _ in times) if times else began
    counted = [answered for at, answered in times if after <= at - began <= seconds]
    shown = f"{ALLOWED} requests/s, {seconds:.0f} s, {'with' if options else 'without'} headers"
    good = sum(counted)
    return [
        Result(f"{shown}: answered of what is allowed", 100 * good / (ALLOWED * (seconds - after)), "%", least=90),
        Result(f"{shown}: refused", 100 * (len(counted) - good) / max(1, len(counted)), "%", most=2),
    ]


def run() -> list[Result]:
    """Short ones; the rate limits for two minutes are in `bench_stress`."""
    results = [*bucket(30), *bucket(30, "--headers")]
    with Server("--faults", "0.05", "--latency", "0.02", "--count") as server:
        made = contender("nbdream", server.port, rows=5000)
        counts = server.counts()
    results.append(Result("5 % of attempts fail: rows that arrive", made["rows"], "rows", "rows", 5000, least=1))
    results.append(
        Result("5 % of attempts fail: calls", counts["answered"] + counts["refused"], "calls", "calls undisturbed", 5001, most=1.1)
    )
    with Server("--bad", "0.01", "--count", "--latency", "0.02") as server:
        made = contender("nbdream", server.port, rows=5000)
        counts = server.counts()
    results.append(Result("1 % always refused: rows and failures", made["rows"] + made["failed"], "rows", "rows", 5000, least=1))
    results.append(Result("1 % always refused: asked more than once", counts["twice"], "calls", most=0))
    results.append(
        Result(
            "1 % always refused: calls in the ledger",
            made["usage"]["calls"],
            "calls",
            "calls of the server",
            counts["answered"] + counts["failed"] - 1,
            least=1,
        )
    )
    with Server("--structured") as server:
        made = contender("nbdream", server.port, rows=1000, schema=True)
    results.append(Result("structured, 20 % invalid at first: rows lost", made["failed"], "rows", most=0))
    results.append(Result("structured: source rows that list rows carry", made.get("sources", 0), "rows", "rows", 1000, least=1))
    return results
