"""Publishing with the real clients against a Hub on loopback: what was published loads back, and nothing else happens."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nbdream import hub as publishing
from nbdream.errors import ArgumentError, DataError, HubError
from nbdream.hub import repository
from nbdream.hub import target as targets
from tests.graphs import ENVIRONMENT, HOSTILE, place, three_steps, tweets

ROWS = [{"abstract": f"We study {n} cats.", "tweet": f"{n} cats! #nlp", "scores": [n, n + 1], "by": {"model": "gpt-4"}} for n in range(20)]

TOLD = ["README.md", "croissant.json", "nbdream.json", "ro-crate-metadata.json"]
"""What a dataset says about itself."""


class Runner:
    """What a handle asks of its session: its graph."""

    def __init__(self, graph: dict[str, Any]) -> None:
        self._graph = graph

    def graph(self, handle: Any) -> dict[str, Any]:
        return self._graph


class Rows:
    """A finished step with rows, as `StepHandle` shows it."""

    def __init__(self, rows: list[dict[str, Any]] | pa.Table, graph: dict[str, Any] | None = None) -> None:
        self.rows = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
        self.runner = Runner(graph or tweets())

    @property
    def output(self) -> Rows:
        return self

    def table(self) -> pa.Table:
        return self.rows

    def splits(self, stratify_by_column: str | None = None, **sizes: float) -> dict[str, Rows]:
        parts, start = {}, 0
        for name, share in sizes.items():
            count = round(share * self.rows.num_rows)
            parts[name.removesuffix("_size")] = Rows(self.rows.slice(start, count), self.runner.graph(self))
            start += count
        return parts


def load(repo_id: str, config: str | None = None, **options: Any) -> Any:
    import datasets

    return datasets.load_dataset(repo_id, config, **options)


def test_what_was_published_loads_back_equal(hub: Any) -> None:
    url = publishing.publish_dataset(Rows(ROWS), "org/tweets")
    assert url == f"{hub.url}/datasets/org/tweets"
    assert load("org/tweets", split="train").to_list() == ROWS
    assert next(iter(load("org/tweets", split="train", streaming=True))) == ROWS[0]
    assert sorted(hub.files("dataset", "org/tweets")) == sorted([*TOLD, "data/train-00000-of-00001.parquet"])
    card = json.loads(hub.files("dataset", "org/tweets")["nbdream.json"])
    assert list(card["data_card"]) == ["papers", "tweets"]
    assert not hub.repo("dataset", "org/tweets").private


def test_the_card_is_one_that_the_hub_takes(hub: Any) -> None:
    from huggingface_hub import DatasetCard

    publishing.publish_dataset(Rows(ROWS), "org/tweets")
    card = DatasetCard.load("org/tweets")
    card.validate(repo_type="dataset")
    assert card.data.tags[:2] == ["synthetic", "nbdream"]
    assert card.data.size_categories == ["n<1K"]


def test_splits_by_size_and_as_given(hub: Any) -> None:
    publishing.publish(Rows(ROWS), "org/a", train_size=0.9, validation_size=0.1, test_size=None, private=True)
    loaded = load("org/a")
    assert {name: part.num_rows for name, part in loaded.items()} == {"train": 18, "validation": 2}
    assert hub.repo("dataset", "org/a").private
    publishing.publish_dataset({"train": Rows(ROWS[:15]), "test": Rows(ROWS[15:])}, "org/b")
    assert load("org/b")["test"].to_list() == ROWS[15:]
    with pytest.raises(ArgumentError, match="splits already"):
        publishing.publish_dataset({"train": Rows(ROWS)}, "org/b", train_size=0.5)


def test_one_atomic_commit_and_none_for_the_same_again(hub: Any) -> None:
    for _ in range(3):
        publishing.publish_dataset(Rows(ROWS), "org/tweets", train_size=0.9, validation_size=0.1)
    assert hub.commits("dataset", "org/tweets") == ["initial commit", "Publish with nbdream"]
    refused = [seen.path for seen in hub.requests if seen.status >= 400 and seen.method != "POST"]
    assert refused == ["/api/datasets/org/tweets"]  # before it was there


def test_bytes_do_not_depend_on_how_the_rows_were_written(hub: Any) -> None:
    whole = pa.Table.from_pylist(ROWS)
    publishing.publish_dataset(Rows(whole), "org/tweets")
    chunked = pa.concat_tables([whole.slice(0, 7), whole.slice(7)]).replace_schema_metadata({"pandas": "{}"})
    publishing.publish_dataset(Rows(chunked), "org/tweets")
    assert len(hub.commits("dataset", "org/tweets")) == 2


def test_files_of_earlier_pushes_go_and_those_of_others_stay(hub: Any) -> None:
    publishing.publish_dataset(Rows(ROWS), "org/tweets", train_size=0.5, test_size=0.5)
    hub.add("dataset", "org/tweets", {"notes.txt": b"mine", "data/train-00000-of-00002.parquet": b"old", "data/extra.csv": b"a\n1\n"})
    publishing.publish_dataset(Rows(ROWS[:5]), "org/tweets")
    files = hub.files("dataset", "org/tweets")
    assert sorted(files) == sorted([*TOLD, "data/extra.csv", "data/train-00000-of-00001.parquet", "notes.txt"])
    assert load("org/tweets", split="train").num_rows == 5


def test_large_rows_are_sharded(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbdream.hub.dataset.SHARD_BYTES", 700)
    hub.chunk_size = 1000
    publishing.publish_dataset(Rows(ROWS), "org/tweets")
    shards = [path for path in hub.files("dataset", "org/tweets") if path.endswith(".parquet")]
    assert len(shards) > 1
    assert shards[0] == f"data/train-00000-of-{len(shards):05d}.parquet"
    assert load("org/tweets", split="train").to_list() == ROWS


def test_a_branch_and_the_owner_that_the_token_has(hub: Any) -> None:
    url = publishing.publish_dataset(Rows(ROWS), "mine", branch="v2")
    assert url == f"{hub.url}/datasets/tester/mine/tree/v2"
    assert hub.commits("dataset", "tester/mine") == ["initial commit"]
    assert load("tester/mine", revision="v2", split="train").num_rows == 20


def test_a_readme_edited_by_hand_and_another_configuration_stay(hub: Any) -> None:
    import datasets

    publishing.publish_dataset(Rows(ROWS), "org/tweets")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS[:2])}).push_to_hub("org/tweets", "small")
    readme = hub.files("dataset", "org/tweets")["README.md"].decode()
    hub.add("dataset", "org/tweets", {"README.md": (readme + "\n## Thanks\n\nTo Ann.\n").encode()})
    publishing.publish_dataset(Rows(ROWS[:10]), "org/tweets")
    readme = hub.files("dataset", "org/tweets")["README.md"].decode()
    assert "## Thanks\n\nTo Ann." in readme
    assert "10 synthetic rows" in readme
    assert load("org/tweets", split="train").num_rows == 10
    assert load("org/tweets", "small", split="train").num_rows == 2


@pytest.mark.parametrize("status", [409, 412, 503])
def test_a_conflict_is_tried_again(hub: Any, status: int) -> None:
    hub.fail("POST", "/commit/", status, times=2)
    publishing.publish_dataset(Rows(ROWS), "org/tweets")
    assert hub.commits("dataset", "org/tweets") == ["initial commit", "Publish with nbdream"]
    assert load("org/tweets", split="train").num_rows == 20


def test_a_conflict_that_stays_is_one_line(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbdream.hub.target.time.sleep", lambda seconds: None)
    hub.fail("POST", "/commit/", 412, times=99)
    with pytest.raises(HubError, match="412") as caught:
        publishing.publish_dataset(Rows(ROWS), "org/tweets")
    assert "\n" not in str(caught.value)
    assert len([seen for seen in hub.requests if "/commit/" in seen.path]) == targets.TRIES


def test_an_edit_between_read_and_commit_is_kept(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    publishing.publish_dataset(Rows(ROWS), "org/tweets")
    commit, edits = repository.HubTarget.commit, ["# By hand"]

    def interrupted(self: Any, *args: Any) -> None:
        if edits:
            hub.add("dataset", "org/tweets", {"README.md": edits.pop().encode()})
        commit(self, *args)

    monkeypatch.setattr(repository.HubTarget, "commit", interrupted)
    publishing.publish_dataset(Rows(ROWS[:3]), "org/tweets")
    assert "# By hand" in hub.files("dataset", "org/tweets")["README.md"].decode()
    assert load("org/tweets", split="train").num_rows == 3


def test_four_at_once_all_arrive(hub: Any) -> None:
    threads = [threading.Thread(target=publishing.publish_dataset, args=(Rows(ROWS[: 5 + n]), "org/tweets")) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hub.commits("dataset", "org/tweets")) == 5


def test_killed_between_upload_and_commit(hub: Any) -> None:
    """The rows are uploaded before the commit: a second try sends only the commit."""
    hub.fail("POST", "/commit/", 400)
    with pytest.raises(HubError):
        publishing.publish_dataset(Rows(ROWS), "org/tweets")
    uploads = [seen for seen in hub.requests if seen.path.startswith("/lfs/upload")]
    publishing.publish_dataset(Rows(ROWS), "org/tweets")
    assert [seen for seen in hub.requests if seen.path.startswith("/lfs/upload")] == uploads != []
    assert load("org/tweets", split="train").num_rows == 20


def one_line(error: BaseException) -> str:
    assert isinstance(error, HubError)
    assert error.hint
    assert "\n" not in str(error)
    return str(error)


def test_a_wrong_token_is_asked_once(hub: Any) -> None:
    with pytest.raises(HubError, match="refuses the token") as caught:
        publishing.publish_dataset(Rows(ROWS), "org/tweets", token="hf_wrongwrongwrong")
    assert "wrongwrong" not in one_line(caught.value)
    assert len(hub.requests) == 1


def test_a_token_that_may_only_read(hub: Any) -> None:
    with pytest.raises(HubError, match="may not write to org/tweets") as caught:
        publishing.publish_dataset(Rows(ROWS), "org/tweets", token="hf_read")
    one_line(caught.value)


def test_no_token(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="no token") as caught:
        publishing.publish_dataset(Rows(ROWS), "org/tweets")
    assert "HF_TOKEN" in one_line(caught.value)
    assert hub.requests == []


def test_a_name_that_is_none(hub: Any) -> None:
    with pytest.raises(HubError, match="no name of a repository") as caught:
        publishing.publish_dataset(Rows(ROWS), "a b/c d")
    one_line(caught.value)


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch, hub: Any) -> None:
    import huggingface_hub

    real = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **options: real(endpoint="http://127.0.0.1:9", **options))
    with pytest.raises(HubError, match="cannot be reached") as caught:
        publishing.publish_dataset(Rows(ROWS), "org/tweets")
    one_line(caught.value)


SECRETS = [
    "sk-abcdefghijklmnopqrstuvwx",
    "hf_abcdefghijklmnopqrstuvwx",
    "AKIAABCDEFGHIJKLMNOP",
    "-----BEGIN RSA PRIVATE KEY-----",
    "sword-fish-1234",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("nested", [False, True])
def test_what_looks_like_a_secret_stops_with_the_place(hub: Any, monkeypatch: pytest.MonkeyPatch, secret: str, nested: bool) -> None:
    monkeypatch.setenv("MY_PASSWORD", "sword-fish-1234")
    text = f"use {secret} please"
    rows = [{**row, "tweet": [{"text": text if n == 17 else "x"}] if nested else text if n == 17 else "x"} for n, row in enumerate(ROWS)]
    with pytest.raises(HubError, match=r"row 17 of column 'tweet' in 'train' holds") as caught:
        publishing.publish_dataset(Rows(rows), "org/tweets")
    assert secret not in one_line(caught.value)
    with pytest.raises(HubError, match="row 17"):
        publishing.publish_dataset(Rows(rows), "./there")
    assert hub.requests == []
    assert not Path("there").exists()


def test_a_secret_in_a_prompt_stops_too(hub: Any) -> None:
    graph = tweets()
    graph["nodes"]["a"]["node"]["source"] = {"name": "x", "url": "https://example.org/?key=sk-abcdefghijklmnopqrstuvwx"}
    with pytest.raises(HubError, match=r"line \d+ of nbdream.json holds what looks like an API key"):
        publishing.publish_dataset(Rows(ROWS, graph), "org/tweets")


def test_rows_of_the_demo_model_go_to_a_folder_or_with_yes(hub: Any) -> None:
    graph = tweets()
    graph["nodes"]["b"]["node"]["models"] = [{"name": "demo", "identity": {"model": "demo"}}]
    rows = Rows(ROWS, graph)
    with pytest.raises(HubError, match="demo model") as caught:
        publishing.publish_dataset(rows, "org/tweets")
    assert "--yes" in one_line(caught.value)
    assert hub.requests == []
    publishing.publish_dataset(rows, "./tweets")
    publishing.publish_dataset(rows, "org/tweets", yes=True)
    assert load("org/tweets", split="train").num_rows == 20


def test_no_rows() -> None:
    with pytest.raises(DataError, match="no rows"):
        publishing.publish_dataset(Rows(pa.table({"a": pa.array([], pa.string())})), "./there")


@pytest.mark.parametrize("name", ["out", "./out/deeper", "~/out"])
def test_a_folder_loads_as_the_repository_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    given = str(tmp_path / name) if name == "out" else name
    where = publishing.publish_dataset(Rows(ROWS), given, train_size=0.5, test_size=0.5)
    assert Path(where).is_dir()
    assert load(where)["test"].to_list() == ROWS[10:]
    assert str(tmp_path) not in (Path(where) / "README.md").read_text()


def test_a_folder_is_brought_up_to_date(tmp_path: Path) -> None:
    publishing.publish_dataset(Rows(ROWS), "./out", train_size=0.5, test_size=0.5)
    readme = Path("out/README.md")
    readme.write_text(readme.read_text() + "\nmy words\n")
    Path("out/mine.txt").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    publishing.publish_dataset(Rows(ROWS), "./out", train_size=0.5, test_size=0.5)
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before
    publishing.publish_dataset(Rows(ROWS), "./out")
    files = sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file())
    assert files == sorted([*TOLD, "data/train-00000-of-00001.parquet", "mine.txt"])
    assert "my words" in readme.read_text()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    Path("out").mkdir()
    Path("out/nbdream.json").write_text("[]")
    with pytest.raises(ArgumentError, match="not empty"):
        publishing.publish_dataset(Rows(ROWS), "./out")
    Path("file").write_text("x")
    with pytest.raises(ArgumentError, match="is a file"):
        publishing.publish_dataset(Rows(ROWS), "./file")
    assert sorted(path.name for path in Path("out").iterdir()) == ["nbdream.json"]


def test_hostile_rows_and_column_names_load_back(hub: Any) -> None:
    rows = [{"text": text, text: text} | {other: "x" for other in HOSTILE if other != text} for text in HOSTILE]
    publishing.publish_dataset(Rows(rows), "org/hostile")
    assert load("org/hostile", split="train").to_list() == [{key: row[key] for key in rows[0]} for row in rows]


def test_types_survive(hub: Any) -> None:
    import datetime

    table = pa.table(
        {
            "empty": pa.array([None, None]),
            "when": pa.array([datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), None]),
            "large": pa.array(["a", "b"], pa.large_string()),
            "bytes": pa.array([b"\0", b"x"]),
            "vector": pa.array([[0.5, 1.0], []]),
            "flag": pa.array([True, False]),
        }
    )
    publishing.publish_dataset(Rows(table), "org/types")
    assert load("org/types", split="train").to_list() == table.to_pylist()


# --- models -----------------------------------------------------------------------------------------------------------


class Trained:
    """A trained model, as the trainers give it."""

    picture = "<svg>a curve</svg>"

    def __init__(self, path: Path, graph: dict[str, Any] | None = None) -> None:
        self.model_path = str(path)
        self.runner = Runner(graph or three_steps())
        self.examples = ["We study cats."]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model of a few thousand weights, with its tokenizer, and what must not be published."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    words = {word: number for number, word in enumerate(["<pad>", "<eos>", "we", "study", "cats"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    sizes = {"vocab_size": 8, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, pad_token_id=0, eos_token_id=1)).save_pretrained(folder)
    for stray in ("training_args.bin", "optimizer.pt", "notes.pkl", "log.md"):
        (folder / stray).write_bytes(b"x")
    return folder


def weights(repo_id: str) -> dict[str, list[Any]]:
    from transformers import AutoModelForCausalLM

    return {name: value.tolist() for name, value in AutoModelForCausalLM.from_pretrained(repo_id).state_dict().items()}


def test_a_model_loads_back_with_the_same_weights(hub: Any, model_folder: Path) -> None:
    from transformers import AutoTokenizer

    url = publishing.publish(Trained(model_folder), "org/tweeter", train_size=None)
    assert url == f"{hub.url}/org/tweeter"
    assert weights("org/tweeter") == weights(str(model_folder))
    assert AutoTokenizer.from_pretrained("org/tweeter")("we study cats")["input_ids"] == [2, 3, 4]
    files = hub.files("model", "org/tweeter")
    assert {"README.md", "nbdream.json", "training_args.json", "model.safetensors", "config.json", "tokenizer.json"} <= set(files)
    assert not [path for path in files if path.endswith((".bin", ".pt", ".pkl", ".md")) and path != "README.md"]
    assert json.loads(files["training_args.json"]) == {"epochs": 30, "batch_size": 8}
    assert list(json.loads(files["nbdream.json"])["model_card"]) == ["tweeter"]
    assert files["training.svg"] == b"<svg>a curve</svg>"
    assert b"![loss](training.svg)" in files["README.md"]
    publishing.publish_model(Trained(model_folder), "org/tweeter")
    assert hub.commits("model", "org/tweeter") == ["initial commit", "Publish with nbdream"]


def test_the_model_card_is_one_that_the_hub_takes(hub: Any, model_folder: Path) -> None:
    from huggingface_hub import ModelCard

    publishing.publish_model(Trained(model_folder), "org/tweeter")
    card = ModelCard.load("org/tweeter")
    card.validate(repo_type="model")
    assert (card.data.base_model, card.data.datasets) == (["google/t5-v1_1-base"], ["org/papers"])
    assert "AutoModelForCausalLM.from_pretrained('org/tweeter')" in card.content


@pytest.fixture
def adapter_folder(model_folder: Path, tmp_path: Path) -> Path:
    """The same model with a LoRA adapter beside it."""
    import shutil

    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "adapted"
    shutil.copytree(model_folder, folder)
    base = AutoModelForCausalLM.from_pretrained(folder)
    get_peft_model(base, LoraConfig(r=2, task_type="CAUSAL_LM")).save_pretrained(folder / "adapter")
    return folder


def test_the_adapter_alone(hub: Any, adapter_folder: Path) -> None:
    publishing.publish_model(Trained(adapter_folder), "org/tweeter", adapter_only=True)
    files = hub.files("model", "org/tweeter")
    assert {"adapter_model.safetensors", "adapter_config.json"} <= set(files)
    assert "model.safetensors" not in files
    config = json.loads(files["adapter_config.json"])
    assert config["base_model_name_or_path"] == "google/t5-v1_1-base"
    publishing.publish_model(Trained(adapter_folder), "org/tweeter")
    files = hub.files("model", "org/tweeter")
    assert "model.safetensors" in files
    assert "adapter_model.safetensors" not in files
    assert weights("org/tweeter") == weights(str(adapter_folder))


def test_a_model_to_a_folder(model_folder: Path) -> None:
    where = publishing.publish_model(Trained(model_folder), "./tweeter")
    assert weights(where) == weights(str(model_folder))


def test_models_that_cannot_be_published(tmp_path: Path, model_folder: Path) -> None:
    with pytest.raises(ArgumentError, match="no adapter"):
        publishing.publish_model(Trained(model_folder), "./x", adapter_only=True)
    with pytest.raises(HubError, match="no files"):
        publishing.publish_model(Trained(tmp_path / "nowhere"), "./x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HubError, match="not finished"):
        publishing.publish_model(Trained(tmp_path / "empty"), "./x")


def test_a_secret_among_the_training_arguments(tmp_path: Path, model_folder: Path) -> None:
    graph = three_steps()
    graph["nodes"]["c"] = place("tweeter", "TrainHFFineTune", kind="run", recipe={"args": {"hub_token": "hf_abcdefghijklmnopqrstuvwx"}})
    with pytest.raises(HubError, match=r"training_args.json holds what looks like a Hugging Face token"):
        publishing.publish_model(Trained(model_folder, graph), "./x")


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_a_step_of_a_session(hub: Any, session: Any) -> None:
    from nbdream.steps import DataSource

    papers = DataSource("papers", data=[{"abstract": row["abstract"]} for row in ROWS])
    louder = papers.map(lambda row: {"loud": row["abstract"].upper()}, lazy=False, name="louder")
    url = louder.publish_to_hf_hub("org/louder", train_size=0.8, validation_size=0.2)
    assert url == f"{hub.url}/datasets/org/louder"
    loaded = load("org/louder")
    assert sorted(row["abstract"] for part in loaded.values() for row in part) == sorted(row["abstract"] for row in ROWS)
    assert all(row["loud"] == row["abstract"].upper() for row in loaded["train"])
    card = json.loads(hub.files("dataset", "org/louder")["nbdream.json"])
    assert list(card["data_card"]) == ["papers", "louder"]
    assert card["name"] == "louder"
    assert card["__version__"] == ENVIRONMENT["nbdream"]
    louder.publish_to_hf_hub("org/louder", train_size=0.8, validation_size=0.2)
    assert len(hub.commits("dataset", "org/louder")) == 2
