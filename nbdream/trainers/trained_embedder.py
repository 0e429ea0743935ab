"""`TrainedEmbedder`: what a run of `TrainSentenceTransformer` gives."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar

from nbdream.embedders.sentence_transformers import SentenceTransformersEmbedder
from nbdream.files import read_object
from nbdream.trainers.trained import WHAT_IT_IS, Trained

if TYPE_CHECKING:
    from nbdream.steps.handle import StepHandle


class TrainedEmbedder(Trained, SentenceTransformersEmbedder):
    """The model of a finished run: it turns a text into a vector."""

    task: ClassVar[str] = "sentence-similarity"
    what_it_is: ClassVar[tuple[str, ...]] = (*WHAT_IT_IS, "modules.json", "*/config.json", "*/*.safetensors")

    def __init__(self, step: StepHandle, device: Any = None, dtype: Any = None) -> None:
        base = self._find(step)["model"]
        where: dict[str, Any] = {"model_name": str(self.paths.model)}
        if self.adapted:
            where = {"model_name": self._base_path(base), "revision": base.get("revision"), "adapter_name": str(self.paths.model)}
        trusted = bool(base.get("trust_remote_code"))
        super().__init__(**where, trust_remote_code=trusted, device=device, dtype=dtype, identity=self._who(base))

    @functools.cached_property
    def base(self) -> SentenceTransformersEmbedder:
        """The model that it was trained from."""
        base, trusted = read_object(self.paths.spec)["model"], self.trust_remote_code
        return SentenceTransformersEmbedder(self._base_path(base), trusted, self.device, self.dtype, base.get("revision"))
