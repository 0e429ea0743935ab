"""What the installed training libraries take, read from their source: importing them would load torch into the kernel."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbdream.errors import ArgumentError, MissingPackageError, nearest

ARGUMENTS = ("transformers", "training_args.py", "TrainingArguments")
OPTIMIZERS = ("transformers", "training_args.py", "OptimizerNames")
SCHEDULES = ("transformers", "trainer_utils.py", "SchedulerType")
LORA = ("peft", "tuners/lora/config.py", "LoraConfig")
ADAPTER = ("peft", "config.py", "PeftConfig")
QUANTIZATION = ("transformers", "utils/quantization_config.py", "BitsAndBytesConfig")
INTERVALS = ("transformers", "trainer_utils.py", "IntervalStrategy")
SAVING = ("transformers", "trainer_utils.py", "SaveStrategy")

KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "a text"),
}


@functools.cache
def fields(package: str, file: str, name: str) -> Mapping[str, str]:
    """The annotated fields of a class of an installed package: name → annotation."""
    body = _class(package, file, name).body
    return {
        item.target.id: ast.unparse(item.annotation)
        for item in body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


@functools.cache
def members(package: str, file: str, name: str) -> tuple[str, ...]:
    """The values of an enumeration of an installed package."""
    body = _class(package, file, name).body
    return tuple(str(item.value.value) for item in body if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant))


@functools.cache
def parameters(package: str, file: str, name: str) -> frozenset[str]:
    """What the constructor of a class of an installed package takes by name."""
    made = next(item for item in _class(package, file, name).body if isinstance(item, ast.FunctionDef) and item.name == "__init__")
    return frozenset(argument.arg for argument in (*made.args.args, *made.args.kwonlyargs)) - {"self"}


@functools.cache
def models(task: str) -> frozenset[str]:
    """The kinds of models (``model_type``) that the installed transformers has for a task, as ``CAUSAL_LM``."""
    tables = {
        node.targets[0].id: node.value
        for node in _tree("transformers", "models/auto/modeling_auto.py").body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Call)
    }
    table = tables[f"MODEL_FOR_{task}_MAPPING_NAMES"]
    return frozenset(kind for kind, _ in ast.literal_eval(table.args[0]))


def _class(package: str, file: str, name: str) -> ast.ClassDef:
    for node in ast.walk(_tree(package, file)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise MissingPackageError(f"this {package} has no {name}", "pip install -U 'nbdream[train]'")


@functools.lru_cache(maxsize=4)
def _tree(package: str, file: str) -> ast.Module:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(f"{package} is not installed", "pip install 'nbdream[train]'")
    source = Path(next(iter(spec.submodule_search_locations))) / file
    return ast.parse(source.read_text(encoding="utf-8"))


def check_kinds(given: Mapping[str, Any], annotations: Mapping[str, str]) -> None:
    """Raise `ArgumentError` for a value that is plainly not of its field's type; what a field's type leaves open is let through."""
    for name, value in given.items():
        kinds, shown = KINDS.get(annotations.get(name, "").removesuffix(" | None"), ((object,), ""))
        wrong_bool = isinstance(value, bool) and bool not in kinds and object not in kinds
        if value is not None and (wrong_bool or not isinstance(value, kinds)):
            said = repr(value) if isinstance(value, (str, int, float, list, dict)) else f"a {type(value).__name__}"
            raise ArgumentError(f"{name} is {said}, not {shown}", f"for example {name}: {EXAMPLES[shown]}")


EXAMPLES = {"true or false": "true", "a whole number": "10", "a number": "0.1", "a text": "text"}


def check_member(name: str, value: Any, where: tuple[str, str, str]) -> None:
    """Raise `ArgumentError` unless ``value`` is one of an enumeration's."""
    known = members(*where)
    if str(getattr(value, "value", value)) not in known:
        raise ArgumentError(f"{name} cannot be {value!r}", nearest(str(value), known, "it is"))


def check_lora(given: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` for a setting that LoRA does not have, or whose value is plainly of another type."""
    if str(given.get("peft_type", "LORA")).rpartition(".")[2].upper() != "LORA":
        return
    known = {**fields(*ADAPTER), **fields(*LORA)}
    for name in given:
        if name not in known:
            raise ArgumentError(f"lora has no setting {name!r}", nearest(str(name), known, "its settings are"))
    check_kinds(given, known)
    if given.get("r", 1) < 1:
        raise ArgumentError(f"lora has r: {given['r']}", "it is 1 or more, for example lora: {r: 8}")
