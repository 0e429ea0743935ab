"""Bad input, cell by cell in a real kernel: one line with a hint, no traceback, a failed cell, and nothing lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import free_port
from tests.notebook import CellResult, Kernel, kernel_in
from tests.servers.openai_server import OpenAIServer

SETUP = """
%load_ext nbdream
%dream open ./output
%dream model e = echo/echo
import pathlib
import pandas as pd
import nbdream
from nbdream.llms import OpenAI
from nbdream.steps import *
rows = [{'q': f'question {i}', 'a': f'answer {i}', 'n': i} for i in range(12)]
nulls = [{'q': 'one', 'a': 'two'}, {'q': None, 'a': 'x'}]
files = {
    'binary.csv': b'\\x89PNG\\r\\n\\x1a\\n\\0\\0', 'latin.csv': b'a,b\\ncaf\\xe9,1\\n', 'ragged.csv': b'a,b\\n1,2\\n3,4,5\\n',
    'head.csv': b'a,b\\n', 'page.csv': b'<!doctype html>', 'bad.json': b'[{"a": 1},\\n{"a": }]', 'afile': b'x',
    'newer/session.json': b'{"format": 999}', 'nomodel/readme.txt': b'x', 'nokind/config.json': b'{}', 'nojson/config.json': b'{',
}
for name, content in files.items():
    pathlib.Path(name).parent.mkdir(exist_ok=True)
    pathlib.Path(name).write_bytes(content)
def bound():
    return {name: id(value) for name, value in get_ipython().user_ns.items() if name[0] != '_' and name not in ('In', 'Out', 'before')}
