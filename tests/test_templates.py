from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdream.errors import TemplateError
from nbdream.templates import Template, columns_read, without_blank_ends
from tests import hostile

ROW = {
    "abstract": "We do X.",
    "title": "X",
    "My text": "mine",
    "n": 3,
    "tags": ["a", "é"],
    "meta": {"who": None, "at": {"y": 1}},
    "empty": None,
}


def rendered(source: str, row: dict[str, Any] | None = None, extra: dict[str, Any] | None = None) -> str:
    return Template(source, extra).render(ROW if row is None else row, 17)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("Write about {{ abstract }}.", "Write about We do X.."),
        ('{{ row["My text"] }} {{ row.title }} {{ row["title"] }}', "mine X X"),
        ("{{ tags }} {{ meta }} {{ (1, 2) }}", '["a", "é"] {"who": null, "at": {"y": 1}} [1, 2]'),
        ("{{ meta.at.y }} {{ meta['at'] }}", '1 {"y": 1}'),
        ("{% for tag in tags %}{{ loop.index }}{{ tag }} {% endfor %}", "1a 2é "),
        ("{{ empty or '' }}|{{ empty or 'none' }}", "|none"),
        ("{{ empty | default('-', true) }}", "-"),
        ("{% if empty is none %}gone{% endif %}{% if empty %}here{% endif %}{% if empty == none %}!{% endif %}", "gone!"),
        ("{{ empty if empty is not none else title }}", "X"),
        ("{{ meta.who or 'nobody' }} {{ meta | tojson }} {{ empty | tojson }}", 'nobody {"who": null, "at": {"y": 1}} null'),
        ("\\newcommand{\\x}[1]{#1} {##} {# not a comment #} # x", "\\newcommand{\\x}[1]{#1} {##} {# not a comment #} # x"),
        ("{% raw %}{{ title }} {% x %}{% endraw %}", "{{ title }} {% x %}"),
        ("{{ title | upper }} {{ n + 1 }} {{ 'a' * n }} {{ n ** 2 }}", "X 4 aaa 9"),
        ("  lead\n\n{{ title }}  ", "  lead\n\nX  "),
        ("\n  \n\t\nbody {{ n }}\n\n  \n", "body 3"),
        ("\r\nbody {{ n }}\r\nmore\r\n", "body 3\nmore"),
        ("<b>{{ '<i>&' }}</b> {{ '<i>' | tojson }}", '<b><i>&</b> "<i>"'),
        ("{{ title }}\ue000", "X\ue000"),
    ],
)
def test_what_a_template_gives(source: str, text: str) -> None:
    assert rendered(source) == text


@given(st.text(), st.sampled_from(hostile.HOSTILE))
def test_values_are_never_templates(value: str, text: str) -> None:
    for said in (value, text):
        assert rendered("{{ x }}", {"x": said}) == said
        assert rendered("{{ row['x'] }}{{ y }}", {"x": said}, {"y": said}) == said + said


@given(st.text(st.characters(exclude_characters="{}\r")))
def test_text_without_fields_stays_as_it_is(text: str) -> None:
    template = Template(text)
    assert not template.has_fields
    assert template.source == without_blank_ends(text)
    assert without_blank_ends("\n \n" + text + "\n\n") == without_blank_ends(text)


@pytest.mark.parametrize(
    ("source", "columns"),
    [
        ("no fields", []),
        ("{{ title }} {{ abstract }}", ["abstract", "title"]),
        ("{{ row.title }}{{ row['My text'] }}", ["title", "My text"]),
        ("{{ row }}", list(ROW)),
        ("{% for key in row %}{{ key }}{% endfor %}", list(ROW)),
        ("{{ row[title] }}", list(ROW)),
        ("{{ row.items() }}", list(ROW)),
        ("{% set x = title %}{{ x }}", ["title"]),
        ("{% for tag in tags %}{{ tag }}{{ loop.index }}{% endfor %}", ["tags"]),
        ("{% for tag in tags if tag != title %}{{ range(3) }}{% endfor %}", ["title", "tags"]),
        ("{% macro m(title) %}{{ title }}{{ n }}{% endmacro %}{{ m(1) }}", ["n"]),
        ("{% if empty %}{{ meta.who }}{% endif %}", ["meta", "empty"]),
        ("{{ title | default(abstract) }}", ["abstract", "title"]),
        ("{% raw %}{{ title }}{% endraw %}", []),
    ],
)
def test_the_columns_that_are_read(source: str, columns: list[str]) -> None:
    assert columns_read(source, list(ROW)) == columns


def test_a_column_named_like_a_method_is_the_column() -> None:
    row = {"items": "I", "keys": ["k"], "row": "R"}
    assert rendered("{{ row.items }}{{ items }}{{ row.keys }}{{ row['row'] }}", row) == 'II["k"]R'
    assert columns_read("{{ row.items }}", list(row)) == ["items"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ abstrct }}", ["`abstrct`", "did you mean 'abstract'?", "abstract, title, My text"]),
        ("{{ row.zzz }}", ["`zzz`", "the columns are one of: ", "abstract"]),
        ("{{ row['my text'] }}", ["`my text`", "did you mean 'My text'?"]),
        ("\n\n{{ title }\n", ["line 3 of the template", "{% raw %}"]),
        ("text\n{% if %}", ["line 2 of the template"]),
        ("{{ title | uper }}", ["line 1 of the template", "uper"]),
        ("{% include 'x' %}", ["line 1 of the template: include"]),
        ("{% import 'x' as y %}", ["import"]),
        ("{% extends 'x' %}", ["extends"]),
        ("{{ lipsum() }}", ["`lipsum`"]),
        ("{{ tags | random }}", ["random"]),
    ],
)
def test_mistakes_are_told_before_anything_is_rendered(source: str, words: list[str]) -> None:
    with pytest.raises(TemplateError) as refused:
        Template(source).columns(list(ROW))
    for word in words:
        assert word in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_data_there_are_no_columns() -> None:
    with pytest.raises(TemplateError, match="give --from"):
        Template("{{ title }}").columns([])


