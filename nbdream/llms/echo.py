"""A model that answers at once, without key or network: for docs, tests and trying a notebook out."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Any, ClassVar

from nbdream.errors import ArgumentError
from nbdream.llms.base import COMMON, LLM, Reply, Request


class EchoLLM(LLM):
    """Says the prompt back, or one of ``answers``: a pure function of messages, seed and draw.

    A further draw and a seed show in the reply (``hello (draw 2)``), so that twenty draws are twenty texts. ``delay`` is in seconds.
    """

    provider: ClassVar[str] = "echo"
    accepts: ClassVar[frozenset[str]] = COMMON | {"repetition_penalty"}

    def __init__(
        self,
        model_name: str = "echo",
        *,
        answers: Sequence[str] | None = None,
        delay: float = 0.0,
        system_prompt: str | None = None,
        identity: Any = None,
        max_concurrency: int | None = None,
        **params: Any,
    ) -> None:
        if answers is not None and (isinstance(answers, str) or not answers):
            raise ArgumentError("answers is not a list of texts", 'for example answers=["Yes", "No"]')
        super().__init__(model_name, system_prompt=system_prompt, identity=identity, max_concurrency=max_concurrency, **params)
        self.answers = None if answers is None else tuple(answers)
        self.delay = delay
        if self.answers is not None and identity is None:
            self.identity = {**self.identity, "answers": list(self.answers)}

    async def complete(self, request: Request) -> Reply:
        """The reply, after ``delay`` seconds."""
        if self.delay:
            await asyncio.sleep(self.delay)
        words = self._text(request).split(" ")
        most = request.params.get("max_tokens")
        cut = most is not None and len(words) > most
        asked = sum(len(message["content"].split()) for message in request.messages)
        text = " ".join(words[:most] if cut else words)
        usage = {"input_tokens": asked, "output_tokens": len(text.split())}
        return Reply(text, usage=usage, model=self.model_name, finish_reason="length" if cut else "stop")

    def _text(self, request: Request) -> str:
        if self.answers is not None:
            asked = json.dumps([[message["content"] for message in request.messages], request.seed, request.draw])
            return self.answers[int.from_bytes(hashlib.sha256(asked.encode()).digest()[:8], "big") % len(self.answers)]
        seed = "" if request.seed is None else f" (seed {request.seed})"
        draw = f" (draw {request.draw + 1})" if request.draw else ""
        return f"{request.prompt}{seed}{draw}"
