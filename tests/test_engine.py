"""The engine: every reply paid for once, in row order, and on disk before it counts."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbdream import secrets
from nbdream.cache import CallCache
from nbdream.engine import Engine, Patience, Progress, call_key, commits
from nbdream.engine.keys import Draws
from nbdream.engine.lanes import GIVEN_UP
from nbdream.engine.limits import FIRST
from nbdream.engine.retry import REFUSED
from nbdream.engine.stream import Stream
from nbdream.errors import ArgumentError, BrokenFileError, ModelError, SessionError, Stopped
from nbdream.llms import EchoLLM, OpenAI
from nbdream.llms.base import LLM, Reply, Request, failure
from tests.servers.openai_server import OpenAIServer

QUICK = Patience(first=0.01, most=0.02, strange_seconds=1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[], Engine]]:
    """Starts engines on the same folder, as kernels do one after the other."""
    engines = []

    def make() -> Engine:
        engines.append(Engine(CallCache(folder / "calls.sqlite"), patience=QUICK))
        engines[-1].start()
        return engines[-1]

    yield make
    for engine in engines:
        engine.stop()


@pytest.fixture
def engine(start: Callable[[], Engine]) -> Engine:
    return start()


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as serving:
        yield serving


def model(server: OpenAIServer, **options: Any) -> OpenAI:
    return OpenAI("gpt-test", base_url=server.base_url, **options)


def answers(
    engine: Engine, llm: LLM, prompts: Any, *, seed: int | None = None, params: dict[str, Any] | None = None, **options: Any
) -> list[list[Reply]]:
    return list(engine.stream(llm, llm.requests(prompts, seed=seed, **(params or {})), **options))


def texts(
    engine: Engine, llm: LLM, prompts: Any, *, seed: int | None = None, params: dict[str, Any] | None = None, **options: Any
) -> list[Any]:
    rows = answers(engine, llm, prompts, seed=seed, params=params, **options)
    return [[reply.text for reply in replies] if len(replies) > 1 else replies[0].text for replies in rows]


class Scripted(LLM):
    """Answers with what ``answer(request, number)`` gives, and counts."""

    identity: ClassVar[dict[str, Any]] = {"provider": "scripted"}  # type: ignore[misc]

    def __init__(self, answer: Callable[[Request, int], Reply], **options: Any) -> None:
        super().__init__("scripted", identity={"provider": "scripted"}, **options)
        self.answer = answer
        self.asked: list[Request] = []

    async def complete(self, request: Request) -> Reply:
        self.asked.append(request)
        return self.answer(request, len(self.asked))


class Batched(LLM):
    """Answers in batches, and notes them."""

    batch_size = 4

    def __init__(self) -> None:
        super().__init__("batched", identity="batched")
        self.batches: list[list[str]] = []
        self.running = 0

    async def complete_batch(self, requests: list[Request]) -> list[Reply]:
        assert self.running == 0
        self.running += 1
        await asyncio.sleep(0)
        self.batches.append([request.prompt for request in requests])
        self.running -= 1
        return [Reply(request.prompt.upper()) for request in requests]


# --- the key ------------------------------------------------------------------------------------------------------------

IDENTITY = {"provider": "openai", "base_url": "https://api.openai.com/v1", "model": "gpt-test"}
ASK = Request(({"role": "user", "content": "hi"},), {"temperature": 0.7, "stop": ["a"]})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def test_the_key_of_a_request_never_changes() -> None:
    text = (
        '{"messages":[{"content":"hi","role":"user"}],'
        '"model":{"base_url":"https://api.openai.com/v1","model":"gpt-test","provider":"openai"},'
        '"params":{"stop":["a"],"temperature":0.7},"seed":null}'
    )
    assert call_key(IDENTITY, ASK) == hashlib.sha256(text.encode()).hexdigest()[:32] + ":0"


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=5), json_values, max_size=5), st.randoms())
def test_order_and_ways_of_writing_do_not_count(params: dict[str, Any], random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = list(value.items())
            random.shuffle(items)
            return {key: shuffled(part) for key, part in items}
        if isinstance(value, list):
            return tuple(shuffled(part) for part in value)
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    other = {**shuffled(params), "never given": None}
    assert call_key(IDENTITY, dataclasses.replace(ASK, params=params)) == call_key(IDENTITY, dataclasses.replace(ASK, params=other))


@pytest.mark.parametrize(
    "change",
    [
        {"messages": ({"role": "user", "content": "hi "},)},
        {"messages": ({"role": "system", "content": "hi"},)},
        {"messages": ({"role": "system", "content": ""}, {"role": "user", "content": "hi"})},
        {"params": {"temperature": 0.8, "stop": ["a"]}},
        {"params": {"temperature": 0.7}},
        {"params": {"temperature": 0.7, "stop": ["a"], "extra": {"x": True}}},
        {"seed": 0},
        {"seed": 1},
        {"draw": 1},
    ],
)
def test_everything_else_counts(change: dict[str, Any]) -> None:
    assert call_key(IDENTITY, dataclasses.replace(ASK, **change)) != call_key(IDENTITY, ASK)
    assert call_key({**IDENTITY, "model": "other"}, ASK) != call_key(IDENTITY, ASK)


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 4))
def test_draws_are_the_running_count_of_identical_requests(prompts: list[str], draws: int) -> None:
    numbering = Draws(IDENTITY, draws)
    seen: Counter[str] = Counter()
    for prompt in prompts:
        request = Request(({"role": "user", "content": prompt},))
        first = seen[prompt] * draws
        keys = [call_key(IDENTITY, dataclasses.replace(request, draw=draw)) for draw in range(first, first + draws)]
        assert numbering.number(request) == list(zip(keys, range(first, first + draws), strict=True))
        seen[prompt] += 1


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 5))
def test_greedy_requests_are_one_request(rows: int, draws: int) -> None:
    request = Request(({"role": "user", "content": "x"},), {"temperature": 0.0})
    numbering = Draws(IDENTITY, draws)
    assert {pair for _ in range(rows) for pair in numbering.number(request)} == {(call_key(IDENTITY, request), 0)}


def test_an_attempt_has_keys_of_its_own() -> None:
    assert Draws(IDENTITY, 1, "2").number(ASK) == [(f"{call_key(IDENTITY, ASK)}:2", 0)]


def test_a_further_draw_is_sent_with_another_seed() -> None:
    seeds = [dataclasses.replace(ASK, seed=7, draw=draw).sampling_seed for draw in range(50)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 50
    assert all(seed is not None and 0 <= seed < 2**31 for seed in seeds)
    assert dataclasses.replace(ASK, draw=3).sampling_seed is None


# --- rows and what they cost --------------------------------------------------------------------------------------------


def test_rows_come_in_order_and_cost_nothing_again(engine: Engine, server: OpenAIServer, start: Callable[[], Engine]) -> None:
    prompts = [f"prompt {number}" for number in range(300)]
    first = texts(engine, model(server), prompts)
    assert [text.split(": ")[1] for text in first] == prompts
    assert server.calls == 300
    assert texts(engine, model(server), prompts) == first
    engine.stop()
    assert texts(start(), model(server), prompts) == first
    assert server.calls == 300
    texts(start(), model(server), [*prompts, "one more"])
    assert server.calls == 301


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_finishing_order_gives_row_order(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    prompts = data.draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=20))
    draws = data.draw(st.integers(1, 3))
    delays = data.draw(st.lists(st.integers(0, 3), min_size=len(prompts) * draws, max_size=len(prompts) * draws))

    class Slow(Scripted):
        async def complete(self, request: Request) -> Reply:
            await asyncio.sleep(delays[len(self.asked) % len(delays)] / 500)
            return await super().complete(request)

    llm = Slow(lambda request, _: Reply(f"{request.prompt}{request.draw}"))
    engine = Engine(CallCache(tmp_path_factory.mktemp("order") / "calls.sqlite"))
    try:
        rows = list(engine.stream(llm, llm.requests(prompts), draws=draws))
        seen: Counter[str] = Counter()
        for prompt, replies in zip(prompts, rows, strict=True):
            assert [reply.text for reply in replies] == [f"{prompt}{draw}" for draw in range(seen[prompt], seen[prompt] + draws)]
            seen[prompt] += draws
        assert len(llm.asked) == len(prompts) * draws
        assert list(engine.stream(llm, llm.requests(prompts), draws=draws)) == [
            [dataclasses.replace(reply, cached=True) for reply in replies] for replies in rows
        ]
    finally:
        engine.stop()


def test_draws_of_one_prompt_are_entries_of_their_own(engine: Engine, server: OpenAIServer) -> None:
    llm = model(server, temperature=1)
    twenty = texts(engine, llm, ["the same"] * 20)
    assert len(set(twenty)) == server.calls == 20
    assert texts(engine, llm, ["the same"] * 25)[:20] == twenty
    assert server.calls == 25
    # Asked as draws of one row, they are the same entries.
    assert texts(engine, llm, ["the same"], draws=25)[0][:20] == twenty
    assert server.calls == 25


def test_a_greedy_request_is_asked_once(engine: Engine, server: OpenAIServer) -> None:
    server.hold()
    results: list[Any] = []
    greedy = threading.Thread(target=lambda: results.extend(texts(engine, model(server), ["a"] * 700, params={"temperature": 0}, draws=2)))
    greedy.start()
    server.wait_for(1)
    server.release()
    greedy.join(20)
    assert server.calls == 1
    assert len({text for row in results for text in row}) == 1
    assert len(results) == 700


def test_a_greedy_request_that_was_answered_meanwhile_is_not_asked_again(
    engine: Engine, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, late = engine._cache.lookup, iter([False, True])

    def lookup(keys: Sequence[str]) -> dict[str, Any]:
        """The second look-up is one of a moment ago: since then the first row has its reply."""
        found = look(keys)
        if next(late, False):
            server.release()
            until = time.monotonic() + 10
            while not look(keys):
                assert time.monotonic() < until
        return found

    server.hold()
    monkeypatch.setattr(engine._cache, "lookup", lookup)
    assert len(set(texts(engine, model(server), ["a"] * 5, params={"temperature": 0}))) == 1
    assert server.calls == 1


def test_rows_that_are_there_and_others_come_in_order(engine: Engine) -> None:
    llm = Scripted(lambda request, number: Reply(f"{request.prompt}, at {number}"))
    prompts = [f"prompt {number}" for number in range(6000)]
    before = texts(engine, llm, prompts)
    chance = random.Random(0)
    edited = sorted(chance.sample(range(6000), 40)) + list(range(3000, 3005))  # in chunks of their own, and some in a row
    for number in edited:
        prompts[number] = f"edited {number}"
    after = texts(engine, llm, prompts)
    assert sorted(request.prompt for request in llm.asked[6000:]) == sorted({prompts[number] for number in edited})
    assert [text.split(",")[0] for text in after] == prompts
    assert [text for number, text in enumerate(after) if number not in set(edited)] == [
        text for number, text in enumerate(before) if number not in set(edited)
    ]
    # Closed in the middle of what is there, and begun again.
    part = engine.stream(llm, llm.requests(prompts))
    assert [replies[0].text for replies in itertools.islice(part, 2500)] == after[:2500]
    part.close()
    assert texts(engine, llm, prompts) == after


def test_replies_outlive_the_log_of_the_file(engine: Engine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut takes what the system has not written yet: the log, at the latest when the next replies go into the file."""
    monkeypatch.setattr(commits, "SETTLING", 0.05)
    texts(engine, EchoLLM(), ["a", "b", "c"])
    until = time.monotonic() + 10
    for number in itertools.count():
        copy = tmp_path / f"{number}.sqlite"
        shutil.copyfile(folder / "calls.sqlite", copy)
        with CallCache(copy) as found:
            if len(found) == 3:
                break
        assert time.monotonic() < until


