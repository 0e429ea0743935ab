"""`Embedder`: a model that turns a text into a vector. A provider writes ``embed_batch``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from nbdream.task_models.base import AT_ONCE, check_without_effect, chunks

if TYPE_CHECKING:
    import numpy as np


class Embedder:
    """A model of texts and vectors. What it says is not stored."""

    batch_size: int = 32
    """The most texts that are read together."""

    # --- what a provider implements -----------------------------------------------------------------------------------

    def embed_batch(
        self, texts: list[str], instruction: str | None = None, truncate: bool = False, batch_size: int | None = None, first: int = 0
    ) -> np.ndarray:
        """The vectors of texts: float32, (texts, dims). ``first`` is the number of the first one, for what is said of a text."""
        raise NotImplementedError(f"{type(self).__name__} does not implement embed_batch")

    @property
    def dims(self) -> int:
        """How many numbers a vector has."""
        raise NotImplementedError(f"{type(self).__name__} does not say its dims")

    # --- what a person calls ------------------------------------------------------------------------------------------

    def __call__(self, text: str, instruction: str | None = None, truncate: bool = False) -> np.ndarray:
        """The vector of one text."""
        found: np.ndarray = self.run([text], truncate=truncate, instruction=instruction)[0]
        return found

    def run(
        self,
        texts: Iterable[str],
        truncate: bool = False,
        instruction: str | None = None,
        batch_size: int | None = None,
        return_generator: bool = False,
        **without_effect: Any,
    ) -> Any:
        """The vectors of texts, in order: an array of float32, (texts, dims), or a generator of its rows.

        ``instruction`` is put before each text, for models that were trained with one. A text that is too long is an error,
        or cut with ``truncate``.
        """
        check_without_effect(type(self).__name__, without_effect, ("truncate", "instruction", "batch_size", "return_generator"))
        parts = self._run(texts, truncate, instruction, batch_size or self.batch_size)
        if return_generator:
            return (vector for part in parts for vector in part)
        import numpy as np

        made = list(parts)
        return np.concatenate(made) if made else np.zeros((0, self.dims), dtype=np.float32)

    def _run(self, texts: Iterable[str], truncate: bool, instruction: str | None, batch_size: int) -> Iterator[np.ndarray]:
        for first, chunk in chunks(texts, AT_ONCE * batch_size):
            yield self.embed_batch(chunk, instruction, truncate, batch_size, first)
