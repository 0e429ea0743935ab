"""`Annotation`: a question put to people about the rows of a result; what they decided, whenever it is used, is a result too."""

from __future__ import annotations

import getpass
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbdream import context
from nbdream.annotations import Decision, Decisions
from nbdream.datasets import OutputDataset, OutputDatasetColumn
from nbdream.errors import ArgumentError
from nbdream.lineage import now
from nbdream.steps.annotating import Annotate
from nbdream.steps.handle import StepHandle
from nbdream.steps.question import ACCEPT, EDIT, Question, Tally, keys_of

if TYPE_CHECKING:
    from nbdream.objects import ResultFolder

NOBODY = "annotator"
"""Who decides where nobody is logged in by a name."""


class Annotation(StepHandle):
    """Rows that people decide on: shown in a notebook, with a key for each decision.

    ``column``, ``rate`` or ``prefer`` is the question: see `Annotate`. ``by`` is who decides here (by default the login name); each person
    has decisions of their own. Every use (``output``, ``len``, ``--from NAME``) is a snapshot of what was decided so far.
    """

    def __init__(
        self,
        name: str,
        rows: Any,
        column: str | None = None,
        rate: int | None = None,
        prefer: Sequence[str] | None = None,
        instruction: str = "",
        by: str | None = None,
    ) -> None:
        runner = context.current()
        self._cell = getattr(runner, "cell", None)
        self._args: dict[str, Any] = {"column": column, "rate": rate, "prefer": prefer, "instruction": instruction.strip() or None}
        self._busy = threading.RLock()
        self.name = name
        self.who = _person(by)
        self._rows = rows
        self._made = self._snapshot()
        self.runner = self._made.runner
        self.name = self._made.name
        self.rows: OutputDataset = self._made.rows
        """The rows that are decided on."""
        self._rows = self.rows
        self.question: Question = self._made.question
        self.keys = keys_of(self.rows, self.question.columns)
        self._decisions = Decisions(Path(self.runner.folder), self._made.tally.mark["id"])

    # --- deciding ---------------------------------------------------------------------------------------------------

    @property
    def instruction(self) -> str:
        """What people are told."""
        return str(self._args["instruction"] or "")

    @property
    def id(self) -> str:
        """Under which the decisions are kept in the session."""
        return self._decisions.id

    @property
    def tally(self) -> Tally:
        """What was decided so far, by everybody."""
        self._decisions.refresh()
        return Tally(self.question, self.keys, self._decisions)

    def mine(self) -> dict[str, Decision]:
        """What ``who`` decided so far, by the rows' keys."""
        return self._decisions.of(self.who)

    def decide(self, row: int, do: str, value: Any = None) -> None:
        """Put a decision about a row on disk: accept, edit (with the text), reject; rate (a number); choose (a column), tie."""
        if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < len(self.keys):
            raise ArgumentError(f"there is no row {row!r}", f"the rows are 0 to {len(self.keys) - 1:,}")
        if isinstance(value, str):
            value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # no file holds half a character
        self.question.check(self.rows, do, value)
        if do == EDIT and [value] == self.rows.column(str(self.question.column)).values([row]):
            do, value = ACCEPT, None
        self._decisions.add(self.who, self.keys[row], do, value, now())

    def undo(self) -> int | None:
        """Take back the last decision of ``who``; the row that it was about, or None where there is none."""
        key = self._decisions.undo(self.who, now(), set(self.keys))
        return None if key is None else self.keys.index(key)

    def annotate(self) -> Annotating:
        """Decide, in a notebook that is alive: a key for each decision."""
        return Annotating(self)

    # --- what it is as a result ---------------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Annotate:
        """What was decided so far, as a step; the last one, when nothing was decided since."""
        with self._busy:
            self._decisions.refresh()
            if self._made.preview or self._made.tally.mark != self._decisions.mark():
                self._made = self._snapshot()
            return self._made

    def _snapshot(self) -> Annotate:
        args = {name: value for name, value in self._args.items() if value is not None}
        with context.using(_Place(context.current(), self._cell)):
            return Annotate(self.name, inputs={"rows": self._rows}, args=args)

    @property
    def output(self) -> OutputDataset:
        """The rows that were kept, with what was made of them."""
        return self.snapshot.output

    @property
    def failures(self) -> OutputDataset:
        """No row: people cannot fail."""
        return self.snapshot.failures

    @property
    def key(self) -> str:  # type: ignore[override]
        """The folder of the snapshot below ``objects/``."""
        return self.snapshot.key

    @property
    def node(self) -> dict[str, Any]:  # type: ignore[override]
        """How the snapshot was made."""
        return self.snapshot.node

    @property
    def use_id(self) -> str:  # type: ignore[override]
        """The place in the graph of the snapshot that was taken last."""
        return self._made.use_id

    @property
    def inputs(self) -> Mapping[str, OutputDataset | OutputDatasetColumn]:  # type: ignore[override]
        """The rows that are decided on."""
        return self._made.inputs

    @property
    def folder(self) -> ResultFolder:
        """The snapshot's folder."""
        return self.snapshot.folder

    def __repr__(self) -> str:
        return f"Annotation({self.name!r}, {self.tally.line()})"


@dataclass(frozen=True, slots=True)
class Annotating:
    """What ``NAME.annotate()`` gives: it shows itself in a notebook, and takes decisions."""

    annotation: Annotation


class _Place:
    """The session as a snapshot sees it: wherever it is used, it stands under its own name, in the cell that asked the question."""

    def __init__(self, runner: Any, cell: dict[str, Any] | None) -> None:
        self._runner, self._cell = runner, cell

    def announce(self, step: Any) -> None:
        """Let the snapshot into the session."""
        name, step.runner = step.name, self._runner
        self._runner.announce(step)
        step.name, step.cell = name, self._cell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def _person(by: str | None) -> str:
    """Who decides: as given, or by the login name."""
    if by is not None:
        if not isinstance(by, str) or not by.strip() or len(by) > 100:
            raise ArgumentError(f"by is {by!r}", "it is the name of who decides")
        return by.strip()
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return NOBODY
