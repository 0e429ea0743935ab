"""Models: what they take, who they are, what goes over the wire, and what comes back."""

from __future__ import annotations

import asyncio
import base64
import datetime
import email.utils
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nbdream import context, llms, secrets
from nbdream.cache import CallCache
from nbdream.engine import Engine, Patience, call_key
from nbdream.errors import ArgumentError, ModelError, SessionError
from nbdream.fingerprint import digest
from nbdream.llms import LLM, EchoLLM, OpenAI, http, resolve_llm
from nbdream.llms.base import RateLimit, Reply, Request, failure
from nbdream.llms.failures import of_status, retry_after
from nbdream.llms.openai import from_completion, to_body
from nbdream.llms.service import seconds
from tests.servers.openai_server import HUGE, OpenAIServer


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """The engine of an open session."""
    running = Engine(CallCache(tmp_path / "calls.sqlite"), patience=Patience(first=0.01))
    with context.using(SimpleNamespace(engine=running, folder=tmp_path)):  # type: ignore[arg-type]
        yield running
    running.stop()


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as serving:
        yield serving


# --- what they take -----------------------------------------------------------------------------------------------------


def test_only_what_is_given_counts() -> None:
    llm = OpenAI("gpt-test", base_url="http://127.0.0.1:1/v1")
    assert llm.settings() == {}
    assert llm.settings(temperature=None, top_p=None) == {}
    assert llm.settings(temperature=1.0, stop="END", max_new_tokens=5) == {"temperature": 1, "stop": ["END"], "max_tokens": 5}
    assert OpenAI("gpt-test", base_url="http://127.0.0.1:1/v1", temperature=0.7).settings(top_p=0.5) == {"temperature": 0.7, "top_p": 0.5}


def test_the_length_limit_goes_out_under_the_name_the_server_knows() -> None:
    assert OpenAI("gpt-test").settings(max_new_tokens=5) == {"max_completion_tokens": 5}
    assert OpenAI("gpt-test").settings(max_tokens=5) == {"max_completion_tokens": 5}
    assert OpenAI("d", base_url="https://mine.openai.azure.com").settings(max_new_tokens=5) == {"max_completion_tokens": 5}
    other = OpenAI("gpt-test", base_url="http://127.0.0.1:1/v1")
    assert other.settings(max_new_tokens=5) == {"max_tokens": 5}
    assert other.settings(max_completion_tokens=5) == {"max_completion_tokens": 5}


@pytest.mark.parametrize("llm", [OpenAI("gpt-test"), EchoLLM()])
def test_an_unknown_parameter_is_refused_with_the_nearest(llm: LLM) -> None:
    with pytest.raises(ArgumentError, match=r"'temprature' .*did you mean 'temperature'"):
        llm.settings(temprature=1)
    with pytest.raises(ArgumentError, match="not a finite number"):
        llm.settings(temperature=float("nan"))
    with pytest.raises(ArgumentError, match="is a object"):
        llm.settings(extra={"a": object()})


def test_what_a_model_refuses_is_refused_before_the_first_call() -> None:
    with pytest.raises(ArgumentError, match="repetition_penalty"):
        OpenAI("gpt-test").settings(repetition_penalty=1.1)
    assert OpenAI("m", base_url="http://127.0.0.1:1/v1").settings(repetition_penalty=1.1) == {"repetition_penalty": 1.1}


def test_an_unknown_argument_of_a_model_is_refused_with_the_nearest() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'base_url'"):
        OpenAI("gpt-test", baseurl="http://127.0.0.1:1/v1")
    with pytest.raises(ArgumentError, match="max_concurrency is 0"):
        OpenAI("gpt-test", max_concurrency=0)
    with pytest.raises(ArgumentError, match="not a web address"):
        OpenAI("gpt-test", base_url="127.0.0.1:8000")
    with pytest.raises(ArgumentError, match="answers"):
        EchoLLM(answers="Yes")


def test_what_older_programs_give_is_taken_without_effect() -> None:
    llm = OpenAI("gpt-test", cache_folder_path="x", verbose=True)
    assert llm.defaults == {}
    assert llm.settings(log_level=10, adaptive_batch_size=True, batch_scheduler_buffer_size=3) == {}


