"""Publishing with a clear conscience: what is looked for first, what is shown, what is refused, and what comes of being killed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nbdream import hub as publishing
from nbdream.errors import ArgumentError, DataError, HubError
from nbdream.hub.overlap import overlaps
from nbdream.hub.scan import PATHS, PERSONAL, SECRETS, Scan
from nbdream.llms import EchoLLM
from nbdream.steps import DataSource, Generate, concat
from tests.graphs import SOURCE, tweets
from tests.hostile import TERMINAL
from tests.test_hub import ROWS, Rows, Trained, load, model_folder, weights

__all__ = ["model_folder"]

TEXTS = [{"text": f"We study {number} cats.", "label": number % 2} for number in range(20)]


def put(row: int, text: str) -> Rows:
    """Twenty rows of which one holds ``text``."""
    return Rows([{**values, "tweet": text if number == row else "nothing"} for number, values in enumerate(ROWS)])


# --- what is looked for -----------------------------------------------------------------------------------------------

PERSONAL_DATA = [
    "ann.lee@uni-bonn.de", "+49 228 7312345", "+1 (415) 867-2399", "(415) 867-2399", "4012 8888 8888 1881", "DE89 3704 0044 0532 0130 00",
    "219-09-9999",
]  # fmt: skip
NOBODYS = [
    "user@example.org", "git@github.com:x/y", "icon@2x.png", "noreply@mail.com", "x = a@b.T", "2026-11-20 10:00", "1,000,000 - 2,000,000",
    "arXiv:2301.12345", "978-3-16-148410-0", "4111 1111 1111 1111", "(555) 555-0199 is not one, 123-45-6789 neither", "192.168.0.1",
    "+100 000 000 000", "v1.2.3-rc.4", "1234 5678 9012 3456", "3.14159265358979", "DE12 3456 7890 1234 5678 00", "10-20-2026",
]  # fmt: skip
MACHINE = ["/home/mlee/data/x.csv", "see /Users/ann/Documents", r"C:\Users\Ann\x.txt", '"C:\\\\Users\\\\Ann\\\\x"']
NO_MACHINE = ["/home/user/data", "https://example.org/home/mlee", "C:\\Users\\<you>\\x", "/usr/lib/python3", "at home/away", "~/data"]


@pytest.mark.parametrize(("kind", "text"), [*((PERSONAL, text) for text in PERSONAL_DATA), *((PATHS, text) for text in MACHINE)])
def test_what_is_found(kind: str, text: str) -> None:
    found = Scan().tables({"train": pa.table({"a": ["x", f"said: {text} .", None]})})
    assert [(finding.kind, finding.where) for finding in found] == [(kind, "row 1 of column 'a' in 'train'")]
    assert Scan().texts({"a.md": f"one\ntwo {text}"})[0].where == "line 2 of a.md"


@pytest.mark.parametrize("text", [*NOBODYS, *NO_MACHINE])
def test_what_is_left_alone(text: str) -> None:
    assert Scan().tables({"train": pa.table({"a": [text, f"({text})"]})}) == []
    assert Scan().texts({"x": text}) == []


def test_everywhere_in_a_table_and_counted() -> None:
    nested = pa.table({"m": [[{"content": "hi"}], [{"content": "ann.lee@uni-bonn.de"}], [{"content": "bob.ray@uni-bonn.de"}]]})
    (finding,) = Scan().tables({"train": nested})
    assert str(finding) == "row 1 of column 'm' in 'train' holds what looks like an email address, and so do 1 more"
    coded = pa.table({"c": pa.array(["x", "ann.lee@uni-bonn.de"]).dictionary_encode(), "big": pa.array(["x", "y"], pa.large_string())})
    assert len(Scan().tables({"train": coded})) == 1
    (named,) = Scan().tables({"train": pa.table({"ann.lee@uni-bonn.de": [1]})})
    assert named.where == "line 1 of the column names of 'train'"


def test_the_folders_of_this_machine(session: Any) -> None:
    rows = DataSource("rows", [{"a": f"read from {session.folder}/x"}])
    with pytest.raises(HubError, match="row 0 of column 'a' in 'train' holds a path of this machine") as caught:
        rows.publish_to_hf_hub("./out")
    assert "--allow paths" in str(caught.value)
    assert not Path("out").exists()
    rows.publish_to_hf_hub("./out", allow=["paths"])
    assert load("./out", split="train")["a"] == [f"read from {session.folder}/x"]


@pytest.mark.parametrize(("kind", "text"), [(SECRETS, "sk-abcdefghijklmnopqrstuvwx"), (PERSONAL, PERSONAL_DATA[0]), (PATHS, MACHINE[0])])
def test_it_stops_unless_told_otherwise(hub: Any, kind: str, text: str) -> None:
    with pytest.raises(HubError, match=r"row 17 of column 'tweet' in 'train' holds") as caught:
        publishing.publish(put(17, text), "org/x", allow=[other for other in (SECRETS, PERSONAL, PATHS) if other != kind])
    assert text not in str(caught.value)
    assert caught.value.hint is not None
    assert caught.value.hint.endswith(f"or allow it: --allow {kind}")
    assert [seen for seen in hub.requests if "org/x" in seen.path] == []  # a model of another test may still be looked for
    publishing.publish(put(17, text), "org/x", allow=[kind])
    assert load("org/x", split="train")["tweet"][17] == text


def test_a_known_credential_is_allowed_by_nothing(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PASSWORD", "sword-fish-1234")
    with pytest.raises(HubError, match="the value of MY_PASSWORD"):
        publishing.publish(put(3, "sword-fish-1234"), "org/x", yes=True, allow=[*publishing.ALLOWABLE])
    with pytest.raises(ArgumentError, match="allow cannot be 'credentials'"):
        publishing.publish(put(3, "x"), "org/x", allow=["credentials"])
    assert [seen for seen in hub.requests if "org/x" in seen.path] == []


def test_prompts_are_looked_at_too() -> None:
    graph = tweets()
    graph["nodes"]["b"]["node"]["recipe"]["args"]["template"] = "Write as\nann.lee@uni-bonn.de would"
    with pytest.raises(HubError, match="line 2 of template of 'tweets' holds what looks like an email address"):
        publishing.publish(Rows(ROWS, graph), "./out")


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_stale_ancestor(session: Any) -> None:
    def loud(text: str) -> Any:
        session.new_execution()
        return DataSource("papers", [{"text": text}]).map(lambda row: {"loud": row["text"].upper()}, lazy=False, name="loud")

    loud("a").publish_to_hf_hub("./out")
    stale = session.load("loud")
    session.new_execution()
    DataSource("papers", [{"text": "b"}])
    with pytest.raises(HubError, match=r"loud is stale: its input .* has changed: papers") as caught:
        stale.publish_to_hf_hub("./out")
    assert "--yes" in str(caught.value)
    stale.publish_to_hf_hub("./out", yes=True)
    loud("b").publish_to_hf_hub("./out")
    assert load("./out", split="train")["loud"] == ["B"]


def generated(name: str, rows: int, **args: Any) -> Any:
    template = {"template": "Write {{ n }}", "column": "text", "llm": EchoLLM(), **args}
    return Generate(name, inputs={"rows": DataSource(f"{name} rows", [{"n": number} for number in range(rows)])}, args=template)


def test_the_same_reply_in_two_splits(session: Any) -> None:
    all_rows = generated("all", 20)
    (found,) = overlaps({"train": all_rows, "test": all_rows.select([3, 4])})
    assert str(found) == "row 3 of 'train' holds the same reply of 'all' as row 0 of 'test', and so do 1 more"
    with pytest.raises(HubError, match="the same reply of 'all'"):
        publishing.publish({"train": all_rows.shuffle(seed=1), "test": all_rows.select([3])}, "./out")
    parts = all_rows.splits(train_size=0.5, test_size=0.5)
    assert overlaps(parts) == []
    publishing.publish({"train": all_rows, "test": all_rows.select([3])}, "./out", allow=["overlap"])
    joined = concat(parts["train"], parts["test"].take(2))
    (found,) = overlaps({"train": joined, "test": parts["test"]})
    assert "holds the same reply of 'all' as row 0 of 'test', and so do 1 more" in str(found)
    assert found.where == "row 10 of 'train'"


def test_draws_that_another_name_took_over(session: Any) -> None:
    train, test = generated("train", 10), generated("test", 4)
    (found,) = overlaps({"train": train, "test": test})
    assert found.more == 3
    assert overlaps({"train": train, "test": generated("other", 4, seed=7)}) == []


def test_a_greedy_model_says_the_same_to_the_same(session: Any) -> None:
    rows = DataSource("twice", [{"n": number % 5} for number in range(10)])
    args = {"template": "Write {{ n }}", "column": "text", "llm": EchoLLM(), "temperature": 0}
    greedy = Generate("greedy", inputs={"rows": rows}, args=args)
    assert overlaps({"train": greedy.take(5), "test": greedy.skip(5)})[0].more == 4
    assert overlaps({"train": greedy.take(5), "test": greedy.take(0)}) == []


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_the_preview_comes_first(hub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    graph = tweets()
    graph["nodes"]["a"]["node"]["source"] = {**SOURCE, "license": "cc-by-nc-4.0"}
    publishing.publish(Rows(ROWS, graph), "org/tweets", train_size=0.9, validation_size=0.1, license="mit", private=True)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"tweets → {hub.url}/datasets/org/tweets (a new private dataset)"
    assert "  rows: train 18 · validation 2" in lines
    assert any(line.startswith("  files: 6; ") for line in lines)
    assert any(line.startswith("    data/train-00000-of-00001.parquet (") for line in lines)
    assert "  licence: mit (given)" in lines
    assert "  terms: org/papers is cc-by-nc-4.0 (its card): non-commercial" in lines
    assert "  conflict: org/papers is cc-by-nc-4.0, for non-commercial use: mit would allow any" in lines
    assert next(number for number, line in enumerate(lines) if "uploading" in line) > lines.index("  licence: mit (given)")
    publishing.publish(Rows(ROWS[:9], graph), "org/tweets")
    again = capsys.readouterr().out
    assert "(a private dataset that is there)" in again
    assert "    data/validation-00000-of-00001.parquet is deleted" in again
    assert "licence: mit (the README)" in again


@pytest.mark.parametrize("hostile", [*TERMINAL, "mit\n  conflict: none", "a\u2028b"])
def test_the_preview_is_lines_of_its_own(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    graph = tweets()
    graph["nodes"]["a"]["node"]["source"] = {**SOURCE, "name": hostile, "license": f"cc-by-nc-4.0 {hostile}"}
    graph["nodes"]["b"]["use"]["name"] = f"x {hostile}"
    publishing.publish(Rows(ROWS, graph), "./out", dry_run=True)
    told = capsys.readouterr().out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]", told)
    assert all(re.match(r"x |  (rows|files|licence|terms|note): |    \S+ \(|nothing was", line) for line in told.splitlines())


def test_a_dry_run_writes_nothing(hub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert publishing.publish(put(2, PERSONAL_DATA[0]), "org/x", dry_run=True) == f"{hub.url}/datasets/org/x"
    told = capsys.readouterr().out
    assert "  personal: row 2 of column 'tweet' in 'train' holds what looks like an email address" in told
    assert told.endswith("nothing was published: this was a dry run\n")
    assert [seen for seen in hub.requests if seen.method != "GET"] == []
    publishing.publish(put(2, "x"), "./out", dry_run=True)
    assert not Path("out").exists()


def test_a_dry_run_without_a_hub(hub: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import huggingface_hub

    real = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **options: real(endpoint="http://127.0.0.1:9", **options))
    monkeypatch.delenv("HF_TOKEN")
    publishing.publish(put(2, "x"), "org/x", dry_run=True)
    assert "what is there was not looked up: the Hub cannot be reached" in capsys.readouterr().out


def test_wishes_that_cannot_be(hub: Any, model_folder: Path) -> None:
    hub.add("dataset", "org/open", {})
    with pytest.raises(HubError, match="org/open is public, and was to be private"):
        publishing.publish(put(2, "x"), "org/open", private=True)
    with pytest.raises(ArgumentError, match="adapter_only is for a model"):
        publishing.publish(put(2, "x"), "org/x", adapter_only=True)
    with pytest.raises(ArgumentError, match="config is for rows"):
        publishing.publish(Trained(model_folder), "org/x", config="small")
    with pytest.raises(ArgumentError, match="no licence 'free'"):
        publishing.publish(put(2, "x"), "org/x", license="free")


# --- several configurations -------------------------------------------------------------------------------------------


def test_configurations_stand_beside_each_other(hub: Any) -> None:
    publishing.publish(Rows(ROWS), "org/x", train_size=0.9, test_size=0.1)
    publishing.publish(Rows(ROWS[:5]), "org/x", config="small")
    assert load("org/x", split="test").num_rows == 2
    assert load("org/x", "small", split="train").to_list() == ROWS[:5]
    files = hub.files("dataset", "org/x")
    assert {"small/train-00000-of-00001.parquet", "small/nbdream.json", "small/croissant.json"} <= set(files)
    readme = files["README.md"].decode()
    assert "load_dataset('org/x', 'small')" in readme
    assert "load_dataset('org/x')" in readme
    assert readme.count("<!-- nbdream:begin") == 2
    publishing.publish(Rows(ROWS[:6]), "org/x", config="small")
    publishing.publish(Rows(ROWS), "org/x", train_size=0.9, test_size=0.1)
    assert load("org/x", "small", split="train").num_rows == 6
    assert hub.files("dataset", "org/x")["README.md"].decode().count("<!-- nbdream:begin") == 2
    assert len(hub.commits("dataset", "org/x")) == 4


def test_the_default_configuration_comes_second(hub: Any) -> None:
    publishing.publish(Rows(ROWS[:5]), "org/x", config="small")
    publishing.publish(Rows(ROWS), "org/x")
    readme = hub.files("dataset", "org/x")["README.md"].decode()
    assert readme.count("<!-- nbdream:begin") == 2
    assert "load_dataset('org/x', 'small')" in readme
    assert load("org/x", "small", split="train").num_rows == 5


def test_several_configurations_in_one_commit(hub: Any) -> None:
    both = {"default": {"train": Rows(ROWS)}, "raw": {"train": Rows(ROWS[:4]), "test": Rows(ROWS[4:])}}
    for _ in range(2):
        publishing.publish(both, "org/x")
    assert len(hub.commits("dataset", "org/x")) == 2
    assert load("org/x", split="train").num_rows == 20
    assert load("org/x", "raw", split="test").num_rows == 16
    publishing.publish(both, "./x")
    assert load("./x", "raw", split="train").num_rows == 4
    with pytest.raises(ArgumentError, match="no name of a configuration"):
        publishing.publish(Rows(ROWS), "org/x", config="../up")


# --- being cut off ----------------------------------------------------------------------------------------------------

CHILD = """
import sys
import nbdream.hub.dataset
from nbdream import Session, hub
from nbdream.steps import DataSource
nbdream.hub.dataset.SHARD_BYTES = 400
with Session(sys.argv[1]):
    rows = DataSource("rows", [{"text": f"We study {n} cats, and all that follows from it."} for n in range(40)])
    rows.publish_to_hf_hub("org/killed")