"""

GENERATE = "%%generate b --from rows -m e\n"
TRAIN = "%%train b --on rows --base demo\ninput: q\noutput: a\n"

CASES: dict[str, str] = {
    # models
    "%%generate b -m nowhere/x -n 1\nx": r"there is no model 'nowhere/x' \(the providers are one of: anthropic, demo",
    "%%generate b -m gpt-4o -n 1\nx": r"did you mean 'openai/gpt-4o'\?",
    "%%generate b -m rows -n 1\nx": r"-m rows is a list, not a model \(the models are",
    "%%generate b -n 1\nx": r"no model is given \(add -m NAME .* or -m demo",
    "%%generate b -m openai/gpt-4o-mini -n 1\nx": r"no key for gpt-4o-mini: OPENAI_API_KEY is not set \(.*-m demo",
    "%%generate b -m hf/no-such-model -n 1\nx": r"there is no folder 'no-such-model', and the Hub cannot be reached",
    "%%generate b -m hf/./nomodel -n 1\nx": r"holds no model: there is no config.json",
    "%%generate b -m hf/./nokind -n 1\nx": r"its config.json names no model_type",
    "%dream model gpt = openai/x temprature=1": r"did you mean 'temperature'",
    "%dream model gpt = openai/x temperature=hot": r"temperature is 'hot', not a number",
    "%dream model gpt = openai/x max_concurrency=many": r"max_concurrency is 'many' \(it is a whole number",
    "%dream model gpt = openai/x base_url=nope": r"base_url is not a web address",
    "%dream model gpt = openai/x model_name=y": r"names the model already",
    # options and front matter
    GENERATE.replace("-m e", "-m e --temprature 1") + "{{ q }}": r"knows no option --temprature \(did you mean '--temperature'",
    GENERATE + "---\ntemprature: 1\n---\n{{ q }}": r"knows no key 'temprature' \(did you mean 'temperature'",
    GENERATE + "---\ntemperature: hot\n---\n{{ q }}": r"temperature is a number, not 'hot'",
    GENERATE + "---\ntop_p: 5\n---\n{{ q }}": r"top_p is 5 \(it is 0 to 1",
    GENERATE + "---\nstop: {a: 1}\n---\n{{ q }}": r"it is a text or a list of texts",
    GENERATE + "---\nextra: [3]\n---\n{{ q }}": r"extra is \[3\] \(it is a mapping",
    GENERATE + "---\nsystem: 5\n---\n{{ q }}": r"system is text, not 5",
    GENERATE + "---\nsystem: x\n{{ q }}": r"the front matter is not closed \(end it with a line",
    GENERATE + "---\na: b: c\n---\n{{ q }}": r"line 3: mapping values are not allowed here \(quote a text",
    GENERATE + "---\n- a\n---\n{{ q }}": r"line 3: not a mapping \(one `key: value` a line",
    GENERATE + "---\nsystem: !!python/object:os.system x\n---\n{{ q }}": r"the tag .* is not allowed",
    "%%generate b -m e -n 0\nx": r"n is at least 1, not 0",
    "%%generate b -m e -n abc\nx": r"-n is a whole number, not 'abc'",
    "%%generate b -m e -n 1 --max-tokens -5\nx": r"max_new_tokens is -5",
    "%%generate b -m e -n 1 --on-fail explode\nx": r"it is one of: drop, keep, stop",
    "%%generate b -m e -n 1\n": r"needs a prompt \(write it below",
    "%%generate b -m e -n 1 --column q\nx": r"there are no rows \(give the rows: --from ROWS",
    "%%generate b -m e -n 1 --as __row__\nx": r"a column cannot be called '__row__'",
    # templates
    GENERATE + "{{ qq }}": r"`qq`, which is no column \(did you mean 'q'\? the columns are: q, a, n\)",
    GENERATE + "{{ q": r"line 1 of the template: unexpected end .*raw",
    GENERATE + "{{ q | uper }}": r"No filter named 'uper' \(did you mean 'upper'",
    GENERATE + "Summarize.": r"several columns are of text: q, a \(write a template, \{\{ q \}\}",
    "%%generate b --from nulls -m e\n{{ q }}": r"row 1: `q` is empty \(write \{\{ q or '' \}\} or --drop-null",
    "%%generate b --from rows -m e --with pd\n{{ pd }} {{ q }}": r"--with: pd is a module",
    # rows
    "%%generate b --from [] -m e\n{{ q }}": r"--from \[\] has no rows",
    "%%generate b --from \"pd.DataFrame({'q': []})\" -m e\n{{ q }}": r"has no rows",
    "%%generate b --from empty -m e\n{{ ok }}": r"'ok \(filter\)' has no rows",
    TRAIN.replace("--on rows", "--on empty").replace(": q", ": ok").replace(": a", ": ok"): r"there is no row in 'ok'",
    "%%generate b --from 5 -m e\n{{ q }}": r"--from 5 is a int \(give a result",
    "%%generate b --from rowz -m e\n{{ q }}": r"there is no 'rowz' \(did you mean 'rows'",
    "%%generate b --from \"[{'q': 1}, {'q': 'x'}]\" -m e\n{{ q }}": r"column 'q' mixes int and str: row 1 is 'x'",
    "%%generate b --from \"pd.DataFrame([[1, 2]], columns=['q', 'q'])\" -m e\n{{ q }}": r"two columns are called 'q'",
    "%%map b --from rows\n{'x': 1 if row.n < 5 else 'a'}": r"column 'x' mixes int and str: row 5",
    "%%map b --from rows\n{'x': 1 / (row.n - 3)}": r"ZeroDivisionError: division by zero, in row 3 .*\(at: \{'x'",
    "%%map b --from rows\n{'x': row.nope}": r"no column 'nope' \(their columns are",
    "%%map b --from rows\n{'x': await row.q}": r"not Python: 'await' outside function",
    "%%map b --from rows\n{'': 1}": r"a column cannot be called ''",
    "CSVDataSource('c', data_files='binary.csv')": r"binary.csv is not",
    "CSVDataSource('c', data_files='latin.csv')": r"is not text in utf-8 \(byte 7\) \(give its encoding=",
    "CSVDataSource('c', data_files='ragged.csv')": r"is not a CSV: .*Expected 2 columns, got 3",
    "CSVDataSource('c', data_files='page.csv')": r"it looks like a web page",
    "CSVDataSource('c', data_files='head.csv')": r"has no rows",
    "CSVDataSource('c', data_files='none.csv')": r"there is no file none.csv",
    "CSVDataSource('c', data_files=5)": r"data_files is a int",
    "JSONDataSource('j', data_files='bad.json')": r"bad.json is not JSON: line 1",
    # names
    "%%generate rows -m e -n 1\nx": r"rows is a variable already .*--force",
    "%%generate e -m e -n 1\nx": r"e is a model already .*--force",
    "%dream model ok = echo/x": r"ok is a result already .*--force",
    "%%generate print -m e -n 1\nx": r"print is a name of Python's own",
    "%%generate class -m e -n 1\nx": r"'class' cannot name a result",
    "%%generate a/b -m e -n 1\nx": r"'a/b' cannot name a result",
    "%%generate 🙂 -m e -n 1\nx": r"'🙂' cannot name a result",
    # training
    TRAIN + "epoch: 1\n": r"knows no key 'epoch' \(did you mean 'epochs'",
    TRAIN + "epochs: x\n": r"epochs is 'x', not a number",
    TRAIN + "bf16: maybe\n": r"bf16 is 'maybe', not true or false",
    TRAIN + "fsdp: no\n": r"fsdp is 'no' \(it is true or false",
    TRAIN + "optim: adamw\n": r"optim cannot be 'adamw' \(did you mean",
    TRAIN + "lr_scheduler_type: nope\n": r"lr_scheduler_type cannot be 'nope' \(it is one of",
    TRAIN + "lora: {rank: 8}\n": r"lora has no setting 'rank'",
    TRAIN + "lora: {r: x}\n": r"r is 'x', not a whole number",
    TRAIN + "dtype: float99\n": r"there is no dtype 'float99'",
    TRAIN + "system: 5\n": r"system_prompt is 5, not a text",
    TRAIN + "chat_prompt_template: hello\n": r"no prompt format 'hello' \(it is a template with \{\{prompt\}\}, or one of: alpaca",
    TRAIN.replace("output: a\n", ""): r"needs the column 'output'",
    TRAIN.replace("output: a", "output: n"): r"column 'n' holds int64, not text",
    TRAIN.replace("--on rows", "--on nulls"): r"row 1 of 'q' is null \(leave such rows out",
    TRAIN.replace("--base demo", "--base nomodel"): r"holds no model",
    TRAIN.replace("--base demo", "--base nojson"): r"names no model_type",
    TRAIN.replace("--base demo", "--base demo --devices 3"): r"batch_size 8 cannot be cut into 3 equal parts",
    # the session
    "%dream open newer": r"was made by a newer nbdream \(format 999",
    "%dream open afile": r"is a file, not a folder",
    "%dream open afile/x": r"cannot be written: Not a directory",
    "%dream open " + "y" * 300: r"cannot be written: File name too long",
    "%dream opne x": r"did you mean 'open'",
    "%dream card okk": r"there is no 'okk' \(did you mean 'ok'",
    "%dream split ok 0.5 nan": r"sizes train=0.5, validation=nan",
    "%dream publish ok ./afile": r"afile is a file \(publish to a folder of its own",
    "ok.output['okk']": r"there is no column 'okk' \(did you mean 'ok'",
    "ok.export_to_hf_dataset('afile')": r"afile cannot be written",
    "nbdream.Session('elsewhere').start()": r"a session is open already",
}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with kernel_in(tmp_path_factory.mktemp("kernel")) as opened:
        for source in (SETUP, "%%generate ok << -m e -n 6\nHello", "empty = ok.filter(lambda row: False)", "before = bound()"):
            assert opened.run(source).error == ""
        yield opened


def line_of(result: CellResult) -> str:
    """The one line of a cell that failed as it should."""
    assert result.status == "error", result.text
    assert len(result.traceback) == 1, result.traceback
    (line,) = result.traceback
    assert "\n" not in line
    assert re.search(r"\(.+\)$", line), f"no hint: {line}"
    assert [message["msg_type"] for message in result.outputs] == ["error"]
    return line


@pytest.mark.slow
@pytest.mark.parametrize("cell", CASES, ids=lambda cell: re.sub(r"\s+", " ", cell)[:60])
def test_it_is_one_line_with_a_hint(kernel: Kernel, cell: str) -> None:
    assert re.search(CASES[cell], line_of(kernel.run(cell)))
    after = kernel.run("assert bound() == before, set(bound().items()) ^ set(before.items())\nassert len(ok) == 6")
    assert after.error == ""


@pytest.mark.slow
def test_a_session_stays_open_when_another_cannot_be(kernel: Kernel) -> None:
    for folder in ("newer", "afile", "afile/x"):
        line_of(kernel.run(f"%dream open {folder}"))
    assert kernel.run("assert nbdream.Session.get_output_folder_path().endswith('/output')").error == ""


def model(kernel: Kernel, name: str, url: str, **settings: Any) -> None:
    words = " ".join(f"{key}={value}" for key, value in settings.items())
    assert kernel.run(f"%dream model {name} = openai/gpt-{name} base_url={url} {words}\nbefore = bound()").error == ""


@pytest.mark.slow
def test_a_wrong_key_is_asked_once_and_shown_nowhere(kernel: Kernel) -> None:
    with OpenAIServer(key="sk-the-right-key-4711") as server:
        model(kernel, "wrong", server.base_url, api_key="sk-a-wrong-key-0815")
        line = line_of(kernel.run("%%generate b -m wrong -n 50 --temperature 1\nHello"))
        assert server.calls == 1
    assert "Incorrect API key provided" in line
    assert "sk-a-wrong-key-0815" not in line


@pytest.mark.slow
def test_a_server_that_is_not_there_is_given_up_soon(kernel: Kernel) -> None:
    model(kernel, "away", f"http://127.0.0.1:{free_port()}/v1")
    result = kernel.run("%%generate b -m away -n 50 --temperature 1\nHello")
    assert "cannot be reached (is a server running at http://127.0.0.1:" in line_of(result)
    assert result.seconds < 10


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["html", "another kind of JSON"])
def test_a_server_of_another_kind_is_given_up_soon(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    with OpenAIServer() as server:
        if answer == "html":
            server.always = "html"
        else:
            monkeypatch.setattr(server, "_completion", lambda body: {"detail": "Not Found"})
        model(kernel, "other", server.base_url)
        result = kernel.run("%%generate b -m other -n 50 --temperature 1\nHello")
        assert "the server's answer is no chat completion (check base_url" in line_of(result)
        assert server.calls == 4
    assert result.seconds < 12


@pytest.mark.slow
def test_what_has_arrived_before_an_error_is_kept(kernel: Kernel) -> None:
    with OpenAIServer() as server:
        refused: list[object] = []
        server.fails = lambda body: refused.append(body) or 403 if server.answered >= 30 else None
        model(kernel, "halfway", server.base_url, max_concurrency=4)
        cell = "%%generate b -m halfway -n 50 --temperature 1\nHello"
        assert "this key may not use this model" in line_of(kernel.run(cell))
        server.fails = lambda body: None
        assert kernel.run(cell + "\n").error == ""
        assert 1 <= len(refused) <= 4
        assert server.calls == 50 + len(refused)
    assert kernel.run("assert len(b) == 50\ndel b").error == ""


@pytest.mark.slow
def test_a_long_name_and_a_foreign_one_are_names(kernel: Kernel) -> None:
    for name in ("x" * 300, "é", "match"):
        assert kernel.run(f"%%generate {name} << -m e -n 1\nHello\n").error == ""
        assert kernel.run(f"del {name}").error == ""
        loaded = kernel.run(f"%%generate b << --from {name} -m e\n{{{{ {name} }}}}")
        assert loaded.error == ""
        kernel.run("del b")