def test_a_session_that_is_closed_while_stored_rows_are_read_ends_the_stream(engine: Engine) -> None:
    llm = EchoLLM()
    prompts = [f"prompt {number}" for number in range(3000)]
    texts(engine, llm, prompts)

    def closing() -> Iterator[str]:
        for number, prompt in enumerate(prompts):
            if number == 1500:
                engine.stop()
            yield prompt

    with pytest.raises(Stopped, match="the session was closed"):
        texts(engine, llm, closing())


def test_what_one_stream_has_in_flight_another_awaits(engine: Engine, server: OpenAIServer) -> None:
    server.hold()
    results: dict[int, list[Any]] = {}
    threads = [
        threading.Thread(target=lambda number=number: results.update({number: texts(engine, model(server), [str(n) for n in range(40)])}))
        for number in range(3)
    ]
    for thread in threads:
        thread.start()
    server.wait_for(1)
    server.release()
    for thread in threads:
        thread.join(20)
    assert server.calls == 40
    assert results[0] == results[1] == results[2]


def test_a_stopped_stream_hands_on_what_another_waits_for(engine: Engine, server: OpenAIServer) -> None:
    llm = model(server)
    texts(engine, llm, ["open the lanes"])
    server.hold()
    stop = threading.Event()
    caught: list[BaseException] = []

    def first() -> None:
        try:
            texts(engine, llm, [str(n) for n in range(100)], stop=stop, limit=10)
        except Stopped as error:
            caught.append(error)

    stopped = threading.Thread(target=first)
    stopped.start()
    server.wait_for(11)
    results: list[Any] = []
    going_on = threading.Thread(target=lambda: results.extend(texts(engine, llm, [str(n) for n in range(100)])))
    going_on.start()
    stop.set()
    stopped.join(10)
    assert caught
    server.release()
    going_on.join(20)
    assert [text.split(": ")[1] for text in results] == [str(n) for n in range(100)]
    assert server.calls <= 101 + 10  # those in flight may be paid twice, no other


