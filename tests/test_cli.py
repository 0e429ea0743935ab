"""The command line: notebooks without a front end, and what a session holds."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import nbformat
import pytest

from nbdream.cli import demo_notebook, live, main
from nbdream.cli.runner import CellRun, line, run_notebook, said, title
from tests.test_attach import LiveRun

GOOD = [
    "# a comment\n%load_ext nbdream",
    "%dream open ./output",
    "%%generate greetings -m echo/echo -n 3\nHello",
    "%%map sized --from greetings\n{'size': len(row.greetings)}",
]


def write_notebook(path: Path, cells: list[str]) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), *map(nbformat.v4.new_code_cell, cells)])
    nbformat.write(notebook, path)
    return path


def outputs(path: Path) -> list[Any]:
    return [cell.outputs for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.slow
def test_run_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "books").mkdir()
    notebook = write_notebook(tmp_path / "books" / "a.ipynb", GOOD)
    assert main(["run", str(notebook)]) == 0
    lines = [text for text in capsys.readouterr().out.splitlines() if text.startswith("✓")]
    assert [text.split("]")[0] for text in lines] == ["✓ [ 1/4", "✓ [ 2/4", "✓ [ 3/4", "✓ [ 4/4"]
    assert "3 rows · echo · made " in lines[2]
    assert (tmp_path / "books" / "output" / "session.json").is_file()  # beside the notebook, wherever the command ran
    executed = tmp_path / "books" / "a.executed.ipynb"
    page = (tmp_path / "books" / "a.html").read_text()
    assert "3 rows · echo · made " in page
    first = outputs(executed)

    assert main(["run", str(notebook), "--json", "--no-html"]) == 0
    said_json = json.loads(capsys.readouterr().out)
    assert said_json["ok"]
    assert [cell["state"] for cell in said_json["cells"]] == ["done"] * 4
    assert outputs(executed) == first  # what is saved tells of the work, not of the run
    assert "widgets" not in nbformat.read(executed, as_version=4).metadata

    node = json.loads(next((tmp_path / "books" / "output" / "objects").glob("*/node.json")).read_text())
    ids = {cell.id for cell in nbformat.read(notebook, as_version=4).cells}
    assert node["cell"]["id"] in ids
    assert node["cell"]["notebook"] == "a.ipynb"

    folder = str(tmp_path / "books" / "output")
    assert main(["status", "--session", folder]) == 0
    assert "greetings   fresh" in capsys.readouterr().out
    assert main(["status", "--session", folder, "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["greetings", "sized"]
    assert main(["card", "sized", "--session", folder, "--json"]) == 0
    assert "echo" in capsys.readouterr().out
    assert main(["why", "sized", "--session", folder]) == 0
    assert "nothing has changed" in capsys.readouterr().out
    assert main(["diff", "sized", "sized", "--session", folder]) == 0
    assert "the rows are the same (3)" in capsys.readouterr().out
    assert main(["why", "nothing", "--session", folder, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"] == "ArgumentError"


@pytest.mark.slow
def test_a_failed_cell_ends_the_run_and_what_ran_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = write_notebook(tmp_path / "bad.ipynb", [*GOOD[:3], "%%generate x -m echo/echo --temprature 1\nHello", "print('never')"])
    assert main(["run", str(notebook), "--out", str(tmp_path / "out")]) == 1
    shown = capsys.readouterr().out
    assert "✗ [ 4/5]" in shown
    assert "ArgumentError: %%generate knows no option --temprature (did you mean '--temperature'?)" in shown
    executed = outputs(tmp_path / "out" / "bad.executed.ipynb")
    assert executed[2]
    assert executed[3][0].ename == "ArgumentError"
    assert executed[4] == []
    assert (tmp_path / "out" / "bad.html").is_file()


@pytest.mark.parametrize("content", [None, "not json", '{"cells": 5}'])
def test_what_is_no_notebook_is_one_line(tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.ipynb"
    if content is not None:
        path.write_text(content)
    assert main(["run", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("DataError: ")
    assert len(error.strip().splitlines()) == 1


def test_no_session_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 1
    assert "there is no session in ./nbdream-output or ./output" in capsys.readouterr().err
    assert not Path("nbdream-output").exists()


def test_exit_codes_of_the_command_line_itself() -> None:
    for arguments in ([], ["fly"], ["run"], ["status", "--fast"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0


def test_the_demo_keeps_an_edited_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[Path] = []

    def run(source: Path, folder: Path, *, say: Any, html: bool = True) -> Any:
        ran.append(source)
        shutil.copyfile(source, folder / "executed")
        from nbdream.cli.runner import NotebookRun

        return NotebookRun(folder / "executed", None)

    monkeypatch.setattr("nbdream.cli.runner.run_notebook", run)
    assert main(["demo", str(tmp_path / "d")]) == 0
    copy = tmp_path / "d" / demo_notebook().name
    assert ran == [copy]
    copy.write_text("edited")
    assert main(["demo", str(tmp_path / "d")]) == 0
    assert copy.read_text() == "edited"
    assert "notebook:" in capsys.readouterr().out


def test_lines() -> None:
    assert title("# c\n\n%%generate x\nHello") == "%%generate x"
    assert len(title("x" * 100)) == 60
    assert said({"outputs": [{"text": "a\nb\n"}]}) == "b"
    assert said({"outputs": [{"data": {"text/plain": '{\n "a": 1\n}'}}]}) == ""
    shown = line(CellRun(2, "%%generate x", "done", 1.25, "3 rows"), 10)
    assert shown.startswith("✓ [ 2/10] %%generate x ")
    assert shown.endswith("1.2 s  3 rows")
    assert run_notebook


# --- while a cell runs ----------------------------------------------------------------------------------------------------

WATCHING = ["%load_ext nbdream", "%dream open ./output", "figure = %dream plot counter"]


def on_the_screen(written: str) -> list[str]:
    """The lines of a terminal after all that was written to it."""
    lines = []
    for text in written.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in text.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


@pytest.mark.slow
def test_in_a_terminal_a_line_tells_how_far_the_training_is(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", WATCHING)
    threading.Thread(target=grow, args=(LiveRun(tmp_path / "output", "counter"),)).start()
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "nbdream", "run", str(notebook), "--no-html"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": "200"}) as process:
        os.close(theirs)
        written = b""
        while part := read_of(ours):
            written += part
        assert process.wait() == 0
    os.close(ours)
    text = written.decode()
    told = [part for part in text.replace("\n", "\r").split("\r") if part.startswith("  [ 3/3] counter: training · step ")]
    assert len(set(told)) >= 3, "it changes"
    assert all("loss" in part and "left" in part for part in told[1:])
    lines = on_the_screen(text)
    assert [shown[:8] for shown in lines[:3]] == ["✓ [ 1/3]", "✓ [ 2/3]", "✓ [ 3/3]"]
    assert not any("training ·" in shown for shown in lines), "the line is gone with the cell"


def read_of(terminal: int) -> bytes:
    """What was written to a terminal; nothing once nobody writes to it any more."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


