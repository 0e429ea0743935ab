"""Packed rows: how full they are, and how fast they train beside the library's flattened batches and beside padding (sdpa, fp32, CPU)."""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

from benchmarks.measure import Result

CAPACITY = 256
ROUNDS = 7


def run() -> list[Result]:
    """Forward and backward over the same rows, in turns."""
    import torch
    import transformers

    from nbdream.workers.batching import filling, pack, positions, side_by_side

    draw = random.Random(0)
    made = []
    for kind, lengths in (
        ("uniform", [draw.randint(10, CAPACITY) for _ in range(5000)]),
        ("lognormal", [min(CAPACITY, max(1, round(draw.lognormvariate(4, 0.6)))) for _ in range(5000)]),
    ):
        full = filling(sum(lengths), len(pack(lengths, CAPACITY)), CAPACITY)
        made.append(Result(f"filling of packed rows, {kind} lengths", 100 * full, "%", least=97))

    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=1247, hidden_size=160, intermediate_size=480, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=40, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    lengths = [draw.randint(21, 69) for _ in range(96)]
    rows = [[draw.randrange(1247) for _ in range(length)] for length in lengths]
    bins = pack(lengths, CAPACITY)[:4]
    used = [row for members in bins for row in members]
    tokens = sum(lengths[row] for row in used)
    joined = [[token for row in members for token in rows[row]] for members in bins]
    places = positions([[lengths[row] for row in members] for members in bins], max(map(len, joined)))
    flat = [token for row in used for token in rows[row]]
    flat_places = torch.cat([torch.arange(lengths[row]) for row in used])[None]
    padded = side_by_side([rows[row] for row in used], 0)
    mask = side_by_side([[1] * lengths[row] for row in used], 0)
    forms: dict[str, dict[str, Any]] = {
        "packed": {"input_ids": side_by_side(joined, 0), "position_ids": places, "use_cache": False},
        "flat": {"input_ids": torch.tensor([flat]), "position_ids": flat_places, "use_cache": False},
        "padded": {"input_ids": padded, "attention_mask": mask, "use_cache": False},
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(ROUNDS + 1):
        for name, batch in forms.items():
            begin = time.perf_counter()
            model(**batch).logits.float().mean().backward()
            model.zero_grad()
            if number:  # the first warms up
                seconds[name].append(time.perf_counter() - begin)
    speed = {name: tokens / statistics.median(taken) for name, taken in seconds.items()}
    return [
        *made,
        Result("packed rows (4, 256), forward and backward", speed["packed"], "tokens/s", "flattened batch", speed["flat"], least=1.2),
        Result("packed rows (4, 256), forward and backward", speed["packed"], "tokens/s", "padded, random order", speed["padded"]),
    ]
