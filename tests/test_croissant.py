"""``croissant.json``: the reference implementation takes it and loads the rows; the provenance has a shape; texts stay texts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlcroissant
import pyarrow as pa
import pytest
import rdflib

from nbdream import cards
from nbdream import hub as publishing
from nbdream.cards.linked import Publication, PublishedFile
from nbdream.errors import HubError
from tests.graphs import CITATION, GPT, MADE, T5, place, three_steps, tweets
from tests.hostile import HOSTILE
from tests.standards import faults, nodes, opened, plain, rows, validated
from tests.test_hub import Rows

PROV_LABEL = rdflib.URIRef("http://www.w3.org/ns/prov#label")
"""Of PROV, though not of PROV-O: as Croissant 1.1 has it."""
OURS = re.compile(r"#[a-z]+-[0-9a-f]{16}|#nbdream")
TYPES = {"sc:Dataset", "sc:CreativeWork", "sc:SoftwareApplication", "sc:PropertyValue", "cr:FileObject", "cr:FileSet", "cr:RecordSet"}
TYPES |= {"cr:Field", "prov:Activity", "prov:Entity", "prov:Plan", "prov:SoftwareAgent", "xsd:dateTime", "@json", "@vocab"}


def described(graph: dict[str, Any], schema: pa.Schema, licences: tuple[str, ...] = ("unknown",), **options: Any) -> dict[str, Any]:
    """The description of a dataset of one split with the columns of ``schema``."""
    path = "data/train-00000-of-00001.parquet"
    published = Publication("tweets", "", "Ten rows.", licences, [PublishedFile(path, path, 10, "a" * 64)])
    return cards.dataset_croissant(graph, published, {"train": cards.Split(graph["root"], 10, schema, [path])}, **options)


def columns(*names: str) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])


# --- the reference implementation -------------------------------------------------------------------------------------


def test_a_small_workflow_validates_and_its_rows_load(session: Any, tmp_path: Path) -> None:
    from nbdream.llms import EchoLLM
    from nbdream.steps import DataSource, Generate

    papers = DataSource("papers", data=[{"abstract": f"We study {n} cats.", "year": 2000 + n} for n in range(10)])
    args = {"llm": EchoLLM(), "template": "Write a tweet: {{ abstract }}", "column": "tweet", "temperature": 0.7, "draws": 2}
    tweet = Generate("tweets", inputs={"rows": papers.output}, args=args)
    recent = tweet.rename_column("tweet", "post", name="posts").filter(lambda row: row["year"] > 2003, name="recent")
    recent.publish_to_hf_hub(str(tmp_path / "out"), train_size=0.75, test_size=0.25)
    validate = "from mlcroissant.scripts.cli import main; main()"
    command = [sys.executable, "-c", validate, "validate", "--jsonld", str(tmp_path / "out" / "croissant.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "warning" in done.stderr.lower()) == (0, False), done.stderr
    found = opened(tmp_path / "out" / "croissant.json")
    loaded = {split: rows(found, split) for split in ("train", "test")}
    expected = recent.splits(train_size=0.75, test_size=0.25)
    assert loaded == {split: list(part.output) for split, part in expected.items()}
    document = json.loads((tmp_path / "out" / "croissant.json").read_text())
    assert faults(document) == []
    labels = {node["@id"]: node["prov:label"] for node in nodes(document) if "prov:label" in node}
    fields = {field["name"]: field for field in document["recordSet"][1]["field"]}
    assert labels[fields["post"]["prov:wasGeneratedBy"]["@id"]] == "tweets"
    assert [labels[source["@id"]] for source in fields["post"]["prov:wasDerivedFrom"]] == ["papers: abstract"]
    assert labels[fields["draw"]["prov:specializationOf"]["@id"]] == "tweets: draw"
    assert labels[fields["abstract"]["prov:wasGeneratedBy"]["@id"]] == "papers"
    assert [step["prov:label"] for step in document["prov:wasGeneratedBy"]] == ["papers", "tweets", "posts", "recent"]


def test_structured_answers_and_what_python_made_of_them(session: Any, tmp_path: Path) -> None:
    from nbdream.llms import EchoLLM
    from nbdream.steps import DataSource, Generate

    author = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    fields = {"question": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}, "author": author}
    schema = {"type": "array", "items": {"type": "object", "properties": fields, "required": list(fields)}}
    said = [{"question": "a?", "tags": ["x", "y"], "author": {"name": "m"}}, {"question": "b?", "tags": [], "author": {"name": "n"}}]
    topics = DataSource("topics", data=[{"topic": topic} for topic in "abc"])
    args = {"llm": EchoLLM(answers=[json.dumps(said)]), "template": "Ask about {{ topic }}", "schema": schema, "draws": 2}
    asked = Generate("questions", inputs={"rows": topics.output}, args=args)
    loud = asked.map(lambda row: {"loud": row["question"].upper()}, lazy=False, name="loud")
    loud.publish_to_hf_hub(str(tmp_path / "out"))
    document = json.loads((tmp_path / "out" / "croissant.json").read_text())
    assert rows(opened(tmp_path / "out" / "croissant.json"), "train") == list(loud.output)
    assert len(loud) == 12
    assert faults(document) == []
    labels = {node["@id"]: node["prov:label"] for node in nodes(document) if "prov:label" in node}
    made_by = {field["name"]: labels[field["prov:wasGeneratedBy"]["@id"]] for field in document["recordSet"][1]["field"][:-1]}
    assert {name: made_by[name] for name in ("topic", "question", "tags", "author", "loud")} == {
        "topic": "topics", "question": "questions", "tags": "questions", "author": "questions", "loud": "loud",
    }  # fmt: skip
    work = next(step for step in document["prov:wasGeneratedBy"] if step["prov:label"] == "loud")
    assert [node["prov:label"] for node in work["prov:used"] if "sc:sha256" in node] == ["function"]


TYPES_OF_COLUMNS = {
    "text": ["a", None, "c"],
    "list": [["a", "b"], [], ["c"]],
    "lists": [[[1], [2, 3]], [], [[]]],
    "answer": [{"label": "good", "score": 0.5}, {"label": "bad", "score": 1.0}, {"label": None, "score": 0.0}],
    "triples": [[{"question": "a?", "answers": ["b"]}, {"question": "c?", "answers": []}], [], [{"question": "d?", "answers": ["e", "f"]}]],
    'it\'s [odd] "too"': [{"a.b'c\\": 1}, {"a.b'c\\": 2}, {"a.b'c\\": 3}],
    "flag": [True, None, False],
    "number": [1, None, 3],
    "small": pa.array([1, 2, 3], pa.uint8()),
    "share": pa.array([0.5, None, 1.5], pa.float32()),
    "nothing": [None, None, None],
    "bytes": [b"x", b"y", None],
    "split": ["a", "b", "c"],
}


def test_lists_structs_and_odd_names_load(tmp_path: Path) -> None:
    table = pa.table(TYPES_OF_COLUMNS)
    publishing.publish_dataset(Rows(table), "./out")
    loaded = list(opened(tmp_path / "out" / "croissant.json").records("train"))
    document = json.loads((tmp_path / "out" / "croissant.json").read_text())
    names = {field["@id"]: field["name"] for field in nodes(document) if field.get("@type") == "cr:Field"}
    assert len(names) == len([field for field in nodes(document) if field.get("@type") == "cr:Field"])

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {names[key]: named(item) for key, item in value.items()}
        return [named(item) for item in value] if isinstance(value, list) else plain(value)

    expected = table.set_column(table.schema.get_field_index("bytes"), "bytes", pa.array(["x", "y", None])).to_pylist()
    assert [named(record) for record in loaded] == expected
    kinds = {field["name"]: field.get("dataType") for field in document["recordSet"][1]["field"]}
    assert [kinds[name] for name in ("text", "list", "lists", "small", "share", "flag")] == [
        "sc:Text", "sc:Text", "cr:Int64", "cr:UInt8", "cr:Float32", "sc:Boolean",
    ]  # fmt: skip


def test_what_a_reader_would_get_wrong_is_only_described(tmp_path: Path) -> None:
    deep = pa.table({"plain": ["x"], "deep": [[[{"a": 1}]]], "within": [{"list": [{"a": 1}, {"a": 2}], "b": "y"}]})
    publishing.publish_dataset(Rows(deep), "./out")
    found = opened(tmp_path / "out" / "croissant.json")
    assert [list(leaves(record)) for record in rows(found, "train")] == [["x", None, None, "y"]]


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def test_several_files_load_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbdream.hub.dataset.SHARD_BYTES", 700)
    table = pa.table({"n": list(range(300)), "text": [f"row {n}" for n in range(300)]})
    publishing.publish_dataset(Rows(table), "./out")
    assert len(list((tmp_path / "out" / "data").iterdir())) > 3
    assert rows(opened(tmp_path / "out" / "croissant.json"), "train") == table.to_pylist()


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    publishing.publish_dataset(Rows(pa.table({"a": ["x"]})), "./out")
    file = tmp_path / "out" / "data" / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(mlcroissant.GenerationError):
        list(opened(tmp_path / "out" / "croissant.json").records("train"))


def test_it_loads_from_the_hub_alone(hub: Any, tmp_path: Path) -> None:
    table = pa.table({"tweet": ["a", "b"]})
    publishing.publish_dataset(Rows(table), "org/alone", branch="v2")
    text = hub.files("dataset", "org/alone", "v2")["croissant.json"]
    (tmp_path / "croissant.json").write_bytes(text)
    assert rows(opened(tmp_path / "croissant.json"), "train") == table.to_pylist()
    assert json.loads(text)["url"] == f"{hub.url}/datasets/org/alone/tree/v2"
    publishing.publish_dataset(Rows(table), "org/alone", branch="v2")
    assert hub.commits("dataset", "org/alone", "v2") == ["initial commit", "Publish with nbdream"]


# --- what it says -----------------------------------------------------------------------------------------------------


def test_the_work_its_models_prompts_and_dates(tmp_path: Path) -> None:
    graph = tweets()
    graph["nodes"]["b"]["node"]["recipe"]["args"] |= {"seed": 0}
    document = described(graph, columns("abstract", "title", "tweet"))
    validated(document, tmp_path)
    assert faults(document) == []
    found = {node["@id"]: node for node in nodes(document) if "@id" in node and len(node) > 1}
    work = next(node for node in found.values() if node.get("prov:label") == "tweets" and node["@type"] == "prov:Activity")
    assert [found[agent["@id"]]["name"] for agent in work["prov:wasAssociatedWith"]] == ["nbdream", "gpt-4"]
    assert work["prov:endedAtTime"] == {"@type": "xsd:dateTime", "@value": "2026-11-20T10:00:12+00:00"}
    plan = next(node for node in work["prov:used"] if node.get("prov:label") == "template")
    assert plan["sc:sha256"] == "fbf9d0dd4827fe0b2866829c98ef9dcd7ac4eb404a7ded2dc0f4f8acf6c979a9"
    facts = {fact["name"]: fact["value"] for fact in work["additionalProperty"]}
    assert facts == {"rows": 1000, "failed rows": 3, "temperature": 1.2, "seed": 0}
    assert [source["@id"] for source in document["prov:wasDerivedFrom"]] == ["https://huggingface.co/datasets/org/papers"]
    assert document["citation"] == ["@misc{papers}", CITATION]


def test_the_dates_are_those_of_the_work() -> None:
    document = described(tweets(), columns("tweet"))
    assert (document["datePublished"], document["dateCreated"]) == (MADE["finished"][:10], "2026-11-20T10:00:12+00:00")
    assert document["version"].startswith("2026.11.20+")
    assert cards.as_text(document) == cards.as_text(described(tweets(), columns("tweet")))
    again = cards.as_text(document)
    assert not re.findall(r"\d{4}-\d\d-\d\d", re.sub("2026-11-20", "", again))


@pytest.mark.parametrize("finished", ["2026-13-45T99:00:00Z", "yesterday", "", None, 5, "2026-11-20"])
def test_what_is_no_date_is_no_date(tmp_path: Path, finished: Any) -> None:
    graph = tweets()
    graph["nodes"]["b"]["node"]["made"] = {"started": finished, "finished": finished}
    document = described(graph, columns("tweet"))
    assert not {"datePublished", "dateCreated"} & set(document)
    (tmp_path / "croissant.json").write_text(cards.as_text(document))
    issues = mlcroissant.Dataset(tmp_path / "croissant.json").metadata.ctx.issues
    assert [issue for issue in issues.warnings if "datePublished" not in issue] == []


def test_a_licence_is_the_one_that_was_stated(tmp_path: Path) -> None:
    publishing.publish_dataset(Rows(pa.table({"a": ["x"]})), "./out")
    file, readme = tmp_path / "out" / "croissant.json", tmp_path / "out" / "README.md"
    assert json.loads(file.read_text())["license"] == ["unknown: no licence was stated"]
    readme.write_text(readme.read_text().replace("---\n", "---\nlicense: cc-by-4.0\n", 1))
    publishing.publish_dataset(Rows(pa.table({"a": ["x"]})), "./out")
    assert json.loads(file.read_text())["license"] == ["https://spdx.org/licenses/CC-BY-4.0"]
    graph = tweets()
    graph["nodes"]["b"]["node"]["cards"] = [{"type": "LICENSE", "value": "mit"}, {"type": "CITATION", "value": "@misc{mine}"}]
    publishing.publish_dataset(Rows(pa.table({"a": ["x"]}), graph), "./out")
    found = json.loads(file.read_text())
    assert (found["license"], found["citeAs"]) == (["https://spdx.org/licenses/MIT"], "@misc{mine}")


def test_only_what_is_true_is_said_of_the_collection() -> None:
    said = described(tweets(), columns("tweet"))
    assert said["rai:hasSyntheticData"] is True
    assert said["rai:dataCollectionTimeFrame"] == ["2026-11-20T10:00:00+00:00", "2026-11-20T10:00:12+00:00"]
    assert {key for key in said if key.startswith("rai:")} == {
        "rai:hasSyntheticData", "rai:dataCollection", "rai:dataCollectionType", "rai:dataCollectionTimeFrame",
        "rai:dataCollectionMissingData", "rai:dataLimitations",
    }  # fmt: skip
    graph = {"root": "a", "nodes": {"a": place("mine", "DataSource", made_columns=["text"])}}
    bare = described(graph, columns("text"), synthetic=False)
    assert bare["rai:hasSyntheticData"] is False
    assert {key for key in bare if key.startswith("rai:")} == {
        "rai:hasSyntheticData", "rai:dataCollection", "rai:dataCollectionTimeFrame"
    }  # fmt: skip
    registered = [{"type": "Annotation Instruction", "value": "Which is better?"}, {"type": "Agreement", "value": "Cohen's κ 0.8"}]
    nodes = {"b": place("taste", "Annotate", {"rows": "a"}, cards=registered, made_columns=["label"]), **graph["nodes"]}
    people = described({"root": "b", "nodes": nodes}, columns("label"), synthetic=False)
    assert people["rai:dataAnnotationProtocol"] == ["Which is better?"]
    assert people["rai:dataAnnotationAnalysis"] == ["Cohen's κ 0.8"]


def test_what_a_person_added_stays(hub: Any, tmp_path: Path) -> None:
    mine = Rows(pa.table({"a": ["x"]}))
    publishing.publish_dataset(mine, "org/mine")
    document = json.loads(hub.files("dataset", "org/mine")["croissant.json"])
    document |= {"rai:dataBiases": ["Only cats."], "rai:dataSocialImpact": "None known.", "rai:hasSyntheticData": False}
    document |= {"rai:dataUseCases": {"@id": "https://evil.example/"}, "rai:evil": "x", "name": "another"}
    for text, kept in ((json.dumps(document), (["Only cats."], "None known.")), ("{", (None, None)), ("[]", (None, None))):
        hub.add("dataset", "org/mine", {"croissant.json": text.encode()})
        publishing.publish_dataset(mine, "org/mine")
        found = json.loads(hub.files("dataset", "org/mine")["croissant.json"])
        assert (found.get("rai:dataBiases"), found.get("rai:dataSocialImpact")) == kept
        assert (found["rai:hasSyntheticData"], found["name"]) == (True, "mine")
        assert not {"rai:dataUseCases", "rai:evil"} & set(found)
        (tmp_path / "croissant.json").write_text(json.dumps(found))
        opened(tmp_path / "croissant.json")


def test_what_a_trained_model_wrote_comes_from_its_run(tmp_path: Path) -> None:
    graph = three_steps()
    own = {"kind": "TrainedModel", "name": "tweeter", "license": None}
    made = place("more", "Generate", {"rows": "a", "llm": "c"}, {"carries": "rows"}, models=[own], made_columns=["post"])
    graph = {"root": "d", "nodes": {**graph["nodes"], "d": made}}
    document = described(graph, columns("abstract", "post"))
    validated(document, tmp_path)
    assert faults(document) == []
    labels = {node["@id"]: node["prov:label"] for node in nodes(document) if "prov:label" in node}
    post = next(field for field in document["recordSet"][1]["field"] if field["name"] == "post")
    assert [labels[source["@id"]] for source in post["prov:wasDerivedFrom"]] == ["papers", "tweeter (a model)"]
    assert {T5["name"], GPT["name"], "tweeter", "nbdream"} == {agent["name"] for agent in document["prov:wasAttributedTo"]}


@pytest.mark.parametrize("wide", [1, 2])
def test_a_long_and_a_wide_lineage_are_read_at_once(tmp_path: Path, wide: int) -> None:
    """Readers follow every reference between nodes: where those made a chain or diamonds, they would not come back."""
    last = 1200 // wide
    above = {str(n): {f"in{k}": str(n + k) for k in range(1, wide + 1) if n + k <= last} for n in range(last + 1)}
    steps = {n: place(f"s{n}", "MapStep", inputs, made_columns=[f"c{n}"]) for n, inputs in above.items()}
    for n, inputs in above.items():
        for name, source in inputs.items():
            steps[n]["use"]["inputs"][name]["columns"] = [f"c{source}"]
    validated(described({"root": "0", "nodes": steps}, columns("c0")), tmp_path)


@pytest.mark.parametrize(
    "harm",
    [
        lambda document: document["prov:wasGeneratedBy"].clear(),
        lambda document: document["prov:wasGeneratedBy"][0].pop("prov:endedAtTime"),
        lambda document: document["prov:wasGeneratedBy"][0].update({"prov:startedAtTime": "yesterday"}),
        lambda document: document["prov:wasGeneratedBy"][1].update({"prov:wasAssociatedWith": {"@id": "#nobody"}}),
        lambda document: document["prov:wasGeneratedBy"][1]["prov:used"].append({"@id": "#nothing"}),
        lambda document: document["recordSet"][1]["field"][0].update({"prov:wasGeneratedBy": 42}),
        lambda document: document["recordSet"][1]["field"][0].pop("prov:specializationOf"),
        lambda document: document["recordSet"][1]["field"][0].update({"prov:wasDerivedFrom": {"@id": "train/abstract"}}),
    ],
)
def test_the_check_of_the_shape_sees(harm: Any) -> None:
    document = described(tweets(), columns("abstract", "tweet"))
    assert faults(document) == []
    harm(document)
    assert faults(document) != []


# --- texts stay texts -------------------------------------------------------------------------------------------------


def hostile_graph(text: str) -> dict[str, Any]:
    graph = tweets()
    for node in graph["nodes"].values():
        node["use"] |= {"name": text, "through": [{"source": text}]}
        models = [{"kind": text, "name": text, "card_url": text, "license": text, "citation": text}]
        node["node"] |= {"type": text, "models": models, "version": text, "environment": {"nbdream": text}}
        node["node"]["recipe"] = {"args": {"template": text, text: text[:50]}}
        node["node"]["cards"] = [{"type": kind, "value": text} for kind in ("LICENSE", "CITATION", "Agreement")]
    graph["nodes"]["a"]["node"]["source"] = dict.fromkeys(("name", "url", "revision", "license", "citation", "card"), text)
    graph["nodes"]["a"]["node"]["columns"] = {text: {"digest": text, "type": text}}
    graph["nodes"] |= {text: {"use": {**graph["nodes"]["b"]["use"], "carries": text}, "node": graph["nodes"]["b"]["node"]}}
    return {**graph, "root": text}


NODE = {"@id": "https://evil.example/", "@type": "prov:Activity", "evil": "x"}


def foreign_graph() -> dict[str, Any]:
    """A graph in which a stranger put nodes of JSON-LD where texts and numbers belong."""
    graph = tweets()
    for step in graph["nodes"].values():
        models = [{"kind": NODE, "name": "m", "card_url": NODE, "license": NODE, "citation": [NODE]}]
        step["node"] |= {"models": models, "version": NODE, "failures": NODE, "type": NODE, "made": {"started": NODE, "finished": [NODE]}}
        step["node"] |= {"cards": [{"type": "LICENSE", "value": NODE}], "environment": [NODE], "rows": NODE}
        step["node"]["recipe"] = {"args": {"template": NODE, "n": NODE, "code": {"$shown": {"source": NODE}}}}
        step["use"] |= {"through": [{"source": NODE}, NODE]}
    graph["nodes"]["a"]["node"]["source"] = dict.fromkeys(("name", "url", "revision", "license", "citation", "card"), NODE)
    return graph


def assert_no_nodes_of_others(document: dict[str, Any]) -> None:
    for node in nodes(document):
        assert "evil" not in node
        assert "evil.example" not in node.get("@id", "")


def test_what_is_no_text_is_not_said(tmp_path: Path) -> None:
    document = described(foreign_graph(), columns("tweet"))
    assert_no_nodes_of_others(document)
    assert "datePublished" not in document


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_a_key_an_id_or_a_type(text: str) -> None:
    schema = pa.schema(
        [(text.encode(errors="replace").decode() or "x", pa.struct([(text.encode(errors="replace").decode(), pa.string())]))]
    )
    document = described(hostile_graph(text), schema, (text,))
    for node in nodes(document):
        kinds = node.get("@type", [])
        assert set([kinds] if isinstance(kinds, str) else kinds) <= TYPES
        assert all(re.fullmatch(r"(?:@|prov:|rai:|sc:)?[A-Za-z0-9]+", key) for key in node if key != "@context")
        place_id = node.get("@id", "#nbdream")
        in_files = re.fullmatch(r"data/train-00000-of-00001\.parquet|split-names(/name)?|train(/(\w{1,64}|id-[0-9a-f]{16}))*", place_id)
        assert OURS.fullmatch(place_id) or in_files or re.fullmatch(r"https?://[^\s<>\"'{}|\\^`]+", place_id), place_id
    written = cards.as_text(document)
    assert written.isascii()
    assert not re.search(r"[<>&\x00-\x09\x0b-\x1f\x7f]", written)


def test_hostile_texts_validate_and_their_shape_is_whole(tmp_path: Path) -> None:
    for number, text in enumerate(
        ["x\ny", "https://evil.example/a b", "@id", "_:b0", "prov:Activity", "</script>", "\x1b[2J\u202e", '"', "é" * 300]
    ):
        schema = pa.schema([(text, pa.string()), (f"{text}{number}", pa.list_(pa.struct([(text, pa.string())])))])
        document = described(hostile_graph(text), schema, (text,))
        validated(document, tmp_path)
        found = rdflib.Graph().parse(data=cards.as_text(document), format="json-ld")
        assert {str(value) for value in found.objects(None, PROV_LABEL)} >= {text, f"{text}: {text}"}


def test_hostile_rows_publish_and_load(tmp_path: Path) -> None:
    texts = [text for text in HOSTILE if text.strip() and len(text) < 5000 and not re.search("[\ud800-\udfff]", text)]
    table = pa.table({text: [text, "x"] for text in texts})
    publishing.publish_dataset(Rows(table), "./out")
    document = json.loads((tmp_path / "out" / "croissant.json").read_text())
    names = {field["@id"]: field["name"] for field in document["recordSet"][1]["field"]}
    records = list(opened(tmp_path / "out" / "croissant.json").records("train"))
    loaded = [{names[key]: value.decode() for key, value in record.items() if key != "train/split"} for record in records]
    assert loaded == table.to_pylist()


def test_what_looks_like_a_secret_in_a_prompt_stops(tmp_path: Path) -> None:
    graph = tweets()
    graph["nodes"]["b"]["node"]["recipe"] = {"args": {"template": "use sk-abcdefghijklmnopqrstuvwx"}}
    with pytest.raises(HubError, match=r"line 1 of template of 'tweets' holds what looks like an API key"):
        publishing.publish_dataset(Rows(pa.table({"a": ["x"]}), graph), "./out")
    assert not (tmp_path / "out").exists()
