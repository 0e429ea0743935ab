"""Replaying: a shared notebook is executed without a network, from stored replies alone, and every table comes out as it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdream.cli import main, runner
from nbdream.cli.runner import run_notebook
from nbdream.hub.shut import HOOK, NAMESPACE
from tests.servers.openai_server import OpenAIServer
from tests.test_cli import write_notebook

EXAMPLES = Path(__file__).parent.parent / "example_notebooks"
PROBE = """\
import asyncio, concurrent.futures, json, os, socket, subprocess, sys, urllib.request
import aiohttp, httpx2

PORT = {port}
URL = f"http://127.0.0.1:{{PORT}}/"

async def by_aiohttp():
    async with aiohttp.ClientSession() as client:
        await client.get(URL)

def by_udp():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", PORT))

def by_another(*command):
    if subprocess.run(command, capture_output=True).returncode:
        raise OSError

tries = {{
    "socket": lambda: socket.create_connection(("127.0.0.1", PORT), 5),
    "ipv6": lambda: socket.create_connection(("::1", PORT), 5),
    "name": lambda: socket.getaddrinfo("localhost", PORT) and socket.create_connection(("localhost", PORT), 5),
    "urllib": lambda: urllib.request.urlopen(URL, timeout=5),
    "httpx": lambda: httpx2.get(URL, timeout=5),
    "aiohttp": lambda: concurrent.futures.ThreadPoolExecutor(1).submit(asyncio.run, by_aiohttp()).result(),
    "udp": by_udp,
    "python": lambda: by_another(sys.executable, "-P", "-c", f"import socket; socket.create_connection(('127.0.0.1', {{PORT}}), 5)"),
    "bash": lambda: by_another("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{{PORT}}"),
}}
reached = []
for name, reach in tries.items():
    try:
        reach()
        reached.append(name)
    except OSError:
        pass
    except Exception as error:
        if not isinstance(error.__cause__ or error.__context__, Exception):
            reached.append(f"{{name}}: {{error!r}}")
"""
FACT = """\
from pydantic import BaseModel, field_validator

class Fact(BaseModel):
    subject: str
    year: int
    @field_validator("year")
    @classmethod
    def late(cls, value):
        return value + 1
