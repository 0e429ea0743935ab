"""Claude: what goes over the wire is what Anthropic's own client sends, and what comes back is read to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pydantic
import pytest

from nbdream import context, secrets
from nbdream.cache import CallCache
from nbdream.engine import Engine, Patience, call_key
from nbdream.errors import ArgumentError, ModelError
from nbdream.llms import Anthropic, resolve_llm
from nbdream.llms.anthropic import from_message, to_body
from nbdream.llms.base import RateLimit, Reply, Request
from tests.servers.anthropic_server import AnthropicServer

KEY = "sk-ant-12345678"


@pytest.fixture
def server() -> Iterator[AnthropicServer]:
    with AnthropicServer(key=KEY) as serving:
        yield serving


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """The engine of an open session."""
    running = Engine(CallCache(tmp_path / "calls.sqlite"), patience=Patience(first=0.01))
    with context.using(SimpleNamespace(engine=running, folder=tmp_path)):  # type: ignore[arg-type]
        yield running
    running.stop()


def claude(server: AnthropicServer, **options: Any) -> Anthropic:
    return Anthropic("claude-test", base_url=server.base_url, api_key=KEY, **options)


def asked(llm: Anthropic, *messages: dict[str, str], **request: Any) -> Reply:
    """The reply to one request, on an event loop of its own."""

    async def ask() -> Reply:
        try:
            return await llm.complete(Request(messages or ({"role": "user", "content": "hi"},), llm.settings(), **request))
        finally:
            await llm.aclose()

    return asyncio.run(ask())


def by_the_official_client(server: AnthropicServer, ask: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    """What Anthropic's own client makes of an answer."""
    import anthropic

    async def run() -> Any:
        async with anthropic.AsyncAnthropic(base_url=server.base_url, api_key=KEY, max_retries=0) as client:
            return await ask(client)

    return asyncio.run(run())


# --- over the wire ------------------------------------------------------------------------------------------------------


