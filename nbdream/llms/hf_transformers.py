"""`HFTransformers`: a local model, run with Hugging Face `transformers` in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from nbdream import secrets
from nbdream.errors import ArgumentError, MissingPackageError, ModelError, nearest
from nbdream.llms import licenses
from nbdream.llms.base import LLM, Reply, Request, failure
from nbdream.llms.parameters import checked
from nbdream.llms.prompt_formats import prompt_format
from nbdream.llms.weights import DEMO_FOLDER, commit, content, local_folder
from nbdream.workers.client import ModelProcess

COUNTED_OPTIONS = frozenset({"subfolder", "variant"})
"""Options of ``from_pretrained`` that say which weights."""
PLACING_OPTIONS = frozenset({
    "attn_implementation", "cache_dir", "local_files_only", "low_cpu_mem_usage", "max_memory", "offload_folder", "token", "use_safetensors",
})  # fmt: skip
"""Options of ``from_pretrained`` that say where from, where to or how fast, and so count in no key."""

DEMO = "demo"

_processes: weakref.WeakValueDictionary[str, ModelProcess] = weakref.WeakValueDictionary()


class HFTransformers(LLM):
    """A causal or seq2seq model: a folder that ``save_pretrained`` wrote, or a name on the Hugging Face Hub.

    It runs in a child process, which starts with the first call and ends with `unload_model` or with this process; the
    kernel itself never loads torch. A chat model's own template is used unless ``chat_prompt_template`` gives another.
    ``dtype`` is by default the model's own, and single precision on a CPU. Without ``temperature`` the model's
    ``generation_config`` decides; without ``max_new_tokens`` too, and where it says nothing 256 are written at most.
    What a row says depends on its prompt, seed and draw, not on the rows it is generated with. How many rows run at once finds itself:
    ``max_concurrency`` is how many are handed to the process, which takes the next one in as soon as one has ended.
    """

    provider: ClassVar[str] = "transformers"
    accepts: ClassVar[frozenset[str]] = frozenset({
        "temperature", "top_p", "top_k", "min_p", "max_new_tokens", "stop", "repetition_penalty", "logit_bias",
    })  # fmt: skip
    aliases: ClassVar[Mapping[str, str]] = {"max_tokens": "max_new_tokens"}
    adaptive: ClassVar[bool] = False

    def __init__(
        self,
        model_name: str,
        chat_prompt_template: str | None = None,
        system_prompt: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        device: Any = None,
        device_map: Any = None,
        dtype: Any = None,
        quantization_config: Any = None,
        adapter_name: str | None = None,
        adapter_kwargs: Mapping[str, Any] | None = None,
        max_concurrency: int | None = None,
        identity: Any = None,
        **kwargs: Any,
    ) -> None:
        known = COUNTED_OPTIONS | PLACING_OPTIONS
        options = {name: kwargs.pop(name) for name in list(kwargs) if name in known}
        kwargs.pop("cache_folder_path", None)  # older programs say where to cache: the session's folder does
        for name in kwargs:
            if name not in self.parameters():
                raise ArgumentError(f"HFTransformers takes no argument {name!r}", nearest(name, known | self.parameters() | ARGUMENTS))
        super().__init__(str(model_name), system_prompt=system_prompt, identity=identity, max_concurrency=max_concurrency, **kwargs)
        secrets.remember(options.get("token"))
        self.chat_prompt_template = prompt_format(chat_prompt_template)
        self.revision = checked("revision", revision)
        self.trust_remote_code = trust_remote_code
        self.device = None if device is None else f"cuda:{device}" if isinstance(device, int) else str(device)
        self.device_map = device_map
        self.dtype = None if dtype is None else checked("dtype", str(dtype).removeprefix("torch."))
        self.quantization_config = _as_dict(quantization_config)
        self.adapter_name = None if adapter_name is None else str(adapter_name)
        self.adapter_kwargs = dict(adapter_kwargs or {})
        self.options = options
        self.folder = local_folder(self.model_name)
        self._adapter_folder = None if self.adapter_name is None else local_folder(self.adapter_name)
        self._process: ModelProcess | None = None

    # --- who it is ----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """The model by its content or its commit, and all that changes what it says; not the device."""
        made: dict[str, Any] = {"provider": self._kind(), **self._source(self.model_name, self.folder, self.revision)}
        if self.adapter_name is not None:
            made["adapter"] = self._source(self.adapter_name, self._adapter_folder, self.adapter_kwargs.get("revision"))
            if self.adapter_kwargs:
                made["adapter"]["options"] = _plain(self.adapter_kwargs)
        counted = {name: value for name, value in self.options.items() if name in COUNTED_OPTIONS}
        more = {
            "chat_prompt_template": self.chat_prompt_template, "dtype": self.dtype, "quantization": self.quantization_config,
            "options": _plain(counted) or None,
        }  # fmt: skip
        return made | {name: value for name, value in more.items() if value is not None}

    def _source(self, name: str, folder: Path | None, revision: str | None) -> dict[str, Any]:
        if folder is not None:
            return {"content": content(folder)}
        return {"model": name, "commit": self._commit if name == self.model_name else commit(name, revision, self.options.get("token"))}

    @functools.cached_property
    def _commit(self) -> str:
        return commit(self.model_name, self.revision, self.options.get("token"))

    @property
    def display_name(self) -> str:
        """The name on the Hub, or the folder's."""
        return DEMO if self.folder == DEMO_FOLDER else self.model_name if self.folder is None else self.folder.name

    @property
    def card(self) -> dict[str, Any]:
        """What a data card says about it: its page on the Hub, or the licence that the folder's card names."""
        made = super().card
        if self.folder is not None:
            said = licenses.in_folder(self.folder)
        else:
            made["card_url"] = made["card_url"] or f"https://huggingface.co/{self.model_name}"
            said = licenses.on_hub(self.model_name, "model", lambda: self._commit, made["card_url"])
        return {**made, **({} if made["license"] else said)}

    # --- what it does -------------------------------------------------------------------------------------------------

    async def complete(self, request: Request) -> Reply:
        """The reply to a request; the model writes many at once. Cancelled, it gives this one up between two tokens."""
        answer = await self.asked("generate", request=_told(request))
        if isinstance(answer, Reply):
            return answer
        return Reply(answer["text"], usage=answer["usage"], model=self.display_name, finish_reason=answer["finish_reason"])

    async def asked(self, op: str, **message: Any) -> dict[str, Any] | Reply:
        """What the model's process says to a question; a reply that is a failure where it cannot."""
        try:
            process = self._process
            if process is None:
                process = await asyncio.to_thread(self._started)
            number, future = process.ask(op, **message)
            try:
                answer = await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                process.stop(number)
                raise
        except (ModelError, MissingPackageError) as error:
            return failure("all", error.message, hint=error.hint)
        return failure(**answer["failure"]) if "failure" in answer else answer

    async def aclose(self) -> None:
        """End the process."""
        await asyncio.to_thread(self.unload_model)

    def unload_model(self) -> None:
        """End the process that holds the model and give its memory back. The next call starts it again."""
        process, self._process = self._process, None
        if process is not None:
            process.end()

    @contextlib.contextmanager
    def as_found(self) -> Iterator[Self]:
        """For a while, the model; a process that was started meanwhile, and that nobody else waits for, is ended again."""
        known = _processes.get(self.process_key)
        loaded = known is not None and known.pid is not None
        try:
            yield self
        finally:
            if not loaded and self._process is not None:
                self._process.end_if_idle()

    def count_tokens(self, value: str) -> int:
        """How many tokens a text has, by the model's own tokenizer."""
        return int(self._started().wait("count", texts=[value])["counts"][0])

    def get_max_context_length(self, max_new_tokens: int) -> int:
        """How many tokens a prompt may have when ``max_new_tokens`` are to be written."""
        about = self._started().wait("about")
        if about["context"] is None:
            raise ModelError(f"{self.display_name} does not say how much it reads", "its config.json has no max_position_embeddings")
        return int(about["context"]) - (max_new_tokens if about["kind"] == "causal" else 0)

    def _started(self) -> ModelProcess:
        """The process of this model, shared by all that ask for the same one."""
        if self._process is None:
            key = self.process_key
            self._process = _processes.get(key) or _processes.setdefault(key, ModelProcess(self._spec()))
        return self._process

    @property
    def process_key(self) -> str:
        """What models have in common that share a process."""
        return json.dumps(self._spec(), sort_keys=True)

    def _spec(self) -> dict[str, Any]:
        """What the child is told to load."""
        return {
            "model": str(self.folder or self.model_name),
            "name": self.display_name,
            "revision": None if self.folder is not None else self._commit,
            "trust_remote_code": self.trust_remote_code,
            "device": self.device,
            "device_map": _plain(self.device_map),
            "dtype": self.dtype,
            "quantization": self.quantization_config,
            "adapter": None if self.adapter_name is None else str(self._adapter_folder or self.adapter_name),
            "adapter_options": _plain(self.adapter_kwargs),
            "chat_template": self.chat_prompt_template,
            "options": _plain(self.options),
        }


