"""Steps that ask a model: prompts, outputs, failed rows, and how many calls each change costs."""

from __future__ import annotations

from typing import Any

import pytest

from nbdream import Session
from nbdream.errors import ArgumentError, ColumnError, DataError, ModelError, NbDreamError, TemplateError
from nbdream.llms import EchoLLM, OpenAI
from nbdream.steps import DataFromPrompt, DataSource, Filter, FilterWithPrompt, Generate, ProcessWithPrompt, Prompt, Step
from nbdream.steps.asking import yes_or_no

TEXTS = ["red", "green", "blue"]


@pytest.fixture
def rows(session: Session) -> Step:
    return DataSource("rows", {"text": TEXTS, "number": [1, 2, 3]})


@pytest.fixture
def llm(openai_server: Any) -> OpenAI:
    return OpenAI("test", base_url=openai_server.base_url, api_key="sk-loopback-key", max_concurrency=4)


def generate(rows: Step | None = None, name: str = "made", **args: Any) -> Generate:
    args.setdefault("llm", EchoLLM())
    return Generate(name, inputs={} if rows is None else {"rows": rows}, args=args)


# ------------------------------------------------------------------------------------------------ the published steps


def test_prompt(rows: Step) -> None:
    step = Prompt("asked", inputs={"prompts": rows.output["text"]}, args={"llm": EchoLLM()}, outputs={"generations": "said"})
    assert list(step.output) == [{"prompts": text, "said": text} for text in TEXTS]


def test_prompts_may_be_messages(session: Session) -> None:
    talk = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]]
    step = Prompt("asked", inputs={"prompts": DataSource("talk", {"m": talk}).output["m"]}, args={"llm": EchoLLM()})
    assert step.output["generations"][0] == "Hi"


def test_process_with_prompt(rows: Step) -> None:
    args = {"llm": EchoLLM(), "instruction": "Translate.", "top_p": 1.0}
    step = ProcessWithPrompt("done", inputs={"inputs": rows.output["text"]}, args=args, outputs={"inputs": "colour", "generations": "said"})
    assert step.output.column_names == ["colour", "prompts", "said"]
    assert step.output[0] == {
        "colour": "red",
        "prompts": "Input: red\n\nInstruction: Translate.",
        "said": "Input: red\n\nInstruction: Translate.",
    }
    args |= {"input_label": "Text:", "instruction_label": "", "sep": "\n"}
    step = ProcessWithPrompt("labels", inputs={"inputs": rows.output["text"]}, args=args)
    assert step.output["prompts"][0] == "Text: red\nTranslate."


def test_data_from_prompt_gives_different_draws(session: Session) -> None:
    step = DataFromPrompt("data", args={"llm": EchoLLM(), "instruction": "Write.", "n": 3, "temperature": 1.2})
    assert step.output["generations"][:] == ["Write.", "Write. (draw 2)", "Write. (draw 3)"]
    assert step.output["prompts"][:] == ["Write."] * 3


def test_n_generations_are_a_list(rows: Step) -> None:
    step = Prompt("asked", inputs={"prompts": rows.output["text"]}, args={"llm": EchoLLM(), "n": 2})
    assert step.output["generations"][0] == ["red", "red (draw 2)"]


def test_only_what_is_given_is_sent(session: Session, llm: OpenAI, openai_server: Any) -> None:
    DataFromPrompt("data", args={"llm": llm, "instruction": "Write.", "n": 1})
    DataFromPrompt(
        "more", args={"llm": llm, "instruction": "Write more.", "n": 1, "temperature": 0.5, "max_new_tokens": 7, "batch_size": 3}
    )
    first, second = openai_server.requests
    assert set(first) - {"http"} == {"model", "messages"}
    assert second["temperature"] == 0.5
    assert 7 in (second.get("max_tokens"), second.get("max_completion_tokens"))


def test_post_process(session: Session) -> None:
    args = {"llm": EchoLLM(), "instruction": "a, b", "n": 1}
    step = DataFromPrompt("data", args={**args, "post_process": lambda text: text.split(", ")})
    assert step.output["generations"][:] == [["a", "b"]]
    assert DataFromPrompt("upper", args={**args, "post_process": lambda text: text.upper()}).output["generations"][0] == "A, B"
    with pytest.raises(ZeroDivisionError) as caught:
        DataFromPrompt("bad", args={**args, "post_process": lambda text: 1 / 0})
    assert "post_process, on the generation of row 0" in caught.value.__notes__[0]


def test_filter_with_prompt_keeps_whole_rows(rows: Step) -> None:
    wider = rows.map(lambda row: {"length": len(row["text"])})
    llm = Answers({"red": "Yes.", "green": "No, yes would be wrong.", "blue": "Hmm"})
    step = FilterWithPrompt("kept", inputs={"inputs": wider.output["text"]}, args={"llm": llm, "instruction": "A colour?"})
    assert list(step.output) == [{"text": "red", "number": 1, "length": 3}]
    (failure,) = step.failures
    assert (failure["row"], failure["said"], failure["text"]) == (2, "Hmm", "blue")
    assert set(step.node["columns"]) == {"__row__"}


