"""`HFTrainer`: what trainers of Hugging Face models have in common, on the kernel's side."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from nbdream import secrets
from nbdream.errors import ArgumentError, MissingPackageError
from nbdream.files import read_object, read_text
from nbdream.llms.contexts import ContextTemplate
from nbdream.llms.hf_transformers import DEMO, HFTransformers
from nbdream.llms.parameters import checked
from nbdream.llms.prompt_formats import prompt_format
from nbdream.llms.weights import DEMO_FOLDER, commit
from nbdream.optional import installed, require
from nbdream.trainers import fitting, library
from nbdream.trainers.arguments import check_names, counted, cut_batch, devices_of, number, plain_adapter, sharded, shards
from nbdream.trainers.base import Trainer
from nbdream.trainers.hooks import CALLBACKS, taken
from nbdream.trainers.run_step import TrainingRun
from nbdream.workers import tracking
from nbdream.workers.paths import CONTEXT_TEMPLATE

COMMON = frozenset({
    CALLBACKS, "batch_size", "early_stopping_patience", "early_stopping_threshold", "epochs", "gradient_accumulation_steps",
    "group_by_length", "learning_rate", "lr_scheduler_type", "max_length", "neftune_noise_alpha", "optim", "seed", "truncate",
    "warmup_steps", "weight_decay",
})  # fmt: skip
"""Arguments of every ``train`` that are not the library's, or that are checked here."""
PATIENCE = 5
"""Evaluations without an improvement after which training ends, unless told otherwise."""


