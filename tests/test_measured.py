"""What a model was measured to do stands in its card, beside what others have measured."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from nbdream import cards
from nbdream.cards.measured import Measured
from tests.graphs import three_steps
from tests.hostile import HOSTILE

RESULTS = [
    Measured("tweets.validation", "rouge1", 0.43126, 0.40, 0.459, 100),
    Measured("tweets.validation", "perplexity", 7.5, 7, 8, 100),
]
THEIRS = {
    "name": "Tweeter", "results": [{
        "task": {"type": "text-generation"}, "dataset": {"name": "Theirs", "type": "org/theirs"},
        "metrics": [{"type": "bleu", "value": 12.5}],
    }],
}  # fmt: skip


def readme(measured: list[Measured], existing: str | None = None) -> str:
    facts = cards.ModelFacts(repo_id="org/tweeter", seq2seq=False, adapter=False, measured=measured)
    return cards.readme_model(three_steps(), existing, facts)


def index(text: str) -> dict[tuple[str, str], Any]:
    """Dataset and metric → value, as the Hub's own card reads it."""
    found = ModelCard(text).data.eval_results or []
    return {(result.dataset_name, result.metric_name or result.metric_type): result.metric_value for result in found}


def test_the_index_of_results_and_a_table() -> None:
    text = readme(RESULTS)
    assert index(text) == {("tweets.validation", "rouge1"): 0.43126, ("tweets.validation", "perplexity"): 7.5}
    assert ModelCard(text).data.model_name == "tweeter"
    assert "| tweets.validation | rouge1 | 0.4313 | 0.4 to 0.459 | 100 |" in text
    assert readme(RESULTS, text) == text


def test_the_results_of_others_stay_and_ours_follow_the_evaluation() -> None:
    front = yaml.safe_dump({"model-index": [THEIRS]})
    first = readme(RESULTS, f"---\n{front}---\n# mine\n")
    assert index(first) == {("Theirs", "bleu"): 12.5, **index(readme(RESULTS))}
    then = readme(RESULTS[1:], first)
    assert index(then) == {("Theirs", "bleu"): 12.5, ("tweets.validation", "perplexity"): 7.5}
    assert index(readme([], then)) == {("Theirs", "bleu"): 12.5}


def test_without_an_evaluation_there_is_no_index() -> None:
    text = readme([])
    assert "model-index" not in text
    assert "## Measured" not in text


@pytest.mark.parametrize("given", [[1], "text", [{"name": 3}], [{"results": [1]}]])
def test_an_index_that_is_none_does_not_stop_a_publication(given: Any) -> None:
    text = readme(RESULTS, f"---\n{yaml.safe_dump({'model-index': given})}---\n")
    assert ("tweets.validation", "rouge1") in index(text)


@pytest.mark.parametrize("name", [text for text in HOSTILE if text.strip()])
def test_names_are_texts(name: str) -> None:
    text = readme([Measured(name, "exact_match", 0.5, 0.4, 0.6, 10)])
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert front
    assert [metric["type"] for part in yaml.safe_load(front[1])["model-index"][0]["results"] for metric in part["metrics"]] == [
        "exact_match"
    ]
    assert len(re.findall(r"^## Measured$", text, re.MULTILINE)) == 1