def test_seed_and_attempt_ask_anew(engine: Engine, server: OpenAIServer) -> None:
    llm = model(server)
    texts(engine, llm, ["a"])
    texts(engine, llm, ["a"], seed=1)
    texts(engine, llm, ["a"], seed=1)
    assert server.calls == 2
    assert server.requests[1]["seed"] == 1
    texts(engine, llm, ["a"], attempt="2")
    texts(engine, llm, ["a"], attempt="2")
    assert server.calls == 3


def test_cache_only_asks_nothing(engine: Engine, server: OpenAIServer) -> None:
    llm = model(server)
    known = texts(engine, llm, ["a"])
    assert texts(engine, llm, ["a"], cache_only=True) == known
    with pytest.raises(ModelError, match="not stored"):
        texts(engine, llm, ["a", "b"], cache_only=True)
    assert server.calls == 1


def test_lanes_are_bounded(engine: Engine, server: OpenAIServer) -> None:
    server.latency = 0.02
    texts(engine, model(server), [f"a{n}" for n in range(100)])
    assert 2 < server.peak <= FIRST * 2
    server.peak = 0
    texts(engine, model(server, max_concurrency=3), [f"b{n}" for n in range(30)])
    assert server.peak == 3
    server.peak = 0
    texts(engine, model(server), [f"c{n}" for n in range(30)], limit=2)
    assert server.peak == 2
    server.peak = 0
    texts(engine, model(server), [f"d{n}" for n in range(200)], limit=60)
    assert 30 < server.peak <= 60


