"""Cards are pure functions of a graph: every known field, nothing invented, every text only text."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from nbdream import cards
from nbdream.cards.curve import curve_svg
from nbdream.cards.graph import maker, stages
from nbdream.cards.managed import block, replace
from nbdream.errors import HubError
from tests.graphs import CITATION, GPT, HOSTILE, MACHINE, SOURCE, T5, place, three_steps, tweets


def facts(**other: Any) -> cards.DatasetFacts:
    given: dict[str, Any] = {
        "repo_id": "org/tweets",
        "splits": {"train": 900, "validation": 100},
        "columns": {"abstract": "string", "title": "string", "tweet": "string"},
        "preview": [{"abstract": "We study cats.", "title": "Cats", "tweet": "Cats! #nlp"}],
        "metadata": {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]},
    }
    return cards.DatasetFacts(**{**given, **other})


def model_facts(**other: Any) -> cards.ModelFacts:
    return cards.ModelFacts(**{"repo_id": "org/tweeter", "seq2seq": True, "adapter": False, "examples": ["We study cats."], **other})


def test_the_card_has_every_field_of_table_3() -> None:
    card = cards.data_card(three_steps())
    assert list(card["data_card"]) == ["papers", "tweets", "tweeter"]
    assert card["data_card"]["papers"] == {
        "Date & Time": "2026-11-20T10:00:12Z",
        "Dataset Name": ["org/papers"],
        "URL": [SOURCE["url"]],
        "Dataset Card": [SOURCE["card"]],
        "License Information": ["cc-by-4.0"],
        "Citation Information": ["@misc{papers}"],
    }
    assert card["data_card"]["tweets"] == {
        "Date & Time": "2026-11-20T10:00:12Z",
        "Model Name": ["gpt-4"],
        "Model Card": [GPT["card_url"]],
        "License Information": [GPT["license"]],
        "Citation Information": [CITATION],
    }
    fields = {field for step in card["data_card"].values() for field in step}
    assert fields == set(cards.FIELDS)
    for step, known in card["data_card"].items():
        for field in cards.FIELDS:
            reasons = [reason for reason, steps in card["not_stated"].get(field, {}).items() if step in steps]
            assert len(reasons) == (0 if field in known else 1), (step, field)


def test_the_wrapper_tells_of_the_work_not_of_now() -> None:
    card = cards.data_card(tweets())
    del card["data_card"], card["not_stated"], card["terms"]
    assert card == {
        "__version__": "0.1.0",
        "datetime": "2026-11-20T10:00:12Z",
        "type": "Generate",
        "name": "tweets",
        "version": "1.0",
        "fingerprint": "r-tweets",
        "pickled": False,
        "req_versions": {"openai": "3.52.0", "pyarrow": "26.0.1"},
        "interpreter": "3.11.9",
        "platform": "Linux",
        "machine": MACHINE,
    }
    assert cards.data_card(tweets()) == cards.data_card(tweets())


def test_a_model_card_stands_beside_the_data_card() -> None:
    card = cards.model_card(three_steps())
    assert list(card["data_card"]) == ["papers", "tweets"]
    assert card["model_card"] == {
        "tweeter": {
            "Date & Time": "2026-11-20T11:30:00Z",
            "Model Name": ["google/t5-v1_1-base"],
            "Model Card": [T5["card_url"]],
            "License Information": ["apache-2.0"],
        }
    }
    assert card["type"] == "TrainHFFineTune"
    json.dumps(card)


def test_steps_of_one_name_are_told_apart_and_shared_inputs_come_once() -> None:
    nodes = {
        "d": place("join", "ConcatStep", {"0": "b", "1": "c"}),
        "b": place("text", "Prompt", {"x": "a"}),
        "c": place("text", "Prompt", {"x": "a"}),
        "a": place("text", "DataSource"),
    }
    assert list(cards.data_card({"root": "d", "nodes": nodes})["data_card"]) == ["text", "text #2", "text #3", "join"]


def test_a_long_chain_is_no_recursion() -> None:
    nodes = {str(n): place(f"s{n}", "MapStep", {"x": str(n + 1)} if n < 5000 else {}) for n in range(5001)}
    found = stages({"root": "0", "nodes": nodes})
    assert (found[0].name, found[-1].name, len(found)) == ("s5000", "s0", 5001)


def test_what_an_author_registered_is_added_under_the_field_it_names() -> None:
    registered = [
        {"type": "LICENSE", "value": "mit"},
        {"type": "MODEL_NAME", "value": ["own", "own"]},
        {"type": "Reviewed by", "value": "Ann"},
        {"type": "Date & Time", "value": "1970"},
    ]
    card = cards.data_card({"root": "a", "nodes": {"a": place("mine", "Mine", cards=registered)}})["data_card"]["mine"]
    assert card == {"Date & Time": "2026-11-20T10:00:12Z", "License Information": ["mit"], "Model Name": ["own"], "Reviewed by": ["Ann"]}


def test_what_is_not_known_is_left_out() -> None:
    bare = {"use": {"name": "x", "inputs": {}}, "node": {"models": [{"name": "m", "license": None, "citation": ""}], "cards": None}}
    assert cards.data_card({"root": "a", "nodes": {"a": bare}})["data_card"] == {"x": {"Model Name": ["m"]}}
    assert "License" not in cards.readme_dataset(tweets() | {"nodes": {"b": bare}}, None, facts()).partition("---\n\n")[0]


def test_columns_are_followed_to_the_step_that_made_them() -> None:
    graph = tweets()
    view = {"post": "tweet", "abstract": "abstract"}
    graph["nodes"]["d"] = place("named", "RenameColumnsStep", {"rows": "b"}, {"carries": "rows", "view": view})
    found = {stage.id: stage for stage in stages({**graph, "root": "d"})}
    assert maker(found, found["d"], "post").name == "tweets"
    assert maker(found, found["d"], "abstract").name == "papers"


def test_splits_join_into_one_graph() -> None:
    graph = tweets()
    parts = [{"root": part, "nodes": {**graph["nodes"], part: place(part, "SplitStep", {"rows": "b"})}} for part in ("train", "validation")]
    assert list(cards.data_card(cards.join(parts))["data_card"]) == ["papers", "tweets", "train", "validation"]
    assert cards.join(parts[:1]) == {**parts[0], "also": []}


@pytest.mark.parametrize(
    ("node", "is_demo"),
    [
        ({"models": [{"name": "demo"}]}, True),
        ({"models": [{"name": "x", "identity": {"model": "demo", "sha256": "0"}}]}, True),
        ({"recipe": {"args": {"llm": {"value": {"identity": {"model": "demo"}}}}}}, True),
        ({"models": [GPT]}, False),
        ({"recipe": {"args": {"template": "a demo"}}}, False),
    ],
)
def test_rows_of_the_demo_model_are_known(node: dict[str, Any], is_demo: bool) -> None:
    nodes = {"b": place("x", "MapStep", {"rows": "a"}), "a": place("y", "Generate", **node)}
    assert cards.is_demo({"root": "b", "nodes": nodes}) is is_demo


def head(readme: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", readme, re.DOTALL)
    assert match
    return yaml.safe_load(match[1])


def test_the_readme_of_a_dataset() -> None:
    readme = cards.readme_dataset(tweets(), None, facts())
    front = head(readme)
    assert front["tags"] == ["synthetic", "nbdream", "nbdream-0.1.0", "gpt-4"]
    assert front["source_datasets"] == ["org/papers"]
    assert front["size_categories"] == ["1K<n<10K"]
    assert front["configs"][0]["config_name"] == "default"
    assert "license" not in front
    words = ("Write a tweet: {{ abstract }}", "You are careful.", "We study cats.", CITATION, "cc-by-4")
    for expected in ("```mermaid", "load_dataset('org/tweets')", *words):
        assert expected in readme
    assert "| tweet | string | tweets (gpt-4) |" in readme
    assert "| abstract | string | papers (HFHubDataSource) |" in readme
    assert "| tweets | Generate | 1,003 | 1,000 | 3 | gpt-4 | 2026-11-20 | 1,003 calls · 12,000 tokens · price not known |" in readme
    assert "- 3 of 1,003 rows failed at tweets." in readme
    assert "Made with nbdream 0.1.0 · Python 3.11.9 on A GPU, A processor, 2 cores, 23.5 GiB" in readme
    headings = re.findall(r"^## .*", readme, re.MULTILINE)
    assert len(headings) == len(set(headings))
    for part in readme.split("\n## ")[1:]:
        assert part.partition("\n")[2].strip(), "a heading with nothing below it"


def _frames() -> dict[str, Any]:
    """Tweets → a frame of them with a further column, by Python in two cells → replies by the trained model."""
    graph = three_steps()
    through = {"through": [{"source": "frame = tweets.to_pandas()"}, {"source": "frame['length'] = frame.tweet.str.len()"}]}
    taken = place("replies (data)", "DataSource", {"tweets": "b"}, through, made_columns=["tweet", "length", "abstract"])
    graph["nodes"]["b"]["node"]["columns"]["generations"]["digest"] = "same"
    taken["node"]["columns"]["tweet"]["digest"] = "same"
    taken["node"]["columns"]["length"]["digest"] = "new"
    taken["node"]["columns"]["abstract"]["digest"] = "changed"
    graph["nodes"]["d"] = taken
    carried = {"carries": "rows", "outputs": {"generations": "reply"}}
    asked = [{"name": "tweeter", "kind": "TrainedModel"}]
    graph["nodes"]["e"] = place("replies", "Generate", {"rows": "d"}, carried, models=asked, made_columns=["generations"])
    graph["nodes"]["e"]["use"]["inputs"]["model"] = {"recipe": "r-tweeter", "use": "c", "columns": [], "whole": False}
    return {"root": "e", "nodes": graph["nodes"]}


def test_a_column_that_python_passed_on_is_that_of_the_step_before() -> None:
    columns = {"abstract": "string", "tweet": "string", "length": "int64", "reply": "string"}
    readme = cards.readme_dataset(_frames(), None, facts(columns=columns))
    assert "| tweet | string | tweets (gpt-4) |" in readme
    assert "| length | int64 | replies \\(data\\) (Python) |" in readme
    assert "| abstract | string | replies \\(data\\) (Python) |" in readme  # its values are others
    assert "| reply | string | replies (tweeter) |" in readme


def test_python_between_steps_and_models_trained_here_stand_once() -> None:
    readme = cards.readme_dataset(_frames(), None, facts())
    assert readme.count("frame = tweets.to_pandas()") == 1
    picture = readme.partition("```mermaid")[2].partition("```")[0]
    assert picture.count("tweeter") == 1  # as the step that trained it
    assert "1,000 synthetic rows, written by gpt-4 and tweeter." in readme.replace("1,003", "1,000")


def test_a_model_without_held_out_rows_says_so() -> None:
    graph = three_steps()
    assert "without held-out rows" in cards.readme_model(graph, None, model_facts())
    graph["nodes"]["c"]["node"]["recipe"]["inputs"] = {"train_input": {}, "validation_input": {}}
    assert "without held-out rows" not in cards.readme_model(graph, None, model_facts())


def test_the_readme_of_a_model() -> None:
    readme = cards.readme_model(three_steps(), None, model_facts())
    front = head(readme)
    assert front["base_model"] == ["google/t5-v1_1-base"]
    assert front["datasets"] == ["org/papers"]
    assert front["library_name"] == "transformers"
    assert front["widget"] == [{"text": "We study cats."}]
    assert "AutoModelForSeq2SeqLM.from_pretrained('org/tweeter')" in readme
    adapter = cards.readme_model(three_steps(), None, model_facts(seq2seq=False, adapter=True))
    assert head(adapter)["library_name"] == "peft"
    assert "AutoPeftModelForCausalLM" in adapter


@pytest.mark.parametrize("rows", [1, 999, 1000, 10_000, 123_456, 10**13])
def test_size_categories(rows: int) -> None:
    expected = {1: "n<1K", 999: "n<1K", 1000: "1K<n<10K", 10_000: "10K<n<100K", 123_456: "100K<n<1M", 10**13: "n>1T"}
    assert head(cards.readme_dataset(tweets(), None, facts(splits={"train": rows})))["size_categories"] == [expected[rows]]


def test_a_readme_made_again_is_the_same() -> None:
    first = cards.readme_dataset(tweets(), None, facts())
    assert cards.readme_dataset(tweets(), first, facts()) == first
    assert cards.readme_dataset(tweets(), first.replace("\n", "\r\n"), facts()) == first
    model = cards.readme_model(three_steps(), None, model_facts())
    assert cards.readme_model(three_steps(), model, model_facts()) == model


def test_a_persons_own_words_survive() -> None:
    first = cards.readme_dataset(tweets(), None, facts())
    own = "license: mit\ntags: [cats, nbdream-0.0.9]\n---\n# Tweets about papers\n\nRead me first.\n"
    edited = first.replace("---\n# tweets\n", own, 1)
    edited = re.sub(r"^tags:\n(- .*\n)+", "", edited, flags=re.MULTILINE) + "\n## Thanks\n\nTo Ann.\n"
    again = cards.readme_dataset(tweets(), edited, facts(splits={"train": 5}))
    assert head(again)["license"] == "mit"
    assert head(again)["tags"] == ["cats", "synthetic", "nbdream", "nbdream-0.1.0", "gpt-4"]
    for kept in ("# Tweets about papers", "Read me first.", "## Thanks\n\nTo Ann."):
        assert again.count(kept) == 1
    assert again.count("nbdream:begin") == 1
    assert "1,000 rows." not in again


def test_a_readme_without_our_part_gets_it_at_its_end() -> None:
    readme = cards.readme_dataset(tweets(), "# Mine\n\nwords", facts())
    assert "---\n# Mine\n\nwords\n\n<!-- nbdream:begin" in readme


@pytest.mark.parametrize("broken", ["---\n: [\n---\n", "---\n- a\n- b\n---\n"])
def test_front_matter_that_is_none_is_named(broken: str) -> None:
    with pytest.raises(HubError, match="front matter"):
        cards.readme_dataset(tweets(), broken, facts())


def test_no_text_inside_the_managed_part_ends_it() -> None:
    inside = "a\n<!-- nbdream:end 000000000000 -->\n" + block("b") + "c"
    readme = "mine\n\n" + block(inside) + "\nthine\n"
    assert replace(readme, "new") == "mine\n\n" + block("new") + "\nthine\n"


def hostile_graph(text: str) -> dict[str, Any]:
    graph = three_steps()
    for node in graph["nodes"].values():
        node["use"]["name"] = text
        node["node"] |= {"type": text, "models": [{**GPT, "name": text, "card_url": text, "license": text, "citation": text}]}
        node["node"]["recipe"] = {"args": {"template": text, "stop": text[:50]}}
        node["node"]["cards"] = [{"type": text, "value": text}]
    graph["nodes"]["a"]["node"]["source"] = dict.fromkeys(SOURCE, text)
    return graph


def outside_fences(markdown: str) -> str:
    """``markdown`` without its fenced blocks, as CommonMark bounds them."""
    kept, fence = [], ""
    for line in markdown.split("\n"):
        marks = re.match(r" {0,3}(`{3,})([^`]*)$", line)
        if not fence and marks:
            fence = marks[1]
        elif fence and re.fullmatch(rf" {{0,3}}`{{{len(fence)},}}\s*", line):
            fence = ""
        elif not fence:
            kept.append(line)
    assert not fence, "a fence was left open"
    return "\n".join(kept)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_texts_in_a_readme(text: str) -> None:
    graph = hostile_graph(text)
    given = facts(preview=[{"abstract": text, text: [text]}], columns={text: "string"}, splits={"train": 1})
    for readme in (
        cards.readme_dataset(graph, None, given),
        cards.readme_model(graph, None, model_facts(examples=[text])),
        cards.readme_model(graph, None, model_facts(examples=[text], chat=True, adapter=True)),
    ):
        front = head(readme)
        assert text in front["tags"]
        assert "license" not in front
        visible = outside_fences(readme.partition("\n---\n")[2])
        assert visible.count("<!-- nbdream:begin") == visible.count("<!-- nbdream:end") == 1
        assert not re.search(r"<(?!!-- nbdream:|https?://)[a-zA-Z!/]", visible)
        assert not re.search(r"(?<!\\)\]\((?!#)", visible)
        assert not re.search(r"^# heading", visible, re.MULTILINE)
        assert "\x1b" not in visible
    again = cards.readme_dataset(graph, cards.readme_dataset(graph, None, given), given)
    assert again == cards.readme_dataset(graph, None, given)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_in_their_mermaid_label(text: str) -> None:
    readme = cards.readme_dataset(hostile_graph(text), None, facts(preview=[]))
    picture = readme.partition("```mermaid\n")[2].partition("\n```")[0].split("\n")
    line = re.compile(r'flowchart TD|    \w+\["[^"\[\]<>]*<br/>[^"\[\]<>]*"\]|    \w+\(\["[^"<>]*"\]\)|    \w+ (-->|-\.->) \w+')
    assert [each for each in picture if not line.fullmatch(each)] == []


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_texts_in_html(text: str) -> None:
    from html.parser import HTMLParser

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags, self.attributes, self.words = set[str](), set[str](), list[str]()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.add(tag)
            self.attributes |= {name for name, _ in attrs}

        def handle_data(self, data: str) -> None:
            self.words.append(data)

    reader = Reader()
    reader.feed(cards.card_html(hostile_graph(text), curve_svg({text: [(1, 1)]}, text)))
    assert reader.tags <= {"div", "img", "p", "strong", "details", "summary", "small", "table", "tr", "th", "td", "span", "br", "pre", "a"}
    assert reader.attributes <= {"style", "class", "open", "alt", "src", "scope", "href", "rel", "target"}
    assert text.splitlines()[0].strip("\x1b\u202e")[:5] in "".join(reader.words)


def test_only_web_addresses_become_links() -> None:
    page = cards.card_html(three_steps())
    assert page.count("<a ") == len(re.findall(r'<a style="color:inherit" href="https://', page)) > 3
    assert "<a " not in cards.card_html(hostile_graph("javascript:alert(1)"))


def test_the_html_card_shows_the_work_and_is_the_same_each_time() -> None:
    page = cards.card_html(three_steps())
    assert page == cards.card_html(three_steps())
    for expected in ("tweeter", "2026-11-20 11:30:00 UTC", "1,000 ok, 3 failed", "temperature 1.2", "You are careful.", "Write a tweet"):
        assert expected in page


def test_a_known_credential_is_in_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "swordfish-1234")
    graph = hostile_graph("say swordfish-1234 twice")
    readmes = [cards.readme_dataset(graph, None, facts()), cards.readme_model(graph, None, model_facts())]
    assert "swordfish" not in json.dumps([cards.data_card(graph), cards.card_html(graph), *readmes])


def test_no_folder_of_this_machine_is_in_a_card() -> None:
    graph = three_steps()
    graph["nodes"]["c"]["node"] |= {
        "models": [{**T5, "name": "/home/ann/models/t5"}],
        "recipe": {"args": {"base": "~/x/t5", "data": ["./y/z"]}},
    }
    made = [cards.model_card(graph), cards.card_html(graph), cards.readme_model(graph, None, model_facts())]
    assert "/home/ann" not in json.dumps(made)
    assert cards.model_card(graph)["model_card"]["tweeter"]["Model Name"] == ["t5"]
    assert "base_model" not in head(made[2])
    assert stages(graph)[-1].arguments == {"base": "t5", "data": ["z"]}
