"""The values that a model's arguments may have: what is plainly wrong is told before a call is paid for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbdream.errors import ArgumentError, nearest

NUMBERS: dict[str, tuple[float, float | None]] = {
    "frequency_penalty": (-2, 2),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "repetition_penalty": (0, None),
    "temperature": (0, None),
    "top_p": (0, 1),
}
"""The least and the most that a number may be."""
COUNTS = frozenset({"max_completion_tokens", "max_concurrency", "max_new_tokens", "max_tokens"})
TEXTS = frozenset({"chat_prompt_template", "effort", "reasoning_effort", "revision", "service_tier", "system_prompt", "verbosity"})
MAPPINGS = {
    "extra": "extra={name: value}",
    "logit_bias": "logit_bias={name: value}",
    "response_format": 'response_format={"type": "json_object"}',
    "thinking": 'thinking={"type": "adaptive"}',
}
DTYPES = ("auto", "bfloat16", "float16", "float32", "float64", "half")


def checked(name: str, value: Any) -> Any:
    """``value`` as it is; `ArgumentError` where the argument ``name`` can never take it. None stands for the default."""
    if value is None:
        return None
    if name in NUMBERS:
        _check_number(name, value, *NUMBERS[name])
    elif name in COUNTS and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ArgumentError(f"{name} is {value!r}", "it is a whole number: 1 or more; leave it out for the default")
    elif name in TEXTS and not isinstance(value, str):
        raise ArgumentError(f"{name} is {value!r}, not a text", f'put it in quotes: "{value}"')
    elif name == "chat_prompt_template" and "messages" not in value and "{{prompt}}" not in value.replace(" ", ""):
        raise ArgumentError("chat_prompt_template has no place for the prompt", "write {{prompt}} where it belongs")
    elif name == "stop" and not _is_text_or_texts(value):
        raise ArgumentError(f"stop is {value!r}", 'it is a text or a list of texts: stop=["\\n"]')
    elif name in MAPPINGS and not isinstance(value, Mapping):
        raise ArgumentError(f"{name} is {value!r}", f"it is a mapping of names to values: {MAPPINGS[name]}")
    elif name == "dtype" and value not in DTYPES and not value.startswith("float8"):
        raise ArgumentError(f"there is no dtype {value!r}", nearest(value, DTYPES, "it is"))
    return value


def _check_number(name: str, value: Any, least: float, most: float | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentError(f"{name} is {value!r}, not a number", f"{name}={max(least, 0.7) if most is None else most:g}")
    if value < least or (most is not None and value > most):
        raise ArgumentError(f"{name} is {value:g}", f"it is at least {least:g}" if most is None else f"it is {least:g} to {most:g}")


def _is_text_or_texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value))
