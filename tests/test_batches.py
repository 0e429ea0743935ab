"""Batch services: what is not stored goes out once, whatever happens to the kernel, and is collected by whichever kernel comes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdream.cache import CallCache
from nbdream.engine import Engine, Progress
from nbdream.engine.batch_jobs import Rhythm
from nbdream.engine.spending import Account, Spending
from nbdream.errors import BudgetError, ModelError, NbDreamError, Stopped
from nbdream.llms import Anthropic, EchoLLM, OpenAI
from nbdream.llms.base import LLM, Reply, Request
from tests.notebook import Shell
from tests.servers.batch_anthropic import AnthropicBatchServer
from tests.servers.batch_openai import OpenAIBatchServer
from tests.servers.batch_server import BatchServer, Job

QUICK = Rhythm(first=0.01, most=0.02, lost=0.5, unseen=0.1)
PROMPTS = [f"prompt {n}" for n in range(8)]
OPENAI, ANTHROPIC = OpenAIBatchServer, AnthropicBatchServer


@pytest.fixture(params=[OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    with request.param() as serving:
        yield serving


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[], Engine]]:
    """Starts engines on the same folder, as kernels do."""
    engines = []

    def make() -> Engine:
        engines.append(Engine(CallCache(folder / "calls.sqlite"), rhythm=QUICK))
        return engines[-1]

    yield make
    for engine in engines:
        engine.stop()


@pytest.fixture
def engine(start: Callable[[], Engine]) -> Engine:
    return start()


def model(server: BatchServer, **options: Any) -> LLM:
    options = {"base_url": server.base_url, "price": {"input": 1, "output": 1}, **options}
    return OpenAI("gpt-test", **options) if isinstance(server, OPENAI) else Anthropic("claude-test", **options)


def ask(engine: Engine, llm: LLM, prompts: list[str] = PROMPTS, **options: Any) -> list[Reply]:
    return [replies[0] for replies in engine.stream(llm, llm.requests(prompts), **{"batch": True, **options})]


def texts(replies: list[Reply]) -> list[Any]:
    return [reply.text for reply in replies]


def answers(prompts: list[str] = PROMPTS) -> list[str]:
    return [f"batch: {prompt}\u2028." for prompt in prompts]


def under_way(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (folder / "batches").glob("*.json")]


def nothing_is_under_way(folder: Path) -> bool:
    """A moment after the last reply was handed on."""
    until = time.monotonic() + 10
    while under_way(folder) and time.monotonic() < until:
        time.sleep(0.01)
    return not under_way(folder)


def in_background(work: Callable[[], Any]) -> Callable[[], Any]:
    """Runs ``work`` in a thread; gives what waits for it and gives what it gave, or raised."""
    gave: list[Any] = []

    def run() -> None:
        try:
            gave.append(work())
        except NbDreamError as error:
            gave.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def wait() -> Any:
        thread.join(20)
        return gave[0]

    return wait


# --- what is sent, and what comes back ------------------------------------------------------------------------------------


def test_what_is_not_stored_is_answered_at_half_the_price(start: Callable[[], Engine], server: BatchServer, folder: Path) -> None:
    engine, llm = start(), model(server)
    ask(engine, llm, PROMPTS[:2], batch=False)
    replies = ask(engine, llm)
    assert texts(replies) == ["at once: prompt 0", "at once: prompt 1", *answers(PROMPTS[2:])]
    assert [reply.cost for reply in replies] == [2.0] * 2 + [1.0] * 6
    assert [reply.batch for reply in replies] == [False] * 2 + [True] * 6
    assert server.sent == dict.fromkeys(PROMPTS[2:], 1)
    assert nothing_is_under_way(folder)
    asked = server.asked.copy()
    again = ask(start(), llm)
    assert all(reply.cached for reply in again)
    assert texts(again) == texts(replies)
    assert server.asked == asked


def test_the_id_is_on_disk_and_no_credential_is(engine: Engine, server: BatchServer, folder: Path) -> None:
    server.key = "sk-very-secret-key"
    server.hold()
    waiting = in_background(lambda: ask(engine, model(server, api_key=server.key)))
    server.wait_for("state")
    [record] = under_way(folder)
    assert record["job"] == server.jobs[0].id
    assert len(record["keys"]) == len(PROMPTS)
    assert server.key not in json.dumps(record) + json.dumps(server.jobs[0].rows)
    server.go_on()
    assert texts(waiting()) == answers()


def test_draws_and_doubles_are_requests_of_their_own(engine: Engine, server: BatchServer) -> None:
    llm = model(server)
    rows = list(engine.stream(llm, llm.requests(["a", "b", "a"]), draws=2, batch=True))
    assert [len(replies) for replies in rows] == [2, 2, 2]
    assert server.sent == {"a": 4, "b": 2}
    assert len(server.jobs) == 1


def test_many_rows_are_many_jobs(engine: Engine, server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbdream.engine.batches.REQUESTS", 3)
    assert texts(ask(engine, model(server))) == answers()
    assert [len(job.rows) for job in reversed(server.jobs)] == [3, 3, 2]
    monkeypatch.setattr("nbdream.engine.batches.BYTES", 400)
    prompts = [f"{n} {'x' * 150}" for n in range(3)]
    assert texts(ask(engine, model(server), prompts)) == answers(prompts)
    assert server.rows == len(PROMPTS) + 3
    assert len(server.jobs) > 4


def test_a_prompt_that_cannot_be_sent_fails_alone(engine: Engine, server: BatchServer) -> None:
    replies = ask(engine, model(server), ["a", "half \ud800", "b"])
    assert [reply.error is None for reply in replies] == [True, False, True]
    assert server.sent == {"a": 1, "b": 1}


def test_without_a_batch_service(engine: Engine) -> None:
    with pytest.raises(ModelError, match="has no batch service"):
        ask(engine, EchoLLM())


def test_progress_counts_at_the_provider(engine: Engine, server: BatchServer) -> None:
    seen: list[Any] = []
    server.hold()

    def note(progress: Progress) -> None:
        seen.append(progress.batch)
        if progress.batch:
            server.go_on()

    ask(engine, model(server), on_progress=note)
    assert (0, len(PROMPTS)) in seen


# --- rows that were not answered --------------------------------------------------------------------------------------------


def test_errors_are_sorted(start: Callable[[], Engine], server: BatchServer) -> None:
    fates = {"prompt 1": 400, "prompt 3": "expired", "prompt 4": 500, "prompt 6": "missing"}
    server.fate = lambda prompt: fates[prompt] if prompt in fates and (server.sent[prompt] == 1 or fates[prompt] == 400) else "ok"
    engine, llm = start(), model(server)
    replies = ask(engine, llm)
    assert [reply.error is not None for reply in replies] == [prompt == "prompt 1" for prompt in PROMPTS]
    assert replies[1].error is not None
    assert replies[1].error["kind"] == "row"
    assert server.sent == {prompt: 2 if fates.get(prompt, 400) != 400 else 1 for prompt in PROMPTS}
    ask(start(), llm)  # the failure is stored
    assert server.rows == len(PROMPTS) + 3
    fates.clear()
    assert texts(ask(start(), llm, retry_failed=True)) == answers()
    assert server.rows == len(PROMPTS) + 4


def test_what_never_gets_its_turn_is_given_up_and_not_stored(start: Callable[[], Engine], server: BatchServer, folder: Path) -> None:
    server.fate = lambda prompt: "expired" if prompt == "prompt 3" else "ok"
    engine, llm = start(), model(server)
    reply = ask(engine, llm)[3]
    assert reply.error is not None
    assert "did not get to it" in reply.error["message"]
    assert server.sent == {prompt: 3 if prompt == "prompt 3" else 1 for prompt in PROMPTS}
    server.fate = lambda prompt: "ok"
    assert texts(ask(engine, llm)) == answers()
    assert nothing_is_under_way(folder)


def test_what_every_request_meets_ends_the_run(engine: Engine, server: BatchServer, folder: Path) -> None:
    server.fate = lambda prompt: "ok" if prompt == "prompt 0" else 401
    with pytest.raises(ModelError, match=r"fault 401.*check the key"):
        ask(engine, model(server))
    assert nothing_is_under_way(folder)
    server.fate = lambda prompt: "ok"
    ask(engine, model(server))
    assert server.sent["prompt 0"] == 1


def test_a_batch_that_was_cancelled_there_is_not_sent_again_unasked(engine: Engine, server: BatchServer) -> None:
    server.fate = lambda prompt: "ok" if prompt < "prompt 4" else "cancelled"
    with pytest.raises(ModelError, match=r"cancelled at the provider.*what it answered is kept"):
        ask(engine, model(server))
    assert server.rows == len(PROMPTS)
    server.fate = lambda prompt: "ok"
    assert texts(ask(engine, model(server))) == answers()
    assert server.sent == {prompt: 1 if prompt < "prompt 4" else 2 for prompt in PROMPTS}


def test_a_batch_that_is_refused_as_a_whole(start: Callable[[], Engine], folder: Path) -> None:
    with OpenAIBatchServer() as server:
        server.refusal = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached.", "line": None}
        with pytest.raises(ModelError, match=r"Enqueued token limit reached.*nothing of the batch was run"):
            ask(start(), model(server))
        assert nothing_is_under_way(folder)


# --- handing in ---------------------------------------------------------------------------------------------------------------


def test_a_wrong_key_ends_it_at_once(engine: Engine, server: BatchServer, folder: Path) -> None:
    server.key = "sk-very-secret-key"
    with pytest.raises(ModelError, match=r"incorrect key \*\*\*.*check the key"):
        ask(engine, model(server, api_key="sk-another-secret-key"))
    assert server.rows == 0
    assert nothing_is_under_way(folder)


def test_a_server_without_batches(engine: Engine, server: BatchServer) -> None:
    llm = model(server, base_url=server.base_url + "/nowhere")
    with pytest.raises(ModelError, match="is there a batch service at this address"):
        ask(engine, llm)


def test_too_much_to_do_means_later(engine: Engine, server: BatchServer) -> None:
    server.faults["create"] = [429, 429]
    assert texts(ask(engine, model(server))) == answers()
    assert server.rows == len(PROMPTS)


@pytest.mark.parametrize("had_effect", [False, True])
def test_an_error_that_leaves_open_whether_it_was_accepted(engine: Engine, server: BatchServer, had_effect: bool) -> None:
    (server.late if had_effect else server.faults)["create"] = [500]
    assert texts(ask(engine, model(server))) == answers()
    assert server.sent == dict.fromkeys(PROMPTS, 1)


def test_a_server_that_stumbles_is_asked_again(engine: Engine, server: BatchServer) -> None:
    server.faults |= {"state": [500] * 4, "results": [503] * 4}
    assert texts(ask(engine, model(server))) == answers()
    assert server.rows == len(PROMPTS)


def test_a_server_that_is_silent_is_left_alone(engine: Engine, server: BatchServer, folder: Path) -> None:
    server.faults["state"] = [500] * 1000
    with pytest.raises(ModelError, match="goes on at the provider: run the cell again"):
        ask(engine, model(server))
    server.faults.clear()
    assert texts(ask(engine, model(server))) == answers()
    assert server.rows == len(PROMPTS)


def test_a_batch_that_is_no_longer_known_is_not_sent_again_unasked(start: Callable[[], Engine], server: BatchServer, folder: Path) -> None:
    server.hold()
    engine = start()
    waiting = in_background(lambda: ask(engine, model(server)))
    server.wait_for("state")
    server.jobs.clear()
    assert "does not know the batch" in str(waiting())
    [path] = (folder / "batches").glob("*.json")
    with pytest.raises(ModelError, match=str(path)):
        ask(start(), model(server))
    assert server.rows == len(PROMPTS)
    path.unlink()
    server.go_on()
    assert texts(ask(start(), model(server))) == answers()


# --- stopped, killed, two at once ---------------------------------------------------------------------------------------------


def test_stopped_it_goes_on_at_the_provider(engine: Engine, server: BatchServer) -> None:
    server.hold()
    stop = threading.Event()
    waiting = in_background(lambda: ask(engine, model(server), stop=stop))
    server.wait_for("state")
    stop.set()
    stopped = waiting()
    assert isinstance(stopped, Stopped)
    assert "the batch goes on at the provider: run the cell again" in str(stopped)
    server.go_on()
    assert texts(ask(engine, model(server))) == answers()
    assert server.rows == len(PROMPTS)


def test_stopped_before_it_was_handed_in_nothing_is_sent(engine: Engine, folder: Path) -> None:
    with OpenAIBatchServer() as server:
        server.stall("upload")
        stop = threading.Event()
        waiting = in_background(lambda: ask(engine, model(server), stop=stop))
        server.wait_for("upload")
        stop.set()
        assert "goes on" not in str(waiting())
        server.go_on()
        assert texts(ask(engine, model(server), PROMPTS[:1])) == answers(PROMPTS[:1])
        assert server.rows == 1


def test_a_closed_session_is_collected_by_the_next_one(start: Callable[[], Engine], server: BatchServer) -> None:
    server.hold()
    engine = start()
    waiting = in_background(lambda: ask(engine, model(server)))
    server.wait_for("state")
    engine.stop()
    assert "session was closed" in str(waiting())
    server.go_on()
    assert texts(ask(start(), model(server))) == answers()
    assert server.rows == len(PROMPTS)


def test_all_of_a_job_is_stored_whoever_collects_it(start: Callable[[], Engine], server: BatchServer) -> None:
    server.hold()
    engine = start()
    waiting = in_background(lambda: ask(engine, model(server), by="first"))
    server.wait_for("state")
    engine.stop()
    waiting()
    server.go_on()
    assert texts(ask(start(), model(server), PROMPTS[3:4], by="second")) == answers(PROMPTS[3:4])
    rest = ask(start(), model(server))
    assert texts(rest) == answers()
    assert all(reply.cached and reply.cost == 1.0 for reply in rest)
    assert server.rows == len(PROMPTS)


def test_two_kernels_at_once_send_each_row_once(start: Callable[[], Engine], server: BatchServer) -> None:
    engines = [start(), start()]
    waiting = [in_background(lambda engine=engine: ask(engine, model(server), PROMPTS[:6])) for engine in engines]
    waiting.append(in_background(lambda: ask(engines[0], model(server), PROMPTS[3:])))
    assert [texts(wait()) for wait in waiting] == [answers(PROMPTS[:6]), answers(PROMPTS[:6]), answers(PROMPTS[3:])]
    assert server.sent == dict.fromkeys(PROMPTS, 1)


PROGRAM = """
import sys, threading
from pathlib import Path
from nbdream.cache import CallCache
from nbdream.engine import Engine
from nbdream.engine.batch_jobs import Rhythm
from nbdream.llms import Anthropic, OpenAI