def test_what_is_sent_is_what_the_official_client_sends(server: AnthropicServer) -> None:
    options: dict[str, Any] = {"thinking": {"type": "adaptive"}, "service_tier": "auto"}
    llm = claude(server, stop="END", effort="low", max_tokens=9, **options)
    asked(llm, {"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}, seed=3)
    by_the_official_client(
        server,
        lambda client: client.messages.create(
            model="claude-test",
            max_tokens=9,
            system="Be brief.",
            messages=[{"role": "user", "content": "hi"}],
            stop_sequences=["END"],
            output_config={"effort": "low"},
            **options,
        ),
    )
    ours, theirs = server.requests
    sent, told = ours.pop("http"), theirs.pop("http")
    assert ours == theirs
    assert (sent["path"], sent["query"]) == (told["path"], told["query"]) == ("/v1/messages", {})
    headers, expected = ({name.lower(): value for name, value in http["headers"].items()} for http in (sent, told))
    for name in ("authorization", "anthropic-version", "content-type", "accept"):
        assert headers[name] == expected[name]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert not [name for name in headers if name.startswith("x-stainless")]


class Point(pydantic.BaseModel):
    x: int = pydantic.Field(ge=1, description="across")
    kind: Literal["a", "b"]
    near: list[str]


def test_a_schema_goes_out_as_the_official_client_sends_it(server: AnthropicServer) -> None:
    server.reply = lambda body, count: '{"x": 1, "kind": "a", "near": []}'
    reply = asked(claude(server, effort="low"), schema=Point.model_json_schema())
    parsed = by_the_official_client(
        server,
        lambda client: client.messages.parse(
            model="claude-test", max_tokens=4096, messages=[{"role": "user", "content": "hi"}], output_format=Point
        ),
    )
    ours, theirs = (request["output_config"] for request in server.requests)
    assert parsed.parsed_output == Point.model_validate_json(reply.text or "")
    assert ours.pop("effort") == "low"
    shapes = [config["format"]["schema"] for config in (ours, theirs)]
    # The same shape; a bound that cannot be held to is put in words, by each in its own.
    described = [shape["properties"]["x"].pop("description") for shape in shapes]
    assert all(text.startswith("across") and "minimum: 1" in text for text in described)
    for shape in shapes:
        shape["properties"]["kind"].pop("type", None)
    assert shapes[0] == shapes[1]
    assert ours["format"]["type"] == theirs["format"]["type"] == "json_schema"


def test_a_schema_that_leaves_something_open_is_put_in_words() -> None:
    llm = Anthropic("claude-test", system_prompt="Be brief.")
    [request] = llm.requests(["hi"], schema={"type": "object", "additionalProperties": {"type": "integer"}})
    body = llm.body(request)
    assert "output_config" not in body
    brief, _, told = body["system"].partition("\n\n")
    assert brief == "Be brief."
    assert '"additionalProperties": {"type": "integer"}' in told


def test_a_schema_and_an_output_config_exclude_each_other() -> None:
    llm = Anthropic("claude-test", effort="low")
    with pytest.raises(ArgumentError, match="both a schema and output_config"):
        llm.requests(["a"], schema=Point.model_json_schema(), extra={"output_config": {}})
    [request] = llm.requests(["a"], schema=Point.model_json_schema())
    assert set(llm.body(request)["output_config"]) == {"effort", "format"}


def test_the_body() -> None:
    messages = tuple({"role": role, "content": role} for role in ("system", "user", "assistant", "user", "user", "system"))
    assert to_body("c", Request(messages, {"max_tokens": 5, "extra": {"max_tokens": 6, "metadata": {"user_id": "u"}}}, seed=1)) == {
        "model": "c",
        "max_tokens": 6,
        "system": "system\n\nsystem",
        "messages": [{"role": role, "content": role} for role in ("user", "assistant", "user", "user")],
        "metadata": {"user_id": "u"},
    }


def test_a_request_survives_its_body() -> None:
    params = {"max_tokens": 5, "stop": ["x"], "effort": "low", "extra": {"a": 1}}
    request = Request(({"role": "user", "content": "a"},), params)
    assert to_body("c", request) == to_body("c", request)
    assert params == {"max_tokens": 5, "stop": ["x"], "effort": "low", "extra": {"a": 1}}


# --- what comes back ----------------------------------------------------------------------------------------------------


def message(*blocks: Any, finish: str = "end_turn", **more: Any) -> dict[str, Any]:
    return {"model": "c-1", "content": list(blocks), "stop_reason": finish, "usage": {"input_tokens": 3, "output_tokens": 1}, **more}


SAID = {"type": "text", "text": "yes"}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "s"}


def test_replies() -> None:
    whole = Reply("yes", usage={"input_tokens": 3, "output_tokens": 1}, model="c-1", finish_reason="end_turn")
    assert from_message(message(SAID)) == whole
    assert from_message(message(THOUGHT, SAID, {"type": "text", "text": ", no"})).text == "yes, no"
    assert from_message(message(SAID, finish="max_tokens")).error is None
    assert from_message(message(finish="stop_sequence")).text == ""
    assert from_message(message(SAID, usage=None)).usage is None


def test_tokens_that_the_provider_kept_count_as_asked() -> None:
    counted = {"input_tokens": 3, "output_tokens": 1, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20}
    assert from_message(message(SAID, usage=counted)).usage == {
        "input_tokens": 123, "output_tokens": 1, "cached_input_tokens": 100, "cache_write_input_tokens": 20,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "said", "why"),
    [
        (message(finish="refusal"), None, "the model refused"),
        (message(SAID, finish="refusal", stop_details={"type": "refusal", "category": "bio"}), "yes", "the model refused (bio)"),
        (message(THOUGHT, finish="max_tokens"), None, "the model gave no text (finish reason: max_tokens)"),
        (message({"type": "tool_use"}, finish="tool_use"), None, "the model gave no text (finish reason: tool_use)"),
    ],
)
def test_replies_that_are_failures_of_their_row(answer: dict[str, Any], said: str | None, why: str) -> None:
    reply = from_message(answer)
    assert reply.error == {"kind": "row", "message": why, "status": None}
    assert reply.text == said
    assert reply.usage == {"input_tokens": 3, "output_tokens": 1}


@pytest.mark.parametrize(
    "answer", [None, "x", [], {}, {"content": None}, {"content": ["x"]}, {"content": [{"type": "text"}]}, {"choices": []}]
)
def test_answers_that_are_none(answer: Any) -> None:
    error = from_message(answer).error or {}
    assert error["no_completion"]
    assert "/v1/messages" in error["hint"]


def test_what_the_headers_say_about_limits(server: AnthropicServer) -> None:
    names = ("limit", "remaining", "reset")
    values = ("50", "49", "2020-01-01T00:00:00Z")
    server.headers = {f"anthropic-ratelimit-requests-{name}": value for name, value in zip(names, values, strict=True)}
    assert asked(claude(server)).rate == RateLimit(50, 49, 0.0)


