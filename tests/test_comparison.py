"""Two results compared, as `%dream diff` and `nbdream diff` say it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbdream import Session
from nbdream.comparison import compare
from nbdream.errors import ArgumentError
from nbdream.steps import DataSource
from tests.notebook import Shell


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.chdir(tmp_path)
    made = Shell()
    made.run("%dream open ./output")
    made["rows"] = [{"q": f"question {number}", "n": number} for number in range(30)]
    yield made
    made.close()


def said(shell: Shell, line: str) -> str:
    return str(shell.run(line))


def test_an_edited_cell_against_its_earlier_result(shell: Shell) -> None:
    shell.run("%%map lengths --from rows\n{'a': len(row.q) + row.n}")
    with pytest.raises(ArgumentError, match="no earlier result"):
        shell.run("%dream diff lengths")
    shell.run("%%map lengths --from rows\n{'a': len(row.q) + row.n if row.n < 28 else 0}")
    told = said(shell, "%dream diff lengths")
    assert "a: 2 of 30 values differ" in told
    assert "39" in told
    assert "the recipes are the same" not in told


def test_rows_added_and_removed_are_counted_and_the_others_compared(shell: Shell) -> None:
    shell.run("%%map first --from rows\n{'a': row.n}")
    shell.run("%%map second --from rows[5:]+[{'q':'new','n':99}]\n{'a': -row.n}")
    told = said(shell, "%dream diff first second")
    assert "5 of 30 rows are gone" in told
    assert "1 of 26 rows are new" in told
    assert "a: 25 of 25 values differ" in told


def test_the_same_is_said_to_be_the_same(shell: Shell) -> None:
    shell.run("%%map first --from rows\n{'a': row.n}")
    shell.run("%%map second --from rows\n{'a': row.n + 0}")
    assert "the rows are the same (30)" in said(shell, "%dream diff first second")
    with pytest.raises(ArgumentError, match="frist"):
        shell.run("%dream diff frist second")


def test_columns_that_one_does_not_have(shell: Shell) -> None:
    shell.run("%%map first --from rows\n{'a': [row.n, 1]}")
    shell.run("%%map second --from rows\n{'a': [row.n, 2 if row.n == 7 else 1], 'b': None}")
    told = said(shell, "%dream diff first second")
    assert "column 'b' is new" in told
    assert "a: 1 of 30 values differ" in told


values = st.lists(st.tuples(st.integers(0, 4), st.one_of(st.none(), st.integers(0, 3))), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(values, values)
def test_what_is_gone_new_and_changed_adds_up(old: list[tuple[int, int | None]], new: list[tuple[int, int | None]]) -> None:
    with Session(":memory:"):
        made = [
            DataSource(name, {"k": [k for k, _ in rows], "v": [v for _, v in rows]}).map(lambda row: {"w": row["v"]}, name=f"{name} w")
            for name, rows in (("old", old), ("new", new))
        ]
        for step in made:
            step.output.table()
        found = compare(*made)
        assert found.rows == (len(old), len(new))
        assert found.rows[0] - found.only[0] == found.rows[1] - found.only[1]
        assert compare(made[0], made[0]).same
        assert all(count <= found.rows[1] - found.only[1] for count in found.changed.values())
        assert compare(made[1], made[0]).only == found.only[::-1]
