"""``%%map``: new columns from a Python expression over ``row``."""

from __future__ import annotations

import ast
import functools
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError, ColumnError, DataError, NbDreamError, nearest
from nbdream.magics.grammar import Call, Magic
from nbdream.magics.options import BACKGROUND, FORCE, FROM, LIMIT, given, needs, positive, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbdream.magics.notebook import Notebook, Plan

MAGIC = Magic(
    name="map",
    summary="New columns for every row: the body is Python whose last line is a dict, with the row's columns as row.NAME.",
    options=(FROM, LIMIT, BACKGROUND, FORCE),
    body="expression",
)


OURS = str(Path(__file__).parents[1])
"""The folder of nbdream's own code."""


class RowView(dict[str, Any]):
    """A row whose columns are attributes, too: ``row.haiku``, ``row["My text"]``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the row has no column {name!r}; it has {', '.join(self)}") from None


def plan(notebook: Notebook, call: Call) -> Plan:
    """Compile the body now; the rows are mapped where it does not block the notebook."""
    positive(call, "limit")
    source = notebook.data(needs(call, "from", "%%map NAME --from ROWS"), "--from")
    origin = notebook.dataflow.of(call.options["from"])
    function, columns = cell_function(notebook, call.body)

    def make() -> Any:
        rows = rows_of(source, call.name, origin)
        if not hasattr(rows, "map"):  # the output of a step, rather than the step
            rows = rows.step
        if "limit" in call.options:
            rows = rows.take(call.options["limit"], name=f"{call.name} (first rows)")
        read = columns_of(rows.column_names, columns)
        try:
            return rows.map(functools.partial(on_row, function, read), name=call.name, input_columns=read, **given(call, "background"))
        except NbDreamError:
            raise
        except Exception as error:
            raise of_the_body(error) from error

    return make


def of_the_body(error: Exception) -> DataError:
    """What the body raised, as one line: the error, the row, and the innermost line of code that is not ours."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(OURS)]
    said = " ".join(f"{type(error).__name__}: {error}".split())
    at = f"at: {str(frames[-1].line).removeprefix('return ')}" if frames and frames[-1].line else "look at its body"
    return DataError(", ".join([said, *getattr(error, "__notes__", [])]), at)


def columns_of(there: list[str], read: set[str] | None) -> list[str] | None:
    """The columns to hand over, in order, or None for whole rows; `ColumnError` for one that is not there."""
    if not read or any(name not in there and hasattr(dict, name) for name in read):  # row.items() reads them all
        return None
    for name in read:
        if name not in there:
            raise ColumnError(f"the rows have no column {name!r}", nearest(name, there, "their columns are"))
    return [name for name in there if name in read]


def on_row(function: Callable[[Any], Any], names: list[str] | None, *values: Any) -> Any:
    """Call ``function`` with a row: of the columns ``names``, or of what is a row already."""
    return function(RowView(zip(names, values, strict=True)) if names else RowView(values[0]))


def cell_function(notebook: Notebook, body: str) -> tuple[Callable[[Any], Any], set[str] | None]:
    """The body as a function of ``row`` in the notebook's namespace, and the columns that it reads (None: maybe all)."""
    tree = _parsed(body)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        raise ArgumentError("the last line of %%map is no expression", 'end with the new columns: {"score": len(row.text)}')
    statements = ast.unparse(ast.Module(body=[*tree.body[:-1], ast.Return(value=last.value)], type_ignores=[]))
    indented = "\n".join(f"    {line}" for line in statements.splitlines())
    source = f"def columns(row):\n{indented}\n"
    # IPython's cache lets `inspect` find the source again, which is what the fingerprint reads.
    filename = notebook.shell.compile.cache(source, notebook.shell.execution_count)
    made: dict[str, Any] = {}
    exec(compile(source, filename, "exec"), notebook.variables, made)  # noqa: S102 - the user's own code, in the user's own kernel
    return made["columns"], columns_read(tree)


def _parsed(body: str) -> ast.Module:
    try:
        tree = ast.parse(body.strip("\n"))
        compile(tree, "<%%map>", "exec")  # what only the compiler refuses: an await, a return
        return tree
    except SyntaxError as error:
        line = f": {error.text.strip()}" if error.text else ""
        raise ArgumentError(f"the body of %%map is not Python: {error.msg}{line}", 'for example {"score": len(row.text)}') from None


def columns_read(tree: ast.AST) -> set[str] | None:
    """The columns that code reads of ``row``, or None when ``row`` is used in any other way."""
    found: set[str] = set()
    seen = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_row(node.value) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
            seen += 1
        elif (
            isinstance(node, ast.Subscript)
            and _is_row(node.value)
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
        ):
            found.add(node.slice.value)
            seen += 1
    used = sum(1 for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "row")
    return found if used == seen else None


def _is_row(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "row"
