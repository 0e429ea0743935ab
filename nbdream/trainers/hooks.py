"""Code of the notebook that takes part in a training run: callbacks, metrics, collators. It travels as source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nbdream import secrets
from nbdream.errors import ArgumentError
from nbdream.portable import module_source

CALLBACKS = "callbacks"
FUNCTIONS = ("compute_metrics", "data_collator", "preprocess_logits_for_metrics")
"""What else there is, where rows are measured and put together by themselves: under the library's own names."""
HOOKS = (CALLBACKS, *FUNCTIONS)


def taken(given: dict[str, Any], known: frozenset[str], *, measured: bool) -> dict[str, Any]:
    """Take the hooks out of the arguments ``given``; `ArgumentError` for what is none, or does nothing here.

    ``known``: the arguments of this ``train``; ``measured``: whether there are validation rows.
    """
    found = {name: given.pop(name) for name in HOOKS if name in known and given.get(name) is not None}
    for name in HOOKS:
        if name in known:
            given.pop(name, None)
    if CALLBACKS in found:
        found[CALLBACKS] = _callbacks(found[CALLBACKS])
    for name in FUNCTIONS:
        if name in found and not callable(found[name]):
            raise ArgumentError(f"{name} is a {type(found[name]).__name__}, not a function", "give a function of the notebook")
    if "compute_metrics" in found and not measured:
        raise ArgumentError("compute_metrics measures validation rows, and there are none", "give --eval, or validation_input and _output")
    if "preprocess_logits_for_metrics" in found and "compute_metrics" not in found:
        raise ArgumentError("preprocess_logits_for_metrics is for compute_metrics, which is not given", "give both")
    return found


def _callbacks(given: Any) -> list[Any]:
    several = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    for one in several:
        kind = one if isinstance(one, type) else type(one)
        if not any(base.__name__ == "TrainerCallback" for base in kind.__mro__):
            raise ArgumentError(
                f"callbacks holds a {kind.__name__}, not a callback", "write a class: class Watch(transformers.TrainerCallback)"
            )
    return several


def handed_over(hooks: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The source of a module with the hooks, and their names in it; None where there are none."""
    if not hooks:
        return None, {}
    names: dict[str, Any] = {name: name for name in FUNCTIONS if name in hooks}
    values = {name: hooks[name] for name in names}
    callbacks = {f"callback_{number}": callback for number, callback in enumerate(hooks.get(CALLBACKS, ()))}
    text = module_source({**values, **callbacks})
    if (key := secrets.found_in(text)) is not None:
        raise ArgumentError(f"the code for the training processes contains a credential ({key})", "leave it out: they get no keys")
    return text, {**names, **({CALLBACKS: list(callbacks)} if callbacks else {})}
