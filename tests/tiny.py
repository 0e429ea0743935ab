"""Models that train in seconds: a causal one, one with a chat template, a T5 and a BERT; each seeded, with a tokenizer of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = [
    "red",
    "green",
    "blue",
    "cat",
    "dog",
    "bird",
    "sings",
    "runs",
    "sleeps",
    "over",
    "under",
    "the",
    "a",
    "big",
    "small",
    "house",
    "tree",
    "river",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def pairs(rows: int = 32, seed: int = 0) -> tuple[list[str], list[str]]:
    """Inputs of four to nine words and, as outputs, their first words backwards."""
    import random

    draw = random.Random(seed)
    inputs = [" ".join(draw.choices(WORDS, k=draw.randint(4, 9))) for _ in range(rows)]
    return inputs, [" ".join(reversed(text.split()[:3])) for text in inputs]


def _tokenizer(chat: bool, seq2seq: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    texts = [" ".join(WORDS)] * 3 + pairs(64, seed=1)[0]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    if seq2seq:
        core.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", model_max_length=64)
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    return tokenizer


def causal(folder: Path, *, chat: bool = False, tied: bool = True) -> Path:
    """A causal model with about 50,000 weights."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = _tokenizer(chat, seq2seq=False)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, max_position_embeddings=64, tie_word_embeddings=tied, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def t5(folder: Path) -> Path:
    """A T5 v1.1 with about 50,000 weights."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = _tokenizer(chat=False, seq2seq=True)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu",
        dropout_rate=0.0, tie_word_embeddings=False, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bert(folder: Path, *, labels: list[str] | None = None) -> Path:
    """A BERT with about 40,000 weights; with ``labels``, a head for them that nobody has trained."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    tokenizer = _tokenizer(chat=False, seq2seq=True)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=0,
        **({"id2label": dict(enumerate(labels))} if labels else {}),
    )  # fmt: skip
    (BertForSequenceClassification if labels else BertModel)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
