"""What the engine adds to the calls themselves: against a bare client with the same number in flight, and against reading a file."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import openai

from benchmarks.measure import Result
from nbdream import Session
from nbdream.llms import LLM, EchoLLM, OpenAI
from nbdream.steps import DataSource, Generate
from tests.servers.openai_server import OpenAIServer

CALLS = 2_000
ROWS = 20_000
IN_FLIGHT = 32


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _bare_client(base_url: str) -> None:
    """The same calls by the provider's own client, and nothing kept."""

    async def ask_all() -> None:
        lanes = asyncio.Semaphore(IN_FLIGHT)
        async with openai.AsyncOpenAI(api_key="none", base_url=base_url) as client:

            async def ask(number: int) -> None:
                async with lanes:
                    await client.chat.completions.create(model="m", messages=[{"role": "user", "content": f"bare {number}"}])

            await asyncio.gather(*(ask(number) for number in range(CALLS)))

    asyncio.run(ask_all())


def _generate(name: str, llm: LLM, count: int) -> None:
    rows = DataSource("rows", data={"number": list(range(count))})
    Generate(name, inputs={"rows": rows.output}, args={"llm": llm, "template": "row {{ number }}", "column": "reply"}, force=True)


def run() -> list[Result]:
    """Calls against a loopback service, calls of a model that answers at once, and the same again from the cache."""
    results = []
    with tempfile.TemporaryDirectory() as folder, OpenAIServer() as server, Session(folder):
        service = OpenAI("m", base_url=server.base_url, api_key="none", max_concurrency=IN_FLIGHT)
        _bare_client(server.base_url)  # to warm up: modules compile, the server's thread starts
        bare = _timed(lambda: _bare_client(server.base_url))
        engine = _timed(lambda: _generate("a", service, CALLS))
        results.append(Result(f"{CALLS:,} calls of a service", engine, "s", "its bare client", bare))

        echo = EchoLLM()
        first = _timed(lambda: _generate("b", echo, ROWS))
        again = _timed(lambda: _generate("c", echo, ROWS))
        lines = Path(folder) / "rows.jsonl"
        lines.write_text("".join(json.dumps({"number": number, "reply": f"row {number}"}) + "\n" for number in range(ROWS)))
        reading = _timed(lambda: [json.loads(line) for line in lines.open()])
        results.append(Result(f"{ROWS:,} rows of a model that answers at once", first, "s"))
        results.append(Result(f"{ROWS:,} rows again, from the cache", again, "s", "the first time", first))
        results.append(Result(f"{ROWS:,} rows again, from the cache", again, "s", "reading them as JSON lines", reading))
    return results
