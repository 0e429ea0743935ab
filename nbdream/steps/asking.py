"""`Asking`: what every step shares that puts prompts to a model."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from nbdream.errors import ArgumentError, ModelError
from nbdream.fingerprint import function_code
from nbdream.prices import known
from nbdream.steps.base import NOT_IN_RECIPE, Step
from nbdream.steps.estimate import FEWEST
from nbdream.steps.kinds import plain
from nbdream.steps.rows import Failure, Row
from nbdream.steps.survey import Estimate, Survey
from nbdream.templates import as_json

if TYPE_CHECKING:
    from nbdream.engine.budget import Budget
    from nbdream.engine.spending import Spending
    from nbdream.engine.stream import Review
    from nbdream.llms.base import LLM, Reply, Request

ON_FAIL = ("drop", "keep", "stop")
RUNNING = (
    "batch", "batch_size", "cache_only", "concurrency", "dry_run", "force", "max_cost", "max_total_tokens", "retry_failed",
    "return_generator", "total_num_prompts", *NOT_IN_RECIPE,
)  # fmt: skip
"""Arguments of a run that are no parameters of the model, and change no reply."""
TRIES = 20
"""Rows of a dry run."""


class Asking(Step):
    """A step with a model. Arguments that it does not declare are parameters of the model, and are checked before any call."""

    own: ClassVar[tuple[str, ...]] = ()
    """The arguments of the step itself: neither the model's nor how it runs."""
    shared: ClassVar[tuple[str, ...]] = ("llm", "post_process", "on_fail", "seed", "system", "n")
    estimate: Estimate | None = None
    """After a dry run, what the whole would cost."""

    def register_llm(self) -> None:
        """Declare what all such steps take."""
        self.register_arg("llm", help="the model: args={'llm': OpenAI('gpt-4o-mini'), …}")
        self.register_arg("post_process", required=False, help="a function of each generation")
        self.register_arg("on_fail", required=False, default="drop", help="what becomes of failed rows: drop, keep or stop")
        self.register_arg("lazy", required=False, default=False)
        self.register_arg("**kwargs")

    @property
    def llm(self) -> LLM:
        """The model."""
        llm: LLM = self.args["llm"]
        return llm

    def parameters(self) -> dict[str, Any]:
        """The parameters of the model that were given, under its own names; an error for one that it does not take."""
        mine = (*self.own, *self.shared, *RUNNING)
        return self.llm.settings(**{name: value for name, value in self.args.items() if name not in mine and value is not None})

    def validate(self) -> None:
        """The model is one, and takes the parameters."""
        from nbdream.llms.base import LLM

        if not isinstance(self.args["llm"], LLM):
            hint = "construct it: from nbdream.llms import OpenAI; OpenAI('gpt-4o-mini')"
            raise ArgumentError(f"llm= of {self.name!r} is a {type(self.args['llm']).__name__}, not a model", hint)
        self.parameters()
        if self.args["on_fail"] not in ON_FAIL:
            raise ArgumentError(f"on_fail={self.args['on_fail']!r}", f"it is one of: {', '.join(ON_FAIL)}")
        self._check_limits()
        self.preview = self.preview or bool(self.args.get("dry_run"))

    def _check_limits(self) -> None:
        cost, tokens, tries = (self.args.get(name) for name in ("max_cost", "max_total_tokens", "dry_run"))
        if cost is not None and (isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost < math.inf):
            raise ArgumentError(f"max_cost={cost!r}", "it is an amount in dollars: 0.50")
        if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
            raise ArgumentError(f"max_total_tokens={tokens!r}", "it is a number of tokens, of prompts and replies together")
        if not isinstance(tries, bool | None) and (not isinstance(tries, int) or tries < FEWEST):
            raise ArgumentError(f"dry_run={tries!r}", f"it is True, or how many rows to try: {FEWEST} or more")

    def runs_again(self, node: Mapping[str, Any]) -> bool:
        """With ``retry_failed``, while rows have failed."""
        return self.force or bool(self.args.get("retry_failed") and node.get("failures"))

    def recipe_args(self) -> dict[str, Any]:
        """The model, its parameters, and the step's own arguments; how it runs does not count."""
        named = (*self.own, "llm", "seed", "system", "n")
        args = {name: self.args[name] for name in named if self.args.get(name) is not None and name not in RUNNING}
        if self.args["on_fail"] != "drop":
            args["on_fail"] = self.args["on_fail"]
        if self.args["post_process"] is not None:
            args["post_process"] = function_code(self.args["post_process"])
        if self.args.get("dry_run"):
            args["dry_run"] = uuid.uuid4().hex  # it tells of now: no earlier one is loaded, and the run itself never finds it
        return {**args, **self.parameters()}

    def replies(self, prompts: Iterable[Any], total: int, draws: int = 1) -> Iterator[tuple[int, list[Reply]]]:
        """The replies to each prompt, with its number."""
        args = self.args
        requests = self.llm.requests(
            prompts, system=args.get("system"), seed=args.get("seed"), schema=self.reply_schema(), **self.parameters()
        )  # fmt: skip
        if not args.get("dry_run"):
            return enumerate(self._put(requests, total, draws))
        return self._tried(requests, total, draws)

    def _put(self, requests: Iterable[Request], total: int, draws: int) -> Iterator[list[Reply]]:
        args = self.args
        return self.ask(
            self.llm,
            requests,
            total=total,
            draws=draws,
            limit=args.get("concurrency") or args.get("batch_size"),
            retry_failed=bool(args.get("retry_failed")),
            review=self.review(),
            budget=self.budget(),
            batch=bool(args.get("batch")) and not args.get("dry_run"),  # whoever tries does not wait for a day
        )

    def _tried(self, requests: Iterable[Request], total: int, draws: int) -> Iterator[tuple[int, list[Reply]]]:
        """The replies of a dry run: to a few of the prompts. When they are there, what the others will cost is said."""
        tries = TRIES if self.args["dry_run"] is True else self.args["dry_run"]
        survey = Survey(self.runner.engine.stored, self.llm, total, draws, tries)
        chosen = survey.look(requests)
        for number, replies in zip(chosen, self._put(chosen.values(), len(chosen), draws), strict=True):
            survey.take(number, replies)
            yield number, replies
        self.estimate = survey.estimate(known(self.llm), batch=bool(self.args.get("batch")))
        self.emit({"type": "step.notice", "text": str(self.estimate)})
        if not self.runner.watched:
            print(self.estimate)

    def reply_schema(self) -> Mapping[str, Any] | None:
        """The JSON schema that replies are to fit, if there is one."""
        return None

    def review(self) -> Review | None:
        """What looks at replies before they count, if anything."""
        return None

    def budget(self) -> Budget | None:
        """What the step may cost, if there is a limit; an error where what a call can cost is not known."""
        cost, tokens = self.args.get("max_cost"), self.args.get("max_total_tokens")
        if cost is None and tokens is None:
            return None
        spending: Spending | None = self.runner.engine.spending(cost, tokens)
        refused = spending.refuses(self.llm, self.parameters()) if spending is not None else None
        if refused is not None:
            raise refused
        return spending

    def failed(self, number: int, reply: Reply) -> Failure:
        """The failure that a reply is; with ``on_fail="stop"`` the end of the step."""
        message = str((reply.error or {}).get("message", "no reply"))
        if self.args["on_fail"] == "stop":
            raise ModelError(f"row {number} failed: {message}", "the other replies are stored; on_fail='drop' goes on without it")
        return Failure(number, message, reply.text)

    def processed(self, number: int, text: Any) -> Any:
        """A generation, after ``post_process``."""
        if self.args["post_process"] is None:
            return text
        try:
            return plain(self.args["post_process"](text))
        except Exception as error:
            error.add_note(f"in post_process, on the generation of row {number} of {self.name!r}")
            raise

    def texts(self, values: Iterable[Any], what: str) -> list[str]:
        """Values as texts in a prompt, lists and dicts as JSON; an error for a null, before anything is paid for."""
        made = []
        for number, value in enumerate(values):
            if value is None:
                raise ArgumentError(f"row {number}: {what!r} is empty", "filter the rows first: .filter(lambda row: row['…'] is not None)")
            made.append(value if isinstance(value, str) else as_json(value))
        return made


class Kept:
    """What becomes of a row: ``on_fail="keep"`` gives a failed one nulls, else it is only among the failures."""

    def __init__(self, step: Asking, names: Sequence[str]) -> None:
        self._keep = step.args["on_fail"] == "keep"
        self._names = names

    def rows(self, failure: Failure, values: dict[str, Any], source: int | None) -> Iterator[Row | Failure]:
        """The failure, and with ``keep`` the row: ``values``, and null for the other columns."""
        if self._keep:
            yield Row({name: values.get(name) for name in self._names}, source)
        yield failure


def yes_or_no(answer: str) -> bool | None:
    """Whether the first word of an answer is yes or no; None when it is another."""
    word = re.search(r"\w+", answer)
    return {"yes": True, "no": False}.get(word.group().lower()) if word else None
