"""Calls, tokens and money, computed from replies and from what is on disk; nothing is counted a second time.

``calls`` were sent for this result and ``cached_calls`` were already paid for; the tokens are those of both. ``cost`` is what the calls
cost in dollars and ``saved`` what the others had cost, when they were made; None as soon as the price of one of them is not known, since
a wrong amount is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

Usage = dict[str, Any]
COUNTED = ("calls", "cached_calls", "failed_calls", "input_tokens", "output_tokens", "cached_input_tokens", "cached_output_tokens")
MONEY = {"cost": "calls", "saved": "cached_calls"}
"""The amounts, and the calls that they are for."""

NO_TOKENS: dict[str, int] = {}


class Answer(Protocol):
    """What is read of a reply."""

    error: dict[str, Any] | None
    usage: dict[str, int] | None
    cached: bool
    cost: float | None

    @property
    def earlier(self) -> tuple[Answer, ...]:
        """The replies in whose place this one is."""


def nothing() -> Usage:
    """The usage of no calls at all."""
    return {**dict.fromkeys(COUNTED, 0), **dict.fromkeys(MONEY, 0.0)}


def sum_known(one: float | None, other: float | None) -> float | None:
    """The sum of two amounts; None when one of them is not known."""
    return None if one is None or other is None else round(one + other, 12) if other else one


def add_reply(usage: Usage, reply: Answer) -> None:
    """Count one more reply in ``usage``, with those that it mends."""
    for part in (*reply.earlier, reply) if reply.earlier else (reply,):  # written out: a million replies come by here
        told = part.usage or NO_TOKENS
        read, written = told.get("input_tokens") or 0, told.get("output_tokens") or 0
        usage["input_tokens"] += read
        usage["output_tokens"] += written
        if part.cached:
            usage["cached_calls"] += 1
            usage["cached_input_tokens"] += read
            usage["cached_output_tokens"] += written
            usage["saved"] = sum_known(usage["saved"], part.cost)
        else:
            usage["calls"] += 1
            usage["cost"] = sum_known(usage["cost"], part.cost)
    if reply.error is not None:
        usage["failed_calls"] += 1


def total(usages: Iterable[Mapping[str, Any] | None]) -> Usage:
    """The sum of usages; what one of them does not say counts as nothing, but the price of calls as not known."""
    summed = nothing()
    for usage in usages:
        said = usage or {}
        for name in COUNTED:
            summed[name] += said.get(name) or 0
        for name, calls in MONEY.items():
            amount = said.get(name)
            summed[name] = sum_known(summed[name], 0.0 if amount is None and not said.get(calls) else amount)
    return summed


def of_nodes(nodes: Iterable[Mapping[str, Any]]) -> Usage:
    """The usage of all ``nodes`` (what ``node.json`` holds)."""
    return total(node.get("usage") for node in nodes)


def by(nodes: Iterable[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], str]) -> dict[str, Usage]:
    """The usage of ``nodes`` grouped by ``key`` (a cell, a step's type …), in the order in which the groups appear."""
    return {name: of_nodes(group) for name, group in grouped(nodes, key).items()}


def grouped(parts: Iterable[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], str]) -> dict[str, list[Mapping[str, Any]]]:
    """``parts`` by their ``key``, in the order in which the groups appear."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for part in parts:
        groups.setdefault(key(part), []).append(part)
    return groups


def at_least(paid: Iterable[Mapping[str, Any]]) -> float:
    """The dollars for those of the stored replies (see `CallCache.paid`) whose price is known."""
    return round(sum(part.get("cost") or 0.0 for part in paid), 12)


def unpriced(paid: Iterable[Mapping[str, Any]]) -> int:
    """How many of them have a price that is not known."""
    return sum(part["calls"] for part in paid if part.get("cost") is None)
