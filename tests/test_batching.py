"""How rows come together: packed without waste and without seeing each other, grouped by length, in an order that no device changes."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdream.errors import DataError
from nbdream.trainers.completion import IGNORED, Prepared
from nbdream.workers.batching import Order, choose, filling, keeps_apart, pack, positions
from tests import tiny

sizes = st.lists(st.integers(1, 64), max_size=200)


@given(sizes, st.integers(64, 100))
def test_every_row_is_packed_once_and_no_bin_overflows(lengths: list[int], capacity: int) -> None:
    bins = pack(lengths, capacity)
    assert sorted(row for members in bins for row in members) == list(range(len(lengths)))
    assert all(0 < sum(lengths[row] for row in members) <= capacity for members in bins)
    assert len(bins) >= math.ceil(sum(lengths) / capacity)
    # Two bins that would fit into one are never left apart.
    ordered = sorted(sum(lengths[row] for row in members) for members in bins)
    assert len(ordered) < 2 or ordered[0] + ordered[1] > capacity


def test_a_row_as_long_as_the_limit_is_kept_and_a_longer_one_is_an_error() -> None:
    assert pack([8, 3, 8, 5], 8) == [[0], [2], [3, 1]]
    with pytest.raises(ValueError, match="9 tokens"):
        pack([9], 8)


@pytest.mark.parametrize("kind", ["uniform", "lognormal"])
def test_packed_rows_are_full(kind: str) -> None:
    draw = random.Random(0)
    if kind == "uniform":
        lengths = [draw.randint(10, 256) for _ in range(5000)]
    else:
        lengths = [min(256, max(1, round(draw.lognormvariate(4, 0.6)))) for _ in range(5000)]
    assert filling(sum(lengths), len(pack(lengths, 256)), 256) >= 0.97


def test_the_rule_packs_where_grouping_wastes_and_enough_steps_are_left() -> None:
    draw = random.Random(0)
    alike = [draw.randint(90, 110) for _ in range(2000)]
    assert choose(alike, 1024, 8) == "grouped"  # nothing is wasted by grouping
    skewed = ([4] * 30 + [250, 500]) * 500
    assert choose(skewed, 512, 32) == choose(skewed, 512, 32)
    assert choose([5, 400] * 3000, 405, 2048) == "grouped"  # two steps an epoch would be left
    assert choose([5, 400] * 3000, 405, 7) == "grouped"
    rare = [10] * 9 + [1000]
    assert choose(rare * 4000, 1000, 10) in {"grouped", "packed"}


@given(st.integers(0, 120), st.integers(1, 16), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_has_each_row_once_and_blanks_last(rows: int, batch: int, seed: int, epoch: int) -> None:
    draw = random.Random(rows)
    lengths = [draw.randint(1, 50) for _ in range(rows)]
    for told in (None, lengths):
        order = Order(rows, batch, seed, told)
        order.epoch = epoch
        made = list(order)
        assert len(made) == len(order)
        assert sorted(made[:rows]) == list(range(rows))
        assert made[rows:] == [-1] * (len(order) - rows)
        assert made == list(order)


def test_grouped_batches_are_of_like_length_and_differ_from_epoch_to_epoch() -> None:
    draw = random.Random(1)
    lengths = [draw.randint(1, 200) for _ in range(1000)]
    order = Order(len(lengths), 10, 0, lengths)
    first = list(order)
    order.epoch = 1
    assert list(order) != first
    spread = [max(part) - min(part) for part in ([lengths[row] for row in first[at : at + 10]] for at in range(0, 1000, 10))]
    assert sum(spread) / len(spread) < 10  # drawn at random, it is about 160
    means = [sum(lengths[row] for row in first[at : at + 10]) for at in range(0, 500, 10)]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


def test_positions_begin_anew_at_each_example() -> None:
    assert positions([[3, 2], [4]], 6).tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 1]]


def tiny_models(folder: Path) -> dict[str, Any]:
    import torch
    import transformers

    torch.manual_seed(0)
    common: dict[str, Any] = {"vocab_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
    wide = {**common, "intermediate_size": 64, "num_key_value_heads": 2}
    configs = {
        "qwen3": transformers.Qwen3Config(**wide, head_dim=16),
        "llama": transformers.LlamaConfig(**wide),
        "gpt2": transformers.GPT2Config(vocab_size=64, n_layer=2, n_head=2, n_embd=32),
    }
    return {name: transformers.AutoModelForCausalLM.from_config(config).eval() for name, config in configs.items()}


def test_packed_examples_have_the_logits_that_each_has_alone(tmp_path: Path) -> None:
    import torch

    from nbdream.trainers.sft import Collator, packed

    tokenizer = tiny._tokenizer(chat=False, seq2seq=False)
    draw = random.Random(0)
    rows = [{"input_ids": [draw.randrange(64) for _ in range(length)]} for length in (5, 9, 3, 16, 7, 8)]
    for row in rows:
        row["labels"] = [IGNORED, *row["input_ids"][1:]]
    data = Prepared(rows=rows, max_length=16)
    for name, model in tiny_models(tmp_path).items():
        made = packed(data)
        assert len(made) == 3
        batch = Collator(model, tokenizer, seq2seq=False)(made)
        assert "attention_mask" not in batch
        with torch.no_grad():
            together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
            for number, members in enumerate(pack([len(row["input_ids"]) for row in rows], 16)):
                at = 0
                for row in members:
                    ids = torch.tensor([rows[row]["input_ids"]])
                    alone = model(input_ids=ids, use_cache=False).logits[0]
                    here = together[number, at : at + ids.shape[1]]
                    assert float((here - alone).abs().max()) < 1e-5, name
                    at += ids.shape[1]
        assert keeps_apart(model, 64)


def test_a_model_whose_packed_rows_leak_is_found_out(tmp_path: Path) -> None:
    model = tiny_models(tmp_path)["llama"]
    forward = model.forward

    def leaks(input_ids: Any, position_ids: Any = None, use_cache: bool = False) -> Any:
        return forward(input_ids=input_ids, use_cache=use_cache)  # reads one long text

    model.forward = leaks
    assert not keeps_apart(model, 64)


def test_no_label_of_a_packed_row_is_told_by_the_example_before_it() -> None:
    from nbdream.trainers.sft import packed

    rows = [{"input_ids": [1, 2, 3], "labels": [IGNORED, 2, 3]}, {"input_ids": [4, 5], "labels": [IGNORED, 5]}]
    assert packed(Prepared(rows=rows, max_length=5)) == [
        {"input_ids": [1, 2, 3, 4, 5], "labels": [IGNORED, 2, 3, IGNORED, 5], "lengths": [3, 2]}
    ]


def test_an_encoder_cannot_learn_packed_rows() -> None:
    from nbdream.trainers.sft import _batching

    class Told:
        spec = {"batching": "packed"}  # noqa: RUF012

    with pytest.raises(DataError, match="encoder"):
        _batching(Told(), None, Prepared(), seq2seq=True)  # type: ignore[arg-type]
