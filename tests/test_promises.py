"""What a cell costs, counted by the server: the promises of the engine and the session, taken together."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from nbdream import Session
from nbdream.llms import OpenAI
from nbdream.steps import DataFromPrompt, DataSource, Generate


def model(server: Any, **settings: Any) -> OpenAI:
    return OpenAI("gpt-4.1", api_key="none-needed", base_url=server.base_url, **settings)


def abstracts(server: Any, n: int, **settings: Any) -> DataFromPrompt:
    return DataFromPrompt(
        "abstracts", args={"llm": model(server, **settings), "n": n, "instruction": "Write an abstract.", "temperature": 1.2}
    )


ROWS = [{"topic": f"topic {i}", "note": i} for i in range(1000)]


def tweets(
    server: Any, rows: list[dict[str, Any]], *, name: str = "tweets", template: str = "Write about {{ topic }}.", **args: Any
) -> Generate:
    source = DataSource("topics", data=rows)
    llm = args.pop("llm", None) or model(server)
    return Generate(name, inputs={"rows": source.output}, args={"llm": llm, "template": template, **args})


def test_the_same_again_is_free_and_a_hundred_more_are_a_hundred_calls(openai_server: Any, tmp_path: Path) -> None:
    with Session(tmp_path / "s"):
        first = list(abstracts(openai_server, 1000).output["generations"])
    assert openai_server.calls == 1000
    with Session(tmp_path / "s"):
        assert list(abstracts(openai_server, 1000).output["generations"]) == first
        assert openai_server.calls == 1000
    with Session(tmp_path / "s"):
        more = list(abstracts(openai_server, 1100).output["generations"])
    assert openai_server.calls == 1100
    assert more[:1000] == first


def test_one_row_edited_is_one_call(openai_server: Any, session: Session) -> None:
    tweets(openai_server, ROWS)
    assert openai_server.calls == 1000
    session.new_execution()
    edited = [*ROWS[:500], {"topic": "something else", "note": 500}, *ROWS[501:]]
    tweets(openai_server, edited)
    assert openai_server.calls == 1001


def test_what_cannot_change_a_reply_costs_nothing(openai_server: Any, session: Session) -> None:
    rows = ROWS[:50]
    tweets(openai_server, rows)
    for again in (
        {"name": "renamed"},
        {"column": "post"},
        {"template": "\n\nWrite about {{ topic }}.\n\n"},
        {"llm": model(openai_server, max_concurrency=3)},
    ):
        session.new_execution()
        tweets(openai_server, rows, **again)
    session.new_execution()
    tweets(openai_server, [{**row, "note": -1} for row in rows])
    session.new_execution()
    tweets(openai_server, rows[::-1])
    assert openai_server.calls == 50


@pytest.mark.parametrize(
    "change",
    [
        {"system": "You are a poet."},
        {"temperature": 0.3},
        {"template": "Write  about {{ topic }}."},
        {"seed": 1},
        {"max_new_tokens": 20},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_can_change_a_reply_costs_all(openai_server: Any, session: Session, change: dict[str, Any]) -> None:
    tweets(openai_server, ROWS[:20], temperature=0.7)
    session.new_execution()
    tweets(openai_server, ROWS[:20], **{"temperature": 0.7, **change})
    assert openai_server.calls == 40


@pytest.mark.parametrize("change", [{"identity": "another"}, {"system_prompt": "You are a poet."}], ids=["identity", "system_prompt"])
def test_another_model_costs_all(openai_server: Any, session: Session, change: dict[str, Any]) -> None:
    tweets(openai_server, ROWS[:20])
    session.new_execution()
    tweets(openai_server, ROWS[:20], llm=model(openai_server, **change))
    assert openai_server.calls == 40


def test_twenty_draws_are_twenty_entries_and_five_more_are_five_calls(openai_server: Any, session: Session) -> None:
    llm = model(openai_server)
    twenty = llm.run(["Write a haiku."], n=20, temperature=1.0)[0]
    assert len(set(twenty)) == 20
    assert openai_server.calls == 20
    assert llm.run(["Write a haiku."], n=25, temperature=1.0)[0][:20] == twenty
    assert openai_server.calls == 25


def test_a_result_in_memory_is_read_twice_for_one_price(openai_server: Any) -> None:
    with Session(":memory:"):
        step = abstracts(openai_server, 50)
        assert list(step.output) == list(step.output)
    assert openai_server.calls == 50


SCRIPT = """
    import sys
    from nbdream import Session
    from nbdream.llms import OpenAI
    from nbdream.steps import DataFromPrompt

    with Session("s") as session:
        llm = OpenAI("gpt-4.1", api_key="none-needed", base_url=sys.argv[1], max_concurrency=16)
        args = {"llm": llm, "n": 2000, "instruction": "Write an abstract.", "temperature": 1.2}
        print(len(DataFromPrompt("abstracts", args=args).output))