"""


def test_killed_in_mid_upload_and_run_again(hub: Any, tmp_path: Path) -> None:
    held = hub.hold("PUT", "/lfs/upload", after=2)
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path / "session")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert held.reached.wait(60), child.communicate()
    while len(list((hub.folder / "blobs").iterdir())) < 3:  # two shards, and the first commit's own file
        time.sleep(0.01)
    child.kill()
    child.communicate()
    held.release()
    assert hub.commits("dataset", "org/killed") == ["initial commit"]
    sent = sum(seen.path.startswith("/lfs/upload") and seen.status == 200 for seen in hub.requests)
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "session")], capture_output=True, text=True, check=True)
    shards = [path for path in hub.files("dataset", "org/killed") if path.endswith(".parquet")]
    again = sum(seen.path.startswith("/lfs/upload") and seen.status == 200 for seen in hub.requests) - sent
    assert len(shards) > again == len(shards) - 2
    assert hub.commits("dataset", "org/killed") == ["initial commit", "Publish with nbdream"]
    assert load("org/killed", split="train")["text"] == [f"We study {n} cats, and all that follows from it." for n in range(40)]
    assert f"uploading files 1 to {len(shards)} of {len(shards)}" in done.stdout


@pytest.mark.parametrize(
    ("method", "pattern"), [("POST", "/repos/create"), ("GET", "/api/datasets/org/x$"), ("POST", "/branch/"), ("GET", "/tree/")]
)
def test_a_busy_hub_is_asked_again(hub: Any, method: str, pattern: str) -> None:
    hub.fail(method, pattern, 503, times=2)
    publishing.publish(put(2, "x"), "org/x", branch="v2")
    assert load("org/x", revision="v2", split="train").num_rows == 20


def test_a_commit_whose_answer_was_lost(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is there, and the connection broke before the answer: it is not made twice."""
    import huggingface_hub

    commit, cut = huggingface_hub.HfApi.create_commit, [True]

    def lost(self: Any, *args: Any, **options: Any) -> Any:
        made = commit(self, *args, **options)
        if cut:
            cut.pop()
            raise ConnectionError("the peer closed the connection")
        return made

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", lost)
    publishing.publish(put(2, "x"), "org/x")
    assert hub.commits("dataset", "org/x") == ["initial commit", "Publish with nbdream"]


