"""What people decide: every decision is kept, whoever else writes and whatever is killed, and comes to rows like any others."""

from __future__ import annotations

import itertools
import json
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbdream.annotations import Decisions, row_key
from nbdream.errors import ArgumentError, BrokenFileError, ColumnError, DataError, NbDreamError
from nbdream.files import Lock
from nbdream.steps import Annotation, DataSource
from nbdream.steps.agreement import Agreement, agreement, cohen, fleiss, most
from nbdream.widgets.annotate import ANNOTATE, annotating_bundle, respond
from nbdream.widgets.show import annotation_bundle
from tests.hostile import HOSTILE
from tests.notebook import Shell, kernel_in
from tests.test_table_widget import STATIC, VIEW, Page

if TYPE_CHECKING:
    from nbdream.session import Session

ID = "0" * 40
WHEN = "2026-11-21T09:00:00Z"


def haiku(count: int = 6) -> list[dict[str, Any]]:
    return [{"topic": f"topic {at}", "first": f"first of {at}", "second": f"second of {at}"} for at in range(count)]


@pytest.fixture
def rows(session: Session) -> DataSource:
    return DataSource("haiku", data=haiku())


def standing(decisions: Decisions) -> dict[str, dict[str, tuple[str, Any]]]:
    return {who: {row: (made.do, made.value) for row, made in decisions.of(who).items()} for who in decisions.people}


# --- the file -----------------------------------------------------------------------------------------------------------

WHO, ROWS = st.sampled_from("ab"), st.sampled_from("xyz")
MOVES = st.one_of(
    st.tuples(st.just("add"), WHO, ROWS, st.sampled_from(["accept", "reject"])),
    st.tuples(st.just("undo"), WHO),
    st.tuples(st.just("kill"), st.floats(0, 1)),
    st.tuples(st.just("another kernel")),
)


@settings(max_examples=80)
@given(moves=st.lists(MOVES, max_size=14))
def test_any_sequence_gives_what_a_plain_model_gives(moves: list[Any]) -> None:
    folder = Path(tempfile.mkdtemp(dir="."))
    model: list[tuple[str, str, str]] = []
    before = list(model)
    kernel = Decisions(folder, ID)
    for move in moves:
        if move[0] == "add":
            before = list(model)
            kernel.add(*move[1:], None, WHEN)
            model.append(move[1:])
        elif move[0] == "undo":
            mine = [at for at, made in enumerate(model) if made[0] == move[1]]
            row = kernel.undo(move[1], WHEN, "xyz")
            assert row == (model[mine[-1]][1] if mine else None)
            if mine:
                before = list(model)
                del model[mine[-1]]
        elif move[0] == "kill" and kernel.path.exists() and (data := kernel.path.read_bytes()):
            last = data[data[:-1].rfind(b"\n") + 1 :]  # of what was being written, a part may be on disk
            kept = 1 + int(move[1] * (len(last) - 3))
            kernel.path.write_bytes(data[: len(data) - len(last) + kept])
            model = list(before)
            kernel = Decisions(folder, ID)
            kernel.add("mender", "m", "accept", None, WHEN)
            before = list(model)
        else:
            kernel = Decisions(folder, ID)
    expected: dict[str, dict[str, str]] = {}
    for who, row, do in model:
        expected.setdefault(who, {})[row] = do
    for found in (kernel, Decisions(folder, ID)):
        assert {who: {row: do for row, (do, _) in made.items()} for who, made in standing(found).items() if who != "mender"} == expected


def test_a_line_that_only_lacks_its_end_is_kept(tmp_path: Path) -> None:
    Decisions(tmp_path, ID).add("a", "x", "accept", None, WHEN)
    path = tmp_path / "annotations" / f"{ID}.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    Decisions(tmp_path, ID).add("a", "y", "reject", None, WHEN)
    assert standing(Decisions(tmp_path, ID)) == {"a": {"x": ("accept", None), "y": ("reject", None)}}


