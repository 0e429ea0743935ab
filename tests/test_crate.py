"""``ro-crate-metadata.json``: the validator of its profiles takes it, offline; each step is an action; texts stay texts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nbdream import cards
from nbdream import hub as publishing
from nbdream.cards.linked import Publication, PublishedFile
from tests.graphs import place, three_steps, tweets
from tests.hostile import HOSTILE
from tests.standards import TERMS, crate_validator
from tests.test_croissant import assert_no_nodes_of_others, foreign_graph, hostile_graph
from tests.test_hub import Rows

FILE = "data/train-00000-of-00001.parquet"
BARE = "process-run-crate-0.5"
WITH_NOTEBOOK = "provenance-run-crate-0.5"
"""Every check of the Workflow Run Crate, the Workflow RO-Crate and the Process Run Crate too."""


def described(graph: dict[str, Any], licences: tuple[str, ...] = ("unknown",), notebook: str | None = None) -> dict[str, Any]:
    """The crate of one file of rows, beside its README."""
    files = [PublishedFile(FILE, FILE, 10, "a" * 64), PublishedFile("README.md", "README.md")]
    return cards.run_crate(graph, Publication("tweets", "", "Ten rows.", licences, files), {graph["root"]: [FILE]}, notebook)


def entities(document: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """The entities of a type, by their names."""
    return {node.get("name", ""): node for node in document["@graph"] if kind in (node["@type"], *node["@type"])}


def written(document: dict[str, Any], folder: Path) -> Path:
    """A folder with a crate and the files that it names."""
    for name in (FILE, "README.md", "work.ipynb"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "ro-crate-metadata.json").write_text(cards.as_text(document))
    return folder


@pytest.fixture(scope="module")
def issues(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path, str], list[str]]]:
    with crate_validator(tmp_path_factory.mktemp("contexts")) as validate:
        yield validate


# --- the validator ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [WITH_NOTEBOOK, "workflow-run-crate-0.5"])
def test_a_notebook_and_its_steps_validate(tmp_path: Path, issues: Any, profile: str) -> None:
    document = described(three_steps(), ("https://spdx.org/licenses/MIT",), "work.ipynb")
    assert issues(written(document, tmp_path), profile) == []


def test_the_validator_sees(tmp_path: Path, issues: Any) -> None:
    document = described(tweets(), notebook="work.ipynb")
    for action in entities(document, "CreateAction").values():
        del action["instrument"]
    assert any("MUST have an instrument" in issue for issue in issues(written(document, tmp_path), BARE))


def test_a_small_workflow_published_to_a_folder_validates(session: Any, tmp_path: Path, issues: Any) -> None:
    from nbdream.llms import EchoLLM
    from nbdream.steps import DataSource, Generate

    papers = DataSource("papers", data=[{"abstract": f"We study {n} cats."} for n in range(10)])
    args = {"llm": EchoLLM(), "template": "Write a tweet: {{ abstract }}", "column": "tweet", "draws": 2}
    tweet = Generate("tweets", inputs={"rows": papers.output}, args=args)
    out = Path(tweet.publish_to_hf_hub(str(tmp_path / "out"), train_size=0.5, test_size=0.5))
    assert issues(out, BARE) == []
    document = json.loads((out / "ro-crate-metadata.json").read_text())
    made = entities(document, "CreateAction")
    assert list(made) == ["papers", "tweets"]
    assert [part["@id"] for part in made["tweets"]["result"]] == [f"data/{name}-00000-of-00001.parquet" for name in ("train", "test")]
    files = entities(document, "File")
    on_disk = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert set(files) == on_disk - {"ro-crate-metadata.json"}
    assert {part["@id"] for part in entities(document, "Dataset")["out"]["hasPart"]} == set(files)
    sizes = {name: int(file["contentSize"]) for name, file in files.items() if name != "README.md"}
    assert sizes == {name: (out / name).stat().st_size for name in sizes}


def test_the_notebook_that_lies_beside_the_rows_is_the_workflow(tmp_path: Path, issues: Any) -> None:
    graph = tweets()
    graph["nodes"]["b"]["node"]["cell"] = {"id": "x", "number": 3, "notebook": "work.ipynb", "source": "%%generate tweets"}
    rows = Rows(pa.table({"tweet": ["a"]}), graph)
    publishing.publish_dataset(rows, "./out")
    crate = tmp_path / "out" / "ro-crate-metadata.json"
    assert "mainEntity" not in entities(json.loads(crate.read_text()), "Dataset")["out"]
    (tmp_path / "out" / "other.ipynb").write_text("{}")
    (tmp_path / "out" / "work.ipynb").write_text("{}")
    publishing.publish_dataset(rows, "./out")
    assert entities(json.loads(crate.read_text()), "Dataset")["out"]["mainEntity"] == {"@id": "work.ipynb"}
    assert issues(tmp_path / "out", WITH_NOTEBOOK) == []
    before = crate.stat().st_mtime_ns
    publishing.publish_dataset(rows, "./out")
    assert crate.stat().st_mtime_ns == before


def test_splits_of_several_results_are_told_apart() -> None:
    graph = tweets()
    parts = [{"root": part, "nodes": {**graph["nodes"], part: place(part, "SplitStep", {"rows": "b"})}} for part in ("train", "test")]
    files = [PublishedFile(f"data/{part}.parquet", "", 1, "a") for part in ("train", "test")]
    results = {part: [f"data/{part}.parquet"] for part in ("train", "test")}
    made = entities(cards.run_crate(cards.join(parts), Publication("x", "", "", ["unknown"], files), results), "CreateAction")
    assert {name: made[name]["result"]["@id"] for name in results} == {name: f"data/{name}.parquet" for name in results}


# --- what it says -----------------------------------------------------------------------------------------------------


def test_each_step_says_by_what_of_what_and_when() -> None:
    document = described(tweets())
    named = {node["@id"]: node.get("name") for node in document["@graph"]}
    action = entities(document, "CreateAction")["tweets"]
    assert [named[tool["@id"]] for tool in action["instrument"]] == ["Generate", "gpt-4"]
    assert [named[given["@id"]] for given in action["object"]] == ["papers", "template", "system prompt of the model", "temperature"]
    assert action["result"] == {"@id": FILE}
    assert (action["startTime"], action["endTime"]) == ("2026-11-20T10:00:00+00:00", "2026-11-20T10:00:12+00:00")
    assert entities(document, "PropertyValue")["template"]["value"] == "Write a tweet: {{ abstract }}"
    assert entities(document, "CreativeWork")["org/papers"]["url"] == "https://huggingface.co/datasets/org/papers"
    assert entities(document, "Dataset")["tweets"]["datePublished"] == "2026-11-20"
    assert entities(document, "SoftwareApplication")["nbdream"]["softwareVersion"] == "0.1.0"


def test_every_reference_leads_somewhere_and_nothing_stands_there_twice() -> None:
    for notebook in (None, "work.ipynb"):
        document = described(three_steps(), ("https://spdx.org/licenses/MIT",), notebook)
        ids = [node["@id"] for node in document["@graph"]]
        assert len(ids) == len(set(ids))
        referred = set(re.findall(r'\{\s*"@id": "([^"]+)"\s*\}', cards.as_text(document)))
        assert referred - set(ids) == {"https://w3id.org/ro/crate/1.1"}
        assert set(ids) - referred == {"ro-crate-metadata.json"}


def test_a_model_is_described_by_its_run(hub: Any, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    folder = tmp_path / "model"
    folder.mkdir()
    import numpy

    save_file({"w": numpy.zeros(3, dtype=numpy.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')

    class Trained:
        model_path = str(folder)
        runner = Rows(pa.table({}), three_steps()).runner
        examples = ("We study cats.",)

    for _ in range(2):
        publishing.publish_model(Trained(), "org/crated")
    assert len(hub.commits("model", "org/crated")) == 2
    files = hub.files("model", "org/crated")
    assert "croissant.json" not in files
    document = json.loads(files["ro-crate-metadata.json"])
    run = entities(document, "CreateAction")["tweeter"]
    assert {part["@id"] for part in run["result"]} == {"config.json", "model.safetensors", "training_args.json"}
    assert entities(document, "Dataset")["crated"]["description"].startswith("A model trained from google/t5-v1_1-base.")


# --- texts stay texts -------------------------------------------------------------------------------------------------

OURS = re.compile(
    r"#(?:step|tool|agent|source|parameter|rows|model|how|control)-[0-9a-f]{16}|#nbdream|#jupyter|#run|#orchestration|\./|README\.md"
    r"|ro-crate-metadata\.json|work\.ipynb|data/train-00000-of-00001\.parquet|https://w3id\.org/[a-z0-9./-]+"
)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_a_key_an_id_or_a_type(text: str) -> None:
    document = described(hostile_graph(text), (text,), "work.ipynb")
    for node in document["@graph"]:
        assert set(node) - {"@id", "@type", "sha256"} <= set(TERMS)
        assert set([node["@type"]] if isinstance(node["@type"], str) else node["@type"]) <= set(TERMS)
        is_licence = re.fullmatch(r"https?://[^\s<>\"'{}|\\^`]+", node["@id"]) and node["@type"] == "CreativeWork"
        assert OURS.fullmatch(node["@id"]) or is_licence, node["@id"]
    text_of = cards.as_text(document)
    assert text_of.isascii()
    assert not re.search(r"[<>&\x00-\x09\x0b-\x1f\x7f]", text_of)


def test_what_is_no_text_is_not_said() -> None:
    assert_no_nodes_of_others(described(foreign_graph()))


@pytest.mark.parametrize("text", ["https://evil.example/a b", '_:b0 @id </script>"\n', "\x1b[2J\u202e\ud800"])
def test_hostile_texts_validate(tmp_path: Path, issues: Any, text: str) -> None:
    document = described(hostile_graph(text), (text,), "work.ipynb")
    assert issues(written(document, tmp_path), WITH_NOTEBOOK) == []