def test_with_xet_as_far_as_the_token(hub: Any) -> None:
    """With Xet on, rows go to its storage; what is tested is that they set out for it, and that a refusal is one line."""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_XET"}
    code = "from nbdream import Session\nfrom nbdream.steps import DataSource\nwith Session(':memory:'): DataSource('r', [{'a': 'x'}])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}.publish_to_hf_hub('org/x')"], env=environment, capture_output=True, text=True, check=False
    )
    assert "/api/datasets/org/x/xet-write-token/main" in [seen.path for seen in hub.requests]
    last = done.stderr.splitlines()[-1]
    assert last.startswith("nbdream.errors.HubError: the Hub cannot be reached")
    assert "HF_HUB_DISABLE_XET=1" in last


# --- models -----------------------------------------------------------------------------------------------------------


def test_an_adapter_is_merged_into_its_base(hub: Any, model_folder: Path, tmp_path: Path) -> None:
    """The run's folder holds the adapter alone; what loads is the whole model."""
    import shutil

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"x")

    class Adapted(Trained):
        def export_to_disk(self, path: Path) -> str:
            return str(shutil.copytree(model_folder, path))

    publishing.publish(Adapted(adapter), "org/merged")
    assert "adapter_model.safetensors" not in hub.files("model", "org/merged")
    assert weights("org/merged") == weights(str(model_folder))
    publishing.publish(Adapted(adapter), "org/adapter", adapter_only=True)
    assert "model.safetensors" not in hub.files("model", "org/adapter")


