"""What a stream may cost: asked before each call goes out, told when its reply is there."""

from __future__ import annotations

from typing import Protocol

from nbdream.llms.base import LLM, Reply, Request


class Budget(Protocol):
    """Lives on the engine's loop. What is in flight counts with the most that it can cost."""

    def reserve(self, number: int, llm: LLM, request: Request, batch: bool = False) -> str | None:
        """None when call ``number`` may go out; else, in one line, why it may not now. ``batch``: at the price of a batch service."""

    def settle(self, number: int, llm: LLM, reply: Reply | None) -> None:
        """Put what call ``number`` did cost in place of what was reserved; ``None``: it was not answered."""
