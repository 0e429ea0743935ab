"""A table made again from what its node says: data, template, stored replies. Only steps of our own run, and no model.

`Rebuilder` stands where the session does: a step that is constructed in it reads its inputs from the folder, gets replies from those
that are stored, and writes to a folder that is thrown away.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbdream import context
from nbdream.engine.keys import Draws
from nbdream.errors import NbDreamError, SessionError
from nbdream.hub.arguments import NeedsCodeError, arguments
from nbdream.llms.base import LLM, Reply, Request, failure
from nbdream.objects import ResultFolder
from nbdream.steps.saved import SavedStep
from nbdream.steps.writing import write

if TYPE_CHECKING:
    from nbdream.datasets import OutputDataset, OutputDatasetColumn
    from nbdream.engine.stream import Review
    from nbdream.steps.base import Step

AT_ONCE = 512
ASKING = ("DataFromPrompt", "Filter", "FilterWithPrompt", "Generate", "ProcessWithPrompt", "Prompt")
CHOOSING = (
    "AddItemStep", "ConcatStep", "CopyStep", "RemoveColumnsStep", "RenameColumnStep", "RenameColumnsStep", "ReverseStep", "SaveStep",
    "SelectColumnsStep", "SelectStep", "ShardStep", "ShuffleStep", "SkipStep", "SortStep", "SplitStep", "TakeStep", "ZippedStep",
)  # fmt: skip
"""Steps that move rows and columns."""
TEMPLATED = ("Filter", "Generate")
REBUILT = (*ASKING, *CHOOSING, "Annotate", "Evaluate")

Lookup = Callable[[list[str]], Mapping[str, Mapping[str, Any]]]


class MissingRepliesError(Exception):
    """Replies that a table is made of are not stored: how many, of how many."""

    def __init__(self, missing: int, asked: int) -> None:
        super().__init__(f"{missing:,} of {asked:,} replies are not stored")
        self.missing, self.asked = missing, asked


class OtherInputsError(Exception):
    """An input does not hold what a table says that it was made of."""


@dataclass(frozen=True)
class Rebuilt:
    """What came out: the digest of each column, as a node has them."""

    columns: Mapping[str, str]
    failed: Mapping[str, str]
    rows: int
    failures: int
    example: Callable[[str], Any]


class StoredReplies:
    """In the engine's place: gives the replies that are stored, and counts those that are not."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self.begin("")

    def begin(self, attempt: str) -> None:
        """Count anew, for a further step; ``attempt`` is which attempt at its recipe it is."""
        self._attempt = attempt
        self.asked = self.missing = 0
        self.used: set[str] = set()

    def stream(
        self, llm: LLM, requests: Iterable[Request], *, draws: int = 1, review: Review | None = None, **_: Any
    ) -> Generator[list[Reply], None, None]:
        """As `Engine.stream`."""
        numbered = Draws(llm.identity, draws, self._attempt)
        stream = iter(requests)
        while chunk := [(request, numbered.number(request)) for request in itertools.islice(stream, AT_ONCE)]:
            found = self._lookup([key for _, keys in chunk for key, _ in keys])
            for request, keys in chunk:
                yield [self._mended(replace(request, draw=draw), key, found, review, numbered) for key, draw in keys]

    def spending(self, *_: Any) -> None:
        """Nothing is spent."""

    def _mended(self, request: Request, key: str, found: Mapping[str, Any], review: Review | None, numbered: Draws) -> Reply:
        """The reply under ``key``, or the one that was asked for in its place."""
        earlier: tuple[Reply, ...] = ()
        for tries in itertools.count(1):
            reply = self._reply(key, found)
            reply.earlier = earlier
            follow = review(request, reply, tries) if review is not None and reply.error is None else None
            if follow is None:
                return reply
            earlier = (*earlier, replace(reply, earlier=()))
            request, key = follow, numbered.follow_up(follow)
            found = self._lookup([key])
        raise AssertionError

    def _reply(self, key: str, found: Mapping[str, Any]) -> Reply:
        self.asked += 1
        self.used.add(key)
        if key not in found:
            self.missing += 1
            return failure("row", "it is not stored")
        try:
            return Reply.from_json(found[key])
        except ValueError as error:
            raise SessionError(f"a stored reply is none: {error}", "import it from its archive again") from None