def test_a_models_page_shows_no_ones_data(model_folder: Path) -> None:
    trained = Trained(model_folder)
    trained.examples = ["hello", f"write to {PERSONAL_DATA[0]}"]
    with pytest.raises(HubError, match="line 1 of example 2 of its page holds what looks like an email address"):
        publishing.publish(trained, "./out")


# --- notebooks --------------------------------------------------------------------------------------------------------


def notebook(path: Path, *cells: str, output: str = "shown") -> Path:
    code = [
        {
            "cell_type": "code", "id": f"c{number}", "metadata": {}, "execution_count": number, "source": source.splitlines(keepends=True),
            "outputs": [{"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": {"text/plain": [output]}}],
        }
        for number, source in enumerate(cells, 1)
    ]  # fmt: skip
    metadata = {"kernelspec": {"name": "python3"}, "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}}}}
    path.write_text(json.dumps({"cells": code, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}))
    return path


@pytest.fixture
def made(session: Any, tmp_path: Path) -> Any:
    """A result that a notebook made, and the notebook."""
    session.new_execution({"id": "c1", "notebook": "work.ipynb", "number": 1, "source": "rows = …"})
    return DataSource("rows", TEXTS), notebook(tmp_path / "work.ipynb", "rows = …", "print('é')")


def test_a_notebook_beside_its_data(hub: Any, session: Any, made: Any) -> None:
    rows, path = made
    for _ in range(2):
        session.publish(rows, "org/x", notebook=path)
    assert len(hub.commits("dataset", "org/x")) == 2
    files = hub.files("dataset", "org/x")
    kept = json.loads(files["work.ipynb"])
    assert kept["cells"][1]["outputs"][0]["data"] == {"text/plain": ["shown"]}
    assert "widgets" not in kept["metadata"]
    crate = json.loads(files["ro-crate-metadata.json"])["@graph"]
    assert next(node for node in crate if node["@id"] == "./")["mainEntity"] == {"@id": "work.ipynb"}
    assert load("org/x", split="train").to_list() == TEXTS
    session.publish(rows, "org/x", notebook=path, strip=True)
    stripped = json.loads(hub.files("dataset", "org/x")["work.ipynb"])
    assert [(cell["outputs"], cell["execution_count"]) for cell in stripped["cells"]] == [([], None)] * 2
    assert stripped["cells"][1]["source"] == ["print('é')"]


def test_a_notebook_by_itself(hub: Any, session: Any, made: Any) -> None:
    rows, path = made
    for _ in range(2):
        publishing.publish_notebook(session, path, "org/alone", license="mit")
    assert len(hub.commits("dataset", "org/alone")) == 2
    files = hub.files("dataset", "org/alone")
    assert sorted(files) == ["README.md", "nbdream.json", "ro-crate-metadata.json", "work.ipynb"]
    assert "[work.ipynb](work.ipynb)" in files["README.md"].decode()
    assert "license: mit" in files["README.md"].decode()
    assert list(json.loads(files["nbdream.json"])["data_card"]) == ["rows"]
    session.publish(rows, "org/data")
    before = hub.files("dataset", "org/data")
    publishing.publish_notebook(session, path, "org/data")
    assert {**before, "work.ipynb": files["work.ipynb"]} == hub.files("dataset", "org/data")
    publishing.publish_notebook(session, path, "./folder")
    assert json.loads(Path("folder/work.ipynb").read_text())["cells"][0]["source"] == ["rows = …"]


def test_what_stands_in_a_notebook(session: Any, made: Any, tmp_path: Path) -> None:
    rows, _ = made
    path = notebook(tmp_path / "work.ipynb", "x = 1", output="Traceback: /home/mlee/x.py")
    with pytest.raises(HubError, match=r"line 1 of the output of cell 1 of work.ipynb holds what looks like a path of a home directory"):
        publishing.publish_notebook(session, path, "./out")
    publishing.publish_notebook(session, path, "./out", strip=True)
    path = notebook(tmp_path / "work.ipynb", "key = 1", 'k = "sk-abcdefghijklmnopqrstuvwx"')
    with pytest.raises(HubError, match=r"line 1 of cell 2 of work.ipynb holds what looks like an API key"):
        session.publish(rows, "./data", notebook=path)
    with pytest.raises(ArgumentError, match="is no notebook"):
        publishing.publish_notebook(session, tmp_path / "x.py", "./out")
    with pytest.raises(ArgumentError, match="no result of other"):
        publishing.publish_notebook(session, notebook(tmp_path / "other.ipynb", "x"), "./out")
    with pytest.raises(HubError, match="no file"):
        session.publish(rows, "./data", notebook=tmp_path / "gone.ipynb")


# --- in a cell, and on the command line -------------------------------------------------------------------------------


def test_the_verb(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.notebook import Shell

    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "work.ipynb"))
    line = "%dream publish rows org/x --splits 0.9/0.1 --license cc-by-4.0 --notebook --strip-outputs --private"
    shell = Shell()
    try:
        shell.run("%dream open ./output")
        shell.run("from nbdream.steps import DataSource\nrows = DataSource('rows', " + repr(TEXTS) + ")")
        with pytest.raises(DataError, match="which file this notebook is"):
            shell.run(line)
        notebook(tmp_path / "work.ipynb", "something else")
        with pytest.raises(DataError, match=r"work.ipynb on disk is older than this cell"):
            shell.run(line)
        notebook(tmp_path / "work.ipynb", line)
        capsys.readouterr()
        shell.run(line + "  ")
        assert "  rows: train 18 · validation 2" in capsys.readouterr().out
        assert hub.repo("dataset", "org/x").private
        assert {"work.ipynb", "data/train-00000-of-00001.parquet"} <= set(hub.files("dataset", "org/x"))
        alone = "%dream publish --notebook org/alone --dry-run"
        notebook(tmp_path / "work.ipynb", alone)
        shell.run(alone)
        assert "a new public dataset" in capsys.readouterr().out
        for wrong, said in (
            ("rows", "needs|result"),
            ("org/x --notebook --config a", "--config is for a result"),
            ("rows ./x --allow all", "allow"),
        ):
            with pytest.raises(ArgumentError, match=said):
                shell.run(f"%dream publish {wrong}")
    finally:
        shell.close()


