"""One workflow in cells, rearranged, and as a script: what has been answered once is paid for once. And words for what changed."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdream import Session, context
from nbdream.llms import OpenAI
from nbdream.steps import DataFromPrompt, DataSource, Filter, Generate
from tests.notebook import Shell

ROWS = [{"topic": f"topic {number}", "unread": number} for number in range(10)]


@pytest.fixture
def shell() -> Iterator[Shell]:
    opened = Shell()
    opened["topics"] = [dict(row) for row in ROWS]
    yield opened
    opened.close()


def notebook(shell: Shell, cells: list[str], server: Any) -> list[Any]:
    """The values of cells that are run in the session ``s``."""
    shell.run("%dream open ./s")
    shell.run(f"%dream model gpt = openai/gpt-4.1 base_url={server.base_url} temperature=0.7")
    return [shell.run(cell) for cell in cells]


ABSTRACTS = "%%generate abstracts -m gpt -n 8 --temperature 1.2 --as abstract\nWrite an abstract."
TWEETS = (
    "%%generate tweets --from abstracts -m gpt --as tweet\n---\nsystem: You are careful.\ntop_p: 0.9\n---\nTweet this:\n\n{{ abstract }}"
)
DRAWS = "%%generate drawn --from topics -m gpt --draws 2 --seed 3\nWrite about {{ topic }}."
INSTRUCTION = "%%generate told --from topics -m gpt --column topic --max-tokens 50\nTranslate it."
FILTER = "%%filter good --from topics -m gpt\nIs {{ topic }} good?"
CELLS = [ABSTRACTS, TWEETS, DRAWS, INSTRUCTION, FILTER]
CALLS = 8 + 8 + 20 + 10 + 10


def script(server: Any) -> None:
    """The same workflow in Python."""
    with Session("./s"):
        gpt = OpenAI("gpt-4.1", base_url=server.base_url, temperature=0.7)
        topics = DataSource("topics", data=ROWS).output
        args: dict[str, Any] = {"llm": gpt, "n": 8, "temperature": 1.2, "template": "Write an abstract.", "column": "abstract"}
        abstracts = Generate("the abstracts", args=args)
        args = {"llm": gpt, "template": "Tweet this:\n\n{{ abstract }}", "system": "You are careful.", "top_p": 0.9, "column": "tweet"}
        Generate("the tweets", inputs={"rows": abstracts.output}, args=args)
        args = {"llm": gpt, "template": "Write about {{ topic }}.", "draws": 2, "seed": 3}
        Generate("draws", inputs={"rows": topics}, args=args)
        args = {"llm": gpt, "template": "Translate it.", "about": "topic", "max_new_tokens": 50}
        Generate("told", inputs={"rows": topics}, args=args)
        Filter("good", inputs={"rows": topics}, args={"llm": gpt, "template": "Is {{ topic }} good?"})


@pytest.mark.parametrize("notebook_first", [True, False], ids=["notebook first", "script first"])
def test_a_notebook_and_a_script_pay_once(shell: Shell, openai_server: Any, notebook_first: bool) -> None:
    openai_server.reply = lambda body, count: f"Yes. {count}"
    if notebook_first:
        notebook(shell, CELLS, openai_server)
        close()
    else:
        script(openai_server)
    assert openai_server.calls == CALLS
    if notebook_first:
        script(openai_server)
    else:
        notebook(shell, CELLS, openai_server)
    assert openai_server.calls == CALLS


def close() -> None:
    """Close the session that the notebook has opened."""
    runner = context.active()
    assert runner is not None
    runner.stop()


def test_the_papers_step_and_the_cell_put_the_same_question(shell: Shell, openai_server: Any) -> None:
    notebook(shell, [ABSTRACTS], openai_server)
    args = {"llm": shell["gpt"], "n": 8, "instruction": "Write an abstract.", "temperature": 1.2}
    made = DataFromPrompt("abstracts of the program", args=args)
    assert openai_server.calls == 8
    assert list(made.output["generations"]) == list(shell["abstracts"]["abstract"])


REARRANGED = {
    "comments": "%%generate tweets --from abstracts -m gpt --as tweet  # the tweets\n---\n# who it is\nsystem: You are careful.  # really\n"
    "top_p: 0.9\n---\nTweet this:\n\n{{ abstract }}",
    "flags and front matter": "%%generate tweets --as tweet --top-p 0.9 -m gpt --system 'You are careful.'\n---\nfrom: abstracts\n---\n"
    "Tweet this:\n\n{{ abstract }}",
    "order of keys": "%%generate tweets -m gpt --as tweet --from abstracts\n---\ntop_p: 9e-1\nsystem: 'You are careful.'\n---\n"
    "Tweet this:\n\n{{ abstract }}",
    "blank lines": TWEETS.replace("---\nTweet", "---\n\n  \nTweet") + "\n\n\n",
    "another name": TWEETS.replace("%%generate tweets", "%%generate posts"),
    "another column": TWEETS.replace("--as tweet", "--as post"),
    "concurrency": TWEETS.replace("-m gpt", "-m gpt --concurrency 2"),
}


@pytest.mark.parametrize("cell", REARRANGED.values(), ids=REARRANGED)
def test_what_says_the_same_costs_nothing(shell: Shell, openai_server: Any, cell: str) -> None:
    _, tweets = notebook(shell, [ABSTRACTS, TWEETS], openai_server)
    again = shell.run(cell)
    assert openai_server.calls == 16
    assert again.key == tweets.key
    assert [row[again.column_names[-1]] for row in again] == list(tweets["tweet"])


def test_the_order_of_cells_costs_nothing(shell: Shell, openai_server: Any) -> None:
    notebook(shell, [ABSTRACTS, DRAWS, INSTRUCTION], openai_server)
    paid = openai_server.calls
    for cell in (INSTRUCTION, DRAWS, ABSTRACTS):
        shell.run(cell)
    assert openai_server.calls == paid


@pytest.mark.parametrize("changed", ["Tweet  this:", "Tweet this :", "tweet this:"])
def test_any_other_character_counts(shell: Shell, openai_server: Any, changed: str) -> None:
    notebook(shell, [ABSTRACTS, TWEETS, TWEETS.replace("Tweet this:", changed)], openai_server)
    assert openai_server.calls == 24


def test_what_is_made_anew_upstream_runs_downstream(shell: Shell, openai_server: Any) -> None:
    notebook(shell, [ABSTRACTS, TWEETS], openai_server)
    shell.run(ABSTRACTS.replace("-n 8", "-n 8 --seed 1"))
    assert "stale" in str(shell.run("%dream status"))
    shell.run(TWEETS)
    assert openai_server.calls == 8 + 8 + 8 + 8
    assert "abstract" in str(shell.run("%dream why tweets"))


# --- words ----------------------------------------------------------------------------------------------------------

STEP = """
from nbdream.steps import Step
class Shout(Step):
    def setup(self):
        self.register_input("texts")
        self.register_output("loud")
    def run(self):
        return [text.upper() for text in self.inputs["texts"]]
