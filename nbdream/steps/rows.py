"""What a step's ``run`` may yield when it knows which row of its input each row comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(slots=True)
class Row:
    """One row: the values of the columns that the step makes, and the index of the input row it comes from."""

    values: Mapping[str, Any]
    source: int | None = None


@dataclass(slots=True)
class Failure:
    """A row that failed: which one of the input, why, and what the model really said."""

    source: int
    error: str
    said: str | None = None


@dataclass(slots=True)
class Selection:
    """Rows of the input, chosen all at once (take, shuffle, filter): their indices in the new order."""

    indices: pa.Array | Iterable[int]
