"""Texts as an encoder reads them: token numbers within the model's limit. Pure: a tokenizer in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nbdream.errors import DataError


@dataclass(frozen=True)
class Encoded:
    """Tokenised texts, and what was done to them."""

    rows: list[list[int]]
    max_length: int
    truncated: int

    @property
    def tokens(self) -> int:
        """How many tokens are kept."""
        return sum(map(len, self.rows))


def encode(tokenizer: Any, texts: Sequence[str], *, max_length: int, truncate: bool) -> Encoded:
    """The tokens of each text; what ends a row is kept where it is cut. `DataError` names a row that may not be cut."""
    rows = [list(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]] if texts else []
    long = [number for number, ids in enumerate(rows) if len(ids) > max_length]
    if long and not truncate:
        raise DataError(
            f"row {long[0]} has {len(rows[long[0]])} tokens, and the model takes {max_length}",
            "truncate: true cuts it, max_length: sets the limit",
        )
    if long:
        cut = tokenizer([texts[number] for number in long], truncation=True, max_length=max_length)["input_ids"]
        for number, ids in zip(long, cut, strict=True):
            rows[number] = list(ids)
    return Encoded(rows, max_length, len(long))
