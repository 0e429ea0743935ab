"""`Spending`: limits in dollars and in tokens that hold, because what is in flight counts with the most that it can cost.

Amounts are whole numbers of 1e-12 dollars, so that sums are exact. What calls did cost is known from the usage that the provider reports;
a reply without one counts with what was reserved for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nbdream.errors import ArgumentError
from nbdream.llms.base import LLM, Reply, Request
from nbdream.prices import FREE, Price, known, on_request, shown

PICO = 10**12
LENGTHS = ("max_completion_tokens", "max_tokens", "max_new_tokens")
"""What the limit of a reply's length is called."""
FRAME = 16
"""The most tokens that a message has around its text."""
TEMPLATE = 1024
"""The most tokens that a provider or a chat template adds to a request, until one has been answered and says what it adds at most."""
NO_PRICE = 'give it to the model, price={"input": …, "output": …} in dollars per million tokens, or limit tokens: --max-total-tokens'
NO_LENGTH = "give max_tokens: the most tokens of a reply"


@dataclass(slots=True, eq=False)
class Account:
    """A limit, and what has been spent and reserved under it. Several streams may share one."""

    dollars: float | None = None
    tokens: int | None = None
    further: str = "run it again to go on, or raise --max-cost"
    """How a person goes on when the dollars are spent."""
    spent: int = 0
    """In 1e-12 dollars."""
    spent_tokens: int = 0
    reserved: int = 0
    reserved_tokens: int = 0
    elsewhere: int = 0
    """Spent before, or by another kernel, in 1e-12 dollars."""

    def note_total(self, dollars: Callable[[], float]) -> None:
        """Learn from what is on disk what others have spent; called where no loop waits."""
        own = self.spent  # read first: what is settled meanwhile counts twice rather than not at all
        self.elsewhere = max(self.elsewhere, round(dollars() * PICO) - own)

    def lacks(self, amount: int, tokens: int) -> str | None:
        """Why so much cannot be spent now, if it cannot."""
        if self.dollars is not None:
            spent = self.spent + self.elsewhere
            if spent + self.reserved + amount > math.floor(self.dollars * PICO):
                left = self.dollars - spent / PICO
                return self._words(shown(amount / PICO), shown(max(0.0, left)), shown(self.dollars), self.further)
        if self.tokens is not None and self.spent_tokens + self.reserved_tokens + tokens > self.tokens:
            left_tokens = max(0, self.tokens - self.spent_tokens)
            further = "run it again to go on, or raise --max-total-tokens"
            return self._words(f"{tokens:,} tokens", f"{left_tokens:,}", f"{self.tokens:,}", further)
        return None

    def _words(self, most: str, left: str, limit: str, further: str) -> str:
        return f"the next call could cost {most}, and {left} of {limit} is left: {further}; what is paid for is kept"


@dataclass(frozen=True, slots=True)
class _Held:
    """What a call that is in flight may cost at the most."""

    amount: int
    tokens: int
    messages: int
    price: Price


@dataclass(frozen=True, slots=True)
class _Terms:
    """What the requests to one model have in common that share their parameters."""

    refused: ArgumentError | None
    price: Price
    asked: int
    """The most tokens that their parameters have."""
    said: int
    """The most tokens of a reply."""