def test_a_local_model_gets_one_batch_at_a_time(engine: Engine) -> None:
    llm = Batched()
    assert texts(engine, llm, list("abcdefghij")) == list("ABCDEFGHIJ")
    assert [len(batch) for batch in llm.batches] == [4, 4, 2]
    assert texts(engine, llm, list("klmnop"), limit=3) == list("KLMNOP")
    assert [len(batch) for batch in llm.batches[3:]] == [3, 3]


def test_a_slow_source_is_not_waited_for(engine: Engine, server: OpenAIServer) -> None:
    llm = model(server)

    def source() -> Iterator[Request]:
        for number, request in enumerate(llm.requests([str(n) for n in range(6)])):
            if number:
                server.wait_for(number)  # the ones before are on their way while this one is being made
                time.sleep(0.06)
            yield request

    assert len(list(engine.stream(llm, source()))) == 6


def test_a_long_stream_keeps_a_bounded_window(engine: Engine) -> None:
    taken = itertools.count()
    llm = EchoLLM()

    def source() -> Iterator[str]:
        for number in range(20_000):
            next(taken)
            yield str(number)

    stream = engine.stream(llm, llm.requests(source()))
    for _ in range(10):
        next(stream)
    assert next(taken) < 5000
    stream.close()


def test_the_collector_spares_what_was_there_only_while_a_cell_waits(engine: Engine) -> None:
    llm, often = EchoLLM(), gc.get_threshold()

    def frozen() -> list[bool]:
        return [gc.get_freeze_count() > 0 for _ in engine.stream(llm, llm.requests(["a", "b"]))]

    assert frozen() == [True, True]
    assert gc.get_freeze_count() == 0
    stream = engine.stream(llm, llm.requests(["a", "b"]))
    next(stream)
    stream.close()
    assert gc.get_freeze_count() == 0
    with ThreadPoolExecutor(1) as beside:
        assert beside.submit(frozen).result() == [False, False]
    gc.freeze()  # by the user, before a fork say
    try:
        assert frozen() == [True, True]
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()
    assert gc.get_threshold() == often


def test_progress_counts_replies(engine: Engine, server: OpenAIServer) -> None:
    llm = model(server)
    texts(engine, llm, ["a", "b"])
    server.fails = lambda body: 400 if body["messages"][-1]["content"] == "bad" else None
    seen: list[Progress] = []
    texts(engine, llm, ["a", "b", "c", "bad"], on_progress=seen.append, total=4)
    last = seen[-1]
    assert (last.total, last.done, last.cached, last.new, last.failed, last.in_flight) == (4, 4, 2, 1, 1, 0)
    assert last.input_tokens > 0
    assert last.output_tokens > 0
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)


@pytest.mark.parametrize(("options", "said"), [({"draws": 0}, "n is 0"), ({"limit": 0}, "at a time is 0")])
def test_bad_numbers_are_refused_at_once(engine: Engine, options: dict[str, int], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        engine.stream(EchoLLM(), [], **options)


def test_an_error_in_the_source_arrives(engine: Engine, server: OpenAIServer) -> None:
    llm = model(server)

    def source() -> Iterator[Request]:
        yield from llm.requests(["a"])
        raise ColumnMissing

    class ColumnMissing(Exception):
        pass

    with pytest.raises(ColumnMissing):
        list(engine.stream(llm, source()))


# --- what goes wrong ------------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_asked_once(engine: Engine, server: OpenAIServer) -> None:
    server.key = "sk-the-right-one"
    llm = model(server, api_key="sk-a-wrong-key-of-mine", max_concurrency=200)
    with pytest.raises(ModelError, match=r"Incorrect API key.*OPENAI_API_KEY") as caught:
        texts(engine, llm, [str(n) for n in range(1000)])
    assert server.calls == 1
    assert "sk-a-wrong-key-of-mine" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_streams_with_a_wrong_key_ask_once(engine: Engine, server: OpenAIServer) -> None:
    server.key = "sk-the-right-one"
    server.hold()
    llm = model(server, api_key="sk-a-wrong-key-of-mine")
    errors: list[BaseException] = []

    def ask(prompt: str) -> None:
        try:
            texts(engine, llm, [prompt])
        except ModelError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in "ab"]
    for thread in threads:
        thread.start()
    server.wait_for(1)
    while len(engine._pending) < 2:
        time.sleep(0.01)
    server.release()
    for thread in threads:
        thread.join(10)
    assert len(errors) == 2
    assert server.calls == 1


