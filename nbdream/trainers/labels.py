"""The labels of a classifier: what its output column holds, and the numbers that they are learned as. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from nbdream.datasets import OutputDatasetColumn
from nbdream.errors import DataError

Label = str | int | bool
ID_TO_LABEL, LABEL_TO_ID = "id2label.json", "label2id.json"
"""The files beside a trained model: each number's label as the rows have it, and the number of each label's name."""


@dataclass(frozen=True)
class Labels:
    """All labels in order; ``multi``: a row may have any number of them."""

    values: tuple[Label, ...]
    multi: bool

    @classmethod
    def of(cls, rows: Iterable[Any]) -> Labels:
        """The labels that ``rows`` hold: values, or lists of them."""
        rows = list(rows)
        multi = any(isinstance(row, list) for row in rows)
        return cls(tuple(sorted({value for row in rows for value in row} if multi else set(rows))), multi)

    @property
    def names(self) -> list[str]:
        """The labels as texts, as a model's configuration has them."""
        return [str(value) for value in self.values]

    def numbers(self, rows: Iterable[Any]) -> list[Any]:
        """The number of each row's label; with ``multi`` a list of 1.0 and 0.0, a place a label."""
        at = {value: number for number, value in enumerate(self.values)}
        if not self.multi:
            return [at[row] for row in rows]
        return [[float(value in row) for value in self.values] for row in map(set, rows)]

    def files(self) -> dict[str, dict[str, Any]]:
        """What stands beside a trained model."""
        return {
            ID_TO_LABEL: {str(number): value for number, value in enumerate(self.values)},
            LABEL_TO_ID: {name: number for number, name in enumerate(self.names)},
        }


def values_of(id_to_label: Mapping[str, Label]) -> list[Label]:
    """The labels in order, from what `ID_TO_LABEL` holds."""
    return [id_to_label[number] for number in sorted(id_to_label, key=int)]


def labels_of(column: OutputDatasetColumn) -> Labels:
    """The labels of a column that a classifier can learn; `DataError` says why it cannot."""
    array = column.array()
    multi = _is_list(array.type)
    kind = array.type.value_type if multi else array.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise DataError(
            f"column {column.name!r} holds {array.type}, not labels", "labels are texts, whole numbers, true and false, or lists of these"
        )
    rows = array.to_pylist()
    for number, row in enumerate(rows):
        for value in row if isinstance(row, list) else [row]:
            if value is None or (isinstance(value, str) and not value.strip()):
                raise DataError(
                    f"row {number} of {column.name!r} {'is null' if row is None else 'has no label'}", "leave such rows out: .filter(…)"
                )
    found = Labels.of(rows)
    _check_there_is_a_choice(column.name, rows, found)
    return found


def check_known(column: OutputDatasetColumn, known: Labels) -> None:
    """Raise `DataError` for a row of ``column`` with a label that is not among ``known``."""
    rows = column.array().to_pylist()
    if rows and _is_list(column.array().type) != known.multi:
        raise DataError(
            f"{column.name!r} holds {'one label' if known.multi else 'lists'}, unlike the training rows", "give both the same form"
        )
    there = {(type(value), value) for value in known.values}  # 1 and True are equal, and not the same label
    for number, row in enumerate(rows):
        for value in row if isinstance(row, list) else [row]:
            if (type(value), value) not in there:
                hint = "leave such rows out, or put rows with this label among the training rows"
                raise DataError(f"row {number} of {column.name!r} has the label {value!r}, which no training row has", hint)


def _check_there_is_a_choice(name: str, rows: Sequence[Any], found: Labels) -> None:
    if not found.values:
        raise DataError(f"no row of {name!r} has a label", "give a column with labels")
    if found.multi and any(len(set(row)) != len(found.values) for row in rows):
        return
    if found.multi or len(found.values) == 1:
        raise DataError(f"every row of {name!r} has the label {found.values[0]!r}", "a classifier needs rows of at least two kinds")


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
