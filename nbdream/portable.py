"""Functions and classes of a notebook as the source of a module, for a process that has none of the notebook.

What a function or class reads goes with it: other functions and classes, plain values, imports. Nothing is pickled: who gets the
source sees what would run. That it does the same is checked before it leaves: the module is executed, and what it defines must have
the fingerprints of what the notebook holds.
"""

from __future__ import annotations

import ast
import functools
import linecache
import math
import symtable
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

from nbdream import source
from nbdream.code import BY_NAME, owner_of_file, owner_of_module
from nbdream.errors import ArgumentError
from nbdream.fingerprint import digest

MODULE = "notebook_code"
"""What the module is called where it is executed."""

HINT = "give a function, a class, or an object that holds numbers, texts, lists and dicts"


def module_source(values: Mapping[str, Any]) -> str:
    """The source of a module in which each of the names stands for its value.

    Raises `ArgumentError` for what cannot travel: a value that is neither code nor plain, code without source.
    """
    writer = _Writer()
    for name, value in values.items():
        writer.bind(name, value, name)
    text = "\n\n".join([*dict.fromkeys(writer.imports), *writer.definitions]) + "\n"
    _check(text, values)
    return text


def load(text: str, file_name: str) -> types.ModuleType:
    """Execute what `module_source` wrote, as ``file_name`` in tracebacks."""
    module = types.ModuleType(MODULE)
    linecache.cache[file_name] = (len(text), None, text.splitlines(keepends=True), file_name)
    sys.modules[module.__name__] = module  # where dataclasses and type hints look names up
    exec(compile(text, file_name, "exec"), module.__dict__)  # noqa: S102 - the kernel's own code, which it hands over itself
    return module


def _check(text: str, values: Mapping[str, Any]) -> None:
    before = sys.modules.get(MODULE)
    try:
        module = load(text, "<notebook code>")
        for name, value in values.items():
            if digest(getattr(module, name)) != digest(value):
                raise ArgumentError(f"{name} does something else outside of the notebook", "define it in one cell, with what it uses")
    finally:
        if before is None:
            sys.modules.pop(MODULE, None)
        else:
            sys.modules[MODULE] = before


