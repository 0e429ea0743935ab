"""A value that became something else, in words that whoever wrote it would use."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import re
from typing import Any

import pytest

from nbdream.difference import difference, with_article
from nbdream.fingerprint import canonical


class Scorer:
    """An object without a form of its own."""

    def __init__(self) -> None:
        self.limit = 3

    def score(self) -> int:
        """What it makes of nothing."""
        return self.limit


@dataclasses.dataclass
class Settings:
    """Settings of a step."""

    limit: int = 3


def clean(text: str, limit: int = 3) -> str:
    """A text, cut."""
    return text[:limit]


class Named:
    """A model, to its recipe."""

    identity = {"kind": "openai", "model": "gpt-4.1"}  # noqa: RUF012


NOW = {
    "a partial": (functools.partial(clean, limit=4), "a partial of `clean`"),
    "a partial of a partial": (functools.partial(functools.partial(clean), limit=4), "a partial of `clean`"),
    "an object": (Scorer(), "an object of class `Scorer`"),
    "a dataclass": (Settings(), "an object of class `Settings`"),
    "of the standard library": (io.StringIO("x"), "an object of class `_io.StringIO`"),
    "a method": (Scorer().score, "a method of an object of class `Scorer`"),
    "a cached function": (functools.lru_cache(clean), "`clean`"),
    "a function": (clean, "`clean`"),
    "a class": (Scorer, "`Scorer`"),
    "a model": (Named(), "the model openai gpt-4.1"),
    "bytes": (b"abc", "3 bytes"),
    "a dict with numbers for keys": ({1: "a", 2: "b"}, "a dict of 2"),
    "a set": ({"a", "b"}, "a set of 2"),
    "a type": (list[int], "a type"),
    "a pattern": (re.compile("a"), "a pattern"),
    "an ellipsis": (..., "an ellipsis"),
}


@pytest.mark.parametrize("case", NOW)
def test_what_it_is_now(case: str) -> None:
    value, words = NOW[case]
    form = json.loads(json.dumps(canonical(value)))
    assert difference({"args": {"score": 7}}, {"args": {"score": form}}) == [f"score 7 → {words}"]
    assert difference({"args": {"score": form}}, {"args": {"score": 7}}) == [f"score {words} → 7"]


def test_two_of_a_kind_that_are_called_alike() -> None:
    one, other = (canonical(functools.partial(clean, limit=limit)) for limit in (4, 5))
    assert difference({"args": {"f": one}}, {"args": {"f": other}}) == ["f.keywords.limit 4 → 5"]
    one, other = (canonical(value) for value in ({1: "a"}, {2: "a"}))
    assert difference({"args": {"f": one}}, {"args": {"f": other}}) == ["f changed"]


@pytest.mark.parametrize(("noun", "words"), [("array", "an array"), ("Object", "an Object"), ("set", "a set"), ("", "a ")])
def test_articles(noun: str, words: str) -> None:
    assert with_article(noun) == words


@pytest.mark.parametrize("kind", ["partial", "method", "object", "model", "bytes", "cached", "set", "schema", "unheard of"])
@pytest.mark.parametrize("holds", [{}, {"function": 3, "self": None, "type": [1], "identity": 3, "items": 5, "length": "x"}])
def test_what_a_stranger_wrote_has_words_too(kind: str, holds: dict[str, Any]) -> None:
    (said,) = difference({"args": {"f": 1}}, {"args": {"f": {"$": kind, **holds}}})
    assert said.startswith("f 1 → ")
