"""Writing the answers of many rows at once: whoever has ended makes room for the next one at the next token.

`RowByRow` holds the keys and values of the running rows itself and is what models of the usual kind get; `InBatches` leaves a batch to
`generate` of transformers, for those whose state cannot be cut by rows. Both take rows with `add`, and go on by a `step` at a time.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import torch  # noqa: TID253 - only a worker imports this module

from nbdream.workers.in_batches import InBatches
from nbdream.workers.kv_cache import RowCache
from nbdream.workers.memory import NO_MEMORY, free_memory, out_of_memory
from nbdream.workers.sampling import Row, Sampler
from nbdream.workers.sizing import Sizing
from nbdream.workers.traits import forward_parameters, turn, unfit
from nbdream.workers.writing import Work, answer

READ_TOKENS = (256, 1024, 16384)
"""Tokens of prompts that are read together: at least, at first, at most."""
READ_SECONDS = 0.5
PADDING = 256
"""Tokens of padding that cost less than reading prompts in two parts."""
PATIENCE = 8
"""Steps after which a row that waits is taken in even if it comes alone."""


class RowByRow:
    """Continuous batching over a cache of our own."""

    def __init__(self, model: Any, work: Work) -> None:
        self.model = model
        self.work = work
        self.sizing = Sizing()
        self.waiting: deque[Row] = deque()
        self.running: list[Row] = []
        self._sampler = Sampler()
        self._cache: RowCache | None = None
        self._read_tokens = READ_TOKENS[1]
        self._waited = self._passed = 0
        self._turn = turn(model)
        self._keeps_logits = "logits_to_keep" in forward_parameters(model)

    def add(self, row: Row) -> None:
        """Another row to write."""
        self.waiting.append(row)

    @property
    def busy(self) -> bool:
        """Whether there is something to do."""
        return bool(self.waiting or self.running)

    def clear(self) -> list[Row]:
        """Give all rows up."""
        rows = [row for row in (*self.running, *self.waiting) if row.ended is None]
        self._reset()
        self.waiting.clear()
        return rows

    def step(self) -> None:
        """Read some prompts, or write one token of every running row."""
        self.waiting = deque(row for row in self.waiting if not self.work.gone(row))
        rows: list[Row] = []
        try:
            with torch.inference_mode():
                self._leave([place for place, row in enumerate(self.running) if self.work.gone(row)])
                rows = self._next() if self._may_join() else []
                if rows:
                    self._read(rows)
                elif self.running:
                    self._write()
            return
        except Exception as error:
            if not out_of_memory(error):
                self.waiting.extendleft(rows)
                raise
        # Out of the handler, whose traceback holds the tensors.
        self._start_again(rows)

    # --- reading prompts --------------------------------------------------------------------------------------------------

    def _may_join(self) -> bool:
        """Whether it pays to read prompts now: every reading holds up those that run."""
        ready = min(len(self.waiting), self.sizing.rows - len(self.running))
        if ready <= 0:
            return False
        self._waited += 1
        return not self.running or ready >= max(1, self.sizing.rows // 8) or self._waited > PATIENCE

    def _next(self) -> list[Row]:
        """The rows to read next: of those that have waited longest, some of like length."""
        free = self.sizing.rows - len(self.running)
        oldest = [self.waiting[place] for place in range(min(free, len(self.waiting)))]
        widest = self._cache.width if self._cache is not None else 0
        if self.running and not self.sizing.fits(len(self.running) + 1, max(widest, len(oldest[0].tokens)) + 1):
            return []  # nobody overtakes it, or it would wait for ever
        first = oldest[0]
        if self._alone(first) or any(map(self._alone, self.running)):
            return [] if self.running else [self.waiting.popleft()]
        oldest = sorted((row for row in oldest if not self._alone(row)), key=lambda row: (len(row.tokens), row.tokens))
        chosen: list[Row] = []
        texts = whole = 0  # equal prompts are read once, and lie side by side here
        for row in oldest:
            length = len(row.tokens)
            new = not chosen or chosen[-1].tokens != row.tokens
            padding = length * texts - whole
            if chosen and new and (length * (texts + 1) > self._read_tokens or (padding > PADDING and padding > whole // 4)):
                break
            if self.sizing.fits(len(self.running) + len(chosen) + 1, max(widest, length) + 1) or not (self.running or chosen):
                chosen.append(row)
                texts, whole = texts + new, whole + length * new
        self._passed = 0 if first in chosen else self._passed + 1
        if self._passed > PATIENCE:
            self._passed, chosen = 0, [first]
        for row in chosen:
            self.waiting.remove(row)
        return chosen

    def _alone(self, row: Row) -> bool:
        """Whether a row may get so long that the model would count its neighbours' positions otherwise."""
        return self._turn is not None and len(row.prompt) + row.params.max_new_tokens > self._turn

    def _read(self, rows: list[Row]) -> None:
        """Read prompts, each different one once, and take the first token of each row."""
        begin = time.monotonic()
        texts: dict[tuple[int, ...], int] = {}
        sources = [texts.setdefault(tuple(row.tokens), len(texts)) for row in rows]
        lengths = [len(text) for text in texts]
        cache = RowCache.for_prompts(self.model.config, lengths)
        width = max(lengths)
        tokens = torch.tensor([[0] * (width - len(text)) + list(text) for text in texts], device=self.model.device)
        mask = cache.mask(lengths, self.model.device)
        logits = self._forward(cache, tokens, mask, (mask.long().cumsum(-1) - 1).clamp(min=0))
        cache.read(lengths)
        sampler = Sampler()
        sampler.add(rows)
        chosen = sampler.choose(logits[torch.tensor(sources, device=logits.device)]).tolist()
        stay = [place for place, (row, token) in enumerate(zip(rows, chosen, strict=True)) if not self._took(row, token)]
        if stay:
            if self._cache is None:
                self._cache = RowCache(self.model.config, len(stay), width + RowCache.SLACK)
            self._cache.join(cache, [sources[place] for place in stay])
            joining = [rows[place] for place in stay]
            self._sampler.add(joining)
            self.running += joining
        if self.model.device.type == "cpu":
            self.sizing.note_memory(cache.cell_bytes)
        self._waited = 0
        self._pace_reading(len(texts) * width, time.monotonic() - begin)

    def _pace_reading(self, tokens: int, seconds: float) -> None:
        least, _, most = READ_TOKENS
        if seconds > READ_SECONDS:
            self._read_tokens = max(least, self._read_tokens // 2)
        elif tokens > self._read_tokens // 2 and seconds < READ_SECONDS / 4:
            self._read_tokens = min(most, self._read_tokens * 2)

    # --- writing ----------------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """One more token of every running row."""
        begin = time.monotonic()
        cache = self._cache
        assert cache is not None
        while not self.sizing.fits(len(self.running), cache.width + 1):  # the youngest are read again later
            self.waiting.appendleft(self.running[-1])
            self._leave([len(self.running) - 1])
        rows = len(self.running)
        cache.reserve(rows, 0)
        one = [1] * rows
        device = self.model.device
        tokens = torch.tensor([[row.said[-1]] for row in self.running], device=device)
        positions = torch.tensor(cache.lengths, device=device)[:, None]
        logits = self._forward(cache, tokens, cache.mask(one, device), positions)
        cache.read(one)
        chosen = self._sampler.choose(logits).tolist()
        self._leave([place for place, (row, token) in enumerate(zip(self.running, chosen, strict=True)) if self._took(row, token)])
        self.sizing.step(rows, time.monotonic() - begin)

    def _forward(self, cache: RowCache, tokens: Any, mask: Any, positions: Any) -> Any:
        """The scores of each row's next token."""
        more = {"logits_to_keep": 1} if self._keeps_logits else {}
        out = self.model(
            input_ids=tokens, attention_mask=mask.long(), position_ids=positions, past_key_values=cache, use_cache=True, **more
        )
        return out.logits[:, -1]

    def _took(self, row: Row, token: int) -> bool:
        ended = row.take(token, self.work.ends, self.work.decode)
        if ended:
            answer(self.work, row)
        return ended

    def _leave(self, gone: list[int]) -> None:
        """Take rows off that have ended."""
        if not gone:
            return
        if len(gone) == len(self.running):
            self._reset()
            return
        assert self._cache is not None
        order = self._cache.leave(gone)
        self._sampler.keep(order)
        self.running = [self.running[place] for place in order]

    def _reset(self) -> None:
        self.running, self._cache, self._sampler = [], None, Sampler()

    def _start_again(self, rows: list[Row]) -> None:
        """Memory is full: what was written stays, and fewer rows are read again."""
        together = [row for row in (*self.running, *rows) if row.ended is None]
        if not together:
            self._reset()
            return
        width = max(len(row.tokens) for row in together) + 1
        self._reset()
        free_memory()
        if len(together) == 1:
            together[0].error = NO_MEMORY
            self.work.done(together[0])
            return
        self.sizing.too_much(len(together), width)
        self.waiting.extendleft(reversed(together))


def writer(model: Any, work: Work, *, seq2seq: bool, pad: int) -> RowByRow | InBatches:
    """The writer for a model."""
    if seq2seq or any(unfit(model)):
        return InBatches(model, work, seq2seq=seq2seq, pad=pad)
    return RowByRow(model, work)
