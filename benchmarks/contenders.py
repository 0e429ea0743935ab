"""Those that are measured side by side, each in a process of its own: ``python -m benchmarks.contenders KIND PORT OPTIONS``.

Each puts the same prompts of 210 words to the server and keeps the replies on disk. Time and processor time are taken after the imports
and after one call to warm up.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TEXT = " ".join(f"word{number}" for number in range(210))


def prompts(count: int) -> list[str]:
    """The prompts."""
    return [f"{number} {TEXT}" for number in range(count)]


def bare(port: int, rows: int, in_flight: int) -> dict[str, Any]:
    """An aiohttp loop with an append-only file, and orjson as nbdream has it: the least that can be done."""
    import aiohttp
    import orjson

    async def run(file: Any) -> dict[str, Any]:
        lanes = asyncio.Semaphore(in_flight)
        headers = {"Authorization": "Bearer none", "Content-Type": "application/json"}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

            async def ask(prompt: str) -> None:
                async with lanes:
                    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
                    async with session.post(f"http://127.0.0.1:{port}/v1/chat/completions", data=orjson.dumps(body)) as response:
                        answer = orjson.loads(await response.read())
                file.write(json.dumps([prompt, answer["choices"][0]["message"]["content"]]) + "\n")

            await ask("warm")
            clock = Clock()
            await asyncio.gather(*(ask(f"Do {prompt}") for prompt in prompts(rows)))
            file.flush()
            return clock.told()

    with tempfile.TemporaryFile("w") as file:
        return asyncio.run(run(file))


def client(port: int, rows: int, in_flight: int) -> dict[str, Any]:
    """The official client in a plain loop."""
    import openai

    async def run(file: Any) -> dict[str, Any]:
        lanes = asyncio.Semaphore(in_flight)
        async with openai.AsyncOpenAI(api_key="none", base_url=f"http://127.0.0.1:{port}/v1") as api:

            async def ask(prompt: str) -> None:
                async with lanes:
                    answer = await api.chat.completions.create(model="m", messages=[{"role": "user", "content": prompt}])
                file.write(json.dumps([prompt, answer.choices[0].message.content]) + "\n")

            await ask("warm")
            clock = Clock()
            await asyncio.gather(*(ask(f"Do {prompt}") for prompt in prompts(rows)))
            return clock.told()

    with tempfile.TemporaryFile("w") as file:
        return asyncio.run(run(file))


def nbdream(
    port: int,
    rows: int,
    in_flight: int | None = None,
    folder: str | None = None,
    edited: int = 0,
    schema: bool = False,
    warm: bool = True,
    forget: bool = False,
    seconds: float | None = None,
    **args: Any,
) -> dict[str, Any]:
    """A session, a source in memory, a Generate step. ``forget`` deletes the step's result at the end; ``seconds`` stops it then."""
    began = time.perf_counter()
    import shutil

    from nbdream import Session
    from nbdream.errors import NbDreamError, Stopped
    from nbdream.llms import OpenAI
    from nbdream.steps import DataSource, Generate, wait

    imported = time.perf_counter() - began
    data = [{"prompt": f"edited {text}" if number < edited else text} for number, text in enumerate(prompts(rows))]
    if schema:
        args["schema"] = {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("instruction", "input", "output")},
                "required": ["input"],
            },
        }
    price = {"input": 1.0, "output": 2.0} if "max_cost" in args else None
    with tempfile.TemporaryDirectory() as temporary, Session(folder or temporary) as session:
        llm = OpenAI("m", base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_concurrency=in_flight, price=price)
        if warm:
            llm("warm")
        clock = Clock()
        source = DataSource("rows", data=data)
        error = ""
        try:
            made = Generate(
                "made",
                inputs={"rows": source.output},
                args={"llm": llm, "template": "Do {{ prompt }}", "column": "reply", **args},
                background=seconds is not None,
            )
            if seconds is not None and not made.finished(seconds):
                made.stopping.set()
                wait(made)
        except Stopped:
            return {**clock.told(), "imported": imported, "began": began}
        except NbDreamError as problem:
            error = str(problem)
        told = {**clock.told(), "imported": imported, "error": error, "paid": session.engine.paid()}
        if not error:
            told |= {"rows": len(made.output), "failed": len(made.failures), "usage": made.node["usage"], "digest": made.output.fingerprint}
        if schema and not error:
            told["sources"] = len(set(made.output["source_row"]))
        if forget:
            shutil.rmtree(Path(session.folder) / "objects" / made.key)
        return told


class Clock:
    """Time and processor time since it was made."""

    def __init__(self) -> None:
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def told(self) -> dict[str, Any]:
        """Seconds of both, and the most memory of the process in MB."""
        most = (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            / (1 if sys.platform == "darwin" else 1024)
            / (1024 if sys.platform == "darwin" else 1)
        )
        return {"seconds": time.perf_counter() - self._began, "cpu": time.process_time() - self._cpu, "memory": most}


CONTENDERS = {"bare": bare, "client": client, "nbdream": nbdream}

if __name__ == "__main__":
    kind, port, options = sys.argv[1:]
    print(json.dumps(CONTENDERS[kind](int(port), **json.loads(options))))  # type: ignore[operator]