def test_several_who_write_at_once_lose_nothing(tmp_path: Path) -> None:
    def write(who: str) -> None:
        mine = Decisions(tmp_path, ID)
        for at in range(40):
            mine.add(who, f"{at}", "accept", None, WHEN)
            if at % 4 == 0:
                assert mine.undo(who, WHEN, [str(at)]) == str(at)

    writers = [threading.Thread(target=write, args=(who,)) for who in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = Decisions(tmp_path, ID)
    assert {who: len(found.of(who)) for who in found.people} == dict.fromkeys("abc", 30)
    lines = [json.loads(line) for line in found.path.read_text().splitlines()]
    assert len(lines) == 3 * 50
    assert all(set(line) == {"who", "when", "row", "do", "value"} for line in lines)


def test_who_writes_waits_for_who_is_writing(tmp_path: Path) -> None:
    Decisions(tmp_path, ID).add("a", "x", "accept", None, WHEN)
    path = tmp_path / "annotations" / f"{ID}.jsonl"
    line = json.dumps({"who": "b", "when": WHEN, "row": "y", "do": "reject", "value": None})
    other = threading.Thread(target=lambda: Decisions(tmp_path, ID).add("c", "z", "accept", None, WHEN))
    with Lock(path):
        with path.open("a") as file:
            file.write(line[:20])
        other.start()
        other.join(0.2)
        assert other.is_alive()
        with path.open("a") as file:
            file.write(line[20:] + "\n")
    other.join(10)
    assert standing(Decisions(tmp_path, ID)) == {"a": {"x": ("accept", None)}, "b": {"y": ("reject", None)}, "c": {"z": ("accept", None)}}


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"who": 1, "row": "x", "do": "accept"}', '{"who": "a", "row": "x", "do": "edit", "value": []}']
)
def test_a_line_that_is_no_decision_is_named_and_nothing_is_deleted(tmp_path: Path, line: str) -> None:
    path = tmp_path / "annotations" / f"{ID}.jsonl"
    path.parent.mkdir()
    path.write_text(f"{line}\n")
    with pytest.raises(BrokenFileError, match="mend the line"):
        Decisions(tmp_path, ID)
    assert path.read_text() == f"{line}\n"


def test_a_row_is_known_by_its_content() -> None:
    assert row_key({"a": 1, "b": None}) == row_key({"b": None, "a": 1})
    assert len({row_key({"a": value}) for value in (1, 1.0, "1", None, [1])}) == 5


# --- agreement ----------------------------------------------------------------------------------------------------------

FLEISS = [
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
]  # fmt: skip
"""Ten subjects, fourteen raters, five categories: the worked example of Fleiss' kappa that textbooks give, 0.210."""


def test_kappa_has_the_values_of_the_textbooks() -> None:
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert cohen(pairs) == pytest.approx(0.4)
    votes = [[kind for kind, count in enumerate(row) for _ in range(count)] for row in FLEISS]
    assert fleiss(votes) == pytest.approx(0.2099, abs=5e-5)
    assert agreement(votes) == Agreement("Fleiss' κ", pytest.approx(0.2099, abs=5e-5), 10)
    assert str(agreement(pairs)) == "Cohen's κ 0.40 over 50 rows"


def test_kappa_is_not_made_up_where_it_is_not_defined() -> None:
    assert agreement([]) is None
    assert agreement([["a"], ["b"]]) is None
    assert agreement([["a", "a"], ["a", "a"]]) is None
    assert agreement([["a", "a", "a"]]) is None
    assert cohen([("a", "a"), ("b", "b")]) == 1.0


@pytest.mark.parametrize(("votes", "taken"), [("", None), ("a", "a"), ("ab", None), ("aab", "a"), ("aabbc", None), ("abcbb", "b")])
def test_most_decide_and_a_tie_decides_nothing(votes: str, taken: str | None) -> None:
    assert {most(list(order)) for order in itertools.permutations(votes)} == {taken}


# --- the result ---------------------------------------------------------------------------------------------------------


