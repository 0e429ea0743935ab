"""Sources: the published forms of construction, what counts, and what is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdream import Session
from nbdream.errors import ArgumentError, DataError, HubError, NbDreamError, StepOutputTypeError
from nbdream.steps import wait
from nbdream.steps.files import read_csv
from nbdream.steps.hubs import citation
from nbdream.steps.sources import CSVDataSource, DataSource, HFDatasetDataSource, HFHubDataSource, JSONDataSource, TextDataSource

DATA = {"text": ["a", "b", "c"], "number": [1, 2, 3]}
ROWS = [{"text": text, "number": number} for text, number in zip(*DATA.values(), strict=True)]


def made(session: Session) -> int:
    """How many results the session has."""
    return len(list((session.folder / "objects").glob("*/node.json")))


def write(name: str, text: str | bytes) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def frames() -> dict[str, Any]:
    import datasets
    import pandas
    import polars
    import pyarrow as pa

    return {
        "dict": DATA,
        "list of dicts": ROWS,
        "hf dataset": datasets.Dataset.from_dict(DATA),
        "pandas": pandas.DataFrame(DATA),
        "polars": polars.DataFrame(DATA),
        "arrow": pa.table(DATA),
        "tuple of dicts": tuple(ROWS),
        "iterator": iter(ROWS),
    }


def test_one_content_in_every_form_is_one_result(session: Session) -> None:
    for name, data in frames().items():
        source = DataSource(name, data=data)
        assert list(source.output) == ROWS, name
        assert source.output.column_names == ["text", "number"]
    assert made(session) == 1


def test_a_function_counts_by_its_code(session: Session) -> None:
    calls = []

    def rows() -> Iterator[dict[str, int]]:
        yield {"x": 1}
        yield {"x": 2}

    assert DataSource("first", rows, total_num_rows=2).output["x"][:] == [1, 2]
    assert DataSource("second", data=rows, auto_progress=False).output["x"][:] == [1, 2]
    assert made(session) == 1
    assert not calls
    assert DataSource("third", lambda: {"y": [1, 2]}).output["y"][:] == [1, 2]


def test_keys_that_lack_are_null(session: Session) -> None:
    source = DataSource("rows", [{"a": 1}, {"b": "x"}])
    assert list(source.output) == [{"a": 1, "b": None}, {"a": None, "b": "x"}]


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        ({}, DataError, "no rows"),
        ([], DataError, "no rows"),
        ({"a": []}, DataError, "no rows"),
        (["a", "b"], DataError, "row 0 is a str"),
        ([{"a": 1}, 2], DataError, "row 1 is a int"),
        (5, DataError, "is a int"),
        ("text", DataError, "is a str"),
        ({"a": [1, "x"]}, StepOutputTypeError, "'a' mixes int and str"),
        ({"a": [1], "b": [1, 2]}, DataError, "different lengths"),
        ([{1: 2}], DataError, "column 1"),
        ([{}, {}], DataError, "no columns"),
        (lambda: iter(()), DataError, "no rows"),
    ],
    ids=range(12),
)
def test_data_that_is_none(session: Session, data: Any, kind: type[NbDreamError], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        DataSource("bad", data=data)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert made(session) == 0


def test_the_published_options_are_taken(session: Session) -> None:
    source = DataSource("rows", data=DATA, verbose=False, log_level=10, save_num_proc=2, save_num_shards=1, progress_interval=5)
    assert source.output.num_rows == 3
    with pytest.raises(ArgumentError, match="rows"):
        DataSource("rows", data=DATA, total_rows=3)


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        "\n".join(map(json.dumps, ROWS)),
        "\n".join(map(json.dumps, ROWS)) + "\n\n",
        "\ufeff" + json.dumps(ROWS),
        json.dumps(DATA),
    ],
    ids=["list", "lines", "blank lines", "byte order mark", "columns"],
)
def test_json(session: Session, text: str) -> None:
    assert list(JSONDataSource("rows", data_files=write("rows.json", text)).output) == ROWS


def test_json_with_a_field_and_one_object(session: Session) -> None:
    write("rows.json", json.dumps({"version": 1, "data": ROWS}))
    assert list(JSONDataSource("rows", data_files=["rows.json"], field="data").output) == ROWS
    assert list(JSONDataSource("one", data_files=write("one.jsonl", '{"a": 1}')).output) == [{"a": 1}]
    with pytest.raises(DataError, match="no field 'dta'"):
        JSONDataSource("rows", data_files="rows.json", field="dta")


def test_csv(session: Session) -> None:
    write("rows.csv", 'text,number,share,zip,yes,none\r\n"a, ""b""\nc",1,0.5,007,true,\r\n,2,1e3,10,False,\r\n')
    rows = list(CSVDataSource("rows", data_files="rows.csv").output)
    assert rows == [
        {"text": 'a, "b"\nc', "number": 1, "share": 0.5, "zip": "007", "yes": True, "none": None},
        {"text": None, "number": 2, "share": 1000.0, "zip": "10", "yes": False, "none": None},
    ]


def test_csv_options(session: Session) -> None:
    write("rows.tsv", "a\tb\n1\t2\n")
    assert list(CSVDataSource("tab", data_files="rows.tsv", sep="\t").output) == [{"a": 1, "b": 2}]
    assert list(CSVDataSource("named", data_files="rows.tsv", sep="\t", column_names=["x", "y"], skiprows=1).output) == [{"x": 1, "y": 2}]
    write("latin.csv", "a\nà\n".encode("latin-1"))
    assert list(CSVDataSource("latin", data_files="latin.csv", encoding="latin-1").output) == [{"a": "à"}]


def test_a_type_is_of_the_whole_column(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("id\n" + "1\n" * 300_000 + "x\n")
    (table,) = read_csv(path)
    assert table.num_rows == 300_001
    assert table.column("id")[0].as_py() == "1"


def test_numbers_of_many_digits_stay_text(session: Session) -> None:
    write("rows.csv", "n\n123456789012345678901234567890\n")
    assert list(CSVDataSource("rows", data_files="rows.csv").output) == [{"n": "123456789012345678901234567890"}]


def test_text(session: Session) -> None:
    write("a.txt", "one\ntwo\n\nthree")
    assert TextDataSource("lines", data_files="a.txt").output["text"][:] == ["one", "two", "", "three"]
    assert TextDataSource("parts", data_files="a.txt", sample_by="paragraph").output["text"][:] == ["one\ntwo", "three"]
    assert TextDataSource("kept", data_files="a.txt", keep_linebreaks=True).output["text"][0] == "one\n"
    assert TextDataSource("whole", data_files="a.txt", sample_by="document").output["text"][:] == ["one\ntwo\n\nthree"]


def test_folders_and_patterns(session: Session) -> None:
    write("data/b.csv", "x\n2\n")
    write("data/a.csv", "x\n1\n")
    write("data/notes.txt", "no")
    assert CSVDataSource("folder", data_folder="data").output["x"][:] == [1, 2]
    assert CSVDataSource("both", data_folder="data", data_files=["b.csv", "a.csv"]).output["x"][:] == [2, 1]
    assert CSVDataSource("pattern", "data", "*.csv").output["x"][:] == [1, 2]


def test_a_file_counts_by_its_content(session: Session) -> None:
    first = CSVDataSource("rows", data_files=write("a.csv", "x\n1\n"))
    assert CSVDataSource("rows", data_files=write("b.csv", "x\n1\n")).key == first.key
    session.new_execution()
    assert CSVDataSource("rows", data_files=write("a.csv", "x\n2\n")).key != first.key
    assert CSVDataSource("rows", data_files=write("a.csv", "x\n2\n")).output["x"][:] == [2]
    assert "files" in " ".join(session.why("rows"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not text in utf-8"),
        ("a,b\n1,2,3\n", "is not a CSV: .*Expected 2 columns, got 3"),
        ('{"a": 1,\n "b": 2}', "looks like JSON"),
        ("<!DOCTYPE html>\n<p>no</p>", "looks like a web page"),
        ("a\0b\n1\n", "looks like binary data"),
        ("", "is not a CSV"),
        ("a,b\n", "no rows"),
        ("a,\n1,2\n", "without a name"),
        ("a,a\n1,2\n", "two columns 'a'"),
    ],
    ids=range(9),
)
def test_a_csv_that_is_none(session: Session, text: str | bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        CSVDataSource("bad", data_files=write("bad.csv", text))
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("{'a': 1}", DataError, "is not JSON: line 1"),
        ('{"a": 1}\n{"a": \n', DataError, "is not JSON: line 2"),
        ("[1, 2]", DataError, "row 1 is a int"),
        ("5", DataError, "holds one int"),
        ("[]", DataError, "no rows"),
        ("", DataError, "no rows"),
        ('[{"a": 1}, {"a": "x"}]', StepOutputTypeError, "'a' mixes int and str: row 1"),
        ("[" * 200_000, DataError, "bad.json"),
        (b"\xff\xfe", DataError, "not text"),
    ],
    ids=range(9),
)
def test_a_json_that_is_none(session: Session, text: str | bytes, kind: type[NbDreamError], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        JSONDataSource("bad", data_files=write("bad.json", text))
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(session: Session) -> None:
    with pytest.raises(DataError, match=r"no file missing\.csv"):
        CSVDataSource("rows", data_files="missing.csv")
    with pytest.raises(DataError, match="no folder missing"):
        CSVDataSource("rows", data_folder="missing")
    with pytest.raises(ArgumentError, match="no file is given"):
        JSONDataSource("rows")
    with pytest.raises(ValueError, match="one split"):
        JSONDataSource("rows", data_files={"train": "a.json"})
    with pytest.raises(ArgumentError, match="did you mean 'encoding'"):
        CSVDataSource("rows", data_files="a.csv", encodng="utf-8")
    Path("empty").mkdir()
    with pytest.raises(DataError, match="has no file"):
        CSVDataSource("rows", data_folder="empty")


def test_files_with_different_columns(session: Session) -> None:
    write("data/a.csv", "x\n1\n")
    write("data/b.csv", "y\n1\n")
    with pytest.raises(DataError, match="other columns than"):
        CSVDataSource("rows", data_folder="data")


# ------------------------------------------------------------------------------------------------ Hugging Face


def test_a_saved_dataset(session: Session) -> None:
    import datasets

    datasets.Dataset.from_dict(DATA).save_to_disk("saved")
    source = HFDatasetDataSource("rows", "saved")
    assert list(source.output) == ROWS
    assert DataSource("same", DATA).output.fingerprint == source.output.fingerprint
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(DATA)}).save_to_disk("splits")
    with pytest.raises(ValueError, match="train"):
        HFDatasetDataSource("rows", "splits")
    with pytest.raises(DataError, match="no folder"):
        HFDatasetDataSource("rows", "missing")


def test_a_local_folder_of_files(session: Session) -> None:
    write("folder/train.jsonl", "\n".join(map(json.dumps, ROWS)))
    write("folder/README.md", "---\nlicense: mit\n---\n@misc{a,\n title={{B}}\n}\n")
    source = HFHubDataSource("rows", "./folder", split="train")
    assert list(source.output) == ROWS
    assert source.node["source"] == {
        "name": "folder", "url": None, "revision": None, "card": None, "license": "mit", "citation": "@misc{a,\n title={{B}}\n}",
    }  # fmt: skip
    write("folder/train.jsonl", "\n".join(map(json.dumps, ROWS[:2])))
    assert HFHubDataSource("rows", "./folder").output.num_rows == 2


def test_a_dataset_of_the_hub(session: Session, hub: Any) -> None:
    push("org/rows", ROWS, "---\nlicense: apache-2.0\n---\n# Rows\n\n```bibtex\n@article{rows, title={Rows}}\n```\n")
    source = HFHubDataSource("rows", "org/rows", split="train", trust_remote_code=True)
    assert list(source.output) == ROWS
    told = source.node["source"]
    assert (told["name"], told["license"], told["citation"]) == ("org/rows", "apache-2.0", "@article{rows, title={Rows}}")
    assert told["url"].endswith("/datasets/org/rows")
    assert len(told["revision"]) == 40
    streamed = HFHubDataSource("streamed", "org/rows", split="train", streaming=True)
    assert streamed.key == source.key
    push("org/rows", ROWS[:1], "# Rows")
    asked = len(hub.requests)
    assert HFHubDataSource("again", "org/rows", split="train").output.num_rows == 3
    assert len(hub.requests) == asked


def test_a_dataset_that_is_not_on_the_hub(session: Session, hub: Any) -> None:
    with pytest.raises(HubError, match="org/missing is not on the Hub") as caught:
        HFHubDataSource("rows", "org/missing")
    assert "\n" not in str(caught.value)


def push(repo: str, rows: list[dict[str, Any]], readme: str) -> None:
    import huggingface_hub

    api = huggingface_hub.HfApi()
    api.create_repo(repo, repo_type="dataset", exist_ok=True)
    for name, text in (("train.jsonl", "\n".join(map(json.dumps, rows))), ("README.md", readme)):
        api.upload_file(path_or_fileobj=text.encode(), path_in_repo=name, repo_id=repo, repo_type="dataset")


def test_a_streamed_dataset(session: Session, hub: Any) -> None:
    push("org/streamed", ROWS, "# Rows")
    assert list(HFHubDataSource("streamed", "org/streamed", split="train", streaming=True).output) == ROWS
    with pytest.raises(DataError, match="org/streamed"):
        HFHubDataSource("other", "org/streamed", split="tset")


def test_citations() -> None:
    assert citation("text @inproceedings{a,\n title = {A {B} c}\n} more }") == "@inproceedings{a,\n title = {A {B} c}\n}"
    assert citation("mail me@home.org") is None
    assert citation("@misc{never closed") is None


def test_blocks_of_a_column_have_the_type_of_the_whole(session: Session) -> None:
    rows = 9000
    data: dict[str, list[Any]] = {
        "text": [None] * 4500 + ["ä"] * 4500,
        "whole": [None] * 4500 + [2**40] * 4500,
        "real": [0.5] * 4500 + [None] * 4500,
        "truth": [None] * 8999 + [True],
        "nothing": [None] * rows,
        "large": [1] * 8999 + [2**64],
        "half": ["a"] * 8999 + ["\ud800"],
    }
    for name in ("large", "half"):
        odd = data.pop(name)
        with pytest.raises(NbDreamError, match=name):
            DataSource(name, data={name: odd})
    output = DataSource("rows", data=data).output
    assert {name: list(output[name]) for name in data} == data
    schema = output.table(list(data)).schema
    assert [str(schema.field(name).type) for name in ("text", "whole", "real", "truth")] == ["string", "int64", "double", "bool"]
    assert DataSource("again", data=[dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]).key == output.step.key
    assert made(session) == 1


def test_data_that_changes_while_it_is_read_counts_as_it_was(session: Session) -> None:
    data = {"text": [f"text {number}" for number in range(20_000)]}
    source = DataSource("rows", data=data, background=True)
    data["text"][-1] = "changed"
    wait(source)
    assert source.output["text"][-1] == "text 19999"
