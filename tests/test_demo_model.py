"""The model in the box: small, honest about what it is, and good enough for docs and demo."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdream.llms.base import Request
from nbdream.llms.hf_transformers import HFTransformers, demo
from nbdream.llms.weights import DEMO_FOLDER

SCRIPTS = Path(__file__).parent.parent / "scripts"
ABSTRACT = "Generate an arXiv abstract of an NLP research paper. Return just the abstract, no titles."
TWEET = "Given the abstract, write a tweet to summarize the work."


@pytest.fixture(scope="module")
def model() -> Iterator[HFTransformers]:
    made = demo()
    yield made
    made.unload_model()


@pytest.fixture(scope="module")
def corpus() -> Iterator[Any]:
    sys.path.insert(0, str(SCRIPTS))
    import demo_corpus

    yield demo_corpus
    sys.path.remove(str(SCRIPTS))


def ask(model: HFTransformers, prompts: list[str], **params: Any) -> list[str]:
    requests = [Request(model.messages(prompt), params, None, draw) for draw, prompt in enumerate(prompts)]
    replies = asyncio.run(model.complete_batch(requests))
    assert not [reply.error for reply in replies if reply.error]
    return [str(reply.text) for reply in replies]


def test_it_is_small_and_says_what_it_is() -> None:
    assert (DEMO_FOLDER / "model.safetensors").stat().st_size < 5_000_000
    assert sum(path.stat().st_size for path in DEMO_FOLDER.iterdir()) < 6_000_000
    card = (DEMO_FOLDER / "README.md").read_text()
    assert "A toy" in card
    made = demo()
    assert made.identity["identity"]["model"] == "demo"
    assert (made.card["name"], made.card["license"]) == ("demo", "apache-2.0")
    assert repr(made) == "HFTransformers('demo')"
    assert demo(temperature=0.5, system_prompt="Be brief.").settings() == {"temperature": 0.5}


def test_its_chat_template_takes_a_system_message_and_marks_what_it_says() -> None:
    template = (DEMO_FOLDER / "chat_template.jinja").read_text()
    assert "{% generation %}" in template
    assert "system" in template
    config = json.loads((DEMO_FOLDER / "config.json").read_text())
    assert config["dtype"] == "float16"


@pytest.mark.parametrize("temperature", [1.0, 1.2])
def test_its_abstracts_are_legible_and_distinct(model: HFTransformers, corpus: Any, temperature: float) -> None:
    made = ask(model, [ABSTRACT] * 64, temperature=temperature)
    assert len(set(made)) >= 62
    named = [text for text in made if any(task.name in text.lower() for task in corpus.TASKS) and text.endswith(".")]
    assert len(named) >= 60
    assert len({text.split(".")[0] for text in made}) > 25


@pytest.mark.parametrize("layout", ["{instruction}\n\n{text}", "Input: {text}\n\nInstruction: {instruction}"])
def test_its_tweets_say_what_the_abstract_says(model: HFTransformers, corpus: Any, layout: str) -> None:
    rng = random.Random(1234)
    papers = [corpus.facts(rng) for _ in range(64)]
    prompts = [layout.format(instruction=TWEET, text=corpus.abstract(rng, paper)) for paper in papers]
    tweets = ask(model, prompts, temperature=0)
    assert all(len(tweet) <= 280 for tweet in tweets)
    pairs = list(zip(papers, tweets, strict=True))
    assert sum(paper.task.name in tweet.lower() for paper, tweet in pairs) >= 58
    assert sum(paper.method in tweet.lower() for paper, tweet in pairs) >= 55
    assert sum(f" {paper.gain} " in tweet for paper, tweet in pairs) >= 50


def test_it_answers_yes_or_no(model: HFTransformers, corpus: Any) -> None:
    rng = random.Random(77)
    articles = [corpus.news(rng, topic) for topic in corpus.NEWS for _ in range(3)]
    layout = "Input: {}\n\nInstruction: Is the article about sports? Yes or No."
    assert set(ask(model, [layout.format(article) for article in articles], temperature=0)) <= {"Yes", "No"}


def test_it_rates_and_writes_haiku(model: HFTransformers) -> None:
    haiku = ask(model, ["Write a haiku about the sea."], temperature=0)[0]
    assert len(haiku.splitlines()) == 3
    grade = ask(model, [f"Rate this haiku from 1 to 10.\n\n{haiku}"], temperature=0)[0]
    assert 1 <= int(grade) <= 10


def test_the_corpus_is_seeded_and_wide(corpus: Any) -> None:
    from itertools import islice

    first = list(islice(corpus.chats(3), 200))
    assert first == list(islice(corpus.chats(3), 200)) != list(islice(corpus.chats(4), 200))
    rng = random.Random(0)
    assert len({corpus.abstract(rng, corpus.facts(rng)) for _ in range(5000)}) > 4990


def test_what_changes_what_it_says_is_part_of_what_it_is() -> None:
    plain = demo().identity
    assert demo(device="cpu", temperature=0.5).identity == plain
    others = [demo(chat_prompt_template="{{ prompt }}!"), demo(dtype="bfloat16"), demo(adapter_name=str(DEMO_FOLDER))]
    assert all(other.identity != plain and other.identity["identity"]["model"] == "demo" for other in others)
