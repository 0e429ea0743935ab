"""Templates over the columns of a row: Jinja, sandboxed, without comment syntax; what a row holds is never a template itself."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from nbdream.errors import TemplateError, nearest

if TYPE_CHECKING:
    import pyarrow as pa
    from jinja2 import nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

RAW_HINT = "text with braces of its own stands between {% raw %} and {% endraw %}"
NO_COMMENT = "\ue000no comment\ue001"
"""Jinja insists on a start for comments; this one nobody types, so that LaTeX's ``{#1}`` is text."""

LONGEST = 10_000_000
"""Characters that a repetition in a template may give at most."""

FIELD = re.compile(r"""\{\{\s*(?:([A-Za-z_]\w*)|row\[(?:"([^"\\]*)"|'([^'\\]*)')\])\s*\}\}""")
"""A column and nothing else: by its name, or as ``row["…"]``."""
WORDS = frozenset({
    "False", "None", "True", "and", "cycler", "dict", "else", "false", "if", "in", "is", "joiner", "loop", "namespace", "none", "not", "or",
    "range", "row", "self", "super", "true",
})  # fmt: skip
"""Names that mean something to Jinja."""

ROW_METHODS = frozenset({"items", "keys", "values", "get"})


class Template:
    """A template, with ``extra`` variables beside the columns.

    Blank lines at both ends of ``source`` do not count. The variable ``row`` holds the whole row: ``row["My text"]``.
    """

    def __init__(self, source: str, extra: Mapping[str, Any] | None = None) -> None:
        self.source = without_blank_ends(source)
        self.extra = dict(extra or {})
        self._first_line = 1 + source[: source.find(self.source)].count("\n")

    @property
    def has_fields(self) -> bool:
        """Whether anything of the source is filled in; without, it is an instruction."""
        return "{{" in self.source or "{%" in self.source

    def columns(self, available: Sequence[str]) -> list[str]:
        """The columns that the template reads, in the order of ``available``; `TemplateError` for one that is not there."""
        both = sorted(set(self.extra) & set(available))
        if both:
            raise TemplateError(f"`{both[0]}` is both a column and a variable of the notebook", "rename the variable")
        names, from_row, is_whole = self._reads if self._plain is None else (set(), set(), False)
        if self._plain is not None:
            names = set(self._plain[1])
        for name in sorted(names - set(available) - set(self.extra)):
            raise _unknown(name, available)
        for name in sorted(from_row - set(available)):
            if name not in ROW_METHODS:
                raise _unknown(name, available)
            is_whole = True
        return [name for name in available if is_whole or name in names or name in from_row]

    def render(self, row: Mapping[str, Any], number: int) -> str:
        """The text for ``row``; `TemplateError` names row ``number`` and the column when a null would be rendered."""
        if self._plain is not None:
            return self._filled(self._plain, row, number)
        values = {name: Null(name) if value is None else value for name, value in row.items()}
        extra = {name: Null(name) if value is None else value for name, value in self.extra.items()}
        try:
            text: str = self._compiled.render({**values, **extra, "row": values})
        except NullRead as null:
            raise _empty(number, null.name) from None
        except Exception as error:  # whatever a template does wrong is its writer's to mend
            raise TemplateError(f"row {number}: {_sentence(error)}", "the template fails on this row's values") from None
        return text

    def render_all(self, table: pa.Table, numbers: Sequence[int]) -> Iterator[str]:
        """The texts for the rows of ``table``, whose numbers are ``numbers``, with `render`'s errors."""
        columns = self._texts(table)
        if self._plain is None or columns is None:
            return (self.render(row, number) for number, row in zip(numbers, table.to_pylist(), strict=True))
        pattern = "{}".join(text.replace("{", "{{").replace("}", "}}") for text in self._plain[0])
        return map(pattern.format, *columns)

    def _texts(self, table: pa.Table) -> list[Iterable[str]] | None:
        """What goes between the texts of a template that only names columns, where all of that is text, and none is null."""
        import pyarrow as pa

        names = [] if self._plain is None else self._plain[1]
        columns: list[Iterable[str]] = []
        for name in names:
            if name in self.extra:
                columns.append(itertools.repeat(self.extra[name]))
            elif pa.types.is_string(table.column(name).type) and not table.column(name).null_count:
                columns.append(table.column(name).to_pylist())
        plain = len(columns) == len(names) and all(type(self.extra[name]) is str for name in names if name in self.extra)
        return columns if plain and any(isinstance(column, list) for column in columns) else None

    def check(self, table: pa.Table, first_row: int) -> None:
        """Raise the error that `render` would for one of the rows of ``table``, whose first has the number ``first_row``."""
        if self._plain is None:
            for number, row in enumerate(table.to_pylist(), first_row):
                self.render(row, number)
            return
        fields = [name for name in self._plain[1] if name in table.column_names]
        if any(table.column(name).null_count for name in fields) or any(value is None for value in self.extra.values()):
            for number, row in enumerate(table.select(fields).to_pylist(), first_row):
                self.render(row, number)

    def _filled(self, plain: tuple[list[str], list[str]], row: Mapping[str, Any], number: int) -> str:
        """What Jinja makes of a template that only names columns, ten times as fast."""
        texts, names = plain
        parts = [texts[0]]
        for name, text in zip(names, texts[1:], strict=True):
            value = self.extra[name] if name in self.extra else row[name]
            if value is None:
                raise _empty(number, name)
            parts.append(value if type(value) is str else as_json(value) if isinstance(value, (list, dict, tuple)) else str(value))
            parts.append(text)
        return "".join(parts)

    @functools.cached_property
    def _plain(self) -> tuple[list[str], list[str]] | None:
        """The texts and between them the columns, where the template consists of nothing else."""
        pieces = FIELD.split(re.sub(r"\r\n?", "\n", self.source))  # as Jinja reads it
        texts, names = pieces[::4], ["".join(filter(None, found)) for found in zip(pieces[1::4], pieces[2::4], pieces[3::4], strict=True)]
        other = any("{{" in text or "{%" in text for text in texts) or any(bare in WORDS for bare in pieces[1::4])
        return None if other or not all(names) else (texts, names)

    @functools.cached_property
    def _tree(self) -> nodes.Template:
        import jinja2
        from jinja2 import nodes as n

        try:
            tree: nodes.Template = environment().parse(self.source)
        except jinja2.TemplateSyntaxError as error:
            line = self._first_line + error.lineno - 1
            raise TemplateError(f"line {line} of the template: {_sentence(error)}", RAW_HINT) from None
        except RecursionError:
            raise TemplateError("the template is nested too deeply", "split it") from None
        for node in tree.find_all((n.Include, n.Import, n.FromImport, n.Extends)):
            line = self._first_line + node.lineno - 1
            raise TemplateError(f"line {line} of the template: {type(node).__name__.lower()} reads another template", "write its text here")
        return tree

    @functools.cached_property
    def _compiled(self) -> Any:
        import jinja2

        try:
            code = environment().compile(self._tree)
        except jinja2.TemplateSyntaxError as error:  # an unknown filter or test
            line = self._first_line + error.lineno - 1
            named = re.search(r"'(.*)'", str(error))
            hint = nearest(named.group(1) if named else "", {**environment().filters, **environment().tests}, "Jinja has")
            raise TemplateError(f"line {line} of the template: {_sentence(error)}", hint) from None
        return jinja2.Template.from_code(environment(), code, environment().globals)

    @functools.cached_property
    def _reads(self) -> tuple[set[str], set[str], bool]:
        """The variables read, the columns read through ``row``, and whether ``row`` is read as a whole."""
        from jinja2 import meta
        from jinja2 import nodes as n

        tree = self._tree
        _ = self._compiled  # unknown filters are told now, not at the first row
        names = meta.find_undeclared_variables(tree) - set(environment().globals)
        if "row" not in names:
            return names, set(), False
        uses = [node for node in tree.find_all(n.Name) if node.name == "row"]
        parts: list[Any] = [*tree.find_all(n.Getattr), *tree.find_all(n.Getitem)]
        through = [node for node in parts if isinstance(node.node, n.Name) and node.node.name == "row"]
        from_row = set()
        is_whole = len(uses) > len(through)
        for node in through:
            key = node.attr if isinstance(node, n.Getattr) else node.arg.value if isinstance(node.arg, n.Const) else None
            is_whole = is_whole or not isinstance(key, str)
            from_row |= {key} if isinstance(key, str) else set()
        return names - {"row"}, from_row, is_whole


