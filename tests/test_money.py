"""What calls cost, limits that hold, and what a dry run says of the rest."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbdream import Session, ledger, prices
from nbdream.engine.spending import PICO, TEMPLATE, Account, Spending
from nbdream.errors import ArgumentError, BudgetError
from nbdream.llms import EchoLLM, OpenAI
from nbdream.llms.base import Reply, Request, failure
from nbdream.steps import DataFromPrompt, DataSource, Filter, Generate, ProcessWithPrompt
from nbdream.steps.estimate import Interval, rest
from nbdream.widgets.status import live_line, saved_line
from tests.notebook import Shell
from tests.servers.openai_server import OpenAIServer

USAGE = {"input_tokens": 1_000_000, "output_tokens": 1_000_000}
ASKED = Request(({"role": "user", "content": "hello"},), {"max_tokens": 100})
PRICE = {"input": 1.0, "output": 4.0}


def openai(name: str = "gpt-4o-mini", **more: Any) -> OpenAI:
    return OpenAI(name, api_key="sk-not-a-real-key", **more)


# --- prices ---------------------------------------------------------------------------------------------------------


def test_the_table_is_dated_and_says_where_each_price_is_from() -> None:
    table = prices.table()
    assert table["format"] == 1
    assert time.strptime(table["as_of"], "%Y-%m-%d")
    for provider in table["providers"].values():
        assert provider["source"].startswith("https://")
        assert provider["batch"] == 0.5
        for model in provider["models"].values():
            assert model["output"] > model["input"] > (model["cached_input"] or 0)
            assert set(model) == {"input", "cached_input", "output", "max_output"}


@pytest.mark.parametrize(
    ("model", "dollars"),
    [
        (openai(), 0.75),
        (openai("gpt-4o-mini-2024-07-18"), 0.75),
        (openai("gpt-4o-2024-05-13"), 20.0),
        (openai("gpt-4o-2024-08-06"), 12.5),
        (openai("gpt-4o-mini-turbo"), None),
        (openai("gpt-4o-mini-2024"), None),
        (openai(identity="mine"), 0.75),
        (openai(base_url="http://127.0.0.1:1/v1"), None),
        (openai(base_url="https://eu.api.openai.com/v1"), None),
        (openai(base_url="https://me.openai.azure.com", api_version="1"), None),
        (openai(base_url="http://127.0.0.1:1/v1", price=PRICE), 5.0),
        (openai(price=PRICE), 5.0),
        (EchoLLM(), 0.0),
        (EchoLLM(price=PRICE), 5.0),
        ({"provider": "anthropic", "base_url": "https://api.anthropic.com", "model": "claude-haiku-4-5-20251001"}, 6.0),
        ({"provider": "transformers", "content": "…"}, 0.0),
        ({"provider": "Mine", "model": "gpt-4o-mini"}, None),
    ],
)
def test_a_price_is_known_by_exact_rules_or_not_at_all(model: Any, dollars: float | None) -> None:
    assert prices.cost(model, USAGE) == dollars
    assert prices.cost(model, USAGE, batch=True) == (None if dollars is None else dollars / 2)
    assert prices.cost(model, None) is None


def test_what_the_provider_still_had_costs_less() -> None:
    assert prices.cost(openai(), {**USAGE, "cached_input_tokens": 500_000}) == pytest.approx(0.0375 + 0.075 + 0.6)
    assert prices.cost(openai("gpt-4o-2024-05-13"), {**USAGE, "cached_input_tokens": 1}) is None


def test_a_reply_is_priced_once() -> None:
    dollars = prices.pricer(openai())
    assert dollars(Reply("a", usage=USAGE), ASKED) == 0.75
    assert dollars(Reply("a", usage=USAGE, batch=True), ASKED) == 0.375
    assert dollars(Reply("a", usage=USAGE, cost=0.1), ASKED) == 0.1
    assert dollars(Reply("a"), ASKED) is None
    assert dollars(failure("row", "no"), ASKED) == 0.0
    assert dollars(Reply("a", usage=USAGE), replace(ASKED, params={"service_tier": "priority"})) is None
    assert dollars(Reply("a", usage=USAGE), replace(ASKED, params={"extra": {"tools": [{}]}})) is None
    assert prices.pricer(openai(base_url="http://127.0.0.1:1"))(Reply("a", usage=USAGE), ASKED) is None


@pytest.mark.parametrize("wrong", [1.0, {"input": 1}, {"input": 1, "output": -1}, {"input": 1, "output": "2"}, {**PRICE, "cached": 1}])
def test_a_wrong_price_is_refused(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match="dollars per million tokens"):
        EchoLLM(price=wrong)


def test_the_price_is_no_part_of_any_key() -> None:
    assert EchoLLM(price=PRICE).identity == EchoLLM().identity
    assert EchoLLM(price=PRICE).__nbdream_fingerprint__ == EchoLLM().__nbdream_fingerprint__


@pytest.mark.parametrize(
    ("dollars", "text"),
    [
        (0, "$0.00"),
        (1.409, "$1.41"),
        (0.04, "$0.04"),
        (0.0401, "$0.04"),
        (0.0131, "$0.013"),
        (0.09996, "$0.10"),
        (0.0031, "$0.0031"),
        (0.00000123, "$0.0000012"),
        (1234, "$1,234.00"),
    ],
)
def test_amounts_as_a_person_writes_them(dollars: float, text: str) -> None:
    assert prices.shown(dollars) == text


# --- limits ---------------------------------------------------------------------------------------------------------

CALLS = st.tuples(
    st.integers(0, 300),  # bytes of the prompt
    st.integers(1, 200),  # max_tokens
    st.floats(0, 1),  # how much of the prompt is tokens
    st.floats(0, 1),  # how much of the longest reply is said
    st.sampled_from(["answered", "answered", "answered", "batch", "refused", "lost", "unreported"]),
    st.booleans(),  # by which of the two streams
)


@settings(max_examples=200)
@given(
    st.lists(CALLS, max_size=40),
    st.integers(0, 3000),
    st.integers(0, 20000) | st.none(),
    st.integers(0, 3000),
    st.integers(0, TEMPLATE),
    st.randoms(use_true_random=False),
)
def test_never_more_than_the_limit(
    calls: list[Any], micros: int, tokens: int | None, session_micros: int, added: int, chance: random.Random
) -> None:
    """Two streams, each with limits of its own, under one of the session; replies come in any order."""
    llm = EchoLLM(price={"input": 2.5, "output": 10.0})
    shared = Account(session_micros / 1e6)
    own = [Account(micros / 1e6, tokens), Account(micros / 1e6)]
    streams = [Spending(account, shared) for account in own]
    spent = [Fraction(0), Fraction(0)]
    used = [0, 0]
    in_flight: list[tuple[int, Any]] = []

    def answer() -> None:
        number, (size, most, share, length, how, second) = in_flight.pop(chance.randrange(len(in_flight)))
        asked, said = added + math.floor(size * share), math.floor(most * length)
        reply: Reply | None = Reply("a", usage={"input_tokens": asked, "output_tokens": said}, batch=how == "batch")
        if how in ("refused", "lost"):
            reply, asked, said = failure("row", "no") if how == "refused" else None, 0, 0
        if how == "unreported":
            reply = Reply("a")
        streams[second].settle(number, llm, reply)
        used[second] += asked + said
        spent[second] += (asked * Fraction(5, 2) + said * 10) / 10**6 / (2 if how == "batch" else 1)
        assert spent[second] <= Fraction(micros, 10**6)
        assert sum(spent) <= Fraction(session_micros, 10**6)
        assert tokens is None or used[0] <= tokens

    for number, call in enumerate(calls):
        request = Request(({"role": "user", "content": "x" * call[0]},), {"max_tokens": call[1]})
        while (why := streams[call[5]].reserve(number, llm, request)) is not None and in_flight:
            answer()
        if why is None:
            in_flight.append((number, call))
    while in_flight:
        answer()
    assert all(account.reserved == account.reserved_tokens == 0 for account in (*own, shared))


def test_a_call_that_just_fits_goes_out() -> None:
    llm = EchoLLM(price=PRICE)
    asked = len("hello") + 16 + TEMPLATE
    exact = (asked * 1.0 + 100 * 4.0) / 1e6
    assert Spending(Account(exact)).reserve(0, llm, ASKED) is None
    assert Spending(Account(tokens=asked + 100)).reserve(0, llm, ASKED) is None
    why = Spending(Account(exact - 1e-9)).reserve(0, llm, ASKED)
    assert why == (
        "the next call could cost $0.0014, and $0.0014 of $0.0014 is left: run it again to go on, or raise --max-cost; "
        "what is paid for is kept"
    )
    assert "1,145 tokens" in str(Spending(Account(tokens=1144)).reserve(0, llm, ASKED))


def test_an_answer_says_how_much_is_added_to_a_request() -> None:
    account = Account(1.0)
    spending = Spending(account)
    llm = EchoLLM(price=PRICE)
    spending.reserve(0, llm, ASKED)
    first = account.reserved
    spending.settle(0, llm, Reply("a", usage={"input_tokens": 9, "output_tokens": 2}))
    assert account.spent == (9 * 1 + 2 * 4) * PICO // 10**6
    spending.reserve(1, llm, ASKED)
    assert first - account.reserved == (TEMPLATE - 9) * PICO // 10**6


@pytest.mark.parametrize(
    ("llm", "params", "limits", "why"),
    [
        (openai(base_url="http://127.0.0.1:1"), {"max_tokens": 9}, {"dollars": 1.0}, "the price of gpt-4o-mini is not known"),
        (openai(), {"service_tier": "priority"}, {"dollars": 1.0}, "the price of gpt-4o-mini with service_tier is not known"),
        (openai(base_url="http://127.0.0.1:1", price=PRICE), {}, {"dollars": 1.0}, "the longest reply of gpt-4o-mini is not known"),
        (EchoLLM(), {}, {"tokens": 100}, "the longest reply of echo is not known"),
        (openai(base_url="http://127.0.0.1:1"), {"max_tokens": 9}, {"tokens": 100_000}, None),
        (openai(), {}, {"dollars": 1.0}, None),
        (EchoLLM(), {}, {"dollars": 0.0}, None),
    ],
)
def test_what_cannot_be_bounded_is_refused(llm: Any, params: dict[str, Any], limits: dict[str, Any], why: str | None) -> None:
    refused = Spending(Account(**limits)).refuses(llm, params)
    assert (refused and refused.message) == why
    assert refused is None or refused.hint


# --- runs -----------------------------------------------------------------------------------------------------------


def tokens_of(body: dict[str, Any], count: int) -> str:
    return " ".join(["word"] * (len(body["messages"][-1]["content"]) % 40 + 1))


@pytest.fixture
def server() -> Any:
    with OpenAIServer(reply=tokens_of) as opened:
        yield opened


def rows(count: int) -> DataSource:
    return DataSource("texts", data=[{"text": f"{number} " + "long " * (number % 23)} for number in range(count)])


def priced(server: OpenAIServer, **more: Any) -> OpenAI:
    return OpenAI("gpt-test", base_url=server.base_url, price=more.pop("price", {"input": 50.0, "output": 200.0}), **more)


def billed(server: OpenAIServer) -> float:
    """What the server would put on the bill, counted from the requests it had."""
    import json

    asked = sum(len(json.dumps(request["messages"]).split()) for request in server.requests)
    said = sum(len(server.reply(request, 1).split()) for request in server.requests)
    return (asked * 50.0 + said * 200.0) / 1e6


def test_what_a_result_cost_is_in_its_node_and_what_was_saved(session: Session, server: OpenAIServer) -> None:
    llm = priced(server)
    first = Generate("a", inputs={"rows": rows(30).output}, args={"llm": llm, "template": "say {{ text }}"})
    usage = first.node["usage"]
    assert usage["calls"] == server.calls == 30
    assert usage["cost"] == pytest.approx(billed(server), abs=1e-9)
    assert usage["saved"] == 0.0
    more = Generate("b", inputs={"rows": rows(40).output}, args={"llm": llm, "template": "say {{ text }}"})
    assert (more.node["usage"]["calls"], more.node["usage"]["cached_calls"]) == (10, 30)
    assert more.node["usage"]["saved"] == usage["cost"]
    assert usage["cost"] + more.node["usage"]["cost"] == pytest.approx(billed(server), abs=1e-9)
    assert ledger.at_least(session.engine.paid()) == pytest.approx(billed(server), abs=1e-9)


def test_mended_replies_balance_with_what_the_server_counted(session: Session, server: OpenAIServer) -> None:
    """Three rows share one greedy request; its reply is mended, by a further request for all three."""
    request = Request(({"role": "user", "content": "hello"},), {"temperature": 0})

    def mend(asked: Request, reply: Reply, tries: int) -> Request | None:
        more = ({"role": "assistant", "content": reply.text or ""}, {"role": "user", "content": "again"})
        return replace(asked, messages=(*asked.messages, *more)) if tries == 1 else None

    usage = ledger.nothing()
    for replies in session.engine.stream(priced(server), [request] * 3, review=mend):
        ledger.add_reply(usage, replies[0])
    assert (usage["calls"], usage["cached_calls"]) == (server.calls, 4) == (2, 4)
    assert usage["cost"] == pytest.approx(billed(server), abs=1e-9)
    assert usage["saved"] == pytest.approx(2 * usage["cost"])


def test_an_unknown_price_stays_unknown(session: Session, server: OpenAIServer) -> None:
    step = Generate("a", args={"llm": OpenAI("gpt-test", base_url=server.base_url), "template": "hi", "n": 3})
    assert step.node["usage"]["cost"] is None
    assert ledger.unpriced(session.engine.paid()) == 3


@pytest.mark.parametrize("more", [{"max_cost": 1.0}, {"max_cost": 1.0, "dry_run": True}])
def test_a_limit_in_dollars_needs_a_price_before_any_call(session: Session, server: OpenAIServer, more: dict[str, Any]) -> None:
    llm = OpenAI("gpt-test", base_url=server.base_url)
    with pytest.raises(ArgumentError, match=r"price of gpt-test is not known .*max-total-tokens"):
        Generate("a", args={"llm": llm, "template": "hi", "n": 3, "max_tokens": 5, **more})
    with pytest.raises(ArgumentError, match="max_tokens"):
        Generate("a", args={"llm": llm, "template": "hi", "n": 3, "max_total_tokens": 1000})
    assert server.calls == 0


@pytest.mark.parametrize("wrong", [{"max_cost": "1"}, {"max_cost": -1}, {"max_total_tokens": 1.5}, {"dry_run": 2}])
def test_wrong_limits(session: Session, wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        Generate("a", args={"llm": EchoLLM(), "template": "hi", **wrong})


def attempt(source: Any, args: dict[str, Any]) -> str | None:
    """What stops the step, if anything."""
    try:
        Generate("a", inputs={"rows": source}, args=args)
    except BudgetError as error:
        return str(error)
    return None


def test_it_stops_before_the_limit_and_goes_on_where_it_stopped(session: Session, server: OpenAIServer) -> None:
    args = {"llm": priced(server), "template": "say {{ text }}", "max_tokens": 40}
    source, limit = rows(300).output, 0.7
    stops = 0
    while (before := billed(server)) is not None and (error := attempt(source, {**args, "max_cost": limit})) is not None:
        assert "the next call could cost $0.0" in error
        assert 0.8 * limit < billed(server) - before <= limit
        stops += 1
    assert stops > 1
    assert server.calls == 300  # nothing was asked twice
    assert billed(server) - before <= limit
    assert len(Generate("a", inputs={"rows": source}, args=args).output) == 300


def test_it_stops_before_the_limit_in_tokens(session: Session, server: OpenAIServer) -> None:
    args = {"llm": priced(server, price=None), "template": "say {{ text }}", "max_tokens": 40, "max_total_tokens": 5000}
    with pytest.raises(BudgetError, match=r"of 5,000 is left"):
        Generate("a", inputs={"rows": rows(300).output}, args=args)
    paid = ledger.total(session.engine.paid())
    assert 4000 < paid["input_tokens"] + paid["output_tokens"] <= 5000
    assert paid["calls"] == server.calls


def test_the_budget_of_the_session_counts_all_of_it(session: Session, server: OpenAIServer) -> None:
    llm = priced(server)
    Generate("a", inputs={"rows": rows(30).output}, args={"llm": llm, "template": "say {{ text }}", "max_tokens": 40})
    session.budget = billed(server) + 0.5
    with pytest.raises(BudgetError, match="%dream budget"):
        Generate("b", inputs={"rows": rows(300).output}, args={"llm": llm, "template": "repeat {{ text }}", "max_tokens": 40})
    assert session.budget - 0.1 < billed(server) <= session.budget
    with pytest.raises(BudgetError, match="%dream budget"):
        llm("and again", max_tokens=1000)
    before = server.calls
    session.budget = None
    llm("and again", max_tokens=1000)
    assert server.calls == before + 1


def test_a_session_keeps_its_budget(tmp_path: Any) -> None:
    with Session(str(tmp_path / "kept")) as first:
        first.budget = 5
    with Session(str(tmp_path / "kept")) as second:
        assert second.budget == 5.0
        with pytest.raises(ArgumentError, match="budget"):
            second.budget = -1


# --- dry runs -------------------------------------------------------------------------------------------------------


def test_a_dry_run_pays_for_rows_that_the_run_uses(session: Session, server: OpenAIServer, capsys: pytest.CaptureFixture[str]) -> None:
    llm = priced(server)
    source = rows(400).output
    args = {"llm": llm, "template": "say {{ text }}", "column": "said"}
    tried = Generate("a", inputs={"rows": source}, args={**args, "dry_run": True})
    assert server.calls == 20
    assert capsys.readouterr().out.startswith("400 rows: 20 tried for $")
    estimate = tried.estimate
    assert (estimate.rows, estimate.tried, estimate.left, estimate.calls) == (400, 20, 380, 380)
    assert [row["text"] for row in tried.output] == [source[number]["text"] for number in sorted(random.Random(400).sample(range(400), 20))]
    assert "a" not in list(session)
    again = Generate("a", inputs={"rows": source}, args={**args, "dry_run": True})
    assert server.calls == 20
    assert (again.estimate.calls, again.estimate.dollars) == (380, estimate.dollars)
    before = billed(server)
    assert estimate.paid == pytest.approx(before, abs=1e-9)
    step = Generate("a", inputs={"rows": source}, args=args)
    assert server.calls == 400
    assert step.node["usage"]["cached_calls"] == 20
    assert billed(server) - before in estimate.dollars
    usage = step.node["usage"]
    assert usage["input_tokens"] - usage["cached_input_tokens"] in estimate.input_tokens
    assert usage["output_tokens"] - usage["cached_output_tokens"] in estimate.output_tokens
    last = Generate("a", inputs={"rows": source}, args={**args, "dry_run": True}).estimate
    assert str(last) == "400 rows: 20 tried, 380 there already · nothing is left to pay"


@pytest.mark.parametrize(
    ("make", "calls"),
    [
        (lambda args: Generate("a", args={**args, "template": "hi", "n": 100}), 80),
        (lambda args: Generate("a", args={**args, "template": "hi", "n": 100, "temperature": 0}), 0),
        (lambda args: Generate("a", inputs={"rows": rows(50).output}, args={**args, "template": "{{ text }}", "draws": 3}), 90),
        (lambda args: Filter("a", inputs={"rows": rows(50).output}, args={**args, "template": "yes, {{ text }}"}), 30),
        (lambda args: DataFromPrompt("a", args={**args, "instruction": "hi", "n": 30}), 10),
        (lambda args: ProcessWithPrompt("a", inputs={"inputs": rows(50).output["text"]}, args={**args, "instruction": "go"}), 30),
    ],
)
def test_every_step_that_asks_has_a_dry_run(session: Session, make: Callable[[dict[str, Any]], Any], calls: int) -> None:
    llm = EchoLLM(price=PRICE)
    step = make({"llm": llm, "dry_run": True})
    assert step.estimate.calls == calls
    paid = ledger.total(session.engine.paid())["calls"]
    step = make({"llm": llm})
    assert ledger.total(session.engine.paid())["calls"] == paid + calls


def test_a_dry_run_without_a_price_tells_calls_and_tokens(session: Session, server: OpenAIServer) -> None:
    llm = OpenAI("gpt-test", base_url=server.base_url)
    text = str(Generate("a", args={"llm": llm, "template": "hi", "n": 50, "dry_run": 10}).estimate)
    assert text == "50 rows: 10 tried · the other 40 need 40 calls, 160 input and 120 output tokens (90 %); their price is not known"


def workload(kind: str, seed: int) -> tuple[list[float], list[float]]:
    """The bytes of prompts and the tokens of replies of a few hundred to a few thousand rows."""
    draw = random.Random(f"{kind} {seed}")
    count = draw.choice([100, 200, 500, 1000, 2000, 5000])
    spread, refused = draw.choice([0.3, 0.6, 1.0, 1.3]), draw.choice([0.02, 0.1, 0.3])
    sizes = [draw.lognormvariate(6.5, 0.6) for _ in range(count)]
    replies = {
        "lognormal": lambda size: draw.lognormvariate(5, spread),
        "with the prompt": lambda size: size / 4 * draw.lognormvariate(-0.5, spread * 0.6),
        "some refused": lambda size: draw.randint(8, 20) if draw.random() < refused else draw.lognormvariate(5.5, spread * 0.7),
        "some failed": lambda size: 0 if draw.random() < refused else draw.lognormvariate(5.5, spread * 0.7),
        "alike": lambda size: draw.gauss(200, 30),
    }[kind]
    return sizes, [float(math.ceil(min(16384, replies(size)))) for size in sizes]


def covered(kind: str, workloads: int) -> tuple[int, float]:
    """In how many seeded workloads the interval of a dry run holds the truth, and its median width as a share of it."""
    held, widths = 0, []
    for seed in range(workloads):
        sizes, said = workload(kind, seed)
        chosen = set(random.Random(len(sizes)).sample(range(len(sizes)), 20))
        left = [number for number in range(len(sizes)) if number not in chosen]
        interval = rest([(sizes[number], said[number]) for number in chosen], [sizes[number] for number in left], 16384)
        truth = sum(said[number] for number in left)
        held += truth in interval
        widths.append((interval.high - interval.low) / truth)
    return held, sorted(widths)[workloads // 2]


@pytest.mark.parametrize("kind", ["lognormal", "with the prompt", "some refused", "some failed", "alike"])
def test_the_interval_holds_in_nine_of_ten_workloads(kind: str) -> None:
    held, width = covered(kind, 100)
    assert held >= 90
    assert width < 1.5  # an interval that is always right says nothing


def test_intervals_at_their_ends() -> None:
    assert rest([(1.0, 2.0)] * 20, []) == Interval(0.0, 0.0)
    assert rest([(1.0, 2.0)] * 20, [1.0] * 10) == Interval(20.0, 20.0)
    assert rest([(1.0, 2.0)] * 3, [1.0] * 10, 50) == Interval(0.0, 500.0)
    linear = rest([(float(size), 3.0 * size) for size in range(1, 21)], [30.0] * 10)
    assert 900 in linear
    assert linear.high - linear.low < 1e-3


# --- in a notebook --------------------------------------------------------------------------------------------------


@pytest.fixture
def shell() -> Any:
    opened = Shell()
    opened.run("%dream open ./output")
    opened.run('%dream model e = echo/echo price={"input":50,"output":200}')
    opened["rows"] = [{"text": f"{number} word" + " word" * (number % 7)} for number in range(100)]
    yield opened
    opened.close()


def cell(shell: Shell, line: str) -> Any:
    """The result of a cell over the rows."""
    shell.run(f"%%generate {line}\nSay {{{{ text }}}}")
    return shell[line.split(maxsplit=1)[0]]


def shown(shell: Shell, line: str) -> str:
    """What a line of ``%dream`` shows, as text."""
    return str(shell.run(line)._repr_mimebundle_()["text/plain"])


def test_a_dry_run_in_a_cell_shows_the_rows_and_binds_a_preview(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    cell(shell, "said --from rows -m e --dry-run")
    assert capsys.readouterr().out.startswith("100 rows: 20 tried for $0.029 · the other 80 would cost $0.12 (90 %): 80 calls, ")
    assert len(shell["said"].output) == 20
    cell(shell, "said --from rows -m e")
    assert len(shell["said"].output) == 100


def test_the_status_line_says_what_the_work_cost(shell: Shell) -> None:
    first = cell(shell, "said --from rows -m e")
    second = cell(shell, "again --from rows -m e --on-fail keep")
    assert second.node["usage"]["cost"] == 0.0
    assert " for $0." in saved_line(first.node)
    assert saved_line(first.node).split(" in ")[0] == saved_line(second.node).split(" in ")[0]
    assert live_line({"cached": 980, "new": 20, "failed": 0, "cost": 0.04, "saved": 1.37}, 12) == (
        "980 cached · 20 new · 0 failed · $0.04 (saved $1.37) · 12 s"
    )
    assert "$" not in live_line({"cached": 980, "new": 20, "failed": 0, "cost": 0.0, "saved": 0.0}, 12)


def test_the_costs_of_a_session_by_result_and_by_model(shell: Shell) -> None:
    cell(shell, "said --from rows -m e")
    cell(shell, "again --from rows -m e --on-fail keep")
    text = shown(shell, "%dream cost")
    lines = {line.split("  ")[0].strip(): line.split() for line in text.splitlines()}
    spent = lines["said"][-2]
    assert spent == lines["all"][-2] == lines["again"][-1] == lines["all"][-1] != "$0.00"
    assert lines["again"][-2] == lines["said"][-1] == "$0.00"
    assert lines["model echo"][-1] == spent


def test_the_budget_of_a_session(shell: Shell) -> None:
    assert shown(shell, "%dream budget") == "session: no budget, $0.00 spent"
    assert shown(shell, "%dream budget $0.05") == "session: a budget of $0.05, $0.00 spent"
    with pytest.raises(ArgumentError, match="no amount"):
        shown(shell, "%dream budget much")
    assert "of the session's $0.05 is spent" in shown(shell, "%dream cost")
    assert shown(shell, "%dream budget off") == "session: no budget, $0.00 spent"
