"""Contexts: the passages that belong to a question, put before it as a model is trained with them and asked with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from nbdream.datasets import OutputDatasetColumn
from nbdream.errors import ArgumentError, DataError
from nbdream.templates import Template

PLAIN = "{{text}}"
VARIABLES = ("text", "index")


class ContextTemplate:
    """How a context is written: a template over ``text`` and ``index``, which counts from 1. A context itself is no template."""

    def __init__(self, source: Any = PLAIN) -> None:
        if not isinstance(source, str):
            raise ArgumentError(f"context_template is a {type(source).__name__}", "it is a text, for example 'Passage {{index}}: {{text}}'")
        self.source = source
        self._template = Template(source)
        if "text" not in self._template.columns(VARIABLES):
            raise ArgumentError("context_template has no place for the text", "write {{text}} where it belongs")

    def block(self, contexts: Sequence[str], row: int = 0) -> str:
        """The contexts of a row, one a line: what stands before its question."""
        return "".join(self._template.render({"text": text, "index": index}, row) + "\n" for index, text in enumerate(contexts, 1))

    def before(self, questions: Iterable[str], contexts: Iterable[Sequence[str]]) -> list[str]:
        """Each question with its contexts before it; `ArgumentError` unless each has a list of texts."""
        asked, given = list(questions), list(contexts)
        if len(asked) != len(given):
            raise ArgumentError(f"there are {len(asked)} prompts and {len(given)} lists of contexts", "give one list a prompt; [] is none")
        rows = enumerate(zip(asked, given, strict=True))
        return [self.block(_texts(part, row), row) + _text(question, row) for row, (question, part) in rows]


def contexts_of(column: OutputDatasetColumn) -> list[list[str]]:
    """The rows of a column of contexts; `DataError` unless each is a list of texts."""
    kind = column.array().type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or not any(is_text(kind.value_type) for is_text in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)):
        hint = f"make it lists: .map(lambda row: {{{column.name!r}: [row[{column.name!r}]]}})"
        raise DataError(f"column {column.name!r} holds {kind}, not lists of texts", hint)
    rows: list[list[str]] = column.array().to_pylist()
    for row, texts in enumerate(rows):
        if texts is None or None in texts:
            wrong = "is null" if texts is None else "has a null among its texts"
            raise DataError(f"row {row} of {column.name!r} {wrong}", "a row without contexts has an empty list, []")
    return rows


def _texts(contexts: Any, row: int) -> Sequence[str]:
    if not isinstance(contexts, (list, tuple)) or not all(isinstance(text, str) for text in contexts):
        raise ArgumentError(f"the contexts of prompt {row} are no list of texts", "contexts=['one passage', 'another one']")
    return contexts


def _text(question: Any, row: int) -> str:
    if not isinstance(question, str):
        raise ArgumentError(f"prompt {row} is a {type(question).__name__}, not a text", "contexts stand before a text")
    return question
