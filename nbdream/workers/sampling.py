"""Sampling the rows of a batch, each by its own parameters and its own random numbers.

A row's numbers come from its seed alone, so what a row says does not depend on its neighbours in a batch.
Every draw takes one uniform number and inverts the distribution's cumulated sum.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbdream.workers.guided import Guide, mask

CANDIDATES = 1024
"""Of a large vocabulary, this many likeliest tokens nearly always hold the top p; sorting all of it costs more than the model."""


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
    ends: frozenset[int] = frozenset()
    """Tokens that end this row: stop strings that are special tokens, of which no text is left when they are said."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)


class Row:
    """A request on its way: its prompt, what it has said so far, and why it ended."""

    def __init__(self, number: int, prompt: list[int], params: RowParams, guide: Guide | None = None, before: Sequence[int] = ()) -> None:
        """``before`` are tokens that count for the repetition penalty beside what is said; default: the prompt."""
        self.number = number
        self.prompt = prompt
        self.params = params
        self.guide = guide
        self.said: list[int] = []
        self.ended: str | None = None
        """``stop`` or ``length``."""
        self.error: str | None = None
        self._before = before or prompt
        self._random = random.Random(params.seed)
        self._drawn: list[float] = []
        self._tail = max((len(stop.encode()) for stop in params.stop), default=0) + 8

    @property
    def tokens(self) -> list[int]:
        """Prompt and answer."""
        return self.prompt + self.said

    @property
    def heard(self) -> list[int]:
        """The tokens that the repetition penalty counts."""
        return [*self._before, *self.said]

    def draw(self) -> float:
        """The random number of the row's next token: the same until it has taken one."""
        while len(self._drawn) <= len(self.said):
            self._drawn.append(self._random.random())
        return self._drawn[len(self.said)]

    def begin_again(self) -> None:
        """Forget what was said."""
        self.said = []
        if self.guide is not None:
            self.guide.begin_again()

    def take(self, token: int, ends: frozenset[int], decode: Callable[[list[int]], str]) -> bool:
        """Add a token; whether the row has ended with it."""
        if token in ends or token in self.params.ends:
            self.ended = "stop"
            return True
        self.said.append(token)
        if self.guide is not None:
            self.error = self.guide.take(token)
        if self.error is not None or (self.guide is not None and self.guide.complete) or self._said_stop(decode):
            self.ended = "stop"
        elif len(self.said) >= self.params.max_new_tokens:
            self.ended = "length"
        return self.ended is not None

    def _said_stop(self, decode: Callable[[list[int]], str]) -> bool:
        """Whether what the row said holds one of its stop strings. Its tail is enough: earlier text was looked at before."""
        if not self.params.stop:
            return False
        tail = decode(self.said[-self._tail :])
        return any(stop in tail for stop in self.params.stop)


