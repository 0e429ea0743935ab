"""`Annotate`: what people decided about rows, as a step: the rows that they kept, with what they made of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbdream.annotations import Decisions
from nbdream.steps.base import Step
from nbdream.steps.question import MADE, PREFER, Question, Tally, keys_of
from nbdream.steps.rows import Row

if TYPE_CHECKING:
    from nbdream.datasets import OutputDataset

CREATORS = "annotations_creators"
EXPERTS = "expert-generated"
"""What the Hub calls annotations of people whom the author of the data knows, and did not recruit from a crowd."""


class Annotate(Step):
    """The decisions of people about each row as they are now; rows that they rejected, or that are undecided, are left out.

    ``column``: they accept, edit or reject it (by default the last column), which gives ``reviewed``. ``rate``: they give a rating from 1
    to it, ``rating``. ``prefer``: they choose between two columns, which gives ``chosen`` and ``rejected``.
    """

    carries = "rows"

    def setup(self) -> None:
        """The rows, all of whose columns are shown, and one of three questions."""
        self.register_input("rows")
        self.register_arg("column", required=False, help="the column that people accept, edit or reject: by default the last one")
        self.register_arg("rate", required=False, help="the highest rating")
        self.register_arg("prefer", required=False, help="two columns between which people choose")
        self.register_arg("instruction", required=False, help="what people are told")

    @property
    def rows(self) -> OutputDataset:
        """The rows that are decided on."""
        return self.inputs["rows"]  # type: ignore[return-value]

    def validate(self) -> None:
        """There is one question, and it can be asked of these rows; what was decided so far is read."""
        self.question = Question.of(self.rows, self.args["column"], self.args["rate"], self.args["prefer"])
        decisions = Decisions(Path(self.runner.folder), self.question.id(self.name))
        self.tally = Tally(self.question, keys_of(self.rows, self.question.columns), decisions)
        for name in MADE[self.question.mode]:
            self.register_output(name)

    def recipe_args(self) -> dict[str, Any]:
        """The question, and the decisions that count."""
        return {"question": self.question.mode, **self.question.recipe, "decisions": self.tally.recipe}

    def view(self) -> dict[str, str] | None:
        """All columns but the two that were chosen from: what was chosen holds their texts."""
        left_out = self.question.pair if self.question.mode == PREFER else ()
        return {name: name for name in self.rows.column_names if name not in left_out}

    def use(self) -> dict[str, Any]:
        """The place in the graph, with a mark of what was decided: more decisions make it stale."""
        return {**super().use(), "annotations": self.tally.mark}

    def run(self) -> Iterator[Row]:
        """The rows that were kept."""
        start = 0
        for batch in self.rows.iter_batches(self.question.columns):
            for number, row in enumerate(batch.to_pylist(), start):
                vote = self.tally.decided(self.tally.keys[number])
                made = None if vote is None else self.question.values(vote, row)
                if made is not None:
                    yield Row(made, number)
            start += batch.num_rows
        self._tell()

    def _tell(self) -> None:
        """What a card says: who people are is nobody's business."""
        tally = self.tally
        self.register_data_card(CREATORS, EXPERTS)
        self.register_data_card("Annotators", f"{len(tally.people):,}")
        self.register_data_card("Annotated", tally.days)
        self.register_data_card("Decisions", tally.line())
        if tally.agreement is not None:
            self.register_data_card("Agreement", str(tally.agreement))
        if self.args["instruction"]:
            self.register_data_card("Annotation Instruction", self.args["instruction"])
