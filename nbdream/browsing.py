"""`Browse`: rows that are asked to be looked at, alone or beside others. It shows itself in a notebook; nothing is read before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError

if TYPE_CHECKING:
    from nbdream.datasets import OutputDataset


class Browse:
    """What ``NAME.browse()`` gives: a table to scroll, sort, search and filter, in a notebook that is alive."""

    def __init__(self, rows: OutputDataset, other: Any = None, columns: Sequence[str] | None = None) -> None:
        from nbdream.datasets import OutputDataset

        beside = getattr(other, "output", other)
        if beside is not None and not isinstance(beside, OutputDataset):
            raise ArgumentError(f"rows cannot stand beside a {type(other).__name__}", "give another result: a.browse(b)")
        listed = columns is None or (isinstance(columns, list | tuple) and all(isinstance(name, str) for name in columns))
        if not listed or (columns is not None and other is None and len(columns) != 2):
            raise ArgumentError("two columns stand side by side", 'for example browse(columns=("first", "second"))')
        self.rows = rows
        self.other: OutputDataset | None = beside
        self.columns = None if columns is None else tuple(columns)
        for name in self.columns or ():
            rows.column(name)
            if beside is not None:
                beside.column(name)
        if beside is not None and not set(rows.column_names) & set(beside.column_names):
            raise ArgumentError("the two results have no column in common", f"this one has {', '.join(rows.column_names)}")

    @property
    def name(self) -> str:
        """What the table is called."""
        name = str(getattr(self.rows.step, "name", ""))
        return name if self.other is None else f"{name} · {getattr(self.other.step, 'name', '')}"

    def __repr__(self) -> str:
        return f"Browse({self.rows!r})" if self.other is None else f"Browse({self.rows!r}, {self.other!r})"
