"""Loading a local model with `transformers`, running no code of a stranger's folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nbdream.errors import BrokenFileError, ModelError

JSON_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "adapter_config.json", "model.safetensors.index.json",
)  # fmt: skip


def check_folder(folder: Path) -> None:
    """Raise `BrokenFileError` naming the first file of a local model that does not hold what its name promises."""
    for name in JSON_FILES:
        path = folder / name
        if path.is_file():
            try:
                whole = isinstance(json.loads(path.read_bytes()), dict)
            except (ValueError, RecursionError):
                whole = False
            if not whole:
                raise BrokenFileError(path, "it is not a JSON object")
    for path in sorted(folder.glob("*.safetensors")):
        _check_safetensors(path)


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise BrokenFileError(path, "it is not a safetensors file", "copy or make the model again") from error


def pick_device(wanted: str | None) -> str:
    """The device asked for, or the best that is here."""
    import torch

    if wanted is not None:
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(wanted: str | None, device: str) -> Any:
    """The number format asked for; else the model's own, or single precision on a CPU, where half is slow."""
    import torch

    if wanted in (None, "auto"):
        return torch.float32 if wanted is None and device == "cpu" else "auto"
    found = getattr(torch, str(wanted), None)
    if not isinstance(found, torch.dtype):
        raise ModelError(f"there is no dtype {wanted!r}", "float32, bfloat16, float16")
    return found


SMALL = 50_000_000


def spare_threads(model: Any) -> None:
    """Keep a small model on a CPU to one thread: more spend their time waiting for each other, above all on a busy machine."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ and model.device.type == "cpu" and sum(part.numel() for part in model.parameters()) < SMALL:
        torch.set_num_threads(1)


def load(spec: dict[str, Any]) -> tuple[Any, Any, str]:
    """The model (in evaluation mode), its tokenizer, and whether it is ``causal`` or ``seq2seq``."""
    import transformers

    name = spec["model"]
    if Path(name).is_dir():
        check_folder(Path(name))
    common: dict[str, Any] = {"revision": spec["revision"]} if spec.get("revision") else {}
    # Said either way: left out, the library asks whoever is at standard input, which is where requests come from.
    common["trust_remote_code"] = bool(spec.get("trust_remote_code"))
    config = transformers.AutoConfig.from_pretrained(name, **common)
    seq2seq = bool(getattr(config, "is_encoder_decoder", False))
    auto = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
    device = pick_device(spec.get("device"))
    options = {**common, **spec.get("options", {}), "dtype": pick_dtype(spec.get("dtype"), device)}
    if spec.get("quantization") is not None:
        options["quantization_config"] = transformers.quantizers.auto.AutoQuantizationConfig.from_dict(dict(spec["quantization"]))
    if spec.get("device_map") is not None:
        options["device_map"] = spec["device_map"]
    elif spec.get("quantization") is not None:
        options["device_map"] = {"": device}
    model = auto.from_pretrained(name, **options)
    if "device_map" not in options:
        model = model.to(device)
    if spec.get("adapter") is not None:
        model = _with_adapter(model, spec["adapter"], spec.get("adapter_options", {}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, **common)
    spare_threads(model)
    return model.eval(), tokenizer, "seq2seq" if seq2seq else "causal"


def _with_adapter(model: Any, adapter: str, options: dict[str, Any]) -> Any:
    """``model`` with a LoRA adapter over it."""
    from nbdream.optional import require

    if Path(adapter).is_dir():
        check_folder(Path(adapter))
    peft = require("peft", "local")
    try:
        return peft.PeftModel.from_pretrained(model, adapter, **options)
    except (RuntimeError, ValueError) as error:
        if not any(words in str(error) for words in ("size mismatch", "not found in the base model")):
            raise
        base = peft.PeftConfig.from_pretrained(adapter).base_model_name_or_path
        raise ModelError(f"the adapter {Path(adapter).name} belongs to another base model", f"it was trained over {base}") from None