def test_messages() -> None:
    plain = OpenAI("gpt-test")
    assert plain.messages("hi") == ({"role": "user", "content": "hi"},)
    system = OpenAI("gpt-test", system_prompt="Be brief.")
    assert system.messages("hi")[0] == {"role": "system", "content": "Be brief."}
    assert system.messages("hi", "Be long.")[0]["content"] == "Be long."
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert plain.messages(chat) == tuple(chat)
    for wrong in (None, 3, [], ["a"]):
        with pytest.raises(ArgumentError, match="a prompt is a"):
            plain.messages(wrong)  # type: ignore[arg-type]


# --- who they are -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "counts"),
    [
        (None, "https://api.openai.com/v1"),
        ("https://api.openai.com:443/v1/", "https://api.openai.com/v1"),
        ("HTTP://LocalHost:8000/v1/", "http://localhost:8000/v1"),
        ("http://me:sesame-open@host.example/v1?tenant=1#x", "http://host.example/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_identity_is_the_address_without_who_asks(base_url: str | None, counts: str) -> None:
    assert OpenAI("m", base_url=base_url).identity == {"provider": "openai", "base_url": counts, "model": "m"}


def test_identity_can_be_given() -> None:
    one = OpenAI("m", base_url="http://10.0.0.1:8000/v1", identity="our-llama")
    two = OpenAI("m", base_url="http://10.0.0.2:8000/v1", identity="our-llama")
    assert one.identity == two.identity == {"provider": "openai", "identity": "our-llama"}


def test_keys_and_passwords_become_known_and_are_part_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_given", {})
    llm = OpenAI("m", api_key="sk-12345678", base_url="http://me:sesame-open@host.example/v1")
    assert secrets.contains("sk-12345678")
    assert secrets.contains("sesame-open")
    for text in (repr(llm), str(llm.identity), str(llm.card), str(llm.__nbdream_fingerprint__)):
        assert not secrets.contains(text)


def test_a_recipe_counts_what_changes_a_call_and_nothing_else() -> None:
    def counts(**options: Any) -> str:
        return digest(OpenAI("m", **options))

    same = counts()
    assert counts(max_concurrency=3) == counts(api_key="sk-12345678") == counts(retry_on_fail=False) == counts(organization="o") == same
    others = [counts(system_prompt="x"), counts(temperature=1), counts(base_url="http://h/v1"), counts(identity="x"), digest(OpenAI("n"))]
    assert len({same, *others}) == 6


def test_a_model_of_a_cell_counts_by_its_code() -> None:
    def define(suffix: str) -> LLM:
        class Shout(LLM):
            async def complete(self, request: Request) -> Reply:
                return Reply(request.prompt.upper() + suffix)

        return Shout()

    assert define("!").identity == define("!").identity
    assert define("!").identity != define("?").identity


# --- over the wire ------------------------------------------------------------------------------------------------------

ASK = Request(({"role": "user", "content": "hi"},), {"temperature": 0.5, "extra": {"temperature": 0.9, "top_a": 1}}, seed=3)


def test_the_body_holds_what_was_given_and_extra_over_it() -> None:
    assert to_body("m", ASK) == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.9, "top_a": 1, "seed": 3}
    assert to_body("m", Request(ASK.messages)) == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_what_is_sent_is_what_was_given(engine: Engine, server: OpenAIServer) -> None:
    llm = OpenAI("o3-mini", base_url=server.base_url, system_prompt="Be brief.", api_key="sk-12345678", organization="org-1")
    llm("hi", temperature=0.5, extra={"guided_choice": ["a"]}, max_new_tokens=7)
    [request] = server.requests
    http = request.pop("http")
    assert request == {
        "model": "o3-mini",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "max_tokens": 7,
        "guided_choice": ["a"],
    }
    assert http["path"] == "/v1/chat/completions"
    assert http["headers"]["Authorization"] == "Bearer sk-12345678"
    assert {name.lower(): value for name, value in http["headers"].items()}["openai-organization"] == "org-1"


def test_a_server_of_ones_own_needs_no_key(engine: Engine, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OpenAI("m", base_url=server.base_url)("hi").startswith("reply 1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-environment")
    OpenAI("m2", base_url=server.base_url)("hi")
    assert [request["http"]["headers"]["Authorization"] for request in server.requests] == ["Bearer none", "Bearer sk-from-environment"]


def test_azure(engine: Engine, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = server.base_url.removesuffix("/v1")
    llm = OpenAI("my-deployment", base_url=endpoint, api_version="2024-10-21", api_key="azure-12345678")
    llm("hi", max_new_tokens=3)
    [request] = server.requests
    assert request["http"]["path"] == "/openai/deployments/my-deployment/chat/completions"
    assert request["http"]["query"] == {"api-version": "2024-10-21"}
    assert request["http"]["headers"]["api-key"] == "azure-12345678"
    assert request["max_completion_tokens"] == 3
    assert OpenAI("d", base_url="https://mine.openai.azure.com").azure
    assert not OpenAI("d", base_url="https://mine.openai.azure.com/openai/v1/").azure
    with pytest.raises(ModelError, match="API version"):
        OpenAI("d", base_url="https://mine.openai.azure.com", api_key="azure-12345678")("hi")


def completion(content: Any = "yes", finish: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    return {"model": "m-1", "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}


def test_replies() -> None:
    assert from_completion(completion()) == Reply("yes", usage={"input_tokens": 3, "output_tokens": 1}, model="m-1", finish_reason="stop")
    assert from_completion(completion("cut", "length")).error is None
    assert from_completion(completion("")).text == ""
    assert from_completion({**completion(), "usage": None}).usage is None


@pytest.mark.parametrize(
    ("answer", "said", "why"),
    [
        (completion("half", "content_filter"), "half", "content filter"),
        (completion(None, refusal="I won't."), "I won't.", "refused"),
        (completion(None, "tool_calls"), None, "no text"),
        (completion([{"type": "text"}]), None, "no text"),
    ],
)
def test_replies_that_are_failures_of_their_row(answer: dict[str, Any], said: str | None, why: str) -> None:
    reply = from_completion(answer)
    assert reply.error is not None
    assert reply.error["kind"] == "row"
    assert why in reply.error["message"]
    assert reply.text == said


@pytest.mark.parametrize("answer", [None, "<html>", {}, {"choices": []}, {"choices": [{}]}, {"choices": None}, [1], {"error": {"a": "x"}}])
def test_answers_that_are_none(answer: Any) -> None:
    error = from_completion(answer).error or {}
    assert (error["kind"], error["message"]) == ("transient", "the server's answer is no chat completion")
    assert error["no_completion"]


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind"),
    [
        (400, {}, {}, "row"),
        (413, {}, {}, "row"),
        (422, {}, {}, "row"),
        (401, {}, {}, "all"),
        (402, {}, {}, "all"),
        (403, {}, {}, "all"),
        (404, {}, {}, "all"),
        (408, {}, {}, "transient"),
        (429, {}, {}, "transient"),
        (429, {}, {"code": "insufficient_quota"}, "all"),
        (429, {}, {"type": "insufficient_quota"}, "all"),
        (429, {}, {"code": "project_spend_limit_exceeded"}, "all"),
        (429, {}, {"code": "credit_balance_exhausted"}, "all"),
        (429, {}, {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}}, "all"),
        (429, {}, {"code": "rate_limit_exceeded"}, "transient"),
        (400, {}, {"details": {"error_code": "organization_on_hold"}}, "all"),
        (405, {}, {}, "all"),
        (409, {}, {}, "transient"),
        (425, {}, {}, "transient"),
        (529, {}, {}, "transient"),
        (500, {}, {}, "transient"),
        (503, {"retry-after": "3"}, {}, "transient"),
        (500, {"x-should-retry": "false"}, {}, "row"),
        (400, {"x-should-retry": "true"}, {}, "transient"),
    ],
)
def test_errors_are_sorted(status: int, headers: dict[str, str], body: dict[str, Any], kind: str) -> None:
    told = {"error": {"message": "a\n<b>message</b>", **body}}
    reply = of_status(status, headers, json.dumps(told).encode(), lambda status: None)
    assert reply.error is not None
    assert reply.error["kind"] == kind
    assert reply.error["message"] == f"a message (HTTP {status})"
    assert reply.error.get("retry_after") == (3 if headers.get("retry-after") else None)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "-1"}, 0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after": "soon"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Your credit balance is too low to access the Anthropic API.", "all"),
        ("You have reached your specified workspace API usage limits.", "all"),
        ("Invalid prompt: 'insufficient_quota. Your credit balance is too low'", "row"),
    ],
)
def test_an_empty_account_is_told_from_a_prompt_that_speaks_of_one(said: str, kind: str) -> None:
    error = of_status(400, {}, json.dumps({"error": {"message": said, "code": None}}).encode(), lambda status: None).error or {}
    assert error["kind"] == kind
    assert error.get("hint") == ("the account has no credit left" if kind == "all" else None)