def test_filter_func_decides(rows: Step) -> None:
    llm = Answers({"red": "8", "green": "3", "blue": "9"})
    args = {"llm": llm, "instruction": "Score.", "filter_func": lambda answer: int(answer) > 5}
    step = FilterWithPrompt("kept", inputs={"inputs": rows.output["text"]}, args=args)
    assert step.output["text"][:] == ["red", "blue"]


def test_a_filter_that_keeps_nothing(rows: Step) -> None:
    step = FilterWithPrompt("kept", inputs={"inputs": rows.output["text"]}, args={"llm": EchoLLM(answers=["No"]), "instruction": "?"})
    assert list(step.output) == []
    assert step.output.column_names == ["text", "number"]
    assert step.output["text"][:] == []


@pytest.mark.parametrize(
    ("answer", "means"),
    [
        ("Yes", True),
        ("**Yes**, it is.", True),
        ("no", False),
        ("No, yes would be wrong", False),
        ("Yesterday", None),
        ("", None),
        ("I say yes", None),
        ("…", None),
    ],
)
def test_yes_or_no(answer: str, means: bool | None) -> None:
    assert yes_or_no(answer) is means


class Answers(EchoLLM):
    """Answers by a word of the prompt."""

    def __init__(self, answers: dict[str, str]) -> None:
        super().__init__("answers")
        self.by_word = answers
        self.identity = {"provider": "answers", "answers": answers}

    def _text(self, request: Any) -> str:
        return next((answer for word, answer in self.by_word.items() if word in request.prompt), "?")


# ------------------------------------------------------------------------------------------------ templates


def test_generate_over_rows(rows: Step) -> None:
    step = generate(rows, template="\n\n{{ text }} is {{ number }}\n \n", column="said", system="Be brief.")
    assert list(step.output) == [{"text": t, "number": i, "said": f"{t} is {i}"} for i, t in enumerate(TEXTS, 1)]
    assert set(step.node["columns"]) == {"generation", "__row__"}


def test_generate_from_nothing(session: Session) -> None:
    assert generate(template="Write.", n=3).output["generation"][:] == ["Write.", "Write. (draw 2)", "Write. (draw 3)"]
    assert generate(template="Write in {{ style }}.", variables={"style": "prose"}).output["generation"][:] == ["Write in prose."]


def test_an_instruction_is_about_the_only_text_column(rows: Step, session: Session) -> None:
    assert generate(rows, template="Translate.").output["generation"][0] == "Input: red\n\nInstruction: Translate."
    assert generate(rows, template="Square.", about="number").output["generation"][0] == "Input: 1\n\nInstruction: Square."
    two = DataSource("two", {"a": ["x"], "b": ["y"]})
    with pytest.raises(ArgumentError, match="several columns are of text: a, b"):
        generate(two, template="Translate.")
    with pytest.raises(ArgumentError, match="no column is of text"):
        generate(DataSource("numbers", {"a": [1]}), template="Translate.")
    with pytest.raises(TemplateError, match="did you mean 'text'"):
        generate(rows, template="Translate.", about="txt")


def test_draws(rows: Step) -> None:
    step = generate(rows.take(2), template="{{ text }}", draws=2)
    assert list(step.output) == [
        {"text": "red", "number": 1, "generation": "red", "draw": 0},
        {"text": "red", "number": 1, "generation": "red (draw 2)", "draw": 1},
        {"text": "green", "number": 2, "generation": "green", "draw": 0},
        {"text": "green", "number": 2, "generation": "green (draw 2)", "draw": 1},
    ]
    listed = generate(rows.take(2), template="{{ text }}", draws=2, as_list=True)
    assert listed.output["generation"][:] == [["red", "red (draw 2)"], ["green", "green (draw 2)"]]


def test_nulls_cost_nothing(session: Session, llm: OpenAI, openai_server: Any) -> None:
    data = DataSource("data", {"text": ["a", "b", None], "more": ["x", None, "z"]})
    with pytest.raises(TemplateError, match="row 2: `text` is empty"):
        generate(data, llm=llm, template="{{ text }}")
    with pytest.raises(TemplateError, match="row 2: `text` is empty"):
        generate(data, llm=llm, template="Translate.", about="text")
    with pytest.raises(ArgumentError, match="row 2: 'inputs' is empty"):
        ProcessWithPrompt("done", inputs={"inputs": data.output["text"]}, args={"llm": llm, "instruction": "?"})
    with pytest.raises(ArgumentError, match="row 2: 'prompts' is empty"):
        Prompt("done", inputs={"prompts": data.output["text"]}, args={"llm": llm})
    assert openai_server.calls == 0
    step = generate(data, llm=llm, template="{{ text }}", drop_null=True)
    assert step.output["more"][:] == ["x", None]
    assert generate(data, llm=llm, template="{{ text or 'none' }}").output.num_rows == 3
    assert sorted(openai_server.prompts) == ["a", "b", "none"]


