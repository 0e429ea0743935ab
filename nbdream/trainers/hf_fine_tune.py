"""`TrainHFFineTune`: a causal or seq2seq model that learns to give the output column for the input column."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nbdream import secrets
from nbdream.errors import ArgumentError, MissingPackageError
from nbdream.files import read_object
from nbdream.llms.hf_transformers import DEMO, HFTransformers
from nbdream.llms.parameters import checked
from nbdream.llms.weights import DEMO_FOLDER, commit
from nbdream.optional import installed, require
from nbdream.trainers import library
from nbdream.trainers.arguments import check_names, counted, cut_batch, devices_of, number, plain_adapter, sharded
from nbdream.trainers.base import Trainer
from nbdream.trainers.fine_tune_step import HFFineTune

if TYPE_CHECKING:
    from nbdream.trainers.trained import TrainedModel

LEARNING_RATES = {"lora": 2e-4, "full": 2e-5, "t5": 1e-3}
OWN = frozenset({
    "train_input", "train_output", "validation_input", "validation_output", "truncate", "epochs", "batch_size", "optim", "learning_rate",
    "weight_decay", "lr_scheduler_type", "warmup_steps", "neftune_noise_alpha", "seed", "max_length", "gradient_accumulation_steps",
})  # fmt: skip


class TrainHFFineTune(Trainer):
    """Supervised fine-tuning of a causal or seq2seq model, whole or as a LoRA adapter; the loss is on the output only.

    ``model_name``: a folder, a name on the Hub, or ``demo``. ``peft_config``: a ``peft.LoraConfig`` or a dict like
    ``{"r": 8}``. ``device``: ``"cpu"``, ``"cuda:0"``, or a list with an entry a process; ``devices``: how many processes.
    Several processes shard the parameters between them (FSDP2); ``fsdp=False`` gives each a whole copy (DDP).
    """

    def __init__(
        self,
        name: str,
        model_name: str,
        chat_prompt_template: str | None = None,
        system_prompt: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        device: Any = None,
        dtype: Any = None,
        quantization_config: Any = None,
        peft_config: Any = None,
        fsdp: bool | str | None = None,
        fsdp_config: Mapping[str, Any] | None = None,
        devices: int | None = None,
        force: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, force)
        check_names(kwargs, OWN)
        self.base = HFTransformers(
            str(DEMO_FOLDER) if str(model_name) == DEMO else str(model_name),
            revision=revision,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            quantization_config=quantization_config,
        )
        self.chat_prompt_template = checked("chat_prompt_template", chat_prompt_template)
        self.system_prompt = checked("system_prompt", system_prompt)
        self.lora = plain_adapter(peft_config)
        self.count, self.device = devices_of(device, devices)
        self.fsdp = sharded(fsdp)
        self.fsdp_config = dict(fsdp_config or {})

    def train(
        self,
        train_input: Any,
        train_output: Any,
        validation_input: Any = None,
        validation_output: Any = None,
        truncate: bool = True,
        epochs: float = 3.0,
        batch_size: int = 8,
        optim: str = "adamw_torch",
        learning_rate: float | None = None,
        weight_decay: float = 0.01,
        lr_scheduler_type: str = "linear",
        warmup_steps: float = 0,
        neftune_noise_alpha: float | None = None,
        seed: int = 42,
        max_length: int | None = None,
        background: bool = False,
        replace: bool = False,
        **kwargs: Any,
    ) -> TrainedModel | Self:
        """Train, or load what was trained: the model.

        ``batch_size`` is over all devices, per step; with ``gradient_accumulation_steps`` a step takes that many of them.
        ``learning_rate`` is by default 1e-3 for T5, else 2e-4 with an adapter and 2e-5 without. ``max_length`` is by default
        the model's own limit. ``background`` returns the trainer at once, whose ``model`` waits. ``replace`` stops a run of this
        name that is going on with other settings. Further arguments are those of ``transformers.TrainingArguments``.

        Raises `ArgumentError` or `DataError` before a process is started where that can be known; `TrainingError` when the
        run fails; `Stopped` when it was stopped with a checkpoint.
        """
        _require_packages(adapter=self.lora is not None)
        library.check_member("optim", optim, library.OPTIMIZERS)
        library.check_member("lr_scheduler_type", lr_scheduler_type, library.SCHEDULES)
        accumulation, per_device = kwargs.pop("gradient_accumulation_steps", 1), kwargs.pop("per_device_train_batch_size", None)
        batch = cut_batch(batch_size, accumulation, self.count, per_device)
        given = _plain_values(check_names(kwargs, OWN))
        settings = {
            "epochs": number("epochs", epochs),
            "batch_size": batch.effective,
            "seed": number("seed", seed, whole=True, least=0),
            "truncate": bool(truncate),
            "max_length": None if max_length is None else number("max_length", max_length, whole=True),
            "lora": self.lora,
            "quantization": self.base.quantization_config,
            "dtype": self.base.dtype,
            "chat_prompt_template": self.chat_prompt_template,
            "system_prompt": self.system_prompt,
            "arguments": {
                "learning_rate": self._learning_rate(learning_rate),
                "optim": optim,
                "weight_decay": number("weight_decay", weight_decay, least=0),
                "lr_scheduler_type": lr_scheduler_type,
                "warmup_steps": number("warmup_steps", warmup_steps, least=0),
                **(
                    {}
                    if neftune_noise_alpha is None
                    else {"neftune_noise_alpha": number("neftune_noise_alpha", neftune_noise_alpha, least=0)}
                ),
                **counted(given),
            },
        }
        job = {
            "arguments": {name: value for name, value in given.items() if name not in settings["arguments"]},
            "batch": {"per_device": batch.per_device, "accumulation": batch.accumulation},
            "devices": self.count,
            "device": self.device,
            "fsdp": self.fsdp,
            "fsdp_config": _plain_values(self.fsdp_config),
            "replace": replace,
        }
        inputs = {
            "train_input": train_input, "train_output": train_output,
            "validation_input": validation_input, "validation_output": validation_output,
        }  # fmt: skip
        self._model = None
        self.step = HFFineTune(
            self.name, inputs, {"model": self.base, "settings": settings, "job": job}, force=self.force, background=background
        )
        return self if background else self.model

    def _learning_rate(self, given: float | None) -> float:
        if given is not None:
            return float(number("learning_rate", given))
        if str(self._config().get("model_type", "")).endswith("t5"):
            return LEARNING_RATES["t5"]
        return LEARNING_RATES["full" if self.lora is None else "lora"]

    def _config(self) -> dict[str, Any]:
        """The base model's ``config.json``."""
        if self.base.folder is not None:
            if (self.base.folder / "adapter_config.json").is_file() and not (self.base.folder / "config.json").is_file():
                raise ArgumentError(
                    f"{self.base.folder.name} is an adapter, not a whole model", "merge it first: model.export_to_disk('./merged')"
                )
            return read_object(self.base.folder / "config.json")
        hub: Any = require("huggingface_hub", "train")
        found = hub.hf_hub_download(self.base.model_name, "config.json", revision=commit(self.base.model_name, self.base.revision))
        return read_object(Path(found))


def _plain_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as JSON; a function or an object cannot be handed to another process."""
    for name, value in given.items():
        if not isinstance(value, (str, bool, int, float, list, dict, type(None))) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise ArgumentError(
                f"{name} is a {type(value).__name__}, which a training process cannot be given", "give numbers, texts, lists or dicts"
            )
        if isinstance(value, str) and secrets.contains(value):
            raise ArgumentError(f"{name} contains a credential", "set HF_TOKEN in the environment instead")
    return dict(given)


def _require_packages(*, adapter: bool) -> None:
    for module in ("torch", "transformers", "accelerate", *(("peft",) if adapter else ())):
        if not installed(module):
            raise MissingPackageError(f"{module} is not installed", "pip install 'nbdream[train]'")
