"""Chains of operations, drawn at random: what they give, what runs again, what is read back, and whose content is the same."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbdream import Session
from nbdream.columns import ColumnDigest
from nbdream.steps import DataSource, concat
from nbdream.steps.views import SEED, shuffled

Rows = list[dict[str, Any]]

VALUES = st.one_of(st.none(), st.integers(-3, 3))
TEXTS = st.sampled_from(["", "a", "b", "ä"])
ROWS = st.lists(st.builds(lambda n, t: {"n": n, "t": t}, VALUES, TEXTS), min_size=1, max_size=8)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("map"), st.integers(0, 2)),
        st.tuples(st.just("filter"), st.integers(0, 2)),
        st.tuples(st.just("take"), st.integers(0, 6)),
        st.tuples(st.just("shuffle"), st.integers(0, 2)),
        st.tuples(st.just("select"), st.lists(st.integers(0, 50), max_size=6)),
        st.tuples(st.just("rename"), st.integers(0, 5)),
        st.tuples(st.just("splits"), st.integers(1, 9)),
        st.tuples(st.just("concat"), st.integers(0, 5)),
        st.tuples(st.just("columns"), st.integers(0, 5)),
    ),
    max_size=6,
)


@pytest.fixture(scope="module", autouse=True)
def _quick_disk() -> Iterator[None]:
    """Hundreds of small sessions: what a power cut would lose is not asked here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda fd: None)
        yield


def changed(row: dict[str, Any], number: int) -> dict[str, Any]:
    """A new value for the first column, and a column that depends on all of them in their order."""
    first = next(iter(row))
    return {first: None if number == 0 else row[first], f"all {number}": json.dumps(row)}


def kept(row: dict[str, Any], number: int) -> bool:
    return len(json.dumps(row)) % 3 != number


def plainly(rows: Rows, names: list[str], operation: str, value: Any) -> tuple[Rows, list[str]]:
    """One operation in plain Python: the rows, and the order of their columns."""
    if operation == "map" and rows:
        made = [changed(row, value) for row in rows]
        rest = [name for name in names if name not in made[0]]
        return [{**{name: row[name] for name in rest}, **new} for row, new in zip(rows, made, strict=True)], [*rest, *made[0]]
    if operation == "filter":
        return [row for row in rows if kept(row, value)], names
    if operation == "take":
        return rows[:value], names
    if operation == "shuffle":
        return [rows[i] for i in shuffled(range(len(rows)), value)], names
    if operation == "select" and rows:
        return [rows[i % len(rows)] for i in value], names
    if operation == "rename":
        old, new = names[value % len(names)], f"new {value}"
        shown = [new if name == old else name for name in names]
        return ([dict(zip(shown, row.values(), strict=True)) for row in rows], shown) if new not in names else (rows, names)
    if operation == "splits" and len(rows) > 1:
        first = 1 + value % (len(rows) - 1)
        return [rows[i] for i in shuffled(range(len(rows)), SEED)][:first], names
    if operation == "concat":
        return rows + rows[:value], names
    if operation == "columns":
        names = names[value % len(names) :] + names[: value % len(names)]
        return [{name: row[name] for name in names} for row in rows], names
    return rows, names


def in_session(step: Any, operation: str, value: Any, name: str) -> Any:
    """The same operation on a step."""
    names, rows = step.column_names, len(step)
    if operation == "map":
        return step.map(lambda row: changed(row, value), name=name) if rows else step
    if operation == "filter":
        return step.filter(lambda row: kept(row, value), name=name)
    if operation == "take":
        return step.take(value, name=name)
    if operation == "shuffle":
        return step.shuffle(seed=value, name=name)
    if operation == "select":
        return step.select([i % rows for i in value], name=name) if rows else step
    if operation == "rename":
        new = f"new {value}"
        return step if new in names else step.rename_column(names[value % len(names)], new, name=name)
    if operation == "splits":
        first = 1 + value % (rows - 1) if rows > 1 else 0
        return step.splits(train_size=first, test_size=rows - first, name=name)["train"] if first else step
    if operation == "concat":
        return concat(step, step.take(value, name=f"{name}, first"), name=name)
    return step.select_columns(names[value % len(names) :] + names[: value % len(names)], name=name)