"""


def why(shell: Shell, name: str) -> str:
    return str(shell.run(f"%dream why {name}"))


def test_an_edited_step_body_is_told(shell: Shell) -> None:
    shell.run("%dream open ./s")
    shell.run("from nbdream.steps import DataSource\ndata = DataSource('data', data=topics)")
    make = "shouted = Shout('shouted', inputs={'texts': data.output['topic']})"
    shell.run(STEP)
    first = shell.run(make + "\nshouted")
    shell.run(STEP.replace("return [text.upper() for text", "return [\n            text.upper()  # loud\n            for text"))
    assert shell.run(make + "\nshouted").key == first.key, "a reformatted body is the same"
    shell.run(STEP.replace("upper", "title"))
    assert shell.run(make + "\nshouted").key != first.key
    assert "the code of `run` changed (`return [text.upper()" in why(shell, "shouted")


@pytest.mark.parametrize(("before", "after"), [("SCALE = 2", "SCALE = 3"), ("def unit():\n    return 2", "def unit():\n    return 3")])
def test_an_edited_global_is_told(shell: Shell, before: str, after: str) -> None:
    name = "unit()" if before.startswith("def") else "SCALE"
    cell = f"%%map scored --from topics\n{{'score': len(row.topic) * {name}}}"
    shell.run(before)
    first = shell.run(cell)
    shell.run(after)
    assert shell.run(cell).key != first.key
    assert ("the global `SCALE` 2 → 3" if name == "SCALE" else "the code of `unit` changed (`return 2` → `return 3`)") in why(
        shell, "scored"
    )


def test_an_edited_closure_is_told(shell: Shell) -> None:
    shell.run("%dream open ./s")
    shell.run("from nbdream.steps import DataSource\ndata = DataSource('data', data=topics)")
    shell.run("def scaled(by):\n    return lambda row: {'score': len(row['topic']) * by}")
    first = shell.run("data.map(scaled(2), name='scored')")
    assert shell.run("data.map(scaled(2), name='scored')").key == first.key
    assert shell.run("data.map(scaled(3), name='scored')").key != first.key
    assert "the closed-over `by` 2 → 3" in why(shell, "scored")


def test_an_edited_file_is_told(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"

    def write(last: str) -> None:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["text"], ["one"], [last]])

    shell.run("%dream open ./s")
    write("two")
    shell.run("from nbdream.steps import CSVDataSource")
    first = shell.run("CSVDataSource('rows', data_files='rows.csv')")
    path.touch()
    assert shell.run("CSVDataSource('rows', data_files='rows.csv')").key == first.key
    write("three")
    again = shell.run("CSVDataSource('rows', data_files='rows.csv')")
    assert list(again.output["text"]) == ["one", "three"]
    assert "the content of files[0] changed" in why(shell, "rows")
