"""The source of a function, found from its code object, and a canonical walk over syntax trees.

The walk sees neither positions, comments and layout nor docstrings, and gives the same on every Python from 3.11 on: it leaves out
empty fields (new versions add fields, empty where they are not used) and evens out how f-strings are parsed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import linecache
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

NOT_COUNTED = ("ctx", "kind", "type_comment", "type_ignores")
"""Fields that say nothing of their own: what they hold follows from the place, or is a way of writing."""


@dataclass(frozen=True)
class Source:
    """A function's node in its file, and its text."""

    node: FunctionNode
    text: str


def tree_digest(node: ast.AST) -> str:
    """The sha256 of the canonical walk over ``node``. Of a function counts what it does: not its name, decorators and defaults."""
    if isinstance(node, FunctionNode):
        form: Any = [type(node).__name__, ["arguments", *_fields(node.args, ("defaults", "kw_defaults"))]]
        form += _fields(node, ("name", "decorator_list", "args"))
    else:
        form = _tree(node)
    return hashlib.sha256(json.dumps(form, separators=(",", ":")).encode()).hexdigest()


def _tree(value: Any) -> Any:
    if isinstance(value, ast.Constant):
        return ["Constant", type(value.value).__name__, repr(value.value)]
    if isinstance(value, ast.JoinedStr):
        return _joined(value)
    if isinstance(value, ast.AST):
        return [type(value).__name__, *_fields(value)]
    if isinstance(value, list):
        return ["*", *map(_tree, _statements(value))]
    return [type(value).__name__, repr(value)]


def _fields(node: ast.AST, without: tuple[str, ...] = ()) -> list[Any]:
    """The fields of ``node`` that hold something, by name."""
    fields = ((name, value) for name, value in ast.iter_fields(node) if name not in NOT_COUNTED and name not in without)
    found = [[name, _tree(value)] for name, value in fields if value is not None and value != []]
    if isinstance(node, ast.FormattedValue):  # an empty format is no format
        found = [field for field in found if field != ["format_spec", ["JoinedStr"]]]
    return sorted(found, key=lambda field: str(field[0]))


def _statements(values: list[Any]) -> list[Any]:
    """``values`` without the statements that are only a text: docstrings, and comments written as texts."""
    if not values or not isinstance(values[0], ast.stmt):
        return values
    return [value for value in values if not _is_text(value)] or [ast.Pass()]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _joined(node: ast.JoinedStr) -> Any:
    """An f-string with neighbouring texts made one: Python's versions cut them differently."""
    parts: list[Any] = []
    text = ""
    for part in node.values:
        if isinstance(part, ast.Constant):
            text += str(part.value)
            continue
        if text:
            parts.append(["Constant", "str", repr(text)])
        parts.append(_tree(part))
        text = ""
    if text and not parts:
        return ["Constant", "str", repr(text)]
    return ["JoinedStr", *parts, *([["Constant", "str", repr(text)]] if text else [])]


def find(code: CodeType, module_globals: dict[str, Any]) -> Source | None:
    """The source that ``code`` was compiled from; None where there is none, or it is no longer the one that runs."""
    name = code.co_filename
    linecache.checkcache(name)
    text = "".join(linecache.getlines(name, module_globals))
    file = _file(name, text) if text else None
    if file is None:
        return None
    nodes = [node for node in file.functions.get(code.co_firstlineno, ()) if _name(node) == code.co_name]
    if code.co_name == "<lambda>":
        nodes = _told_apart(nodes, code)
    if not nodes or len({tree_digest(node) for node in nodes}) > 1:
        return None
    entry: Any = linecache.cache.get(name)
    from_disk = entry is not None and entry[1] is not None
    if from_disk and not _is_rewritten(code) and not file.holds(code):
        return None
    segment = ast.get_source_segment(text, nodes[0], padded=True) or ""
    return Source(nodes[0], textwrap.dedent(segment).strip())


def module_tree(path: str) -> ast.Module | None:
    """The syntax tree of a file, None when it cannot be read as Python."""
    linecache.checkcache(path)
    file = _file(path, "".join(linecache.getlines(path)))
    return file.tree if file else None


def nested(code: CodeType) -> Iterator[CodeType]:
    """``code`` and all code inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def bytecode_digest(code: CodeType) -> str:
    """The sha256 of what ``code`` does, for code without source: holds on one version of Python only."""
    return hashlib.sha256(repr(_instructions(code)).encode()).hexdigest()


def _instructions(code: CodeType) -> Any:
    constants = [_instructions(c) if isinstance(c, CodeType) else (type(c).__name__, _constant(c)) for c in code.co_consts]
    signature = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags, code.co_varnames)
    return (code.co_code, code.co_names, code.co_freevars, code.co_cellvars, signature, constants, code.co_exceptiontable)


def _constant(value: object) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


class _File:
    """A parsed file, and, when somebody asks, the code that it compiles to."""

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name = name
        self.tree = tree
        self.functions: dict[int, list[FunctionNode]] = {}
        for node in ast.walk(tree):
            if isinstance(node, FunctionNode):
                first = [d.lineno for d in getattr(node, "decorator_list", ())]
                self.functions.setdefault(min([node.lineno, *first]), []).append(node)

    @functools.cached_property
    def _compiled(self) -> dict[tuple[str, int], list[CodeType]]:
        codes: dict[tuple[str, int], list[CodeType]] = {}
        for code in nested(compile(self.tree, self.name, "exec", dont_inherit=True)):
            codes.setdefault((code.co_name, code.co_firstlineno), []).append(code)
        return codes

    def holds(self, code: CodeType) -> bool:
        """Whether the file as it is now compiles to ``code``: not when it was edited after the import."""
        same = self._compiled.get((code.co_name, code.co_firstlineno), ())
        return any(_instructions(found) == _instructions(code) for found in same)


@functools.lru_cache(maxsize=64)
def _file(name: str, text: str) -> _File | None:
    try:
        return _File(name, ast.parse(text))
    except (SyntaxError, ValueError, RecursionError):
        return None


def _name(node: FunctionNode) -> str:
    return "<lambda>" if isinstance(node, ast.Lambda) else node.name


def _is_rewritten(code: CodeType) -> bool:
    """Whether pytest put its own words into the function's asserts."""
    return any(name.startswith("@py") for part in nested(code) for name in (*part.co_names, *part.co_varnames))


def _told_apart(nodes: list[FunctionNode], code: CodeType) -> list[FunctionNode]:
    """Of lambdas on one line, the innermost whose body holds every instruction of ``code``."""
    inside = []
    for node in nodes:
        assert isinstance(node, ast.Lambda)
        start, end = (node.body.lineno, node.body.col_offset), (node.body.end_lineno, node.body.end_col_offset)
        if all(start <= first and last <= end for first, last in _positions(code)) and _takes(node, code):
            inside.append((end[0] or 0, end[1] or 0, [-number for number in start], node))
    if not any(True for _ in _positions(code)):
        return [found[3] for found in inside]
    return [min(inside, key=lambda found: found[:2])[3]] if inside else []


def _positions(code: CodeType) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where the instructions of ``code`` begin and end, those left out that stand for no text."""
    for line, end_line, column, end_column in code.co_positions():
        if line is not None and end_line is not None and column is not None and end_column is not None and end_column > column:
            yield (line, column), (end_line, end_column)


def _takes(node: ast.Lambda, code: CodeType) -> bool:
    names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]) == names