class HFTrainer(Trainer):
    """A model from the Hub or a folder, trained whole or as an adapter, in one process or several.

    ``model_name``: a folder, a name on the Hub, or ``demo``. ``peft_config``: a ``peft.LoraConfig`` or a dict like
    ``{"r": 8}``. ``device``: ``"cpu"``, ``"cuda:0"``, or a list with an entry a process; ``devices``: how many processes.
    Several processes shard the parameters between them (FSDP2); ``fsdp=False`` gives each a whole copy (DDP).
    """

    step_type: ClassVar[type[TrainingRun]]
    own: ClassVar[frozenset[str]] = frozenset()
    """Further arguments of its ``train``."""
    learning_rates: ClassVar[Mapping[str, float]]
    """The default with an adapter (``lora``), without one (``full``), and for some kinds of model."""

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
        check_names(kwargs, self.arguments())
        self.base = HFTransformers(
            str(DEMO_FOLDER) if str(model_name) == DEMO else str(model_name),
            revision=revision,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            quantization_config=quantization_config,
        )
        self.chat_prompt_template = prompt_format(chat_prompt_template)
        self.system_prompt = checked("system_prompt", system_prompt)
        told = self.chat_prompt_template or "system_prompt"
        if self.system_prompt and "messages" not in told and "system_prompt" not in told:
            raise ArgumentError("chat_prompt_template has no place for the system prompt", "write {{system_prompt}} where it belongs")
        self.lora = plain_adapter(peft_config)
        self.count, self.device = devices_of(device, devices)
        self.fsdp = sharded(fsdp)
        self.fsdp_config = shards(fsdp_config)

    @classmethod
    def arguments(cls) -> frozenset[str]:
        """The arguments of ``train`` that are no columns and not the library's."""
        return COMMON | cls.own

    def start(
        self,
        columns: Mapping[str, Any],
        own: Mapping[str, Any],
        *,
        background: bool,
        replace: bool,
        kwargs: dict[str, Any],
        step_type: type[TrainingRun] | None = None,
        **common: Any,
    ) -> Any:
        """Check everything, and construct the step that trains: the trained model, or with ``background`` the trainer.

        ``own`` are the settings of the method, ``common`` those of all, ``kwargs`` what else the user said. ``step_type``: where the
        class's own is not meant.
        """
        _require_packages(adapter=self.lora is not None, quantized=self.base.quantization_config is not None)
        tracking.check(kwargs)
        fitting.check_devices(self.device, self.count)
        measured = any(value is not None for name, value in columns.items() if name.startswith("validation_"))
        args = self.settled(own, measured=measured, replace=replace, kwargs=kwargs, **common)
        self._model = None
        self.step = (step_type or self.step_type)(self.name, dict(columns), args, force=self.force, background=background)
        return self if background else self.model

    def settled(
        self,
        own: Mapping[str, Any],
        *,
        measured: bool = False,
        replace: bool = False,
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
        early_stopping_patience: int | None = PATIENCE,
        early_stopping_threshold: float = 0.0,
        kwargs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The arguments of the step: the base model, what decides the result, and how it is made."""
        kwargs = kwargs or {}
        hooks = taken(kwargs, self.arguments(), measured=measured)
        library.check_member("optim", optim, library.OPTIMIZERS)
        library.check_member("lr_scheduler_type", lr_scheduler_type, library.SCHEDULES)
        accumulation, per_device = kwargs.pop("gradient_accumulation_steps", 1), kwargs.pop("per_device_train_batch_size", None)
        batch = cut_batch(batch_size, accumulation, self.count, per_device)
        given = _plain_values(check_names(kwargs, self.arguments()))
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
            **(_early_stopping(early_stopping_patience, early_stopping_threshold) if measured else {}),
            **own,
            **hooks,
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
        for name, value in settings.items():
            if isinstance(value, str) and secrets.contains(value):
                raise ArgumentError(f"{name} contains a credential", "leave it out: it would lie in the model and in files beside it")
        fitting.check_base(self.step_type.method, self.base.display_name, self._config(), settings)
        fitting.check_numbers(settings)
        if given.get("eval_strategy", "no") != "no" and not measured:
            raise ArgumentError("eval_strategy is given, and no rows to measure on", "give them: --eval ROWS, or leave it out")
        job = {
            "arguments": {name: value for name, value in given.items() if name not in settings["arguments"]},
            "batch": {"per_device": batch.per_device, "accumulation": batch.accumulation},
            "devices": self.count,
            "device": self.device,
            "fsdp": self.fsdp,
            "fsdp_config": _plain_values(self.fsdp_config),
            "replace": replace,
        }
        return {"model": self.base, "settings": settings, "job": job}

    @functools.cached_property
    def context_template(self) -> str | None:
        """How the base model writes contexts, if it was trained with some: what it becomes is asked in the same way."""
        path = None if self.base.folder is None else self.base.folder / CONTEXT_TEMPLATE
        return ContextTemplate(read_text(path)).source if path is not None and path.is_file() else None

    def _learning_rate(self, given: float | None) -> float:
        if given is not None:
            return float(number("learning_rate", given))
        config = self._config()  # also says early what is no base model
        kind = str(config.get("model_type", ""))
        of_kind = next((rate for ending, rate in self.learning_rates.items() if kind.endswith(ending)), None)
        return of_kind or self.learning_rates["full" if self.lora is None else "lora"]

    def _config(self) -> dict[str, Any]:
        """The base model's ``config.json``."""
        if self.base.folder is not None:
            if (self.base.folder / "adapter_config.json").is_file() and not (self.base.folder / "config.json").is_file():
                raise ArgumentError(
                    f"{self.base.folder.name} is an adapter, not a whole model", "merge it first: model.export_to_disk('./merged')"
                )
            fitting.check_weights(self.base.folder)
            return read_object(self.base.folder / "config.json")
        hub: Any = require("huggingface_hub", "train")
        found = hub.hf_hub_download(self.base.model_name, "config.json", revision=commit(self.base.model_name, self.base.revision))
        return read_object(Path(found))


def _early_stopping(patience: int | None, threshold: float) -> dict[str, Any]:
    if patience is not None:
        number("early_stopping_patience", patience, whole=True)
    return {"early_stopping": {"patience": patience, "threshold": number("early_stopping_threshold", threshold, least=0)}}


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


def _require_packages(*, adapter: bool, quantized: bool) -> None:
    if quantized and not installed("bitsandbytes"):
        raise MissingPackageError("bitsandbytes is not installed", "pip install 'nbdream[quantized]'")
    for module in ("torch", "transformers", "accelerate", *(("peft",) if adapter else ())):
        if not installed(module):
            raise MissingPackageError(f"{module} is not installed", "pip install 'nbdream[train]'")
