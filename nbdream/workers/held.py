"""`Held`: a model that reads texts, given by its folder or its name on the Hub, in a process of its own. Imports no torch."""

from __future__ import annotations

import functools
import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from nbdream.llms import licenses
from nbdream.llms.parameters import checked
from nbdream.llms.weights import commit, content, local_folder
from nbdream.workers.client import ModelProcess

_processes: weakref.WeakValueDictionary[str, ModelProcess] = weakref.WeakValueDictionary()


class Held:
    """A model in a child process, which starts with the first question and ends with `unload_model` or with this process."""

    serves: ClassVar[str]
    """What it is asked for, as `nbdream.workers.encoder` has it."""
    provider: ClassVar[str] = "transformers"

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        trust_remote_code: bool = False,
        device: Any = None,
        device_map: Any = None,
        dtype: Any = None,
        adapter_name: str | None = None,
        adapter_kwargs: Mapping[str, Any] | None = None,
        identity: Any = None,
    ) -> None:
        self.model_name = str(model_name)
        self.revision = checked("revision", revision)
        self.trust_remote_code = trust_remote_code
        self.device = None if device is None else f"cuda:{device}" if isinstance(device, int) else str(device)
        self.device_map = device_map
        self.dtype = None if dtype is None else checked("dtype", str(dtype).removeprefix("torch."))
        self.adapter_name = None if adapter_name is None else str(adapter_name)
        self.adapter_kwargs = dict(adapter_kwargs or {})
        self.folder = local_folder(self.model_name)
        self._adapter_folder = None if self.adapter_name is None else local_folder(self.adapter_name)
        self._process: ModelProcess | None = None
        if identity is not None:
            self.identity = {"provider": self.provider, "identity": identity}

    # --- who it is ----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """The model by its content or its commit, and all that changes what it says; not the device."""
        made: dict[str, Any] = {"provider": self.provider, "serves": self.serves}
        made |= {"content": self.content(self.folder)} if self.folder else {"model": self.model_name, "commit": self._commit}
        if self.adapter_name is not None:
            folder, revision = self._adapter_folder, self.adapter_kwargs.get("revision")
            made["adapter"] = (
                {"content": content(folder)} if folder else {"model": self.adapter_name, "commit": commit(self.adapter_name, revision)}
            )
        return made if self.dtype is None else {**made, "dtype": self.dtype}

    def content(self, folder: Path) -> str:
        """The digest of what decides what a folder's model says."""
        return content(folder)

    @functools.cached_property
    def _commit(self) -> str:
        return commit(self.model_name, self.revision)

    @property
    def display_name(self) -> str:
        """The name on the Hub, or the folder's."""
        return self.model_name if self.folder is None else self.folder.name

    @property
    def card(self) -> dict[str, Any]:
        """What a data card says about it: its page on the Hub, or the licence that the folder's card names."""
        url = None if self.folder is not None else f"https://huggingface.co/{self.model_name}"
        if self.folder is None:
            said = licenses.on_hub(self.model_name, "model", lambda: self._commit, f"https://huggingface.co/{self.model_name}")
        else:
            said = licenses.in_folder(self.folder)
        return {"kind": type(self).__name__, "name": self.display_name, "card_url": url, **said, "citation": None}

    @property
    def __nbdream_fingerprint__(self) -> dict[str, Any]:
        """What a recipe counts of it."""
        return {"identity": self.identity}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.display_name!r})"

    # --- its process --------------------------------------------------------------------------------------------------

    def asked(self, op: str, **message: Any) -> dict[str, Any]:
        """What the model's process says to a question. Raises `ModelError` where it cannot; an interrupt gives the question up."""
        return self._started().wait(op, **message)

    def about(self) -> dict[str, Any]:
        """What the process says of the model: its labels, how long its vectors are, how much it reads, where it is."""
        return self.asked("about")

    @property
    def model_max_length(self) -> int | None:
        """How many tokens a text may have."""
        found: int | None = self.about()["context"]
        return found

    def unload_model(self) -> None:
        """End the process that holds the model and give its memory back. The next call starts it again."""
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def _started(self) -> ModelProcess:
        """The process of this model, shared by all that ask for the same one."""
        if self._process is None:
            spec = self._spec()
            key = json.dumps(spec, sort_keys=True)
            self._process = _processes.get(key) or _processes.setdefault(key, ModelProcess(spec, "encoder"))
        return self._process

    def _spec(self) -> dict[str, Any]:
        """What the child is told to load."""
        return {
            "serves": self.serves,
            "model": str(self.folder or self.model_name),
            "name": self.display_name,
            "revision": None if self.folder is not None else self._commit,
            "trust_remote_code": self.trust_remote_code,
            "device": self.device,
            "device_map": self.device_map,
            "dtype": self.dtype,
            "adapter": None if self.adapter_name is None else str(self._adapter_folder or self.adapter_name),
            "adapter_options": self.adapter_kwargs,
        }
