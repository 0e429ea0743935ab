"""The one door: load what is there, run what is not, record it, and never lose what it was made from."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nbdream import Session
from nbdream.errors import ArgumentError, BrokenFileError, ColumnError, SessionError
from nbdream.files import Lock
from nbdream.llms import EchoLLM
from nbdream.objects import ResultFolder, TableWriter
from nbdream.steps import DataSource, Generate, concat
from nbdream.steps.base import Step
from nbdream.steps.rows import Failure, Row, Selection


def ran(name: str) -> None:
    """Note a run in the test's folder; a list in this module would be a global that the steps' code reads, and count."""
    with Path("runs.txt").open("a") as file:
        file.write(f"{name}\n")


def runs() -> list[str]:
    return Path("runs.txt").read_text().split() if Path("runs.txt").exists() else []


class Numbers(Step):
    def setup(self) -> None:
        self.register_arg("n")
        self.register_arg("note", required=False)
        self.register_output("number")
        self.register_output("word")

    def run(self) -> Any:
        ran(self.name)
        note = self.args["note"] or ""
        return {"number": list(range(self.args["n"])), "word": [f"{note}{i}" for i in range(self.args["n"])]}


class Double(Step):
    def setup(self) -> None:
        self.register_input("number")
        self.register_output("doubled")

    def run(self) -> Any:
        ran(self.name)
        return [2 * number for number in self.inputs["number"]]


class Odd(Step):
    """Keeps odd rows, fails on the multiples of five, and carries the rest."""

    carries = "rows"

    def setup(self) -> None:
        self.register_input("rows")
        self.register_output("half")

    def reads(self) -> dict[str, list[str]]:
        return {"rows": ["number"]}

    def run(self) -> Any:
        ran(self.name)
        for i, number in enumerate(self.inputs["rows"]["number"]):
            if number % 5 == 0:
                yield Failure(i, "a multiple of five", said=str(number))
            elif number % 2:
                yield Row({"half": number / 2}, i)


class Backwards(Step):
    carries = "rows"

    def setup(self) -> None:
        self.register_input("rows")

    def reads(self) -> dict[str, list[str]]:
        return {}

    def run(self) -> Any:
        return Selection(range(self.inputs["rows"].num_rows - 1, -1, -1))


def test_a_step_runs_once_whatever_it_is_called(session: Session) -> None:
    first = Numbers("numbers", args={"n": 3})
    second = Numbers("the same numbers", args={"n": 3}, outputs={"word": "text"})
    assert runs() == ["numbers"]
    assert list(first.output["word"]) == list(second.output["text"]) == ["0", "1", "2"]
    assert list(session) == ["numbers", "the same numbers"]


def test_a_result_is_there_in_the_next_session(tmp_path: Path) -> None:
    for _ in range(2):
        with Session(tmp_path / "s"):
            assert Double("d", inputs={"number": Numbers("n", args={"n": 3}).output["number"]}).output[1] == {"doubled": 2}
    assert runs() == ["n", "d"]


def test_a_column_that_nobody_reads_changes_nothing_downstream(session: Session) -> None:
    before = Double("d", inputs={"number": Numbers("n", args={"n": 3}).output["number"]})
    session.new_execution()
    after = Double("d", inputs={"number": Numbers("n", args={"n": 3, "note": "x"}).output["number"]})
    assert runs() == ["n", "d", "n"]
    assert before.key == after.key


def test_a_column_that_is_read_runs_downstream_again_and_says_why(session: Session) -> None:
    Double("d", inputs={"number": Numbers("n", args={"n": 3}).output["number"]})
    session.new_execution()
    again = Double("d", inputs={"number": Numbers("n", args={"n": 4}).output["number"]})
    assert runs() == ["n", "d", "n", "d"]
    assert session.why("n") == ["n 3 → 4"]
    assert any("number" in line for line in again.why())


def test_carried_columns_are_views_on_the_current_input(session: Session) -> None:
    odd = Odd("odd", inputs={"rows": Numbers("n", args={"n": 8}).output})
    assert list(odd.output) == [
        {"number": 1, "word": "1", "half": 0.5},
        {"number": 3, "word": "3", "half": 1.5},
        {"number": 7, "word": "7", "half": 3.5},
    ]
    session.new_execution()
    shown = Odd("odd", inputs={"rows": Numbers("n", args={"n": 8, "note": "row "}).output})
    assert runs() == ["n", "odd", "n"], "the column that was read is the same"
    assert list(shown.output["word"]) == ["row 1", "row 3", "row 7"], "what is shown is never stale"


def test_no_row_vanishes(session: Session) -> None:
    odd = Odd("odd", inputs={"rows": Numbers("n", args={"n": 8}).output})
    assert list(odd.failures) == [
        {"row": 0, "error": "a multiple of five", "said": "0", "number": 0, "word": "0"},
        {"row": 5, "error": "a multiple of five", "said": "5", "number": 5, "word": "5"},
    ]


def test_a_selection_carries_every_column(session: Session) -> None:
    numbers = Numbers("n", args={"n": 3})
    backwards = Backwards("b", inputs={"rows": numbers.output})
    assert list(backwards.output["number"]) == [2, 1, 0]
    assert backwards.output.digest("number") != numbers.output.digest("number")
    assert Backwards("bb", inputs={"rows": backwards.output}).output.digest("number") == numbers.output.digest("number")


def test_a_name_is_loaded_as_it_was_made(tmp_path: Path) -> None:
    with Session(tmp_path / "s"):
        made = list(Odd("odd", inputs={"rows": Numbers("n", args={"n": 8}).output}, outputs={"half": "x"}).output)
    with Session(tmp_path / "s") as session:
        assert list(session.load("odd").output) == made
        with pytest.raises(ArgumentError, match="did you mean 'odd'"):
            session.load("ood")


def test_one_name_twice_in_one_execution_is_number_two(session: Session) -> None:
    assert Numbers("n", args={"n": 1}).name == "n"
    assert Numbers("n", args={"n": 2}).name == "n #2"
    assert Numbers("n", args={"n": 1}).name == "n"
    session.new_execution()
    assert Numbers("n", args={"n": 2}).name == "n"


def test_force_makes_a_further_attempt_beside_the_first(session: Session) -> None:
    first = Numbers("n", args={"n": 1})
    second = Numbers("n", args={"n": 1}, force=True)
    assert runs() == ["n", "n"]
    assert (first.key, second.key) == (first.key, f"{first.key}-2")
    assert Numbers("n", args={"n": 1}).key == second.key


def test_downstream_of_what_changed_is_stale_until_it_is_run_again(session: Session) -> None:
    Double("d", inputs={"number": Numbers("n", args={"n": 3}).output["number"]})
    assert session.names.state("d").state == "fresh"
    session.new_execution()
    numbers = Numbers("n", args={"n": 4})
    state = session.names.state("d")
    assert (state.state, "n 3 → 4" in state.reasons[0]) == ("stale", True)
    Double("d", inputs={"number": numbers.output["number"]})
    assert session.names.state("d").state == "fresh"


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Numbers("n", args={"m": 1}), ArgumentError, "no argument 'm'"),
        (lambda: Numbers("n"), ArgumentError, "needs the argument 'n'"),
        (lambda: Numbers("n", args={"n": 1}, outputs={"wrod": "x"}), ArgumentError, "did you mean 'word'"),
        (lambda: Numbers("n", args={"n": 1}, outputs={"word": "number"}), ArgumentError, "same name"),
        (lambda: Numbers("n", args={"n": 1}, verbos=True), ArgumentError, "did you mean 'verbose'"),
        (lambda: Numbers("", args={"n": 1}), ArgumentError, "needs a name"),
        (lambda: Double("d", inputs={"number": [1, 2]}), ArgumentError, "wrap your data"),
        (lambda: Numbers("n", args={"n": 1}).output["wrod"], ColumnError, "did you mean 'word'"),
    ],
)
def test_a_mistake_is_one_line_with_a_hint(session: Session, make: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as raised:
        make()
    assert says in str(raised.value)
    assert "\n" not in "".join(raised.value._render_traceback_())  # type: ignore[attr-defined]


def test_init_is_final() -> None:
    with pytest.raises(ArgumentError, match="setup"):

        class Own(Step):
            def __init__(self) -> None: ...


def test_a_background_step_gives_its_error_where_it_is_used(session: Session) -> None:
    class Broken(Step):
        def setup(self) -> None:
            self.register_output("x")

        def run(self) -> Any:
            raise ZeroDivisionError("ours")

    step = Broken("broken", background=True)
    with pytest.raises(ZeroDivisionError, match="ours"):
        _ = step.output
    fine = Numbers("n", args={"n": 2}, background=True)
    assert len(fine.output) == 2


def test_one_session_at_a_time(session: Session, tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="one at a time"):
        Session(tmp_path / "another").start()


def test_memory_is_gone_when_it_stops() -> None:
    with Session(":memory:") as session:
        Numbers("n", args={"n": 1})
        assert Session.is_running_in_memory()
        assert (folder := session.folder).is_dir()
    assert not folder.exists()


@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_is_refused(path: str) -> None:
    with pytest.raises(ArgumentError, match="empty"):
        Session(path)


def test_a_name_like_memory_is_a_folder(tmp_path: Path) -> None:
    with Session("memory"):
        Numbers("n", args={"n": 1})
    assert (tmp_path / "memory" / "session.json").exists()


def test_a_file_is_no_session(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        Session(tmp_path / "file").start()


def test_a_newer_folder_is_refused_politely(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "session.json").write_text('{"format": 99}')
    with pytest.raises(SessionError, match="newer nbdream"):
        Session(tmp_path / "s").start()
    assert not Session.initialized()


def test_what_a_killed_run_left_behind_is_made_again(tmp_path: Path) -> None:
    with Session(tmp_path / "s"):
        step = Numbers("n", args={"n": 3})
        step.folder.node_path.unlink()
        next(step.folder.data.glob("*.arrow")).write_bytes(b"half")
    with Session(tmp_path / "s"):
        assert len(Numbers("n", args={"n": 3}).output) == 3
    assert runs() == ["n", "n"]


KILLER = """
import os, signal, sys
from pathlib import Path
class Canary:
    def __reduce__(self):
        return (open, (sys.argv[1], "w"))
