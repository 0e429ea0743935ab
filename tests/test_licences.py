"""Licences and terms: gathered, carried along the graph, conflicts in words; and never one that nobody gave."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nbdream import cards
from nbdream.cards import terms
from nbdream.cards.licence import decided
from nbdream.errors import ArgumentError
from tests.graphs import T5, place, three_steps, tweets

LLAMA = {"kind": "HFTransformers", "name": "meta-llama/Meta-Llama-3-8B-Instruct", "license": "llama3"}
OPENAI = {
    "kind": "OpenAI",
    "name": "gpt-4o-mini",
    "identity": {"provider": "openai", "base_url": "https://api.openai.com/v1", "model": "gpt-4o-mini"},
}


def trained(models: list[dict[str, Any]] | None = None, base: dict[str, Any] = T5, source: dict[str, Any] | None = None) -> Any:
    """A source → tweets by ``models`` → a model trained from ``base``, as stages."""
    graph = three_steps()
    graph["nodes"]["b"]["node"]["models"] = models or []
    graph["nodes"]["c"]["node"]["models"] = [base]
    graph["nodes"]["a"]["node"]["source"] = source or {"name": "papers.csv"}
    return cards.stages(graph)


def of_source(license: str | None, **more: Any) -> Any:  # noqa: A002
    graph = tweets()
    graph["nodes"]["a"]["node"]["source"] = {
        "name": "org/papers",
        "url": "https://huggingface.co/datasets/org/papers",
        "license": license,
        **more,
    }
    graph["nodes"]["b"]["node"]["models"] = []
    return cards.stages(graph)


def head(readme: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", readme, re.DOTALL)
    assert match
    found: dict[str, Any] = yaml.safe_load(match[1])
    return found


# --- conflicts --------------------------------------------------------------------------------------------------------


def test_llama_3_outputs_train_only_llama_3() -> None:
    assert terms.conflicts(trained([LLAMA])) == [
        "Llama 3 outputs may train only Llama 3 models: `tweeter` is trained from google/t5-v1_1-base"
    ]
    assert terms.conflicts(trained([LLAMA], base=LLAMA)) == []
    assert terms.conflicts(trained([OPENAI])) == []


def test_a_model_behind_a_server_is_known_by_its_name() -> None:
    served = {"kind": "OpenAI", "name": "meta-llama/Llama-2-7b-chat", "identity": {"base_url": "http://127.0.0.1:8000/v1"}}
    (said,) = terms.conflicts(trained([served]))
    assert "may train only Llama 2 models" in said
    (term,) = [term for term in terms.gathered(trained([served])) if term.of == served["name"]]
    assert term.license == "llama2"
    assert term.by.startswith("by its name; Llama 2 Community License")


@pytest.mark.parametrize(
    ("name", "license_"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3.1"), ("meta-llama/Meta-Llama-3-8B", "llama3"), ("llama3.2", "llama3.2"),
        ("google/gemma-2-9b", "gemma"), ("google/gemma-3n-E4B", "gemma"), ("google/gemma-4-27b", None), ("my-llama-3-clone", None),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", None),
    ],
)  # fmt: skip
def test_names_that_are_known(name: str, license_: str | None) -> None:
    found = [term for term in terms.gathered(trained([{"name": name}])) if term.of == name]
    assert [term.license for term in found] == [license_]


def test_a_classifier_writes_nothing() -> None:
    found = trained([LLAMA])
    found[-1].node["recipe"]["kind"] = "classifier"
    assert terms.conflicts(found) == []


def test_names_of_models_that_llama_3_1_made() -> None:
    later = {"name": "meta-llama/Llama-3.1-8B-Instruct"}
    (said,) = terms.conflicts(trained([later]), name="org/tweeter")
    assert said.startswith("a model trained with outputs of meta-llama/Llama-3.1-8B-Instruct has a name that begins with Llama (Llama 3.1")
    assert said.endswith(": `tweeter` is called org/tweeter")
    assert terms.conflicts(trained([later]), name="org/Llama-tweeter") == []
    assert terms.conflicts(trained([later])) == []


@pytest.mark.parametrize(
    ("source", "given", "said"),
    [
        ("cc-by-nc-4.0", "mit", "for non-commercial use: mit would allow any"),
        ("cc-by-nc-4.0", "cc-by-nc-4.0", None),
        ("cc-by-sa-4.0", "mit", "has the same licence: it cannot be mit"),
        ("cc-by-sa-4.0", "cc-by-sa-4.0", None),
        ("cc-by-nd-4.0", None, "may not be shared in a changed form"),
        ("cc-by-4.0", "mit", None),
        (None, "mit", None),
    ],
)
def test_the_licence_of_a_source(source: str | None, given: str | None, said: str | None) -> None:
    found = terms.conflicts(of_source(source), given)
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_two_licences_that_both_want_all() -> None:
    graph = tweets()
    graph["nodes"]["a"]["node"]["source"] = {"name": "one", "license": "cc-by-sa-4.0"}
    graph["nodes"]["d"] = place("other", "HFHubDataSource", source={"name": "two", "license": "odbl"})
    graph["nodes"]["b"]["use"]["inputs"]["other"] = {"use": "d", "recipe": "r", "columns": []}
    found = cards.stages(graph)
    assert "one is cc-by-sa-4.0 and two is odbl: each asks for its own licence" in terms.conflicts(found)[0]
    assert terms.by_rule(found) is None


# --- what is carried --------------------------------------------------------------------------------------------------


def test_conditions_are_carried_with_who_says_so() -> None:
    asked = terms.asked(of_source("cc-by-nc-sa-4.0", gated=True))
    shared = "share alike: what is made of it has the same licence"
    assert asked == [
        f"org/papers is cc-by-nc-sa-4.0 (its card): non-commercial; {shared}; gated: who reads it has agreed to its conditions"
    ]
    (openai,) = [text for text in terms.asked(trained([OPENAI])) if "gpt" in text]
    assert openai.startswith("gpt-4o-mini (OpenAI Services Agreement of 2026-01-01, 3.3(e), read 2026-11-21): outputs may not be used to")


def test_what_is_not_known_is_said_to_be() -> None:
    azure = {**OPENAI, "identity": {"provider": "openai", "base_url": "https://my.azure.example/v1", "model": "gpt-4o-mini"}}
    assert terms.unknown(trained([azure])) == ["papers.csv", "gpt-4o-mini"]
    assert terms.unknown(trained([OPENAI], source={"name": "x", "license": "mit"})) == []
    card = cards.data_card(cards.join([{**tweets()}]))
    assert {row["of"]: row["license"] for row in card["terms"]} == {"org/papers": "cc-by-4.0", "gpt-4": "https://openai.com/policies"}


def test_the_table_says_when_and_where() -> None:
    table = terms.table()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", table["as_of"])
    for row in [*table["services"].values(), *table["licenses"].values()]:
        assert row["url"].startswith("https://")
        assert {"name", "edition", "outputs"} <= set(row)
    assert set(table["licenses"]) | set(table["share_alike"]) <= set(table["hub"])
    assert all(key in table["licenses"] for key in table["models"].values())
    assert json.loads(Path(terms.PATH).read_text())["format"] == 1


# --- the licence of a result ------------------------------------------------------------------------------------------


def facts(**more: Any) -> cards.DatasetFacts:
    given: dict[str, Any] = {
        "repo_id": "org/x",
        "splits": {"train": 3},
        "columns": {"a": "string"},
        "preview": [{"a": "x"}],
        "metadata": {},
    }
    return cards.DatasetFacts(**{**given, **more})


def test_no_licence_is_made_up() -> None:
    readme = cards.readme_dataset(tweets(), None, facts())
    assert "license" not in head(readme)
    assert "unknown: no licence was stated" in readme


def test_a_given_one_and_where_it_comes_from() -> None:
    readme = cards.readme_dataset(tweets(), None, facts(licence="MIT"))
    assert head(readme)["license"] == "mit"
    assert "The licence of this: mit (given)." in readme
    again = cards.readme_dataset(tweets(), readme, facts())
    assert head(again)["license"] == "mit"
    assert "(the README)" in again
    other = cards.readme_dataset(tweets(), readme, facts(licence="https://example.org/my-terms"))
    assert (head(other)["license"], head(other)["license_link"]) == ("other", "https://example.org/my-terms")
    assert "license_link" not in head(cards.readme_dataset(tweets(), other, facts(licence="mit")))


def test_a_persons_own_words_about_it_stay() -> None:
    mine = "---\nlicense: other\nlicense_name: my-terms\nlicense_link: LICENSE\n---\n# Mine\n"
    front = head(cards.readme_dataset(tweets(), mine, facts()))
    assert (front["license"], front["license_name"], front["license_link"]) == ("other", "my-terms", "LICENSE")
    several = head(cards.readme_dataset(tweets(), "---\nlicense: [mit, apache-2.0]\n---\n", facts()))
    assert several["license"] == ["mit", "apache-2.0"]


def test_share_alike_leaves_no_choice() -> None:
    licence = decided(of_source("cc-by-sa-4.0"))
    assert (licence.name, licence.by) == (
        "cc-by-sa-4.0",
        "org/papers is cc-by-sa-4.0, which asks for the same licence on what is made of it",
    )
    assert decided(of_source("cc-by-sa-4.0"), {"license": "mit"}).name == "mit"  # a person's word, which is a conflict
    assert decided(of_source("cc-by-4.0")).name is None
    # A model is no adaptation of the rows it was trained on; it is one of its base.
    assert decided(trained([], source={"name": "x", "license": "cc-by-sa-4.0"})).name is None
    assert decided(trained([], base=LLAMA)).name == "llama3"


def test_a_licence_that_the_hub_does_not_know() -> None:
    with pytest.raises(ArgumentError, match="cc-by-40") as caught:
        cards.licence.checked("cc-by-40")
    assert "did you mean 'cc-by-4.0'?" in str(caught.value)


def test_readme_and_page_show_terms_and_conflicts() -> None:
    graph = three_steps()
    graph["nodes"]["b"]["node"]["models"] = [LLAMA]
    readme = cards.readme_model(graph, None, cards.ModelFacts(repo_id="org/tweeter", seq2seq=True, adapter=False))
    assert "**Conflict:** Llama 3 outputs may train only Llama 3 models" in readme
    graph["nodes"]["b"]["node"]["models"] = [OPENAI]
    assert "| gpt-4o-mini |  | OpenAI Services Agreement |" in cards.readme_dataset({**graph, "root": "b"}, None, facts())
    graph["nodes"]["b"]["node"]["models"] = [LLAMA]
    page = cards.card_html(graph)
    assert "Llama 3 outputs may train only Llama 3 models" in page
    card = cards.model_card(graph)
    assert card["conflicts"][0].startswith("Llama 3 outputs")


# --- read from where it stands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ("license: mit", {"license": "mit"}),
        ("license: [mit, cc0-1.0]", {"license": "mit, cc0-1.0"}),
        ("license: other\nlicense_name: qwen-research\nlicense_link: https://x.org/L", {"license": "qwen-research", "license_link": "https://x.org/L"}),
        ("license: other\nlicense_link: LICENSE", {"license": "other", "license_link": "https://hub/x/blob/main/LICENSE"}),
        ("license: unknown", {"license": None}),
        ("tags: [a]", {"license": None}),
        ("license: [", {"license": None}),
        ("- a", {"license": None}),
    ],
)  # fmt: skip
def test_what_a_card_says(front: str, expected: dict[str, Any]) -> None:
    from nbdream.llms.licenses import in_card

    assert in_card(f"---\n{front}\n---\n# x\n", "https://hub/x") == expected
    assert in_card(f"---\r\n{front}\r\n---\r\n".replace("\n\n", "\n"), "https://hub/x") == expected


def test_a_source_and_a_base_of_the_hub(hub: Any, session: Any) -> None:
    from nbdream.llms.licenses import on_hub
    from nbdream.steps import HFHubDataSource

    readme = b"---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE.md\n---\n"
    commit = hub.add("model", "org/base", {"README.md": readme}, gated=True)
    page = f"{hub.url}/org/base"
    expected = {"license": "mine", "license_link": f"{page}/blob/main/LICENSE.md", "gated": True}
    assert on_hub("org/base", "model", lambda: commit, page) == expected
    assert on_hub("org/none", "model", lambda: "0" * 40, page) == {"license": None}

    hub.add("dataset", "org/rows", {"README.md": b"---\nlicense: cc-by-nc-4.0\n---\n", "data.csv": b"a\n1\n2\n"}, gated=True)
    rows = HFHubDataSource("rows", "org/rows", split="train")
    assert (rows.node["source"]["license"], rows.node["source"]["gated"]) == ("cc-by-nc-4.0", True)
    assert rows.card()["terms"][0]["asks"] == ["non-commercial", "gated: who reads it has agreed to its conditions"]