class _Writer:
    """Collects a module's imports and definitions, each after those that it needs."""

    def __init__(self) -> None:
        self.imports: list[str] = []
        self.definitions: list[str] = []
        self._bound: dict[str, Any] = {}

    def bind(self, name: str, value: Any, where: str) -> None:
        """Have ``name`` stand for ``value``; ``where`` says in messages what needs it."""
        if name in self._bound:
            if self._bound[name] is not value and digest(self._bound[name]) != digest(value):
                raise ArgumentError(f"{where} and what it uses call two different things {name!r}", "rename one of them")
            return
        self._bound[name] = value
        if isinstance(value, types.ModuleType):
            self._import_module(name, value)
        elif isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)) and not _of_the_notebook(value):
            self._import_member(name, value, where)
        elif isinstance(value, (type, types.FunctionType)):
            own = value.__name__
            if own != name and _namespace(value).get(own) is value:  # it may call itself, or be called, by its own name
                self.bind(own, value, where)
                self.definitions.append(f"{name} = {own}")
            elif isinstance(value, type):
                self._class(name, value, where)
            else:
                self._function(name, value, where)
        else:
            self.definitions.append(f"{name} = {self._expression(name, value, where)}")

    def _import_module(self, name: str, module: types.ModuleType) -> None:
        self.imports.append(f"import {module.__name__}" + ("" if module.__name__ == name else f" as {name}"))

    def _import_member(self, name: str, value: Any, where: str) -> None:
        module, qualified = getattr(value, "__module__", None), value.__qualname__
        if not module or "<" in qualified:
            raise ArgumentError(f"{where} uses {name}, which cannot be imported where it is trained", "write it without the decorator")
        first, _, rest = qualified.partition(".")
        if rest:
            self.imports += [f"import {module}"]
            self.definitions.append(f"{name} = {module}.{qualified}")
        else:
            self.imports.append(f"from {module} import {first}" + ("" if first == name else f" as {name}"))

    def _function(self, name: str, function: types.FunctionType, where: str) -> None:
        found = source.find(function.__code__, function.__globals__)
        if found is None:
            raise ArgumentError(f"the source of {name} is not at hand", "define it in a cell or in a file beside the notebook")
        node = _copy(found.node)
        defaults = _without_defaults(node.args)
        if isinstance(node, ast.Lambda):
            node = ast.Assign([ast.Name(name, ast.Store())], node)
        elif node.decorator_list:
            raise ArgumentError(f"{name} has a decorator", "write it without")
        else:
            node.name, node.returns = name, None
        captured = {read: value for read, value in _closure(function).items() if value is not function}
        text = self._captured(name, node, captured, where) if captured else ast.unparse(ast.fix_missing_locations(node))
        self._needs(text, function.__globals__, name, where)
        self.definitions.append(text)
        if defaults:
            self._defaults(name, function, where)

    def _captured(self, name: str, node: ast.stmt, captured: Mapping[str, Any], where: str) -> str:
        """A definition within a function that has what is captured: another may capture other things by the same names."""
        given = [ast.parse(self._expression(read, value, where), mode="eval").body for read, value in captured.items()]
        returned = ast.Return(ast.Name(name, ast.Load()))
        maker = ast.parse(f"def _make_{name}({', '.join(captured)}): pass").body[0]
        assert isinstance(maker, ast.FunctionDef)
        maker.body = [node, returned]
        made = ast.Assign([ast.Name(name, ast.Store())], ast.Call(ast.Name(maker.name, ast.Load()), given, []))
        return ast.unparse(ast.fix_missing_locations(ast.Module([maker, made], [])))

    def _defaults(self, name: str, function: types.FunctionType, where: str) -> None:
        """Give a function the defaults that it has, which its text may have computed from anything."""
        if function.__defaults__:
            self.definitions.append(f"{name}.__defaults__ = {self._expression(name, function.__defaults__, where)}")
        if function.__kwdefaults__:
            self.definitions.append(f"{name}.__kwdefaults__ = {self._expression(name, function.__kwdefaults__, where)}")

    def _class(self, name: str, cls: type, where: str) -> None:
        node = _class_node(cls)
        if node is None:
            raise ArgumentError(f"the source of {name} is not at hand", "define it in a cell or in a file beside the notebook")
        node.name = name
        text = ast.unparse(node)
        methods = [value for value in map(_plain_function, vars(cls).values()) if value is not None]
        closures: dict[str, Any] = {}
        for method in methods:
            closures |= _closure(method)
        closures.pop("__class__", None)
        self._needs(text, {**_namespace(cls), **closures}, name, where)
        self.definitions.append(text)

    def _needs(self, text: str, namespace: Mapping[str, Any], name: str, where: str) -> None:
        """Bind the globals that a definition reads."""
        for read in _reads(text, name):
            if read in BY_NAME:
                raise ArgumentError(f"{where} uses {read}, which there is in a notebook only", "leave it out")
            if read in namespace and read != name:
                self.bind(read, namespace[read], f"{where}: {name}" if where != name else name)
            elif read == name and namespace.get(read) is not self._bound[name] and read in namespace:
                raise ArgumentError(f"{name} reads another {name!r}", "rename one of them")

    def _expression(self, name: str, value: Any, where: str) -> str:
        """``value`` as an expression."""
        if value is None or type(value) in (bool, int, str, bytes):
            return repr(value)
        if type(value) is float:
            return repr(value) if math.isfinite(value) else f"float({str(value)!r})"
        if type(value) in (list, tuple, set, frozenset):
            parts = ", ".join(self._expression(name, part, where) for part in value)
            return f"{type(value).__name__}([{parts}])"
        if type(value) is dict:
            return (
                "{"
                + ", ".join(f"{self._expression(name, key, where)}: {self._expression(name, part, where)}" for key, part in value.items())
                + "}"
            )
        if isinstance(value, functools.partial):
            self.bind("functools", functools, where)
            given = [self._reference(name, value.func, where), *(self._expression(name, part, where) for part in value.args)]
            given += [f"{key}={self._expression(name, part, where)}" for key, part in value.keywords.items()]
            return f"functools.partial({', '.join(given)})"
        if isinstance(value, (type, types.FunctionType, types.ModuleType, types.BuiltinFunctionType)):
            return self._reference(name, value, where)
        return self._object(name, value, where)

    def _reference(self, name: str, value: Any, where: str) -> str:
        """A name that stands for ``value``."""
        called = getattr(value, "__name__", "").replace(".", "_")
        called = called if called.isidentifier() else f"{name}_function"
        if called == name:
            called = f"_{called}"
        self.bind(called, value, where)
        return called

    def _object(self, name: str, value: Any, where: str) -> str:
        """An object of a class: the class, and what the object holds."""
        kind = type(value)
        own = {"__new__", "__slots__", "__getstate__", "__reduce__"}  # its state is, or may be, more than its ``__dict__``
        beside = any(own & vars(base).keys() for base in kind.__mro__[:-1])
        if beside or not hasattr(value, "__dict__"):
            raise ArgumentError(f"{where} uses {name}, a {kind.__name__}, which cannot be handed to another process", HINT)
        self.bind("with_state", with_state, where)
        return f"with_state({self._reference(name, kind, where)}, {self._expression(name, dict(vars(value)), where)})"


