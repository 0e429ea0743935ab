"""``nbdream cache``: what is kept, what nothing reaches, and replies that move between sessions."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from nbdream import Session, pruning
from nbdream.cache import CallCache
from nbdream.cli import main
from nbdream.files import Lock, append_line
from nbdream.hub.share import share
from nbdream.llms import EchoLLM, OpenAI
from nbdream.steps import Generate

HERE = ["--session", "output"]
KEY = "a" * 32 + ":0"


def lines(template: str, name: str = "lines", **args: Any) -> Generate:
    return Generate(name, args={"llm": EchoLLM(), "template": template, **args})


def again(session: Session) -> None:
    session.new_execution()


def kept(folder: Path) -> set[str]:
    return {path.parent.name for path in (folder / "objects").glob("*/node.json")}


# --- ls ---------------------------------------------------------------------------------------------------------------


def test_ls(session: Session, openai_server: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")  # the width of a terminal: a narrow one cuts columns
    gpt = OpenAI("gpt-4.1", base_url=openai_server.base_url, price={"input": 1.0, "output": 2.0})
    Generate("paid", args={"llm": gpt, "template": "Hello there", "n": 3})
    unpriced = OpenAI("own", base_url=openai_server.base_url)
    Generate("unpriced", args={"llm": unpriced, "template": "Hello", "n": 2})
    EchoLLM()("directly")
    session.stop()
    assert main(["cache", "ls", *HERE]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["step", "model", "replies", "failed", "tokens", "in", "tokens", "out", "spent", "bytes"]
    rows = {line.split()[0]: line for line in said}
    assert "gpt-4.1" in rows["paid"]
    assert "$0.00" in rows["paid"]
    assert "unknown" in rows["unpriced"]
    assert "echo" in rows["asked"]
    assert rows["all"].split()[1] == "6"
    assert said[-1].startswith("2 results: ")

    assert main(["cache", "ls", *HERE, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    with CallCache(Path("output/calls.sqlite")) as cache:
        size = sum(len(key) + len(json.dumps(value, separators=(",", ":"))) for key, value in cache.items())
    assert sum(entry["bytes"] for entry in told["replies"]) == size
    assert [(entry["by"], entry["calls"]) for entry in told["replies"]] == [("paid", 3), ("unpriced", 2), (None, 1)]
    assert told["replies"][0]["cost"] > 0


def test_ls_of_nothing(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.stop()
    assert main(["cache", "ls", *HERE]) == 0
    assert capsys.readouterr().out == "no replies are stored\n0 results: 0 bytes\n"
    assert main(["cache", "ls", "--session", "elsewhere"]) == 1
    assert "there is no session in elsewhere" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["cache"])


# --- prune ------------------------------------------------------------------------------------------------------------


def test_prune_keeps_the_last_few_and_what_they_come_from(session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = []
    for number in range(5):
        again(session)
        above = lines(f"line {number}", "above")
        made.append(
            (above.key, Generate("below", inputs={"rows": above.output}, args={"llm": EchoLLM(), "template": "{{ generation }}!"}).key)
        )
    replies = len(list(session.engine._cache))
    session.stop()
    gone = {key for pair in made[:2] for key in pair}
    assert main(["cache", "prune", "--dry-run", *HERE]) == 0
    assert "4 results, " in (said := capsys.readouterr().out)
    assert "would be removed" in said
    assert kept(tmp_path / "output") == {key for pair in made for key in pair}

    assert main(["cache", "prune", "--json", *HERE]) == 0
    assert {result["key"] for result in json.loads(capsys.readouterr().out)["results"]} == gone
    assert kept(tmp_path / "output") == {key for pair in made[2:] for key in pair}
    with Session("./output") as session:
        assert len(list(session.engine._cache)) == replies  # they are paid for
        again(session)
        assert lines("line 0", "above").usage["calls"] == 0
        assert list(session.load("below")) == [{"generation": "line 4!"}]
    assert main(["cache", "prune", *HERE]) == 0


def test_an_ancestor_of_what_is_kept_stays(session: Session, tmp_path: Path) -> None:
    above = lines("first", "above")
    below = Generate("below", inputs={"rows": above.output}, args={"llm": EchoLLM(), "template": "{{ generation }}!"})
    for number in range(4):  # the name has gone on, and what was made of its first result has not
        again(session)
        lines(f"further {number}", "above")
    gone = {result.key for result in pruning.prune(tmp_path / "output")}
    assert above.key not in gone
    assert below.key not in gone
    assert len(gone) == 1


def test_what_lives_and_what_was_published_stays(session: Session, tmp_path: Path) -> None:
    first = lines("first")
    second = lines("second") if again(session) is None else first
    for number in range(3):
        again(session)
        lines(f"further {number}")
    running = tmp_path / "output" / "objects" / ("b" * 40)
    running.mkdir()
    append_line(tmp_path / "output" / pruning.PUBLISHED, {"recipe": first.key, "use": first.use_id, "where": "org/x", "when": "2026-11-21"})
    with Lock(running / "run.lock"):
        assert [result.key for result in pruning.prune(tmp_path / "output")] == [second.key]
        assert running.exists()
    assert [result.name for result in pruning.prune(tmp_path / "output")] == ["unfinished"]  # it lives no longer
    assert first.key in kept(tmp_path / "output")


def test_publishing_is_remembered(session: Session, tmp_path: Path) -> None:
    made = lines("to be published")
    made.publish_to_hf_hub("./published")
    for number in range(4):
        again(session)
        lines(f"further {number}")
    pruning.prune(tmp_path / "output")
    assert made.key in kept(tmp_path / "output")


# --- export and import ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["replies.jsonl", "replies.zip"])
def test_replies_move_to_another_session(openai_server: Any, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    def made(folder: str) -> Generate:
        with Session(folder):
            gpt = OpenAI("gpt-4.1", base_url=openai_server.base_url)
            return Generate("lines", args={"llm": gpt, "template": "é \u2028 line", "n": 4})

    made("./one")
    assert main(["cache", "export", name, "--session", "one"]) == 0
    assert capsys.readouterr().out == f"{name}: 4 replies\n"
    first = (tmp_path / name).read_bytes()
    assert main(["cache", "export", name, "--session", "one"]) == 0
    assert (tmp_path / name).read_bytes() == first
    Session("./two").prepare()
    capsys.readouterr()
    assert main(["cache", "import", name, "--session", "two"]) == 0
    assert capsys.readouterr().out == f"{name}: 4 of 4 replies are new here\n"
    assert made("./two").usage["calls"] == 0
    assert openai_server.calls == 4
    assert main(["cache", "import", name, "--session", "two", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"new": 0, "replies": 4}


def test_the_first_reply_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Session("./output").prepare()
    failure = {"error": {"kind": "row", "message": "refused"}}
    other = "b" * 32 + ":1"
    with CallCache(tmp_path / "output" / "calls.sqlite") as cache:
        cache.put([(KEY, {"text": "first"}), (other, failure)])
    with (tmp_path / "in.jsonl").open("w") as file:
        for key in (KEY, other):
            print(json.dumps({"key": key, "value": {"text": "second"}}), file=file)
    assert main(["cache", "import", "in.jsonl", *HERE]) == 0
    assert "1 of 2 replies are new here; what was stored already stays" in capsys.readouterr().out
    with CallCache(tmp_path / "output" / "calls.sqlite") as cache:
        assert dict(cache.items()) == {KEY: {"text": "first"}, other: {"text": "second"}}  # a failure gives way


def test_a_shared_archive_is_a_source_of_replies(session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines("a line", n=3)
    share(session, tmp_path / "a.zip", None)
    session.stop()
    Session("./two").prepare()
    assert main(["cache", "import", "a.zip", "--session", "two"]) == 0
    assert "3 of 3 replies are new here" in capsys.readouterr().out


def test_of_a_file_with_anything_wrong_none_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Session("./output").prepare()
    good = json.dumps({"key": KEY, "value": {"text": "=cmd|' /C calc'!A0 <script>alert(1)</script> \x1b[31m"}})
    (tmp_path / "in.jsonl").write_text(good + "\n" + '{"key": "../x", "value": {"text": "y"}}\n')
    assert main(["cache", "import", "in.jsonl", *HERE]) == 1
    assert "in.jsonl is broken: line 2 holds no reply: its key is none" in capsys.readouterr().err
    with CallCache(tmp_path / "output" / "calls.sqlite") as cache:
        assert len(cache) == 0
    (tmp_path / "in.jsonl").write_text(good)
    assert main(["cache", "import", "in.jsonl", *HERE]) == 0
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as packed:
        packed.writestr("../../calls.jsonl", good)
    assert main(["cache", "import", "in.zip", *HERE]) == 1
    assert "climbs out of its folder" in capsys.readouterr().err
    assert main(["cache", "import", "missing.jsonl", *HERE]) == 1
    assert main(["cache", "export", "replies.txt", *HERE]) == 1
    assert "ends in .jsonl or .zip" in capsys.readouterr().err


def test_a_credential_is_masked_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Session("./output").prepare()
    with CallCache(tmp_path / "output" / "calls.sqlite") as cache:
        cache.put([(KEY, {"text": "it is hunter2-hunter2"})])
    monkeypatch.setenv("MY_PASSWORD", "hunter2-hunter2")
    assert main(["cache", "export", "out.jsonl", *HERE]) == 0
    assert "hunter2" not in (tmp_path / "out.jsonl").read_text()
