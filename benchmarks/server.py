"""A chat-completions server that costs as little as a server can, with the faults that real ones have: ``python -m benchmarks.server …``.

It prints its port, and on ``GET /counts`` what it has done. One thread, one event loop, no framework: it must not be what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
import zlib
from collections import Counter
from typing import Any

ANSWER = "It is so: a short answer, of about as many words as most of those that are asked for in large numbers."
TRIPLE = json.dumps({"instruction": "Say it.", "input": "it", "output": "it"})


class Counts:
    """What the server has done, and the state of its limits."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.chance = random.Random(options.seed)
        self.answered = self.refused = self.failed = self.in_flight = self.peak = 0
        self.prompts: Counter[int] = Counter()
        self.times: list[tuple[float, bool]] = []
        self.tokens, self.filled = float(options.burst), time.monotonic()

    def told(self) -> dict[str, Any]:
        """What ``GET /counts`` gives."""
        many = sum(count - 1 for count in self.prompts.values())
        return {
            "answered": self.answered, "refused": self.refused, "failed": self.failed, "prompts": len(self.prompts), "twice": many,
            "most": max(self.prompts.values(), default=0), "peak": self.peak, "times": self.times if self.options.rate else [],
        }  # fmt: skip


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.data = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            head = self.data[:end].lower()
            at = head.find(b"content-length:")
            size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.data) < end + 4 + size:
                return
            body, self.data = self.data[end + 4 : end + 4 + size], self.data[end + 4 + size :]
            if head.startswith(b"get"):
                self.write(200, json.dumps(self.counts.told()).encode())
            else:
                self.answer(body)

    def answer(self, body: bytes) -> None:
        counts, options = self.counts, self.counts.options
        delay = max(0.0, options.latency + counts.chance.uniform(-options.jitter, options.jitter)) if options.latency else 0.0
        if options.rate:
            headers = self.limited()
            if headers is not None:
                return self.refuse(429, headers)
        if options.faults and counts.chance.random() < options.faults:
            return self.refuse(counts.chance.choice((429, 500)), b"")
        mark = zlib.crc32(body)
        if options.bad and mark % 1000 < options.bad * 1000:
            counts.failed += 1
            counts.prompts[mark] += 1
            return self.write(400, b'{"error":{"message":"this prompt is refused","type":"invalid_request_error"}}')
        counts.in_flight += 1
        counts.peak = max(counts.peak, counts.in_flight)
        if delay:
            asyncio.get_running_loop().call_later(delay, self.say, body, mark)
        else:
            self.say(body, mark)
        return None

    def say(self, body: bytes, mark: int) -> None:
        counts, options = self.counts, self.counts.options
        counts.in_flight -= 1
        counts.answered += 1
        if options.count:
            counts.prompts[mark] += 1
        if options.rate:
            counts.times.append((time.monotonic(), True))
        text = ANSWER
        if options.structured:
            first = json.loads(body)["messages"]
            wrong = len(first) == 1 and zlib.crc32(first[0]["content"].encode()) % 5 == 0
            text = '{"instruction": "Say it."}' if wrong else json.dumps({"items": [json.loads(TRIPLE)] * 2})
        told = {
            "id": "c", "object": "chat.completion", "created": 1, "model": "m-1",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": len(body) // 4, "completion_tokens": 22, "total_tokens": len(body) // 4 + 22},
        }  # fmt: skip
        self.write(200, json.dumps(told).encode(), self.told_limits())

    def limited(self) -> bytes | None:
        """Headers of a refusal when the bucket is empty."""
        counts, options, now = self.counts, self.counts.options, time.monotonic()
        counts.tokens = min(options.burst, counts.tokens + (now - counts.filled) * options.rate)
        counts.filled = now
        if counts.tokens >= 1:
            counts.tokens -= 1
            return None
        counts.times.append((now, False))
        return self.told_limits()

    def told_limits(self) -> bytes:
        counts, options = self.counts, self.counts.options
        if not options.rate or not options.headers:
            return b""
        back = (options.burst - counts.tokens) / options.rate
        told = {"limit": round(options.rate * 60), "remaining": int(counts.tokens), "reset": f"{back:.3f}s"}
        return b"".join(f"x-ratelimit-{name}-requests: {value}\r\n".encode() for name, value in told.items())

    def refuse(self, status: int, headers: bytes) -> None:
        self.counts.refused += 1
        self.write(status, b'{"error":{"message":"not now","type":"server_error"}}', headers)

    def write(self, status: int, body: bytes, headers: bytes = b"") -> None:
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n" % (status, len(body), headers) + body
            )


def arguments() -> argparse.ArgumentParser:
    """The faults, as options."""
    parser = argparse.ArgumentParser()
    for name in ("latency", "jitter", "faults", "bad", "rate"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--burst", type=float, default=50.0)
    parser.add_argument("--seed", type=int, default=0)
    for name in ("headers", "structured", "count"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser


async def serve(options: argparse.Namespace) -> None:
    """Serve until standard input ends."""
    counts = Counts(options)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(counts), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(arguments().parse_args()))
