"""Plain Python in between is followed: a result made of a frame has an origin, and turns stale with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdream.magics.dataflow import names_of
from tests.notebook import Shell

ROWS = "%%map base --from rows\n{'x': row.x + START}"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.chdir(tmp_path)
    made = Shell()
    made.run("%dream open ./output")
    made["rows"], made["START"] = [{"x": number} for number in range(5)], 1
    made.run(ROWS)
    made.run("%%map other --from rows\n{'y': row.x}")
    yield made
    made.close()


def status(shell: Shell, name: str) -> Any:
    from nbdream import context

    return context.active().names.state(name)  # type: ignore[union-attr]


BETWEEN = {
    "a frame filtered": "df = base.to_pandas()\ndf = df[df.x > 2]",
    "a column assigned": "df = base.to_pandas()\ndf['z'] = 1",
    "a function": "import pandas as pd\ndef frame():\n    return base.to_pandas().head(2)\ndf = frame()",
    "a list filled": "df = []\nfor row in base.output:\n    df.append(dict(row))",
    "a comprehension": "df = [{'x': row['x']} for row in base.output]",
    "an import beside it": "import pandas as pd\nframe = base.to_pandas()\ndf = pd.concat([frame, frame])",
    "several cells": ["first = base.to_pandas()", "second = first.copy()", "df = second"],
}


@pytest.mark.parametrize("how", BETWEEN)
def test_what_python_made_of_a_result_is_stale_with_it(shell: Shell, how: str) -> None:
    for cell in BETWEEN[how] if isinstance(BETWEEN[how], list) else [BETWEEN[how]]:
        shell.run(cell)
    shell.run("%%map more --from df\n{'w': row.x}")
    assert status(shell, "more").state == "fresh"
    shell.run("%%map other --from rows\n{'y': row.x + 1}")
    assert status(shell, "more").state == "fresh"
    shell["START"] = 100
    shell.run(ROWS)
    state = status(shell, "more")
    assert state.state == "stale"
    assert "base has changed" in state.reasons[0] or "changed: base" in state.reasons[0]


def test_what_has_nothing_to_do_with_a_result_stays_fresh(shell: Shell) -> None:
    shell.run("import pandas as pd\nframe = base.to_pandas()\ndf = pd.DataFrame({'x': [1, 2]})\nframe = None")
    shell.run("%%map more --from df\n{'w': row.x}")
    shell["START"] = 100
    shell.run(ROWS)
    assert status(shell, "more").state == "fresh"


def test_an_expression_is_followed_too_and_the_cells_are_in_the_graph(shell: Shell) -> None:
    shell.run("df = base.to_pandas()  # the words of this cell")
    shell.run("%%map more --from df[df.x>1]\n{'w': row.x}")
    graph = shell["more"].runner.graph(shell["more"])
    source = next(node["use"] for node in graph["nodes"].values() if node["use"].get("through"))
    assert [cell["source"] for cell in source["through"]] == ["df = base.to_pandas()  # the words of this cell"]
    assert {node["use"]["name"] for node in graph["nodes"].values()} >= {"base", "more"}


def test_running_again_makes_it_fresh(shell: Shell) -> None:
    frame, more = "df = base.to_pandas()", "%%map more --from df\n{'w': row.x}"
    for cell in (frame, more):
        shell.run(cell)
    shell["START"] = 100
    shell.run(ROWS)
    shell.run(more)
    assert status(shell, "more").state == "stale", "the frame is still the old one"
    for cell in (frame, more):
        shell.run(cell)
    assert status(shell, "more").state == "fresh"


@pytest.mark.parametrize(
    ("statement", "read", "assigned", "changed"),
    [
        ("a = b + c", {"b", "c"}, {"a"}, set()),
        ("a[0].x = b", {"a", "b"}, set(), {"a"}),
        ("a += b", {"a", "b"}, {"a"}, set()),
        ("def f(x=d):\n    y = x\n    return y + g", {"d", "g"}, {"f"}, set()),
        ("for i in a:\n    b.append(i)", {"a", "b", "i"}, {"i"}, {"b"}),
        ("class A(B):\n    c = d", {"B", "d"}, {"A"}, set()),
        ("x = [y for y in z]", {"z"}, {"x"}, set()),
        ("await f(a)", {"f", "a"}, set(), set()),
    ],
)
def test_names_of_statements(statement: str, read: set[str], assigned: set[str], changed: set[str]) -> None:
    import ast

    assert names_of(ast.parse(statement).body[0]) == (read, assigned, changed)