def test_a_preview_asks_first_what_the_whole_asks(rows: Step, session: Session, llm: OpenAI, openai_server: Any) -> None:
    assert generate(rows, llm=llm, template="{{ text }}", limit=2).output["text"][:] == ["red", "green"]
    assert "made" not in list(session)
    generate(rows, llm=llm, template="{{ text }}")
    assert openai_server.calls == 3
    assert generate(llm=llm, template="Write.", n=5, limit=2).output.num_rows == 2


def test_filter_by_template(rows: Step) -> None:
    llm = Answers({"red": "yes", "green": "no", "blue": "who knows"})
    step = Filter("kept", inputs={"rows": rows}, args={"llm": llm, "template": "Is {{ text }} warm?"})
    assert list(step.output) == [{"text": "red", "number": 1}]
    assert [row["said"] for row in step.failures] == ["who knows"]


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("args", "kind", "said"),
    [
        ({"template": "{{ txt }}"}, TemplateError, "did you mean 'text'"),
        ({"template": "{{ text"}, TemplateError, "line 1 of the template"),
        ({"template": "  \n"}, ArgumentError, "is empty"),
        ({"template": "{{ text }}", "temprature": 1}, ArgumentError, "did you mean 'temperature'"),
        ({"template": "{{ text }}", "llm": "gpt-4"}, ArgumentError, "is a str, not a model"),
        ({"template": "{{ text }}", "on_fail": "ignore"}, ArgumentError, "drop, keep, stop"),
        ({"template": "{{ text }}", "n": 5}, ArgumentError, "n= and rows"),
        ({"template": "{{ text }}", "draws": 0}, ArgumentError, "1 or more"),
        ({"template": "{{ text }}", "limit": 0}, ArgumentError, "1 or more"),
        ({"template": "{{ text }}", "about": "text"}, ArgumentError, "the template names its own"),
        ({"template": "{{ text }}", "draws": 2, "column": "draw"}, ArgumentError, "called 'draw'"),
        ({}, ArgumentError, "needs the argument 'template'"),
    ],
    ids=range(12),
)
def test_bad_arguments_cost_nothing(rows: Step, args: dict[str, Any], kind: type[NbDreamError], said: str) -> None:
    llm = Refusing()
    with pytest.raises(kind, match=said) as caught:
        generate(rows, **{"llm": llm, **args})
    assert "\n" not in str(caught.value)


class Refusing(EchoLLM):
    """Must not be asked."""

    async def complete(self, request: Any) -> Any:
        raise AssertionError("it was asked")


def test_more_bad_arguments(rows: Step, session: Session) -> None:
    with pytest.raises(DataError, match=r"'rows \(take\)' has no rows"):
        generate(rows.take(0), template="{{ text }}")
    with pytest.raises(ArgumentError, match="1 or more"):
        DataFromPrompt("data", args={"llm": Refusing(), "instruction": "x", "n": 0})
    with pytest.raises(ColumnError, match="did you mean 'text'"):
        Prompt("asked", inputs={"prompts": rows.output["txt"]}, args={"llm": Refusing()})
    with pytest.raises(ArgumentError, match="not a text"):
        Prompt("asked", inputs={"prompts": rows.output["number"]}, args={"llm": Refusing()})
    with pytest.raises(ArgumentError, match="needs the argument 'instruction'"):
        ProcessWithPrompt("asked", inputs={"inputs": rows.output["text"]}, args={"llm": Refusing()})
    with pytest.raises(ArgumentError, match="give --from"):
        generate(template="{{ text }}", llm=Refusing())


def test_half_characters_of_a_model_are_replaced(session: Session) -> None:
    step = generate(template="Write.", llm=EchoLLM(answers=["a\ud800b 😀"], identity="half"))
    (text,) = step.output["generation"]
    assert text.encode()
    assert (text[0], text[-3:]) == ("a", "b 😀")


def test_one_column_is_rows_of_one_column(rows: Step, session: Session) -> None:
    step = Generate("made", inputs={"rows": rows.output["text"]}, args={"llm": EchoLLM(), "template": "{{ text }}"})
    assert step.output.column_names == ["text", "generation"]
    assert session.load("made").output.column_names == ["text", "generation"]


# ------------------------------------------------------------------------------------------------ failed rows


def refuse_green(body: dict[str, Any]) -> int | None:
    return 400 if "green" in body["messages"][-1]["content"] else None


