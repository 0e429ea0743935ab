"""Recompute: the whole result, only its failed rows, or with another seed; counted at a server of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdream import context
from nbdream.errors import ArgumentError
from nbdream.magics.recompute import RECOMPUTE, new_seed, result
from tests.notebook import Shell

TWEETS = "%%generate tweets --from rows -m gpt --temperature 1.0 --as tweet\n{{ q }}"
LOUD = "%%map loud --from tweets\n{'loud': row.tweet.upper()}"


def refuse_threes(body: dict[str, Any]) -> Any:
    return (400, {}) if "3" in body["messages"][-1]["content"] else None


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openai_server: Any) -> Iterator[Shell]:
    monkeypatch.chdir(tmp_path)
    made = Shell()
    made.run("%dream open ./output")
    made.run(f"%dream model gpt = openai/gpt-test base_url={openai_server.base_url} api_key=none-at-all")
    made["rows"] = [{"q": f"question {number}"} for number in range(20)]
    yield made
    made.close()


def calls(shell: Shell, server: Any, *cells: str) -> int:
    before: int = server.calls
    for cell in cells:
        shell.run(cell)
    return int(server.calls) - before


def state(name: str) -> Any:
    return context.active().names.state(name)  # type: ignore[union-attr]


def texts(shell: Shell) -> list[str]:
    return list(shell["tweets"].output["tweet"][:])


def test_a_further_attempt_stands_beside_the_first(shell: Shell, openai_server: Any) -> None:
    assert calls(shell, openai_server, TWEETS, LOUD) == 20
    first, key = texts(shell), shell["tweets"].key
    told = str(shell.run("%dream recompute tweets"))
    assert "when it runs next" in told
    assert calls(shell, openai_server, TWEETS) == 20, "with replies of its own"
    assert shell["tweets"].key == f"{key}-2"
    assert not set(first) & set(texts(shell))
    assert "tweet: 20 of 20 values differ" in str(shell.run("%dream diff tweets"))
    assert (state("tweets").state, state("loud").state) == ("fresh", "stale"), "what was made of it turns stale by itself"
    assert "tweets" in state("loud").reasons[0]

    second = texts(shell)
    assert calls(shell, openai_server, TWEETS, LOUD) == 0, "once only; and from here on the second attempt is what the cell gives"
    assert texts(shell) == second
    assert state("loud").state == "fresh"
    before = first
    shell.run("%dream recompute tweets")
    assert calls(shell, openai_server, TWEETS) == 20
    assert not set(texts(shell)) & {*before, *second}


def test_two_attempts_stand_side_by_side(shell: Shell, openai_server: Any) -> None:
    from nbdream.widgets import pager
    from nbdream.widgets.mime import TABLE

    shell.run(TWEETS)
    first = shell["tweets"]
    shell.run("%dream recompute tweets")
    shell.run(TWEETS)
    bundle = shell.run("%dream diff tweets")._repr_mimebundle_()
    page = bundle[TABLE]
    assert [head["name"] for head in page["columns"]] == ["q", "tweet (before)", "tweet (now)"]
    assert (page["total"], page["all"], page["changed"], page["use"]) == (20, 20, True, first.use_id)
    assert page["rows"][3][1]["parts"] != page["rows"][3][2]["parts"]
    assert "20 of 20 values differ" in page["note"]
    more = pager.page(context.active(), {"use": page["use"], "beside": page["beside"], "changed": True, "start": 15})
    assert more["numbers"] == [15, 16, 17, 18, 19]
    assert shell.run("%dream diff tweets")._repr_mimebundle_() == bundle, "the same every time"
    back = shell["tweets"].browse(first)
    assert [head["name"] for head in pager.sheet_of(back).page(pager.Request())["columns"]] == ["q", "tweet (now)", "tweet (before)"]
    shell.run(TWEETS.replace("rows", "rows[:4]"))
    assert TABLE not in shell.run("%dream diff tweets")._repr_mimebundle_(), "rows that are gone move the others"


def test_failed_rows_alone_are_asked_again(shell: Shell, openai_server: Any) -> None:
    openai_server.fails = refuse_threes
    assert calls(shell, openai_server, TWEETS) == 20
    kept = texts(shell)
    assert (len(kept), len(shell["tweets"].failures)) == (18, 2)
    openai_server.fails = lambda body: None
    assert calls(shell, openai_server, TWEETS) == 0, "what has failed is stored as well"
    shell.run("%dream recompute tweets --failed")
    assert calls(shell, openai_server, TWEETS) == 2
    assert sorted(openai_server.prompts[-2:]) == ["question 13", "question 3"]
    assert set(kept) < set(texts(shell))
    assert len(texts(shell)) == 20
    assert calls(shell, openai_server, TWEETS) == 0
    assert len(texts(shell)) == 20, "the cell as it is written gives the mended result"
    shell.run("%dream recompute tweets --failed")
    assert calls(shell, openai_server, TWEETS) == 0, "nothing has failed any more"


def test_failed_rows_of_a_further_attempt_are_its_own(shell: Shell, openai_server: Any) -> None:
    shell.run(TWEETS)
    first = texts(shell)
    openai_server.fails = refuse_threes
    shell.run("%dream recompute tweets")
    shell.run(TWEETS)
    second = texts(shell)
    assert len(second) == 18
    openai_server.fails = lambda body: None
    shell.run("%dream recompute tweets --failed")
    assert calls(shell, openai_server, TWEETS) == 2
    assert set(second) < set(texts(shell)), "the others stay those of the attempt that is mended"
    assert not set(first) & set(texts(shell))


def test_an_answer_that_decides_nothing_is_asked_for_again(shell: Shell, openai_server: Any) -> None:
    openai_server.reply = lambda body, count: "maybe" if "7" in body["messages"][-1]["content"] and count < 2 else "Yes."
    good = "%%filter good --from rows -m gpt\nGood? {{ q }}"
    assert calls(shell, openai_server, good) == 20
    assert (len(shell["good"].output), list(shell["good"].failures["said"])) == (18, ["maybe", "maybe"])
    assert calls(shell, openai_server, good) == 0
    shell.run("%dream recompute good --failed")
    assert calls(shell, openai_server, good) == 2
    assert len(shell["good"].output) == 20


def test_another_seed_is_another_recipe(shell: Shell, openai_server: Any) -> None:
    session: Any = context.active()
    assert new_seed(session, "tweets") == 1
    assert calls(shell, openai_server, TWEETS) == 20
    assert new_seed(session, "tweets") == 1
    seeded = TWEETS.replace("--as", "--seed 1 --as")
    first = texts(shell)
    assert calls(shell, openai_server, seeded) == 20
    assert not set(first) & set(texts(shell))
    assert new_seed(session, "tweets") == 2
    assert "seed" in str(shell.run("%dream why tweets"))
    assert calls(shell, openai_server, TWEETS) == 0, "and back, for nothing"
    assert texts(shell) == first
    assert new_seed(session, "tweets") == 2


def test_what_cannot_be_asked_is_a_line(shell: Shell) -> None:
    with pytest.raises(ArgumentError, match="no result 'nothing'"):
        shell.run("%dream recompute nothing")
    shell.run("%%map other --from rows\n{'a': 1}")
    shell.run("%dream recompute other --failed")
    with pytest.raises(ArgumentError, match="no rows that could be asked again"):
        shell.run("%%map other --from rows\n{'a': 1}")
    shell.run("%%map other --from rows\n{'a': 1}")  # the order was for one run
    shell.run("%dream recompute other")
    shell.run("%%map other --from rows\n{'a': 1}")
    assert shell["other"].key.endswith("-2"), "a function may draw, too"
    shell.run("%%annotate taste --from rows --rate 5\nHow good?")
    shell.ip.nbdream.notebook.once[result("taste")] = RECOMPUTE
    with pytest.raises(ArgumentError, match="people decided"):
        shell.run("%%annotate taste --from rows --rate 5\nHow good?")
