"""The program of the paper's first example runs with only its import lines changed."""

from __future__ import annotations

import io
import json
import os
import runpy
import subprocess
import sys
import textwrap
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.training import called_here

PROGRAM = """
    from nbdream import Session as DataDreamer
    from nbdream.llms import OpenAI
    from nbdream.steps import DataFromPrompt, ProcessWithPrompt
    from nbdream.trainers import TrainHFFineTune
    from peft import LoraConfig

    with DataDreamer({session!r}):
        gpt_4 = OpenAI(model_name="gpt-4")
        arxiv_dataset = DataFromPrompt(
            "Generate Research Paper Abstracts",
            args={{
                "llm": gpt_4,
                "n": {n},
                "temperature": 1.2,
                "instruction": (
                    "Generate an arXiv abstract of an NLP research paper."
                    " Return just the abstract, no titles."
                ),
            }},
            outputs={{"generations": "abstracts"}},
        )
        abstracts_and_tweets = ProcessWithPrompt(
            "Generate Tweets from Abstracts",
            inputs={{"inputs": arxiv_dataset.output["abstracts"]}},
            args={{
                "llm": gpt_4,
                "instruction": "Given the abstract, write a tweet to summarize the work.",
                "top_p": 1.0,
            }},
            outputs={{"inputs": "abstracts", "generations": "tweets"}},
        )
        splits = abstracts_and_tweets.splits(train_size=0.90, validation_size=0.10)
        trainer = TrainHFFineTune("Train an Abstract => Tweet Model", model_name={base!r}, peft_config=LoraConfig())
        trainer.train(
            train_input=splits["train"].output["abstracts"],
            train_output=splits["train"].output["tweets"],
            validation_input=splits["validation"].output["abstracts"],
            validation_output=splits["validation"].output["tweets"],
            epochs={epochs},
            batch_size=8,
        )
        abstracts_and_tweets.publish_to_hf_hub("datadreamer-dev/abstracts_and_tweets", train_size=0.90, validation_size=0.10)
        trainer.publish_to_hf_hub("datadreamer-dev/abstracts_to_tweet_model")

        import json
        same = list(abstracts_and_tweets.output) == list(abstracts_and_tweets.output)
        print(json.dumps({{"rows": same, "said": trainer.model("cat dog")}}))
"""


def run(folder: Path, *, here: bool = False, **values: Any) -> dict[str, Any]:
    """What the program says, as a script or in this process (which has imported peft already)."""
    program = folder / "program.py"
    program.write_text(textwrap.dedent(PROGRAM).format(**values))
    if here:
        with redirect_stdout(io.StringIO()) as told, called_here():
            runpy.run_path(str(program), run_name="__main__")
        said = told.getvalue()
    else:
        done = subprocess.run([sys.executable, program.name], cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        said = done.stdout
    answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    return answer


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("session", ["./output", pytest.param(":memory:", marks=pytest.mark.stress)])
def test_the_papers_first_example(session: str, openai_server: Any, hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", openai_server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "no-key-is-needed-here")
    base = str(tiny.t5(tmp_path / "t5"))
    n = 40
    kept = session != ":memory:"
    answer = run(tmp_path, session=session, base=base, n=n, epochs=1, here=kept)  # the script runs it again
    assert answer["rows"]
    assert isinstance(answer["said"], str)
    assert openai_server.calls == 2 * n
    assert {path for path in hub.files("dataset", "datadreamer-dev/abstracts_and_tweets") if path.endswith(".parquet")} == {
        "data/train-00000-of-00001.parquet",
        "data/validation-00000-of-00001.parquet",
    }
    model = "datadreamer-dev/abstracts_to_tweet_model"
    assert {"README.md", "nbdream.json", "model.safetensors"} <= set(hub.files("model", model))  # merged into its base
    if not kept:
        assert not (tmp_path / "output").exists()
        return
    again = run(tmp_path, session=session, base=base, n=n, epochs=1)
    assert again == answer
    assert openai_server.calls == 2 * n, "the same program again costs nothing"
    assert len(hub.commits("model", model)) == 2, "the same model merged again is the same bytes"


def test_the_key_is_nowhere_on_disk(openai_server: Any, hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-a-key-that-must-not-be-kept-0123456789"
    monkeypatch.setenv("OPENAI_BASE_URL", openai_server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    from nbdream import Session
    from nbdream.llms import OpenAI
    from nbdream.steps import DataFromPrompt

    with Session(tmp_path / "s"):
        DataFromPrompt("rows", args={"llm": OpenAI("gpt-4"), "n": 5, "instruction": "Say something."})
    assert os.environ["OPENAI_API_KEY"] == key
    for path in (tmp_path / "s").rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes()
