"""Forms of code: functions, methods, classes and modules, with the values that they capture.

What the user wrote counts by its syntax tree and, recursively, by the values that it closes over and the globals that it reads.
What is installed counts by name and version; the standard library and nbdream itself by name.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import dis
import enum
import functools
import importlib.metadata
import inspect
import os
import sys
import sysconfig
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nbdream import source
from nbdream.errors import FingerprintError

if TYPE_CHECKING:
    from nbdream.fingerprint import Walk

Found = dict[str, Any] | None

UNDEFINED = {"$": "undefined"}

BY_NAME = frozenset({"get_ipython", "display", "exit", "quit"})
"""Globals of a notebook that are the notebook's own."""

NO_MEMBERS = frozenset((
    "__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__", "__annotations__",
    "__annotate__", "__annotate_func__", "__annotations_cache__", "__classcell__", "__classdictcell__", "__abstractmethods__",
    "_abc_impl", "__parameters__", "__orig_bases__", "__type_params__", "__match_args__", "__dataclass_fields__", "__dataclass_params__",
    "__attrs_attrs__", "__attrs_props__", "__protocol_attrs__", "__callable_proto_members_only__", "__non_callable_proto_members__",
    "_is_protocol", "_is_runtime_protocol", "__subclasshook__", "__hash__", "_fields", "_field_defaults", "__slots__", "__signature__",
    "model_config", "model_fields", "model_computed_fields",
))  # fmt: skip
"""What Python or a library puts into a class's dictionary: it follows from what is counted."""

GENERATED = frozenset((
    "__init__", "__repr__", "__eq__", "__hash__", "__lt__", "__le__", "__gt__", "__ge__", "__setattr__", "__delattr__", "__replace__",
    "__new__", "_make", "_replace", "_asdict", "__getnewargs__", "__getstate__", "__setstate__", "__ne__", "__attrs_init__",
))  # fmt: skip
"""Methods that ``dataclass``, ``namedtuple`` and ``attrs`` write."""


def form(value: Any, walk: Walk) -> Found:
    """The form of ``value`` if it is code."""
    for kinds, known in _KINDS:
        if isinstance(value, kinds):
            return cast("Found", known(value, walk))
    origin = typing.get_origin(value)
    if origin is not None:
        origin = typing.Union if origin is types.UnionType else origin
        return {"$": "generic", "origin": walk.part("", origin), "args": [walk.part("", arg) for arg in typing.get_args(value)]}
    if type(value).__module__ == "typing":
        return {"$": "typing", "name": str(value).removeprefix("typing.")}
    return None


def type_form(kind: type, walk: Walk) -> Any:
    """The class of an object: the code of the user's, the name of any other."""
    return walk.part("", kind) if owner_of_module(kind.__module__) == "user" else f"{kind.__module__}.{kind.__qualname__}"


def owner_of_file(path: str) -> str:
    """Whose code a file is: ``python``, ``nbdream``, ``installed`` or ``user``."""
    if path.startswith("<frozen "):
        return "python"
    if path.startswith(_HERE):
        return "nbdream"
    if "/site-packages/" in path or "/dist-packages/" in path:
        return "installed"
    return "python" if path.startswith(_STDLIB) else "user"


def owner_of_module(name: str | None) -> str:
    """Whose code a module is, by its name."""
    top = (name or "").partition(".")[0]
    if top == "__main__" or not top:
        return "user"
    if top in sys.stdlib_module_names:
        return "python"
    path = getattr(sys.modules.get(name or ""), "__file__", None)
    return owner_of_file(path) if path else "user"


_HERE = str(Path(__file__).resolve().parent) + os.sep
_STDLIB = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})


def named(name: str, module: str | None) -> dict[str, str]:
    """The name of installed code, and the version of its package."""
    top = (module or "").partition(".")[0]
    version = _version(top) if owner_of_module(module) == "installed" else None
    return {"name": name, "package": top, "version": version} if version else {"name": name}


@functools.lru_cache(maxsize=256)
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pass
    said = getattr(sys.modules.get(package), "__version__", None)
    if isinstance(said, str):
        return said
    distributions = importlib.metadata.packages_distributions().get(package)
    return importlib.metadata.version(distributions[0]) if distributions else None