def test_reviewed_rows_are_kept_as_they_were_or_edited(rows: DataSource, session: Session) -> None:
    taste = Annotation("taste", rows, by="ana")
    assert (len(taste), taste.output.column_names) == (0, ["topic", "first", "second", "reviewed"])
    taste.decide(0, "accept")
    taste.decide(2, "edit", "better")
    taste.decide(3, "reject")
    taste.decide(4, "edit", "second of 4")
    assert [row["reviewed"] for row in taste] == ["second of 0", "better", "second of 4"]
    assert [row["topic"] for row in taste] == ["topic 0", "topic 2", "topic 4"]
    assert taste.tally.line() == "4 of 6 rows decided · 3 accepted (1 of them edited) · 1 rejected"
    assert (taste.undo(), taste.undo(), taste.undo(), taste.undo(), taste.undo()) == (4, 3, 2, 0, None)
    assert len(taste) == 0
    assert len(session.load("taste")) == 0


def test_ratings_and_choices_have_columns_of_their_own(rows: DataSource) -> None:
    rated = Annotation("rated", rows, rate=5)
    rated.decide(1, "rate", 4)
    rated.decide(5, "rate", 1)
    assert [(row["topic"], row["rating"]) for row in rated] == [("topic 1", 4), ("topic 5", 1)]
    assert "mean rating 2.50" in repr(rated)
    chosen = Annotation("chosen", rows, prefer=("first", "second"))
    chosen.decide(0, "choose", "second")
    chosen.decide(1, "tie")
    chosen.decide(2, "choose", "first")
    assert chosen.output[:] == [
        {"topic": "topic 0", "chosen": "second of 0", "rejected": "first of 0"},
        {"topic": "topic 2", "chosen": "first of 2", "rejected": "second of 2"},
    ]
    assert chosen.tally.line() == "3 of 6 rows decided · 1 first · 1 second · 1 tie"


def test_no_row_vanishes_uncounted(rows: DataSource) -> None:
    taste = Annotation("taste", rows, prefer=("first", "second"), by="a")
    other = Annotation("taste", rows, prefer=("first", "second"), by="b")
    for row, choices in enumerate((("first", "first"), ("first", "second"), ("second", None), (None, None), ("tie", "tie"))):
        for who, choice in zip((taste, other), choices, strict=True):
            if choice is not None:
                who.decide(row, *(("tie",) if choice == "tie" else ("choose", choice)))
    tally = taste.tally
    assert sum(tally.outcomes.values()) == taste.rows.num_rows == 6
    assert (len(taste), tally.outcomes["tie"], tally.outcomes["disagree"], tally.outcomes["undecided"]) == (2, 1, 1, 2)
    assert len(taste.failures) == 0


def test_reordered_and_equal_rows_keep_what_was_decided(session: Session) -> None:
    data = [*haiku(4), haiku(4)[1]]
    taste = Annotation("taste", DataSource("rows", data=data), by="a")
    taste.decide(1, "edit", "better")
    taste.decide(3, "accept")
    assert [row["topic"] for row in taste] == ["topic 1", "topic 3", "topic 1"], "equal rows share a decision"
    again = Annotation("taste", DataSource("rows", data=[dict(reversed(row.items())) for row in data[::-1]]), column="second", by="a")
    assert [(row["topic"], row["reviewed"]) for row in again] == [("topic 1", "better"), ("topic 3", "second of 3"), ("topic 1", "better")]
    changed = [{**row, "second": row["second"] + "!"} if at == 3 else row for at, row in enumerate(data)]
    assert [row["topic"] for row in Annotation("taste", DataSource("rows", data=changed), by="a")] == ["topic 1", "topic 1"]


def test_the_order_of_decisions_does_not_count(rows: DataSource, session: Session) -> None:
    keys = []
    for name, order in (("one", (0, 1, 2)), ("two", (2, 0, 1))):
        taste = Annotation(name, rows, by=name)
        for row in order:
            taste.decide(row, "accept")
        keys.append(taste.key)
    assert keys[0] == keys[1], "the same decisions are the same result, whoever took them, when and in whatever order"


