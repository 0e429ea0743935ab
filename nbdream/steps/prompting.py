"""Steps that put a prompt to a model for each row. What is not given is not sent: a model's own defaults hold."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nbdream.datasets import OutputDataset, OutputDatasetColumn
from nbdream.errors import ArgumentError
from nbdream.fingerprint import function_code
from nbdream.steps.asking import Asking, Kept, yes_or_no
from nbdream.steps.rows import Failure, Row

if TYPE_CHECKING:
    from nbdream.engine.stream import Review
    from nbdream.llms.base import Reply, Request


class _Prompting(Asking):
    """Prompts from one input column, and a generation for each."""

    asks_about = "inputs"

    def setup(self) -> None:
        """An input, the prompts made of it, and the generations."""
        self.register_input(self.asks_about)
        self.register_llm()
        for name in dict.fromkeys(("inputs", "prompts", "generations") if self.asks_about == "inputs" else ("prompts", "generations")):
            self.register_output(name)

    def validate(self) -> None:
        """No null among the inputs; ``n`` is a number of generations."""
        super().validate()
        if not _is_count(self.args.get("n", 1)):
            raise ArgumentError(f"n={self.args['n']!r}", "it is the number of generations for each prompt: 1 or more")

    def prompts(self) -> list[Any]:
        """The prompt of each row."""
        raise NotImplementedError

    def run(self) -> Iterator[Row | Failure]:
        """A row for each prompt. With ``n``, a list of generations."""
        prompts, draws = self.prompts(), self.args.get("n", 1)
        inputs = self.inputs[self.asks_about] if self.asks_about == "inputs" else prompts
        kept = Kept(self, list(self.outputs_declared))
        rows = enumerate(zip(prompts, inputs, strict=True))
        for i, replies in self.replies(prompts, len(prompts), draws):
            prompt, given = next(row for number, row in rows if number == i)  # a dry run asks for some of them only
            values = {"inputs": given, "prompts": prompt} if self.asks_about == "inputs" else {"prompts": prompt}
            bad = next((reply for reply in replies if reply.error), None)
            if bad is not None:
                yield from kept.rows(self.failed(i, bad), values, None)
                continue
            texts = [self.processed(i, reply.text) for reply in replies]
            yield Row({**values, "generations": texts if draws > 1 else texts[0]})


class Prompt(_Prompting):
    """Puts each of ``prompts`` to the model as it is: a text, or a list of messages."""

    asks_about = "prompts"

    def prompts(self) -> list[Any]:
        """The input; an error for a null, before anything is paid for."""
        values = list(self.inputs["prompts"])
        for number, value in enumerate(values):
            if value is None:
                raise ArgumentError(f"row {number}: 'prompts' is empty", "filter the rows first")
            if not isinstance(value, (str, list)):
                raise ArgumentError(f"row {number}: a prompt is a {type(value).__name__}, not a text", "map the column to text first")
        return values


class ProcessWithPrompt(_Prompting):
    """Puts an instruction about each of ``inputs`` to the model: ``Input: …``, an empty line, ``Instruction: …``."""

    own = ("instruction", "input_label", "instruction_label", "sep")

    def setup(self) -> None:
        """The instruction, and how it is laid out."""
        super().setup()
        register_layout(self)

    def prompts(self) -> list[str]:
        """The prompt of each row."""
        return laid_out(self, self.texts(self.inputs["inputs"], "inputs"))


class DataFromPrompt(Asking):
    """Puts one instruction to the model ``n`` times."""

    own = ("instruction",)

    def setup(self) -> None:
        """An instruction, how often, and what comes of it."""
        self.register_arg("instruction")
        self.register_arg("n")
        self.register_llm()
        self.register_output("prompts")
        self.register_output("generations")

    def validate(self) -> None:
        """``n`` is a number of rows."""
        super().validate()
        if not _is_count(self.args["n"]):
            raise ArgumentError(f"n={self.args['n']!r}", "it is the number of rows to make: 1 or more")

    def run(self) -> Iterator[Row | Failure]:
        """``n`` rows."""
        prompt, n = self.args["instruction"], self.args["n"]
        kept = Kept(self, ("prompts", "generations"))
        for i, replies in self.replies(itertools.repeat(prompt, n), n):
            if replies[0].error:
                yield from kept.rows(self.failed(i, replies[0]), {"prompts": prompt}, None)
            else:
                yield Row({"prompts": prompt, "generations": self.processed(i, replies[0].text)})


class FilterWithPrompt(Asking):
    """Keeps the rows of the step that made ``inputs`` for which the model says yes: all its columns, as views.

    By default the first word of the answer decides (yes or no), and any other word is a failed row. ``filter_func`` decides
    otherwise: a function of the answer.
    """

    own = ("instruction", "input_label", "instruction_label", "sep")
    carries = "rows"

    def setup(self) -> None:
        """An input, an instruction about it, and who decides."""
        self.register_input("inputs")
        self.register_llm()
        self.register_arg("filter_func", required=False, help="a function of the answer: True keeps the row")
        register_layout(self)

    def _bind_inputs(self, given: dict[str, Any]) -> dict[str, OutputDataset | OutputDatasetColumn]:
        bound = super()._bind_inputs(given)
        column = bound.get("inputs")
        return {**bound, "rows": column.owner} if isinstance(column, OutputDatasetColumn) else bound

    def reads(self) -> dict[str, list[str]]:
        """Of the whole rows nothing: the input column is counted by itself."""
        return {"rows": []}

    @property
    def shared(self) -> tuple[str, ...]:  # type: ignore[override]
        """The decision is no parameter of the model."""
        return (*Asking.shared, "filter_func")

    def recipe_args(self) -> dict[str, Any]:
        """The decision's code counts."""
        decides = self.args["filter_func"]
        return super().recipe_args() | ({} if decides is None else {"filter_func": function_code(decides)})

    def review(self) -> Review | None:
        """An answer that says neither is no answer."""
        return undecided(self)

    def run(self) -> Iterator[Row | Failure]:
        """The rows that are kept."""
        prompts = laid_out(self, self.texts(self.inputs["inputs"], "inputs"))
        for i, (reply,) in self.replies(prompts, len(prompts)):
            yield from decided(self, i, reply)