def _function(function: types.FunctionType, walk: Walk) -> Found:
    if owner_of_file(function.__code__.co_filename) == "user":
        return cast("Found", walk.once(function, lambda: _own_function(function, walk)))
    module = function.__globals__.get("__name__")
    known: dict[str, Any] = {"$": "function", **named(f"{module}.{function.__code__.co_qualname}", module)}
    if not function.__closure__:
        return known
    return cast("Found", walk.once(function, lambda: known | _wrapped(function, walk)))


def _wrapped(function: types.FunctionType, walk: Walk) -> dict[str, Any]:
    """What an installed decorator's function captures: all of it, or, where that cannot be told, the function it wraps."""
    try:
        return {"closure": {name: walk.capture(f".{name}", value) for name, value in _closure(function)}}
    except FingerprintError:
        if not hasattr(function, "__wrapped__"):
            raise
        return {"wrapped": walk.part("", function.__wrapped__)}


def _own_function(function: types.FunctionType, walk: Walk) -> dict[str, Any]:
    found = source.find(function.__code__, function.__globals__)
    form: dict[str, Any] = {"$": "function"}
    if found is None:
        form |= {"bytecode": source.bytecode_digest(function.__code__), "python": f"{sys.version_info[0]}.{sys.version_info[1]}"}
    else:
        form["ast"] = source.tree_digest(found.node)
    parts = {
        "defaults": {name: walk.capture(f"({name}=)", value) for name, value in _defaults(function)},
        "closure": {name: walk.capture(f".{name}", value) for name, value in _closure(function)},
        "globals": {name: _global(name, value, walk) for name, value in _globals(function, found)},
    }
    form |= {name: part for name, part in parts.items() if part}
    return form | {"$shown": {"name": function.__name__, "source": found.text if found else None}}


