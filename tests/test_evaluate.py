"""Evaluations: metrics as their libraries have them, intervals that cover, a judge without a favourite place, and what is asked once."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from nbdream import Session
from nbdream.errors import ArgumentError, DataError, ModelError
from nbdream.llms import EchoLLM, HFTransformers, OpenAI
from nbdream.llms.base import Request
from nbdream.llms.scorer import Scorer
from nbdream.llms.weights import DEMO_FOLDER
from nbdream.steps import DataSource, Evaluate
from nbdream.steps.judging import verdict
from nbdream.steps.metrics import BLEU_COUNTS, bleu, metrics_of, own_metric, rouge, squad_words
from nbdream.steps.summary import Measure, Summary, corpus_bleu, shown, summarize
from nbdream.task_models import TaskModel
from tests import hostile, tiny
from tests.notebook import Shell, kernel_in
from tests.servers.openai_server import OpenAIServer
from tests.test_escape import Parser

# --- metrics ------------------------------------------------------------------------------------------------------------


def score(name: str, reference: str, prediction: str) -> Any:
    (metric,) = metrics_of([name])
    assert metric.score is not None
    return metric.score(reference, prediction)[name]


def test_rouge_by_hand() -> None:
    """Two of three words, and one of two pairs of words."""
    found = rouge("the cat sat", "the cat ran")
    assert found == {"rouge1": pytest.approx(2 / 3), "rouge2": pytest.approx(1 / 2), "rougeL": pytest.approx(2 / 3)}
    assert rouge("the cat sat", "sat cat the")["rougeL"] == pytest.approx(1 / 3)


def test_two_texts_by_hand() -> None:
    assert score("exact_match", "A cat.", " A cat.\n") == 1
    assert score("exact_match", "A cat.", "a cat.") == 0
    assert score("accuracy", "Straße", " STRASSE ") == 1
    assert score("accuracy", "3", "4") == 0
    assert squad_words("The cat, an OLD one!") == ["cat", "old", "one"]
    assert score("f1", "the black cat", "a black dog sat") == pytest.approx(2 * 1 / (2 + 3))
    assert score("f1", "The cat!", "cat") == 1
    assert score("f1", "the", "") == 1, "as SQuAD has it: both are empty"
    assert score("f1", "cat", "") == 0


def corpora() -> Iterator[tuple[list[str], list[str]]]:
    """References and predictions: near, far, short, without a match, and empty."""
    draw = random.Random(0)
    for size in (1, 2, 30):
        for longest in (3, 6, 20):
            references = [" ".join(draw.choices(tiny.WORDS, k=draw.randint(1, longest))) for _ in range(size)]
            yield references, [" ".join(draw.choices(text.split(), k=len(text.split()))) for text in references]
            yield references, [text.replace("the", "a") for text in references]
    yield ["a b c d e"], ["f g h i j"]
    yield ["a b c d e"], [""]
    yield ["a b"], ["a b"]


def test_bleu_is_that_of_the_library() -> None:
    import numpy as np
    from sacrebleu.metrics import BLEU

    for references, predictions in corpora():
        counts = np.array([bleu(*pair)[BLEU_COUNTS] for pair in zip(references, predictions, strict=True)], dtype=float)
        assert float(corpus_bleu(counts.sum(axis=0))) == pytest.approx(BLEU().corpus_score(predictions, [references]).score, abs=1e-9)


def test_a_function_is_a_metric() -> None:
    def longer(reference: str, prediction: str) -> Any:
        return {"x": None, "y": math.nan, "z": len(prediction) > len(reference)}.get(reference, prediction)

    metric = own_metric(longer)
    assert metric.columns == ("longer",)
    assert metric.score is not None
    assert [metric.score(reference, "long") for reference in "xyz"] == [{"longer": None}, {"longer": None}, {"longer": 1.0}]
    with pytest.raises(DataError, match="longer gave a str, not a number"):
        metric.score("a", "b")
    with pytest.raises(ArgumentError, match="cannot be called 'nll'"):
        own_metric(named("nll", longer))
    with pytest.raises(ArgumentError, match="two metrics are called 'longer'"):
        metrics_of([longer, named("longer", len)])
    assert [metric.name for metric in metrics_of([longer, "f1", "rouge", "f1"])] == ["rouge", "f1", "longer"]


def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def made(reference: str, prediction: str) -> Any:
        return function(reference, prediction)

    made.__name__ = name
    return made


# --- the summary --------------------------------------------------------------------------------------------------------


def rows_of(**values: list[float | None]) -> pa.Table:
    """Rows of a metric ``m``, by model."""
    parts = [
        {"row": number, "model": model, "input": "", "reference": "", "prediction": "", "m": value}
        for model, numbers in values.items()
        for number, value in enumerate(numbers)
    ]
    return pa.Table.from_pylist(parts)


def test_the_interval_covers() -> None:
    """In about 95 of 100 draws of 60 examples, the interval holds the true mean; one of half the width would in about 68."""
    draw = random.Random(1)
    held = half = 0
    for _ in range(200):
        found = summarize(rows_of(a=[float(draw.random() < 0.4) for _ in range(60)]))["a"]["m"]
        held += found.low <= 0.4 <= found.high
        half += abs(found.value - 0.4) <= (found.high - found.low) / 4
    assert 0.88 <= held / 200 <= 0.99
    assert half / 200 < 0.85


def test_a_difference_is_one_between_the_same_examples() -> None:
    draw = random.Random(2)
    hard = [draw.random() for _ in range(100)]
    rows = rows_of(before=list(hard), after=[value + 0.05 + 0.01 * draw.random() for value in hard])
    found = summarize(rows)
    assert found == summarize(rows), "the same rows, the same summary"
    apart = found.differences["after"]["m"]
    assert 0.05 < apart.low < apart.value < apart.high < 0.06
    assert found["before"]["m"].high > found["after"]["m"].low, "the two intervals alone would not tell"


def test_what_is_missing_is_left_out_and_not_zero() -> None:
    found = summarize(rows_of(a=[1.0, None, 0.0, 1.0], b=[None, None, 1.0, 1.0]))
    assert (found["a"]["m"].value, found["a"]["m"].n) == (pytest.approx(2 / 3), 3)
    assert (found["b"]["m"].value, found["b"]["m"].n) == (1.0, 2)
    assert (found.differences["b"]["m"].value, found.differences["b"]["m"].n) == (0.5, 2)
    none = summarize(rows_of(a=[1.0], b=[None]))
    assert "m" not in none["b"]
    assert none.differences == {"b": {}}
    assert summarize(rows_of()) == Summary()


def test_perplexities_over_different_tokens_are_not_compared() -> None:
    def table(tokens: int) -> pa.Table:
        parts = rows_of(a=[2.0, 4.0], b=[1.0, 1.0]).rename_columns({"m": "perplexity"})
        return parts.append_column("nll", pa.array([2.0, 3.0, 1.0, 1.0])).append_column("tokens", pa.array([2, 3, 2, tokens]))

    assert summarize(table(3))["a"]["perplexity"].value == pytest.approx(math.exp(5 / 5))
    assert summarize(table(3)).differences["b"]["perplexity"].value == pytest.approx(math.exp(2 / 5) - math.e)
    assert summarize(table(4)).differences == {"b": {}}


def test_values_are_written_with_digits_that_count() -> None:
    assert shown(Measure(0.43126, 0.4, 0.456, 9)) == "0.431 [0.400, 0.456]"
    assert shown(Measure(-0.1, -0.2, 0.05, 9), signed=True) == "-0.100 [-0.200, +0.050]"
    assert shown(Measure(23.456, 9.0, 31.0, 9)) == "23.46 [9.00, 31.00]"
    assert shown(Measure(12345.6, 11000.0, 15000.0, 9)) == "12,346 [11,000, 15,000]"


# --- models, a judge, and what is asked ---------------------------------------------------------------------------------


def answer(body: dict[str, Any], count: int) -> str:
    """``good`` knows the answer, ``bad`` only to every third; ``fair`` judges by what is right, ``first`` by the place."""
    asked = body["messages"][-1]["content"]
    if body["model"] in ("good", "bad"):
        number = int(asked.split()[1])
        return f"number {number if body['model'] == 'good' or number % 3 == 0 else 0}"
    if body["model"] == "first":
        return '{"better": "A"}'
    parts = {name: re.search(rf"<{name}>\n(.*)\n</{name}>", asked) for name in ("reference", "answer_A", "answer_B")}
    wanted, one, other = (found and found[1] for found in parts.values())
    return json.dumps({"better": "A" if one == wanted else "B" if other == wanted else "tie"})


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(reply=answer) as running:
        yield running


def llm(server: OpenAIServer, name: str) -> OpenAI:
    return OpenAI(name, base_url=server.base_url, api_key="none")


def both(server: OpenAIServer) -> dict[str, OpenAI]:
    return {"bad": llm(server, "bad"), "good": llm(server, "good")}


def data(count: int = 12) -> dict[str, Any]:
    rows = DataSource("rows", data={"q": [f"say {n}" for n in range(count)], "a": [f"number {n}" for n in range(count)]})
    return {"input": rows.output["q"], "output": rows.output["a"]}


def test_models_are_measured_and_judged_side_by_side(session: Session, server: OpenAIServer) -> None:
    args = {"models": both(server), "metrics": ["exact_match", "judge"], "judge": llm(server, "fair")}
    scores = Evaluate("scores", data(), args)
    assert scores.output.column_names == ["row", "model", "input", "reference", "prediction", "exact_match", "judge", "judge_said"]
    assert [(row["row"], row["model"]) for row in scores] == [(n, name) for n in range(12) for name in ("bad", "good")]
    assert scores.output[3] == {
        "row": 1, "model": "good", "input": "say 1", "reference": "number 1", "prediction": "number 1", "exact_match": 1.0, "judge": 1.0,
        "judge_said": ['{"better": "B"}', '{"better": "A"}'],
    }  # fmt: skip
    assert scores.output[2]["judge"] is None, "the first model is the one that the others are compared with"
    assert server.calls == 24 + 2 * 8, "two answers that say the same are a tie, and are not put to the judge"
    assert {body["temperature"] for body in server.requests} == {0}
    assert scores.summary["bad"]["exact_match"].value == pytest.approx(1 / 3)
    assert scores.summary["good"]["exact_match"] == Measure(1.0, 1.0, 1.0, 12)
    assert scores.summary["good"]["judge"].value == pytest.approx((8 + 4 * 0.5) / 12)
    assert scores.summary.differences["good"]["exact_match"].value == pytest.approx(2 / 3)
    assert list(scores.summary.differences["good"]) == ["exact_match"]
    assert scores.node["usage"]["calls"] == 40

    again = Evaluate("scores", data(), args)
    assert again.key == scores.key
    metric = Evaluate("others", data(), {**args, "metrics": ["rouge", "f1", "bleu", "judge"]})
    assert metric.key != scores.key
    assert (metric.node["usage"]["calls"], metric.node["usage"]["cached_calls"], server.calls) == (0, 40, 40)
    assert metric.summary["good"]["bleu"].n == 12
    assert session.load("scores").summary == scores.summary
    assert session.load("others").summary == metric.summary
    assert {place["name"] for place in scores.models} == {"bad", "good", "fair"}
    assert any("exact_match 1.000" in line for line in scores.card()["data_card"]["scores"]["Evaluation"])
    assert "rows" in scores.card()["data_card"]


def test_a_judge_that_goes_by_the_place_finds_no_winner(session: Session, server: OpenAIServer) -> None:
    scores = Evaluate("scores", data(), {"models": both(server), "metrics": ["judge"], "judge": llm(server, "first")})
    assert scores.summary["good"]["judge"] == Measure(0.5, 0.5, 0.5, 12)
    a, b, tie = (json.dumps({"better": better}) for better in ("A", "B", "tie"))
    assert [verdict(*said) for said in ((b, a), (a, b), (a, a), (b, b), (tie, a), (b, tie), (tie, tie))] == [1, 0, *[0.5] * 5]


def test_no_row_vanishes(session: Session, server: OpenAIServer) -> None:
    """What a model refuses is a failure and no zero; what the judge refuses leaves the row, without a judgement."""
    server.fails = lambda body: "refusal" if body["model"] == "good" and body["messages"][-1]["content"] in ("say 1", "say 2") else None
    scores = Evaluate("scores", data(), {"models": both(server), "metrics": ["exact_match"]})
    assert len(scores) + len(scores.failures) == 24
    assert [(row["row"], row["error"].partition(":")[0]) for row in scores.failures] == [(1, "good"), (2, "good")]
    assert scores.summary["good"]["exact_match"] == Measure(1.0, 1.0, 1.0, 10)
    assert scores.summary.differences["good"]["exact_match"].n == 10

    server.fails = lambda body: 400 if body["model"] == "fair" and "say 4\n" in body["messages"][-1]["content"] else None
    args = {"models": both(server), "metrics": ["exact_match"], "judge": llm(server, "fair"), "retry_failed": True}
    judged = Evaluate("judged", data(), args)
    assert (len(judged), len(judged.failures)) == (24, 1)
    assert judged.failures[0]["error"].startswith("good: judge: ")
    assert judged.output[9]["judge"] is None
    assert judged.summary["good"]["judge"].n == 11
    server.fails = lambda body: None
    calls = server.calls
    assert len(Evaluate("judged", data(), args).failures) == 0
    assert server.calls == calls + 2, "the two questions that were refused"


def test_a_function_counts_by_its_code(session: Session) -> None:
    def evaluated(function: Callable[[str, str], Any]) -> Evaluate:
        return Evaluate("scores", data(3), {"models": {"echo": EchoLLM()}, "metrics": [function]})

    def size(reference: str, prediction: str) -> float:
        return len(prediction) / len(reference)

    first = evaluated(size)
    assert first.output["size"][:] == [5 / 8] * 3

    def size(reference: str, prediction: str) -> float:  # type: ignore[no-redef]
        return len(prediction) - len(reference)

    assert evaluated(size).key != first.key

    def broken(reference: str, prediction: str) -> float:
        return 1 / (len(prediction) - 5)

    with pytest.raises(ZeroDivisionError) as raised:
        evaluated(broken)
    assert raised.value.__notes__ == ["in the metric broken, on the answer of echo to row 0"]


class Parity(TaskModel):
    """Labels a text by its last word."""

    @property
    def labels(self) -> list[Any]:
        return [True, False]

    def classify_batch(self, texts: list[str], *, truncate: bool, batch_size: int, first: int) -> list[Any]:
        return [{True: float(int(text.split()[-1]) % 2 == 0), False: 0.5} for text in texts]


def test_a_classifier_is_measured_by_its_labels(session: Session) -> None:
    rows = DataSource("rows", data={"q": [f"say {n}" for n in range(10)], "even": [n % 2 == 0 or n == 7 for n in range(10)]})
    inputs = {"input": rows.output["q"], "output": rows.output["even"]}
    scores = Evaluate("scores", inputs, {"models": {"always": EchoLLM(answers=["True"]), "parity": Parity()}, "metrics": ["accuracy"]})
    assert scores.output[3] == {**scores.output[3], "model": "parity", "reference": "false", "prediction": "false", "accuracy": 1.0}
    assert [scores.summary[name]["accuracy"].value for name in ("always", "parity")] == [0.6, 0.9]
    with pytest.raises(ArgumentError, match="parity does not tell how likely"):
        Evaluate("scores", inputs, {"models": {"parity": Parity()}, "metrics": ["perplexity"]})


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"models": {}}, "no models are given"),
        ({"models": {"a": "gpt"}}, "a is a str, not a model"),
        ({"metrics": ["ruge"]}, "there is no metric 'ruge' (did you mean 'rouge'?)"),
        ({"metrics": []}, "metrics=[] (give some of: rouge, bleu"),
        ({"metrics": ["judge"]}, "the metric judge needs a model that judges (judge: gpt"),
        ({"judge": EchoLLM()}, "a judge compares two models, and one is given"),
        ({"metrics": ["perplexity"]}, "a does not tell how likely a text is"),
        ({"temperature": "hot"}, "temperature is 'hot', not a number"),
        ({"limit": 0}, "limit=0"),
    ],
)
def test_bad_arguments_are_refused_before_a_call(session: Session, args: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        Evaluate("scores", data(), {"models": {"a": EchoLLM()}, "metrics": ["f1"], **args})
    assert said in str(raised.value)


def test_bad_columns_are_refused_before_a_call(session: Session, server: OpenAIServer) -> None:
    args = {"models": both(server), "metrics": ["f1"]}
    with pytest.raises(DataError, match="input has 12 rows and output has 3"):
        Evaluate("scores", {**data(), "output": data(3)["output"]}, args)
    nulls = DataSource("nulls", data={"q": ["x", None], "a": ["1", "2"]})
    with pytest.raises(DataError, match="row 1 of 'q' is null"):
        Evaluate("scores", {"input": nulls.output["q"], "output": nulls.output["a"]}, args)
    none = nulls.filter(lambda row: False)
    with pytest.raises(DataError, match="has no rows"):
        Evaluate("scores", {"input": none.output["q"], "output": none.output["a"]}, args)
    assert server.calls == 0


# --- likelihoods --------------------------------------------------------------------------------------------------------


def plain_nll(model: Any, tokenizer: Any, ids: list[int], answer_ids: list[int], seq2seq: bool) -> float:
    """The negative log-likelihood of an answer, computed for itself."""
    import torch

    with torch.no_grad():
        if seq2seq:
            logits = model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([[0, *answer_ids[:-1]]])).logits[0]
        else:
            logits = model(input_ids=torch.tensor([ids + answer_ids])).logits[0, len(ids) - 1 : -1]
    return float(-logits.double().log_softmax(-1).gather(1, torch.tensor(answer_ids)[:, None]).sum())


@pytest.mark.parametrize("kind", ["chat", "bare", "template", "t5"])
def test_likelihoods_are_those_of_a_plain_computation(kind: str, tmp_path: Path) -> None:
    """In batches with padding, with a system prompt or a template of the user's, and without any."""
    pytest.importorskip("torch")
    from nbdream.workers.model import LocalModel

    folder = tiny.t5(tmp_path / "m") if kind == "t5" else tiny.causal(tmp_path / "m", chat=kind == "chat")
    said: dict[int, dict[str, Any]] = {}
    spec = {"model": str(folder), "device": "cpu", "chat_template": "Q: {{prompt}} A:" if kind == "template" else None}
    local = LocalModel(spec, said.__setitem__, stopped := {1})
    system = [{"role": "system", "content": "over"}] if kind == "chat" else []
    inputs, outputs = tiny.pairs(20)
    for number, (text, output) in enumerate(zip(inputs, outputs, strict=True)):
        local.score(number, [*system, {"role": "user", "content": text}], output)
    local.score(20, [{"role": "user", "content": "the " * 90}], "cat")
    while local.scoring.busy:
        local.scoring.step()
    assert set(said) == set(range(21)) - stopped
    if kind != "t5":
        assert "tokens, the model takes 64" in said[20]["failure"]["message"]
    for number in set(range(20)) - stopped:
        text, output = inputs[number], outputs[number]
        prompt = {
            "chat": f"<|system|>over<eos><|user|>{text}<eos><|assistant|>", "bare": text, "template": f"Q: {text} A:", "t5": f"{text}<eos>",
        }[kind]  # fmt: skip
        encode = local.tokenizer._tokenizer.encode
        whole = encode(f"{prompt}{output}<eos>", add_special_tokens=False).ids
        ids = encode(prompt, add_special_tokens=False).ids
        answer_ids = encode(f"{output}<eos>", add_special_tokens=False).ids if kind == "t5" else whole[len(ids) :]
        found = said[number]
        assert found["tokens"] == len(answer_ids)
        assert found["nll"] == pytest.approx(plain_nll(local.model, local.tokenizer, ids, answer_ids, kind == "t5"), abs=1e-4)


