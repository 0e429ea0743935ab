"""Calls, tokens and money, computed from replies and from what is on disk; nothing is counted a second time.

``calls`` were sent for this result and ``cached_calls`` were already paid for; the tokens are those of both. ``cost`` is None: there
is no price table yet, and a wrong amount is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

Usage = dict[str, Any]
COUNTED = ("calls", "cached_calls", "failed_calls", "input_tokens", "output_tokens", "cached_input_tokens", "cached_output_tokens")


class Answer(Protocol):
    """What is read of a reply."""

    error: dict[str, Any] | None
    usage: dict[str, int] | None
    cached: bool


def nothing() -> Usage:
    """The usage of no calls at all."""
    return {**dict.fromkeys(COUNTED, 0), "cost": None}


def add_reply(usage: Usage, reply: Answer) -> None:
    """Count one more reply in ``usage``."""
    usage["cached_calls" if reply.cached else "calls"] += 1
    usage["failed_calls"] += reply.error is not None
    for side in ("input_tokens", "output_tokens"):
        tokens = (reply.usage or {}).get(side) or 0
        usage[side] += tokens
        if reply.cached:
            usage[f"cached_{side}"] += tokens


def total(usages: Iterable[Mapping[str, Any] | None]) -> Usage:
    """The sum of usages; what one of them does not say counts as nothing."""
    summed = nothing()
    for usage in usages:
        for name in COUNTED:
            summed[name] += (usage or {}).get(name) or 0
    return summed


def of_nodes(nodes: Iterable[Mapping[str, Any]]) -> Usage:
    """The usage of all ``nodes`` (what ``node.json`` holds)."""
    return total(node.get("usage") for node in nodes)


def by(nodes: Iterable[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], str]) -> dict[str, Usage]:
    """The usage of ``nodes`` grouped by ``key`` (a cell, a step's type …), in the order in which the groups appear."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for node in nodes:
        groups.setdefault(key(node), []).append(node)
    return {name: of_nodes(group) for name, group in groups.items()}


def of_calls(paid: Iterable[Mapping[str, Any]], key: str, unnamed: str) -> dict[str, Usage]:
    """What stored replies cost (see `CallCache.paid`), grouped by ``key``: ``by`` or ``model``."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for part in paid:
        groups.setdefault(str(part[key] or unnamed), []).append(part)
    return {name: total(group) for name, group in groups.items()}