def test_no_row_vanishes(rows: Step, llm: OpenAI, openai_server: Any) -> None:
    openai_server.fails = refuse_green
    step = generate(rows, llm=llm, template="{{ text }}")
    assert step.output["text"][:] == ["red", "blue"]
    (failure,) = step.failures
    assert (failure["row"], failure["text"], failure["number"]) == (1, "green", 2)
    assert failure["error"]
    assert step.node["failures"] == 1


def test_keep_gives_null_and_stop_stops(rows: Step, llm: OpenAI, openai_server: Any) -> None:
    openai_server.fails = refuse_green
    kept = generate(rows, llm=llm, template="{{ text }}", on_fail="keep")
    assert kept.output["text"][:] == TEXTS
    assert [text is None for text in kept.output["generation"]] == [False, True, False]
    assert len(kept.failures) == 1
    processed = ProcessWithPrompt("kept", inputs={"inputs": rows.output["text"]}, args={"llm": llm, "instruction": "?", "on_fail": "keep"})
    assert processed.output["inputs"][:] == TEXTS
    assert processed.output["generations"][1] is None
    with pytest.raises(ModelError, match="row 1 failed"):
        generate(rows, "stopped", llm=llm, template="{{ text }}", on_fail="stop")


def test_retry_failed_asks_only_for_what_failed(rows: Step, session: Session, llm: OpenAI, openai_server: Any) -> None:
    openai_server.fails = refuse_green
    first = generate(rows, llm=llm, template="{{ text }}")
    openai_server.fails = lambda body: None
    session.new_execution()
    assert generate(rows, llm=llm, template="{{ text }}").output.num_rows == 2
    before = openai_server.calls
    again = generate(rows, llm=llm, template="{{ text }}", retry_failed=True)
    assert again.output["text"][:] == TEXTS
    assert openai_server.calls == before + 1
    assert again.key != first.key
    session.new_execution()
    assert generate(rows, llm=llm, template="{{ text }}", retry_failed=True).key == again.key  # nothing has failed any more


# ------------------------------------------------------------------------------------------------ calls


def calls_of(openai_server: Any, session: Session, make: Any) -> int:
    before = openai_server.calls
    session.new_execution()
    make()
    return int(openai_server.calls - before)


def test_calls(session: Session, llm: OpenAI, openai_server: Any) -> None:
    def run(n: int = 10, name: str = "data", model: OpenAI = llm, **args: Any) -> int:
        return calls_of(openai_server, session, lambda: generate(name=name, llm=model, template="Write.", n=n, **args))

    assert run() == 10
    assert run() == 0
    assert run(14) == 4
    assert run(name="other") == 0
    assert run(column="text", concurrency=2) == 0
    assert run(seed=1) == 10
    assert run(temperature=0.7) == 10
    assert run(temperature=0.7, system="Be brief.") == 10
    assert run(model=OpenAI("other", base_url=openai_server.base_url, api_key="sk-loopback-key")) == 10
    assert run(model=OpenAI("test", base_url=openai_server.base_url, api_key="sk-another-key")) == 0


def test_calls_over_rows(session: Session, llm: OpenAI, openai_server: Any) -> None:
    texts = [f"text {i}" for i in range(20)]

    def run(texts: list[str], numbers: list[int] | None = None, template: str = "Translate {{ text }}") -> int:
        data = {"text": texts, "number": numbers or list(range(len(texts)))}
        return calls_of(openai_server, session, lambda: generate(DataSource("data", data), llm=llm, template=template))

    assert run(texts) == 20
    assert run(texts, template="\n\nTranslate {{ text }}\n\n") == 0
    assert run([*texts[:7], "edited", *texts[8:]]) == 1
    assert run(texts[::-1]) == 0
    assert run(texts, numbers=list(range(100, 120))) == 0
    assert run(texts, template="Translate  {{ text }}") == 20


def test_an_unread_column_changes_and_the_result_is_loaded(session: Session, llm: OpenAI) -> None:
    def run(numbers: list[int]) -> Generate:
        session.new_execution()
        return generate(DataSource("data", {"text": TEXTS, "number": numbers}), llm=llm, template="{{ text }}")

    first, second = run([1, 2, 3]), run([7, 8, 9])
    assert second.key == first.key
    assert second.output["number"][:] == [7, 8, 9]


def test_a_result_read_twice_asks_once(session: Session, llm: OpenAI, openai_server: Any) -> None:
    step = DataFromPrompt("data", args={"llm": llm, "instruction": "Write.", "n": 5, "lazy": True})
    assert list(step.output) == list(step.output)
    assert openai_server.calls == 5


def test_why_says_what_changed(session: Session) -> None:
    for temperature in (0.7, 1.0):
        session.new_execution()
        generate(template="Write.", temperature=temperature)
    assert "temperature" in " ".join(session.why("made"))