@pytest.mark.parametrize(
    "body", [b"", b"<h1>Bad gateway</h1>", b"[1]", b'"x"', b"{}", b'{"error": "x"}', b'{"detail": [{"loc": 1}]}', b"\xff" * 9]
)
def test_an_error_that_says_nothing_usable_is_still_one_line(body: bytes) -> None:
    error = of_status(502, {}, body, lambda status: None).error or {}
    assert error["kind"] == "transient"
    assert error["message"].endswith("HTTP 502") or error["message"].endswith("(HTTP 502)")
    assert "\n" not in error["message"]


def test_a_date_counts_by_the_clock_of_the_server_that_tells_it() -> None:
    now = time.time() - 5000
    headers = {"date": email.utils.formatdate(now, usegmt=True), "retry-after": email.utils.formatdate(now + 40, usegmt=True)}
    assert retry_after(headers) == 40


def test_retry_after_as_a_date() -> None:
    wait = retry_after({"retry-after": email.utils.formatdate(time.time() + 30, usegmt=True)})
    assert wait is not None
    assert 25 < wait <= 30


# --- what the network does ---------------------------------------------------------------------------------------------


def asked(llm: OpenAI, **request: Any) -> Reply:
    """The reply to one request, on an event loop of its own."""

    async def ask() -> Reply:
        try:
            return await llm.complete(Request(({"role": "user", "content": "hi"},), **request))
        finally:
            await llm.aclose()

    return asyncio.run(ask())