@pytest.mark.parametrize(
    "source",
    [
        "{{ empty }}",
        "{{ empty | upper }}",
        "{{ empty ~ 'x' }}",
        "{{ empty + 'x' }}",
        "{{ 'x' + empty }}",
        "{{ empty | length }}",
        "{{ row.empty }}",
        "{% for x in empty %}{% endfor %}",
        "{{ empty.x }}",
        "{{ empty[0] }}",
        "{{ empty | trim }}",
        "{{ 'a %s' | format(empty) }}",
        "{{ empty() }}",
        "{{ empty | join }}",
        "{{ 'x' in empty }}",
        "{{ empty > 1 }}",
        "{{ empty * 2 }}",
        "{{ -empty }}",
        "{{ empty | int }}",
        "{{ '{}'.format(empty) }}",
        "{% set x = empty %}{{ x }}",
        "{{ [1, empty] | join }}",
        "{{ empty | default('x') }}",
        "{{ empty | list }}",
        "{{ empty | string }}",
    ],
)
def test_a_null_is_an_error_that_names_row_and_column(source: str) -> None:
    with pytest.raises(TemplateError) as refused:
        rendered(source)
    assert str(refused.value) == "row 17: `empty` is empty (write {{ empty or '' }} or --drop-null)"


def test_a_null_under_another_name_is_written_as_it_must_be() -> None:
    with pytest.raises(TemplateError) as refused:
        rendered("{{ row['a b'] }}", {"a b": None})
    assert "write {{ row[\"a b\"] or '' }}" in str(refused.value)
    with pytest.raises(TemplateError, match="row 17: an expression of the template is empty"):
        rendered("{{ meta.who }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ title.__class__.__mro__ }}",
        "{{ row.__init__ }}",
        "{{ tags.append('x') }}",
        "{{ meta.update({}) }}",
        "{{ row.pop('title') }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ range(10000000) | list }}",
        "{{ 'x' * 1000000000 }}",
        "{{ [1] * 1000000000 }}",
        "{{ 9 ** 999999 }}",
        "{{ title + 1 }}",
        "{{ 1 / 0 }}",
        "{{ meta.nobody }}",
        "{{ title.nothing }}",
        "{{ tags[9] }}",
        "{{ '{0.__class__}'.format(title) }}",
        "{{ self.__init__ }}",
        "{{ 1000000000 * 'x' }}",
        "{{ (title | attr('__class__')) }}",
        "{{ namespace.__init__ }}",
    ],
)
def test_what_a_template_may_not_do_is_one_line(source: str) -> None:
    with pytest.raises(TemplateError) as refused:
        rendered(source)
    assert str(refused.value).startswith("row 17: ")
    assert "\n" not in str(refused.value)
    assert ROW["tags"] == ["a", "é"]


def test_variables_of_the_notebook_stand_beside_the_columns() -> None:
    template = Template("{{ style }} {{ title }}", {"style": "plain"})
    assert template.columns(list(ROW)) == ["title"]
    assert template.render(ROW, 1) == "plain X"
    with pytest.raises(TemplateError, match="both a column and a variable"):
        Template("{{ title }}", {"title": "x"}).columns(list(ROW))
    with pytest.raises(TemplateError, match="`style` is empty"):
        Template("{{ style }}", {"style": None}).render(ROW, 1)


PIECES = st.lists(
    st.sampled_from(["{{ a }}", "{{ b }}", '{{ row["a"] }}', "{{ style }}", "{{ a | upper }}", "{", "}}", "{x} {0}", "é "]), max_size=5
)
TEXTS = st.sampled_from(["", "x", "{}", "{{ b }}", "é\n"])


@given(PIECES, st.lists(st.tuples(st.one_of(TEXTS, st.none()), st.one_of(TEXTS, st.integers(0, 9))), min_size=1, max_size=4), TEXTS)
def test_rows_at_once_give_what_each_gives(pieces: list[str], rows: list[tuple[Any, Any]], style: str) -> None:
    template = Template("".join(pieces), {"style": style})
    same = {type(b) for _, b in rows} == {int}
    data = [{"a": a, "b": b if same else str(b)} for a, b in rows]
    table, numbers = pa.Table.from_pylist(data), range(7, 7 + len(data))

    def outcome(texts: Callable[[], Iterable[str]]) -> list[str] | str:
        try:
            return list(texts())
        except TemplateError as error:
            return str(error)

    one_by_one = outcome(lambda: (template.render(row, number) for row, number in zip(data, numbers, strict=True)))
    assert outcome(lambda: template.render_all(table, numbers)) == one_by_one


def test_the_same_row_gives_the_same_text() -> None:
    keys = [f"k{i}" for i in range(50)]
    random.shuffle(keys)
    row = {"x": dict.fromkeys(keys, 1)}
    assert rendered("{{ x }}", row) == "{" + ", ".join(f'"{key}": 1' for key in keys) + "}"


def test_jinja_is_loaded_by_use_only() -> None:
    rooms = "nbdream.templates, nbdream.frontmatter, nbdream.fingerprint, nbdream.escape"
    code = f"import sys, {rooms}\nsys.exit(bool({{'jinja2', 'yaml', 'numpy'}} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