@pytest.mark.parametrize(("fault", "said"), [(403, "may not use"), (404, "does not exist"), ("quota", "no credit left")])
def test_what_every_request_would_meet_ends_the_run(engine: Engine, server: OpenAIServer, fault: Any, said: str) -> None:
    server.always = fault
    with pytest.raises(ModelError, match=said):
        texts(engine, model(server), [str(n) for n in range(100)])
    assert server.calls == 1


def test_a_key_that_is_withdrawn_ends_the_run_and_loses_nothing(engine: Engine, server: OpenAIServer) -> None:
    server.fails = lambda body: 401 if server.answered >= 50 else None
    llm = model(server, max_concurrency=5)
    with pytest.raises(ModelError, match="Incorrect API key"):
        texts(engine, llm, [str(n) for n in range(100)])
    server.fails = lambda body: None
    kept, before = len(engine._cache), server.calls
    assert 50 - 5 <= kept < 50 + 5  # five lanes
    texts(engine, llm, [str(n) for n in range(100)])
    # A request of the first run that was called off may reach the server only now: one a lane at most.
    assert 100 - kept <= server.calls - before <= 100 - kept + 5


def test_an_unreachable_server_is_given_up_soon(engine: Engine) -> None:
    llm = OpenAI("gpt-test", base_url="http://127.0.0.1:9/v1")
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"cannot be reached \(is a server running at http://127.0.0.1:9/v1\?\)"):
        texts(engine, llm, [str(n) for n in range(100)])
    assert time.monotonic() - began < 10


def test_an_unknown_host_is_given_up_soon(engine: Engine) -> None:
    with pytest.raises(ModelError, match="cannot be reached"):
        texts(engine, OpenAI("gpt-test", base_url="http://no-such-host.invalid/v1"), ["a"])


def test_a_missing_key_needs_no_call_and_the_hint_helps(engine: Engine) -> None:
    with pytest.raises(ModelError, match=r"OPENAI_API_KEY is not set.*-m demo"):
        texts(engine, OpenAI("gpt-test"), ["a"])


@pytest.mark.parametrize("fault", [408, 409, 429, 500, 503, "reset", "truncated", "html", (400, {"x-should-retry": "true"})])
def test_what_passes_is_asked_again_and_only_that_row(engine: Engine, server: OpenAIServer, fault: Any) -> None:
    llm = model(server)
    texts(engine, llm, ["open the lanes"])
    server.fail(fault, fault)
    assert len(texts(engine, llm, [str(n) for n in range(20)])) == 20
    assert server.calls == 1 + 20 + 2


@pytest.mark.parametrize("fault", [400, 422, 413, "content_filter", "refusal", "no_text", (500, {"x-should-retry": "false"})])
def test_a_refused_row_fails_alone_and_stays_refused(engine: Engine, server: OpenAIServer, fault: Any) -> None:
    llm = model(server)
    server.fails = lambda body: fault if body["messages"][-1]["content"] == "bad" else None
    rows = list(engine.stream(llm, llm.requests(["a", "bad", "b"])))
    assert [bool(replies[0].error) for replies in rows] == [False, True, False]
    assert server.calls == 3
    again = list(engine.stream(llm, llm.requests(["a", "bad", "b"])))
    assert again[1][0].error == rows[1][0].error
    assert server.calls == 3
    server.fails = lambda body: None
    mended = list(engine.stream(llm, llm.requests(["a", "bad", "b"]), retry_failed=True))
    assert mended[1][0].error is None
    assert server.calls == 4
    assert not answers(engine, llm, ["bad"])[0][0].error
    assert server.calls == 4


def test_a_failure_says_what_the_model_said(engine: Engine, server: OpenAIServer) -> None:
    server.always = "refusal"
    llm = model(server)
    [[reply]] = engine.stream(llm, llm.requests(["a"]))
    assert reply.error == {"kind": "row", "message": "the model refused", "status": None}
    assert reply.text == "I cannot help with that."


def test_what_does_not_pass_fails_unstored(engine: Engine, server: OpenAIServer) -> None:
    llm = model(server)
    server.fails = lambda body: 500 if body["messages"][-1]["content"] == "bad" else None
    rows = list(engine.stream(llm, llm.requests(["a", "bad", "b"])))
    assert rows[1][0].error["kind"] == "transient"
    assert server.calls == 2 + QUICK.tries
    server.fails = lambda body: None
    assert not answers(engine, llm, ["bad"])[0][0].error


