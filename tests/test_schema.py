"""Structured answers: what fits becomes columns, what does not is asked for again, and no row is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, field_validator

from nbdream import Session
from nbdream.errors import ArgumentError
from nbdream.llms import EchoLLM, OpenAI
from nbdream.llms.base import Reply, Request
from nbdream.steps import DataSource, Generate
from nbdream.steps.schema import InvalidAnswerError, Shape
from tests.servers.openai_server import OpenAIServer


class Triple(BaseModel):
    instruction: str
    input: str | None = None
    score: float


class Even(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("an odd number")
        return value


TRIPLE = {"instruction": "i", "input": "x", "score": 1}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}, "more": {}},
    "required": ["name"],
}


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as serving:
        yield serving


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Session(tmp_path / "output") as opened:
        yield opened


def asked(server: OpenAIServer, name: str, prompts: list[str], **args: Any) -> Generate:
    llm = OpenAI("m", base_url=server.base_url, api_key="none")
    rows = DataSource("rows", data={"topic": prompts})
    return Generate(name, inputs={"rows": rows.output}, args={"llm": llm, "template": "About {{ topic }}", "column": "made", **args})


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "many", "columns", "wrapped"),
    [
        (Triple, False, ["instruction", "input", "score"], None),
        (list[Triple], True, ["instruction", "input", "score"], "items"),
        (SCHEMA, False, ["name", "tags", "more"], None),
        ({"type": "array", "items": SCHEMA}, True, ["name", "tags", "more"], "items"),
        (int, False, None, "value"),
        (list[str], True, None, "items"),
        (Literal["yes", "no"], False, None, "value"),
    ],
)
def test_what_a_shape_is(given: Any, many: bool, columns: list[str] | None, wrapped: str | None) -> None:
    shape = Shape(given)
    assert (shape.many, shape.columns) == (many, columns)
    assert shape.wire["type"] == "object"
    assert wrapped is None or list(shape.wire["properties"]) == [wrapped]


@pytest.mark.parametrize(
    ("given", "said"),
    [("Triple", "schema is 'Triple'"), ({"type": "objekt"}, "JSON schema is wrong"), ({}, "says nothing"), (object(), "no JSON schema")],
)
def test_what_is_no_shape_is_one_line(given: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        Shape(given)


@pytest.mark.parametrize(
    ("given", "text", "values"),
    [
        (Triple, json.dumps(TRIPLE), [{"instruction": "i", "input": "x", "score": 1.0}]),
        (Triple, f"Sure!\n```json\n{json.dumps(TRIPLE)}\n```\nAnything else?", [{"instruction": "i", "input": "x", "score": 1.0}]),
        (Triple, '{"instruction": "i", "score": 2}', [{"instruction": "i", "input": None, "score": 2.0}]),
        (list[Triple], json.dumps({"items": [TRIPLE, TRIPLE]}), [{"instruction": "i", "input": "x", "score": 1.0}] * 2),
        (list[Triple], "[]", []),
        (int, '{"value": 3}', [3]),
        (int, "3", [3]),
        (list[str], '{"items": ["a", "b"]}', ["a", "b"]),
        (SCHEMA, '{"name": "n", "more": {"a": [1]}}', [{"name": "n", "tags": None, "more": '{"a": [1]}'}]),
        (SCHEMA, '{"name": "n", "more": 7, "unasked": 1}', [{"name": "n", "tags": None, "more": "7"}]),
    ],
)
def test_what_fits(given: Any, text: str, values: list[Any]) -> None:
    assert Shape(given).read(text) == values


@pytest.mark.parametrize(
    ("given", "text", "why"),
    [
        (Triple, "I cannot do that.", "no JSON"),
        (Triple, '{"instruction": "i", "score": ', "no JSON"),
        (Triple, '{"instruction": "i"}', "score: Field required"),
        (Triple, '{"instruction": "i", "score": NaN}', "NaN"),
        (Triple, '{"instruction": "\\ud800", "score": 1}', "half a character"),
        (Triple, '{"instruction": "i", "score": ' + "9" * 5000 + "}", "digits|bits"),
        (Triple, "[" * 100_000, "nested too deeply"),
        (Triple, "[" + "1," * 1_000_000 + "1]", "characters"),
        (Even, '{"number": 3}', "number: .*an odd number"),
        (SCHEMA, '{"tags": []}', "'name' is a required property"),
        (SCHEMA, '{"name": "n", "tags": [1]}', "tags/0: 1 is not of type"),
        (None or int, '{"value": 99999999999999999999}', "64 bits"),
    ],
)
def test_what_does_not_fit_says_why(given: Any, text: str, why: str) -> None:
    with pytest.raises(InvalidAnswerError, match=why):
        Shape(given).read(text)


@settings(max_examples=200, deadline=None)
@given(st.text() | st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_whatever_a_model_says_fits_or_says_why(text: str) -> None:
    for given_shape in (Triple, list[Triple], SCHEMA, str):
        try:
            Shape(given_shape).read(text)
        except InvalidAnswerError as invalid:
            why = str(invalid)
        else:
            why = ""
        assert "\n" not in why


def test_a_request_that_mends_says_what_was_wrong() -> None:
    request = Request(({"role": "user", "content": "go"},), schema=Shape(Triple).wire, draw=3)
    reply = Reply('{"instruction": "i"}')
    follow = Shape(Triple).review(request, reply, 1)
    assert follow is not None
    assert (follow.draw, follow.schema, reply.error) == (3, request.schema, None)
    assert [message["role"] for message in follow.messages] == ["user", "assistant", "user"]
    assert "score: Field required" in follow.messages[-1]["content"]
    assert Shape(Triple).review(request, reply, 3) is None
    assert reply.error is not None
    assert reply.error["kind"] == "row"
    cut = Shape(Triple).review(request, Reply('{"instr', finish_reason="length"), 1)
    assert cut is not None
    assert "cut off" in cut.messages[-1]["content"]


# --- rows -------------------------------------------------------------------------------------------------------------


def test_the_fields_are_columns_and_the_model_sees_the_schema(session: Session, server: OpenAIServer) -> None:
    server.reply = lambda body, count: json.dumps(TRIPLE)
    made = asked(server, "triples", ["a", "b"], schema=Triple)
    assert made.output.column_names == ["topic", "instruction", "input", "score"]
    assert made.output[1] == {"topic": "b", "instruction": "i", "input": "x", "score": 1.0}
    assert server.requests[0]["response_format"]["type"] == "json_schema"
    assert asked(server, "triples", ["a", "b"], schema=Triple).output.fingerprint == made.output.fingerprint
    assert server.calls == 2


def test_a_list_of_answers_gives_rows_that_know_where_they_come_from(session: Session, server: OpenAIServer) -> None:
    sizes = {"About a": 2, "About b": 0, "About c": 1}
    server.reply = lambda body, count: json.dumps({"items": [TRIPLE] * sizes[body["messages"][-1]["content"]]})
    made = asked(server, "triples", ["a", "b", "c"], schema=list[Triple])
    assert made.output["source_row"][:] == [0, 0, 2]
    assert made.output["topic"][:] == ["a", "a", "c"]
    assert made.output["score"][:] == [1.0, 1.0, 1.0]
    drawn = asked(server, "drawn", ["a", "c"], schema=list[Triple], draws=2)
    assert list(zip(drawn.output["source_row"], drawn.output["draw"], strict=True)) == [(0, 0), (0, 0), (0, 1), (0, 1), (1, 0), (1, 1)]
    listed = asked(server, "listed", ["a", "c"], schema=list[Triple], draws=2, as_list=True)
    assert [len(values) for values in listed.output["made"]] == [4, 2]


def test_one_answer_in_five_is_wrong_at_first_and_none_is_lost(session: Session, server: OpenAIServer) -> None:
    def say(body: dict[str, Any], count: int) -> str:
        topic = int(body["messages"][0]["content"].split()[-1])
        return json.dumps(TRIPLE if topic % 5 or len(body["messages"]) > 1 else {"instruction": "i"})

    server.reply = say
    topics = [str(number) for number in range(50)]
    made = asked(server, "triples", topics, schema=Triple)
    assert (len(made.output), len(made.failures), server.calls) == (50, 0, 60)
    assert made.node["usage"]["calls"] == 60
    session.stop()
    session.start()
    (Path(session.folder) / "objects" / made.key / "node.json").unlink()
    again = asked(server, "triples", topics, schema=Triple)
    assert (len(again.output), server.calls, again.node["usage"]["calls"]) == (50, 60, 0)


def test_what_never_fits_fails_with_what_was_said_and_is_asked_again_only_on_request(session: Session, server: OpenAIServer) -> None:
    server.reply = lambda body, count: "no" if "About bad" in body["messages"][0]["content"] else json.dumps(TRIPLE)
    made = asked(server, "triples", ["good", "bad"], schema=Triple)
    assert (len(made.output), server.calls) == (1, 4)
    assert made.failures[0]["said"] == "no"
    assert "no valid answer in 3 tries" in made.failures[0]["error"]
    kept = asked(server, "kept", ["good", "bad"], schema=Triple, on_fail="keep")
    assert kept.output["score"][:] == [1.0, None]
    assert server.calls == 4
    server.reply = lambda body, count: json.dumps(TRIPLE)
    mended = asked(server, "triples", ["good", "bad"], schema=Triple, retry_failed=True)
    assert (len(mended.output), server.calls) == (2, 5)


def test_another_schema_or_another_check_runs_again(session: Session, server: OpenAIServer) -> None:
    server.reply = lambda body, count: '{"number": 2}'
    asked(server, "numbers", ["a"], schema=Even)

    class Checked(Even):
        @field_validator("number")
        @classmethod
        def even(cls, value: int) -> int:
            return value + 2

    Checked.__name__ = "Even"
    assert asked(server, "numbers", ["a"], schema=Checked).output["number"][:] == [4]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"schema": {"type": "object", "properties": {"topic": {"type": "string"}}}}, "'topic' would be two columns"),
        ({"schema": 3}, "no JSON schema"),
    ],
)
def test_mistakes_are_told_before_a_call(session: Session, server: OpenAIServer, args: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        asked(server, "x", ["a"], **args)
    assert server.calls == 0


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(["good", "bad", "worse"]), min_size=1, max_size=25))
def test_rows_in_are_rows_good_and_failed(tmp_path_factory: pytest.TempPathFactory, kinds: list[str]) -> None:
    class Model(EchoLLM):
        async def complete(self, request: Request) -> Reply:
            kind = request.messages[0]["content"].split()[-1]
            good = kind == "good" or (kind == "bad" and len(request.messages) > 3)
            return Reply(json.dumps(TRIPLE) if good else "{}", usage={"input_tokens": 1, "output_tokens": 1})

    with Session(tmp_path_factory.mktemp("session")):
        rows = DataSource("rows", data={"kind": kinds})
        args = {"llm": Model(), "template": "{{ kind }}", "schema": Triple}
        if len(kinds) >= 20 and set(kinds) == {"worse"}:
            return
        made = Generate("made", inputs={"rows": rows.output}, args=args)
        assert len(made.output) + len(made.failures) == len(kinds)
        failed = [row["row"] for row in made.failures]
        assert sorted(failed) == [number for number, kind in enumerate(kinds) if kind == "worse"]