def test_an_answer_of_ten_megabytes_is_one(server: OpenAIServer) -> None:
    server.fail("huge")
    assert len(asked(OpenAI("m", base_url=server.base_url)).text or "") == HUGE


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("invalid_json", "the server's answer is no chat completion"),
        ("truncated", "the server's answer is no chat completion"),
        ("html", "the server's answer is no chat completion"),
        ("close", "the connection broke off"),
        ("reset", "the connection broke off"),
        ("hang", "the server took too long"),
        ("endless", "the answer is longer than 1 MB"),
    ],
)
def test_a_broken_answer_may_be_asked_for_again(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, fault: str, message: str) -> None:
    monkeypatch.setattr(http, "LONGEST", 2**20)
    server.fail(fault)
    error = asked(OpenAI("m", base_url=server.base_url, timeout=0.2 if fault == "hang" else 60)).error or {}
    assert (error["kind"], error["message"]) == ("transient", message)
    assert bool(error.get("no_completion")) == message.endswith("completion")
    assert not error.get("unreachable")


def test_each_request_has_its_own_time_and_one_that_is_cancelled_stays_so(server: OpenAIServer) -> None:
    server.fail("hang", "hang", "hang")
    llm = OpenAI("m", base_url=server.base_url, timeout=1.5)
    request = Request(({"role": "user", "content": "hi"},))

    async def ask() -> tuple[float, float]:
        first = asyncio.create_task(llm.complete(request))
        await asyncio.sleep(0.8)
        began = time.monotonic()
        second, third = asyncio.create_task(llm.complete(request)), asyncio.create_task(llm.complete(request))
        replies = [await first]
        early = time.monotonic() - began
        third.cancel()
        with pytest.raises(asyncio.CancelledError):
            await third
        replies.append(await second)
        assert [(reply.error or {})["message"] for reply in replies] == ["the server took too long"] * 2
        assert (await llm.complete(request)).text  # nothing of the late ones is left
        late = time.monotonic() - began
        await llm.aclose()
        return early, late

    early, late = asyncio.run(ask())
    assert early < 1.5 <= late


def test_an_answer_that_leads_elsewhere_is_not_followed(server: OpenAIServer) -> None:
    server.fail("redirect")
    error = asked(OpenAI("m", base_url=server.base_url)).error or {}
    assert (error["kind"], error["status"]) == ("all", 307)
    assert "http://127.0.0.1:9/elsewhere" in error["message"]
    assert server.calls == 1


def test_an_unknown_host_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = asked(OpenAI("m", base_url="http://nowhere.invalid/v1")).error or {}
    assert error["unreachable"]
    assert error["hint"] == "is a server running at http://nowhere.invalid/v1?"