def test_a_server_that_never_answers_well_ends_the_run(engine: Engine, server: OpenAIServer) -> None:
    server.always = 500
    with pytest.raises(ModelError, match="fault 500"):
        texts(engine, model(server), [str(n) for n in range(100)])
    assert server.calls == GIVEN_UP * QUICK.strange_tries


def test_retry_on_fail_can_be_switched_off(engine: Engine, server: OpenAIServer) -> None:
    llm = model(server, retry_on_fail=False)
    texts(engine, llm, ["open the lanes"])
    server.always = 500
    assert answers(engine, llm, ["a"])[0][0].error["status"] == 500
    assert server.calls == 2


def test_retry_after_is_honoured(engine: Engine, server: OpenAIServer) -> None:
    server.fail((429, {"Retry-After": "0.4"}))
    began = time.monotonic()
    texts(engine, model(server), ["a"])
    assert 0.4 <= time.monotonic() - began < 5
    assert server.calls == 2


def test_twenty_same_refusals_stop_and_the_twenty_first_does_not_matter(engine: Engine, server: OpenAIServer) -> None:
    server.always = 400
    with pytest.raises(ModelError, match=r"first 20 replies.*fault 400"):
        texts(engine, model(server, max_concurrency=4), [str(n) for n in range(1000)])
    assert server.calls <= 24
    server.always = None
    server.fails = lambda body: 400 if body["messages"][-1]["content"] != "good" else None
    llm = model(server, max_concurrency=1)
    rows = list(engine.stream(llm, llm.requests([*(f"bad {n}" for n in range(19)), "good", "bad 19", "bad 20"])))
    assert [bool(replies[0].error) for replies in rows] == [True] * 19 + [False, True, True]


def test_refusals_that_differ_do_not_stop(engine: Engine) -> None:
    llm = Scripted(lambda request, number: failure("row", f"refused for {'abc'[number % 3]}", 400))
    assert len(list(engine.stream(llm, llm.requests([str(n) for n in range(40)])))) == 40


def test_a_bug_in_a_provider_is_seen_whole(engine: Engine) -> None:
    def broken(request: Request, number: int) -> Reply:
        raise ZeroDivisionError

    llm = Scripted(broken)
    with pytest.raises(ZeroDivisionError):
        texts(engine, llm, [str(n) for n in range(50)])
    assert texts(engine, EchoLLM(), ["still works"]) == ["still works"]


def test_a_broken_value_names_the_file(engine: Engine, folder: Path) -> None:
    llm = EchoLLM()
    request = next(llm.requests(["a"]))
    engine._cache.put([(call_key(llm.identity, request), {"text": 3})])
    with pytest.raises(BrokenFileError, match=r"calls\.sqlite"):
        texts(engine, llm, ["a"])


def test_a_full_disk_ends_the_run_with_one_line(engine: Engine) -> None:
    pages = engine._cache._writer.ask("PRAGMA page_count")[0]
    engine._cache._writer.ask(f"PRAGMA max_page_count = {pages + 3}")
    llm = EchoLLM()
    with pytest.raises(SessionError, match="is full"):
        texts(engine, llm, [f"{n} {'x' * 500}" for n in range(500)])
    kept = len(engine._cache)
    engine._cache._writer.ask("PRAGMA max_page_count = 1000000")
    seen: list[Progress] = []
    texts(engine, llm, [f"{n} {'x' * 500}" for n in range(500)], on_progress=seen.append)
    assert seen[-1].cached == kept


errors = st.fixed_dictionaries(
    {"kind": st.just("transient"), "message": st.just("m"), "status": st.sampled_from([None, 429, 500])},
    optional={"retry_after": st.none() | st.floats(0, 2000), "unreachable": st.booleans()},
)


@settings(deadline=None)
@given(errors, st.booleans(), st.floats(0, 1))
def test_patience_ends_and_never_asks_too_early(error: dict[str, Any], answered: bool, luck: float) -> None:
    patience = Patience()
    elapsed, waits = 0.0, []
    for tries in range(1, 1000):
        wait = patience.wait(error, tries, elapsed, answered, lambda: luck)
        if wait is None:
            break
        assert wait >= min(patience.first, patience.most) / 2
        assert wait >= (error.get("retry_after") or 0)
        if not error.get("retry_after"):
            assert wait <= patience.most
        waits.append(wait)
        elapsed += wait
    assert len(waits) < 999
    if not error.get("retry_after"):
        assert waits == sorted(waits)
    if error.get("unreachable") and not answered:
        assert elapsed <= patience.strange_seconds
    elif (error.get("retry_after") or 0) <= patience.longest:
        if error["status"] in REFUSED and answered:  # a refusal counts no try, only time
            assert elapsed >= patience.limited_seconds
        else:
            tries = patience.lost_tries if error.get("unreachable") else patience.tries
            assert len(waits) == (tries if answered else patience.strange_tries) - 1