@pytest.mark.slow
def test_in_a_file_a_line_now_and_then_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(live, "FIRST", 0.0)
    monkeypatch.setattr(live, "EVERY", 0.0)
    stuck = "import atexit, time; atexit.register(time.sleep, 600)"  # as a kernel's own threads may be when it ends
    notebook = write_notebook(tmp_path / "a.ipynb", [stuck, *WATCHING])
    threading.Thread(target=grow, args=(LiveRun(tmp_path / "output", "counter"),)).start()
    assert main(["run", str(notebook), "--no-html"]) == 0
    shown = capsys.readouterr()
    told = [text for text in shown.out.splitlines() if text.startswith("  [ 4/4] counter: training · step ")]
    assert len(told) >= 2
    assert "\r" not in shown.out + shown.err
    assert outputs(tmp_path / "a.executed.ipynb")[3] == []


def grow(run: LiveRun) -> None:
    """A run that makes steps until somebody has seen some, and ends."""
    folder = run.paths.folder.parents[1]
    while not (folder / "session.json").exists():
        threading.Event().wait(0.05)
    for step in range(3, 24):
        run.log(step)
        threading.Event().wait(0.15)
    run.end(state="done", step=24)


def test_a_line_for_now_is_told_from_what_stays(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    told: list[str] = []
    line_of = live.LiveLine(told.append)
    line_of.begin("[ 1/9]")

    def hear(after: float, kind: str, **content: Any) -> None:
        clock[0] = 100.0 + after
        line_of.hear({"msg_type": kind, "content": content})

    widget = {"data": {"state": {"line": "training · step 1"}}}
    for_now = {"transient": {"display_id": "x"}, "data": {"text/plain": "3 new · \x1b[2J 0 failed"}}
    hear(1, "comm_msg", **widget)
    hear(12, "comm_msg", **widget)
    hear(20, "comm_msg", **widget)
    hear(43, "update_display_data", **for_now)
    for content in ({"data": {"text/plain": "a result"}}, {"transient": None, "data": {}}, {"data": {"state": {"line": 5}}}, {}):
        hear(99, "display_data", **content)
        hear(99, "comm_msg", **content)
    assert told == ["  [ 1/9] training · step 1", "  [ 1/9] 3 new · \u241b[2J 0 failed"]
    assert capsys.readouterr().err == "", "nothing is written over where that cannot be seen"
