"""`Scorer`: how likely a local model holds an answer that is given."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from nbdream.llms.base import LLM, Reply, Request

if TYPE_CHECKING:
    from nbdream.llms.hf_transformers import HFTransformers


class Scorer(LLM):
    """Reads pairs of a prompt and an answer. A reply is JSON: ``nll``, the negative log-likelihood of the answer, and its ``tokens``.

    It is asked through the engine like any model, and so what it says is stored, counted and stopped in the same way.
    """

    provider: ClassVar[str] = "transformers"
    accepts: ClassVar[frozenset[str]] = frozenset({"temperature"})
    adaptive: ClassVar[bool] = False

    def __init__(self, model: HFTransformers) -> None:
        super().__init__(model.model_name, max_concurrency=model.max_concurrency)
        self._model = model

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """The model whose likelihoods they are."""
        return {"provider": self.provider, "scores": self._model.identity}

    @property
    def display_name(self) -> str:
        """The model's."""
        return self._model.display_name

    def pairs(self, prompts: Iterable[str], answers: Iterable[str]) -> Iterator[Request]:
        """The requests for pairs: the messages that the model is asked with, and the answer as the last one."""
        settings = self.settings(temperature=0)  # what is the same at every draw is asked once
        for prompt, answer in zip(prompts, answers, strict=True):
            yield Request((*self._model.messages(prompt), {"role": "assistant", "content": answer}), settings)

    async def complete(self, request: Request) -> Reply:
        """The likelihood of a pair."""
        *messages, answer = map(dict, request.messages)
        said = await self._model.asked("score", messages=messages, answer=answer["content"])
        if isinstance(said, Reply):
            return said
        text = json.dumps({"nll": said["nll"], "tokens": said["tokens"]})
        return Reply(text, usage={"input_tokens": said["input_tokens"], "output_tokens": 0}, model=self.display_name)

    async def aclose(self) -> None:
        """End the model's process."""
        await self._model.aclose()