# --- credentials --------------------------------------------------------------------------------------------------------


# --- replies that are mended before they count ------------------------------------------------------------------------


def even(request: Request, reply: Reply, tries: int) -> Request | None:
    """A rule that takes replies of an even number, and asks twice more for one."""
    if int(str(reply.text)) % 2 == 0:
        return None
    if tries == 3:
        reply.error = {"kind": "row", "message": "odd to the end", "status": None}
        return None
    more = ({"role": "assistant", "content": str(reply.text)}, {"role": "user", "content": "an even one"})
    return dataclasses.replace(request, messages=(*request.messages, *more))


def number_of(body: dict[str, Any], count: int) -> str:
    """The number in the first message, and one more for each time that it was sent back."""
    first, *rest = body["messages"]
    return str(int(first["content"]) + len(rest) // 2 * (0 if first["content"] == "7" else 1))


def test_a_reply_is_mended_and_what_it_took_is_counted_once(start: Callable[[], Engine], server: OpenAIServer) -> None:
    server.reply = number_of
    llm = model(server)
    for cached in (False, True):
        engine = start()
        rows = [reply for (reply,) in engine.stream(llm, llm.requests(["1", "2", "3", "4"]), review=even)]
        assert [reply.text for reply in rows] == ["2", "2", "4", "4"]
        assert [len(reply.earlier) for reply in rows] == [1, 0, 1, 0]
        assert all(reply.cached is cached for reply in rows)
        assert all(earlier.cached is cached for reply in rows for earlier in reply.earlier)
        assert server.calls == 6
        engine.stop()


def test_a_reply_that_cannot_be_mended_fails_with_what_was_said_and_is_asked_again_only_on_request(
    start: Callable[[], Engine], server: OpenAIServer
) -> None:
    server.reply = number_of
    llm = model(server)

    def asked(**options: Any) -> tuple[list[Reply], int]:
        engine, before = start(), server.calls
        rows = [reply for (reply,) in engine.stream(llm, llm.requests(["7", "8"]), review=even, **options)]
        engine.stop()
        return rows, server.calls - before

    rows, calls = asked()
    assert calls == 4
    assert rows[0].error is not None
    assert (rows[0].error["message"], rows[0].text, len(rows[0].earlier)) == ("odd to the end", "7", 2)
    assert rows[1].text == "8"
    assert asked()[1] == 0
    assert asked(retry_failed=True)[1] == 1
    server.reply = lambda body, count: "10"
    rows, calls = asked(retry_failed=True)
    assert (calls, rows[0].text, rows[0].error) == (1, "10", None)
    assert asked()[1] == 0


def test_one_reply_serves_those_who_mend_it_and_those_who_do_not(engine: Engine, server: OpenAIServer) -> None:
    server.reply = number_of
    llm = model(server)
    server.hold()
    mended, plain = [], []
    first = threading.Thread(target=lambda: mended.extend(engine.stream(llm, llm.requests(["1"]), review=even)))
    second = threading.Thread(target=lambda: plain.extend(engine.stream(llm, llm.requests(["1"]))))
    first.start()
    server.wait_for(1)
    second.start()
    server.release()
    first.join()
    second.join()
    assert (mended[0][0].text, plain[0][0].text, server.calls) == ("2", "1", 2)


def test_a_prompt_with_a_credential_is_never_sent(engine: Engine, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "tok-12345678")
    llm = model(server)
    with pytest.raises(ArgumentError, match="prompt 1 contains SOME_SERVICE_TOKEN") as caught:
        texts(engine, llm, ["fine", "my token is tok-12345678."])
    assert "tok-12345678" not in str(caught.value)
    assert not any("tok-12345678" in str(prompt) for prompt in server.prompts)
    with pytest.raises(ArgumentError, match="SOME_SERVICE_TOKEN"):
        texts(engine, llm, ["fine"], params={"extra": {"user": "tok-12345678"}})


def test_a_credential_in_a_reply_is_replaced_before_it_is_stored(engine: Engine, folder: Path) -> None:
    secrets.remember("sk-echoed-by-the-server")
    llm = Scripted(lambda request, number: Reply("your key is sk-echoed-by-the-server!"))
    assert texts(engine, llm, ["a"]) == ["your key is ***!"]
    bad = Scripted(lambda request, number: failure("row", "refused sk-echoed-by-the-server", 400))
    assert answers(engine, bad, ["b"])[0][0].error["message"] == "refused ***"
    engine.stop()
    assert not [path for path in folder.rglob("*") if path.is_file() and b"sk-echoed" in path.read_bytes()]


def test_half_a_character_in_a_reply_becomes_one_that_can_be_stored(engine: Engine) -> None:
    assert texts(engine, Scripted(lambda request, number: Reply("a\ud800b")), ["a"]) == ["a?b"]


# --- stopping and dying -------------------------------------------------------------------------------------------------


def test_stop_returns_within_a_second_and_keeps_what_has_arrived(engine: Engine, server: OpenAIServer) -> None:
    server.fails = lambda body: "hang" if int(body["messages"][-1]["content"]) >= 60 else None
    llm = model(server, max_concurrency=10)
    stop = threading.Event()
    stream = engine.stream(llm, llm.requests([str(n) for n in range(500)]), stop=stop)
    taken = [next(stream) for _ in range(60)]
    stop.set()
    began = time.monotonic()
    with pytest.raises(Stopped, match="costs nothing"):
        next(stream)
    assert time.monotonic() - began < 1
    assert len(engine._cache) == len(taken) == 60


def test_an_interrupt_returns_within_a_second(engine: Engine, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.fails = lambda body: "hang" if int(body["messages"][-1]["content"]) >= 30 else None
    llm = model(server, max_concurrency=10)
    stream = engine.stream(llm, llm.requests([str(n) for n in range(500)]))
    for _ in range(30):
        next(stream)
    pressed: list[float] = []
    waiting = threading.Event()
    wait = Stream.wait

    def press() -> None:
        waiting.wait(10)
        pressed.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    monkeypatch.setattr(Stream, "wait", lambda *args: (waiting.set(), wait(*args)))
    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert time.monotonic() - pressed[0] < 1
    assert len(engine._cache) == 30


def test_what_is_in_flight_when_a_run_ends_is_kept_if_it_arrives_soon(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbdream.engine.engine.GRACE", 10)  # however slow the machine
    under_way: list[Request] = []
    all_are = asyncio.Event()

    class Failing(Scripted):
        async def complete(self, request: Request) -> Reply:
            if request.prompt == "first" or all_are.is_set():
                return Reply("asked later")
            under_way.append(request)
            if len(under_way) == 4:
                all_are.set()
            await all_are.wait()
            if request.prompt == "3":
                return failure("all", "no more of that", 403)
            await asyncio.sleep(0.1)
            return Reply(f"late {request.prompt}")

    llm = Failing(lambda request, number: Reply(None), max_concurrency=4)
    texts(engine, llm, ["first"])
    with pytest.raises(ModelError, match="no more of that"):
        texts(engine, llm, [str(n) for n in range(50)])
    assert texts(engine, llm, [str(n) for n in range(5)]) == ["late 0", "late 1", "late 2", "asked later", "asked later"]


def test_closing_the_generator_ends_the_work(engine: Engine, server: OpenAIServer) -> None:
    llm = model(server)
    texts(engine, llm, ["open the lanes"])
    server.hold()
    stream = engine.stream(llm, llm.requests([str(n) for n in range(500)]), limit=8)
    threading.Thread(target=lambda: (server.wait_for(9), server.release())).start()
    next(stream)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 1
    assert engine._pending == {}
    assert texts(engine, EchoLLM(), ["still works"]) == ["still works"]
    assert server.calls < 100


def test_stopping_the_engine_ends_a_stream_elsewhere(engine: Engine, server: OpenAIServer) -> None:
    server.hold()
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            texts(engine, model(server), ["a", "b"])
        except Stopped as error:
            caught.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    server.wait_for(1)
    engine.stop()
    asking.join(10)
    assert "session was closed" in str(caught[0])
    with pytest.raises(SessionError, match="closed"):
        engine.stream(EchoLLM(), [])


PROGRAM = """
import sys
from pathlib import Path
from nbdream.cache import CallCache
from nbdream.engine import Engine
from nbdream.llms import OpenAI

llm = OpenAI("gpt-test", base_url=sys.argv[2], max_concurrency=LANES)
engine = Engine(CallCache(Path(sys.argv[1]) / "calls.sqlite"))
for number, replies in enumerate(engine.stream(llm, llm.requests(f"prompt {n}" for n in range(ROWS)))):
    print(number, flush=True)
engine.stop()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [1, 90, 250])
def test_killed_at_any_moment_only_those_in_flight_are_paid_twice(folder: Path, server: OpenAIServer, kill_at: int) -> None:
    rows, lanes = 300, 16
    server.latency = 0.01
    program = PROGRAM.replace("ROWS", str(rows)).replace("LANES", str(lanes))
    command = [sys.executable, "-c", program, str(folder), server.base_url]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    server.wait_for(kill_at, timeout=60)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    while server._in_flight:
        time.sleep(0.01)
    before = server.calls
    assert before < rows
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == [str(n) for n in range(rows)]
    twice = server.calls - rows
    assert 0 <= twice <= lanes
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert server.calls == rows + twice
