"""Writes what a step's ``run`` gives into its result's folder, as it comes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nbdream.arrays import array, int64s, texts
from nbdream.errors import StepOutputError, Stopped
from nbdream.objects import ROW, ResultFolder, TableWriter, column_digest
from nbdream.steps.kinds import KindWatch
from nbdream.steps.returns import normalize, total_rows
from nbdream.steps.rows import Failure, Row, Selection

if TYPE_CHECKING:
    from nbdream.steps.base import Step

SIZE = 1000
"""Rows in a batch."""


def write(step: Step, folder: ResultFolder) -> dict[str, Any]:
    """Run ``step`` into ``folder``; what its node says about rows, columns and failures.

    Raises `Stopped` between two batches when the step was asked to stop; nothing of the result counts then.
    """
    good = TableWriter(folder.data, what=repr(step.name))
    bad = TableWriter(folder.failures, what=repr(step.name))
    try:
        rows = _write(step, good, bad)
        columns, failed = good.close(), bad.close()
    except BaseException:
        good.abort()
        bad.abort()
        raise
    whole = step.inputs.get(step.carries) if step.carries else None
    carried = None if whole is None else whole.num_rows
    every_row = rows == carried and columns.get(ROW, {}).get("digest") == column_digest(int64s(range(rows)))
    return {"rows": rows, "columns": columns, "every_row": every_row, "failures": bad.rows, "failed_columns": failed}


def _write(step: Step, good: TableWriter, bad: TableWriter) -> int:
    value = step.run()
    if isinstance(value, Selection):
        indices = value.indices if isinstance(value.indices, pa.Array) else int64s(list(value.indices))
        good.write({ROW: indices})
        return len(indices)
    first, value = _first(value)
    is_empty = first is None and isinstance(value, Iterator)
    if isinstance(first, (Row, Failure)) or (is_empty and step.carries):
        _write_rows(step, value, good, bad)
        return good.rows
    if value is None and step.carries:  # a view: it makes no column and selects no row
        return step.inputs[step.carries].num_rows
    names = None if step.dynamic_outputs else list(step.outputs_declared)
    if names is None:
        raise StepOutputError(f"{step.name!r} must yield Row objects", "its columns are known only from its rows")
    total = total_rows(value)
    for batch in normalize(value, names):
        _check_stop(step)
        columns = {name: batch[name] for name in names} if isinstance(batch, dict) else {name: batch.column(name) for name in names}
        good.write(columns)
        if total:
            step.progress = good.rows / total
    if not good.rows:
        good.write({name: pa.nulls(0, pa.string()) for name in names})
    return good.rows


def _first(value: Any) -> tuple[Any, Any]:
    """The first item of an iterator, and the whole again; (None, value) for anything else."""
    if not isinstance(value, Iterator):
        return None, value
    try:
        first = next(value)
    except StopIteration:
        return None, iter(())
    return first, itertools.chain([first], value)


def _write_rows(step: Step, items: Iterable[Row | Failure], good: TableWriter, bad: TableWriter) -> None:
    rows: list[Row] = []
    failures: list[Failure] = []
    watch = KindWatch()
    for item in items:
        _check_stop(step)
        if isinstance(item, Failure):
            failures.append(item)
        else:
            rows.append(item)
        if len(rows) >= SIZE:
            _flush_rows(rows, good, watch)
        if len(failures) >= SIZE:
            _flush_failures(failures, bad)
    _check_stop(step)
    _flush_rows(rows, good, watch)
    _flush_failures(failures, bad)
    if not good.rows:
        good.write({ROW: pa.nulls(0, pa.int64()), **{name: pa.nulls(0, pa.string()) for name in step.outputs_declared}})


def _flush_rows(rows: list[Row], good: TableWriter, watch: KindWatch) -> None:
    if not rows:
        return
    names = list(rows[0].values)
    columns: dict[str, Any] = {name: [] for name in names}
    for row in rows:
        if list(row.values) != names and set(row.values) != set(names):
            wrong = ", ".join(sorted(set(row.values) ^ set(names)))
            raise StepOutputError(f"two rows have different columns ({wrong})", "give every row the same columns")
        for name in names:
            columns[name].append(row.values[name])
    columns = watch.check(columns)
    if rows[0].source is not None:
        columns[ROW] = int64s([row.source or 0 for row in rows])
    good.write(columns)
    rows.clear()


def _flush_failures(failures: list[Failure], bad: TableWriter) -> None:
    if failures:
        bad.write(
            {
                "row": int64s([f.source for f in failures]),
                "error": array([f.error for f in failures]),
                "said": texts([f.said for f in failures]),
            }
        )
        failures.clear()


def _check_stop(step: Step) -> None:
    if step.stopping.is_set():
        raise Stopped(f"{step.name} was stopped", "run the cell again to go on: what was done is kept")
