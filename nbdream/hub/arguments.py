"""What a recipe says, as the arguments that its step takes: data as values, a model as one that is known by its replies alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nbdream.llms.base import LLM

PROVIDERS = {"Anthropic": "base_url", "OpenAI": "base_url", "EchoLLM": "", "HFTransformers": "", "Labeller": "", "TrainedModel": ""}
"""Classes of models whose parameters are known, with what of their identity decides them."""


class NeedsCodeError(Exception):
    """What made a table is code, which is not run; says which."""


def arguments(kind: str, form: Mapping[str, Any], place: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a recipe counts, as the step takes them; `NeedsCodeError` names those that are code."""
    if kind == "Annotate":  # the decisions are in the session
        return {name: plain(form[name], name) for name in ("column", "rate", "prefer") if name in form}
    if kind == "Evaluate":
        return evaluation(form)
    readers: dict[str, Callable[[Any], Any]] = {"llm": model, "schema": schema}
    args: dict[str, Any] = {name: readers[name](value) if name in readers else plain(value, name) for name, value in form.items()}
    if kind == "Generate":
        args["column"] = place["outputs"].get("generation", "generation")
    if kind == "SplitStep":
        sizes = args["sizes"]
        args |= {"sizes": {name: sizes[name] for name in SPLITS if name in sizes}, "stratify_by_column": args.get("stratify_by_column")}
    if kind == "SelectStep" and isinstance(args["indices"], dict):
        raise NeedsCodeError("the code that chose its rows")
    return args


SPLITS = ("train", "validation", "test")


def plain(form: Any, where: str) -> Any:
    """The value that a form stands for, where it is data."""
    if isinstance(form, list):
        return [plain(part, where) for part in form]
    if not isinstance(form, dict):
        return form
    tag = form.get("$")
    if tag is None:
        return {name: plain(part, where) for name, part in form.items()}
    if tag == "float":
        return float(form["value"])
    if tag == "int":
        return int(form["hex"], 16)
    if tag == "dict":
        return {plain(key, where): plain(part, where) for key, part in form["items"]}
    raise NeedsCodeError(code_name(form, where))


def code_name(form: Mapping[str, Any], where: str) -> str:
    """What a piece of code is called in a recipe."""
    name = (form.get("$shown") or {}).get("name") if isinstance(form.get("$shown"), dict) else None
    return f"{where} ({name})" if isinstance(name, str) and name != where else where


class StoredModel(LLM):
    """A model of which nothing is known but who it is: its parameters are those that a recipe says."""

    context_template: str | None = None

    def __init__(self, identity: Mapping[str, Any], system_prompt: str | None, like: LLM | None = None) -> None:
        self._like: LLM | None = None
        super().__init__("", system_prompt=system_prompt)
        self.__dict__["identity"] = dict(identity)
        self._like = like

    def parameters(self) -> frozenset[str]:
        """Those of its provider, where it is asked as such."""
        return super().parameters() if self._like is None else self._like.parameters()

    def settings(self, **given: Any) -> dict[str, Any]:
        """What is given, as it is; or as its provider takes it."""
        return {name: value for name, value in given.items() if value is not None} if self._like is None else self._like.settings(**given)


def evaluation(form: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an evaluation: what a model is asked depends on what its provider takes."""
    if coded := next((metric for metric in form["metrics"] if not isinstance(metric, str)), None):
        raise NeedsCodeError(f"the metric {next(iter(coded))}")
    if "perplexity" in form["metrics"]:
        raise NeedsCodeError("the models, which tell a perplexity")
    models = {str(name): model(said, asked=True) for name, said in form["models"]}
    for name, template in (form.get("context_template") or {}).items():
        models[name].context_template = str(template)
    judge = {"judge": model(form["judge"], asked=True)} if "judge" in form else {}
    told = {name: form[name] for name in ("limit", "seed", "temperature", "max_tokens") if name in form}
    return {**told, **judge, "models": models, "metrics": list(form["metrics"])}


def provider_of(form: Mapping[str, Any], identity: Mapping[str, Any]) -> LLM:
    """A model of the provider that a recipe names, of which only its parameters are asked."""
    from nbdream import llms
    from nbdream.llms.labeller import Labeller

    kind, defaults = str(form.get("type")), form["value"].get("defaults") or {}
    if kind not in PROVIDERS:
        raise NeedsCodeError(f"the model {kind}")
    if PROVIDERS[kind]:
        if not isinstance(identity.get("base_url"), str):
            raise NeedsCodeError("the model, whose address is not known")
        made: LLM = getattr(llms, kind)(str(identity.get("model")), base_url=identity["base_url"])
    else:
        made = object.__new__(Labeller if kind == "Labeller" else llms.EchoLLM if kind == "EchoLLM" else llms.HFTransformers)
    made.defaults = defaults
    return made


def model(form: Any, asked: bool = False) -> StoredModel:
    """The model that a recipe names; ``asked``: with what its provider makes of parameters."""
    said = form.get("value") if isinstance(form, dict) and form.get("$") == "object" else form
    identity = said.get("identity") if isinstance(said, dict) else None
    system = said.get("system_prompt") if isinstance(said, dict) else None
    if not isinstance(identity, dict) or not (system is None or isinstance(system, str)):
        raise NeedsCodeError("the model")
    return StoredModel(untagged(identity), system, provider_of(form, identity) if asked else None)


def untagged(form: Any) -> Any:
    """An identity as its call keys have it: code in it counts as its form."""
    if isinstance(form, dict) and form.get("$") == "float" and not math.isfinite(float(form["value"])):
        raise NeedsCodeError("the model")
    return form


def schema(form: Any) -> Any:
    """The JSON schema of structured answers, its fields in their order. A class may check more than its schema says."""
    if not isinstance(form, dict) or not isinstance(form.get("schema"), dict):
        raise NeedsCodeError("schema")
    found = plain(form["schema"], "schema")
    if not all(reference.startswith("#") for reference in _references(found)):
        raise NeedsCodeError("a schema that is fetched from elsewhere")
    for properties in _properties(found):
        order = form.get("order") or []
        if set(order) == set(properties):
            ordered = {name: properties[name] for name in order}
            properties.clear()
            properties.update(ordered)
    return found


def _references(found: Any) -> Iterator[str]:
    parts = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    if isinstance(found, dict):
        yield from (str(found[name]) for name in ("$ref", "$dynamicRef", "$recursiveRef") if name in found)
    for part in parts:
        yield from _references(part)


def _properties(found: Any) -> Iterable[dict[str, Any]]:
    if isinstance(found, dict):
        if isinstance(found.get("properties"), dict):
            yield found["properties"]
        for part in found.values():
            yield from _properties(part)
    elif isinstance(found, list):
        for part in found:
            yield from _properties(part)
