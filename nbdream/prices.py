"""What a call costs: list prices from ``prices.json``, which says when it was put together. A price that is not known is None.

A model has the list price only at its provider's own address: a server in between, or in another region, has prices of its own.
``price=`` on a model says them.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from nbdream.errors import ArgumentError

PATH = Path(__file__).with_name("prices.json")
LOCAL = frozenset({"echo", "transformers"})
"""The kinds of models that run on this machine."""
ON_REQUEST = frozenset({"cache_control", "inference_geo", "service_tier", "speed", "tools", "web_search_options"})
"""Parameters with which a provider takes another price than the listed one."""
STANDARD = ("auto", "default", "standard_only")

_SNAPSHOT = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens."""

    input: float
    output: float
    cached_input: float | None = None
    """For the part of the prompt that the provider still had."""
    batch: float = 0.5
    """What share of it a batch service takes."""
    max_output: int | None = None
    """The most tokens of one reply, where that is known."""

    def cost(self, usage: Mapping[str, Any] | None, batch: bool = False) -> float | None:
        """Dollars for the tokens that a provider reported; None when it reported none."""
        if usage is None:
            return None
        asked, said, cached = usage.get("input_tokens"), usage.get("output_tokens"), usage.get("cached_input_tokens") or 0
        if asked is None or said is None or (cached and self.cached_input is None and self.input):
            return None
        millionths: float = (asked - cached) * self.input + cached * (self.cached_input or 0.0) + said * self.output
        return round(millionths * (self.batch if batch else 1.0) / 1e6, 12)


FREE = Price(0.0, 0.0, 0.0)


class Answer(Protocol):
    """What is read of a reply."""

    error: dict[str, Any] | None
    usage: dict[str, int] | None
    cost: float | None
    batch: bool


class Asked(Protocol):
    """What is read of a request."""

    @property
    def params(self) -> Mapping[str, Any]:
        """The generation parameters."""


@functools.cache
def table() -> dict[str, Any]:
    """The price table."""
    return cast(dict[str, Any], json.loads(PATH.read_text(encoding="utf-8")))


def given(value: Any) -> dict[str, float] | None:
    """The ``price=`` of a model, checked: dollars per million tokens of ``input`` and ``output``, and of ``cached_input`` if it differs."""
    if value is None:
        return None
    names = ("input", "output", "cached_input")
    numbers = isinstance(value, Mapping) and all(type(number) in (int, float) and 0 <= number < math.inf for number in value.values())
    if not numbers or not {"input", "output"} <= {*value} <= {*names}:
        raise ArgumentError(f"price is {value!r}", 'dollars per million tokens: price={"input": 0.15, "output": 0.6}')
    return {name: float(value[name]) for name in names if name in value}


def known(model: Any) -> Price | None:
    """The price of a model (or of what its identity says); None where it is not known."""
    own = getattr(model, "price", None)
    listed = _listed(model)
    if own is None:
        return listed
    price = Price(own["input"], own["output"], own.get("cached_input", own["input"]))
    return replace(price, max_output=listed.max_output) if listed else price


def cost(model: Any, usage: Mapping[str, Any] | None, batch: bool = False) -> float | None:
    """Dollars for ``usage`` of a model (or of what its identity says)."""
    price = known(model)
    return None if price is None else price.cost(usage, batch)


def pricer(model: Any) -> Callable[[Answer, Asked], float | None]:
    """A function that gives the dollars for a reply: what was stored with it, else by the price that holds now.

    A request that was refused without any usage costs nothing.
    """
    price = known(model)
    own = getattr(model, "price", None) is not None
    checked: Mapping[str, Any] | None = None
    listed = True

    def dollars(reply: Answer, request: Asked) -> float | None:
        nonlocal checked, listed
        if reply.cost is not None:
            return reply.cost
        if reply.usage is None:
            return 0.0 if reply.error is not None or price is FREE else None
        if price is None:
            return None
        if request.params is not checked:  # nearly all requests of a step share them
            checked = request.params
            listed = own or price is FREE or on_request(checked) is None
        return price.cost(reply.usage, reply.batch) if listed else None

    return dollars


def shown(dollars: float) -> str:
    """An amount as a person writes it: in cents, or with two digits that count."""
    if dollars == 0 or dollars >= 0.1:
        return f"${dollars:,.2f}"
    text = f"${dollars:.{1 - math.floor(math.log10(dollars))}f}"
    return text[:-1] if text.endswith("0") and len(text) > len("$0.00") else text


def on_request(params: Mapping[str, Any]) -> str | None:
    """The parameter for which the list price does not hold, if there is one."""
    for name, value in {**params, **(params.get("extra") or {})}.items():
        if name in ON_REQUEST and value and value not in STANDARD:
            return str(name)
    return None


def _listed(model: Any) -> Price | None:
    identity = model if isinstance(model, Mapping) else model.identity
    provider = identity.get("provider")
    if provider in LOCAL:
        return FREE
    entry = table()["providers"].get(provider)
    address = identity.get("base_url") or getattr(model, "base_url", None)
    if entry is None or not address or urlsplit(str(address)).hostname != entry["host"]:
        return None
    name = str(identity.get("model") or getattr(model, "model_name", ""))
    found = entry["models"].get(name) or entry["models"].get(_SNAPSHOT.sub("", name))
    return None if found is None else Price(**found, batch=entry["batch"])