def columns_read(template: str, available: Sequence[str]) -> list[str]:
    """The columns of ``available`` that the text of a template reads."""
    return Template(template).columns(available)


def without_blank_ends(text: str) -> str:
    """``text`` without the blank lines before its first and after its last line."""
    if text.isspace():
        return ""
    return re.sub(r"(?:\r?\n[^\S\n]*)+\Z", "", re.sub(r"\A(?:[^\S\n]*\n)+", "", text))


class NullRead(Exception):
    """A null was about to be rendered."""

    def __init__(self, name: str | None) -> None:
        super().__init__(name)
        self.name = name


class Null:
    """A null of a column: false, equal to none, and an error as soon as its text is needed."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Null)

    def __hash__(self) -> int:
        return hash(None)

    def _read(self, *_: object) -> NoReturn:
        raise NullRead(self.name)

    __str__ = __repr__ = __html__ = __iter__ = __len__ = __getitem__ = __contains__ = __call__ = __int__ = __float__ = __format__ = _read
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __floordiv__ = __mod__ = __rmod__ = _read
    __pow__ = __neg__ = __lt__ = __le__ = __gt__ = __ge__ = _read

    def __getattr__(self, name: str) -> NoReturn:
        raise NullRead(self.name) if not name.startswith("_") else AttributeError(name)


def as_json(value: object) -> str:
    """``value`` as the JSON that a template shows for it."""
    return json.dumps(value, ensure_ascii=False, default=lambda part: None if isinstance(part, Null) else str(part))


def _finalize(value: object) -> object:
    """What is written for the value of an expression."""
    if value is None:
        raise NullRead(None)
    return as_json(value) if isinstance(value, (list, dict, tuple)) else value


@functools.lru_cache(maxsize=1)
def environment() -> ImmutableSandboxedEnvironment:
    """The one Jinja environment."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**"})

        def getattr(self, obj: Any, attribute: str) -> Any:
            """A key of a dict before its methods: a column may be called ``items``."""
            return obj[attribute] if isinstance(obj, dict) and attribute in obj else super().getattr(obj, attribute)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            """``*`` and ``**`` within reason."""
            sides = [side for side in (left, right) if isinstance(side, (int, str, list, tuple))]
            sizes = [abs(side) if isinstance(side, int) else len(side) for side in sides]
            is_text = not all(isinstance(side, int) for side in sides)
            if len(sizes) == 2 and (sizes[1] > 1000 if operator == "**" else is_text and sizes[0] * sizes[1] > LONGEST):
                raise OverflowError(f"{operator} gives more than {LONGEST:,} characters")
            return super().call_binop(context, operator, left, right)

    made = Environment(
        undefined=jinja2.StrictUndefined,
        comment_start_string=NO_COMMENT,
        comment_end_string=NO_COMMENT[::-1],
        keep_trailing_newline=True,
        finalize=_finalize,
        autoescape=False,
    )
    made.globals.pop("lipsum")
    made.filters.pop("random")  # the same row gives the same text
    made.filters["tojson"] = as_json
    made.tests["none"] = lambda value: value is None or isinstance(value, Null)
    return made


def _unknown(name: str, available: Iterable[str]) -> TemplateError:
    columns = [str(column) for column in available]
    if not columns:
        return TemplateError(f"the template reads `{name}`, and there is no data to read it from", "give --from; " + RAW_HINT)
    near = nearest(name, columns, "the columns are")
    listed = "" if near.startswith("the columns") else f" the columns are: {', '.join(columns)}"
    return TemplateError(f"the template reads `{name}`, which is no column", near + listed)


def _empty(number: int, name: str | None) -> TemplateError:
    if name is None:
        return TemplateError(f"row {number}: an expression of the template is empty", "write {{ … or '' }} or --drop-null")
    said = name if name.isidentifier() else f'row["{name}"]'
    return TemplateError(f"row {number}: `{name}` is empty", f"write {{{{ {said} or '' }}}} or --drop-null")


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