def test_a_closed_port_cannot_be_reached() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = asked(OpenAI("m", base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")).error or {}
    assert (error["kind"], error["unreachable"]) == ("transient", True)


def test_a_proxy_of_the_environment_counts(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://me:open-sesame@127.0.0.1:{server.port}")
    llm = OpenAI("m", base_url="http://models.invalid/v1")
    assert asked(llm).error is None
    [request] = server.requests
    assert request["http"]["headers"]["Host"] == "models.invalid"
    assert base64.b64decode(request["http"]["headers"]["Proxy-Authorization"].removeprefix("Basic ")) == b"me:open-sesame"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert asked(OpenAI("m", base_url=server.base_url)).error is None
    assert "Proxy-Authorization" not in server.requests[1]["http"]["headers"]


def test_a_proxy_that_is_none_for_http_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(ModelError, match=r"none for HTTP.*https_proxy"):
        asked(OpenAI("m", api_key="sk-12345678"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_that_nobody_vouches_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*make, *names, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with OpenAIServer(ssl_context=context) as server:
        error = asked(OpenAI("m", base_url=server.base_url)).error or {}
        assert (error["kind"], error["message"]) == ("all", "the server's certificate is not to be trusted")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert asked(OpenAI("m", base_url=server.base_url)).error is None
    assert server.calls == 1


def test_the_official_client_is_asked_once_for_the_calls_of_a_session(
    engine: Engine, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, clients = OpenAI("m", base_url=server.base_url), []
    client = llm.client
    monkeypatch.setattr(llm, "client", lambda **options: clients.append(client(**options)) or clients[-1])
    assert len(llm.generate([str(number) for number in range(20)])) == 20
    llm.generate(["another"])
    assert len(clients) == 1


def test_what_the_headers_say_about_limits(server: OpenAIServer) -> None:
    llm = OpenAI("m", base_url=server.base_url)
    assert asked(llm).rate is None
    server.headers = {
        "x-ratelimit-limit-requests": "3000", "x-ratelimit-remaining-requests": "2999", "x-ratelimit-reset-requests": "1m2s",
    }  # fmt: skip
    assert asked(llm).rate == RateLimit(3000, 2999, 62.0)
    server.fail(429)
    refused = asked(llm)
    assert (refused.error or {})["status"] == 429
    assert refused.rate == RateLimit(3000, 2999, 62.0)
    server.headers["x-ratelimit-reset-requests"] = "soon"
    assert asked(llm).rate is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1s", 1), ("6m0s", 360), ("120ms", 0.12), ("1h2m3.5s", 3723.5), ("7", 7), ("1d", 86400), ("2020-01-01T00:00:00Z", 0)],
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


def test_a_time_counts_from_now() -> None:
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)
    assert 80 < seconds(then.strftime("%Y-%m-%dT%H:%M:%SZ")) <= 90


def test_who_asks_and_what_the_address_asks_for(server: OpenAIServer) -> None:
    asked(OpenAI("m", base_url=f"{server.base_url.replace('//', '//me:open-sesame@')}?tenant=1"))
    http = server.requests[0]["http"]
    assert http["query"] == {"tenant": "1"}
    assert base64.b64decode(http["headers"]["Authorization"].removeprefix("Basic ")) == b"me:open-sesame"
    assert http["headers"]["User-Agent"].startswith("nbdream/")
    assert not [name for name in http["headers"] if name.lower().startswith("x-stainless")]


def test_a_key_is_taken_without_its_line_end_and_refused_with_what_no_key_has(server: OpenAIServer) -> None:
    assert asked(OpenAI("m", base_url=server.base_url, api_key="sk-12345678\n")).error is None
    assert server.requests[0]["http"]["headers"]["Authorization"] == "Bearer sk-12345678"
    for key in ("sk-“12345678”", "sk-1234\n5678"):
        with pytest.raises(ModelError, match="holds characters that no key has"):
            asked(OpenAI("m", base_url=server.base_url, api_key=key))


@pytest.mark.parametrize("timeout", [0, -1, "5", True, float("nan")])
def test_a_time_out_is_a_number_of_seconds(timeout: Any) -> None:
    with pytest.raises(ArgumentError, match="timeout is"):
        OpenAI("m", timeout=timeout)


# --- replies of a form -------------------------------------------------------------------------------------------------

POINT = {
    "title": "A Point",
    "type": "object",
    "properties": {"x": {"type": "integer"}, "name": {"type": "string", "default": ""}},
    "required": ["x"],
}


def test_a_schema_goes_to_a_server_of_ones_own_as_it_is(server: OpenAIServer) -> None:
    asked(OpenAI("m", base_url=server.base_url), schema=POINT)
    told = {"name": "A_Point", "strict": True, "schema": POINT}
    assert server.requests[0]["response_format"] == {"type": "json_schema", "json_schema": told}


def test_a_schema_goes_to_openai_as_a_strict_one() -> None:
    llm = OpenAI("gpt-4o-mini")
    told = llm.body(Request(ASK.messages, schema=POINT))["response_format"]["json_schema"]
    assert told["strict"]
    assert told["schema"] == {
        "title": "A Point",
        "type": "object",
        "properties": {"x": {"type": "integer"}, "name": {"type": "string"}},
        "required": ["x", "name"],
        "additionalProperties": False,
    }
    assert llm.body(Request(ASK.messages, schema=POINT))["response_format"]["json_schema"] is told
    assert "response_format" not in llm.body(Request(ASK.messages))


def test_a_schema_that_leaves_something_open_is_not_called_strict() -> None:
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    told = OpenAI("gpt-4o-mini").body(Request(ASK.messages, schema=schema))["response_format"]["json_schema"]
    assert told == {"name": "reply", "strict": False, "schema": schema}


def test_a_schema_and_a_response_format_exclude_each_other() -> None:
    llm = OpenAI("gpt-4o-mini")
    for given in ({"response_format": {"type": "json_object"}}, {"extra": {"response_format": {"type": "json_object"}}}):
        with pytest.raises(ArgumentError, match="both a schema and response_format"):
            llm.requests(["a"], schema=POINT, **given)
    [request] = llm.requests(["a"], response_format={"type": "json_object"}, system="s", seed=1)
    assert llm.body(request)["response_format"] == {"type": "json_object"}
    with pytest.raises(ArgumentError, match="both a schema and"):
        OpenAI("gpt-4o-mini", response_format={"type": "json_object"}).requests(["a"], schema=POINT)


# --- what a person calls ------------------------------------------------------------------------------------------------


def test_calls_need_a_session() -> None:
    with pytest.raises(SessionError, match="no session is open"):
        EchoLLM()("hi")


def test_calling_a_model(engine: Engine) -> None:
    echo = EchoLLM()
    assert echo("hi") == "hi"
    assert echo.generate(["a", "b"]) == ["a", "b"]
    assert echo.run(["a", "b"], n=2) == [["a", "a (draw 2)"], ["b", "b (draw 2)"]]
    generator = echo.run((prompt for prompt in "ab"), return_generator=True, total_num_prompts=2, progress_interval=60)
    assert next(generator) == "a"
    assert list(generator) == ["b"]
    assert echo.run(["one two three"], max_new_tokens=2, repetition_penalty=1.2) == ["one two"]
    assert echo("hi", seed=3) == "hi (seed 3)"
    assert echo("hi", system="x") == "hi"


def test_run_can_ask_again_and_can_ask_nothing(engine: Engine, server: OpenAIServer) -> None:
    llm = OpenAI("m", base_url=server.base_url)
    first = llm("hi")
    assert llm("hi") == first
    assert llm.run(["hi"], force=True) != [first]
    assert llm.run(["hi"], cache_only=True) == [first]
    assert server.calls == 2


def test_a_failed_prompt_is_one_line_and_the_others_are_kept(engine: Engine, server: OpenAIServer) -> None:
    server.fails = lambda body: "content_filter" if "bad" in body["messages"][-1]["content"] else None
    llm = OpenAI("m", base_url=server.base_url)
    with pytest.raises(ModelError, match="prompt 1 failed: the provider's content filter"):
        llm.generate(["a", "bad", "b"])
    with pytest.raises(ModelError, match="2 of 3 prompts failed; the first, number 1"):
        llm.generate(["a", "bad", "bad 2"])
    assert server.calls == 4


def test_a_model_of_a_cell(engine: Engine) -> None:
    class Shout(LLM):
        async def complete(self, request: Request) -> Reply:
            return Reply(request.prompt.upper())

    class ShoutTogether(LLM):
        async def complete_batch(self, requests: list[Request]) -> list[Reply]:
            return [Reply(request.prompt.upper()) for request in requests]

    class Nothing(LLM):
        pass

    assert Shout().generate(["a", "b"]) == ShoutTogether().generate(["a", "b"]) == ["A", "B"]
    assert Shout().display_name == "Shout"
    with pytest.raises(NotImplementedError, match="neither complete nor complete_batch"):
        Nothing()("a")


def test_echo_with_answers_is_a_pure_function() -> None:
    one, two = EchoLLM(answers=["Yes", "No"]), EchoLLM(answers=["Yes", "No", "Maybe"])
    assert one.identity != two.identity != EchoLLM().identity
    said = {one._text(Request(({"role": "user", "content": str(n)},))) for n in range(50)}
    assert said == {"Yes", "No"}


def test_counting_tokens_is_a_guess() -> None:
    assert EchoLLM().count_tokens("") == 0
    assert EchoLLM().count_tokens("four bytes each?") == 4


def test_the_card_claims_nothing() -> None:
    assert OpenAI("gpt-test").card == {
        "kind": "OpenAI",
        "name": "gpt-test",
        "card_url": "https://platform.openai.com/docs/models/gpt-test",
        "license": None,
        "citation": None,
    }
    assert OpenAI("gpt-test", base_url="http://127.0.0.1:1/v1").card["card_url"] is None


@pytest.mark.parametrize("stored", [{}, {"text": 3}, {"error": {}}, {"error": "x"}, {"text": "a", "usage": 3}, {"error": {"message": 1}}])
def test_what_is_stored_and_no_reply_is_refused(stored: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a reply"):
        Reply.from_json(stored)


def test_a_reply_survives_being_stored() -> None:
    said = Reply("a", usage={"input_tokens": 1}, model="m", finish_reason="stop", made="now")
    for reply in (said, failure("row", "no", 400, said="half")):
        back = Reply.from_json(reply.to_json())
        assert back.cached
        back.cached = False
        assert back == reply


# --- provider/model -----------------------------------------------------------------------------------------------------


def test_models_by_name() -> None:
    gpt = resolve_llm("openai/gpt-4o-mini", temperature=0.7)
    assert isinstance(gpt, OpenAI)
    assert (gpt.model_name, gpt.defaults) == ("gpt-4o-mini", {"temperature": 0.7})
    assert isinstance(resolve_llm("echo/echo"), EchoLLM)
    assert resolve_llm("openai/org/model", base_url="http://127.0.0.1:1/v1").model_name == "org/model"


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("opnai/gpt-4o", "did you mean 'openai'"),
        ("gpt-4o-mini", "did you mean 'openai/gpt-4o-mini'"),
        ("claude-haiku-4-5", "did you mean 'anthropic/claude-haiku-4-5'"),
        ("anthropic", "for example anthropic/claude-haiku-4-5"),
        ("nonsense", "provider/model"),
        ("openai/", "for example openai/gpt-4o-mini"),
        ("openai", "for example openai/gpt-4o-mini"),
        ("", "provider/model"),
        ("xyz/abc", "the providers are one of: anthropic, demo, echo, hf, openai"),
    ],
)
def test_an_unknown_model_gets_one_line_with_a_hint(spec: str, hint: str) -> None:
    with pytest.raises(ModelError, match=hint) as caught:
        resolve_llm(spec)
    assert "-m demo" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_option_of_a_named_model() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'temperature'"):
        resolve_llm("openai/gpt-4o", temprature=1)


def test_exports() -> None:
    assert set(llms.__all__) <= set(dir(llms))
    for name in llms.__all__:
        assert getattr(llms, name) is not None
    with pytest.raises(AttributeError, match="OpenIA"):
        llms.OpenIA  # noqa: B018


def test_the_same_key_however_it_is_asked(engine: Engine) -> None:
    one, two = OpenAI("m", temperature=0.5, system_prompt="s"), OpenAI("m")
    [a], [b] = one.requests(["hi"]), two.requests(["hi"], system="s", temperature=0.5)
    assert call_key(one.identity, a) == call_key(two.identity, b)


def test_one_model_in_two_sessions(tmp_path: Path, server: OpenAIServer) -> None:
    llm = OpenAI("m", base_url=server.base_url)
    for name in ("one", "two"):
        running = Engine(CallCache(tmp_path / name / "calls.sqlite"))
        assert len(list(running.stream(llm, llm.requests(["a"])))) == 1
        if name == "two":
            running.stop()
        else:
            first = running
    first.stop()
    assert server.calls == 2


def test_the_model_in_the_box_by_name() -> None:
    demo = resolve_llm("demo", temperature=0.5)
    assert demo.display_name == "demo"
    assert demo.settings() == {"temperature": 0.5}