def work(address, folder):
    llm = getattr(sys.modules["nbdream.llms"], sys.argv[1])(sys.argv[2], base_url=address, price={"input": 1, "output": 1})
    engine = Engine(CallCache(Path(folder) / "calls.sqlite"), rhythm=Rhythm(first=0.01, most=0.02))
    list(engine.stream(llm, llm.requests(f"prompt {n}" for n in range(8)), batch=True))

threads = [threading.Thread(target=work, args=place.split(" ", 1)) for place in sys.argv[3:]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
MOMENTS = ["upload", "created", "at work", "state", "results"]
"""At which the kernel is killed. ``created`` and ``at work``: the provider has accepted the job, and its id is not noted. When the next
kernel comes it has ended, or not. ``results``: half of them have been read."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
def test_killed_at_any_moment_no_row_is_sent_twice(kind: type[Any], tmp_path: Path) -> None:
    """One kernel with a session for each moment, killed when all are there."""
    moments = [moment for moment in MOMENTS if moment != "upload" or kind is OPENAI]
    with contextlib.ExitStack() as stack:
        servers = {moment: stack.enter_context(kind()) for moment in moments}
        for moment, server in servers.items():
            server.stall({"at work": "created", "state": "ending"}.get(moment, moment))
        llm = model(servers["state"])
        places = [f"{server.base_url} {tmp_path / moment}" for moment, server in servers.items()]
        running = subprocess.Popen([sys.executable, "-c", PROGRAM, type(llm).__name__, llm.model_name, *places])
        for moment, server in servers.items():
            server.wait_for({"at work": "created"}.get(moment, moment))
        os.kill(running.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        for moment, server in servers.items():
            noted = [record["job"] is not None for record in under_way(tmp_path / moment)]
            assert noted == {"upload": [], "created": [False], "at work": [False]}.get(moment, [True])
            server.go_on()
            _collected(server, tmp_path / moment, at_work=moment == "at work")


def _collected(server: BatchServer, folder: Path, *, at_work: bool) -> None:
    """A new kernel has every reply, and no row was sent twice."""
    if at_work:
        server.hold()
    engine = Engine(CallCache(folder / "calls.sqlite"), rhythm=QUICK)
    waiting = in_background(lambda: ask(engine, model(server)))
    if at_work:  # OpenAI's carries our tag; Anthropic's tells nothing before it has ended
        server.wait_for(*(("list", 20) if isinstance(server, ANTHROPIC) else ("state", 1)))
        assert server.rows == len(PROMPTS)
        server.go_on()
    assert texts(waiting()) == answers()
    assert server.sent == dict.fromkeys(PROMPTS, 1)
    assert nothing_is_under_way(folder)
    engine.stop()


def test_a_batch_of_the_same_size_that_is_not_ours(start: Callable[[], Engine], folder: Path) -> None:
    """Anthropic tells what an id belongs to when it has ended: until then nothing is sent."""
    with AnthropicBatchServer() as server:
        llm = model(server)
        server.faults["create"] = [500]
        body = llm.body(Request(llm.messages("x"), {"max_tokens": 1}))  # type: ignore[attr-defined]
        foreign = Job([{"custom_id": f"theirs-{n}", "params": body} for n in range(len(PROMPTS))])
        server.jobs.append(foreign)
        server.hold()
        engine = start()
        waiting = in_background(lambda: ask(engine, llm))
        server.wait_for("list", 20)
        assert server.rows == 0
        server.go_on()
        assert texts(waiting()) == answers()
        assert server.rows == len(PROMPTS)


# --- money ------------------------------------------------------------------------------------------------------------------


def test_a_budget_holds_and_the_rerun_goes_on(start: Callable[[], Engine], server: BatchServer, folder: Path) -> None:
    llm = model(server, price={"input": 0, "output": 1}, max_tokens=1_000_000)  # a reply costs 50 cents
    for expected in (3, 6, 8):
        engine = start()
        budget = Spending(Account(1.6))
        if expected < 8:
            with pytest.raises(BudgetError, match="could cost"):
                ask(engine, llm, budget=budget)
        else:
            assert texts(ask(engine, llm, budget=budget)) == answers()
        assert server.rows == expected
    assert server.sent == dict.fromkeys(PROMPTS, 1)


# --- repairs ----------------------------------------------------------------------------------------------------------------


def test_what_is_to_be_mended_is_asked_for_at_once(engine: Engine, server: Any) -> None:
    def review(request: Request, reply: Reply, tries: int) -> Request | None:
        if reply.text and reply.text.startswith("batch: prompt 2"):
            return Request((*request.messages, {"role": "user", "content": "again"}), request.params)
        return None

    replies = ask(engine, model(server), review=review)
    assert texts(replies) == [*answers(PROMPTS[:2]), "at once: again", *answers(PROMPTS[3:])]
    assert server.chats == ["again"]
    assert len(replies[2].earlier) == 1


# --- in a notebook ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.setattr("nbdream.engine.engine.Rhythm", lambda: QUICK)
    made = Shell()
    yield made
    made.close()


def test_a_cell(shell: Shell, server: BatchServer) -> None:
    shell["llm"] = model(server)
    shell["rows"] = [{"x": prompt} for prompt in PROMPTS]
    cell = "%%generate said --from rows -m llm --batch OPTIONS\n{{ x }}"
    server.hold()
    shell.run(cell.replace("OPTIONS", "--background"))
    server.wait_for("state")  # the cell has returned
    server.go_on()
    assert shell["said"].output["said"][:] == answers()
    assert shell["said"].node["usage"]["cost"] == len(PROMPTS) / 1
    assert "batch" not in json.dumps(shell["said"].node["recipe"]["args"])


def test_an_interrupted_cell_says_that_it_goes_on(shell: Shell, server: BatchServer, capsys: pytest.CaptureFixture[str]) -> None:
    shell["llm"] = model(server)
    shell["rows"] = [{"x": prompt} for prompt in PROMPTS]
    cell = "%%generate said --from rows -m llm --batch\n{{ x }}"
    server.hold()

    def press() -> None:
        server.wait_for("state", 3)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        shell.run(cell)
    assert "the batch goes on at the provider: run the cell again" in capsys.readouterr().out
    server.go_on()
    shell.run(cell)
    assert shell["said"].output["said"][:] == answers()
    assert server.rows == len(PROMPTS)
