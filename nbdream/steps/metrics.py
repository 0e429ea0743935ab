"""Metrics of an evaluation: what each gives for a reference and a prediction.

A metric is a column, and where its value over all rows is not the mean of that column, also a column of what it is computed from.
"""

from __future__ import annotations

import functools
import json
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError, DataError, nearest
from nbdream.fingerprint import function_code
from nbdream.objects import check_column
from nbdream.optional import require
from nbdream.steps.kinds import plain

if TYPE_CHECKING:
    from nbdream.llms.base import Reply

EXTRA = "evaluate"
"""The extra of nbdream that brings the packages."""
ROW, MODEL, INPUT, REFERENCE, PREDICTION = "row", "model", "input", "reference", "prediction"
FIXED = (ROW, MODEL, INPUT, REFERENCE, PREDICTION)
"""The columns of every evaluation."""
PERPLEXITY, JUDGE = "perplexity", "judge"
BLEU_COUNTS, NLL, TOKENS, JUDGE_SAID = "bleu_counts", "nll", "tokens", "judge_said"
BESIDE = (BLEU_COUNTS, NLL, TOKENS, JUDGE_SAID)
"""Columns beside the metrics: sums that a value over all rows is made of, and the judge's two answers."""
DEFAULT = ("rouge", "exact_match", "f1")

LARGEST = 700.0
"""The exponent beyond which a perplexity is no number any more."""

Score = Callable[[str, str], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric by its name: the columns it makes, and what fills them; without ``score`` it takes more than two texts."""

    name: str
    columns: tuple[str, ...]
    score: Score | None = None
    code: Any = field(default=None)
    """The form of a function of the user's."""
    needs: tuple[str, ...] = ()
    """The packages that it takes."""

    def check(self) -> None:
        """Raise `MissingPackageError` unless its packages are there."""
        for package in self.needs:
            require(package, EXTRA)


# --- two texts ----------------------------------------------------------------------------------------------------------


def rouge(reference: str, prediction: str) -> dict[str, float]:
    """The F-measures of ROUGE-1, ROUGE-2 and ROUGE-L, by Google's ``rouge-score``: 0 to 1."""
    return {name: float(score.fmeasure) for name, score in _rouge_scorer().score(reference, prediction).items()}


@functools.cache
def _rouge_scorer() -> Any:
    return require("rouge_score.rouge_scorer", EXTRA).RougeScorer(["rouge1", "rouge2", "rougeL"])


def bleu(reference: str, prediction: str) -> dict[str, Any]:
    """The BLEU of one sentence, by ``sacrebleu``: 0 to 100; and the counts that the BLEU of a corpus is made of."""
    alone, corpus = _bleu_scorers()
    counted = corpus.corpus_score([prediction], [[reference]])
    counts = [*counted.counts, *counted.totals, counted.sys_len, counted.ref_len]
    return {"bleu": float(alone.sentence_score(prediction, [reference]).score), BLEU_COUNTS: [int(count) for count in counts]}


@functools.cache
def _bleu_scorers() -> tuple[Any, Any]:
    metrics: Any = require("sacrebleu.metrics", EXTRA)
    return metrics.BLEU(effective_order=True), metrics.BLEU()


def exact_match(reference: str, prediction: str) -> dict[str, float]:
    """Whether the texts are the same, but for space at their ends."""
    return {"exact_match": float(reference.strip() == prediction.strip())}


def accuracy(reference: str, prediction: str) -> dict[str, float]:
    """Whether the labels are the same, in capitals or not."""
    return {"accuracy": float(reference.strip().casefold() == prediction.strip().casefold())}


def f1(reference: str, prediction: str) -> dict[str, float]:
    """How far the words agree, as SQuAD counts it: without capitals, punctuation and articles."""
    wanted, said = squad_words(reference), squad_words(prediction)
    if not wanted or not said:
        return {"f1": float(wanted == said)}
    common = (Counter(wanted) & Counter(said)).total()
    return {"f1": 2 * common / (len(wanted) + len(said))}


def squad_words(text: str) -> list[str]:
    """The words that SQuAD's F1 compares."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


# --- a likelihood -------------------------------------------------------------------------------------------------------


def likelihood_columns(reply: Reply) -> dict[str, Any]:
    """The columns of a perplexity, from what `nbdream.llms.scorer.Scorer` says; nulls where the model could not read the text."""
    if reply.error is not None:
        return {PERPLEXITY: None, NLL: None, TOKENS: None}
    said = json.loads(reply.text or "")
    nll, tokens = float(said["nll"]), int(said["tokens"])
    return {PERPLEXITY: math.exp(min(nll / tokens, LARGEST)), NLL: nll, TOKENS: tokens}


BUILT_IN = {
    metric.name: metric
    for metric in (
        Metric("rouge", ("rouge1", "rouge2", "rougeL"), rouge, needs=("rouge_score.rouge_scorer",)),
        Metric("bleu", ("bleu", BLEU_COUNTS), bleu, needs=("sacrebleu.metrics",)),
        Metric("exact_match", ("exact_match",), exact_match),
        Metric("f1", ("f1",), f1),
        Metric("accuracy", ("accuracy",), accuracy),
        Metric(PERPLEXITY, (PERPLEXITY, NLL, TOKENS)),
        Metric(JUDGE, (JUDGE, JUDGE_SAID)),
    )
}
"""The metrics that are there, in the order of their columns."""


# --- a function of the user's -------------------------------------------------------------------------------------------


def own_metric(function: Callable[..., Any]) -> Metric:
    """A function of a reference and a prediction as a metric that has its name."""
    name = getattr(function, "__name__", "") or type(function).__name__
    if not name.isidentifier():
        raise ArgumentError(f"a metric of {name!r} has no name for its column", "give a function that was made with def")
    taken = {*FIXED, *BESIDE, *BUILT_IN, *(column for metric in BUILT_IN.values() for column in metric.columns)}
    if name in taken:
        raise ArgumentError(f"a metric of your own cannot be called {name!r}", "that column is taken: call the function otherwise")
    check_column(name)

    def score(reference: str, prediction: str) -> dict[str, float | None]:
        value = plain(function(reference, prediction))
        if value is not None and not isinstance(value, int | float):
            raise DataError(f"{name} gave a {type(value).__name__}, not a number", "a metric gives a number, or None where there is none")
        return {name: None if value is None or not math.isfinite(value) else float(value)}

    return Metric(name, (name,), score, function_code(function))


def metrics_of(given: Any) -> list[Metric]:
    """The metrics that names and functions mean, each once: those that are there in their own order, then the user's."""
    parts = [given] if isinstance(given, str) or callable(given) else given
    if not isinstance(parts, Iterable) or isinstance(parts, Mapping) or not (parts := list(parts)):
        raise ArgumentError(f"metrics={given!r}", f"give some of: {', '.join(BUILT_IN)}, or functions of a reference and a prediction")
    found: dict[str, Metric] = {}
    for part in parts:
        metric = own_metric(part) if callable(part) else _built_in(part)
        if metric.code is not None and metric.name in found:
            raise ArgumentError(f"two metrics are called {metric.name!r}", "call one of the functions otherwise")
        found[metric.name] = metric
    ordered: Sequence[str] = [name for name in BUILT_IN if name in found]
    return [found[name] for name in (*ordered, *(name for name in found if name not in BUILT_IN))]


def _built_in(name: Any) -> Metric:
    if not isinstance(name, str) or name not in BUILT_IN:
        raise ArgumentError(f"there is no metric {name!r}", nearest(str(name), BUILT_IN, "the metrics are"))
    return BUILT_IN[name]
