"""`Summary`: each model's value of each metric, with a 95 % interval, and how the models differ. A pure function of an evaluation's rows.

Every value is made of sums over the examples: a mean of a sum and a count, a perplexity of log-likelihoods and tokens, a BLEU of its
counts. The interval is that of the percentiles of the value over resamples of the examples, drawn from the same seed each time; all
models and metrics share the resamples, so that a difference is one between the same examples.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from nbdream.optional import require
from nbdream.steps.handle import StepHandle
from nbdream.steps.metrics import BESIDE, BLEU_COUNTS, EXTRA, FIXED, JUDGE, MODEL, NLL, PERPLEXITY, ROW, TOKENS
from nbdream.steps.saved import SavedStep

RESAMPLES = 1000
SEED = 0
TOGETHER = 50
"""Resamples that are summed at once: what bounds the memory."""
PERCENTILES = (2.5, 97.5)

Values = Any
"""A numpy array."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A value, the ends of its 95 % interval, and the number of examples."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Summary:
    """``summary["tweeter"]["rouge1"]`` is a `Measure`; what was not measured is not there.

    ``differences["tweeter"]["rouge1"]``: the difference from the first model, over the examples that both have.
    """

    measures: Mapping[str, Mapping[str, Measure]] = field(default_factory=dict)
    differences: Mapping[str, Mapping[str, Measure]] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """The models, in order."""
        return list(self.measures)

    @property
    def metrics(self) -> list[str]:
        """The metrics, in order."""
        return list(dict.fromkeys(name for found in self.measures.values() for name in found))

    def __getitem__(self, model: str) -> Mapping[str, Measure]:
        return self.measures[model]

    def lines(self) -> list[str]:
        """A line a value, and a line a difference, as text."""
        found = [(model, name, measure) for model, of in self.measures.items() for name, measure in of.items()]
        first = next(iter(self.measures), "")
        apart = [(f"{model} − {first}", name, measure) for model, of in self.differences.items() for name, measure in of.items()]
        lines = [f"{who}: {name} {shown(measure)} (n = {measure.n:,})" for who, name, measure in found]
        return [*lines, *(f"{who}: {name} {shown(measure, signed=True)} (n = {measure.n:,})" for who, name, measure in apart)]

    def __repr__(self) -> str:
        return "\n".join(self.lines()) or "Summary of no rows"


class Evaluation(StepHandle):
    """An evaluation, just made or loaded by name."""

    @functools.cached_property
    def summary(self) -> Summary:
        """Each model's value of each metric with its 95 % interval, and the differences from the first model."""
        return summarize(self.output.table())


class SavedEvaluation(Evaluation, SavedStep):
    """An evaluation that a session holds under a name."""


def shown(measure: Measure, *, signed: bool = False) -> str:
    """A value with its interval: ``0.431 [0.402, 0.459]``."""
    largest = max(abs(measure.low), abs(measure.high))
    digits = 3 if largest < 10 else 2 if largest < 1000 else 0
    sign = "+" if signed else ""
    value, low, high = (f"{number:{sign},.{digits}f}" for number in (measure.value, measure.low, measure.high))
    return f"{value} [{low}, {high}]"


def summarize(table: pa.Table) -> Summary:
    """The summary of an evaluation's rows."""
    if not table.num_rows:
        return Summary()
    np = require("numpy", EXTRA)
    metrics = [name for name in table.column_names if name not in (*FIXED, *BESIDE)]
    models = table.column(MODEL).unique().to_pylist()
    _, places = np.unique(np.array(table.column(ROW).to_pylist()), return_inverse=True)
    examples = _Examples(int(places.max()) + 1)
    for model in models:
        mine = [number for number, name in enumerate(table.column(MODEL).to_pylist()) if name == model]
        rows = table.take(pa.array(mine, pa.int64()))
        for name in metrics:
            examples.add((model, name), statistic(name), places[mine], sums_of(rows, name))
    for model in models[1:]:
        for name in metrics:
            if name != JUDGE:
                examples.pair((models[0], name), (model, name))
    found = examples.measures()
    measures = {model: {name: found[model, name] for name in metrics if (model, name) in found} for model in models}
    apart = {model: {name: found[model, name, models[0]] for name in metrics if (model, name, models[0]) in found} for model in models[1:]}
    return Summary(measures, apart)


# --- what a value is made of --------------------------------------------------------------------------------------------


