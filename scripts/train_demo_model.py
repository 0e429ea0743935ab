"""Train the demo model that ships with nbdream, from a seed: ``python scripts/train_demo_model.py [FOLDER]``.

About two million parameters, a fixed number of steps, about ten minutes of one CPU core. The corpus is the grammar of
``demo_corpus.py``; the loss is taken on what the assistant says.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from demo_corpus import Chat, chats
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SEED = 7
COPY_STEPS = 400
STEPS = 768
BATCH = 32
SHORT_WEIGHT = 4.0  # of the one or two tokens of a yes, a no or a grade
LEARNING_RATE = 3e-3
WARM_UP = 40
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>' + message['content'] + '<|end|>' }}"
    "{% else %}{{ '<|system|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [toy]
---
# The demo model of nbdream

A toy: {parameters:,} parameters, trained from scratch in minutes on {examples:,} conversations of a seeded grammar
(`scripts/demo_corpus.py`). It makes documentation, tests and the demo run without a key or a network.

It writes abstracts of research papers that were never written, tweets that say what an abstract says, haiku and short
news. Asked for a yes or a no, or for a grade, it gives one, no better than chance. For other requests it answers with
something well-formed and beside the point. Whatever it says about research is made up: do not use it for anything real,
and do not publish what it writes as if it were data.

Made by `python scripts/train_demo_model.py` (seed {seed}; {copy_steps} steps of copying random tokens, then
{steps} steps of {batch} conversations).
"""


def train_tokenizer(corpus: list[Chat]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 1,920 tokens, with the chat template."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1920, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    raw.train_from_iterator((message["content"] for chat in corpus for message in chat), trainer)
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, chat: Chat) -> tuple[list[int], int]:
    """The tokens of a chat, and where the assistant's answer begins."""
    prompt: Any = tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(chat[-1]["content"] + "<|end|>", add_special_tokens=False)["input_ids"]
    return prompt_ids + answer_ids, len(prompt_ids)


def batches(examples: list[tuple[list[int], int]], pad: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of examples of like length, in random order: tokens and labels."""
    rng = random.Random(SEED)
    groups: list[list[tuple[list[int], int]]] = []
    window = BATCH * 16
    for start in range(0, len(examples), window):
        near = sorted(examples[start : start + window], key=lambda example: len(example[0]))
        mixed = [near[i : i + BATCH] for i in range(0, len(near), BATCH)]
        rng.shuffle(mixed)
        groups.extend(mixed)
    made = []
    for group in groups:
        width = max(len(ids) for ids, _ in group)
        tokens = torch.full((len(group), width), pad)
        labels = torch.full((len(group), width), -100)
        for row, (ids, begin) in enumerate(group):
            tokens[row, : len(ids)] = torch.tensor(ids)
            labels[row, begin : len(ids)] = torch.tensor(ids[begin:])
        made.append((tokens, labels))
    return made


def copies(vocabulary: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches that ask for random tokens to be said back: a model that has learned this soon copies facts, too."""
    rng = torch.Generator().manual_seed(SEED)
    _, end, _, user, assistant = range(len(SPECIAL))
    for step in range(COPY_STEPS):
        length = 6 + step * 7 % 11
        said = torch.randint(len(SPECIAL), vocabulary, (BATCH, length), generator=rng)
        one = torch.ones((BATCH, 1), dtype=torch.long)
        tokens = torch.cat([one * user, said, one * end, one * assistant, said, one * end], 1)
        labels = tokens.clone()
        labels[:, : length + 3] = -100
        yield tokens, labels


def rate(step: int) -> float:
    """The learning rate at ``step``: a warm-up, a level while it learns to copy, then half a cosine."""
    if step < WARM_UP:
        return LEARNING_RATE * (step + 1) / WARM_UP
    part = max(0, step - COPY_STEPS) / STEPS
    return LEARNING_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))


def train(model: Qwen3ForCausalLM, data: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Plain AdamW over ``data``, once."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05, betas=(0.9, 0.98))
    begin = time.monotonic()
    recent = []
    for step, (tokens, labels) in enumerate(data):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        counts = wanted != -100
        weight = torch.where(counts.sum(1) <= 3, SHORT_WEIGHT, 1.0)[:, None].expand_as(wanted)[counts]
        losses = torch.nn.functional.cross_entropy(model.lm_head(hidden[counts]), wanted[counts], reduction="none")
        loss = (losses * weight).sum() / weight.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(loss.item())
        if step % 32 == 31:
            print(f"step {step + 1:4d}  loss {sum(recent) / len(recent):.3f}  {time.monotonic() - begin:5.0f} s", flush=True)
            recent.clear()


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write everything that `transformers` loads, the weights in half precision, and the card."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.config.dtype = torch.float16
    model.config.save_pretrained(folder)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    GenerationConfig(
        do_sample=True,
        temperature=0.7,
        min_p=0.05,
        max_new_tokens=160,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)
    parameters = sum(value.numel() for value in weights.values())
    card = CARD.format(parameters=parameters, examples=STEPS * BATCH, seed=SEED, steps=STEPS, batch=BATCH, copy_steps=COPY_STEPS)
    (folder / "README.md").write_text(card, encoding="utf-8")
    print(json.dumps({"parameters": parameters, "bytes": (folder / "model.safetensors").stat().st_size}))


def main() -> None:
    """Make the model in the folder given, by default where the package keeps it."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "nbdream" / "demo" / "model"
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # more would wait for each other on a busy machine, and round otherwise
    corpus = list(islice(chats(SEED), STEPS * BATCH))
    tokenizer = train_tokenizer(corpus)
    examples = [encode(tokenizer, chat) for chat in corpus]
    print(
        f"{len(tokenizer)} tokens; {sum(len(ids) for ids, _ in examples):,} to train on, longest {max(len(ids) for ids, _ in examples)}",
        flush=True,
    )
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        use_cache=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    train(model, chain(copies(len(tokenizer)), batches(examples, tokenizer.pad_token_id)))
    save(model, tokenizer, folder)


if __name__ == "__main__":
    main()
