"""Rows in batches that transformers' `generate` writes, for models whose state cannot be cut by rows."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch  # noqa: TID253 - only a worker imports this module

from nbdream.workers.memory import NO_MEMORY, free_memory, out_of_memory
from nbdream.workers.sampling import Row, RowSampler, RowStopper
from nbdream.workers.sizing import Sizing
from nbdream.workers.writing import Work, answer

BATCH_ROWS = 64


class InBatches:
    """Rows of like length in a batch of `generate`, which runs until the longest has ended."""

    def __init__(self, model: Any, work: Work, *, seq2seq: bool, pad: int) -> None:
        self.model = model
        self.work = work
        self.seq2seq = seq2seq
        self.pad = pad
        self.waiting: deque[Row] = deque()
        self.sizing = Sizing()
        self.sizing.rows = BATCH_ROWS

    def add(self, row: Row) -> None:
        """Another row to write."""
        self.waiting.append(row)

    @property
    def busy(self) -> bool:
        """Whether there is something to do."""
        return bool(self.waiting)

    def clear(self) -> list[Row]:
        """Give all rows up."""
        rows = list(self.waiting)
        self.waiting.clear()
        return rows

    def step(self) -> None:
        """Write the oldest row, and with it those of the most like length."""
        live = [row for row in self.waiting if not self.work.gone(row)]
        if not live:
            self.waiting.clear()
            return
        length = len(live[0].prompt)
        live.sort(key=lambda row: abs(len(row.prompt) - length))
        rows = live[: self.sizing.rows]
        self.waiting = deque(row for row in self.waiting if row not in rows)
        try:
            with torch.inference_mode():
                self._together(rows)
            return
        except Exception as error:
            left = [row for row in rows if row.ended is None]
            if not out_of_memory(error):
                self.waiting.extendleft(left)
                raise
        free_memory()
        if len(rows) == 1 and left:
            left[0].error = NO_MEMORY
            self.work.done(left[0])
            return
        self.sizing.rows = max(1, len(rows) // 2)
        for row in left:
            row.begin_again()
        self.waiting.extendleft(reversed(left))

    def _together(self, rows: list[Row]) -> None:
        width = max(1, *(len(row.prompt) for row in rows))
        tokens = torch.full((len(rows), width), self.pad)
        mask = torch.zeros_like(tokens)
        for number, row in enumerate(rows):
            place = slice(0, len(row.prompt)) if self.seq2seq else slice(width - len(row.prompt), width)
            tokens[number, place] = torch.tensor(row.prompt, dtype=tokens.dtype)
            mask[number, place] = 1
        device = self.model.device
        self.model.generate(
            input_ids=tokens.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=max(row.params.max_new_tokens for row in rows),
            pad_token_id=self.pad,
            eos_token_id=sorted(self.work.ends) or None,
            logits_processor=[RowSampler(rows)],
            stopping_criteria=[RowStopper(rows, self._took)],
        )

    def _took(self, row: Row, token: int) -> bool:
        if self.work.gone(row):
            row.ended = "gone"
            return True
        ended = row.take(token, self.work.ends, self.work.decode)
        if ended:
            answer(self.work, row)
        return ended