ARGUMENTS = frozenset({
    "chat_prompt_template", "system_prompt", "revision", "trust_remote_code", "device", "device_map", "dtype", "quantization_config",
    "adapter_name", "adapter_kwargs", "max_concurrency", "identity",
})  # fmt: skip


def demo(**params: Any) -> HFTransformers:
    """The tiny model that ships with nbdream, wherever it is installed."""
    model = HFTransformers(str(DEMO_FOLDER), **params)
    more = {name: value for name, value in model.identity.items() if name != "provider"}
    model.identity = {"provider": model._kind(), "identity": {"model": DEMO, **more}}
    model.model_name = DEMO
    return model


def _told(request: Request) -> dict[str, Any]:
    """A request as JSON."""
    messages = [dict(message) for message in request.messages]
    schema = None if request.schema is None else dict(request.schema)
    return {"messages": messages, "params": dict(request.params), "seed": request.seed, "draw": request.draw, "schema": schema}


def _as_dict(config: Any) -> dict[str, Any] | None:
    """A quantisation as JSON: a dict, or what a config object of `transformers` says of itself."""
    if config is None:
        return None
    told = config if isinstance(config, Mapping) else config.to_dict() if hasattr(config, "to_dict") else None
    if told is None:
        raise ArgumentError(f"quantization_config is a {type(config).__name__}", "give a dict or a BitsAndBytesConfig")
    made: dict[str, Any] = _plain(dict(told))
    return made


def _plain(value: Any) -> Any:
    """``value`` as JSON: a dtype or a device by its name."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    if type(value).__module__.partition(".")[0] in ("torch", "pathlib"):
        return str(value).removeprefix("torch.")
    raise ArgumentError(f"a {type(value).__name__} cannot be handed to the model's process", "give numbers, texts, lists or dicts")