def test_each_person_has_decisions_of_their_own_and_most_of_them_decide(rows: DataSource) -> None:
    people = [Annotation("taste", rows, by=who) for who in ("ana", "bo", "cy")]
    for who, does in zip(people, ("aaaar", "aarra", "aerr"), strict=True):
        for row, do in enumerate(does):
            who.decide(row, {"a": "accept", "r": "reject", "e": "edit"}[do], "better" if do == "e" else None)
    taste = people[0]
    assert [row["topic"] for row in taste] == ["topic 0", "topic 1"]
    assert taste.tally.outcomes == {"accept": 2, "reject": 2, "disagree": 1, "undecided": 1}
    assert {who: len(made) for who, made in taste.tally.people.items()} == {"ana": 5, "bo": 5, "cy": 4}
    votes = [["accept"] * 3, ["accept", "accept", "edit"], ["accept", "reject", "reject"], ["accept", "reject", "reject"]]
    assert taste.tally.agreement == Agreement("Fleiss' κ", pytest.approx(fleiss(votes)), 4)
    assert repr(taste).endswith("4 of 6 rows decided · 2 accepted · 2 rejected · 1 on which people disagree · 3 people, "
                                f"Fleiss' κ {fleiss(votes):.2f} over 4 rows)")  # fmt: skip
    assert people[1].undo() == 4, "one takes back one's own"
    assert len(taste.mine()) == 5


def test_a_use_is_a_snapshot_and_nothing_new_runs_nothing(rows: DataSource, session: Session) -> None:
    events: list[dict[str, Any]] = []
    session.subscribe(events.append)
    taste = Annotation("taste", rows, by="ana")
    taste.decide(0, "accept")
    kept = taste.take(5, name="kept")
    assert len(kept) == 1
    first = taste.key
    done = len(events)
    assert (taste.key, len(taste), len(taste.output)) == (first, 1, 1)
    assert events[done:] == []
    taste.decide(1, "reject")
    for row in (2, 3):
        taste.decide(row, "accept")
    assert [session.names.state(name).reasons for name in ("taste", "kept")] == [("3 more decisions in taste",)] * 2
    assert len(session.load("taste")) == 1, "the last snapshot"
    assert len(taste) == 3
    assert session.why("taste") == ["3 more decisions"]
    assert session.names.state("kept").reasons == ("its input 'rows' has changed: taste (3 more decisions)",)
    assert len(session.load("taste")) == 3
    taste.undo()
    taste.undo()
    taste.decide(3, "accept")
    assert session.names.state("taste").reasons == ("1 fewer decision in taste",)
    assert Annotation("taste", rows, by="ana").key == taste.key != first


def test_a_snapshot_stands_in_its_own_cell_wherever_it_is_taken(rows: DataSource, session: Session) -> None:
    session.new_execution({"id": "asked", "source": "%%annotate taste", "number": 1, "notebook": None})
    taste = Annotation("taste", rows, by="ana")
    session.new_execution({"id": "used", "source": "taste.take(1)", "number": 2, "notebook": None})
    for row in (0, 1):
        taste.decide(row, "accept")
        assert len(taste) == row + 1
    history = (session.names.read("taste") or {})["history"]
    assert [entry["cell"]["id"] for entry in history] == ["asked"] * 3
    assert list(session.names) == ["haiku", "taste"]


