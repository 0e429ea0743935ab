"""``%%annotate``: people accept, edit, rate or choose, with a key for each decision; what they decided is rows like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbdream.magics.grammar import Call, Magic, Option
from nbdream.magics.options import FORCE, FROM, given, needs, rows_of

if TYPE_CHECKING:
    from nbdream.magics.notebook import Notebook, Plan

MAGIC = Magic(
    name="annotate",
    summary="Decide on every row with the keyboard: accept, edit or reject a column, give a rating, or choose between two columns. "
    "The body, which may be empty, is the instruction that is shown. The result has the rows that were kept.",
    options=(
        FROM,
        Option(name="column", help="the column to accept, edit or reject (default: the last one); the result has it as `reviewed`"),
        Option(name="rate", kind="integer", help="rate each row from 1 to this number, at most 9; the result has `rating`"),
        Option(name="prefer", kind="pair", help="choose between two columns, whose sides change; the result has `chosen` and `rejected`"),
        Option(name="by", help="who decides (default: the login name); each person has decisions of their own"),
        FORCE,
    ),
    body="text",
)


def plan(notebook: Notebook, call: Call) -> Plan:
    """Read the names of the cell now; the rows are made ready where it does not block the notebook."""
    source = notebook.data(needs(call, "from", "%%annotate NAME --from ROWS"), "--from")
    origin = notebook.dataflow.of(call.options["from"])

    def make() -> Any:
        from nbdream.steps import Annotation

        rows = rows_of(source, call.name, origin)
        return Annotation(call.name, rows, instruction=call.body, **given(call, "column", "rate", "prefer", "by"))

    return make
