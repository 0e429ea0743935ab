"""What a user may say about a training run: under the library's own names, checked before a process is started."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nbdream.errors import ArgumentError, nearest
from nbdream.trainers import library

SET_BY_US = frozenset({
    "auto_find_batch_size", "average_tokens_across_devices", "ddp_backend", "ddp_find_unused_parameters", "deepspeed", "disable_tqdm",
    "do_eval", "do_predict", "do_train", "fsdp", "fsdp_config", "ignore_data_skip", "label_names", "load_best_model_at_end", "local_rank",
    "num_train_epochs", "output_dir", "parallelism_config", "push_to_hub", "remove_unused_columns", "report_to_trackio",
    "restore_callback_states_from_checkpoint", "resume_from_checkpoint", "save_only_model", "seed", "train_sampling_strategy", "use_cpu",
})  # fmt: skip
"""Arguments of the library's that follow from the run itself."""

NOT_COUNTED = (
    "activation_checkpointing", "dataloader_", "disable_", "gradient_checkpointing", "hub_", "include_for_", "log_", "logging_",
    "per_device_", "project", "report_to", "run_name", "save_", "trackio_",
)  # fmt: skip
"""Beginnings of names that cannot change the model: what is shown, what is kept, how fast rows come, what is computed twice."""

MEMBERS = {
    "eval_strategy": library.INTERVALS, "logging_strategy": library.INTERVALS, "save_strategy": library.SAVING,
}  # fmt: skip
AT_LEAST_0 = ("adam_beta1", "adam_beta2", "adam_epsilon", "dataloader_num_workers", "max_grad_norm")
ABOVE_0 = ("eval_steps", "logging_steps", "per_device_eval_batch_size", "save_steps", "save_total_limit")
"""Numbers of the library's and their ranges: told here, and not by a process that fails."""

NO_PLACE = {
    "batch_eval_metrics": "compute_metrics is called once, with all predictions and labels",
    "include_for_metrics": "compute_metrics is given predictions and labels",
    "label_smoothing_factor": "the losses are those of the methods",
}  # fmt: skip
"""Arguments of the library's that would do nothing here, and why."""

WITHOUT_EFFECT = frozenset({
    "distributed_config", "log_level", "logging_dir", "overwrite_output_dir", "precompute_ref_log_probs", "progress_interval", "verbose",
})  # fmt: skip
"""Accepted because published programs give them."""


def library_arguments() -> frozenset[str]:
    """The names that the installed ``transformers.TrainingArguments`` takes."""
    return frozenset(library.fields(*library.ARGUMENTS))


def check_names(given: Mapping[str, Any], own: frozenset[str]) -> dict[str, Any]:
    """``given`` without what has no effect; `ArgumentError` for a name that neither we (``own``) nor the library know."""
    kept = {name: value for name, value in given.items() if name not in WITHOUT_EFFECT}
    allowed = library_arguments() - SET_BY_US
    for name, value in kept.items():
        if name in SET_BY_US or name.startswith("hub_"):
            raise ArgumentError(f"{name} is set by nbdream", "leave it out; a model is published by publish_to_hf_hub")
        if name not in allowed:
            raise ArgumentError(f"training takes no argument {name!r}", nearest(name, allowed | own))
        if name in NO_PLACE and value:
            raise ArgumentError(f"{name} has no place here: {NO_PLACE[name]}", "leave it out")
    library.check_kinds(kept, library.fields(*library.ARGUMENTS))
    _check_values(kept)
    return kept


