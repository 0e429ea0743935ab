"""FSDP2 where accelerate alone does not shard: on CPU, and for models whose embedding several groups would hold.

Both are patches of accelerate, made in a worker's own process, before any training arguments are built.
"""

from __future__ import annotations

from typing import Any


def enable_on_cpu() -> None:
    """Have accelerate shard on CPU what it would shard on GPUs.

    For several CPU processes ``AcceleratorState`` says MULTI_CPU and leaves the FSDP plugin aside: the model is wrapped in
    ``DistributedDataParallel``, with no word and with the same losses. Setting the type once is not enough: every later
    ``AcceleratorState()`` reads the partial state again and turns it back, after which saving fails with "Cannot flatten
    unevenly sharded tensor". So the constructor itself is taught, and runs each time. It does nothing where no plugin was
    given or where the type is not MULTI_CPU, as on GPUs.
    """
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    original = AcceleratorState.__init__
    if getattr(original, "shards_on_cpu", False):
        return

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **options)
        plugin = fsdp_plugin or self.__dict__.get("fsdp_plugin")
        if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            if self._mixed_precision != "no":
                plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = plugin

    init.shards_on_cpu = True  # type: ignore[attr-defined]
    AcceleratorState.__init__ = init


def keep_shared_embeddings_together() -> None:
    """Have accelerate leave an embedding where it is when more modules than input and output hold it, or a group does already.

    It makes groups of their own of the input embedding and of the output layer. torch refuses a parameter that two groups
    see ("shared with a parameter already managed by another FSDP group"), and T5's is also the embedding of its encoder and
    of its decoder, which stay in the root. Within one group torch handles shared parameters. BERT's embeddings are a group of
    their own, and torch shards no parameter twice.
    """
    import accelerate.accelerator as home

    original = home.fsdp2_prepare_model
    if getattr(original, "keeps_shared", False):
        return

    def prepare(accelerator: Any, model: Any) -> Any:
        if not _widely_shared(model) and not _grouped(model):
            return original(accelerator, model)
        model.get_input_embeddings = model.get_output_embeddings = lambda: None
        try:
            return original(accelerator, model)
        finally:
            del model.get_input_embeddings, model.get_output_embeddings

    prepare.keeps_shared = True  # type: ignore[attr-defined]
    home.fsdp2_prepare_model = prepare


def _widely_shared(model: Any) -> bool:
    weight = getattr(model.get_input_embeddings(), "weight", None)
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    holders = [module for module in model.modules() if module is not output and module._parameters.get("weight") is weight]
    return weight is not None and len(holders) > 1


def _grouped(model: Any) -> bool:
    """Whether a module that becomes a group by itself holds the input embedding."""
    groups = set(getattr(model, "_no_split_modules", None) or ())
    embedding = model.get_input_embeddings()
    return any(type(module).__name__ in groups and any(part is embedding for part in module.modules()) for module in model.modules())