def _defaults(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    code, values = function.__code__, function.__defaults__ or ()
    yield from zip(code.co_varnames[code.co_argcount - len(values) : code.co_argcount], values, strict=True)
    yield from sorted((function.__kwdefaults__ or {}).items())


class _Missing:
    """Stands for a variable that has no value yet."""


def _closure(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in sorted(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True), key=lambda pair: pair[0]):
        try:
            yield name, cell.cell_contents
        except ValueError:
            yield name, _Missing


_GLOBAL_READS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")


def _globals(function: types.FunctionType, found: source.Source | None) -> Iterator[tuple[str, Any]]:
    """The globals that a function reads, by name; of the user's modules only what is used of them."""
    codes = source.nested(function.__code__)
    names = {str(step.argval) for code in codes for step in dis.get_instructions(code) if step.opname in _GLOBAL_READS}
    for name in sorted(names):
        value = function.__globals__.get(name, _Missing)
        if value is _Missing and hasattr(builtins, name):
            continue
        if isinstance(value, types.ModuleType) and found is not None:
            yield from _of_module(value, name, found.node)
        else:
            yield name, value


def _global(name: str, value: Any, walk: Walk) -> Any:
    if name in BY_NAME:
        return {"$": "notebook"}
    return dict(UNDEFINED) if value is _Missing else walk.capture(f".{name}", value)


def _of_module(module: types.ModuleType, name: str, node: ast.AST) -> Iterator[tuple[str, Any]]:
    """``module`` itself when it is installed or used whole, else the things that ``node`` takes from it."""
    if owner_of_module(module.__name__) != "user":
        yield name, module
        return
    used: dict[str, set[str]] = {}
    within = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == name:
            used.setdefault(part.attr, set())
            within.add(id(part.value))
    if any(isinstance(part, ast.Name) and part.id == name and id(part) not in within for part in ast.walk(node)):
        yield name, module
        return
    for attribute in sorted(used):
        value = getattr(module, attribute, _Missing)
        yield f"{name}.{attribute}", value


def _method(method: types.MethodType, walk: Walk) -> Found:
    own = walk.part("", method.__self__)
    return {"$": "method", "function": walk.part(f".{method.__name__}", method.__func__), "self": own}


def _builtin(value: Any, walk: Walk) -> Found:
    owner = getattr(value, "__self__", None)
    if owner is None or isinstance(owner, types.ModuleType):
        module = getattr(value, "__module__", None) or getattr(getattr(value, "__objclass__", None), "__module__", "builtins")
        return {"$": "builtin", **named(f"{module}.{value.__qualname__}", module)}
    return {"$": "builtin", "name": value.__name__, "self": walk.part("", owner)}


def _cached(value: Any, walk: Walk) -> Found:
    return {"$": "cached", "function": walk.part("", value.__wrapped__)}


def _static(value: staticmethod[Any, Any] | classmethod[Any, Any, Any], walk: Walk) -> Found:
    return {"$": type(value).__name__, "function": walk.part("", value.__func__)}


def _property(value: property, walk: Walk) -> Found:
    return {"$": "property", **{name: walk.part("", getattr(value, f"f{name}")) for name in ("get", "set", "del")}}


def _cached_property(value: functools.cached_property[Any], walk: Walk) -> Found:
    return {"$": "property", "get": walk.part("", value.func)}


def _module(module: types.ModuleType, walk: Walk) -> Found:
    if owner_of_module(module.__name__) != "user":
        return {"$": "module", **named(module.__name__, module.__name__)}
    tree = source.module_tree(getattr(module, "__file__", None) or "")
    if tree is None:
        raise walk.refuse(module, "it has no source")
    return {"$": "module", "ast": source.tree_digest(tree), "$shown": {"name": module.__name__}}


def _class(cls: type, walk: Walk) -> Found:
    if owner_of_module(cls.__module__) != "user":
        return {"$": "class", **named(f"{cls.__module__}.{cls.__qualname__}", cls.__module__)}
    return class_form(cls, walk)


def class_form(cls: type, walk: Walk) -> dict[str, Any]:
    """The form of a class that the user wrote: its bases and what its body defined."""
    found: dict[str, Any] = walk.once(cls, lambda: _own_class(cls, walk))
    return found


def _own_class(cls: type, walk: Walk) -> dict[str, Any]:
    bases = [walk.part("", base) for base in cls.__bases__ if base is not object]
    members = {name: walk.capture(f".{name}", value) for name, value in _members(cls)}
    annotations = {name: _annotation(value) for name, value in _annotations(cls).items()}
    parts = {"bases": bases, "members": members, "annotations": annotations}
    return {"$": "class", "name": cls.__name__, **{name: part for name, part in parts.items() if part}}


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """What a class's body defined, by name."""
    if issubclass(cls, enum.Enum):
        yield from sorted((name, member.value) for name, member in cls.__members__.items())
    fields = cls.__dict__.get("__dataclass_fields__", {})
    is_generated = bool(fields) or hasattr(cls, "_field_defaults") or hasattr(cls, "__attrs_attrs__")
    for name in sorted(cls.__dict__):
        value = cls.__dict__[name]
        plain = getattr(value, "__func__", value)
        if name in NO_MEMBERS or name.startswith("__pydantic") or isinstance(value, _DESCRIPTORS):
            continue
        if is_generated and name in GENERATED and not _is_written(plain):
            continue
        if issubclass(cls, enum.Enum) and (name in cls.__members__ or not _is_written(plain)):
            continue
        yield name, value
    for name, field in sorted(fields.items()):
        if field.default_factory is not dataclasses.MISSING:
            yield f"{name}=", field.default_factory
    if hasattr(cls, "_field_defaults"):
        yield "_fields", [list(cls._fields), dict(cls._field_defaults)]  # type: ignore[attr-defined]


def _is_written(value: object) -> bool:
    """Whether ``value`` is a function that the user wrote, not one that a library made."""
    value = value.fget if isinstance(value, property) else value
    path = value.__code__.co_filename if isinstance(value, types.FunctionType) else "<string>"
    return owner_of_file(path) == "user" and path != "<string>" and not path.startswith("<attrs")


def _annotations(cls: type) -> dict[str, Any]:
    try:
        return inspect.get_annotations(cls)
    except NameError:  # an annotation that names what does not exist yet
        return {}


def _annotation(value: object) -> str:
    return value.__name__ if isinstance(value, type) and typing.get_origin(value) is None else str(value).replace("typing.", "")


_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, type(vars(dis.Positions)["lineno"]))

_KINDS: tuple[tuple[Any, Any], ...] = (
    (types.FunctionType, _function),
    (types.MethodType, _method),
    (type, _class),
    (types.ModuleType, _module),
    ((types.BuiltinFunctionType, types.WrapperDescriptorType, types.MethodWrapperType, types.MethodDescriptorType), _builtin),
    (types.ClassMethodDescriptorType, _builtin),
    (functools._lru_cache_wrapper, _cached),
    ((staticmethod, classmethod), _static),
    (property, _property),
    (functools.cached_property, _cached_property),
)
