"""Calls of a service beside a bare aiohttp loop and the provider's own client, in alternating rounds."""

from __future__ import annotations

from benchmarks.measure import Result, Server, contender, median

ROUNDS = 3
SLOW: list[tuple[str, dict[str, int]]] = [("bare", {"in_flight": 200}), ("nbdream", {"in_flight": 200}), ("nbdream", {})]
FAST = ("bare", "nbdream")
QUICK_ROUNDS = 9
"""Runs of half a second vary by a quarter on a machine that others use."""


def run() -> list[Result]:
    """Time and processor time at 300 ms, and without latency."""
    results = []
    with Server("--latency", "0.3", "--jitter", "0.1") as server:
        slow = [[contender(kind, server.port, rows=1000, **more) for kind, more in SLOW] for _ in range(ROUNDS)]
    bare, given, alone = (median((runs[place] for runs in slow), "seconds") for place in range(3))
    results.append(Result("1,000 rows, 300 ± 100 ms, 200 at once", given, "s", "bare aiohttp", bare, most=1.25))
    results.append(Result("1,000 rows, 300 ± 100 ms, nothing set", alone, "s", "the same at 200", given, most=1.5))
    with Server() as server:
        fast = [[contender(kind, server.port, rows=1000, in_flight=200) for kind in FAST] for _ in range(QUICK_ROUNDS)]
        client = [contender("client", server.port, rows=1000, in_flight=200) for _ in range(ROUNDS)]
        many = [[contender(kind, server.port, rows=20_000, in_flight=200) for kind in FAST] for _ in range(ROUNDS)]
    rate = [1000 / median((runs[place] for runs in fast), "seconds") for place in range(2)]
    results.append(Result("1,000 rows, no latency", rate[1], "rows/s", "bare aiohttp", rate[0], least=0.6))
    results.append(Result("1,000 rows, no latency", rate[1], "rows/s", "AsyncOpenAI", 1000 / median(client, "seconds"), least=4))
    rates = [20_000 / median((runs[place] for runs in many), "seconds") for place in range(2)]
    results.append(Result("20,000 rows, no latency", rates[1], "rows/s", "bare aiohttp", rates[0], least=0.5))
    cpu = [median((runs[place] for runs in many), "cpu") / 20 for place in range(2)]
    results.append(Result("processor time of 1,000 rows (of 20,000)", cpu[1], "s", "bare aiohttp", cpu[0], most=2))
    return results
