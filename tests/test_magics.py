"""The magics: in a shell without a kernel, and in real kernels as a front end drives them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdream import context
from nbdream.errors import ArgumentError, NbDreamError, SessionError, Stopped
from nbdream.magics.completion import complete
from nbdream.magics.extension import CELL_MAGICS
from nbdream.widgets.measures import CURVE
from tests.notebook import CellResult, Kernel, Shell, kernel_in

ROWS = [{"haiku": f"poem number {number}", "length": number} for number in range(12)]


@pytest.fixture
def shell() -> Iterator[Shell]:
    opened = Shell()
    opened["rows"] = [dict(row) for row in ROWS]
    yield opened
    opened.close()


@pytest.fixture
def echo(shell: Shell) -> Shell:
    """A shell with a session and the model ``e``."""
    shell.run("%dream open ./output")
    shell.run("%dream model e = echo/echo")
    return shell


# --- loading --------------------------------------------------------------------------------------------------------


def test_loading_twice_is_loading_once_and_unloading_leaves_nothing(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    ip = shell.ip
    shell.run("%reload_ext nbdream")
    extension = ip.nbdream
    assert capsys.readouterr().out == ""
    assert [f for f in ip.input_transformers_cleanup if getattr(f, "__self__", None).__class__.__name__ == "Extension"] == [
        extension.transform
    ]
    assert [c for c in ip.configurables if type(c).__name__ == "NbDream"] == [extension.config]
    assert len([m for m in ip.Completer.custom_matchers if "nbdream" in str(getattr(m, "matcher_identifier", ""))]) == 1
    shell.run("%unload_ext nbdream")
    assert not hasattr(ip, "nbdream")
    assert not set(CELL_MAGICS) & set(ip.magics_manager.magics["cell"])
    assert "dream" not in ip.magics_manager.magics["line"]
    assert not any(
        callback.__self__ is extension.notebook for callback in ip.events.callbacks["pre_run_cell"] if hasattr(callback, "__self__")
    )
    shell.run("%load_ext nbdream")


def test_configuration_is_listed(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run("%config NbDream.model = 'echo/echo'")
    shell.run("%%generate a -n 2\nHello")
    assert list(shell["a"]["a"]) == ["Hello", "Hello (draw 2)"]
    shell.run("%config NbDream")
    assert "NbDream.session" in capsys.readouterr().out


# --- the session ----------------------------------------------------------------------------------------------------


def test_the_first_cell_opens_a_session_and_says_so(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run("%%map scored --from rows\n{'score': len(row.haiku)}")
    assert "session: ./nbdream-output" in capsys.readouterr().out
    assert Path("nbdream-output/session.json").is_file()
    shell.run("%%map scored --from rows\n{'score': len(row.haiku)}")
    assert "session:" not in capsys.readouterr().out


def test_opening_another_folder_closes_the_first(shell: Shell) -> None:
    shell.run("%dream open ./one")
    shell.run("%%map a --from rows\n{'x': row.length}")
    shell.run("%dream open ./two")
    shell.run("%%map b --from rows\n{'x': row.length}")
    shell.run("%dream open ./two")
    assert "b" in str(shell.run("%dream status"))
    assert "a " not in str(shell.run("%dream status"))


def test_a_folder_from_a_newer_version_is_one_line(shell: Shell) -> None:
    Path("new").mkdir()
    Path("new/session.json").write_text('{"format": 999}')
    with pytest.raises(SessionError, match="newer") as caught:
        shell.run("%dream open ./new")
    assert len(caught.value._render_traceback_()) == 1


# --- %%generate -----------------------------------------------------------------------------------------------------


def test_generate_from_nothing_and_from_rows(echo: Shell) -> None:
    handle = echo.run("%%generate abstracts -m e -n 3 --as abstract\nWrite an abstract.")
    assert echo["abstracts"] is handle
    assert handle.output.column_names == ["abstract"]
    assert len(handle) == 3
    tweets = echo.run("%%generate tweets --from abstracts -m e --as tweet\n---\nsystem: Be careful.\n---\nTweet: {{ abstract }}")
    assert tweets.output.column_names == ["abstract", "tweet"]
    assert tweets[0]["tweet"] == f"Tweet: {handle[0]['abstract']}"


def test_the_column_is_the_results_name_unless_it_is_given(echo: Shell) -> None:
    assert echo.run("%%generate abstracts -m e -n 1\nHello").output.column_names == ["abstracts"]


def test_nothing_is_expanded(echo: Shell) -> None:
    echo["x"] = "wrong"
    handle = echo.run("%%generate a -m e -n 1 --system {x}$x\nSay {x} and $x, `echo hi`.")
    assert handle[0]["a"] == "Say {x} and $x, `echo hi`."


def test_an_instruction_is_laid_out_about_a_column(echo: Shell) -> None:
    handle = echo.run("%%generate t --from rows -m e --column haiku\nTranslate it.")
    assert "poem number 0" in handle[0]["t"]
    assert "Translate it." in handle[0]["t"]


def test_generate_with_a_schema_on_the_line_or_below_it(echo: Shell) -> None:
    echo.run("from pydantic import BaseModel\nclass Poem(BaseModel):\n    title: str\n    lines: list[str]")
    echo.run('from nbdream.llms import EchoLLM\npoet = EchoLLM(answers=[\'{"items": [{"title": "t", "lines": ["a"]}]}\'])')
    echo.run('one = EchoLLM(answers=[\'{"title": "t", "lines": ["a"]}\'])')
    many = echo.run("%%generate poems --from rows -m poet --schema list[Poem]\nWrite about {{ haiku }}")
    assert many.output.column_names == ["haiku", "length", "title", "lines", "source_row"]
    assert len(many.output) == len(ROWS)
    below = "---\nschema:\n  type: object\n  properties: {title: {type: string}}\n---\n"
    assert echo.run(f"%%generate titles -m one -n 2\n{below}Write a title.").output.column_names == ["title"]
    with pytest.raises(ArgumentError, match="schema"):
        echo.run("%%generate x -m one --schema 3\nWrite.")


def test_the_arrow_binds_and_shows_nothing(echo: Shell) -> None:
    assert echo.run("%%generate a << -m e -n 2\nHello") is None
    assert len(echo["a"]) == 2


def test_a_preview_binds_and_moves_no_pointer(echo: Shell) -> None:
    assert len(echo.run("%%generate t --from rows -m e --limit 5\n{{ haiku }}")) == 5
    assert "\nt  " not in str(echo.run("%dream status"))
    full = echo.run("%%generate t --from rows -m e\n{{ haiku }}")
    assert len(full) == 12
    assert full.node["usage"]["calls"] == 7


def test_a_frame_and_an_expression_as_rows(echo: Shell) -> None:
    pandas = pytest.importorskip("pandas")
    echo["df"] = pandas.DataFrame(ROWS)
    handle = echo.run('%%generate t --from "df[df.length < 3]" -m e\n{{ haiku }}')
    assert [row["t"] for row in handle] == ["poem number 0", "poem number 1", "poem number 2"]


def test_variables_only_through_with(echo: Shell) -> None:
    echo["style"] = "short"
    handle = echo.run("%%generate t --from rows -m e --with style\n{{ style }}: {{ haiku }}")
    assert handle[0]["t"] == "short: poem number 0"
    with pytest.raises(NbDreamError, match="style"):
        echo.run("%%generate u --from rows -m e\n{{ style }}: {{ haiku }}")
    with pytest.raises(ArgumentError, match="there is no variable 'tone'"):
        echo.run("%%generate u --from rows -m e --with tone\n{{ tone }}")


def test_filter_keeps_what_the_model_says_yes_to(shell: Shell) -> None:
    shell.run("%dream open ./output")
    shell.run('%dream model yesno = echo/echo answers=["Yes.", "No."]')
    kept = shell.run("%%filter good --from rows -m yesno --column haiku\nIs it good? Yes or No.")
    assert 0 < len(kept) < 12
    assert kept.output.column_names == ["haiku", "length"]


# --- %%map ----------------------------------------------------------------------------------------------------------


def test_map_is_python_over_the_row(shell: Shell) -> None:
    shell.run("def syllables(text):\n    return len(text.split())")
    scored = shell.run("%%map scored --from rows\nwords = syllables(row.haiku)\n{'score': words + row['length']}")
    assert scored.output.column_names == ["haiku", "length", "score"]
    assert scored[2]["score"] == 5
    key = scored.key
    assert shell.run("%%map scored --from rows\nwords=syllables( row.haiku )  # said\n{'score': words+row['length']}").key == key
    shell.run("def syllables(text):\n    return len(text.split()) + 1")
    again = shell.run("%%map scored --from rows\nwords = syllables(row.haiku)\n{'score': words + row['length']}")
    assert again.key != key
    assert again[2]["score"] == 6


def test_map_reads_only_the_columns_it_names(shell: Shell) -> None:
    key = shell.run("%%map scored --from rows\n{'score': len(row.haiku)}").key
    shell["rows"] = [{**row, "length": 99} for row in ROWS]
    again = shell.run("%%map scored --from rows\n{'score': len(row.haiku)}")
    assert again.key == key
    assert again[0]["length"] == 99
    whole = shell.run("%%map other --from rows\n{'n': len(row.keys())}")
    assert whole[0]["n"] == 2


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("{'x': row.haku}", r"no column 'haku' \(did you mean 'haiku'\?\)"),
        ("x = 1", "the last line of %%map is no expression"),
        ("{'x': ", "not Python"),
        ("", "no expression"),
    ],
)
def test_map_says_what_is_wrong(shell: Shell, body: str, says: str) -> None:
    with pytest.raises(NbDreamError, match=says):
        shell.run(f"%%map scored --from rows\n{body}\n")
    assert "scored" not in shell


# --- names ----------------------------------------------------------------------------------------------------------


def test_nothing_else_is_overwritten(echo: Shell) -> None:
    echo["tweets"] = "mine"
    with pytest.raises(ArgumentError, match=r"tweets is a variable already .*--force"):
        echo.run("%%generate tweets -m e -n 1\nHello")
    assert echo["tweets"] == "mine"
    echo.run("%%generate tweets -m e -n 1 --force\nHello")
    echo.run("%%generate tweets -m e -n 2\nHello")
    assert len(echo["tweets"]) == 2
    echo["tweets"] = "mine again"
    with pytest.raises(ArgumentError, match="already"):
        echo.run("%%generate tweets -m e -n 2\nHello")


@pytest.mark.parametrize("name", ["1st", "a-b", "class", "_x", "print"])
def test_results_are_identifiers(echo: Shell, name: str) -> None:
    with pytest.raises(ArgumentError, match=r"cannot name a result|Python's own"):
        echo.run(f"%%generate {name} -m e -n 1\nHello")


def test_the_variable_comes_first_then_the_session(echo: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    echo.run("%%generate a -m e -n 2\nHello")
    echo.ip.user_ns.pop("a")
    capsys.readouterr()
    handle = echo.run("%%generate b --from a -m e\n{{ a }}")
    assert "a: from the session, made just now" in capsys.readouterr().out
    assert len(handle) == 2
    echo["a"] = 5
    echo.run("%%generate b --from a -m e\n{{ a }}")
    assert "a: the session's result was taken; the variable a is a int" in capsys.readouterr().out


def test_a_model_is_a_variable_or_an_id(echo: Shell) -> None:
    assert len(echo.run("%%generate a -m echo/echo -n 1\nHello")) == 1
    echo["number"] = 5
    for given, says in (("gpt5", "gpt5"), ("number", "not a model"), ("nowhere/x", "nowhere"), ("ee", "did you mean 'e'")):
        with pytest.raises(NbDreamError, match=says):
            echo.run(f"%%generate a -m {given} -n 1\nHello")
    with pytest.raises(ArgumentError, match=r"no model is given .*-m demo"):
        echo.run("%%generate a -n 1\nHello")


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("%%generate b --from nope -m e\n{{ x }}", "there is no 'nope'"),
        ("%%generate b --from rowss -m e\n{{ x }}", "did you mean 'rows'"),
        ("%%generate b --from 'rows[' -m e\n{{ x }}", "not an expression"),
        ("%%generate b --from 1/0 -m e\n{{ x }}", "ZeroDivisionError"),
        ("%%generate b --from len -m e\n{{ x }}", "not|cannot|builtin"),
        ("%%generate b --from rows -m e\n{{ haku }}", "haiku"),
        ("%%generate b --from rows -m e -n 3\n{{ haiku }}", "--from and -n are both given"),
        ("%%generate b -m e -n 0\nx", "n is at least 1"),
        ("%%generate b -m e -n 1\n", "needs a prompt"),
        ("%%generate b --from rows -m e --temprature 1\n{{ haiku }}", "did you mean '--temperature'"),
        ("%%generate b --from rows -m e\n---\nsystem: [\n---\n{{ haiku }}", "line"),
        ("%%filter b -m e\nx", "needs --from"),
        ("%dream opne x", "did you mean 'open'"),
        ("%dream card nope", "there is no 'nope'"),
        ("%dream split rows", "takes 2 to 4 words"),
        ("%dream model gpt", "needs a name and a model"),
        ("%dream model gpt = openai/x hot", "no setting"),
        ("%dream why nope", "nope"),
    ],
)
def test_mistakes_are_one_line(echo: Shell, cell: str, says: str) -> None:
    with pytest.raises(NbDreamError, match=says) as caught:
        echo.run(cell)
    assert len(caught.value._render_traceback_()) == 1
    assert "\n" not in str(caught.value)
    assert "b" not in echo


# --- %dream ---------------------------------------------------------------------------------------------------------


def test_dream_alone_lists_its_verbs(shell: Shell) -> None:
    shown = str(shell.run("%dream"))
    for verb in ("open", "model", "status", "why", "cost", "card", "publish", "split"):
        assert f"%dream {verb}" in shown
    assert "--seed" in str(shell.run("%dream split --help"))


def test_help_gives_the_learning_rates_that_are_true() -> None:
    from nbdream.magics.train import MAGIC
    from nbdream.trainers import TrainHFFineTune

    rates = TrainHFFineTune.learning_rates
    said = [float(word) for word in re.findall(r"\de-\d", MAGIC.help())]
    assert said == [rates["full"], rates["lora"], rates["t5"]]
    assert max(map(len, MAGIC.help().splitlines())) <= 100


def test_models_take_settings(echo: Shell) -> None:
    echo.run('%dream model gpt = echo/named temperature=1e-1 system_prompt="Be kind." stop=["a", "b"]')
    gpt = echo["gpt"]
    assert (gpt.model_name, gpt.system_prompt, gpt.defaults) == ("named", "Be kind.", {"temperature": 0.1, "stop": ["a", "b"]})
    echo.run("%dream model gpt=echo/other")
    assert echo["gpt"].model_name == "other"
    assert "other" in str(echo.run("%dream model"))
    with pytest.raises(NbDreamError, match="temprature"):
        echo.run("%dream model gpt = echo/other temprature=1")


def test_a_key_on_the_line_reaches_no_record(echo: Shell) -> None:
    key = "sk-very-secret-key-4711"
    cell = f"%dream model gpt = openai/gpt-x api_key={key} base_url=http://127.0.0.1:9\ngood = a.filter(lambda row: True)"
    echo.run("%%generate a -m e -n 1\nHello")
    echo.run(cell)
    assert echo["good"].node["cell"]["source"].startswith("%dream model gpt = openai/gpt-x api_key=***")
    for path in Path("output").rglob("*"):
        if path.is_file():
            assert key.encode() not in path.read_bytes()


def test_splits_follow_their_name(echo: Shell) -> None:
    echo.run("%%generate t --from rows -m e\n{{ haiku }}")
    assert "t.train: 9 rows" in str(echo.run("%dream split t 0.75 0.25 --seed 42"))
    assert len(echo["t"].validation) == 3
    echo["rows"] = echo["rows"][:8]
    echo.run("%%generate t --from rows -m e\n{{ haiku }}")
    assert len(echo["t"].train) == 6
    assert len(echo.run("%%generate u --from t.validation -m e\n{{ t }}")) == 2


def test_status_says_what_is_stale(echo: Shell) -> None:
    echo.run("%%generate a -m e -n 2\nHello")
    echo.run("%%generate b --from a -m e\n{{ a }}")
    assert str(echo.run("%dream status")).count("fresh") == 2
    echo.run("%%generate a -m e -n 3\nHello")
    shown = str(echo.run("%dream status"))
    assert "stale" in shown
    why = str(echo.run("%dream why b"))
    assert "a" in why
    assert "a" in str(echo.run("%dream why a"))


def test_status_leaves_out_what_a_cell_took_over(echo: Shell) -> None:
    echo.run("%%generate t --from rows -m e\n{{ haiku }}")
    shown = str(echo.run("%dream status"))
    assert [line.split()[:4] for line in shown.splitlines()[2:-1]] == [["t", "fresh", "12", "rows"]]


def test_a_preview_of_map_leaves_no_name(echo: Shell) -> None:
    echo.run("%%generate t --from rows -m e\n{{ haiku }}")
    names = sorted(echo["t"].runner.names)
    assert len(echo.run("%%map m --from t --limit 5\n{'size': len(row.t)}")) == 5
    assert sorted(echo["t"].runner.names) == names
    assert len(echo.run("%%map m --from t\n{'size': len(row.t)}")) == 12


def test_why_tells_the_past_from_the_present(echo: Shell) -> None:
    echo.run("%%generate a -m e -n 2\nHello")
    assert str(echo.run("%dream why a")) == "a: nothing has changed; its cell costs nothing to run again"
    echo.run("%%generate b --from a -m e\n{{ a }}")
    echo.run("%%generate a -m e -n 3\nHello")
    ran, now = str(echo.run("%dream why a")).splitlines()
    assert ran == "a ran again: n 2 → 3"
    assert now == "a: nothing has changed since; its cell costs nothing to run again"
    assert str(echo.run("%dream why b")).startswith("b is stale: ")


def cost(shell: Shell) -> dict[str, list[str]]:
    """The lines of ``%dream cost``: calls that were paid, calls that were not, and failed ones."""
    lines = str(shell.run("%dream cost")).splitlines()[2:-1]
    return {name: counts[:3] for name, *counts in (re.split(r"\s{2,}", line.strip()) for line in lines)}


def test_cost_counts_calls(echo: Shell) -> None:
    echo.run("%%generate a -m e -n 2\nHello")
    assert "$0.00" in str(echo.run("%dream cost"))
    echo.run("%%generate a -m e -n 5\nHello")
    echo.run("%%generate again -m e -n 5\nHello")  # the same result under another name
    found = cost(echo)
    assert found["a"] == found["all"] == ["5", "2", "0"]
    assert "again" not in found, "it asked for nothing"
    assert found["model echo"][0] == "5"
    echo["e"].generate(["by hand"])
    assert cost(echo)["asked directly"] == ["1", "0", "0"]


def test_what_was_paid_before_an_interrupt_counts(shell: Shell) -> None:
    shell.run("%dream open ./output")
    shell.run("%dream model slow = echo/slow delay=0.05 max_concurrency=1")
    session: Any = context.current()

    def stop_early(event: dict[str, Any]) -> None:
        if event["type"] == "step.progress" and event["done"]:
            for step in session.running():
                step.stopping.set()

    session.subscribe(stop_early)
    with pytest.raises(Stopped):
        shell.run("%%generate long -m slow -n 500\nHello")
    paid, cached, _ = cost(shell)["long"]
    assert 1 <= int(paid) < 500
    assert cached == "0"


def test_card_and_lineage(echo: Shell) -> None:
    echo.run("%%generate a -m e -n 2\nHello")
    echo.run("%%generate b --from a -m e\n{{ a }}")
    bundle = echo.run("%dream card b").bundle
    assert "echo" in bundle["text/plain"]
    assert json.loads(bundle["text/plain"])
    assert "<script" not in bundle["text/html"]
    assert str(echo.run("%dream lineage b")).splitlines()[1].strip().startswith("└─ a")
    assert [line.split()[:2] for line in str(echo.run("%dream lineage")).splitlines()] == [["b", "(Generate,"], ["└─", "a"]]


# --- how results show themselves ------------------------------------------------------------------------------------


def test_a_handle_shows_its_first_page_and_the_saved_line(echo: Shell) -> None:
    echo.run("%%generate a << -m e -n 30\n<script>alert(1)</script>")
    bundle, _ = echo.ip.display_formatter.format(echo["a"])
    assert set(bundle) == {"text/plain", "text/html", "application/vnd.nbdream.table+json"}
    assert "first 10 of 30 rows · echo · made " in bundle["text/html"]
    assert "<script" not in bundle["text/html"]
    again, _ = echo.ip.display_formatter.format(echo["a"])
    assert again == bundle
    rows, _ = echo.ip.display_formatter.format(echo["a"].output)
    assert "first 10 of 30 rows" in rows["text/plain"]


# --- Tab ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "expected", "absent"),
    [
        ("%%generate t --te", "--temperature", "--as"),
        ("%%generate t --from a --f", None, "--from"),
        ("%%generate t -m ", "e", "rows"),
        ("%%generate t -m op", "openai/", "e"),
        ("%%generate t --from ", "a", "e"),
        ("%%generate t --on-fail ", "drop", "a"),
        ("%%generate t --from a --column ", "a", "drop"),
        ("%%generate t --from a -m e\nSay {{ ", "a", "e"),
        ("%%generate t --from a -m e\nSay ", None, "a"),
        ("%%generate t --from a\n---\nsys", "system:", "a"),
        ("%%train t --on a --method ", "sft", "a"),
        ("%%train t --on a\ninput: ", "a", "e"),
        ("%dream ", "status", "a"),
        ("%dream card ", "a", "status"),
        ("%dream model x = ", "demo", "a"),
        ("print(", None, "a"),
    ],
)
def test_tab(echo: Shell, before: str, expected: str | None, absent: str) -> None:
    echo.run("%%generate a << -m e -n 2\nHello")
    fragment, found = complete(echo.ip.nbdream.notebook, before, before)
    fitting = [value for value in found if value.startswith(fragment)]
    assert expected is None or expected in fitting
    assert absent not in fitting


def test_tab_through_ipython(echo: Shell) -> None:
    from IPython.core.completer import provisionalcompleter

    text = "%%generate t --temp"
    with provisionalcompleter():
        found = [completion.text for completion in echo.ip.Completer.completions(text, len(text))]
    assert found == ["--temperature"]


# --- real kernels ---------------------------------------------------------------------------------------------------


SETUP = "%dream open ./output\n%dream model e = echo/echo\n%dream model slow = echo/slow delay=0.25 max_concurrency=4"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with kernel_in(tmp_path_factory.mktemp("kernel")) as opened:
        loaded = opened.run("import sys, time\nbegan = time.perf_counter()\n%load_ext nbdream\ntook = time.perf_counter() - began")
        assert loaded.messages == [] or loaded.text == ""
        opened.run(SETUP)
        yield opened


def value(kernel: Kernel, expression: str) -> Any:
    result = kernel.run(f"import json, pathlib, sys; print(json.dumps({expression}))")
    assert result.status == "ok", result.error
    return json.loads(result.text)


@pytest.mark.slow
def test_load_ext_is_fast_and_light(kernel: Kernel) -> None:
    assert value(kernel, "took") < 2.0  # 0.16 s on a quiet machine
    heavy = ["torch", "transformers", "trl", "peft", "datasets", "openai", "anthropic"]
    assert value(kernel, f"[m for m in {heavy} if m in sys.modules]") == []


@pytest.mark.slow
def test_a_cell_is_awaited_and_its_value_reaches_out(kernel: Kernel) -> None:
    result = kernel.run("%%generate greetings -m e -n 3\nHello", cell_id="cell-one")
    assert result.status == "ok", result.error
    assert "3 rows · echo · made " in result.text
    assert value(kernel, "Out[max(Out)] is greetings and len(greetings)") == 3
    assert value(kernel, "greetings.node['cell']['id']") == "cell-one"
    assert value(kernel, "greetings.node['cell']['source'].startswith('%%generate greetings')")
    kinds = [message["msg_type"] for message in result.outputs]
    assert kinds == ["execute_result"]


@pytest.mark.slow
def test_the_saved_output_is_the_same_when_all_is_cached(kernel: Kernel) -> None:
    cell = "%%generate paced -m slow -n 6\nHello"
    first, second = kernel.run(cell), kernel.run(cell)
    assert any("new" in line for line in first.live), first.live
    assert not any("cached" in part["content"].get("data", {}).get("text/plain", "") for part in first.outputs)
    assert [part["content"]["data"] for part in first.outputs] == [part["content"]["data"] for part in second.outputs]
    assert "widget" not in json.dumps([part["content"] for part in first.outputs], default=str)


@pytest.mark.slow
def test_an_interrupt_is_back_within_a_second_and_nothing_is_lost(kernel: Kernel) -> None:
    cell = "%%generate long -m slow -n 400\nHello again"
    running = kernel.start(cell)
    for message in kernel.messages(running):
        if message["msg_type"] in ("display_data", "update_display_data") and "new" in message["content"]["data"]["text/plain"]:
            break
    began = time.monotonic()
    kernel.manager.interrupt_kernel()
    result = kernel.finish(running)
    assert time.monotonic() - began < 1.0
    assert result.status == "error"
    assert result.error.startswith("Stopped: interrupted")
    assert len(result.traceback) == 1
    again = kernel.start(cell)
    for message in kernel.messages(again):
        line = str(message["content"].get("data", {}).get("text/plain", ""))
        if " cached" in line:
            assert int(line.split(maxsplit=1)[0]) >= 4  # what had arrived before is there
            kernel.manager.interrupt_kernel()


@pytest.mark.slow
def test_where_nothing_can_be_awaited_the_magic_blocks(kernel: Kernel) -> None:
    result = kernel.run(
        "def make(name):\n"
        "    return get_ipython().run_cell_magic('generate', f'{name} -m e -n 2', 'In a function')\n"
        "made = [len(make(name)) for name in ('f1', 'f2')]"
    )
    assert result.status == "ok", result.error
    assert value(kernel, "made + [len(f2)]") == [2, 2, 2]
    timed = kernel.run("%%time\n%%generate timed -m e -n 2\nHello")
    assert timed.status == "ok"
    assert value(kernel, "len(timed)") == 2


@pytest.mark.slow
def test_a_mistake_fails_the_cell_in_one_line(kernel: Kernel) -> None:
    result = kernel.run("%%generate x -m e --temprature 1\nHello")
    assert result.status == "error"
    assert result.traceback == ["ArgumentError: %%generate knows no option --temprature (did you mean '--temperature'?)"]


@pytest.mark.slow
def test_a_restarted_kernel_takes_names_from_the_session(kernel: Kernel) -> None:
    kernel.run("%%generate kept -m e -n 2\nHello")
    kernel.manager.restart_kernel(now=True)
    kernel.client.wait_for_ready(timeout=60)
    kernel.run(f"took = 0.0\n%load_ext nbdream\n{SETUP}")
    result = kernel.run("%%generate more --from kept -m e\n{{ kept }}")
    assert result.status == "ok", result.error
    assert "kept: from the session, made " in result.text
    assert "has not run in this kernel" in result.text


TRAIN = "%%train counter --on counting --eval counting --base demo\ninput: q\noutput: a\nepochs: 10\nbatch_size: 4\n"
STEPS = 120  # seconds of training: enough for a page to be renewed many times before it ends


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training_shows_a_live_curve_stops_at_once_and_resumes(kernel: Kernel) -> None:
    kernel.run("counting = [{'q': f'say {number}', 'a': f'number {number}'} for number in range(48)]")
    for line, says in (("epoch: 2", "did you mean 'epochs'"), ("input: qq", "did you mean 'q'")):
        wrong = kernel.run(TRAIN.replace("epochs: 10" if "epoch" in line else "input: q", line))
        assert says in wrong.error
        assert len(wrong.traceback) == 1

    running = kernel.start(TRAIN)
    asked = 0.0
    for message in kernel.messages(running, timeout=240):
        if points(message) >= 2 and not asked:
            asked = time.monotonic()
            kernel.manager.interrupt_kernel()
    assert 0 < time.monotonic() - asked < 1.0

    running = kernel.start(TRAIN)
    result = CellResult()
    for message in kernel.messages(running, timeout=300):
        result.messages.append(message)
    told = value(kernel, "[line for path in pathlib.Path('output/objects').glob('*/events.jsonl') for line in path.open()]")
    assert [json.loads(line)["type"] for line in told].count("resumed") == 1, "it was stopped before its end"
    assert max(points(message) for message in result.messages) >= 10  # on the page, before the run ended
    (last,) = result.outputs
    assert set(last["content"]["data"]) == {"text/plain", "image/svg+xml", CURVE}
    assert f"counter · demo · {STEPS} steps · learning rate 2e-05 · loss " in last["content"]["data"]["text/plain"]
    assert last["content"]["data"]["image/svg+xml"].count("<polyline") == 2
    assert value(kernel, "'torch' in sys.modules") is False

    again = kernel.run(TRAIN)
    assert again.outputs[0]["content"]["data"] == last["content"]["data"]
    assert again.seconds < 10


def points(message: dict[str, Any]) -> int:
    """How many points of loss a message to the page holds."""
    state = message["content"].get("data", {}).get("state", {}) if message["msg_type"] == "comm_msg" else {}
    return len(state.get("series", {}).get("loss", []))