class Sampler:
    """Chooses the next token of each row of a batch whose rows come and go."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._seen: Any = None
        """Which tokens each row has read or said, where a row has a repetition penalty."""
        self._made: dict[str, Any] = {}
        """What depends on who is in the batch."""

    def add(self, rows: Iterable[Row]) -> None:
        """Rows that come in, after those that are there."""
        rows = list(rows)
        self.rows += rows
        self._made = {}
        if self._seen is not None:
            self._seen = _joined(self._seen, rows)

    def keep(self, places: Sequence[int]) -> None:
        """Only the rows at ``places`` stay, in that order."""
        self.rows = [self.rows[place] for place in places]
        self._made = {}
        if self._seen is not None:
            self._seen = self._seen[list(places)] if any(row.params.repetition_penalty != 1 for row in self.rows) else None

    def choose(self, scores: Any) -> Any:
        """One token a row, from the scores of all tokens, which are changed."""
        import torch

        scores = self._biased(self._penalised(scores.float()))
        guided = [(place, row.guide) for place, row in enumerate(self.rows) if row.guide is not None and row.ended is None]
        if guided:
            mask(scores, guided)
        chosen = scores.argmax(-1)
        sampled = [place for place, row in enumerate(self.rows) if row.params.temperature > 0]
        if sampled:
            numbers = [self.rows[place].draw() for place in sampled]
            where = self._remember("where", lambda: torch.tensor(sampled, device=scores.device))
            chosen[where] = self._draw(scores if len(sampled) == len(self.rows) else scores[where], sampled, numbers)
        if self._seen is not None:
            self._seen.scatter_(1, chosen[:, None], True)
        return chosen

    def _remember(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _penalised(self, scores: Any) -> Any:
        """Scores after the repetition penalty of prompt and answer."""
        import torch

        penalties = [row.params.repetition_penalty for row in self.rows]
        if all(penalty == 1 for penalty in penalties):
            return scores
        if self._seen is None:
            empty = torch.zeros((0, scores.shape[-1]), dtype=torch.bool, device=scores.device)
            self._seen = _joined(empty, self.rows)
        penalty = self._remember("penalty", lambda: scores.new_tensor(penalties)[:, None])
        return torch.where(self._seen, torch.where(scores > 0, scores / penalty, scores * penalty), scores)

    def _biased(self, scores: Any) -> Any:
        """Scores with each row's logit bias added."""
        import torch

        biases = [(place, token, bias) for place, row in enumerate(self.rows) for token, bias in row.params.logit_bias.items()]
        if not biases:
            return scores
        places, tokens, values = (torch.tensor(part, device=scores.device) for part in zip(*biases, strict=True))
        return scores.index_put_((places, tokens), values.to(scores.dtype), accumulate=True)

    def _column(self, name: str, rows: list[int], like: Any) -> Any:
        """A parameter of the sampled rows as a column tensor."""
        return self._remember(name, lambda: like.new_tensor([getattr(self.rows[place].params, name) for place in rows])[:, None])

    def _draw(self, scores: Any, rows: list[int], numbers: list[float]) -> Any:
        """One token a row, drawn from its filtered distribution."""
        import torch

        probabilities = (scores / self._column("temperature", rows, scores)).softmax(-1)
        if any(self.rows[place].params.min_p > 0 for place in rows):
            least = self._column("min_p", rows, scores)
            probabilities = probabilities.where(probabilities >= least * probabilities.amax(-1, keepdim=True), 0.0)
        params = [self.rows[place].params for place in rows]
        if any(0 < each.top_k < scores.shape[-1] or each.top_p < 1 for each in params):
            probabilities = self._nucleus(probabilities, rows, params)
        # The sum over a large vocabulary loses digits in single precision; Metal has no double precision.
        exact = torch.float32 if scores.device.type == "mps" else torch.float64
        total = probabilities.to(exact).cumsum(-1)
        aim = torch.tensor(numbers, dtype=exact, device=scores.device)[:, None] * total[:, -1:]
        found = torch.searchsorted(total, aim, right=True)[:, 0].clamp(max=scores.shape[-1] - 1)
        # The last tokens may have no probability: then the sum is reached at the last one that has some.
        last = (probabilities > 0).long().mul(torch.arange(scores.shape[-1], device=scores.device)).amax(-1)
        return torch.minimum(found, last)

    def _nucleus(self, probabilities: Any, rows: list[int], params: list[RowParams]) -> Any:
        """Probabilities with all but each row's top k, and of these all but its top p, set to zero."""
        import torch

        size = probabilities.shape[-1]
        most = [each.top_k if each.top_k > 0 else size for each in params]
        filtered = [place for place, each in enumerate(params) if each.top_k > 0 or each.top_p < 1]
        likely = max(most[place] if params[place].top_k > 0 else CANDIDATES for place in filtered)
        wide = [place for place in filtered if most[place] > likely]
        if likely < size:
            ordered = probabilities.topk(likely, dim=-1).values
            held = self._column("top_p", rows, probabilities)[wide] * probabilities[wide].sum(-1, keepdim=True)
            if wide and not bool((ordered[wide].sum(-1, keepdim=True) >= held).all()):
                likely = size
        if likely >= size:
            ordered = probabilities.sort(dim=-1, descending=True).values
        rank = torch.arange(ordered.shape[-1], device=probabilities.device)[None]
        k = self._remember("k", lambda: torch.tensor(most, device=probabilities.device)[:, None])
        held = ordered.where(rank < k, 0.0)
        whole = torch.where(k < size, held.sum(-1, keepdim=True), probabilities.sum(-1, keepdim=True))
        before = held.cumsum(-1) - held
        held = held.where((before < self._column("top_p", rows, probabilities) * whole) | (rank == 0), 0.0)
        # By value, not by rank: which of equal tokens comes first depends on how many are ordered, and so on the neighbours.
        least = held.where(held > 0, 2.0).amin(-1, keepdim=True)
        cut = probabilities.where(probabilities >= least, 0.0)
        if len(filtered) == len(rows):
            return cut
        free = [place for place in range(len(rows)) if place not in filtered]
        cut[free] = probabilities[free]
        return cut


def _joined(seen: Any, rows: list[Row]) -> Any:
    """``seen`` with what further rows have read or said."""
    import torch

    more = seen.new_zeros((len(rows), seen.shape[1]))
    for place, row in enumerate(rows):
        if row.params.repetition_penalty != 1:
            more[place, torch.tensor(row.heard, device=seen.device)] = True
    return torch.cat([seen, more])


class RowSampler:
    """A logits processor that leaves each row one token to take: the one its parameters and its seed choose."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._sampler = Sampler()
        self._sampler.add(rows)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores that leave one token a row."""
        import torch

        chosen = self._sampler.choose(scores)
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen[:, None], 0.0)


class RowStopper:
    """A stopping criterion that ends each row by its own rule."""

    def __init__(self, rows: Sequence[Row], took: Callable[[Row, int], bool]) -> None:
        """``took`` is told of each row's next token and says whether the row has ended."""
        self._rows = rows
        self._took = took
        self._ended = [False] * len(rows)

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """Which rows have ended."""
        import torch

        for place, (row, token) in enumerate(zip(self._rows, input_ids[:, -1].tolist(), strict=True)):
            if not self._ended[place]:
                self._ended[place] = self._took(row, token)
        return torch.tensor(self._ended, device=input_ids.device)


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """``text`` up to the first of the stop strings, and whether there was one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)