def test_the_card_says_how_people_decided_and_names_nobody(rows: DataSource, session: Session) -> None:
    from nbdream.cards import DatasetFacts, front_matter, readme_dataset

    for who in ("ana bolena", "bo diddley"):
        taste = Annotation("taste", rows, prefer=("first", "second"), by=who, instruction="Which is the better haiku?")
        for row in range(4):
            taste.decide(row, "choose", "first" if row or who[0] == "a" else "second")
    card = taste.card()
    block = card["data_card"]["taste"]
    assert block["annotations_creators"] == ["expert-generated"]
    assert (block["Annotators"], block["Annotation Instruction"]) == (["2"], ["Which is the better haiku?"])
    assert block["Decisions"][0].startswith("3 of 6 rows decided · 3 first · 1 on which people disagree · 2 people")
    assert block["Agreement"] == ["Cohen's κ 0.00 over 4 rows"]
    assert len(block["Annotated"][0]) in (10, 24)
    assert {card["type"]: card["value"] for card in taste.node["cards"]}["Agreement"] == block["Agreement"][0]
    facts = DatasetFacts("a/b", {"train": 3}, {"chosen": "string"}, [], {})
    readme = readme_dataset(session.graph(taste), None, facts)
    assert front_matter(readme)["annotations_creators"] == ["expert-generated"]
    assert front_matter(readme_dataset(session.graph(rows), None, facts)).get("annotations_creators") is None
    told = json.dumps([card, taste.node, annotation_bundle(taste), readme, session.names.read("taste")])
    assert "ana bolena" not in told
    assert "diddley" not in told


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"column": "secnod"}, ColumnError, "second"),
    ({"prefer": ("first", "third")}, ColumnError, "third"),
    ({"prefer": ("first",)}, ArgumentError, "two columns"),
    ({"prefer": ("first", "first")}, ArgumentError, "two columns"),
    ({"prefer": "first"}, ArgumentError, "two columns"),
    ({"rate": 1}, ArgumentError, "2 to 9"),
    ({"rate": 10}, ArgumentError, "2 to 9"),
    ({"rate": True}, ArgumentError, "2 to 9"),
    ({"rate": 3, "prefer": ("first", "second")}, ArgumentError, "two questions"),
    ({"column": "first", "rate": 3}, ArgumentError, "two questions"),
    ({"by": " "}, ArgumentError, "who decides"),
]


