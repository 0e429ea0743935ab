"""``%%filter``: the rows of ``--from`` for which a model says yes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError
from nbdream.magics.generate import ARGUMENTS, HERE
from nbdream.magics.grammar import Call, Magic, Option
from nbdream.magics.options import COLUMN, FROM, MODEL, RUNNING, SAMPLING, given, needs, positive, rows_of, with_variables

if TYPE_CHECKING:
    from nbdream.magics.notebook import Notebook, Plan

MAGIC = Magic(
    name="filter",
    summary="Keep the rows for which a model answers yes. The body is a question about a row: a template, or an instruction.",
    options=(
        FROM,
        MODEL,
        COLUMN,
        Option(name="system", help="the system prompt"),
        Option(name="with", kind="names", help="notebook variables that the template may use: style,tone"),
        *SAMPLING,
        *RUNNING,
    ),
)


def plan(notebook: Notebook, call: Call) -> Plan:
    """Read the names of the cell now; the step is constructed where it does not block the notebook."""
    positive(call, "limit", "concurrency")
    if not call.body.strip():
        raise ArgumentError("%%filter needs a question", "write it below the first line: Is the article about sports? Yes or No.")
    source = notebook.data(needs(call, "from", "%%filter NAME --from ROWS -m MODEL"), "--from")
    origin = notebook.dataflow.of(call.options["from"])
    args: dict[str, Any] = {"llm": notebook.model(call.get("model")), "template": call.body}
    args |= {ARGUMENTS.get(name, name): value for name, value in call.options.items() if name not in HERE}
    if "with" in call.options:
        args["variables"] = with_variables(notebook, call.options["with"])

    def make() -> Any:
        from nbdream.steps import Filter

        return Filter(call.name, inputs={"rows": rows_of(source, call.name, origin)}, args=args, **given(call, "background"))

    return make
