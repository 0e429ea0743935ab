"""Answers that fit a JSON schema: at every step a row may only take tokens from which the schema can still be met."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from nbdream.errors import ModelError
from nbdream.optional import require


class Guide:
    """What one row may say next."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def take(self, token: int) -> str | None:
        """Go on by a token that the row took; why it cannot be, or None."""
        if self._matcher.consume_token(token):
            return None
        return _line(self._matcher.get_error()) or "the answer does not fit the schema"

    def begin_again(self) -> None:
        """Go back to where nothing is said."""
        self._matcher.reset()

    @property
    def complete(self) -> bool:
        """Whether nothing can follow any more."""
        return bool(self._matcher.is_stopped())

    def fill(self, pointer: int, size: int) -> None:
        """Write which tokens may follow, a bit each."""
        self._matcher.unsafe_compute_mask_ptr(pointer, size)


class Grammars:
    """The schemas that a model is asked to keep to, each read once."""

    def __init__(self, tokenizer: Any, vocabulary: int, ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._ends = ends
        self._known: Any = None
        self._matchers: dict[str, Any] = {}

    def guide(self, schema: Mapping[str, Any]) -> Guide:
        """A new guide through ``schema``; `ModelError` names what no grammar can be made of."""
        library = require("llguidance", "local")
        told = json.dumps(schema)  # in the order of the schema: properties are written in it
        if told not in self._matchers:
            matcher = library.LLMatcher(self._vocabulary_of(library), _grammar(library, told), log_level=0)
            if matcher.is_error():
                hint = "leave it out of the schema; pydantic validators can check it afterwards"
                raise ModelError(f"a local model cannot be held to this schema: {_line(matcher.get_error())}", hint)
            self._matchers[told] = matcher
        return Guide(self._matchers[told].deep_copy())

    def _vocabulary_of(self, library: Any) -> Any:
        if self._known is None:
            if not getattr(self._tokenizer, "is_fast", False):
                raise ModelError("the model's tokenizer has no tokenizer.json", "schemas need one; take a model that has it")
            hf = require("llguidance.hf", "local")
            self._known = hf.from_tokenizer(self._tokenizer, n_vocab=self._vocabulary, eos_token=sorted(self._ends) or None)
        return self._known


def mask(scores: Any, guided: Iterable[tuple[int, Guide | None]]) -> None:
    """Leave the rows of ``scores`` that are guided only what may follow."""
    import torch

    guides = [(place, guide) for place, guide in guided if guide is not None]
    words = (scores.shape[-1] + 31) // 32
    bits = torch.zeros((len(guides), words), dtype=torch.int32)
    for number, (_, guide) in enumerate(guides):
        guide.fill(bits[number].data_ptr(), words * 4)
    allowed = (bits.view(torch.uint8)[:, :, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    allowed = allowed.flatten(1)[:, : scores.shape[-1]].to(scores.device, torch.bool)
    places = torch.tensor([place for place, _ in guides], device=scores.device)
    scores[places] = scores[places].masked_fill_(~allowed, float("-inf"))


def _grammar(library: Any, schema: str) -> str:
    # Free white space is what small models fill their whole answer with.
    return str(library.LLMatcher.grammar_from_json_schema(schema, {"whitespace_flexible": False}))


def _line(said: str) -> str:
    """What the library says, as one line without its own preamble."""
    return " ".join(said.split()).removeprefix("ERROR:").strip()[:300]
