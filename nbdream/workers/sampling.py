"""Sampling rows of a batch, each by its own parameters and its own random numbers.

A row's numbers come from its seed alone, so what a row says does not depend on its neighbours in a batch.
Every draw takes one uniform number and inverts the distribution's cumulated sum.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RowParams:
    """How one row is sampled. ``temperature`` 0 is greedy; a neutral value switches a filter off."""

    seed: int
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)


class RowSampler:
    """A logits processor that leaves each row one token to take: the one its parameters and its seed choose."""

    def __init__(self, rows: Sequence[RowParams], begins: Sequence[int]) -> None:
        """``begins`` says where each row's own tokens begin, after its padding."""
        self._rows = rows
        self._begins = begins
        self._random = [random.Random(row.seed) for row in rows]
        self._columns: dict[str, Any] = {}

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores that leave one token a row."""
        import torch

        scores = scores.float()
        scores = self._penalised(input_ids, scores)
        chosen = scores.argmax(-1)
        sampled = [index for index, row in enumerate(self._rows) if row.temperature > 0]
        if sampled:
            numbers = [self._random[index].random() for index in sampled]
            where = torch.tensor(sampled, device=scores.device)
            chosen[where] = self._draw(scores[where], sampled, numbers)
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen[:, None], 0.0)

    def _penalised(self, input_ids: Any, scores: Any) -> Any:
        """Scores after the repetition penalty (of prompt and answer) and the logit bias of each row that has one."""
        import torch

        for index, row in enumerate(self._rows):
            if row.repetition_penalty != 1.0:
                seen = input_ids[index, self._begins[index] :].unique()
                old = scores[index, seen]
                scores[index, seen] = torch.where(old > 0, old / row.repetition_penalty, old * row.repetition_penalty)
            for token, bias in row.logit_bias.items():
                scores[index, token] += bias
        return scores

    def _column(self, name: str, rows: list[int], like: Any) -> Any:
        """A parameter of the sampled rows as a column tensor, made once."""
        if name not in self._columns:
            self._columns[name] = like.new_tensor([getattr(self._rows[index], name) for index in rows])[:, None]
        return self._columns[name]

    def _draw(self, scores: Any, rows: list[int], numbers: list[float]) -> Any:
        """One token a row, drawn from its filtered distribution."""
        import torch

        probabilities = (scores / self._column("temperature", rows, scores)).softmax(-1)
        least = self._column("min_p", rows, scores)
        probabilities = probabilities.where(probabilities >= least * probabilities.amax(-1, keepdim=True), 0.0)
        if any(0 < self._rows[index].top_k < scores.shape[-1] or self._rows[index].top_p < 1 for index in rows):
            probabilities = self._nucleus(probabilities, rows)
        # The sum over a large vocabulary loses digits in single precision; Metal has no double precision.
        exact = torch.float32 if scores.device.type == "mps" else torch.float64
        total = probabilities.to(exact).cumsum(-1)
        aim = torch.tensor(numbers, dtype=exact, device=scores.device)[:, None] * total[:, -1:]
        found = torch.searchsorted(total, aim, right=True)[:, 0].clamp(max=scores.shape[-1] - 1)
        # The last tokens may have no probability: then the sum is reached at the last one that has some.
        last = (probabilities > 0).long().mul(torch.arange(scores.shape[-1], device=scores.device)).amax(-1)
        return torch.minimum(found, last)

    def _nucleus(self, probabilities: Any, rows: list[int]) -> Any:
        """Probabilities with all but each row's top k, and of these all but its top p, set to zero."""
        import torch

        size = probabilities.shape[-1]
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        rank = torch.arange(size, device=probabilities.device)[None]
        k = torch.tensor([self._rows[i].top_k if self._rows[i].top_k > 0 else size for i in rows], device=probabilities.device)[:, None]
        ordered = ordered.where(rank < k, 0.0)
        before = ordered.cumsum(-1) - ordered
        limit = self._column("top_p", rows, probabilities) * ordered.sum(-1, keepdim=True)
        ordered = ordered.where((before < limit) | (rank == 0), 0.0)
        return torch.zeros_like(probabilities).scatter_(1, order, ordered)


class RowStopper:
    """A stopping criterion that ends each row by its own limit or stop strings, and all rows on request."""

    def __init__(
        self, rows: Sequence[RowParams], prompt_width: int, decode: Callable[[list[int]], str], stopping: Callable[[], bool]
    ) -> None:
        """``prompt_width`` is the number of columns of padding and prompt before what is generated."""
        self._rows = rows
        self._prompt_width = prompt_width
        self._decode = decode
        self._stopping = stopping
        self._ended = [False] * len(rows)

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """Which rows have ended."""
        import torch

        if self._stopping():
            return torch.ones(len(self._rows), dtype=torch.bool, device=input_ids.device)
        made = input_ids.shape[1] - self._prompt_width
        for index, row in enumerate(self._rows):
            if not self._ended[index]:
                self._ended[index] = made >= row.max_new_tokens or self._said_stop(input_ids[index], row)
        return torch.tensor(self._ended, device=input_ids.device)

    def _said_stop(self, ids: Any, row: RowParams) -> bool:
        """Whether what the row said holds one of its stop strings. Its tail is enough: earlier text was looked at before."""
        if not row.stop:
            return False
        longest = max(len(stop.encode()) for stop in row.stop)
        tail = self._decode(ids[self._prompt_width :][-(longest + 8) :].tolist())
        return any(stop in tail for stop in row.stop)


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """``text`` up to the first of the stop strings, and whether there was one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)