def test_memory_that_is_full_makes_batches_smaller(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from nbdream.workers.model import LocalModel

    said: dict[int, dict[str, Any]] = {}
    local = LocalModel({"model": str(tiny.causal(tmp_path / "m", chat=True)), "device": "cpu"}, said.__setitem__, set())
    forward, room = local.scoring.model.forward, 3

    def small(*args: Any, **more: Any) -> Any:
        if len(more["input_ids"]) > room:
            raise torch.OutOfMemoryError("no")
        return forward(*args, **more)

    local.scoring.model.forward = small
    for number, (text, output) in enumerate(zip(*tiny.pairs(20), strict=True)):
        local.score(number, [{"role": "user", "content": text}], output)
    while local.scoring.busy:
        local.scoring.step()
    assert len([found for found in said.values() if "nll" in found]) == 20
    room = 0
    local.score(20, [{"role": "user", "content": "cat"}], "dog")
    while local.scoring.busy:
        local.scoring.step()
    assert "no memory left" in said[20]["failure"]["message"]


def test_likelihoods_come_from_a_process_that_goes_on_writing() -> None:
    model = HFTransformers(str(DEMO_FOLDER))
    scorer = Scorer(model)
    prompts = ["Write a haiku about the sea.", "Write an abstract about robotics.", "Hello"]
    pairs = list(scorer.pairs(prompts, ["salt wind on the pier", "Progress in robotics", "Hello!"]))
    written = [Request(model.messages(prompt), model.settings(temperature=0, max_tokens=40)) for prompt in prompts]

    async def together() -> Any:
        said = [asyncio.ensure_future(model.complete(request)) for request in written]
        scored = await asyncio.gather(*map(scorer.complete, pairs))
        return await asyncio.gather(*said), scored

    try:
        with model.as_found():
            alone = asyncio.run(model.complete_batch(written))
            pid = model._started().pid
            said, scored = asyncio.run(together())
            with model.as_found():
                for pair, reply in zip(pairs, scored, strict=True):
                    assert json.loads(reply.text) == pytest.approx(json.loads(asyncio.run(scorer.complete(pair)).text), rel=1e-5)
            assert model._started().pid == pid, "it was there before"
        assert [reply.text for reply in said] == [reply.text for reply in alone]
        assert model._started().pid is None, "it was not there before"
    finally:
        model.unload_model()
    assert scorer.identity != model.identity


# --- in a notebook ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_before_and_after_training(tmp_path: Path) -> None:
    """Both models read the rows as in training, so that the perplexity after it is the loss that training reports."""
    tiny.causal(tmp_path / "base", chat=True)
    shell = Shell()
    try:
        inputs, outputs = tiny.pairs(64)
        shell["rows"] = [{"q": text, "a": output} for text, output in zip(inputs, outputs, strict=True)]
        shell.run(
            "%%train tuned --on rows[:48] --eval rows[48:] --base ./base\ninput: q\noutput: a\nsystem: over\nlearning_rate: 1e-2\n"
            "epochs: 4\ndevice: cpu\neval_strategy: epoch\n"
        )
        scores = shell.run("%%evaluate scores --on rows[48:] --models base,tuned\nmetrics: [perplexity, f1]\nmax_tokens: 12")
        base = shell["tuned"].base
        assert base.messages("x") == shell["tuned"].messages("x")
        assert [model._process.pid for model in (base, shell["tuned"])] == [None, None], "out of memory again, as they were before"
        last = [event["eval_loss"] for event in shell["tuned"].events if "eval_loss" in event][-1]
        assert math.log(scores.summary["tuned"]["perplexity"].value) == pytest.approx(last, abs=1e-4)
        assert scores.summary["base"]["perplexity"].low > scores.summary["tuned"]["perplexity"].high
        assert scores.summary.differences["tuned"]["perplexity"].high < 0
        assert {place["use"] for place in scores.use()["inputs"].values()} >= {shell["tuned"].use_id}
        assert "tuned" in scores.card()["data_card"]
        assert [row["reference"] for row in scores][::2] == outputs[48:]
    finally:
        shell.close()


def test_a_cell_shows_the_summary_first(tmp_path: Path) -> None:
    with kernel_in(tmp_path) as kernel:
        setup = """%load_ext nbdream
%dream open ./output
rows = [{'q': f'<b>{n}</b>', 'a': f'<b>{n}</b>' if n % 2 else 'x', 'n': n} for n in range(8)]
def size(reference, prediction):
    return len(prediction)
def broken(reference, prediction):
    return prediction / 2"""
        assert kernel.run(setup).error == ""
        head = "%%evaluate scores --on rows --models echo/echo\ninput: q\noutput: "
        done = kernel.run(f"{head}a\nmetrics: [exact_match, size]")
        assert done.error == ""
        (shown_now,) = [message["content"]["data"] for message in done.outputs if message["msg_type"] == "execute_result"]
        lines = shown_now["text/plain"].splitlines()
        assert lines[0].split() == ["metric", "echo/echo", "n"]
        assert lines[2].startswith("exact_match   0.500 [")
        assert any(line.startswith("<b>0</b>   x           <b>0</b>") for line in lines)
        assert "<b>" not in shown_now["text/html"]
        assert "&lt;b&gt;0&lt;/b&gt;" in shown_now["text/html"]
        assert set(shown_now) == {"text/plain", "text/html"}, "static: no widget"
        assert kernel.run("'torch' in __import__('sys').modules").text == "False"
        wrong = {
            f"{head}a\nmetrics: [exact_mach]": r"ArgumentError: there is no metric 'exact_mach' \(did you mean 'exact_match'\?\)",
            f"{head}b\nmetrics: f1": r"ColumnError: the rows have no column 'b' \(the columns are one of: a, n, q\)",
            f"{head}a\nmetrics: perplexity": r"ArgumentError: echo/echo does not tell how likely .* \(leave perplexity out",
            f"{head}a\nmetrics: [judge]": r"ArgumentError: the metric judge needs a model that judges \(judge: gpt",
            f"{head}a\nmetrics: [broken]": r"DataError: TypeError: unsupported operand.*, in the metric broken, on the answer of "
            r"echo/echo to row 0 \(at: prediction / 2\)",
            f"{head}a\njudg: e": r"ArgumentError: %%evaluate knows no key 'judg' \(did you mean 'judge'\?\)",
            "%%evaluate scores --on rows --models echo/echo": r"needs the column 'input' \(write it in the body, as YAML: input: COLUMN\)",
            "%%evaluate scores --on rows --models base,echo/echo\n": r"no trained model is given \(--models base,tweeter\)",
            "%%evaluate scores --on rows --models nope\n": r"ModelError: there is no model 'nope'",
            "%%evaluate scores --on rows\n": r"needs --models \(%%evaluate NAME --on",
        }
        for cell, said in wrong.items():
            failed = kernel.run(cell)
            assert len(failed.traceback) == 1, cell
            assert re.search(said, failed.traceback[0]), f"{cell}: {failed.traceback[0]}"


def test_tab_and_help(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    from nbdream.magics.completion import complete

    shell = Shell()
    try:
        shell["rows"] = [{"q": "x", "a": "y"}]
        shell.run("def my_score(reference, prediction): return 1\n%dream model e = echo/echo")

        def found(before: str) -> list[str]:
            fragment, words = complete(shell.ip.nbdream.notebook, before, before)
            return [word for word in words if word.startswith(fragment)]

        assert {"base", "e", "openai/"} <= set(found("%%evaluate s --on rows --models "))
        assert found("%%evaluate s --on rows --models base,e") == ["e", "echo/"]
        assert found("%%evaluate s --on rows --metrics my") == ["my_score"]
        assert found("%%evaluate s --on rows\nmetrics: perp") == ["perplexity"]
        assert found("%%evaluate s --on rows\ninput: ") == ["q", "a"]
        capsys.readouterr()
        shell.run("%%evaluate --help\n")
        assert "--judge" in capsys.readouterr().out
    finally:
        shell.close()


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_what_models_say_is_text(kind: str) -> None:
    from nbdream.widgets.evaluation import evaluation_bundle

    texts = [re.sub("[\ud800-\udfff]", "\ufffd", text) for text in hostile.KINDS[kind]]
    for text in texts:
        rows = [{"row": 0, "model": model, "input": text, "reference": text, "prediction": text, "f1": 0.5} for model in (text, "input")]

        fake = SimpleNamespace(output=rows, summary=summarize(pa.Table.from_pylist(rows)), node={"rows": 2, "models": [{"name": text}]})
        bundle = evaluation_bundle(fake)
        page = Parser(bundle["text/html"])
        assert {tag for tag, _ in page.tags} <= {"div", "table", "thead", "tbody", "tr", "th", "td", "p"}
        assert {name for _, attributes in page.tags for name, _ in attributes} <= {"class", "style", "scope"}
        assert page.other == []


def test_a_model_that_cannot_be_reached_ends_it(session: Session, server: OpenAIServer) -> None:
    server.always = 401
    with pytest.raises(ModelError):
        Evaluate("scores", data(), {"models": both(server), "metrics": ["f1"]})
    assert server.calls == 1
