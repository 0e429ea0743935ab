"""Whether what is asked for goes together: the base model, the method, the settings, the machine. Known before a process is started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from glob import glob
from pathlib import Path
from typing import Any

from nbdream.errors import ArgumentError, nearest
from nbdream.trainers import library
from nbdream.workers.devices import GPUS

WRITES = ("dpo", "sft")
"""Methods whose model writes texts."""
BY_MASKED = "an encoder learns labels or vectors: --method classifier, --method embedder; to write, take a causal model or a T5"


def check_base(method: str, name: str, config: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` where a base model of this ``config`` cannot learn by ``method``, or not with these ``settings``."""
    kind = str(config.get("model_type", ""))
    writes = kind in library.models("CAUSAL_LM") or kind in library.models("SEQ_TO_SEQ_CAUSAL_LM")
    if "auto_map" not in config:  # what has code of its own may be anything
        if method in WRITES and (not writes or _only_encodes(kind, config)):
            raise ArgumentError(f"{name} is a {kind}, which writes no texts", BY_MASKED)
        if method == "classifier" and kind not in library.models("SEQUENCE_CLASSIFICATION"):
            raise ArgumentError(f"{name} is a {kind}, which cannot give labels", "take an encoder as BERT, a language model or a T5")
    if method in WRITES and (
        config.get("is_encoder_decoder") or kind in library.models("SEQ_TO_SEQ_CAUSAL_LM") - library.models("CAUSAL_LM")
    ):
        _check_encoder_decoder(name, settings)
    limit, wanted = config.get("max_position_embeddings"), settings.get("max_length")
    if isinstance(limit, int) and limit > 0 and wanted is not None and wanted > limit:
        raise ArgumentError(f"max_length is {wanted:,}, and {name} takes {limit:,} tokens", f"max_length: {limit}, or leave it out")


def _only_encodes(kind: str, config: Mapping[str, Any]) -> bool:
    """Whether each token of the model sees those after it: asked to write, it would copy what it is to learn."""
    heads = tuple(str(head) for head in config.get("architectures") or ())
    decodes = (
        config.get("is_decoder") or config.get("is_encoder_decoder") or any(head.endswith(("CausalLM", "LMHeadModel")) for head in heads)
    )
    return kind in library.models("MASKED_LM") and not decodes


def _check_encoder_decoder(name: str, settings: Mapping[str, Any]) -> None:
    for setting in ("chat_prompt_template", "system_prompt"):
        if settings.get(setting) is not None:
            raise ArgumentError(f"{name} has an encoder, which reads the input as it is: no {setting}", "write it into the input column")
    if settings.get("batching") == "packed":
        raise ArgumentError(f"{name} has an encoder, which cannot read packed rows", "leave packing out")


def check_numbers(settings: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` where the base model would be held in numbers that cannot be trained."""
    quantization, adapted = settings.get("quantization"), settings.get("lora") is not None
    if settings.get("dtype") == "float16" and not adapted:
        raise ArgumentError("float16 is too coarse to be trained", "dtype: bfloat16, or fp16: true, which keeps the weights in float32")
    if quantization is None:
        return
    known = library.parameters(*library.QUANTIZATION) | {"_load_in_4bit", "_load_in_8bit", "quant_method"}
    for name in quantization:
        if name not in known:
            raise ArgumentError(f"quantization has no setting {name!r}", nearest(str(name), known, "its settings are"))
    if not (quantization.get("load_in_4bit") or quantization.get("load_in_8bit")):
        raise ArgumentError("quantization says in how many bits of none", "quantization: {load_in_4bit: true, bnb_4bit_quant_type: nf4}")
    if (form := quantization.get("bnb_4bit_quant_type", "nf4")) not in ("nf4", "fp4"):
        raise ArgumentError(f"bnb_4bit_quant_type is {form!r}", "it is nf4 or fp4")
    if not adapted:
        raise ArgumentError("a quantized model cannot be trained whole", "train an adapter over it: lora: {r: 8}")


def check_weights(folder: Path) -> None:
    """Raise `ArgumentError` for a folder that says what model it holds, and does not hold it."""
    if not any(next(folder.glob(pattern), None) for pattern in ("*.safetensors", "*.safetensors.index.json", "*.bin")):
        raise ArgumentError(f"{folder.name} holds no weights", "give the folder that save_pretrained wrote")


def check_devices(device: str | list[str] | None, count: int) -> None:
    """Raise `ArgumentError` where more GPUs are asked for than this machine has, as far as can be told without torch."""
    there = gpus()
    asked = count if isinstance(device, list) or count > 1 else 1
    if device == "cpu" or there is None or (device is None and not there):
        return
    if not there:
        raise ArgumentError("there is no GPU on this machine", "leave device out, or device: cpu")
    if asked > there:
        raise ArgumentError(
            f"{asked} GPUs are asked for, and there {'is one' if there == 1 else f'are {there}'}", f"--devices {there}, or fewer"
        )


def gpus() -> int | None:
    """How many GPUs a run may use; None where that cannot be told."""
    if not any(os.path.exists(path) for path in GPUS):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len(glob("/dev/nvidia[0-9]*")) or None