@pytest.mark.parametrize(
    ("fault", "kind", "hint"),
    [
        (529, "transient", "run the cell again"),
        (500, "transient", "run the cell again"),
        (400, "row", None),
        (413, "row", None),
        (403, "all", "this key may not use this model"),
        (404, "all", "check the model's name and the base_url"),
        (402, "all", "the account has no credit left"),
        ("quota", "all", "the account has no credit left"),
        ("html", "transient", "/v1/messages"),
        ("refusal", "row", None),
        ("no_text", "row", None),
    ],
)
def test_errors_are_sorted(server: AnthropicServer, fault: Any, kind: str, hint: str | None) -> None:
    server.fail(fault)
    error = asked(claude(server)).error or {}
    assert error["kind"] == kind
    assert (error.get("hint") is None) if hint is None else hint in error["hint"]


# --- as a model ---------------------------------------------------------------------------------------------------------


def test_a_model_like_any_other(engine: Engine, server: AnthropicServer) -> None:
    llm = claude(server, system_prompt="Be brief.")
    server.fail(529, (429, {"retry-after-ms": "1"}), "close")
    said = llm.generate(["a", "b"])
    assert [text.partition(" to ")[0] for text in said] == ["reply 1", "reply 1"]
    assert claude(server, system_prompt="Be brief.").generate(["a", "b"]) == said
    assert server.calls == 5


def test_a_wrong_key_is_one_line(engine: Engine, server: AnthropicServer) -> None:
    wrong = Anthropic("claude-test", base_url=server.base_url, api_key="sk-ant-wrong-key")
    with pytest.raises(ModelError, match=r"claude-test: .*\*\*\*.*check the key: api_key=… or .*ANTHROPIC_API_KEY"):
        wrong.generate(["a", "b", "c"])
    assert server.calls == 1


def test_the_length_limit_that_the_api_wants_counts_like_one_that_is_given(server: AnthropicServer) -> None:
    plain, given = Anthropic("c"), Anthropic("c", max_new_tokens=4096)
    assert plain.settings() == given.settings() == {"max_tokens": 4096}
    assert plain.settings(max_new_tokens=7) == Anthropic("c", max_tokens=7).settings() == {"max_tokens": 7}
    keys = {call_key(llm.identity, next(llm.requests(["a"]))) for llm in (plain, given, Anthropic("c", max_tokens=7))}
    assert len(keys) == 2
    asked(claude(server))
    assert server.requests[0]["max_tokens"] == 4096


@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p"])
def test_what_the_api_refuses_is_refused_before_a_call(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"c takes no {name}: the API refuses it"):
        Anthropic("c", **{name: 1})
    with pytest.raises(ArgumentError, match=f"c takes no {name}: the API refuses it"):
        Anthropic("c").settings(**{name: 1})


def test_what_it_does_not_know_is_refused_with_the_nearest() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'max_tokens'"):
        Anthropic("c", max_token=3)
    for name in ("seed", "logit_bias", "repetition_penalty"):
        with pytest.raises(ArgumentError, match=f"{name!r}.*one of: effort, extra, max_new_tokens"):
            Anthropic("c").settings(**{name: 1})
    with pytest.raises(ArgumentError, match=r'thinking=\{"type": "adaptive"\}'):
        Anthropic("c", thinking="adaptive")


def test_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_given", {})
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    llm = resolve_llm("anthropic/claude-haiku-4-5", api_key=KEY)
    assert llm.identity == {"provider": "anthropic", "base_url": "https://api.anthropic.com", "model": "claude-haiku-4-5"}
    assert secrets.contains(KEY)
    assert not secrets.contains(f"{llm!r} {llm.card} {llm.__nbdream_fingerprint__}")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://10.0.0.1:80/claude/")
    assert Anthropic("c").identity["base_url"] == "http://10.0.0.1/claude"
    assert Anthropic("c", identity="ours").identity == {"provider": "anthropic", "identity": "ours"}


def test_the_key_may_come_from_the_environment(server: AnthropicServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ModelError, match="ANTHROPIC_API_KEY is not set"):
        asked(Anthropic("c"))
    server.key = None
    asked(Anthropic("c", base_url=server.base_url))
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token-12345678")
    asked(Anthropic("c", base_url=server.base_url))
    monkeypatch.setenv("ANTHROPIC_API_KEY", f"{KEY}\n")
    asked(Anthropic("c", base_url=server.base_url))
    sent = [request["http"]["headers"]["Authorization"] for request in server.requests]
    assert sent == ["Bearer none", "Bearer token-12345678", f"Bearer {KEY}"]
