"""Language models: one file a provider, loaded when it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError, ModelError, nearest
from nbdream.optional import lazily

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbdream.llms.anthropic import Anthropic
    from nbdream.llms.base import LLM
    from nbdream.llms.echo import EchoLLM
    from nbdream.llms.hf_transformers import HFTransformers
    from nbdream.llms.openai import OpenAI

__all__ = ["LLM", "PROVIDERS", "Anthropic", "EchoLLM", "HFTransformers", "OpenAI", "resolve_llm"]

_HOMES = {
    "LLM": "nbdream.llms.base",
    "OpenAI": "nbdream.llms.openai",
    "Anthropic": "nbdream.llms.anthropic",
    "EchoLLM": "nbdream.llms.echo",
    "HFTransformers": "nbdream.llms.hf_transformers",
}

PROVIDERS = {"openai": "OpenAI", "anthropic": "Anthropic", "echo": "EchoLLM", "hf": "HFTransformers"}
"""The provider in ``provider/model``, and its class: a further provider is a file and a line here."""

DEMO = "demo"
NO_KEY = f"-m {DEMO} is a tiny model that needs no key"

__getattr__, __dir__ = lazily(__name__, _HOMES)


def resolve_llm(spec: str, **params: Any) -> LLM:
    """The model that ``spec`` names: ``provider/model``, or ``demo``, the one in the box.

    ``params`` go to the class: ``base_url``, ``system_prompt`` …, and generation parameters for every call.
    """
    provider, slash, model = spec.strip().partition("/")
    if provider == DEMO and not slash:
        return _make(importlib.import_module("nbdream.llms.hf_transformers").demo, spec, params)
    if provider in PROVIDERS and model:
        if "model_name" in params:
            raise ArgumentError(f"{spec!r} names the model already", "leave model_name= out")
        return _make(__getattr__(PROVIDERS[provider]), spec, {"model_name": model, **params})
    if provider in PROVIDERS:
        raise ModelError(f"{spec!r} names no model", f"a model is provider/model, for example {provider}/{_EXAMPLES[provider]}; {NO_KEY}")
    known = [*PROVIDERS, DEMO]
    hint = nearest(provider, known, "the providers are") if slash else _hint_for_bare(spec, known)
    raise ModelError(f"there is no model {spec!r}", f"{hint}; {NO_KEY}")


_EXAMPLES = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5", "echo": "echo", "hf": "google/flan-t5-small"}


def _hint_for_bare(spec: str, known: list[str]) -> str:
    if spec.startswith(("gpt-", "o1", "o3", "o4", "chatgpt-")):
        return f"did you mean 'openai/{spec}'?"
    if spec.startswith("claude-"):
        return f"did you mean 'anthropic/{spec}'?"
    close = nearest(spec, known, "")
    return close if close.startswith("did you") else "a model is provider/model, for example openai/gpt-4o-mini"


def _make(make: Callable[..., LLM], spec: str, params: dict[str, Any]) -> LLM:
    try:
        return make(**params)
    except TypeError as error:  # a keyword that the class does not know
        raise ArgumentError(f"{spec}: {error}", "see its --help for what it takes") from error