@pytest.mark.parametrize(("given", "kind", "said"), BAD)
def test_a_question_that_cannot_be_asked_is_one_line(rows: DataSource, given: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as raised:
        Annotation("taste", rows, **given)
    assert isinstance(raised.value, NbDreamError)
    assert raised.value.hint
    assert "\n" not in str(raised.value)


def test_rows_that_are_none_cannot_be_asked_about(session: Session) -> None:
    with pytest.raises(DataError, match="nothing to annotate"):
        Annotation("taste", DataSource("rows", data=haiku(2)).take(0))
    with pytest.raises(ArgumentError, match="only texts"):
        Annotation("taste", DataSource("numbers", data={"n": [1, 2]})).decide(0, "edit", "3")


@pytest.mark.parametrize(
    ("given", "does"),
    [
        ({}, (0, "rate", 3)), ({}, (0, "edit")), ({}, (0, "edit", 3)), ({}, (0, "accept", "x")), ({}, (6, "accept")), ({}, (-1, "accept")),
        ({}, (True, "accept")), ({}, ("0", "accept")), ({}, (0, "undo")), ({"rate": 3}, (0, "rate", 4)), ({"rate": 3}, (0, "rate", 0)),
        ({"rate": 3}, (0, "rate", True)), ({"rate": 3}, (0, "rate", "3")), ({"prefer": ("first", "second")}, (0, "choose", "topic")),
        ({"prefer": ("first", "second")}, (0, "choose")), ({"prefer": ("first", "second")}, (0, "accept")), ({}, (0, ["accept"])),
    ],
)  # fmt: skip
def test_what_cannot_be_decided_is_refused_and_not_written(rows: DataSource, given: dict[str, Any], does: tuple[Any, ...]) -> None:
    taste = Annotation("taste", rows, **given)
    with pytest.raises(ArgumentError):
        taste.decide(*does)
    assert not taste.mine()


def test_an_edit_that_no_file_can_hold_is_mended(rows: DataSource) -> None:
    taste = Annotation("taste", rows)
    taste.decide(0, "edit", "half \ud83d of one, a whole \U0001f600")
    assert taste.output["reviewed"][0] == "half � of one, a whole \U0001f600"


# --- what is shown ------------------------------------------------------------------------------------------------------


def test_what_is_saved_depends_on_the_decisions_alone(rows: DataSource) -> None:
    bundles = []
    for name in ("ana", "bo"):
        taste = Annotation("taste", rows, by=name, instruction="Is it <good>?")
        for row in (0, 1) if name == "ana" else ():
            taste.decide(row, "accept")
        bundles.append(annotation_bundle(taste))
    assert bundles[0] == bundles[1]
    assert set(bundles[0]) == {"text/plain", "text/html", ANNOTATE}
    saved = bundles[0][ANNOTATE]
    assert (saved["decisions"], saved["total"], saved["line"]) == (["accepted"] * 2 + [""] * 4, 6, "2 of 6 rows decided · 2 accepted")
    assert "Is it &lt;good&gt;?" in bundles[0]["text/html"]
    assert "taste.annotate()" in bundles[0]["text/html"]


def test_what_a_model_wrote_is_text_in_what_is_saved_and_asked(session: Session) -> None:
    texts = [text for text in HOSTILE if text.encode("utf-8", "ignore").decode() == text]
    taste = Annotation("taste", DataSource("hostile", data={"text": texts}), instruction=texts[0])
    taste.decide(0, "edit", texts[1])
    told = json.dumps([annotation_bundle(taste), *(respond(taste, {"op": "annotate_state", "after": row}) for row in range(len(texts)))])
    assert not set(json.loads(json.dumps(annotation_bundle(taste)["text/plain"]))) & set("\x00\x07\x1b\x7f\x9b\u202e\u2066")
    assert "<script" not in annotation_bundle(taste)["text/html"]
    assert "\x1b" not in told


def test_what_is_saved_is_bounded(session: Session) -> None:
    for columns in (7, 12):
        rows = DataSource(f"{columns} columns", data=[{f"c{at}": "é" * 10**5 for at in range(columns)}] * 12)
        long = Annotation("taste", rows, instruction="é" * 10**5)
        saved = annotation_bundle(long)[ANNOTATE]
        assert len(json.dumps(saved, ensure_ascii=False).encode()) <= 64 * 1024
        assert len(saved["rows"]) == len(saved["decisions"]) > 4
    assert respond(long, {"op": "annotate_state"})["about"][0]["length"] == 10**5


def test_sides_are_swapped_by_the_row_and_nothing_else(session: Session) -> None:
    taste = Annotation("taste", DataSource("rows", data=haiku(40)), prefer=("first", "second"))
    left = []
    for row in range(40):
        state = respond(taste, {"op": "annotate_state", "after": row - 1})
        assert [field["name"] for field in state["about"]] == ["left", "right"]
        assert "first" not in json.dumps({**state, "about": []})
        left.append(state["about"][0]["text"].split()[0])
        respond(taste, {"op": "decide", "row": row, "key": state["key"], "do": "choose", "value": "left"})
    assert 10 < left.count("first") < 30
    assert [row["chosen"].split()[0] for row in taste] == left
    again = Annotation("other", DataSource("reversed", data=haiku(40)[::-1]), prefer=("first", "second"))
    assert [("second" if again.question.swapped(key) else "first") for key in again.keys[::-1]] == left


def test_a_page_goes_from_row_to_row(rows: DataSource) -> None:
    taste = Annotation("taste", rows, by="ana")

    def decide(state: dict[str, Any], do: str, value: Any = None) -> dict[str, Any]:
        return respond(taste, {"op": "decide", "row": state["row"], "key": state["key"], "do": do, "value": value})

    state = respond(taste, {"op": "annotate_state"})
    assert (state["row"], state["done"], state["total"], state["who"]) == (0, 0, 6, "ana")
    assert [field["name"] for field in state["around"]] == ["topic", "first"]
    assert state["about"] == [{"name": "second", "text": "second of 0", "length": 11, "edits": True}]
    state = respond(taste, {"op": "annotate_state", "after": state["row"]})  # skipped
    for row in range(1, 6):
        assert state["row"] == row
        state = decide(state, "accept")
    assert (state["row"], state["done"]) == (0, 5), "what was skipped comes again"
    state = decide(state, "edit", "so")
    assert (state["row"], state["done"], "about" in state) == (None, 6, False)
    state = respond(taste, {"op": "undo"})
    assert (state["row"], state["done"], state["undone"]) == (0, 5, True)
    with pytest.raises(ArgumentError, match="others by now"):
        respond(taste, {"op": "decide", "row": 0, "key": "f" * 32, "do": "accept"})
    for _ in range(5):
        state = respond(taste, {"op": "undo"})
    assert (state["done"], respond(taste, {"op": "undo"})["undone"]) == (0, False)


def test_a_page_goes_back_to_any_row_and_a_decision_there_replaces_the_one_before(rows: DataSource) -> None:
    taste = Annotation("taste", rows, by="ana")

    def at(row: int) -> dict[str, Any]:
        return respond(taste, {"op": "annotate_state", "row": row})

    def decide(row: int, do: str, value: Any = None) -> dict[str, Any]:
        return respond(taste, {"op": "decide", "row": row, "key": at(row)["key"], "do": do, "value": value})

    assert [at(row)["mine"] for row in range(6)] == [None] * 6
    decide(0, "accept")
    decide(1, "edit", "so\x1b")
    assert [at(row)["mine"] for row in (0, 1, 2)] == [{"do": "accept", "value": None}, {"do": "edit", "value": "so\u241b"}, None]
    state = decide(0, "reject")
    assert (state["row"], state["done"]) == (2, 2), "on to the next row about which nothing is decided"
    assert at(0)["mine"] == {"do": "reject", "value": None}
    assert respond(taste, {"op": "undo"})["mine"] == {"do": "accept", "value": None}, "taken back, the one before stands"
    assert (at(10**6)["row"], at(5)["row"]) == (5, 5)
    assert Annotation("taste", rows, by="ben").mine() == {}

    pair = Annotation("pair", rows, prefer=("first", "second"), by="ana")
    for row in range(6):
        state = respond(pair, {"op": "annotate_state", "row": row})
        respond(pair, {"op": "decide", "row": row, "key": state["key"], "do": "choose", "value": "left" if row % 2 else "right"})
    said = [respond(pair, {"op": "annotate_state", "row": row})["mine"]["value"] for row in range(6)]
    assert said == ["right", "left"] * 3, "as it was chosen, whichever column stood there"


def test_the_live_view_answers_and_does_nothing_else(rows: DataSource) -> None:
    pytest.importorskip("anywidget")
    taste = Annotation("taste", rows, by="ana")
    bundle = annotating_bundle(taste.annotate())
    assert {VIEW, "text/plain", "text/html", ANNOTATE} <= set(bundle)
    page = Page(bundle)
    state = page.ask({"op": "annotate_state", "id": "1"})["result"]
    answer = page.ask({"op": "decide", "id": "2", "row": 0, "key": state["key"], "do": "accept"})
    assert (answer["id"], answer["result"]["row"]) == ("2", 1)
    for message in ({"op": "decide"}, {"op": "decide", "row": 0, "key": state["key"], "do": "shout"}, {"op": "decide", "row": "0"}):
        answer = page.ask({**message, "id": "x" * 1000})
        assert set(answer) == {"op", "id", "error"}
    for message in (None, [], "decide", {}, {"op": "page"}, {"op": ["decide"]}):
        assert page.ask(message) is None
    assert len(taste) == 1


def test_texts_reach_the_page_as_text_only() -> None:
    import re

    source = (STATIC / "annotate.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|srcdoc|\bon[a-z]+\s*=|import\(", source)
    assert "data-lm-suppress-shortcuts" in source


# --- in a notebook ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path: Path) -> Any:
    made = Shell()
    made["haiku"] = haiku()
    yield made
    made.close()


def test_the_cell_takes_its_options_and_its_body(shell: Shell) -> None:
    taste = shell.run("%%annotate taste --from haiku --prefer first second --by ana\n\nWhich is better?\n")
    assert (taste.who, taste.instruction, taste.question.pair) == ("ana", "Which is better?", ("first", "second"))
    assert shell["taste"] is taste
    taste.decide(0, "choose", "first")
    kept = shell.run('%%map kept --from taste\n{"words": len(row.chosen.split())}')
    assert kept.output[:] == [{"topic": "topic 0", "chosen": "first of 0", "rejected": "second of 0", "words": 3}]
    rated = shell.run("%%annotate rated --from haiku\n---\nrate: 3\n---\n")
    assert (rated.question.highest, rated.instruction) == (3, "")
    assert shell.run("%%annotate paired --from haiku\n---\nprefer: [second, first]\n---\n").question.pair == ("second", "first")
    assert shell.run("%%annotate plain --from haiku").question.column == "second"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("taste", "needs --from"),
        ("taste --from haiku --column secnod", "did you mean 'second'"),
        ("taste --from haiku --rate 1", "2 to 9"),
        ("taste --from haiku --rate some", "whole number"),
        ("taste --from haiku --rate 3 --prefer first second", "two questions"),
        ("taste --from haiku --prefer first", "two columns"),
        ("taste --from haiku --prefer first secnod", "did you mean 'second'"),
        ("taste --from haiku[:0]", "has no rows"),
    ],
)
def test_a_mistake_in_the_cell_is_one_line(shell: Shell, line: str, said: str) -> None:
    with pytest.raises(NbDreamError, match=said) as raised:
        shell.run(f"%%annotate {line}\nWhich?")
    assert "\n" not in str(raised.value)
    assert raised.value.hint
    assert "taste" not in shell


