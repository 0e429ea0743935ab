"""`Generate` and `Filter`: the steps behind ``%%generate`` and ``%%filter``, whose prompts are templates over the columns."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from nbdream.arrays import int64s
from nbdream.datasets import OutputDataset, OutputDatasetColumn
from nbdream.errors import ArgumentError, DataError, TemplateError, nearest
from nbdream.objects import check_column
from nbdream.steps.asking import Asking
from nbdream.steps.prompting import decided, layout, undecided
from nbdream.steps.rows import Failure, Row
from nbdream.steps.schema import Shape
from nbdream.templates import Template, as_json

if TYPE_CHECKING:
    from nbdream.engine.stream import Review
    from nbdream.llms.base import Reply

BATCH = 1000
SOURCE = "source_row"
"""The column that says which row of the input an item of a list of answers comes from."""


class _Templated(Asking):
    """A template over the columns of ``rows``; without any ``{{``, an instruction about one of them."""

    carries = "rows"
    own: ClassVar[tuple[str, ...]] = ("variables", "drop_null", "limit")

    def setup(self) -> None:
        """The rows, the template and what it may read besides."""
        self.register_llm()
        self.register_arg("template", help="the prompt, over the columns: {{ abstract }}")
        self.register_arg("system", required=False, help="the system prompt")
        self.register_arg("about", required=False, help="the column that an instruction without {{ }} is about")
        self.register_arg("variables", required=False, help="what the template may read besides the columns")
        self.register_arg("drop_null", required=False, default=False, help="leave out rows in which a column that is read is null")
        self.register_arg("limit", required=False, help="try the first rows only")

    @property
    def shared(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the model does not see as a parameter."""
        return (*Asking.shared, "template", "about")

    @functools.cached_property
    def template(self) -> Template:
        """The template, blank lines at its ends removed."""
        return Template(self.args["template"], self.args["variables"])

    def _bind_inputs(self, given: dict[str, Any]) -> dict[str, OutputDataset | OutputDatasetColumn]:
        bound = super()._bind_inputs(given)
        column = bound.get("rows")
        self._narrowed = isinstance(column, OutputDatasetColumn)
        if isinstance(column, OutputDatasetColumn):  # rows of one column
            bound["rows"] = OutputDataset(column.step, {column.name: column.owner.column(column.name)}, column.num_rows)
        return bound

    def view(self) -> dict[str, str] | None:
        """All columns of the input, or the one that was given."""
        return {name: name for name in self.rows.column_names} if self._narrowed and self.rows is not None else None

    @property
    def rows(self) -> OutputDataset | None:
        """The input, if there is one."""
        found = self.inputs.get("rows")
        return found if isinstance(found, OutputDataset) else None

    @functools.cached_property
    def columns_read(self) -> list[str]:
        """The columns of the input that the prompts are made of; an error for one that is not there."""
        if self.rows is None:
            return self.template.columns([])
        if not self.template.has_fields:
            return [self.args["about"] or self._only_text(self.rows)]
        return self.template.columns(self.rows.column_names)

    def _only_text(self, rows: OutputDataset) -> str:
        texts = [field.name for field in rows.schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
        if len(texts) == 1:
            return str(texts[0])
        if not texts:
            raise ArgumentError("no column is of text", f"write a template, {{{{ {rows.column_names[0]} }}}}, or name one: --column")
        hint = f"write a template, {{{{ {texts[0]} }}}}, or name one: --column {texts[0]}"
        raise ArgumentError(f"several columns are of text: {', '.join(texts)}", hint)

    def validate(self) -> None:
        """The template reads what there is, and there is a row to read."""
        super().validate()
        if not self.template.source.strip():
            raise ArgumentError(f"the prompt of {self.name!r} is empty", "write what the model is to do")
        about, limit = self.args["about"], self.args["limit"]
        if about is not None and self.template.has_fields:
            raise ArgumentError("a column is named, and the template names its own", "leave --column out, or the {{ }}")
        if about is not None and self.rows is None:
            raise ArgumentError(f"the column {about!r} is named, and there are no rows", "give the rows: --from ROWS")
        if about is not None and self.rows is not None and about not in self.rows.column_names:
            raise TemplateError(f"there is no column {about!r}", nearest(about, self.rows.column_names, "the columns are"))
        _ = self.columns_read
        if self.rows is not None and not self.rows.num_rows:
            raise DataError(f"{self.rows.step.name!r} has no rows", "nothing is to be done: see where its rows went")
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise ArgumentError(f"limit={limit!r}", "it is a number of rows: 1 or more")
        self.preview = self.preview or limit is not None

    def reads(self) -> dict[str, list[str]]:
        """The columns that the prompts are made of."""
        return {"rows": self.columns_read} if self.rows is not None else {}

    def recipe_args(self) -> dict[str, Any]:
        """The template without blank lines at its ends; what the model is asked, and nothing of how."""
        args = {name: value for name, value in super().recipe_args().items() if value is not False}
        return {**args, "template": self.template.source}

    def numbered(self) -> Sequence[int]:
        """The rows to ask about: the first ``limit``, without those that have a null where ``drop_null`` says so."""
        assert self.rows is not None
        count = min(self.rows.num_rows, self.args["limit"] or self.rows.num_rows)
        if not self.args["drop_null"]:
            return range(count)
        columns = [self.rows[name].array() for name in self.columns_read]
        null = [column.slice(0, count).is_null().to_pylist() for column in columns]
        return [i for i in range(count) if not any(flags[i] for flags in null)]

    def rendered(self, numbers: Sequence[int]) -> Iterator[str]:
        """The prompts of the rows; an error for a null, with its row."""
        for part, table in self._batches(numbers):
            if self.template.has_fields:
                yield from self.template.render_all(table, part)
            else:
                yield from map(self._instruction, table.to_pylist(), part)

    def check_rows(self, numbers: Sequence[int]) -> None:
        """Raise the error that `rendered` would: before anything is paid for."""
        for part, table in self._batches(numbers):
            if isinstance(part, range) and self.template.has_fields:
                self.template.check(table, part.start)
            elif self.template.has_fields or table.column(0).null_count:
                for _ in self.rendered(part):
                    pass

    def _batches(self, numbers: Sequence[int]) -> Iterator[tuple[Sequence[int], pa.Table]]:
        """The columns that are read, of a thousand rows at a time."""
        assert self.rows is not None
        if isinstance(numbers, range):
            start = 0
            for table in self.rows.iter_batches(self.columns_read, BATCH):
                part = range(start, min(start + table.num_rows, len(numbers)))
                if not part:
                    return
                yield part, table.slice(0, len(part))
                start = part.stop
            return
        whole = self.rows.table(self.columns_read)
        for start in range(0, len(numbers), BATCH):
            some = numbers[start : start + BATCH]
            yield some, whole.take(int64s(some))

    def _instruction(self, row: dict[str, Any], number: int) -> str:
        ((name, value),) = row.items()
        if value is None:
            raise TemplateError(f"row {number}: `{name}` is empty", "--drop-null leaves such rows out")
        return layout(value if isinstance(value, str) else as_json(value), self.template.source)

    def asked(self, draws: int = 1) -> Iterator[tuple[int, list[Reply]]]:
        """Each row's number and replies. All rows are looked at before the first is sent: an error costs nothing."""
        numbers = self.numbered()
        self.check_rows(numbers)
        for i, replies in self.replies(self.rendered(numbers), len(numbers), draws):
            yield numbers[i], replies


class Generate(_Templated):
    """Puts a template to a model for each of ``rows``, or ``n`` times without rows; the replies are the column ``column``.

    ``draws`` asks several times per row: rows of their own with a column ``draw``, or one list with ``as_list``. With a ``schema`` the
    fields of an answer are the columns; an answer that does not fit is asked for again, twice at most. A list of answers gives a row
    for each of its items, with the column ``source_row``.
    """

    own: ClassVar[tuple[str, ...]] = ("variables", "drop_null", "limit", "draws", "as_list", "schema")

    def setup(self) -> None:
        """What is asked, how often, and what the column is called."""
        super().setup()
        self.register_input("rows", required=False)
        self.register_arg("column", required=False, default="generation", help="the name of the new column")
        self.register_arg("n", required=False, help="how many rows to make without rows")
        self.register_arg("draws", required=False, help="how often to ask per row")
        self.register_arg("as_list", required=False, default=False, help="the draws of a row as one list")
        self.register_arg("schema", required=False, help="what an answer looks like: a pydantic class, list[Class], or a JSON schema")
        self.register_output("generation")

    @functools.cached_property
    def shape(self) -> Shape | None:
        """What an answer is to look like, if it is structured."""
        return None if self.args["schema"] is None else Shape(self.args["schema"])

    def reply_schema(self) -> Mapping[str, Any] | None:
        """The JSON schema that the model sees."""
        return None if self.shape is None else self.shape.wire

    def review(self) -> Review | None:
        """Answers that do not fit are asked for again."""
        return None if self.shape is None else self.shape.review

    def recipe_args(self) -> dict[str, Any]:
        """A shape counts by its schema and its code."""
        args = super().recipe_args()
        return args if self.shape is None else {**args, "schema": self.shape.form}

    def shown_names(self) -> dict[str, str]:
        """The column's name, which is no part of the recipe."""
        return {"generation": self.args["column"]}

    def validate(self) -> None:
        """The numbers are numbers, and rows come from one place."""
        super().validate()
        for name in ("n", "draws"):
            value = self.args[name]
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ArgumentError(f"{name}={value!r}", "it is a whole number: 1 or more")
        if self.rows is not None and self.args["n"] is not None:
            raise ArgumentError("n= and rows are both given", "n makes rows from nothing; draws= asks several times per row")
        check_column(self.args["column"])
        if self.args["column"] == "draw" and self._many:
            raise ArgumentError("the new column would be called 'draw', as the number of the draw is", "call it otherwise")
        if self._many:
            self.register_output("draw")
        if self.shape is not None:
            self._declare_fields(self.shape)

    def _declare_fields(self, shape: Shape) -> None:
        """The fields of an answer are columns, and of a list of answers also which row each comes from."""
        if self.args["as_list"]:
            return
        fields = list(shape.columns or ())
        ordinals = ([SOURCE] if shape.many else []) + (["draw"] if self._many else [])
        made = [*(fields or [self.args["column"]]), *ordinals]
        for name in made:
            if made.count(name) > 1 or (name not in ordinals and self.rows is not None and name in self.rows.column_names):
                raise ArgumentError(f"{name!r} would be two columns", "rename the field, or leave that column out: .remove_columns(…)")
        if fields:
            del self.outputs_declared["generation"]
        for name in [*fields, *([SOURCE] if shape.many else [])]:
            self.register_output(name)

    @property
    def _many(self) -> bool:
        return self.args["draws"] is not None and not self.args["as_list"]

    def run(self) -> Iterator[Row | Failure]:
        """A row for each reply, or for each item of one, or for each list of draws."""
        draws, has_rows = self.args["draws"] or 1, self.rows is not None
        plain = self.shape is None and self.args["draws"] is None and not self.args["as_list"]
        for number, replies in self.asked(draws) if has_rows else self._from_nothing(draws):
            source = number if has_rows else None
            if plain and not replies[0].error:  # nearly all rows: an answer that is a row
                yield Row({"generation": self.processed(number, replies[0].text)}, source)
            elif self.args["as_list"]:
                yield from self._listed(number, source, replies)
            else:
                for draw, reply in enumerate(replies):
                    yield from self._one(number, source, draw, reply)

    def _from_nothing(self, draws: int) -> Iterator[tuple[int, list[Reply]]]:
        n = self.args["n"] or 1
        n = min(n, self.args["limit"] or n)
        return self.replies(itertools.repeat(self.template.render({}, 0), n), n, draws)

    def _one(self, number: int, source: int | None, draw: int, reply: Reply) -> Iterator[Row | Failure]:
        ordinal: dict[str, Any] = {"draw": draw} if self._many else {}
        if self.shape is not None and self.shape.many:
            ordinal[SOURCE] = number
        if not reply.error:
            for value in self._values(number, reply):
                yield Row({**(value if self._has_fields else {"generation": value}), **ordinal}, source)
            return
        failure = self.failed(number, reply)
        if self.args["on_fail"] == "keep":
            columns = [name for name in self.outputs_declared if name not in ordinal]
            yield Row({**dict.fromkeys(columns), **ordinal}, source)
        yield failure

    @property
    def _has_fields(self) -> bool:
        return self.shape is not None and self.shape.columns is not None

    def _values(self, number: int, reply: Reply) -> list[Any]:
        """What a reply gives: its text, or what a structured answer holds."""
        if self.shape is None:
            return [self.processed(number, reply.text)]
        return [self.processed(number, value) for value in self.shape.read(reply.text)]

    def _listed(self, number: int, source: int | None, replies: list[Reply]) -> Iterator[Row | Failure]:
        good = [value for reply in replies if not reply.error for value in self._values(number, reply)]
        failures = [self.failed(number, reply) for reply in replies if reply.error]
        if good or self.args["on_fail"] == "keep":
            yield Row({"generation": good}, source)
        yield from failures


class Filter(_Templated):
    """Keeps the rows for which a model's answer to a template begins with yes; one that begins with neither failed."""

    def setup(self) -> None:
        """The rows; no column is made."""
        super().setup()
        self.register_input("rows")
        self.register_arg("filter_func", required=False, help="a function of the answer: True keeps the row")

    @property
    def shared(self) -> tuple[str, ...]:  # type: ignore[override]
        """The decision is no parameter of the model."""
        return (*super().shared, "filter_func")

    def recipe_args(self) -> dict[str, Any]:
        """The decision's code counts."""
        from nbdream.fingerprint import function_code

        decides = self.args["filter_func"]
        return super().recipe_args() | ({} if decides is None else {"filter_func": function_code(decides)})

    def review(self) -> Review | None:
        """An answer that says neither is no answer."""
        return undecided(self)

    def run(self) -> Iterator[Row | Failure]:
        """The rows that are kept."""
        for number, (reply,) in self.asked():
            yield from decided(self, number, reply)