def test_a_cell_that_publishes_shows_what_lasts(tmp_path: Path) -> None:
    """What was sent this time is gone when the cell is done: run again, the saved notebook is the same."""
    from tests.notebook import Kernel

    kernel = Kernel(tmp_path)
    try:
        kernel.run("%load_ext nbdream\n%dream open ./output\nfrom nbdream.steps import DataSource\nrows = DataSource('rows', [{'a': 'x'}])")
        first, second = (kernel.run("%dream publish rows ./out --license mit") for _ in range(2))
    finally:
        kernel.close()
    last = first.live[-1]
    assert last.splitlines() == ["rows: train 1", "licence: mit (given)", "rows → ./out"]
    assert last == second.live[-1]
    assert any("a new folder" in shown for shown in first.live)
    assert any("nothing was sent: all of it is there already" in shown for shown in second.live)


def test_the_command(hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nbdream import Session
    from nbdream.cli import main

    with Session(str(tmp_path / "output")) as session:
        session.new_execution({"id": "c1", "notebook": "work.ipynb", "number": 1, "source": "x"})
        DataSource("rows", TEXTS)
    assert main(["publish", "rows", "org/x", "--license", "mit", "--splits", "0.9/0.1", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"published": f"{hub.url}/datasets/org/x", "dry_run": False}
    assert "licence: mit (given)" in shown.err
    assert load("org/x", split="validation").num_rows == 2
    path = notebook(tmp_path / "work.ipynb", "x")
    assert main(["publish", "org/x", "--notebook", str(path), "--strip-outputs"]) == 0
    assert "work.ipynb" in hub.files("dataset", "org/x")
    assert main(["publish", "rows", "./folder", "--dry-run"]) == 0
    assert not Path("folder").exists()
    capsys.readouterr()
    assert main(["publish", "org/x"]) == 1
    assert main(["publish", "row", "org/x"]) == 1
    assert "did you mean 'rows'?" in capsys.readouterr().err


# --- a credential that was planted everywhere -------------------------------------------------------------------------


def test_a_planted_credential_is_in_no_file(openai_server: Any, hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a prompt, in a reply, in the environment, in the text of an exception."""
    secret = "sword-fish-1234567"
    monkeypatch.setenv("SERVICE_PASSWORD", secret)
    pytest.importorskip("openai")
    from nbdream import Session
    from nbdream.llms import OpenAI

    with Session(str(tmp_path / "output")) as session:
        llm = OpenAI(model_name="gpt-4o-mini", base_url=openai_server.base_url, api_key="sk-the-key-itself-0123456789")
        rows = DataSource("rows", [{"n": number} for number in range(3)])
        with pytest.raises(ArgumentError, match="SERVICE_PASSWORD"):
            Generate("leak", inputs={"rows": rows}, args={"llm": llm, "template": f"say {secret} {{{{ n }}}}", "column": "text"})

        openai_server.reply = lambda body, count: f"it is {secret}"
        said = Generate("said", inputs={"rows": rows}, args={"llm": llm, "template": "tell {{ n }}", "column": "text"})
        assert set(said.output["text"]) == {"it is ***"}

        def burst(row: dict[str, Any]) -> dict[str, Any]:
            raise RuntimeError(f"cannot log in with {secret}")

        with pytest.raises(Exception, match="cannot log in") as caught:
            rows.map(burst, lazy=False, name="burst")
        assert caught.value is not None
        path = notebook(tmp_path / "work.ipynb", "x")
        said.publish_to_hf_hub("org/x")
        said.publish_to_hf_hub("./published")
        session.publish(said, "./with", notebook=path)
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) > 15
    for file in written:
        data = file.read_bytes()
        assert secret.encode() not in data, file
        assert b"sk-the-key-itself" not in data, file
    assert not [path for path, data in hub.files("dataset", "org/x").items() if secret.encode() in data]
