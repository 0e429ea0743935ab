"""``%%generate``: rows made by a model, from nothing or from the rows of ``--from``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError
from nbdream.magics.grammar import Call, Magic, Option
from nbdream.magics.options import COLUMN, FROM, MODEL, RUNNING, SAMPLING, given, positive, rows_of, with_variables

if TYPE_CHECKING:
    from nbdream.magics.notebook import Notebook, Plan

MAGIC = Magic(
    name="generate",
    summary="Ask a model once per row of --from, or -n times. The body is a template over the columns, or an instruction.",
    options=(
        FROM,
        MODEL,
        Option(name="n", kind="integer", help="how many rows to make without --from"),
        Option(name="as", help="the name of the new column (default: the result's name)"),
        COLUMN,
        Option(name="system", help="the system prompt"),
        Option(name="draws", kind="integer", help="ask this often per row (a column draw)"),
        Option(name="list", kind="flag", help="with --draws: one list column instead of rows"),
        Option(
            name="schema", kind="schema", help="a pydantic class, list[Class], or a JSON schema: the fields of an answer become columns"
        ),
        Option(name="with", kind="names", help="notebook variables that the template may use: style,tone"),
        Option(name="drop_null", kind="flag", help="leave out rows in which a column of the template is empty"),
        *SAMPLING,
        *RUNNING,
    ),
)

ARGUMENTS = {"as": "column", "column": "about", "list": "as_list", "max_tokens": "max_new_tokens"}
"""Options whose argument of the step has another name."""
HERE = {"from", "model", "with", "background", "force"}
"""Options that are no argument of the step."""


def plan(notebook: Notebook, call: Call) -> Plan:
    """Read the names of the cell now; the step is constructed where it does not block the notebook."""
    positive(call, "n", "draws", "limit", "concurrency")
    if not call.body.strip():
        raise ArgumentError("%%generate needs a prompt", "write it below the first line")
    if "from" in call.options and "n" in call.options:
        raise ArgumentError("--from and -n are both given", "rows come from one of them; --draws asks several times per row")
    source = notebook.data(call.options["from"], "--from") if "from" in call.options else None
    origin = notebook.dataflow.of(call.get("from", ""))
    llm = notebook.model(call.get("model"))
    args: dict[str, Any] = {"llm": llm, "template": call.body, "column": call.name}
    args |= {ARGUMENTS.get(name, name): value for name, value in call.options.items() if name not in HERE}
    if "schema" in call.options:
        given_schema = call.options["schema"]
        args["schema"] = notebook.value(given_schema, "--schema") if isinstance(given_schema, str) else given_schema
    if "with" in call.options:
        args["variables"] = with_variables(notebook, call.options["with"])

    def make() -> Any:
        from nbdream.steps import Generate

        inputs = {} if source is None else {"rows": rows_of(source, call.name, origin)}
        return Generate(call.name, inputs=inputs, args=args, **given(call, "background"))

    return make
