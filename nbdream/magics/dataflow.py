"""What plain Python in between has made of which results: so that a frame filtered in a cell of its own still has an origin.

Read from the cells' syntax, statement by statement: what a statement assigns comes from what it reads. Nothing is executed for it.
"""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nbdream.magics.names import is_handle, is_trained

Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Origin:
    """The results that a value was computed from, by their place in the graph, and the cells that did it, by their id."""

    results: Mapping[str, Any] = field(default_factory=dict)
    cells: Mapping[str, Cell] = field(default_factory=dict)

    def joined(self, other: Origin) -> Origin:
        """Both together."""
        return Origin({**self.results, **other.results}, {**self.cells, **other.cells})


NOTHING = Origin()


class Dataflow:
    """The origins of a notebook's variables."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._variables = variables
        self._origins: dict[str, Origin] = {}

    def ran(self, source: str, cell: Cell) -> None:
        """Take in a cell of plain Python that has run; text that is no Python is none of our business."""
        try:
            statements = ast.parse(source).body
        except (SyntaxError, ValueError, RecursionError):
            return
        for statement in statements:
            read, assigned, changed = names_of(statement)
            origin = self._of(read)
            made = origin.joined(Origin({}, {str(cell.get("id")): cell})) if origin.results else NOTHING
            for name in assigned:
                self._set(name, made)
            for name in changed:
                if made.results:
                    self._set(name, self._origins.get(name, NOTHING).joined(made))

    def of(self, expression: str) -> Origin:
        """Where the value of an expression comes from."""
        try:
            (statement,) = ast.parse(expression.strip()).body
        except (SyntaxError, ValueError, RecursionError):
            return NOTHING
        return self._of(names_of(statement)[0])

    def _of(self, names: Iterable[str]) -> Origin:
        found = NOTHING
        for name in names:
            value: Any = self._variables.get(name)
            if is_handle(value) or is_trained(value):
                place = value if is_handle(value) else value.step
                found = found.joined(Origin({place.use_id: place}))
            else:
                found = found.joined(self._origins.get(name, NOTHING))
        return found

    def _set(self, name: str, origin: Origin) -> None:
        if origin.results:
            self._origins[name] = origin
        else:
            self._origins.pop(name, None)


def names_of(statement: ast.stmt) -> tuple[set[str], set[str], set[str]]:
    """The notebook's variables that a statement reads, assigns, and changes in place."""
    read, assigned = set(), set()
    tables = [symtable.symtable(ast.unparse(statement), "<cell>", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if table.get_type() != "module" and not symbol.is_global():
                continue
            if symbol.is_referenced():
                read.add(symbol.get_name())
            if symbol.is_assigned() or symbol.is_namespace():
                assigned.add(symbol.get_name())
    read |= {node.target.id for node in ast.walk(statement) if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)}
    return read, assigned, set(_changed(statement))


def _changed(statement: ast.stmt) -> Iterator[str]:
    """The variables of which a part is assigned, or a method is called for its effect."""
    for node in ast.walk(statement):
        part: ast.expr | None = None
        if isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            part = node.value
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
            part = node.value.func.value
        while isinstance(part, (ast.Subscript, ast.Attribute)):
            part = part.value
        if isinstance(part, ast.Name):
            yield part.id
