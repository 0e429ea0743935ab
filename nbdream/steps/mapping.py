"""`MapStep` and `FilterStep`: a Python function over the rows, as Hugging Face ``datasets`` has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from nbdream.errors import ArgumentError, StepOutputError
from nbdream.fingerprint import function_code
from nbdream.objects import check_column
from nbdream.steps.kinds import KindWatch
from nbdream.steps.rows import Row, Selection
from nbdream.steps.views import View, check_columns

SIZE = 1000
"""Rows that are read and written at a time, where the function does not see it."""


class _FunctionStep(View):
    """Calls a function with each row, or with batches of them. The function's code and what it captures count."""

    def validate(self) -> None:
        """There is a function, and the columns it is to get."""
        if not callable(self.args["function"]):
            raise ArgumentError(f"the function is a {type(self.args['function']).__name__}", "give a function of a row: lambda row: …")
        check_columns(self.rows, self.args["input_columns"] or [])
        if self.args["batched"] and self.args["batch_size"] < 1:
            raise ArgumentError(f"batch_size={self.args['batch_size']}", "give a number of rows of at least 1")

    def reads(self) -> dict[str, list[str]]:
        """The columns that the function gets: ``input_columns``, or all."""
        return {"rows": self.args["input_columns"] or self.rows.column_names}

    def recipe_args(self) -> dict[str, Any]:
        """The function and how it is called; a batch's size counts only for a function that sees batches."""
        args = {name: self.args[name] for name in ("with_indices", "input_columns", "remove_columns", "batched") if self.args.get(name)}
        if self.args["batched"]:
            args["rows_at_once"] = self.args["batch_size"]
        return {**args, "function": function_code(self.args["function"], self.args["version"])}

    def results(self) -> Iterator[tuple[int, int, Any]]:
        """What the function gives: first row, number of rows, result, for each call."""
        names = self.args["input_columns"]
        size = self.args["batch_size"] if self.args["batched"] else SIZE
        total = self.rows.num_rows
        start = 0
        for table in self.rows.iter_batches(names, size):
            if self.args["batched"]:
                yield start, table.num_rows, self._call(start, table.num_rows, table.to_pydict())
            else:
                for i, row in enumerate(table.to_pylist(), start):
                    yield i, 1, self._call(i, 1, row)
            start += table.num_rows
            self.progress = start / total

    def _call(self, start: int, count: int, row: dict[str, Any]) -> Any:
        names = self.args["input_columns"]
        values: list[Any] = [row[name] for name in names] if names else [row]
        if self.args["with_indices"]:
            values.append(list(range(start, start + count)) if self.args["batched"] else start)
        try:
            return self.args["function"](*values)
        except Exception as error:
            where = f"row {start}" if count == 1 else f"the rows {start} to {start + count - 1}"
            error.add_note(f"in {where} of {self.rows.step.name!r}, which {self.name!r} was working on")
            raise


class MapStep(_FunctionStep):
    """Stores the columns that a function makes; the others pass through as views, but for ``remove_columns``."""

    dynamic_outputs = True

    def validate(self) -> None:
        """The columns to remove are there, too."""
        super().validate()
        check_columns(self.rows, self.args["remove_columns"] or [])

    def view(self) -> dict[str, str]:
        """The input's columns but those to remove."""
        return {name: name for name in self.rows.column_names if name not in (self.args["remove_columns"] or ())}

    def run(self) -> Iterator[Row] | None:
        """A row of the new columns for each row; nothing when the function returns None."""
        results = self.results()
        first = next(results, None)
        if first is None:
            return None
        if _is_nothing(first[2]):
            for start, _, result in results:
                self._check_nothing(start, result)
            return None
        return self._rows(chain([first], results))

    def _rows(self, results: Iterator[tuple[int, int, Any]]) -> Iterator[Row]:
        watch = KindWatch()
        for columns in self._batches(results) if self.args["batched"] else self._gathered(results):
            checked = watch.check(columns)
            for values in zip(*checked.values(), strict=True):
                yield Row(dict(zip(checked, values, strict=True)))

    def _gathered(self, results: Iterator[tuple[int, int, Any]]) -> Iterator[dict[str, list[Any]]]:
        """The columns of a thousand rows at a time."""
        names: list[str] = []
        rows: list[list[Any]] = []
        for start, _, result in results:
            names = names or self._names(start, result)
            self._check_same(start, result, names)
            rows.append([result[name] for name in names])
            if len(rows) == SIZE:
                yield {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
                rows = []
        yield {name: [row[i] for row in rows] for i, name in enumerate(names)}

    def _batches(self, results: Iterator[tuple[int, int, Any]]) -> Iterator[dict[str, list[Any]]]:
        names: list[str] = []
        for start, count, result in results:
            names = names or self._names(start, result)
            self._check_same(start, result, names)
            columns = {name: list(result[name]) for name in names}
            lengths = {name: len(values) for name, values in columns.items()}
            if kept := next((name for name in self.view() if name not in columns), None):
                lengths = {kept: count, **lengths}
            if len(set(lengths.values())) > 1:
                said = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
                hint = "remove_columns= drops the columns that no longer fit"
                raise StepOutputError(f"a batch has columns of different lengths: {said}", hint)
            yield columns

    def _names(self, start: int, result: Any) -> list[str]:
        if not isinstance(result, Mapping) or not result or not all(isinstance(name, str) for name in result):
            said = f"a {type(result).__name__}" if not isinstance(result, Mapping) else f"the columns {list(result)}"
            raise StepOutputError(f"row {start}: the function returned {said}", "return a dict of columns: {'name': value}")
        for name in result:
            check_column(name)
        return list(result)

    def _check_same(self, start: int, result: Any, names: list[str]) -> None:
        """Every call returns the columns that the first one did."""
        if not isinstance(result, Mapping):
            raise StepOutputError(f"row {start}: the function returned a {type(result).__name__}", "return a dict for every row")
        if len(result) != len(names) or any(name not in result for name in names):
            wrong = ", ".join(repr(name) for name in sorted(set(map(str, result)) ^ set(names)))
            said = f"row {start}: the function's columns differ from those before by {wrong}"
            raise StepOutputError(said, "return the same keys for every row")

    def _check_nothing(self, start: int, result: Any) -> None:
        if not _is_nothing(result):
            raise StepOutputError(
                f"row {start}: the function returned something, for the rows before it None", "return a dict for every row"
            )


def _is_nothing(result: Any) -> bool:
    return result is None or (isinstance(result, Mapping) and not result)


class FilterStep(_FunctionStep):
    """Stores the indices of the rows for which a function is true."""

    def run(self) -> Selection:
        """The rows that are kept, in their order."""
        kept: list[int] = []
        for start, count, result in self.results():
            answers = list(result) if self.args["batched"] else [result]
            if len(answers) != count:
                raise StepOutputError(f"{len(answers)} answers for a batch of {count} rows", "return one True or False a row")
            kept += [start + i for i, answer in enumerate(answers) if answer]
        return Selection(kept)
