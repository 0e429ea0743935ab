"""A local model of mixed prompts and answers: against `transformers` in fixed batches of ten, in order of arrival, in the same run."""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Result
from nbdream.llms import HFTransformers
from nbdream.llms.base import Request
from tests import tiny

PROMPTS = 192
FIXED = 10
ROUNDS = 3


def model_in(folder: Path) -> Path:
    """A causal model of eight million weights, whose answers end where they are cut."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = tiny._tokenizer(chat=False, seq2seq=False)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=2048, hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2,
        head_dim=64, max_position_embeddings=1024, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.model_max_length = 1024
    tokenizer.save_pretrained(folder)
    return folder


def work() -> list[tuple[str, int]]:
    """Prompts and how many tokens each answer has."""
    chance = random.Random(0)
    lengths = [
        (min(200, max(3, round(chance.lognormvariate(3, 0.8)))), min(150, max(5, round(chance.lognormvariate(3.2, 0.8)))))
        for _ in range(PROMPTS)
    ]
    return [(" ".join(chance.choices(tiny.WORDS, k=words)), tokens) for words, tokens in lengths]


def fixed(folder: Path, asked: list[tuple[str, int]]) -> float:
    """Tokens a second of `generate` in fixed batches; a batch runs until its longest answer has ended."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder)

    def go(some: list[tuple[str, int]]) -> None:
        encoded = tokenizer([prompt for prompt, _ in some], return_tensors="pt", padding=True)
        encoded.pop("token_type_ids", None)
        with torch.inference_mode():
            model.generate(**encoded, max_new_tokens=max(tokens for _, tokens in some), do_sample=False, eos_token_id=None)

    go(asked[:FIXED])
    began = time.perf_counter()
    for start in range(0, len(asked), FIXED):
        go(asked[start : start + FIXED])
    return sum(tokens for _, tokens in asked) / (time.perf_counter() - began)


def ours(llm: HFTransformers, asked: list[tuple[str, int]]) -> float:
    """Tokens a second of the model's worker."""

    async def go(some: list[tuple[str, int]]) -> int:
        requests = [Request(llm.messages(prompt), llm.settings(max_new_tokens=tokens, temperature=0)) for prompt, tokens in some]
        replies = await llm.complete_batch(requests)
        return sum(reply.usage["output_tokens"] for reply in replies)

    asyncio.run(go(asked[:FIXED]))
    began = time.perf_counter()
    return asyncio.run(go(asked)) / (time.perf_counter() - began)


def run() -> list[Result]:
    """The median of alternating rounds."""
    asked = work()
    with tempfile.TemporaryDirectory() as folder:
        path = model_in(Path(folder) / "model")
        llm = HFTransformers(str(path))
        rounds = [(fixed(path, asked), ours(llm, asked)) for _ in range(ROUNDS)]
        llm.unload_model()
    reference, measured = (statistics.median(told[place] for told in rounds) for place in range(2))
    return [Result(f"{PROMPTS} prompts of mixed lengths", measured, "tokens/s", f"fixed batches of {FIXED}", reference, least=2)]
