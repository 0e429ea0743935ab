"""Two texts side by side: what is different, word by word."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator

Part = tuple[str, bool]
"""A piece of a text, and whether the other text has something else there."""

LONGEST = 20_000
"""Characters of both texts together beyond which only the first difference and the last are found."""
_WORD = re.compile(r"\w+\s*|[^\w\s]\s*|\s+")


def differences(left: str, right: str) -> tuple[list[Part], list[Part]]:
    """Both texts in pieces."""
    if left == right:
        return _same(left), _same(right)
    start = common(left, right)
    end = common(left[start:][::-1], right[start:][::-1])
    while start and (_within_a_word(left, start) or _within_a_word(right, start)):  # a word of which the end changed has changed
        start -= 1
    while end and (_within_a_word(left, len(left) - end) or _within_a_word(right, len(right) - end)):
        end -= 1
    ours, theirs = left[start : len(left) - end], right[start : len(right) - end]
    before, after = _same(left[:start]), _same(left[len(left) - end :])
    middle = _aligned(ours, theirs) if len(ours) + len(theirs) <= LONGEST else (_changed(ours), _changed(theirs))
    return _joined([*before, *middle[0], *after]), _joined([*before, *middle[1], *after])


def common(left: str, right: str) -> int:
    """How many characters both begin with."""
    if left.startswith(right) or right.startswith(left):
        return min(len(left), len(right))
    low, high = 0, min(len(left), len(right))
    while low < high:  # texts may be long: compared in slices, not in characters
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[low:middle] == right[low:middle] else (low, middle - 1)
    return low


def _aligned(left: str, right: str) -> tuple[list[Part], list[Part]]:
    ours, theirs = _WORD.findall(left), _WORD.findall(right)
    matcher = difflib.SequenceMatcher(None, [word.rstrip() for word in ours], [word.rstrip() for word in theirs], autojunk=False)
    sides: tuple[list[Part], list[Part]] = ([], [])
    for tag, begin, end, into, until in matcher.get_opcodes():
        for side, piece in zip(sides, (ours[begin:end], theirs[into:until]), strict=True):
            side.append(("".join(piece), tag != "equal"))
    return sides


def _within_a_word(text: str, at: int) -> bool:
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()


def _same(text: str) -> list[Part]:
    return [(text, False)]


def _changed(text: str) -> list[Part]:
    return [(text, True)]


def _joined(parts: list[Part]) -> list[Part]:
    """Neighbours of one kind as one piece."""

    def pieces() -> Iterator[Part]:
        for changed, group in itertools.groupby((part for part in parts if part[0]), key=lambda part: part[1]):
            yield "".join(text for text, _ in group), changed

    return list(pieces())
