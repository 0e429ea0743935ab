"""`Evaluate`: what models answer to held-out rows, how near it comes to the references, and which model is better."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nbdream.datasets import OutputDatasetColumn
from nbdream.errors import ArgumentError, DataError
from nbdream.ledger import sum_known
from nbdream.llms.base import LLM
from nbdream.llms.contexts import PLAIN, ContextTemplate, contexts_of
from nbdream.llms.hf_transformers import HFTransformers
from nbdream.llms.labeller import Labeller
from nbdream.llms.scorer import Scorer
from nbdream.optional import is_instance, require
from nbdream.steps import judging
from nbdream.steps.base import Step, made_by
from nbdream.steps.metrics import (
    BUILT_IN,
    DEFAULT,
    EXTRA,
    FIXED,
    INPUT,
    JUDGE,
    MODEL,
    PERPLEXITY,
    PREDICTION,
    REFERENCE,
    ROW,
    Metric,
    likelihood_columns,
    metrics_of,
)
from nbdream.steps.rows import Failure, Row
from nbdream.steps.summary import Evaluation, summarize
from nbdream.templates import as_json

if TYPE_CHECKING:
    from nbdream.engine import Progress
    from nbdream.engine.stream import Review
    from nbdream.llms.base import Reply, Request

GREEDY = 0.0
MAX_TOKENS = 256
"""The most tokens of an answer, unless the user says otherwise."""
CARD = "Evaluation"


class Evaluate(Evaluation, Step):
    """Puts ``input`` to each of ``models`` and measures its answers against ``output``: a row for each example and model.

    ``models`` maps names to models; the others are compared with the first one. ``metrics`` are names (``rouge``, ``bleu``,
    ``exact_match``, ``f1``, ``accuracy``, ``perplexity``, ``judge``) and functions of a reference and a prediction. ``judge`` is the
    model that judges. Answers are greedy unless ``temperature`` is given. `summary` says what it comes to.

    ``contexts``, a list of texts a row, stand before its input: for a model that was trained with contexts as it was trained, for the
    others as for the first of these.
    """

    _calls: int
    _before: Progress | None
    _last: Progress | None
    _held: str | None

    def setup(self) -> None:
        """Two columns, the models, and what is measured."""
        self.register_input("input", help="the column that is put to the models")
        self.register_input("output", help="the column of the reference answers")
        self.register_input("contexts", required=False, help="the column of passages that stand before the input")
        self.register_arg("models", help="args={'models': {'base': one_model, 'tweeter': another}, …}")
        self.register_arg("metrics", required=False, default=DEFAULT, help="names of metrics, and functions f(reference, prediction)")
        self.register_arg("judge", required=False, help="the model that compares two answers")
        self.register_arg("limit", required=False, help="try the first rows only")
        self.register_arg("seed", required=False, help="other draws, at a temperature above 0")
        self.register_arg("temperature", required=False, default=GREEDY)
        self.register_arg("max_tokens", required=False, default=MAX_TOKENS, help="the most tokens of an answer")
        self.register_arg("retry_failed", required=False, default=False)
        self.register_arg("concurrency", required=False)

    # --- what is asked for --------------------------------------------------------------------------------------------

    @functools.cached_property
    def llms(self) -> dict[str, LLM]:
        """The models by their names; the first one is what the others are compared with. A classifier answers with a label."""
        return {name: Labeller(model) if is_classifier(model) else model for name, model in self.args["models"].items()}

    @functools.cached_property
    def metrics(self) -> list[Metric]:
        """What is measured; a judge that is given judges."""
        found = metrics_of(self.args["metrics"])
        judges = self.args["judge"] is not None and not any(metric.name == JUDGE for metric in found)
        return [*found, BUILT_IN[JUDGE]] if judges else found

    def _measures(self, name: str) -> bool:
        return any(metric.name == name for metric in self.metrics)

    def validate(self) -> None:
        """Everything that can be wrong, before anything is paid for."""
        self._check_models()
        self._check_metrics()
        self._texts = {name: self._column(name) for name in ("input", "output")}
        self._read = {name: self._in_context(template) for name, template in self._templates().items()}
        counts = {name: len(values) for name, values in self._texts.items()}
        if counts["input"] != counts["output"]:
            raise DataError(f"input has {counts['input']:,} rows and output has {counts['output']:,}", "take the columns of the same step")
        if not counts["input"]:
            raise DataError(f"{self.inputs['input'].step.name!r} has no rows", "an evaluation needs at least one")
        self.preview = self.preview or self.args["limit"] is not None
        for name in (*FIXED, *(column for metric in self.metrics for column in metric.columns)):
            self.register_output(name)

    def _check_models(self) -> None:
        models = self.args["models"]
        if not isinstance(models, Mapping) or not models:
            raise ArgumentError("no models are given to evaluate", "models={'base': one_model, 'tweeter': another}")
        for name, llm in self.llms.items():
            if not isinstance(llm, LLM):
                raise ArgumentError(f"{name} is a {type(llm).__name__}, not a model", "give models: from nbdream.llms import OpenAI")
            self.parameters(llm)

    def _check_metrics(self) -> None:
        require("numpy", EXTRA)
        for metric in self.metrics:
            metric.check()
        judge = self.args["judge"]
        if self._measures(JUDGE) and not isinstance(judge, LLM):
            if judge is not None:
                raise ArgumentError(f"judge is a {type(judge).__name__}, not a model", "judge: gpt, or a provider/model")
            raise ArgumentError("the metric judge needs a model that judges", "judge: gpt, or a provider/model")
        if self._measures(JUDGE) and len(self.llms) < 2:
            raise ArgumentError("a judge compares two models, and one is given", "--models base,tweeter, or leave judge out")
        if self._measures(PERPLEXITY):
            for name, llm in self.llms.items():
                if not isinstance(llm, HFTransformers):
                    hint = "leave perplexity out; trained models and hf/… have one"
                    raise ArgumentError(f"{name} does not tell how likely a text is, and so has no perplexity", hint)

    def _column(self, name: str) -> list[str]:
        column, limit = self.inputs[name], self.args["limit"]
        assert isinstance(column, OutputDatasetColumn)
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise ArgumentError(f"limit={limit!r}", "it is a number of rows: 1 or more")
        values = column.array().slice(0, limit or len(column)).to_pylist()
        for number, value in enumerate(values):
            if value is None:
                raise DataError(f"row {number} of {column.name!r} is null", "leave such rows out: .filter(…)")
        return [value if isinstance(value, str) else as_json(value) for value in values]

    def _templates(self) -> dict[str, str]:
        """How each model reads contexts, where there are any; what was not trained with them reads them as the first that was."""
        if "contexts" not in self.inputs:
            return {}
        own = {name: getattr(model, "context_template", None) for name, model in self.args["models"].items()}
        usual = next(filter(None, own.values()), PLAIN)
        return {name: template or usual for name, template in own.items()}

    def _in_context(self, template: str) -> list[str]:
        """The inputs with their contexts before them."""
        column = self.inputs["contexts"]
        assert isinstance(column, OutputDatasetColumn)
        questions = self._texts["input"]
        if len(column) != (rows := len(self.inputs["input"])):
            raise DataError(f"contexts has {len(column):,} rows and input has {rows:,}", "take the columns of the same step")
        return ContextTemplate(template).before(questions, contexts_of(column)[: len(questions)])

    def parameters(self, llm: LLM) -> dict[str, Any]:
        """How a model is asked: what was given; a default of ours only where the model takes it."""
        defaults = {"temperature": GREEDY, "max_tokens": MAX_TOKENS}
        known = llm.parameters()
        return llm.settings(**{name: self.args[name] for name, usual in defaults.items() if name in known or self.args[name] != usual})

    # --- the recipe ---------------------------------------------------------------------------------------------------

    def recipe_args(self) -> dict[str, Any]:
        """The models by name and in order, how they are asked, and what is measured: a function by its code."""
        args = {
            "models": [[name, llm] for name, llm in self.llms.items()],
            "metrics": [metric.name if metric.code is None else {metric.name: metric.code} for metric in self.metrics],
            **{name: self.args[name] for name in ("limit", "seed", "temperature", "max_tokens") if self.args[name] is not None},
        }
        if templates := self._templates():
            args["context_template"] = templates
        return {**args, "judge": self.args["judge"]} if self._measures(JUDGE) else args

    @property
    def models(self) -> list[dict[str, Any]]:
        """The cards of the models, the judge's last."""
        asked = [*self.llms.values(), *([self.args["judge"]] if self._measures(JUDGE) else [])]
        return [{**llm.card, "identity": llm.identity} for llm in asked]

    def use(self) -> dict[str, Any]:
        """The place in the graph, with an edge to the run of each model that was trained in this session."""
        place = super().use()
        trained = {f"models.{name}": made for name, model in self.args["models"].items() if (made := made_by(model)) is not None}
        return {**place, "inputs": {**place["inputs"], **trained}}

    def runs_again(self, node: Mapping[str, Any]) -> bool:
        """With ``retry_failed``, while rows have failed."""
        return self.force or bool(self.args["retry_failed"] and node.get("failures"))

    # --- the work -----------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Row | Failure]:
        """For each example a row of each model, in order; what failed is a failure, with the model's name."""
        with contextlib.ExitStack() as memory:
            answers, likelihoods = self._answers(memory)
            verdicts = self._verdicts(memory, answers) if self._measures(JUDGE) else None
        rows: list[dict[str, Any]] = []
        for number, reference in enumerate(self._texts["output"]):
            for name in self.llms:
                answer = answers[name][number]
                if answer.error is not None:
                    yield _failure(number, name, answer)
                    continue
                asked = self._inputs_of(name)[number]
                row = {ROW: number, MODEL: name, INPUT: asked, REFERENCE: reference, PREDICTION: answer.text or ""}
                row |= self._scores(row)
                if likelihoods:
                    row |= likelihood_columns(likelihood := likelihoods[name][number])
                    if likelihood.error is not None:
                        yield _failure(number, f"{name}: {PERPLEXITY}", likelihood)
                if verdicts is not None:
                    row |= judging.columns(verdict := verdicts.get((name, number)))
                    yield from (_failure(number, f"{name}: {JUDGE}", reply) for reply in judging.failed(verdict or ()))
                rows.append({column: row[column] for column in self.outputs_declared})
                yield Row(rows[-1])
        self.register_data_card(CARD, summarize(pa.Table.from_pylist(rows)).lines())

    def _answers(self, memory: contextlib.ExitStack) -> tuple[dict[str, list[Reply]], dict[str, list[Reply]]]:
        """What each model answers, and where it is asked for, how likely it holds the references."""
        references = self._texts["output"]
        scored, judged = self._measures(PERPLEXITY), self._measures(JUDGE)
        self._before = self._last = self._held = None
        self._calls = len(references) * (len(self.llms) * (1 + scored) + 2 * (len(self.llms) - 1) * judged)
        answers: dict[str, list[Reply]] = {}
        likelihoods: dict[str, list[Reply]] = {}
        for name, llm in self.llms.items():
            self._hold(memory, llm)
            inputs = self._inputs_of(name)
            answers[name] = self._replies(llm, llm.requests(inputs, seed=self.args["seed"], **self.parameters(llm)))
            if scored and isinstance(llm, HFTransformers):
                scorer = Scorer(llm)
                likelihoods[name] = self._replies(scorer, scorer.pairs(inputs, references))
        return answers, likelihoods

    def _inputs_of(self, name: str) -> list[str]:
        """What a model is asked."""
        return self._read.get(name, self._texts["input"])

    def _hold(self, memory: contextlib.ExitStack, llm: LLM) -> None:
        """Let a local model into memory, and the one before it out, if it was not there already: there may be room for one."""
        if isinstance(llm, HFTransformers) and llm.process_key != self._held:
            memory.close()
            self._held = llm.process_key
            memory.enter_context(llm.as_found())

    def _replies(self, llm: LLM, requests: Iterable[Request], review: Review | None = None) -> list[Reply]:
        """The reply to each request."""
        limit, again = self.args["concurrency"], bool(self.args["retry_failed"])
        replies = [reply for (reply,) in self.ask(llm, requests, limit=limit, retry_failed=again, review=review)]
        self._before, self._last = _together(self._before, self._last), None
        return replies

    def _verdicts(self, memory: contextlib.ExitStack, answers: Mapping[str, Sequence[Reply]]) -> dict[tuple[str, int], Sequence[Reply]]:
        """The judge's two replies on each answer that can be compared with the first model's; none on one that says the same."""
        (_, first), *others = answers.items()
        found: dict[tuple[str, int], Sequence[Reply]] = {}
        duels: dict[tuple[str, int], tuple[str, str, str, str]] = {}
        for name, replies in others:
            for number, (one, other) in enumerate(zip(first, replies, strict=True)):
                if one.error is None and other.error is None:
                    found[name, number] = ()
                    if one.text != other.text:
                        texts = self._inputs_of(name)[number], self._texts["output"][number]
                        duels[name, number] = (*texts, one.text or "", other.text or "")
        self._calls -= 2 * (len(first) * len(others) - len(duels))
        judge: LLM = self.args["judge"]
        greedy: dict[str, Any] = {"temperature": GREEDY} if "temperature" in judge.parameters() else {}
        requests = judge.requests(judging.prompts(duels.values()), schema=judging.shape().wire, **greedy)
        self._hold(memory, judge)
        replies = self._replies(judge, requests, judging.shape().review)
        return found | dict(zip(duels, zip(replies[::2], replies[1::2], strict=True), strict=True))

    def _scores(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What the metrics of two texts give."""
        made: dict[str, Any] = {}
        for metric in self.metrics:
            if metric.score is not None:
                try:
                    made |= metric.score(row[REFERENCE], row[PREDICTION])
                except Exception as error:
                    error.add_note(f"in the metric {metric.name}, on the answer of {row[MODEL]} to row {row[ROW]}")
                    raise
        return made

    def _report(self, progress: Progress, total: int | None, draws: int) -> None:
        """The progress of all models together."""
        self._last = progress
        super()._report(_together(self._before, progress) or progress, self._calls, 1)


def is_classifier(model: object) -> bool:
    """Whether a model gives labels and no texts."""
    return is_instance(model, "nbdream.task_models.base", "TaskModel")


def _failure(number: int, what: str, reply: Reply) -> Failure:
    return Failure(number, f"{what}: {(reply.error or {}).get('message', 'no reply')}", reply.text)


def _together(before: Progress | None, now: Progress | None) -> Progress | None:
    """The progress of two streams, the first of which is done."""
    if before is None or now is None:
        return now or before
    counted = ("done", "cached", "new", "failed", "input_tokens", "output_tokens")
    sums: dict[str, Any] = {name: getattr(before, name) + getattr(now, name) for name in counted}
    money: dict[str, Any] = {name: sum_known(getattr(before, name), getattr(now, name)) for name in ("cost", "saved")}
    return dataclasses.replace(now, **sums, **money)