"""
CELLS = [
    "%load_ext nbdream\n%dream open ./output",
    "%dream model gpt = openai/gpt-4.1 base_url={url} temperature=1.0",
    FACT,
    "%%generate abstracts -m gpt -n 8 --as abstract\nWrite an abstract.",
    "%%generate facts --from abstracts -m gpt --draws 2 --schema Fact\nState a fact of: {{{{ abstract }}}}",
    "%%map sized --from facts\n{{'tweet': row.subject + ' in ' + str(row.year)}}",
    "%%annotate taste --from abstracts --column abstract",
    "for row in range(6):\n    taste.decide(row, 'edit' if row == 2 else 'accept', 'an edit' if row == 2 else None)\nlen(taste)",
    "%%train tweeter --method sft --on sized --base demo\ninput: abstract\noutput: tweet\nmax_steps: 2\nbatch_size: 8\nlora: {{r: 4}}",
    "print(tweeter('A word'), tweeter.base('A word', max_tokens=4))",
    "%%generate retold --from taste -m tweeter --as told --max-tokens 8\n{{{{ reviewed }}}}",
]
TABLES = {"abstracts", "facts", "sized", "taste", "tweeter", "retold"}


def reply(body: dict[str, Any], count: int) -> str:
    said = body["messages"][-1]["content"]
    return json.dumps({"subject": said[-8:], "year": 1900 + count}) if said.startswith("State") else f"An abstract, the {count}."


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(reply=reply) as running:
        yield running


@pytest.fixture(scope="module")
def shared(server: OpenAIServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of a notebook with structured answers, several draws, annotation and training."""
    folder = tmp_path_factory.mktemp("author")
    probe = (
        PROBE.format(port=server.port)
        + """
if os.environ.get("NBDREAM_REPLAY"):
    with open("reached.json", "w") as file:
        json.dump(reached if "" in sys.path else ["modules beside the notebook are not"], file)"""
    )
    cells = [*(cell.format(url=server.base_url) for cell in CELLS), probe]
    book = write_notebook(folder / "a.ipynb", cells)
    run = run_notebook(book, folder, say=lambda line: None, html=False)
    assert [cell.says for cell in run.cells if cell.state != "done"] == []
    here = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["share", "a.ipynb", "a.zip"]) == 0
    finally:
        os.chdir(here)
    return folder / "a.zip"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another person's machine: a new home, no keys."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "HF_TOKEN")):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_everything_comes_out_as_it_was(shared: Path, server: OpenAIServer, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = server.calls
    assert main(["replay", str(shared), "--yes", "--json", "--folder", "there"]) == 0, capsys.readouterr().out
    said = json.loads(capsys.readouterr().out)
    assert said["cells_failed"] == []
    assert {table["name"] for table in said["tables"]} == TABLES
    assert {table["state"] for table in said["tables"]} == {"same"}
    assert {table["name"] for table in said["tables"] if table["bytes_same"]} == TABLES - {"tweeter"}
    assert said["calls"] == 0
    assert server.calls == before
    assert json.loads((elsewhere / "there" / "reached.json").read_text()) == ([] if said["network"] == NAMESPACE else ["bash"])
    assert said["network"] in (NAMESPACE, HOOK)
    assert not list((elsewhere / "there").rglob("checkpoints"))  # it was not trained again
    (spec,) = (elsewhere / "there").rglob("spec.json")
    assert not (spec.parent / json.loads(spec.read_text())["model"]["path"]).exists()  # nor is anything taken for its base model

    assert main(["verify", str(shared), "--json"]) == 0
    states = {table["name"]: table["state"] for table in json.loads(capsys.readouterr().out)["tables"]}
    code = {"facts": "needs code", "sized": "needs code"}
    assert states == {"abstracts": "same", "taste": "same", "retold": "same", "tweeter": "training run", **code}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_what_differs_is_said_with_why(shared: Path, server: OpenAIServer, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unpack", str(shared), "theirs"]) == 0
    book = elsewhere / "theirs" / "a.ipynb"
    edited = json.loads(book.read_text())
    for cell in edited["cells"]:
        text = "".join(cell["source"])
        if text.startswith("%%map"):
            cell["source"] = text.replace(" in ", " at ")
        elif text.startswith("%%generate retold"):
            cell["source"] = text.replace("--max-tokens 8", "--max-tokens 9")
    book.write_text(json.dumps(edited))
    before = server.calls
    capsys.readouterr()
    assert main(["replay", "theirs", "--yes", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    tables = {table["name"]: table for table in said["tables"]}
    assert {name: table["state"] for name, table in tables.items()} == {
        "abstracts": "same", "facts": "same", "taste": "same", "sized": "differs", "tweeter": "not made", "retold": "not made",
    }  # fmt: skip
    assert "tweet: 16 of 16 values differ" in tables["sized"]["says"]
    assert "row.subject + ' at '" in tables["sized"]["says"]
    failed = " ".join(said["cells_failed"])
    assert "TrainingError: the run of tweeter is not in the archive" in failed
    assert len(said["cells_failed"]) == 3  # and what needs tweeter
    assert said["calls"] == 0
    assert server.calls == before


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_replies_that_are_missing(shared: Path, server: OpenAIServer, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["share", str(shared.with_name("a.ipynb")), "bare.zip", "--no-calls"]) == 0
    capsys.readouterr()
    before = server.calls
    assert main(["replay", "bare.zip", "--yes", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    tables = {table["name"]: (table["state"], table["says"]) for table in said["tables"]}
    assert tables["abstracts"] == ("not made", "8 of 8 replies are not stored")
    assert tables["sized"] == ("not made", "its cell did not make it")
    assert "ModelError: a reply is not stored (a replay asks no model)" in said["cells_failed"][0]
    assert server.calls == before


def test_it_asks_first(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from nbdream import Session
    from nbdream.llms import EchoLLM
    from nbdream.steps import Generate

    book = write_notebook(tmp_path / "a.ipynb", ["open('sung', 'w')"])
    with Session("./output"):
        Generate("lines", args={"llm": EchoLLM(), "template": "x"})
    assert main(["share", str(book), "a.zip"]) == 0
    assert main(["replay", "a.zip"]) == 2
    assert "a replay executes the archive's code (say --yes if you trust who made it" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main(["replay", "a.zip"]) == 2
    assert "nothing was executed" in capsys.readouterr().err
    assert not list(tmp_path.rglob("sung"))


def test_without_a_namespace_pythons_own_sockets_are_held(server: OpenAIServer, tmp_path: Path) -> None:
    """Where no namespace can be had (macOS, some containers): the hook, here and in every Python that is started."""
    code = "import nbdream.hub.shut as shut\nshut._namespace = lambda: False\nhow = shut.shut()\n"
    code += PROBE.format(port=server.port) + "print(json.dumps([how, reached]))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "NBDREAM_REPLAY": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [HOOK, ["bash"]]  # what the docs say: other programs are not held


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.getuid() != 0, reason="only root can be somebody else")
def test_who_is_not_root_has_a_namespace_of_its_own() -> None:
    code = "import os, sys\nsys.path.insert(0, sys.argv[1])\nimport shut\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    code += "os.chdir(sys.argv[2])\nhow = shut.shut()\nopen('mine', 'w').close()\nprint(how, os.getuid())"
    hub = str(Path(runner.__file__).parents[1] / "hub")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, hub, folder],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"PATH": os.environ["PATH"]},
        )
        if done.stdout.startswith(HOOK):
            pytest.skip("this system gives nobody a namespace")
        assert done.stdout == f"{NAMESPACE} 65534\n", done.stderr
        assert (Path(folder) / "mine").exists()


def test_from_the_hub(tmp_path: Path, hub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A repository that holds an archive is fetched first; here it is then refused."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo("org/shared", repo_type="dataset")
    api.upload_file(path_or_fileobj=b"not a zip", path_in_repo="shared.zip", repo_id="org/shared", repo_type="dataset")
    assert main(["replay", "org/shared", "--yes"]) == 2
    assert "it is no zip" in capsys.readouterr().err
    assert main(["replay", "org/nothing", "--yes"]) == 2
    assert "neither a file org/nothing here nor a repository" in capsys.readouterr().err


@pytest.mark.stress
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("number", "code"), [(0, {"tweets"}), (1, {"pairs", "ranked", "scores"})])
def test_the_example_notebooks(elsewhere: Path, capsys: pytest.CaptureFixture[str], number: int, code: set[str]) -> None:
    example = sorted(EXAMPLES.glob("*.ipynb"))[number]
    book = elsewhere / "author" / example.name
    book.parent.mkdir()
    shutil.copyfile(example, book)
    run = run_notebook(book, book.parent, say=print, html=False)
    assert run.ok
    assert main(["share", str(book), "a.zip"]) == 0
    capsys.readouterr()
    assert main(["replay", "a.zip", "--yes", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {table["state"] for table in said["tables"]} == {"same"}
    assert said["cells_failed"] == []
    assert said["calls"] == 0
    assert main(["verify", "a.zip", "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)["tables"]
    assert {table["state"] for table in tables} == {"needs code", "same", "training run"}
    assert {table["name"] for table in tables if table["state"] == "needs code"} == code
