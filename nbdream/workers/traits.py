"""What a model's code and configuration say about how its rows can be written together."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from nbdream.workers.kv_cache import windows

OF_OURS = frozenset({
    "_from_model_config", "bos_token_id", "cache_implementation", "decoder_start_token_id", "disable_compile", "do_sample", "eos_token_id",
    "low_memory", "output_attentions", "output_hidden_states", "output_scores", "pad_token_id", "return_dict_in_generate",
    "transformers_version", "use_cache",
})  # fmt: skip
SCALES = frozenset(
    {
        "diversity_penalty",
        "encoder_repetition_penalty",
        "epsilon_cutoff",
        "eta_cutoff",
        "length_penalty",
        "repetition_penalty",
        "temperature",
        "top_p",
        "typical_p",
    }
)
"""Numbers of which 1 changes nothing; another option's 1 is true, or a token."""


def unfit(model: Any) -> Iterator[str]:
    """What stands against rows that come and go, for a causal model."""
    bare = without_adapter(model)
    if not type(bare).__module__.startswith("transformers.") or bare._is_stateful or not bare._supports_default_dynamic_cache():
        yield "its code may keep what a row has read elsewhere"
    if not {"position_ids", "past_key_values", "attention_mask"} <= forward_parameters(model).keys():
        yield "it counts positions itself"
    if getattr(bare.config, "_attn_implementation", None) not in ("sdpa", "eager"):
        yield "its attention may want the rows otherwise"
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        yield "its adapter reads tokens of its own before each prompt"
    told = model.generation_config.to_dict()
    if any(told[name] and not (name in SCALES and told[name] == 1) for name in told.keys() - OF_OURS):
        yield "its makers want a step that only generate knows"
    try:
        windows(bare.config)
    except (KeyError, ValueError) as error:
        yield str(error)


def turn(model: Any) -> int | None:
    """The length from which on the longest row of a batch changes the rotary embedding of all of them."""
    config = without_adapter(model).config.get_text_config(decoder=True)
    told = getattr(config, "rope_parameters", None) or {}
    ropes = [rope for rope in (told, *told.values()) if isinstance(rope, dict) and rope.get("rope_type") in ("longrope", "dynamic")]
    return min((int(rope.get("original_max_position_embeddings") or config.max_position_embeddings) for rope in ropes), default=None)


def without_adapter(model: Any) -> Any:
    """A model without the adapter around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def forward_parameters(model: Any) -> Any:
    """The arguments that a model's code takes."""
    return inspect.signature(without_adapter(model).forward).parameters
