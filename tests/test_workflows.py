"""Two workflows side by side: the first difference in words, and what merely follows from it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbdream.errors import SessionError
from nbdream.workflows import compare_sessions
from tests.notebook import Shell

TOPICS = "%%generate topics -m echo -n 6\nName a topic."
TWEETS = "%%generate tweets --from topics -m echo\n---\nsystem: You are careful.\ntemperature: 0.7\n---\nTweet: {{ topics }}"
"""A model that answers with its prompt: an edit that is to be seen below has to change the prompt."""
FRAME = "frame = tweets.to_pandas()\nframe['length'] = frame.tweets.str.len()"
LONG = "%%map long --from frame\n{'long': row.tweets[:row.length]}"
REPLIES = "%%generate replies --from long -m echo\nReply to {{ long }}"
CELLS = [TOPICS, TWEETS, FRAME, LONG, REPLIES]


@pytest.fixture
def shell() -> Iterator[Shell]:
    opened = Shell()
    yield opened
    opened.close()


def work(shell: Shell, folder: str, cells: list[str]) -> Path:
    shell.run(f"%dream open ./{folder}")
    shell.run("%dream model echo = echo/x")
    for cell in cells:
        shell.run(cell)
    return Path(folder)


def test_the_same_work_is_the_same(shell: Shell) -> None:
    before, after = work(shell, "a", CELLS), work(shell, "b", CELLS)
    found = compare_sessions(before, after)
    assert found.same
    assert str(found) == "the sessions hold the same 5 results"  # what the cell took from the frame is one


def test_a_setting_upstream_is_the_first_difference_and_the_others_follow(shell: Shell) -> None:
    before = work(shell, "a", CELLS)
    after = work(shell, "b", [TOPICS, TWEETS.replace("0.7", "0.9").replace("Tweet:", "Post:"), *CELLS[2:]])
    found = compare_sessions(before, after)
    lines = str(found).splitlines()
    assert lines[0].startswith("first difference: tweets: ")
    assert "temperature 0.7 → 0.9" in lines[0]
    assert "Post:" in lines[0]
    assert len(found.began) == 1
    assert lines[1:] == ["topics: same", *(f"{name}: differs (tweets)" for name in ("tweets", "long (data)", "long", "replies"))]


def test_python_in_between_is_where_it_began(shell: Shell) -> None:
    before = work(shell, "a", CELLS)
    after = work(shell, "b", [TOPICS, TWEETS, FRAME.replace("str.len()", "str.len() * 0"), LONG, REPLIES])
    began = compare_sessions(before, after).began
    assert len(began) == 1
    assert began[0].reasons == ("the Python that made it from other results changed",)


def test_two_beginnings_and_what_only_one_has(shell: Shell) -> None:
    before = work(shell, "a", CELLS)
    after = work(
        shell, "b", [TOPICS.replace("6", "7"), TWEETS, FRAME, LONG, REPLIES.replace("Reply", "Answer"), TOPICS.replace("topics", "more")]
    )
    found = compare_sessions(before, after)
    assert [begin.name for begin in found.began] == ["topics", "replies"]
    assert "more: only in b" in str(found)
    assert "more: only in b" in str(compare_sessions(after, before))


def test_another_way_to_the_same_rows(shell: Shell) -> None:
    before = work(shell, "a", [TOPICS, "%%map shout --from topics\n{'n': 1 + 1}"])
    after = work(shell, "b", [TOPICS, "%%map shout --from topics\n{'n': 2}"])
    assert "shout: same rows" in str(compare_sessions(before, after))


def test_two_results_of_a_session_say_where_it_began(shell: Shell) -> None:
    work(
        shell,
        "a",
        [TOPICS, TWEETS, TWEETS.replace("tweets", "others").replace("0.7", "0.9"), "%%map one --from tweets\n{'n': 1, 't': row.tweets}"],
    )
    shell.run("%%map two --from others\n{'n': 1, 't': row.others}")
    told = str(shell.run("%dream diff one two"))
    assert "it began at others: " in told
    assert "temperature 0.7 → 0.9" in told


def test_the_command_compares_folders(shell: Shell) -> None:
    work(shell, "a", [TOPICS])
    work(shell, "b", [TOPICS.replace("Name a", "Name one")])
    command = [sys.executable, "-m", "nbdream", "diff", "a", "b"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith("first difference: topics: template")
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert [result["state"] for result in found["results"]] == ["differs"]
    shutil.rmtree("b/names")
    with pytest.raises(SessionError, match="holds no results"):
        compare_sessions(Path("a"), Path("b"))