class Rebuilder:
    """Where steps are made again: the session's place in `nbdream.context`."""

    watched = False

    def __init__(self, folder: Path, lookup: Lookup) -> None:
        self.folder = Path(folder)
        self.replies = StoredReplies(lookup)
        self._key = ""
        self._inputs: Mapping[str, Any] = {}
        self._made: dict[str, Any] = {}

    @property
    def engine(self) -> Any:
        """Gives what is stored."""
        return self.replies

    def announce(self, step: Step) -> None:
        """Its name stays its own."""

    def emit(self, event: Mapping[str, Any]) -> None:
        """Nobody watches."""

    def publish(self, thing: Any, repo_id: str, **options: Any) -> str:
        """Nothing is published."""
        raise SessionError("nothing is published here")

    def run(self, step: Step) -> None:
        """Write what the step gives to a folder that is thrown away, if its inputs are what they were."""
        made = step.recipe_made["inputs"]
        for name in sorted({*made, *self._inputs}):
            if made.get(name) != self._inputs.get(name):
                raise OtherInputsError(f"its input {name!r} is not what it was made of")
        step.key = self._key
        self._made = write(step, ResultFolder(self._scratch))

    def rebuild(self, key: str, use: str) -> Rebuilt:
        """Make the result ``key`` again as it stands in ``use``.

        Raises `NeedsCodeError`, `MissingRepliesError`, `OtherInputsError`, or what is wrong with the records as an `NbDreamError`.
        """
        saved = SavedStep(self, key, use)
        form = saved.node["recipe"]
        kind = str(form.get("kind"))
        if "code" in form or kind not in REBUILT:
            raise NeedsCodeError(f"the step {kind}")
        place = saved.folder.use(use)
        args = arguments(kind, form["args"], place)
        for attempt in dict.fromkeys((str(saved.node.get("attempt", key.partition("-")[2])), "")):
            with tempfile.TemporaryDirectory(prefix="nbdream-verify-") as scratch, context.using(self):
                self._key, self._inputs, self._scratch = key, form["inputs"], Path(scratch)
                self.replies.begin(attempt)
                try:
                    self._construct(kind, saved, place, args)
                except NbDreamError:
                    if not self.replies.missing:
                        raise
                if not self.replies.missing:
                    return self._rebuilt()
        raise MissingRepliesError(self.replies.missing, self.replies.asked)

    def _construct(self, kind: str, saved: SavedStep, place: Mapping[str, Any], args: Mapping[str, Any]) -> None:
        from nbdream import steps

        make: type[Step] = getattr(steps, kind)
        inputs = inputs_of(kind, saved, place)
        outputs = {} if kind in (*TEMPLATED, *CHOOSING, "Annotate", "Evaluate") else place["outputs"]
        make(saved.name, inputs=inputs, args=args, outputs=outputs)

    def _rebuilt(self) -> Rebuilt:
        from nbdream.objects import StoredTable

        made = self._made
        folder = ResultFolder(self._scratch)
        tables = {name: StoredTable(folder.data).table.column(name) for name in made["columns"]}
        return Rebuilt(
            {name: entry["digest"] for name, entry in made["columns"].items()},
            {name: entry["digest"] for name, entry in made["failed_columns"].items()},
            made["rows"],
            made["failures"],
            lambda name: tables[name],
        )


def inputs_of(kind: str, saved: SavedStep, place: Mapping[str, Any]) -> dict[str, OutputDataset | OutputDatasetColumn]:
    """The inputs of a result as its step takes them."""
    given = {name: value for name, value in saved.inputs.items() if name in saved.node["recipe"]["inputs"]}
    if kind == "FilterWithPrompt":
        given.pop("rows", None)
    if kind in TEMPLATED and place["view"] is not None and "rows" in given:  # the step was given one column
        (name,) = place["view"]
        given["rows"] = given["rows"][name]
    return given
