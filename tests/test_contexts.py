"""Contexts of a row: trained and asked as the same tokens, cut before anything else, put to the models that are measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdream import Session
from nbdream.errors import ArgumentError, DataError, TemplateError
from nbdream.llms import EchoLLM
from nbdream.llms.contexts import ContextTemplate
from nbdream.steps import DataSource, Evaluate
from nbdream.trainers import TrainHFFineTune
from nbdream.trainers.completion import chat_template, prepare_causal, prepare_seq2seq
from nbdream.workers import runs
from nbdream.workers.chat import prompt_text
from tests import hostile, tiny
from tests.notebook import Shell

NUMBERED = "Passage {{index}}: {{text}}"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"chat": tiny.causal(folder / "chat", chat=True), "causal": tiny.causal(folder / "causal"), "t5": tiny.t5(folder / "t5")}


@pytest.fixture(scope="module")
def tokenizers(bases: dict[str, Path]) -> dict[str, Any]:
    from transformers import AutoTokenizer

    found = {name: AutoTokenizer.from_pretrained(folder) for name, folder in bases.items()}
    found["causal"].chat_template = chat_template(found["causal"], None)
    return found


@pytest.fixture
def _no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "launch", lambda *args, **more: pytest.fail("a process was started"))


# --- how they are written -----------------------------------------------------------------------------------------------


def test_one_a_line_before_the_question() -> None:
    template = ContextTemplate(NUMBERED)
    assert template.before(["why?"], [["red cat", "a dog"]]) == ["Passage 1: red cat\nPassage 2: a dog\nwhy?"]
    assert ContextTemplate().before(["a", "b"], [["x"], []]) == ["x\na", "b"]
    for text in hostile.TEMPLATES:
        assert template.before([text], [[text]]) == [f"Passage 1: {text}\n{text}"], "data is no template"


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=4),
    question=st.sampled_from(["red cat", "{{ text }}", "a\nb"]),
    written=st.sampled_from(["{{text}}", NUMBERED, "[{{ index }}] {{ text | trim }} –"]),
    kind=st.sampled_from(["chat", "causal"]),
)
def test_what_is_asked_is_what_was_trained(tokenizers: dict[str, Any], texts: list[str], question: str, written: str, kind: str) -> None:
    tokenizer, template = tokenizers[kind], ContextTemplate(written)
    blocks = [template.block(texts)]
    made = prepare_causal(tokenizer, [question], ["a dog"], system=None, max_length=10_000, truncate=False, blocks=blocks)
    (asked,) = template.before([question], [texts])
    prompt, _ = prompt_text(tokenizer, [{"role": "user", "content": asked}])
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    (row,) = made.rows
    assert row["input_ids"][: len(ids)] == ids
    assert all(label == -100 for label in row["labels"][: len(ids)])
    if not texts:
        assert made.rows == prepare_causal(tokenizer, [question], ["a dog"], system=None, max_length=10_000, truncate=False).rows


@pytest.mark.parametrize("length", [14, 20, 33, 48])
@pytest.mark.parametrize("fast", [True, False])
def test_contexts_are_cut_and_the_question_is_not(
    tokenizers: dict[str, Any], length: int, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, outputs = ["red green blue", "the cat sings"], ["blue green red", "sings"]
    blocks = [ContextTemplate(NUMBERED).block(["the big house under the tree"] * 6), ""]
    tokenizer = tokenizers["chat"]
    if not fast:
        monkeypatch.setattr(type(tokenizer), "is_fast", False)
    made = prepare_causal(tokenizer, texts, outputs, system=None, max_length=length, truncate=True, blocks=blocks)
    bare = prepare_causal(tokenizer, texts, outputs, system=None, max_length=64, truncate=False)
    assert made.facts()["contexts_cut"] == made.truncated == 1
    cut, whole = made.rows
    assert whole == bare.rows[1]
    assert length - (4 if fast else 12) <= len(cut["input_ids"]) <= length
    said = tokenizer.decode(cut["input_ids"])
    assert said.endswith("\nred green blue<eos><|assistant|>blue green red<eos>") or length == 14
    assert said.startswith("<|user|>Pas") or length == 14
    assert [label for label in cut["labels"] if label != -100] == [label for label in bare.rows[0]["labels"] if label != -100]
    with pytest.raises(DataError, match=r"row 0 has \d+ tokens"):
        prepare_causal(tokenizer, texts, outputs, system=None, max_length=length, truncate=False, blocks=blocks)


def test_an_encoder_keeps_the_question_too(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["t5"]
    blocks = ["the big house " * 30 + "\n", ""]
    made = prepare_seq2seq(tokenizer, ["red green", "red"], ["blue", "blue"], max_length=20, truncate=True, blocks=blocks)
    assert (made.truncated, made.contexts_cut) == (1, 1)
    assert tokenizer.decode(made.rows[0]["input_ids"]).endswith("\nred green<eos>")
    assert 16 <= len(made.rows[0]["input_ids"]) <= 20
    long = prepare_seq2seq(tokenizer, ["red " * 40], ["blue"], max_length=20, truncate=True, blocks=["the house\n"])
    assert tokenizer.decode(long.rows[0]["input_ids"]).startswith("red red"), "nothing of the contexts where the question is too long"


# --- refused before a process is started ---------------------------------------------------------------------------------

WRONG: dict[str, tuple[list[Any], dict[str, Any], str, str]] = {
    "texts": (["a", "b"], {}, "column 'c' holds string, not lists of texts", "make it lists"),
    "numbers": ([[1], [2]], {}, r"holds list<.*int64>, not lists of texts", "make it lists"),
    "null": ([["a"], None], {}, "row 1 of 'c' is null", "an empty list"),
    "null inside": ([["a"], ["b", None]], {}, "row 1 of 'c' has a null among its texts", "an empty list"),
    "no place": ([["a"], ["b"]], {"context_template": "Passage {{index}}"}, "no place for the text", "{{text}}"),
    "unknown": ([["a"], ["b"]], {"context_template": "{{title}} {{text}}"}, "`title`, which is no column", "the columns are"),
    "no text": ([["a"], ["b"]], {"context_template": 5}, "context_template is a int", "Passage"),
    "fails": ([["a"], ["b"]], {"context_template": "{{ text / 2 }}"}, "row 0: unsupported operand", "fails on this row"),
}


@pytest.mark.usefixtures("_no_process")
@pytest.mark.parametrize("case", list(WRONG))
def test_bad_contexts_are_refused_at_once(session: Session, bases: dict[str, Path], case: str) -> None:
    contexts, given_too, words, hint = WRONG[case]
    rows = DataSource("rows", data={"q": ["one", "two"], "a": ["x", "y"], "c": contexts}).output
    with pytest.raises((ArgumentError, DataError, TemplateError), match=words) as caught:
        TrainHFFineTune("tuned", str(bases["causal"])).train(rows["q"], rows["a"], train_contexts=rows["c"], **given_too)
    assert hint in (caught.value.hint or "")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("_no_process")
def test_contexts_on_one_side_or_none(session: Session, bases: dict[str, Path]) -> None:
    rows = DataSource("rows", data={"q": ["one", "two"], "a": ["x", "y"], "c": [["a"], ["b"]]}).output
    trainer = TrainHFFineTune("tuned", str(bases["causal"]))
    pair = rows["q"], rows["a"]
    with pytest.raises(ArgumentError, match="validation_contexts is given, and train_contexts is not"):
        trainer.train(*pair, *pair, validation_contexts=rows["c"])
    with pytest.raises(ArgumentError, match=r"the same columns as training .*validation_contexts"):
        trainer.train(*pair, *pair, train_contexts=rows["c"])
    with pytest.raises(ArgumentError, match="context_template is given, and no contexts are"):
        trainer.train(*pair, context_template=NUMBERED)
    other = DataSource("other", data={"c": [["a"]]}).output
    with pytest.raises(DataError, match="'q' has 2 rows and 'c' has 1"):
        trainer.train(*pair, train_contexts=other["c"])


# --- real runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trained_asked_and_measured_with_contexts(bases: dict[str, Path]) -> None:
    inputs, outputs = tiny.pairs(40)
    shell = Shell()
    try:
        shell["rows"] = [
            {"q": text, "a": output, "c": [output, "the river"][: number % 3]}
            for number, (text, output) in enumerate(zip(inputs, outputs, strict=True))
        ]
        cell = (
            f"%%train tuned --on rows[:30] --eval rows[30:] --base {bases['chat']}\ninput: q\noutput: a\ncontexts: c\n"
            'context_template: "({{index}}) {{text}}"\nlearning_rate: 1e-2\nepochs: 2\ndevice: cpu\n'
        )
        shell.run(cell)
        tuned = shell["tuned"]
        rendered = [f"(1) {outputs[1]}\n{inputs[1]}", f"(1) {outputs[2]}\n(2) the river\n{inputs[2]}"]
        assert tuned.examples == [inputs[0], *rendered]
        wanted = tuned.generate(rendered, max_new_tokens=3)
        assert tuned.generate(inputs[1:3], contexts=[outputs[1:2], (outputs[2], "the river")], max_new_tokens=3) == wanted
        assert tuned(inputs[1], contexts=outputs[1:2], max_new_tokens=3, cache_only=True) == wanted[0]
        assert tuned.run(inputs[2:3], max_new_tokens=3, contexts=[[outputs[2], "the river"]], cache_only=True) == wanted[1:]
        assert tuned("red", max_new_tokens=1) == tuned("red", contexts=[], max_new_tokens=1, cache_only=True)
        for contexts, words in ((["one"], "no list of texts"), ([["one"], []], "1 prompts and 2 lists"), ([[None]], "no list of texts")):
            with pytest.raises(ArgumentError, match=words):
                tuned.generate(["red"], contexts=contexts)

        scores = shell.run("%%evaluate scores --on rows[30:] --models base,tuned\nmetrics: [perplexity]\nmax_tokens: 3\n")
        last = [event["eval_loss"] for event in tuned.events if "eval_loss" in event][-1]
        assert math.log(scores.summary["tuned"]["perplexity"].value) == pytest.approx(last, abs=1e-4), "read as in training"
        assert [row["input"] for row in scores][2:4] == [f"(1) {outputs[31]}\n{inputs[31]}"] * 2, "the base as well"
        assert scores.recipe_made["args"]["context_template"] == {"base": "({{index}}) {{text}}", "tuned": "({{index}}) {{text}}"}
        with pytest.raises(ArgumentError, match=r"the rows have no column 'c' .*contexts: COLUMN"):
            shell.run("%%evaluate other --on [dict(q='red',a='x')] --models tuned")
        shown = shell.run(f"%dream tokens rows --base {bases['chat']} --input q --output a --contexts c --max-length 14")
        assert "in their contexts" in shell.ip.display_formatter.format(shown)[0]["text/plain"]

        first = tuned.fingerprint
        shell.run(cell)
        assert shell["tuned"].fingerprint == first
        shell.run(cell.replace("({{index}})", "{{index}}").replace("epochs: 2", "epochs: 1"))
        assert shell["tuned"].fingerprint != first
        tuned.unload_model()
    finally:
        shell.close()


def test_without_contexts_a_recipe_says_nothing_of_them(session: Session, bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = DataSource("rows", data={"q": ["one", "two"], "a": ["x", "y"], "c": [["a"], []]}).output
    found: list[Any] = []

    def door(step: Any) -> None:
        found.append(step)
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "run", door)
    trainer = TrainHFFineTune("tuned", str(bases["causal"]))
    for more in ({}, {"train_contexts": rows["c"]}, {"train_contexts": rows["c"], "context_template": NUMBERED}):
        with pytest.raises(KeyboardInterrupt):
            trainer.train(rows["q"], rows["a"], **more)
    plain, with_them, numbered = (step.recipe_made for step in found)
    assert plain["kind"] == "HFFineTune"
    assert "context" not in str(plain)
    assert with_them["inputs"]["train_contexts"]["digest"] == rows["c"].digest()
    assert with_them["args"]["context_template"] == "{{text}}"
    assert with_them != numbered
    step = {"input": rows["q"], "output": rows["a"]}
    with pytest.raises(KeyboardInterrupt):
        Evaluate("scores", inputs=step, args={"models": {"a": EchoLLM()}})
    assert "context" not in str(found[-1].recipe_made)