class Spending:
    """The `Budget` of one stream, under one or more accounts. Lives on the engine's loop."""

    def __init__(self, *accounts: Account) -> None:
        self._accounts = accounts
        self._in_dollars = any(account.dollars is not None for account in accounts)
        self._in_tokens = any(account.tokens is not None for account in accounts)
        self._held: dict[int, _Held] = {}
        self._added: dict[int, int] = {}
        """Messages of a request → the tokens that were added to one at the most."""
        self._terms: tuple[LLM, Mapping[str, Any], _Terms] | None = None

    def reserve(self, number: int, llm: LLM, request: Request, batch: bool = False) -> str | None:
        """None when call ``number`` may go out; else why it may not now. ``batch``: at the price of a batch service."""
        terms = self._terms_of(llm, request.params)
        if terms.refused is not None:
            return f"{terms.refused.message}: {terms.refused.hint}"
        if not all(isinstance(message.get("content"), str) for message in request.messages):
            return "what a message that is no text can cost is not known"
        asked = terms.asked + self._asked(request)
        tokens = asked + terms.said
        dollars = (asked * terms.price.input + terms.said * terms.price.output) * (terms.price.batch if batch else 1.0) / 1e6
        amount = math.ceil(dollars * PICO) if self._in_dollars else 0
        for account in self._accounts:
            why = account.lacks(amount, tokens)
            if why is not None:
                return why
        for account in self._accounts:
            account.reserved += amount
            account.reserved_tokens += tokens
        self._held[number] = _Held(amount, tokens, len(request.messages), terms.price)
        return None

    def settle(self, number: int, llm: LLM, reply: Reply | None) -> None:
        """Put what call ``number`` did cost in place of what was reserved for it."""
        held = self._held.pop(number, None)
        if held is None:
            return
        amount, tokens = self._paid(held, reply)
        for account in self._accounts:
            account.reserved -= held.amount
            account.reserved_tokens -= held.tokens
            account.spent += amount
            account.spent_tokens += tokens

    def refuses(self, llm: LLM, params: Mapping[str, Any]) -> ArgumentError | None:
        """Why no call with these parameters can be made at all: a price or the length of a reply is not known."""
        return self._terms_of(llm, params).refused

    def _terms_of(self, llm: LLM, params: Mapping[str, Any]) -> _Terms:
        if self._terms is None or self._terms[0] is not llm or self._terms[1] is not params:  # nearly all requests share them
            self._terms = (llm, params, self._worked_out(llm, params))
        return self._terms[2]

    def _worked_out(self, llm: LLM, params: Mapping[str, Any]) -> _Terms:
        price = known(llm)
        said = longest(params, price)
        other = on_request(params) if llm.price is None and price is not FREE else None
        refused = None
        if self._in_dollars and (price is None or other is not None):
            refused = ArgumentError(f"the price of {llm.display_name}{f' with {other}' if other else ''} is not known", NO_PRICE)
        elif said is None and (self._in_tokens or price is None or price.output):
            refused = ArgumentError(f"the longest reply of {llm.display_name} is not known", NO_LENGTH)
        return _Terms(refused, price or FREE, _size(params.get("extra")) + _size(params.get("response_format")), said or 0)

    def _asked(self, request: Request) -> int:
        """The most tokens that a request can have: a token is at least one byte."""
        text = sum(len(message["content"].encode("utf-8", "surrogatepass")) + FRAME for message in request.messages)
        return text + _size(request.schema) + self._added.get(len(request.messages), TEMPLATE)

    def _paid(self, held: _Held, reply: Reply | None) -> tuple[int, int]:
        if reply is None or (reply.usage is None and reply.error is not None):
            return 0, 0
        asked, said = ((reply.usage or {}).get(side) for side in ("input_tokens", "output_tokens"))
        if asked is None or said is None:
            return held.amount, held.tokens
        self._added[held.messages] = min(asked, self._added.get(held.messages, TEMPLATE))
        cost = held.price.cost(reply.usage, reply.batch)
        return held.amount if cost is None else round(cost * PICO), asked + said


def longest(params: Mapping[str, Any], price: Price | None) -> int | None:
    """The most tokens that the replies to one request can have; None when nothing says it."""
    said = {**params, **(params.get("extra") or {})}
    lengths = [said[name] for name in LENGTHS if isinstance(said.get(name), int)]
    most = max(lengths) if lengths else price.max_output if price is not None else None
    return None if most is None else most * int(said.get("n") or 1)


def _size(value: Any) -> int:
    return 0 if not value else len(json.dumps(value, default=str).encode())