import pickle
sys.stdout.buffer.write(pickle.dumps(Canary()))
"""


def read_all(folder: Path) -> None:
    with Session(folder) as session:
        for name in session:
            handle = session.load(name)
            session.graph(handle)
            list(handle.output)
            list(handle.failures)


def test_a_pickle_in_place_of_any_file_is_named_and_never_sings(tmp_path: Path) -> None:
    song = tmp_path / "song"
    canary = subprocess.run([sys.executable, "-c", KILLER, str(song)], capture_output=True, check=True).stdout
    with Session(tmp_path / "s"):
        Odd("odd", inputs={"rows": Numbers("n", args={"n": 8}).output})
    files = sorted(path for path in (tmp_path / "s").rglob("*") if path.is_file() and not path.name.endswith("lock"))
    assert len(files) >= 8
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(canary)
        with pytest.raises(BrokenFileError, match=re.escape(path.name)):
            read_all(tmp_path / "s")
        path.write_bytes(whole)
        assert not song.exists()


def test_two_kernels_make_one_result_once(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from nbdream import Session
        from nbdream.steps.base import Step

        class Slow(Step):
            version = "1"
            def setup(self):
                self.register_output("x")
            def run(self):
                with open("runs", "a") as file:
                    file.write("x")
                self.progress = 0.25
                while not Path("go").exists():
                    time.sleep(0.01)
                return [1, 2, 3]

        with Session("s") as session:
            # The second kernel sees how far the first one is, and only then lets it go on.
            session.subscribe(lambda event: event["type"] == "step.waiting" and event.get("done") == 250 and Path("go").touch())
            print(len(Slow("slow").output))
    """)
    (tmp_path / "two.py").write_text(script)
    kernels = [subprocess.Popen([sys.executable, "two.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [kernel.communicate(timeout=60)[0].strip() for kernel in kernels] == ["3", "3"]
    assert (tmp_path / "runs").read_text() == "x"


def test_nothing_on_disk_names_this_machine(session: Session) -> None:
    Odd("odd", inputs={"rows": Numbers("n", args={"n": 8}).output})
    for path in session.folder.rglob("*.json"):
        assert str(session.folder) not in path.read_text()
        json.loads(path.read_text())


def test_known_credentials_reach_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_KEY", "the-secret-0123456789")
    with Session(tmp_path / "s") as session:
        session.new_execution({"id": "1", "notebook": None, "number": 1, "source": "key = 'the-secret-0123456789'"})
        Numbers("n", args={"n": 1, "note": "the-secret-0123456789"})
    for path in (tmp_path / "s").rglob("*.json"):
        assert "the-secret-0123456789" not in path.read_text()


def test_a_function_that_reads_rows_counts_their_content(session: Session) -> None:
    numbers = Numbers("n", args={"n": 3})
    assert [row["x"] for row in numbers.map(lambda row: {"x": row["number"] + len(numbers)}, name="sum").output] == [3, 4, 5]
    session.new_execution()
    numbers = Numbers("n", args={"n": 4})
    assert [row["x"] for row in numbers.map(lambda row: {"x": row["number"] + len(numbers)}, name="sum").output] == [4, 5, 6, 7]


# ------------------------------------------------------------------------------------------------ recipes


class Labelled(Step):
    """Its arguments have names that mean nothing to the result of nbdream's own steps, and here mean everything."""

    def setup(self) -> None:
        self.register_arg("column")
        self.register_arg("timeout")
        self.register_output("label")

    def run(self) -> Any:
        return [f"{self.args['column']} {self.args['timeout']}"]


def test_every_argument_of_a_step_of_the_users_counts(session: Session) -> None:
    assert Labelled("l", args={"column": "a", "timeout": 1}).output["label"][0] == "a 1"
    assert Labelled("l", args={"column": "b", "timeout": 2}).output["label"][0] == "b 2"


def test_the_order_of_columns_counts_where_a_function_sees_it(session: Session) -> None:
    rows = DataSource("rows", {"a": [1], "b": [2]})

    def first(row: dict[str, Any]) -> dict[str, Any]:
        return {"first": next(iter(row.values()))}

    assert rows.map(first).output["first"][0] == 1
    assert rows.select_columns(["b", "a"]).map(first).output["first"][0] == 2
    session.new_execution()
    assert DataSource("rows", {"b": [2], "a": [1]}).column_names == ["b", "a"]
    assert "order" in " ".join(session.why("rows"))


# ------------------------------------------------------------------------------------------------ staleness


class Pair(Step):
    def setup(self) -> None:
        self.register_input("left")
        self.register_input("right")
        self.register_output("pair")

    def run(self) -> Any:
        return [f"{left}{right}" for left, right in zip(self.inputs["left"], self.inputs["right"], strict=True)]


class Tens(Step):
    def setup(self) -> None:
        self.register_input("number")
        self.register_output("tens")

    def run(self) -> Any:
        return [number // 10 for number in self.inputs["number"]]


def rows_of(session: Session, **columns: list[Any]) -> Any:
    session.new_execution()
    return DataSource("rows", columns)


def test_stale_by_the_second_column_of_one_input(session: Session) -> None:
    rows = rows_of(session, a=[1, 2], b=[3, 4])
    Pair("pair", inputs={"left": rows.output["a"], "right": rows.output["b"]})
    rows_of(session, a=[1, 2], b=[5, 6])
    assert session.names.state("pair").state == "stale"


def test_fresh_while_the_column_that_was_read_is_the_same(session: Session) -> None:
    taken = rows_of(session, a=[11, 21], b=[3, 4]).take(1, name="taken")
    tens = Tens("tens", inputs={"number": taken.output["a"]})
    Pair("pair", inputs={"left": tens.output["tens"], "right": tens.output["tens"]})
    rows_of(session, a=[11, 21, 31], b=[5, 6, 7]).take(1, name="taken")
    assert session.names.state("tens").state == "fresh"
    taken = rows_of(session, a=[12, 22], b=[3, 4]).take(1, name="taken")
    assert [session.names.state(name).state for name in ("taken", "tens", "pair")] == ["fresh", "stale", "stale"]
    Tens("tens", inputs={"number": taken.output["a"]})  # other numbers, the same tens
    assert [session.names.state(name).state for name in ("tens", "pair")] == ["fresh", "fresh"]


def test_stale_by_a_column_that_is_only_shown(session: Session) -> None:
    half = Odd("half", inputs={"rows": rows_of(session, number=[1, 3], word=["a", "b"])})
    Double("double", inputs={"number": half.output["half"]})
    rows_of(session, number=[1, 3], word=["a", "c"])
    assert [session.names.state(name).state for name in ("half", "double")] == ["stale", "fresh"]


def test_stale_when_what_it_was_made_from_is_gone(session: Session) -> None:
    numbers = Numbers("n", args={"n": 3})
    Double("d", inputs={"number": numbers.output["number"]})
    shutil.rmtree(numbers.folder.path)
    assert "no longer in the session" in session.names.state("d").reasons[0]
    with pytest.raises(SessionError, match="run its cell again"):
        session.load("n")


# ------------------------------------------------------------------------------------------------ names and cells


def test_what_has_failed_leaves_its_name(session: Session) -> None:
    with pytest.raises(TypeError):
        Numbers("n", args={"n": "three"})
    assert Numbers("n", args={"n": 3}).name == "n"


def test_a_preview_takes_no_name(session: Session) -> None:
    rows = DataSource("rows", {"a": ["1", "2"]})
    made = [Generate("g", {"rows": rows}, {"llm": EchoLLM(), "template": "{{ a }}", "limit": limit}) for limit in (1, None)]
    assert [(step.name, len(step)) for step in made] == [("g", 1), ("g", 2)]


class Waits(Step):
    def setup(self) -> None:
        self.register_output("x")

    def run(self) -> Any:
        while not Path("go").exists():
            self.stopping.wait(0.01)
        return [1]


def test_a_step_in_the_background_belongs_to_the_cell_that_started_it(session: Session) -> None:
    session.new_execution({"id": "one"})
    first = Waits("w", background=True)
    session.new_execution({"id": "two"})
    second = Numbers("w", args={"n": 1})
    Path("go").touch()
    first.wait()
    assert (first.name, second.name) == ("w", "w")
    assert (first.node["cell"], second.node["cell"]) == ({"id": "one"}, {"id": "two"})


def test_stopping_waits_for_steps_that_have_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, stopping = Session.run, threading.Event()

    def late(self: Session, step: Step) -> None:
        stopping.wait(10)
        run(self, step)

    monkeypatch.setattr(Session, "run", late)
    with Session(":memory:") as session:
        step = Numbers("n", args={"n": 3}, background=True)
        assert session.running() == [step]
        threading.Timer(0.05, stopping.set).start()
    assert step.done
    assert not session.folder.exists()


# ------------------------------------------------------------------------------------------------ several at once


class Slow(Step):
    def setup(self) -> None:
        self.register_output("x")

    def run(self) -> Any:
        self.stopping.wait(0.2)
        return [1]


def test_two_forced_at_once_are_two_attempts(session: Session) -> None:
    first = Slow("slow")
    made: list[Slow] = []
    threads = [threading.Thread(target=lambda: made.append(Slow("slow", force=True))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {step.key for step in made} == {f"{first.key}-2", f"{first.key}-3"}


def test_two_names_pinned_at_once_are_both_kept(session: Session) -> None:
    def find() -> str:
        assert session.pin("other", lambda: "2") == "2"
        return "1"

    assert session.pin("one", find) == "1"
    assert [session.pin(name, lambda: "9") for name in ("one", "other")] == ["1", "2"]


def test_who_asks_whether_a_lock_is_held_does_not_hold_it(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.touch()
    with path.open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)  # what is_taken does, for longer
        assert not Lock(path).is_taken()
    with Lock(path):
        assert Lock(path).is_taken()


# ------------------------------------------------------------------------------------------------ what must not end it


def test_who_watches_cannot_end_the_work(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    session.subscribe(lambda event: 1 // 0)
    assert len(Numbers("n", args={"n": 3})) == 3
    assert "watches no longer" in caplog.text


def test_no_request_is_sent_after_a_run_has_failed(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []

    class Counting(EchoLLM):
        async def complete(self, request: Any) -> Any:
            sent.append(1)
            return await super().complete(request)

    def full(self: TableWriter, columns: Any) -> None:
        raise SessionError("the disk is full")

    rows = DataSource("rows", {"a": [str(i) for i in range(6000)]})
    monkeypatch.setattr(TableWriter, "write", full)
    llm = Counting(delay=0.02, identity="counting")
    with pytest.raises(SessionError, match="full") as kept:  # its traceback holds what the run was in the middle of
        Generate("g", {"rows": rows}, {"llm": llm, "template": "{{ a }}"})
    before = len(sent)
    time.sleep(0.2)
    assert len(sent) == before < 6000
    assert kept.value is not None


def test_a_session_in_memory_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBDREAM_SESSION", ":memory:")
    with Session("./output") as session:
        assert session.in_memory
    assert not list(tmp_path.iterdir())


def test_rows_of_another_session_are_refused(tmp_path: Path) -> None:
    with Session(tmp_path / "one"):
        numbers = Numbers("n", args={"n": 3})
    with Session(tmp_path / "two"):
        with pytest.raises(ArgumentError, match="another session"):
            Double("d", inputs={"number": numbers.output["number"]})
        with pytest.raises(ArgumentError, match="another session"):
            numbers.take(1)
        assert len(DataSource("copy", numbers.output)) == 3


def test_columns_that_are_gone_are_named(session: Session) -> None:
    numbers = Numbers("n", args={"n": 3})
    shutil.rmtree(numbers.folder.data)
    with pytest.raises(BrokenFileError, match="data is broken: it does not hold the 3 rows"):
        session.load("n").output.table()
    shutil.rmtree(numbers.folder.path)  # what the hint says
    assert len(Numbers("n", args={"n": 3}).output.table()) == 3


def test_a_graph_of_many_ways_is_opened_once(session: Session) -> None:
    rows = DataSource("rows", {"a": [1]})
    for i in range(12):
        rows = concat(rows, rows.copy(name=f"copy {i}"), name=f"both {i}").take(1, name=f"one {i}")
    opened: list[Path] = []
    node = ResultFolder.node
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResultFolder, "node", lambda self: opened.append(self.path) or node(self))
        assert session.load("one 11").output["a"][:] == [1]
    assert len(opened) <= 50


def test_a_long_chain_is_opened(session: Session) -> None:
    rows = DataSource("rows", {"a": [1, 2]})
    for i in range(400):
        rows = rows.reverse(name=f"step {i}")
    assert session.load("step 399").output["a"][:] == [1, 2]
    assert session.names.state("step 399").state == "fresh"


def test_help_tells_what_a_step_takes() -> None:
    assert Numbers.help == "Numbers(name, inputs, args, outputs)\n  args:\n    n\n    note = None\n  outputs:\n    number\n    word"


def test_a_result_that_is_not_split_has_no_train(session: Session) -> None:
    assert not hasattr(Numbers("n", args={"n": 10}), "train")
    with pytest.raises(ArgumentError, match="%dream split n"):
        _ = session.load("n").train
    session.set_splits("n", {"train": 0.5, "validation": 0.5})
    assert len(session.load("n").train) == 5