def test_the_page_of_a_cell_asks_by_the_id_that_it_was_saved_with(shell: Shell) -> None:
    answer = shell.ip.nbdream.bridge.answer
    taste = shell.run("%%annotate taste --from haiku --rate 3 --by ana")
    of = {"id": "1", "annotations": annotation_bundle(taste)[ANNOTATE]["annotations"]}
    state = answer({"op": "annotate_state", **of})["result"]
    state = answer({"op": "decide", **of, "row": 0, "key": state["key"], "do": "rate", "value": 2})["result"]
    assert (state["row"], state["done"], [row["rating"] for row in taste]) == (1, 1, [2])
    assert answer({"op": "undo", **of})["result"]["row"] == 0
    for wrong in ({"annotations": "0" * 40}, {"annotations": "../../etc/passwd"}, {"after": "1"}):
        assert set(answer({"op": "annotate_state", **of, **wrong})) == {"op", "id", "error"}
    good = {"op": "decide", **of, "row": 0, "key": state["key"], "do": "rate", "value": 2}
    for wrong in ({"value": True}, {"value": [2]}, {"row": -1}, {"key": "x"}, {"do": "import os"}, {"code": "1"}, {"value": 4}):
        assert "error" in answer({**good, **wrong})
    assert not taste.mine()