"""


def kernel(folder: Path, server: Any) -> subprocess.Popen[str]:
    (folder / "script.py").write_text(textwrap.dedent(SCRIPT))
    return subprocess.Popen([sys.executable, "script.py", server.base_url], cwd=folder, stdout=subprocess.PIPE, text=True)


def test_a_kernel_killed_in_the_middle_pays_twice_only_for_what_was_in_flight(openai_server: Any, tmp_path: Path) -> None:
    openai_server.latency = 0.02
    first = kernel(tmp_path, openai_server)
    openai_server.wait_for(500, timeout=60)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    again = kernel(tmp_path, openai_server)
    assert again.communicate(timeout=120)[0].strip() == "2000"
    assert 2000 <= openai_server.calls <= 2000 + 16


def test_two_kernels_on_one_folder_pay_once(openai_server: Any, tmp_path: Path) -> None:
    kernels = [kernel(tmp_path, openai_server) for _ in range(2)]
    assert [one.communicate(timeout=120)[0].strip() for one in kernels] == ["2000", "2000"]
    assert openai_server.calls == 2000


def test_a_session_moved_elsewhere_is_as_good(openai_server: Any, tmp_path: Path) -> None:
    with Session(tmp_path / "s"):
        abstracts(openai_server, 20)
    shutil.move(tmp_path / "s", tmp_path / "elsewhere")
    with Session(tmp_path / "elsewhere"):
        abstracts(openai_server, 20)
    assert openai_server.calls == 20


def test_a_result_that_shows_anothers_draws_says_so(openai_server: Any, session: Session) -> None:
    notices: list[str] = []
    session.subscribe(lambda event: event["type"] == "step.notice" and notices.append(event["text"]))
    rows = ROWS[:20]
    tweets(openai_server, rows, name="train", temperature=1.0)
    assert notices == []
    tweets(openai_server, rows, name="test", temperature=1.0)
    assert notices == ["20 of 20 replies were already drawn for `train`: add --seed 1 for new ones"]
    tweets(openai_server, [*rows[:5], {"topic": "new", "note": 0}], name="more", temperature=1.0)
    assert notices[1:] == ["5 of 6 replies were already drawn for `train`: add --seed 1 for new ones"]
    tweets(openai_server, rows, name="greedy", temperature=0)
    tweets(openai_server, rows, name="greedy again", temperature=0)
    tweets(openai_server, rows, name="fresh", temperature=1.0, seed=1)
    assert len(notices) == 2


def test_force_asks_again_and_keeps_what_was_there(openai_server: Any, session: Session) -> None:
    rows = DataSource("topics", data=ROWS[:10])

    def make(**options: Any) -> Generate:
        session.new_execution()
        args = {"llm": model(openai_server), "template": "Write about {{ topic }}."}
        return Generate("tweets", inputs={"rows": rows.output}, args=args, **options)

    first = list(make().output["generation"])
    again = list(make(force=True).output["generation"])
    assert openai_server.calls == 20
    assert first != again
    assert list(make().output["generation"]) == again, "the newest attempt is the result"
    assert openai_server.calls == 20
