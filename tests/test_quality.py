"""Training teaches: measured on held-out rows, before and after, with intervals that do not touch."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from nbdream import Session
from nbdream.steps import DataSource, Evaluate
from nbdream.trainers import TrainHFDPO, TrainHFFineTune
from tests import tiny

COLOURS = ["red", "green", "blue", "white", "black", "grey", "brown", "pink"]
THINGS = ["cups", "chairs", "lamps", "books", "boats", "clocks", "coats", "drums"]
CITIES = ["Rome", "Oslo", "Lima", "Paris", "Cairo", "Delhi", "Quito", "Seoul"]


def orders(count: int, seed: int) -> list[dict[str, str]]:
    """Orders in a sentence, and the slip that goes with the parcel: nothing that the demo model has ever seen."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        number, colour, thing, city = draw.randint(2, 9), draw.choice(COLOURS), draw.choice(THINGS), draw.choice(CITIES)
        made.append({"order": f"Please send {number} {colour} {thing} to {city}.", "slip": f"{city}: {number} x {thing} ({colour})"})
    return made


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_demo_model_learns_a_new_task_from_any_seed(
    seed: int, session: Session, record_property: Callable[[str, object], None]
) -> None:
    train, held = DataSource("train", data=orders(256, 1)).output, DataSource("held", data=orders(200, 2)).output
    model = TrainHFFineTune("slips", "demo", device="cpu").train(
        train["order"], train["slip"], seed=seed, epochs=2, learning_rate=3e-3, batch_size=16
    )
    scores = Evaluate(
        "scores", inputs={"input": held["order"], "output": held["slip"]},
        args={"models": {"base": model.base, "trained": model}, "metrics": ["exact_match", "rouge"], "max_tokens": 24},
    )  # fmt: skip
    before, after = scores.summary["base"], scores.summary["trained"]
    shown = ("{0.value:.2f} [{0.low:.2f}, {0.high:.2f}]".format(summary["exact_match"]) for summary in (before, after))
    record_property("exact match", " → ".join(shown))
    assert after["exact_match"].n == 200
    assert after["exact_match"].low > before["exact_match"].high + 0.1, after["exact_match"]
    assert after["rougeL"].low > before["rougeL"].high


def preferences(count: int, seed: int) -> dict[str, list[str]]:
    prompts, chosen = tiny.pairs(count, seed)
    return {"prompts": prompts, "chosen": chosen, "rejected": [" ".join(text.split()[:3]) for text in prompts]}


def margins(folder: str, pairs: dict[str, list[str]]) -> list[float]:
    """How much likelier a model finds the chosen answer of each pair than the rejected one (difference of log likelihoods)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from nbdream.trainers.completion import chat_template, prepare_causal
    from nbdream.trainers.dpo import Collator, PreferenceLoss

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = chat_template(tokenizer, None)
    sides = {
        name: prepare_causal(tokenizer, pairs["prompts"], pairs[name], system=None, max_length=64, truncate=False).rows
        for name in ("chosen", "rejected")
    }
    rows = [{"chosen": chosen, "rejected": rejected} for chosen, rejected in zip(*sides.values(), strict=True)]
    with torch.no_grad():
        batch = Collator(model, tokenizer, seq2seq=False)(rows)
        chosen, rejected = PreferenceLoss("sigmoid", 0.1, shifts=True).likelihoods(model, batch).chunk(2)
    found: list[float] = (chosen - rejected).tolist()
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of a mean."""
    half = 1.96 * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values) - half, statistics.mean(values) + half


@pytest.mark.slow
def test_preferred_answers_become_likelier_on_pairs_never_seen(
    session: Session, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    base = str(tiny.causal(tmp_path / "base"))
    data = DataSource("pairs", data=preferences(160, 0)).output
    model = TrainHFDPO("preferring", base, device="cpu").train(
        data["prompts"], data["chosen"], data["rejected"], epochs=6, learning_rate=3e-3, batch_size=16
    )
    unseen = preferences(200, 7)
    before, after = (interval(margins(folder, unseen)) for folder in (base, model.model_path))
    record_property("margin of the preferred", "[{:.2f}, {:.2f}] → [{:.2f}, {:.2f}]".format(*before, *after))
    assert after[0] > before[1], (before, after)