SETUP = (
    "%load_ext nbdream\n%dream open ./output\n"
    "rows = [{'prompt': f'red cat {at}', 'one': 'sings over the tree', 'two': f'runs under the house {at}'} for at in range(20)]"
)
ASK = "%%annotate taste --from rows --prefer one two --by ana\nWhich?"


DECIDE = """from nbdream.widgets.annotate import respond
state = respond(taste, {"op": "annotate_state"})
for _ in range(%d):
    state = respond(taste, {**state, "op": "decide", "do": "choose", "value": "left"})
"""
KILLED = """import os, signal
taste._decisions.path.open("a").write('{"who": "an')
os.kill(os.getpid(), signal.SIGKILL)"""
TRAIN = """%%train tuned --method dpo --on taste --base demo
prompt: prompt
chosen: chosen
rejected: rejected
epochs: 1
device: cpu"""


@pytest.mark.slow
def test_a_kernel_killed_at_row_12_of_20_and_then_a_model_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kernel_in(tmp_path) as kernel:
        assert kernel.run(SETUP).status == "ok"
        assert "0 of 20 rows decided" in kernel.run(ASK).text
        kernel.start(DECIDE % 12 + KILLED)
        kernel.manager.provisioner.process.wait(30)
    with kernel_in(tmp_path) as kernel:
        assert kernel.run(SETUP).status == "ok"
        again = kernel.run(ASK)
        assert "12 of 20 rows decided" in again.text, again.error
        ran = kernel.run(DECIDE % 8 + "assert state['row'] is None, state\nprint(taste)")
        assert "20 of 20 rows decided" in ran.text, ran.error
        trained = kernel.run(TRAIN, timeout=180)
        assert trained.status == "ok", trained.error
        count = kernel.run("print(len(tuned.step.inputs['train_chosen']), len(taste))")
        assert count.text.split() == ["20", "20"], count.error