def with_state(kind: type, state: dict[str, Any]) -> Any:
    """An object of ``kind`` that holds ``state``."""
    made: Any = object.__new__(kind)
    made.__dict__.update(state)
    return made


def _of_the_notebook(value: Any) -> bool:
    """Whether code was defined in the notebook; what lies in a file is imported from there."""
    if getattr(value, "__module__", None) in sys.builtin_module_names or isinstance(value, types.BuiltinFunctionType):
        return False
    if isinstance(value, types.FunctionType) and owner_of_file(value.__code__.co_filename) != "user":
        return False
    module = sys.modules.get(value.__module__ or "")
    return owner_of_module(value.__module__) == "user" and (value.__module__ == "__main__" or getattr(module, "__file__", None) is None)


def _namespace(value: Any) -> Mapping[str, Any]:
    """The globals that a function or the methods of a class read."""
    if isinstance(value, types.FunctionType):
        return value.__globals__
    methods = (_plain_function(member) for member in vars(value).values())
    found = next((method.__globals__ for method in methods if method is not None), None)
    return found if found is not None else vars(sys.modules[value.__module__])


def _copy(node: source.FunctionNode) -> Any:
    return ast.parse(ast.unparse(node)).body[0] if not isinstance(node, ast.Lambda) else ast.parse(ast.unparse(node), mode="eval").body


def _without_defaults(args: ast.arguments) -> bool:
    """Leave out what would be evaluated where the function is defined: annotations, and the values of defaults; whether there are any."""
    there = bool(args.defaults or any(args.kw_defaults))
    args.defaults = [ast.Constant(None) for _ in args.defaults]
    args.kw_defaults = [default and ast.Constant(None) for default in args.kw_defaults]
    for arg in [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]:
        if arg is not None:
            arg.annotation = None
    return there


def _closure(function: types.FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue  # not defined yet
    return found


def _plain_function(value: Any) -> types.FunctionType | None:
    """The function behind a member of a class."""
    value = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
    if not isinstance(value, types.FunctionType) or value.__code__.co_filename.startswith(("<string>", "<attrs")):  # a library made it
        return None
    return value if owner_of_file(value.__code__.co_filename) == "user" else None


def _class_node(cls: type) -> ast.ClassDef | None:
    """The definition of a class: that which its methods were compiled from, or the last of its name where it has none."""
    methods = [
        value for value in map(_plain_function, vars(cls).values()) if value is not None and value.__qualname__.startswith(cls.__qualname__)
    ]
    files = list(dict.fromkeys(method.__code__.co_filename for method in methods)) or list(reversed(linecache.cache))
    for file in files:
        linecache.checkcache(file)
        try:
            tree = ast.parse("".join(linecache.getlines(file)))
        except (SyntaxError, ValueError):
            continue
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == cls.__name__]
        lines = [method.__code__.co_firstlineno for method in methods]
        fitting = [node for node in nodes if all(node.lineno <= line <= (node.end_lineno or 0) for line in lines)]
        if fitting:
            return fitting[-1]
    return None


def _reads(text: str, name: str) -> Iterator[str]:
    """The globals that a definition reads, by name, in order."""
    top = symtable.symtable(text, "<notebook code>", "exec")
    found: set[str] = set()
    tables = [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            free = symbol.is_global() or (table is top and symbol.is_referenced())
            if free and symbol.is_referenced():
                found.add(symbol.get_name())
    yield from sorted(found)