def sums_of(rows: pa.Table, name: str) -> list[list[float] | None]:
    """What each row adds to a metric's sums; None for a row that has none."""
    if name == PERPLEXITY:
        pairs = zip(rows.column(NLL).to_pylist(), rows.column(TOKENS).to_pylist(), strict=True)
        return [None if nll is None else [nll, tokens] for nll, tokens in pairs]
    if name == "bleu":
        counts: list[list[float] | None] = rows.column(BLEU_COUNTS).to_pylist()
        return counts
    return [None if value is None else [value, 1.0] for value in rows.column(name).to_pylist()]


def statistic(name: str) -> Callable[[Values], Values]:
    """The function of a metric's sums that gives its value."""
    return {PERPLEXITY: perplexity, "bleu": corpus_bleu}.get(name, mean)


def mean(sums: Values) -> Values:
    """The mean, of sums and counts."""
    np = require("numpy", EXTRA)
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def perplexity(sums: Values) -> Values:
    """The perplexity of all tokens, of negative log-likelihoods and numbers of tokens."""
    np = require("numpy", EXTRA)
    with np.errstate(over="ignore"):
        return np.exp(mean(sums))


def corpus_bleu(sums: Values) -> Values:
    """The BLEU of a corpus as ``sacrebleu`` has it, of counts and totals of 1- to 4-grams and of both lengths."""
    np = require("numpy", EXTRA)
    right, there, said, wanted = sums[..., :4], sums[..., 4:8], sums[..., 8], sums[..., 9]
    with np.errstate(invalid="ignore", divide="ignore"):
        halved = 0.5 ** np.cumsum(right == 0, axis=-1)  # an order without a match counts half as much as a match, then a quarter …
        precisions = np.where(right == 0, halved, right) / there
        brevity = np.exp(np.minimum(0.0, 1 - wanted / said))
        score = 100 * brevity * np.exp(np.log(precisions).mean(-1))
    none = (there == 0).any(-1) | (right == 0).all(-1)
    return np.where(wanted == 0, np.nan, np.where(none, 0.0, score))


# --- resampling ---------------------------------------------------------------------------------------------------------


class _Examples:
    """What each example adds to the sums of each value: a block of columns a value."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._np = require("numpy", EXTRA)
        self._blocks: dict[tuple[str, ...], tuple[Any, Callable[[Values], Values], int]] = {}

    def add(self, key: tuple[str, ...], of: Callable[[Values], Values], places: Values, sums: Iterable[list[float] | None]) -> None:
        """A value of one model: ``sums`` of the examples at ``places``."""
        there = [(place, added) for place, added in zip(places, sums, strict=True) if added is not None]
        if there:
            block = self._np.zeros((self.count, len(there[0][1])))
            block[[place for place, _ in there]] = [added for _, added in there]
            self._blocks[key] = (block, of, len(there))

    def pair(self, first: tuple[str, str], second: tuple[str, str]) -> None:
        """The difference of two models over the examples that both have; none where two perplexities count different tokens."""
        if first not in self._blocks or second not in self._blocks:
            return
        (one, of, _), (other, _, _) = self._blocks[first], self._blocks[second]
        both = one.any(axis=1) & other.any(axis=1)
        if not both.any() or (of is perplexity and (one[both, 1] != other[both, 1]).any()):
            return
        width = one.shape[1]
        block = self._np.concatenate([one, other], axis=1) * both[:, None]
        self._blocks[(*second, first[0])] = (block, lambda sums: of(sums[..., width:]) - of(sums[..., :width]), int(both.sum()))

    def measures(self) -> dict[tuple[str, ...], Measure]:
        """Every value over all examples, with the percentiles of the resamples."""
        np = self._np
        if not self._blocks:
            return {}
        whole = np.concatenate([block for block, _, _ in self._blocks.values()], axis=1)
        drawn = np.concatenate([counts @ whole for counts in self._resamples()])
        total, found, start = whole.sum(axis=0), {}, 0
        for key, (block, of, n) in self._blocks.items():
            here = slice(start, start := start + block.shape[1])
            value, values = float(of(total[here])), of(drawn[:, here])
            values = values[~np.isnan(values)]  # an example that alone has a value is not in every resample
            if value == value and len(values):
                low, high = np.percentile(values, PERCENTILES)
                found[key] = Measure(value, float(low), float(high), n)
        return found

    def _resamples(self) -> Iterable[Values]:
        """How often each example is in each resample, some resamples at a time."""
        np = self._np
        generator = np.random.default_rng(SEED)
        for _ in range(RESAMPLES // TOGETHER):
            drawn = generator.integers(self.count, size=(TOGETHER, self.count))
            yield np.stack([np.bincount(row, minlength=self.count) for row in drawn]).astype(float)
