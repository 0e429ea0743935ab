"""`SentenceTransformersEmbedder`: a model of the library sentence-transformers, in a process of its own."""

from __future__ import annotations

import base64
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nbdream.embedders.base import Embedder
from nbdream.files import read_json
from nbdream.fingerprint import digest
from nbdream.llms.weights import content
from nbdream.workers.held import Held

if TYPE_CHECKING:
    import numpy as np


class SentenceTransformersEmbedder(Held, Embedder):
    """A folder or a name on the Hub, of sentence-transformers; or any encoder, whose tokens' vectors are then averaged.

    Vectors have length one, so that their product is their cosine. Models that were trained with instructions want ``instruction``.
    """

    serves: ClassVar[str] = "vectors"
    provider: ClassVar[str] = "sentence-transformers"

    def __init__(
        self,
        model_name: str,
        trust_remote_code: bool = False,
        device: Any = None,
        dtype: Any = None,
        revision: str | None = None,
        adapter_name: str | None = None,
        identity: Any = None,
    ) -> None:
        super().__init__(model_name, revision, trust_remote_code, device, dtype=dtype, adapter_name=adapter_name, identity=identity)

    @functools.cached_property
    def dims(self) -> int:
        """How many numbers a vector has."""
        return int(self.about()["dims"])

    def embed_batch(
        self, texts: list[str], instruction: str | None = None, truncate: bool = False, batch_size: int | None = None, first: int = 0
    ) -> np.ndarray:
        """The vectors of texts: float32, (texts, dims)."""
        import numpy as np

        size = batch_size or self.batch_size
        answer = self.asked("vectors", texts=texts, truncate=truncate, batch_size=size, first=first, instruction=instruction)
        return np.frombuffer(base64.b64decode(answer["vectors"]), dtype="<f4").astype(np.float32).reshape(len(texts), -1)

    def content(self, folder: Path) -> str:
        """The digest of the weights and of what stands in the folders of its modules, as how it pools."""
        return content_of_modules(folder)


def content_of_modules(folder: Path) -> str:
    """The digest of a model's folder, its modules' folders included."""
    listed = read_json(folder / "modules.json") if (folder / "modules.json").is_file() else []
    paths = [str(entry.get("path") or "") for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    inside = [path for path in paths if path and (folder / path).is_dir() and (folder / path).resolve().is_relative_to(folder.resolve())]
    return digest([content(folder), *([path, content(folder / path)] for path in inside)]) if inside else content(folder)