UNDECIDED = {"kind": "row", "message": "the answer begins with neither yes nor no"}


def undecided(step: Asking) -> Review | None:
    """What finds an answer that says neither to be a failure, so that it can be asked for again; where our rule decides."""
    if step.args.get("filter_func") is not None or step.args["post_process"] is not None:
        return None

    def review(_request: Request, reply: Reply, _tries: int) -> None:
        if yes_or_no(str(reply.text)) is None:
            reply.error = {**UNDECIDED, "status": None}

    return review


def decided(step: Asking, number: int, reply: Any) -> Iterator[Row | Failure]:
    """A row that an answer keeps; nothing for one that it drops; a failure for an answer that says neither."""
    if reply.error:
        failure = step.failed(number, reply)
    else:
        answer = step.processed(number, reply.text)
        decides = step.args.get("filter_func")
        keep = bool(decides(answer)) if decides is not None else yes_or_no(str(answer))
        if keep is not None:
            if keep:
                yield Row({}, number)
            return
        reply.error = dict(UNDECIDED)
        failure = step.failed(number, reply)
    if step.args["on_fail"] == "keep":
        yield Row({}, number)
    yield failure


def register_layout(step: Asking) -> None:
    """Declare an instruction and how it is laid out."""
    step.register_arg("instruction")
    step.register_arg("input_label", required=False, default="Input:")
    step.register_arg("instruction_label", required=False, default="Instruction:")
    step.register_arg("sep", required=False, default="\n\n")
    step.register_arg("max_new_tokens", required=False)


def laid_out(step: Asking, texts: list[str]) -> list[str]:
    """The prompts: each of ``texts`` under its label, then the instruction."""
    args = step.args
    return [layout(text, args["instruction"], args["input_label"], args["instruction_label"], args["sep"]) for text in texts]


def layout(text: str, instruction: str, input_label: str = "Input:", instruction_label: str = "Instruction:", sep: str = "\n\n") -> str:
    """``Input: …``, an empty line, ``Instruction: …``; a label that is empty is left out with its space."""
    return sep.join(f"{label} {part}" if label else part for label, part in ((input_label, text), (instruction_label, instruction)))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
