"""`Sheet`: pages of a table, in any order, from the columns as they lie on disk. A page reads the rows it shows and nothing else.

Orders are made by Arrow over whole columns and remembered, so that a page after the first costs what its rows cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from nbdream.datasets import Column, OutputDataset
from nbdream.errors import ArgumentError, ColumnError, nearest
from nbdream.escape import visible
from nbdream.widgets import conditions, words
from nbdream.widgets.cells import Cell, as_text, beside, cell, shown_parts
from nbdream.widgets.orders import ORDERS, Orders
from nbdream.widgets.request import MOST_COLUMNS, Request
from nbdream.widgets.table import LONGEST

VALUE = 1_000_000
"""Characters of one value that is asked for whole."""
FAILED = ("row", "error", "said")
"""The columns that say how a row failed."""


@dataclass(frozen=True, slots=True)
class Field:
    """A column as it is shown."""

    name: str
    column: Column
    rows: int
    beside: str = ""
    """The column whose difference from this one is shown."""

    def array(self, rows: int) -> pa.ChunkedArray:
        """All values; nulls where this column has fewer rows than the table."""
        values = conditions.plain(self.column.array())
        missing = rows - self.rows
        return pa.chunked_array([*values.chunks, pa.nulls(missing, values.type)], values.type) if missing > 0 else values

    def mask(self, condition: Callable[[pa.ChunkedArray], conditions.Mask], rows: int) -> conditions.Mask:
        """Where ``condition`` holds, of all rows."""
        found = self.column.computed(lambda values: condition(conditions.plain(values)))
        missing = rows - self.rows
        whole = pa.chunked_array([*found.chunks, pa.nulls(missing, pa.bool_())], pa.bool_()) if missing > 0 else found
        return conditions.known(whole)

    def values(self, rows: Sequence[int]) -> list[Any]:
        """The values of some rows."""
        return self.column.values([row if row < self.rows else None for row in rows])


class Sheet:
    """The pages of one table."""

    def __init__(self, fields: Sequence[Field], failures: Sheet | None = None, orders: Orders = ORDERS) -> None:
        self.fields = {field.name: field for field in fields}
        self.rows = max((field.rows for field in fields), default=0)
        self.failures = failures
        self._orders = orders
        self._number = orders.owner()

    @classmethod
    def of(cls, rows: OutputDataset, failures: OutputDataset | None = None) -> Sheet:
        """The pages of rows, and of the rows that failed when they were made."""
        below = None
        if failures is not None and failures.num_rows:
            why = [name for name in FAILED if name in failures.column_names]
            names = [*why, *(name for name in failures.column_names if name not in why)]
            below = cls([Field(name, failures.column(name), failures.num_rows) for name in names])
        return cls([Field(name, rows.column(name), rows.num_rows) for name in rows.column_names], below)

    # --- answers ----------------------------------------------------------------------------------------------------

    def page(self, request: Request, longest: int = LONGEST) -> dict[str, Any]:
        """One page: the numbers of its rows and their cells, and how many rows there are in this order."""
        if request.failures:
            return self._failed().page(replace(request, changed=False, failures=False), longest) | {"failures": self._failed().rows}
        order = self._order(request)
        total = self.rows if order is None else len(order)
        start, end = min(request.start, total), min(request.start + request.count, total)
        numbers = list(range(start, end)) if order is None else order.slice(start, end - start).to_pylist()
        fields = self._shown(request.columns)
        columns = self._cells(fields, numbers, longest)
        return {
            "columns": [self._head(field) for field in fields],
            "column_count": len(self.fields),
            "start": start,
            "numbers": numbers,
            "rows": [list(row) for row in zip(*columns, strict=True)] if columns else [],
            "total": total,
            "all": self.rows,
            "failures": 0 if self.failures is None else self.failures.rows,
        }

    def value(self, row: int, column: str, failures: bool = False) -> dict[str, Any]:
        """One whole value, up to a million characters."""
        if failures:
            return self._failed().value(row, column)
        field = self._field(column)
        if not 0 <= row < self.rows:
            raise ArgumentError(f"there is no row {row}", f"the table has {self.rows:,}")
        text = as_text(field.values([row])[0])
        length = len(text or "")
        answer: dict[str, Any] = {"text": None if text is None else visible(text[:VALUE]), "length": length}
        if field.beside and text is not None:
            other = as_text(self._field(field.beside).values([row])[0])
            if other is not None and other != text and length + len(other) <= VALUE:
                answer["parts"] = shown_parts(words.differences(text, other)[0])
        return answer

    def _failed(self) -> Sheet:
        if self.failures is None:
            raise ArgumentError("no row failed", "there is nothing to show")
        return self.failures

    def _head(self, field: Field) -> dict[str, str]:
        head = {"name": field.name, "type": str(field.column.type)}
        return {**head, "beside": field.beside} if field.beside else head

    def _shown(self, columns: Sequence[str] | None) -> list[Field]:
        names = list(self.fields) if columns is None else columns
        return [self._field(name) for name in names[:MOST_COLUMNS]]

    def _field(self, name: str) -> Field:
        try:
            return self.fields[name]
        except KeyError:
            raise ColumnError(f"there is no column {name!r}", nearest(name, self.fields, "the columns are")) from None

    def _cells(self, fields: Sequence[Field], numbers: Sequence[int], longest: int) -> list[list[Cell]]:
        texts = {field.name: [as_text(value) for value in field.values(numbers)] for field in fields}
        made: dict[str, list[Cell]] = {}
        for field in fields:
            if field.name in made:
                continue
            if field.beside in texts:
                pairs = [beside(*pair, longest) for pair in zip(texts[field.name], texts[field.beside], strict=True)]
                made[field.name], made[field.beside] = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            else:
                made[field.name] = [cell(text, longest) for text in texts[field.name]]
        return [made[field.name] for field in fields]

    # --- which rows, in which order ---------------------------------------------------------------------------------

    def _order(self, request: Request) -> Any:
        """The numbers of the rows; None for all of them as they lie."""
        asked = (request.sort, request.search, request.filter, request.changed)
        return self._orders.get((self._number, *asked), lambda: self._sorted(request)) if any(asked) else None

    def _sorted(self, request: Request) -> Any:
        import pyarrow.compute as pc

        mask = self._mask(request)
        rows: Any = None if mask is None else pc.indices_nonzero(mask)
        if request.sort:
            keys = [(str(number), "descending" if reverse else "ascending") for number, (_, reverse) in enumerate(request.sort)]
            columns = [self._field(name).array(self.rows) for name, _ in request.sort]
            found = pa.table({str(number): column if mask is None else column.filter(mask) for number, column in enumerate(columns)})
            try:
                order = pc.sort_indices(found, sort_keys=keys)
            except (pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
                kinds = ", ".join(str(column.type) for column in columns)
                raise ArgumentError(f"rows cannot be sorted by a column of {kinds}", "sort by another column") from error
            rows = order if rows is None else rows.take(order)
        return rows.cast(pa.uint32()) if self.rows < 2**32 else rows

    def _mask(self, request: Request) -> Any:
        """Where all that is asked for holds; None when nothing is."""
        import pyarrow.compute as pc

        masks = []
        if request.search:
            texts = [field for field in self.fields.values() if conditions.is_text(field.column.type)]
            found = [field.mask(lambda values: conditions.contains(values, request.search), self.rows) for field in texts]
            masks.append(self._anywhere(found))
        masks += [self._field(name).mask(conditions.fits(condition, name), self.rows) for name, condition in request.filter]
        if request.changed:
            pairs = {frozenset((field.name, field.beside)) for field in self.fields.values() if field.beside}
            sides = [[self.fields[name].array(self.rows) for name in pair] for pair in pairs]
            masks.append(self._anywhere([conditions.differs(*pair) for pair in sides]))
        return _folded(pc.and_, masks) if masks else None

    def _anywhere(self, masks: Sequence[conditions.Mask]) -> conditions.Mask:
        """Where one of the masks holds; nowhere when there are none."""
        import pyarrow.compute as pc

        return _folded(pc.or_, masks) if masks else pa.chunked_array([pa.repeat(pa.scalar(False), self.rows)])


def _folded(combine: Any, masks: Sequence[Any]) -> Any:
    whole, *others = masks
    for mask in others:
        whole = combine(whole, mask)
    return whole