def chain(session: Session, rows: Rows, operations: list[tuple[str, Any]]) -> Iterator[Any]:
    """The steps of a chain, as one execution of a cell makes them."""
    session.new_execution()
    step: Any = DataSource("rows", {name: [row[name] for row in rows] for name in ("n", "t")})
    yield step
    for number, (operation, value) in enumerate(operations):
        step = in_session(step, operation, value, f"step {number}")
        yield step


def listening(session: Session) -> tuple[list[str], Callable[[], None]]:
    started: list[str] = []
    return started, session.subscribe(lambda event: started.append(event["name"]) if event["type"] == "step.started" else None)


@settings(deadline=None, max_examples=40)
@given(ROWS, OPERATIONS)
def test_a_chain_gives_what_python_gives_and_runs_once(rows: Rows, operations: list[tuple[str, Any]]) -> None:
    expected = [(rows, ["n", "t"])]
    for operation, value in operations:
        expected.append(plainly(*expected[-1], operation, value))
    with tempfile.TemporaryDirectory() as folder:
        with Session(Path(folder) / "session") as session:
            steps = list(chain(session, rows, operations))
            for step, (wanted, names) in zip(steps, expected, strict=True):
                assert (step.column_names, step.output[:]) == (names, wanted)
            started, leave = listening(session)
            again = list(chain(session, rows, operations))
            leave()
            assert not started
            assert [step.key for step in again] == [step.key for step in steps]
            assert all(session.names.state(name).state == "fresh" for name in session)
        with Session(Path(folder) / "session") as session:
            for step, (wanted, names) in zip(steps, expected, strict=True):
                read = session.load(step.name).output
                assert (read.column_names, read[:]) == (names, wanted)
                assert {name: read.digest(name) for name in names} == {name: content([row[name] for row in wanted]) for name in names}


@settings(deadline=None, max_examples=25)
@given(ROWS, ROWS, OPERATIONS)
def test_what_changes_runs_again_and_nothing_is_stale(before: Rows, after: Rows, operations: list[tuple[str, Any]]) -> None:
    """The same chain over edited rows: the new result, the names on it, and fresh all over."""
    expected = (after, ["n", "t"])
    for operation, value in operations:
        expected = plainly(*expected, operation, value)
    with tempfile.TemporaryDirectory() as folder, Session(Path(folder) / "session") as session:
        list(chain(session, before, operations))
        *_, last = chain(session, after, operations)
        assert (last.output[:], last.column_names) == expected
        assert session.load(last.name).output[:] == expected[0]
        assert session.names.state(last.name).state == "fresh"


COLUMN = st.lists(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.0, -0.0, 1.0, float("nan"), float("inf")]), TEXTS),
        lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(["x", "y", "$"]), inner, max_size=2)),
        max_leaves=3,
    ),
    max_size=4,
)


def content(values: list[Any]) -> str:
    digest = ColumnDigest()
    digest.update(values)
    return digest.hexdigest()


@settings(deadline=None, max_examples=300)
@given(COLUMN, COLUMN, st.integers(0, 4))
def test_digests_are_equal_as_values_are(one: list[Any], other: list[Any], cut: int) -> None:
    """Values are the same when they look the same: 1, 1.0 and True are three, and so are 0.0 and -0.0 two."""
    cut_one = ColumnDigest()
    cut_one.update(one[:cut])
    cut_one.update(one[cut:])
    assert cut_one.hexdigest() == content(one)
    assert (content(one) == content(other)) == (shown(one) == shown(other))


def shown(value: Any) -> str:
    """``repr``, whatever the order of a dict."""
    if isinstance(value, dict):
        return repr(sorted((key, shown(part)) for key, part in value.items()))
    return repr([shown(part) for part in value]) if isinstance(value, list) else repr(value)
