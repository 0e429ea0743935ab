"""`Labeller`: a classifier that answers as a language model does, with the label of a text."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, ClassVar

from nbdream.fingerprint import function_code
from nbdream.llms.base import LLM, Reply, Request
from nbdream.templates import as_json

if TYPE_CHECKING:
    from nbdream.task_models.base import TaskModel


class Labeller(LLM):
    """The likeliest label as the reply, asked through the engine like any model. A text that is too long is cut, as in training."""

    accepts: ClassVar[frozenset[str]] = frozenset({"max_tokens", "temperature"})  # a label has no use for them
    batch_size = 256

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self._model = model

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """The classifier's own; of one without, its code."""
        own = getattr(self._model, "identity", None)
        return {"provider": "transformers", "labels": own} if own else {"code": function_code(type(self._model))}

    @property
    def display_name(self) -> str:
        """The classifier's."""
        return str(getattr(self._model, "display_name", type(self._model).__name__))

    @property
    def card(self) -> dict[str, Any]:
        """The classifier's."""
        card: dict[str, Any] = getattr(self._model, "card", None) or super().card
        return card

    async def complete_batch(self, requests: list[Request]) -> list[Reply]:
        """The label of each text."""
        said = await asyncio.to_thread(self._model.predict, [request.prompt for request in requests], truncate=True)
        return [Reply(label if isinstance(label, str) else as_json(label), model=self.display_name) for label in said]
