"""How likely a model holds given answers: their tokens and the sum of their negative log-likelihoods, in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch  # noqa: TID253 - only a worker imports this module

from nbdream.trainers.completion import IGNORED, labelled, rendered
from nbdream.workers.memory import NO_MEMORY, free_memory, out_of_memory
from nbdream.workers.traits import forward_parameters, without_adapter

PAIRS = 64
"""Pairs that are read together at most."""
TOKENS = 16_384
"""Tokens, with their padding, that are read together at most."""
LOGITS = 2**26
"""Numbers over the vocabulary that are held at once: a quarter of a GB."""


@dataclass(slots=True, eq=False)
class Pair:
    """A prompt and an answer as tokens; what is not of the answer has the label `IGNORED`."""

    number: int
    ids: list[int]
    labels: list[int]

    @property
    def first(self) -> int:
        """The position of the answer's first token."""
        return next((at for at, label in enumerate(self.labels) if label != IGNORED), len(self.labels) - 1)

    @property
    def tokens(self) -> int:
        """How many tokens of the answer count."""
        return sum(label != IGNORED for label in self.labels)


class Work(Protocol):
    """What the scoring knows of those it works for."""

    stopped: Collection[int]

    @property
    def context(self) -> int | None:
        """How many tokens the model takes."""

    def say(self, number: int, answer: dict[str, Any]) -> None:
        """The answer to a question."""


class Scoring:
    """Pairs that wait, and the model that reads them. It takes pairs with `add` and goes on by a `step` at a time."""

    def __init__(self, model: Any, tokenizer: Any, work: Work, *, seq2seq: bool, pad: int, template: str | None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.work = work
        self.seq2seq = seq2seq
        self.pad = pad
        self.template = template
        self.waiting: deque[Pair] = deque()
        self.pairs = PAIRS
        # A model with code of its own may take a number there and nothing else.
        ours = type(without_adapter(model)).__module__.startswith("transformers.")
        self._keeps_logits = ours and "logits_to_keep" in forward_parameters(model)

    def add(self, number: int, prompt: Sequence[int], messages: Sequence[Mapping[str, str]], answer: str) -> None:
        """Another pair; ``prompt``: the tokens of ``messages``, which an encoder reads by themselves."""
        if self.seq2seq:
            pair = Pair(number, list(prompt), list(self.tokenizer(text_target=answer)["input_ids"]))
        else:
            before, whole, special = rendered(self.tokenizer, messages, answer, self.template)
            pair = Pair(number, *labelled(self.tokenizer, before, whole, special=special))
        if not self.seq2seq and self.work.context is not None and len(pair.ids) > self.work.context:
            self._failed(pair, f"prompt and answer have {len(pair.ids)} tokens, the model takes {self.work.context}")
        elif not pair.tokens:
            self._failed(pair, "the answer has no token")
        else:
            self.waiting.append(pair)

    @property
    def busy(self) -> bool:
        """Whether there is something to do."""
        return bool(self.waiting)

    def clear(self) -> list[Pair]:
        """Give all pairs up."""
        pairs = list(self.waiting)
        self.waiting.clear()
        return pairs

    def step(self) -> None:
        """Read the pair that has waited longest, and with it those of the most like length."""
        self.waiting = deque(pair for pair in self.waiting if pair.number not in self.work.stopped)
        if not self.waiting:
            return
        pairs = self._next()
        try:
            with torch.inference_mode():
                sums = self._encoded(pairs) if self.seq2seq else self._causal(pairs)
        except Exception as error:
            if not out_of_memory(error):
                raise
            sums = None
        if sums is None:  # out of the handler, whose traceback holds the tensors
            self._with_fewer(pairs)
            return
        self.waiting = deque(pair for pair in self.waiting if pair not in pairs)
        for pair, total in zip(pairs, sums, strict=True):
            self.work.say(pair.number, {"nll": total, "tokens": pair.tokens, "input_tokens": len(pair.ids)})

    def _next(self) -> list[Pair]:
        oldest = self.waiting[0]
        length = len(oldest.ids)
        near = sorted(self.waiting, key=lambda pair: (pair is not oldest, abs(len(pair.ids) - length)))
        widest, first, last, chosen = 0, length, 0, list[Pair]()
        vocabulary = self.model.config.get_text_config().vocab_size
        for pair in near[: self.pairs]:
            widest = max(widest, len(pair.ids))
            first, last = min(first, 0 if self.seq2seq else pair.first), max(last, len(pair.labels))
            kept = last - first if self._keeps_logits or self.seq2seq else widest
            rows = len(chosen) + 1
            if chosen and (rows * widest > TOKENS or rows * kept * vocabulary > LOGITS):
                break
            chosen.append(pair)
        return chosen

    def _with_fewer(self, pairs: list[Pair]) -> None:
        """Memory is full: the same with half as many."""
        free_memory()
        self.pairs = max(1, len(pairs) // 2)
        if len(pairs) == 1:
            self.waiting.remove(pairs[0])
            self._failed(pairs[0], NO_MEMORY)

    def _failed(self, pair: Pair, message: str) -> None:
        self.work.say(pair.number, {"failure": {"kind": "row", "message": message, "status": None}})

    # --- reading ------------------------------------------------------------------------------------------------------

    def _filled(self, rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
        """Rows side by side, filled up at the right: there a causal model needs no word on where they begin."""
        width = max(map(len, rows))
        return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], device=self.model.device)

    def _causal(self, pairs: list[Pair]) -> list[float]:
        ids = [pair.ids for pair in pairs]
        labels = self._filled([pair.labels for pair in pairs], IGNORED)
        first = min(pair.first for pair in pairs) - 1  # a token is told by the one before it
        last = labels.shape[1] - 1
        some = {"logits_to_keep": torch.arange(first, last, device=labels.device)} if self._keeps_logits else {}
        mask = self._filled([[1] * len(row) for row in ids], 0)
        logits = self.model(input_ids=self._filled(ids, self.pad), attention_mask=mask, use_cache=False, **some).logits
        return _sums(logits if some else logits[:, first:last], labels[:, first + 1 :])

    def _encoded(self, pairs: list[Pair]) -> list[float]:
        ids = [pair.ids for pair in pairs]
        labels = self._filled([pair.labels for pair in pairs], IGNORED)
        told = without_adapter(self.model).prepare_decoder_input_ids_from_labels(labels=labels)
        mask = self._filled([[1] * len(row) for row in ids], 0)
        read = self._filled(ids, self.pad)
        return _sums(self.model(input_ids=read, attention_mask=mask, decoder_input_ids=told, use_cache=False).logits, labels)


def _sums(logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """The negative log-likelihood of each row's labels."""
    each = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten().to(logits.device), ignore_index=IGNORED, reduction="none"
    )
    sums: list[float] = each.view(labels.shape).double().sum(1).tolist()
    return sums
