"""Sharing: what goes into an archive and what stays, what stops it, and going on with what a colleague has shared."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdream import Session
from nbdream.cache import CallCache
from nbdream.cli import main
from nbdream.errors import ArgumentError, DataError, HubError
from nbdream.hub import archive
from nbdream.hub.share import share
from nbdream.hub.unpack import unpack
from nbdream.llms import EchoLLM, OpenAI
from nbdream.magics import sharing
from nbdream.steps import Annotation, DataSource, Generate
from tests.notebook import Shell
from tests.test_cli import write_notebook

HOME = "/home/ann.example"
KEY = "sk-" + "a1B2" * 8


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    return write_notebook(tmp_path / "a.ipynb", ["%load_ext nbdream"])


def cell(name: str, number: int = 1) -> dict[str, Any]:
    return {"id": f"c{number}", "notebook": name, "number": number, "source": ""}


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def test_the_same_is_the_same_archive(session: Session, notebook: Path, tmp_path: Path) -> None:
    rows = DataSource("topics", {"topic": ["rain", "snow", "rain"]})
    Generate("lines", inputs={"rows": rows.output}, args={"llm": EchoLLM(temperature=1), "template": "On {{ topic }}", "draws": 2})
    first = share(session, tmp_path / "first.zip", notebook)
    assert (first.tables, first.models, first.calls) == (2, 0, 6)
    share(session, tmp_path / "second.zip", notebook)
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()

    manifest = json.loads(contents(first.path)["nbdream-archive.json"])
    assert manifest["format"] == 1
    assert manifest["environment"]["packages"]["pyarrow"]
    assert manifest["environment"]["python"]
    assert {table["name"] for table in manifest["tables"]} == {"topics", "lines"}
    assert manifest["files"].keys() == contents(first.path).keys() - {"nbdream-archive.json"}
    assert str(tmp_path) not in "".join(map(str, contents(first.path).values()))  # nothing of this machine


def test_only_what_the_notebook_reaches(session: Session, notebook: Path, tmp_path: Path) -> None:
    model = EchoLLM()
    session.new_execution(cell("b.ipynb"))
    Generate("private", args={"llm": model, "template": "a plan nobody knows", "n": 2})
    other = Generate("shared", args={"llm": model, "template": "of the other notebook", "n": 2})
    session.new_execution(cell("a.ipynb"))
    Generate("mine", inputs={"rows": other.output}, args={"llm": model, "template": "{{ generation }}!"})
    session.new_execution(cell("a.ipynb"))
    Generate("mine", args={"llm": model, "template": "a second thought"})
    shared = share(session, tmp_path / "a.zip", notebook)
    assert shared.left_out == ["private", "shared"]
    text = b"".join(contents(shared.path).values())
    assert b"a second thought" in text
    for left_out in (b"a plan nobody knows", b"of the other notebook!"):  # another notebook's, and an earlier result
        assert left_out not in text


def test_an_ancestor_comes_with_its_descendant(session: Session, notebook: Path, tmp_path: Path) -> None:
    session.new_execution(cell("b.ipynb"))
    above = Generate("above", args={"llm": EchoLLM(), "template": "of the other notebook", "n": 2})
    session.new_execution(cell("a.ipynb"))
    below = Generate("below", inputs={"rows": above.output}, args={"llm": EchoLLM(), "template": "{{ generation }}!"})
    shared = share(session, tmp_path / "a.zip", notebook)
    assert {name.split("/")[2] for name in contents(shared.path) if "/objects/" in name} == {above.key, below.key}
    assert shared.calls == 4


@pytest.mark.parametrize(
    ("planted", "kind", "said"),
    [
        (KEY, "secrets", "row 1 of column 'topic' in 'topics' holds what looks like an API key"),
        (HOME + "/thesis", "paths", "row 1 of column 'topic' in 'topics' holds what looks like a path of a home directory"),
    ],
)
def test_what_looks_wrong_stops_it_with_its_place(
    session: Session, notebook: Path, tmp_path: Path, planted: str, kind: str, said: str
) -> None:
    DataSource("topics", {"topic": ["rain", f"see {planted}"]})
    with pytest.raises(HubError, match=said):
        share(session, tmp_path / "a.zip", notebook)
    assert not list(tmp_path.glob("*.zip"))
    assert share(session, tmp_path / "a.zip", notebook, allow=[kind]).path.exists()


def test_a_secret_in_the_notebook_or_a_reply(session: Session, tmp_path: Path) -> None:
    book = write_notebook(tmp_path / "a.ipynb", ["%load_ext nbdream", f"key = '{KEY}'"])
    DataSource("topics", {"topic": ["rain"]})
    with pytest.raises(HubError, match=r"line \d+ of a.ipynb holds what looks like an API key"):
        share(session, tmp_path / "a.zip", book)
    EchoLLM()(KEY)  # asked directly: in no table, and in the stored replies
    book = write_notebook(tmp_path / "a.ipynb", ["%load_ext nbdream"])
    with pytest.raises(HubError, match=r"line 1 of output/calls.jsonl holds what looks like an API key"):
        share(session, tmp_path / "a.zip", book)


def test_a_credential_is_never_allowed(session: Session, notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DataSource("topics", {"topic": ["a quite plain word"]})
    monkeypatch.setenv("MY_TOKEN", "quite plain")
    with pytest.raises(HubError, match="the value of MY_TOKEN"):
        share(session, tmp_path / "a.zip", notebook, allow=["secrets", "paths", "stale"])
    with pytest.raises(ArgumentError, match="cannot be allowed"):
        share(session, tmp_path / "a.zip", notebook, allow=["credentials"])


def test_what_is_stale_is_refused(session: Session, notebook: Path, tmp_path: Path) -> None:
    def topics(word: str) -> DataSource:
        session.new_execution(cell("a.ipynb"))
        return DataSource("topics", {"topic": [word]})

    Generate("lines", inputs={"rows": topics("rain").output}, args={"llm": EchoLLM(), "template": "On {{ topic }}"})
    topics("snow")
    with pytest.raises(DataError, match="lines is stale: its input 'rows' has changed"):
        share(session, tmp_path / "a.zip", notebook)
    assert share(session, tmp_path / "a.zip", notebook, allow=["stale"]).tables == 3  # the rows that it was made of, too


def test_people_are_numbers(session: Session, notebook: Path, tmp_path: Path) -> None:
    rows = DataSource("topics", {"topic": ["rain", "snow", "ice"]})
    for who in ("Zoe Zacharias", "bob"):
        asked = Annotation("taste", rows, by=who)
        asked.decide(0, "accept")
        asked.decide(2, "edit", "sleet")
    asked.decide(2, "edit", "hail")
    asked.undo()
    kept = list(asked.output)
    assert [row["reviewed"] for row in kept] == ["rain", "sleet"]
    shared = share(session, tmp_path / "a.zip", notebook)
    files = contents(shared.path)
    assert not any(name in content for content in files.values() for name in (b"Zoe", b"Zacharias", b"bob"))
    (lines,) = (content for name, content in files.items() if "/annotations/" in name)
    assert {json.loads(line)["who"] for line in lines.splitlines()} == {"annotator 1", "annotator 2"}
    session.stop()
    with Session(str(unpack(shared.path, tmp_path / "c"))) as there:
        assert there.names.state("taste").state == "fresh"  # the mark in the graph has the same names
        assert list(there.load("taste")) == kept
        made_anew = Annotation("taste", there.load("topics"), by="carl")
        assert made_anew.key == there.load("taste").key


def test_without_the_replies(session: Session, notebook: Path, tmp_path: Path) -> None:
    Generate("lines", args={"llm": EchoLLM(), "template": "a line"})
    shared = share(session, tmp_path / "a.zip", notebook, calls=False)
    assert shared.line().startswith(f"{tmp_path / 'a.zip'}: 1 table · no replies · ")
    assert "output/calls.jsonl" not in contents(shared.path)
    session.stop()
    with Session(str(unpack(shared.path, tmp_path / "c"))) as there:
        assert list(there.load("lines")) == [{"generation": "a line"}]


def test_files_that_sources_read_come_along(session: Session, notebook: Path, tmp_path: Path) -> None:
    from nbdream.steps import CSVDataSource

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "read.csv").write_text("topic\nrain\n")
    (tmp_path / "data" / "not.csv").write_text("topic\nsnow\n")
    CSVDataSource("topics", data_files=str(tmp_path / "data" / "read.csv"))
    shared = share(session, tmp_path / "a.zip", notebook)
    assert contents(shared.path)["data/read.csv"] == b"topic\nrain\n"
    assert "data/not.csv" not in contents(shared.path)


def test_nothing_to_share_and_no_name_of_an_archive(session: Session, notebook: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to share"):
        share(session, tmp_path / "a.zip", notebook)
    with pytest.raises(ArgumentError, match="ends in"):
        share(session, tmp_path / "a.tar", notebook)


# --- going on with it ---------------------------------------------------------------------------------------------------

CELLS = [
    "%%generate one -m gpt -n 4 --temperature 1.2 --as abstract\nWrite an abstract.",
    "%%generate two --from one -m gpt --as tweet\nTweet: {{ abstract }}",
    "%%generate three --from two -m gpt --as title --draws 2\nTitle: {{ tweet }}",
    "%%map four --from three\n{'size': len(row.title)}",
    "%%filter five --from four -m gpt\nIs {{ title }} good?",
]
SIXTH = "%%generate six --from two -m gpt --as poem\nA poem: {{ tweet }}"


@pytest.fixture
def shell() -> Iterator[Shell]:
    opened = Shell()
    yield opened
    opened.close()


def run(shell: Shell, folder: str, server: Any, cells: list[str]) -> int:
    """The calls that cells cost."""
    before = server.calls
    shell.run(f"%dream open {folder}")
    shell.run(f"%dream model gpt = openai/gpt-4.1 base_url={server.base_url} temperature=0.7")
    for source in cells:
        shell.run(source)
    return int(server.calls - before)


def test_a_colleague_pays_for_what_is_new(shell: Shell, openai_server: Any, tmp_path: Path) -> None:
    openai_server.reply = lambda body, count: f"Yes, {body['messages'][-1]['content'][:20]} {count}"
    assert run(shell, "./s", openai_server, CELLS) == 4 + 4 + 8 + 8
    shell.run("%dream share ./a.zip")
    assert main(["unpack", "a.zip", "theirs"]) == 0
    assert not (tmp_path / "theirs" / "nbdream-output" / "calls.jsonl").exists()  # the replies are where new ones go
    theirs = "./theirs/nbdream-output"
    assert run(shell, theirs, openai_server, CELLS) == 0
    assert run(shell, theirs, openai_server, [*CELLS, SIXTH]) == 4

    edited = [*CELLS[:2], CELLS[2].replace("Title:", "A better title:"), *CELLS[3:]]
    assert run(shell, theirs, openai_server, edited[:2]) == 0
    assert run(shell, theirs, openai_server, edited) == 8 + 8


class Screen:
    """Keeps what is shown."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def show(self, bundle: dict[str, Any]) -> None:
        self.shown.append(bundle["text/plain"])

    def clear(self) -> None:
        pytest.fail("what else the cell has shown would go, too")