def _check_values(given: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` for a value that the library would refuse when a process is up, or quietly leave aside."""
    told = {name: value for name, value in given.items() if value is not None}
    for name, where in MEMBERS.items():
        if name in told:
            library.check_member(name, told[name], where)
    for name in (*AT_LEAST_0, *ABOVE_0):
        if name in told:
            number(name, told[name], least=0 if name in AT_LEAST_0 else None)
    for name in ("adam_beta1", "adam_beta2"):
        if told.get(name, 0) >= 1:
            raise ArgumentError(f"{name} is {told[name]}", "it is less than 1, for example 0.9")
    if told.get("max_steps", -1) < 1 and told.get("max_steps", -1) != -1:
        raise ArgumentError(f"max_steps is {told['max_steps']}", "it is 1 or more; left out, epochs says how long it trains")
    if told.get("bf16") and told.get("fp16"):
        raise ArgumentError("bf16 and fp16 are both true", "give one of the two")
    if told.get("save_strategy") == "best" and "metric_for_best_model" not in told:
        raise ArgumentError("save_strategy is best, and metric_for_best_model does not say by what", "leave it out: the best is kept")
    parts = told.get("optim_args") or ""
    if isinstance(parts, str) and any("=" not in part for part in parts.split(",") if part.strip()):
        raise ArgumentError(f"optim_args is {parts!r}", "it is a list of settings: optim_args: 'rank=64, scale=0.5'")


def counted(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that can change the model."""
    return {name: value for name, value in arguments.items() if not name.startswith(NOT_COUNTED)}


def number(name: str, value: Any, *, above: float = 0.0, whole: bool = False, least: float | None = None) -> Any:
    """``value`` if it is a number in range; `ArgumentError` otherwise."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        raise ArgumentError(f"{name} is {value!r}, not a {'whole ' if whole else ''}number", "write it without quotes, for example 2e-5")
    if (least is not None and value < least) or (least is None and value <= above):
        raise ArgumentError(f"{name} is {value}", f"it is {'at least ' + str(least) if least is not None else 'above ' + str(above)}")
    return value


@dataclass(frozen=True)
class Batch:
    """How an effective batch is cut: the part that counts is ``effective``."""

    effective: int
    per_device: int
    accumulation: int


def cut_batch(batch_size: int, accumulation: int, devices: int, per_device: int | None = None) -> Batch:
    """Cut ``batch_size`` rows (over all devices, ``accumulation`` times per step) into equal parts.

    The effective batch is the same on any number of devices; one that cannot be cut equally is an `ArgumentError`.
    """
    effective = number("batch_size", batch_size, whole=True) * number("gradient_accumulation_steps", accumulation, whole=True)
    share, rest = divmod(effective, devices)
    if rest:
        raise ArgumentError(f"batch_size {effective} cannot be cut into {devices} equal parts", f"give a multiple of {devices}")
    if per_device is not None:
        part = number("per_device_train_batch_size", per_device, whole=True)
        if share % part:
            raise ArgumentError(
                f"per_device_train_batch_size {part} does not divide the {share} rows of each device", f"give a divisor of {share}"
            )
        return Batch(effective, part, share // part)
    most = max(1, batch_size // devices)
    part = next(size for size in range(most, 0, -1) if share % size == 0)
    return Batch(effective, part, share // part)


def devices_of(device: Any, devices: int | None) -> tuple[int, str | list[str] | None]:
    """How many processes, and on what: ``"cpu"``, ``"cuda:0"``, a list with an entry a process, or None for what is there."""
    if isinstance(device, (list, tuple)):
        named = [f"cuda:{entry}" if isinstance(entry, int) else str(entry) for entry in device]
        if not named or (devices is not None and devices != len(named)):
            raise ArgumentError(f"device names {len(named)} devices, and devices is {devices}", "give one of the two")
        if len(set(named)) == 1 and named[0] == "cpu":
            return len(named), "cpu"
        if len(set(named)) < len(named) or any(not name.startswith("cuda:") for name in named):
            raise ArgumentError(f"device is {', '.join(named)}", 'give different GPUs, for example device=["cuda:0", "cuda:1"]')
        return len(named), named
    count = 1 if devices is None else number("devices", devices, whole=True)
    one = f"cuda:{device}" if isinstance(device, int) and not isinstance(device, bool) else None if device is None else str(device)
    if one is not None and one != "cpu" and one.partition(":")[0] != "cuda":
        raise ArgumentError(f"there is no device {one!r}", "cpu, cuda, cuda:0, or a list of these")
    if one is not None and ":" in one and count > 1:
        raise ArgumentError(f"{count} processes cannot share {one}", 'give a list: device=["cuda:0", "cuda:1"]')
    return count, one


SHARDING = frozenset({"auto_wrap", "full_shard", "hybrid_shard", "hybrid_shard_zero2", "no_shard", "offload", "shard_grad_op"})


def sharded(fsdp: Any) -> bool:
    """Whether ``fsdp`` asks for sharding: None (the default), a bool, or what published programs give the library."""
    if isinstance(fsdp, str) and set(fsdp.split()) - SHARDING:
        raise ArgumentError(f"fsdp is {fsdp!r}", "it is true or false")
    return fsdp is None or bool(fsdp)


SHARDS: Mapping[str, tuple[Any, ...]] = {
    "activation_checkpointing": (True, False),
    "auto_wrap_policy": ("TRANSFORMER_BASED_WRAP", "NO_WRAP"),
    "cpu_offload": (True, False),
    "cpu_ram_efficient_loading": (True, False),
    "reshard_after_forward": (True, False),
    "state_dict_type": ("FULL_STATE_DICT", "SHARDED_STATE_DICT"),
    "transformer_layer_cls_to_wrap": (),
    "version": (2,),
}
"""What ``fsdp_config`` says of FSDP2, and its values where they are few."""
ONLY_FSDP1 = frozenset({"backward_prefetch", "forward_prefetch", "limit_all_gathers", "sync_module_states", "use_orig_params"})
"""Accepted because published programs give them."""


def shards(given: Any) -> dict[str, Any]:
    """``fsdp_config``, under the library's own names; `ArgumentError` for what FSDP2 does not have."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ArgumentError(f"fsdp_config is a {type(given).__name__}", "it is a mapping: fsdp_config: {cpu_offload: true}")
    made = {str(name).removeprefix("fsdp_"): value for name, value in given.items()}
    made = {name: value for name, value in made.items() if name not in ONLY_FSDP1}
    for name, value in made.items():
        if name not in SHARDS:
            raise ArgumentError(f"fsdp_config has no setting {name!r}", nearest(name, SHARDS, "its settings are"))
        if SHARDS[name] and not any(type(value) is type(known) and value == known for known in SHARDS[name]):
            known = ", ".join(str(known).lower() if isinstance(known, bool) else str(known) for known in SHARDS[name])
            raise ArgumentError(f"fsdp_config has {name}: {value}", f"it is one of: {known}")
    return made


NOT_OF_THE_ADAPTER = ("base_model_name_or_path", "inference_mode", "peft_version", "task_type")
"""Fields of an adapter's configuration that follow from the run."""


def plain_adapter(given: Any) -> dict[str, Any] | None:
    """A ``peft`` configuration, or a dict like ``{"r": 8}``, as a plain dict of what differs from the defaults.

    A whole dump would change with every version of peft that adds a field, and with it the recipe.
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        library.check_lora(given)
        values = dict(given)
    else:
        fields = getattr(given, "__dataclass_fields__", None)
        if fields is None or not hasattr(given, "to_dict"):
            raise ArgumentError(f"peft_config is a {type(given).__name__}", "give a peft.LoraConfig, or lora: {r: 8}")
        told = given.to_dict()
        values = {name: told[name] for name in fields if name in told and not _is_default(fields[name], getattr(given, name))}
    values = {str(name): _plain(name, value) for name, value in values.items() if name not in NOT_OF_THE_ADAPTER}
    values["peft_type"] = str(values.get("peft_type", "LORA")).rpartition(".")[2].upper()
    # What the libraries would pick by the kind of model leaves layers out; all linear layers but the last are what LoRA wants.
    values.setdefault("target_modules", "all-linear")
    return values


def _is_default(declared: Any, value: Any) -> bool:
    import dataclasses

    if declared.default is not dataclasses.MISSING:
        return bool(declared.default == value)
    return declared.default_factory is not dataclasses.MISSING and bool(declared.default_factory() == value)


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int, float)):
        return getattr(value, "value", value)
    if isinstance(value, Mapping):
        return {str(key): _plain(name, part) for key, part in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(name, part) for part in value)
    if isinstance(value, (list, tuple)):
        return [_plain(name, part) for part in value]
    raise ArgumentError(f"{name} of the adapter is a {type(value).__name__}", "give numbers, texts and lists")
