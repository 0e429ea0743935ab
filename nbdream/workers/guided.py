"""Decoding under a JSON schema: at each step only those tokens of a row are left that keep its text within the schema.

The grammar is llguidance's: of the libraries for it, the one whose every answer fitted the schema, and that says which keywords it does
not know (measured with transformers 5 on small models).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from nbdream.errors import ModelError
from nbdream.optional import require

COMPACT = {"whitespace_flexible": False}
"""A model that may write white space for ever does so."""


class Grammars:
    """The grammars of one model's tokenizer, made once for each schema."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        """``vocabulary``: the number of the model's logits, which may be larger than the tokenizer's."""
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary

    def guide(self, schemas: Sequence[Mapping[str, Any] | None]) -> Guide | None:
        """A guide for the rows of a batch, some of which have a schema; None when none has."""
        matchers = {row: self._matcher(json.dumps(schema, sort_keys=True)) for row, schema in enumerate(schemas) if schema is not None}
        return Guide(matchers, self._vocabulary) if matchers else None

    def _matcher(self, schema: str) -> Any:
        matcher = require("llguidance", "local").LLMatcher(self._tokens, self._grammar(schema))
        if matcher.is_error():
            said = " ".join(str(matcher.get_error()).split())
            raise ModelError(f"the model cannot be held to this schema: {said[:300]}", "leave that keyword out of the schema")
        return matcher

    @functools.cached_property
    def _tokens(self) -> Any:
        require("llguidance", "local")
        import llguidance.hf

        return llguidance.hf.from_tokenizer(self._tokenizer, n_vocab=self._vocabulary)

    @functools.lru_cache(maxsize=64)  # noqa: B019 - one object a process, as long as the process
    def _grammar(self, schema: str) -> str:
        made: str = require("llguidance", "local").LLMatcher.grammar_from_json_schema(schema, COMPACT)
        return made


class Guide:
    """A logits processor that leaves each guided row the tokens that its grammar allows."""

    def __init__(self, matchers: Mapping[int, Any], vocabulary: int) -> None:
        import llguidance.torch

        self._matchers = matchers
        self._masks = llguidance.torch
        self._mask = self._masks.allocate_token_bitmask(len(matchers), vocabulary)
        self._started = False

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores in which what the grammars forbid is impossible."""
        if self._started:
            for row, matcher in self._matchers.items():
                if not matcher.is_stopped():
                    matcher.consume_token(int(input_ids[row, -1]))
        self._started = True
        for place, matcher in enumerate(self._matchers.values()):
            self._masks.fill_next_token_bitmask(matcher, self._mask, place)
        rows = list(self._matchers)
        guided = scores[rows].contiguous()
        self._masks.apply_token_bitmask_inplace(guided, self._mask.to(scores.device))
        scores[rows] = guided
        return scores