@pytest.fixture
def page(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A notebook's page, which shows at once whatever a cell that shares has to say."""
    screen = Screen()
    monkeypatch.setattr(sharing, "NotebookScreen", lambda: screen)
    monkeypatch.setattr(sharing, "QUIET", 0)
    monkeypatch.setattr(sharing, "PERIOD", 0)
    shown_by = sharing._Page
    monkeypatch.setattr(sharing, "_Page", lambda live: shown_by(True))
    return screen


def test_a_cell_shows_how_far_it_is(shell: Shell, page: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "CHUNK", 1000)
    monkeypatch.setattr("nbdream.hub.share.AT_ONCE", 10)
    shell.run("%dream open ./s")
    shell["echo"] = EchoLLM()
    shell.run(f"%%generate lines -m echo -n 30 --temperature 1\n{'a long line ' * 50}")
    assert shell.run("%dream share ./a.zip") is None
    *shown, last = page.shown
    percents = [int(line.split()[1]) for line in shown if line.startswith("packed")]
    assert percents == sorted(percents)
    assert len(set(percents)) > 10, "within a file, too"
    assert percents[-1] == 100
    for said in ("looking for the replies of result 1 of 1: 30", "taking the replies along: 30", "looking for secrets in result 1 of 1"):
        assert said in shown
    assert last.startswith("./a.zip: 1 table · 30 replies")


def test_a_cell_that_shares_nothing_leaves_no_progress(shell: Shell, page: Screen) -> None:
    shell.run("%dream open ./s")
    shell.run(f"from nbdream.steps import DataSource\nrows = DataSource('rows', [{{'a': {KEY!r}}}])")
    with pytest.raises(HubError, match="looks like"):
        shell.run("%dream share ./a.zip")
    assert page.shown[-2:] == ["looking for secrets in result 1 of 1", ""]


def test_an_archive_that_was_merely_unzipped(openai_server: Any, session: Session, notebook: Path, tmp_path: Path) -> None:
    def lines() -> Generate:
        model = OpenAI("gpt-4.1", base_url=openai_server.base_url)
        return Generate("lines", args={"llm": model, "template": "a line", "n": 3, "column": "said"})

    lines()
    shared = share(session, tmp_path / "a.zip", notebook)
    session.stop()
    zipfile.ZipFile(shared.path).extractall(tmp_path / "c")
    for path in (tmp_path / "c" / "output" / "objects").glob("*/node.json"):
        path.unlink()
    with Session(str(tmp_path / "c" / "output")):
        assert len(lines()) == 3
    assert openai_server.calls == 3


def test_the_commands(session: Session, notebook: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Generate("lines", args={"llm": EchoLLM(), "template": "a line"})
    session.stop()
    assert main(["share", "a.ipynb", "a.zip", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calls"] == 1
    assert main(["share", "a.ipynb", "b.zip", "--no-calls"]) == 0
    assert capsys.readouterr().out.startswith("b.zip: 1 table · no replies")
    assert main(["share", "b.ipynb", "c.zip"]) == 1
    assert "there is no notebook b.ipynb" in capsys.readouterr().err
    assert main(["unpack", "a.zip"]) == 0
    assert "./a: its session is ./a/output" in capsys.readouterr().out
    assert main(["unpack", "a.zip"]) == 1
    assert "a is there already" in capsys.readouterr().err
    with CallCache(tmp_path / "a" / "output" / "calls.sqlite") as cache:
        assert len(cache) == 1
