"""`TaskModel`: a model that says of a text how likely each label is. A provider writes ``classify_batch``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, cast

from nbdream.errors import ArgumentError, nearest

Label = str | int | bool
Scores = dict[Label, float]

IGNORED = frozenset({
    "adaptive_batch_size", "batch_scheduler_buffer_size", "log_level", "progress_interval", "total_num_texts", "verbose",
})  # fmt: skip
"""Arguments that older programs give and that have no effect."""
AT_ONCE = 16
"""Batches that are handed over together: they are sorted by length."""


class TaskModel:
    """A model of texts and labels. What it says is not stored: reading a text again is cheap."""

    batch_size: int = 32
    """The most texts that are read together."""

    # --- what a provider implements -----------------------------------------------------------------------------------

    def classify_batch(self, texts: list[str], *, truncate: bool, batch_size: int, first: int) -> list[Scores]:
        """The probability of each label, for each text. ``first`` is the number of the first one, for what is said of a text."""
        raise NotImplementedError(f"{type(self).__name__} does not implement classify_batch")

    @property
    def labels(self) -> list[Label]:
        """The labels, in order."""
        raise NotImplementedError(f"{type(self).__name__} does not say its labels")

    @property
    def multi_label(self) -> bool:
        """Whether a text may have any number of labels; their probabilities then do not add up to one."""
        return False

    # --- what a person calls ------------------------------------------------------------------------------------------

    def __call__(self, text: str, truncate: bool = False) -> Scores:
        """The probability of each label for one text."""
        return cast("list[Scores]", self.run([text], truncate=truncate))[0]

    def run(
        self,
        texts: Iterable[str],
        truncate: bool = False,
        batch_size: int | None = None,
        return_generator: bool = False,
        **without_effect: Any,
    ) -> list[Scores] | Iterator[Scores]:
        """The probability of each label for each text, in order. A text that is too long is an error, or cut with ``truncate``."""
        check_without_effect(type(self).__name__, without_effect, ("truncate", "batch_size", "return_generator"))
        made = self._run(texts, truncate, batch_size or self.batch_size)
        return made if return_generator else list(made)

    def predict(self, texts: Iterable[str], truncate: bool = False, batch_size: int | None = None) -> list[Any]:
        """The likeliest label of each text; of a model with several labels a text, a list of those likelier than not."""
        return [self.said(scores) for scores in self._run(texts, truncate, batch_size or self.batch_size)]

    def said(self, scores: Scores) -> Any:
        """What these probabilities come to."""
        if self.multi_label:
            return [label for label, probability in scores.items() if probability > 0.5]
        return max(scores, key=lambda label: scores[label])

    def _run(self, texts: Iterable[str], truncate: bool, batch_size: int) -> Iterator[Scores]:
        for first, chunk in chunks(texts, AT_ONCE * batch_size):
            yield from self.classify_batch(chunk, truncate=truncate, batch_size=batch_size, first=first)


def chunks(texts: Iterable[str], size: int) -> Iterator[tuple[int, list[str]]]:
    """``texts`` in lists of at most ``size``, each with the number of its first; `ArgumentError` for what is no text."""
    if isinstance(texts, str):
        raise ArgumentError("texts is one text", "give a list of texts")
    left = iter(texts)
    first = 0
    while chunk := list(islice(left, size)):
        for number, text in enumerate(chunk, first):
            if not isinstance(text, str):
                raise ArgumentError(f"text {number + 1} is a {type(text).__name__}", "give texts")
        yield first, chunk
        first += len(chunk)


def check_without_effect(what: str, given: dict[str, Any], known: Iterable[str]) -> None:
    """Raise `ArgumentError` for an argument that ``what`` does not take, and that older programs do not give either."""
    for name in given:
        if name not in IGNORED:
            raise ArgumentError(f"{what} takes no argument {name!r}", nearest(name, [*known, *IGNORED], "it takes"))
