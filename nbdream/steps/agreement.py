"""How far people agree: the decision that most of them took, and by how much they agree more than by chance.

Two people: Cohen's kappa (J. Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 20, 1960,
pages 37 to 46). More: Fleiss' kappa (J. L. Fleiss, "Measuring nominal scale agreement among many raters", Psychological Bulletin 76, 1971,
pages 378 to 382). Both take the decisions as categories without an order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Vote = TypeVar("Vote", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Agreement:
    """A measure of agreement, its value, and the number of rows that it is of."""

    measure: str
    value: float
    rows: int

    def __str__(self) -> str:
        return f"{self.measure} {self.value:.2f} over {self.rows:,} row{'' if self.rows == 1 else 's'}"


def most(votes: Sequence[Vote]) -> Vote | None:
    """The vote that more have given than any other; None when there is none, or a tie."""
    ranked = Counter(votes).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def agreement(rows: Sequence[Sequence[Hashable]]) -> Agreement | None:
    """The agreement of two people or more, of rows that all of them decided, each row's votes in the same order of people.

    None where it is not defined: no rows, one person, or all votes the same.
    """
    people = len(rows[0]) if rows else 0
    if people < 2:
        return None
    value = cohen([(first, second) for first, second in rows]) if people == 2 else fleiss(rows)
    return None if value is None else Agreement("Cohen's κ" if people == 2 else "Fleiss' κ", value, len(rows))


def cohen(pairs: Sequence[tuple[Hashable, Hashable]]) -> float | None:
    """Cohen's kappa: (observed − expected) / (1 − expected), what is expected being of each person's own shares."""
    n = len(pairs)
    first, second = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    observed = sum(one == other for one, other in pairs) / n
    expected = sum(count * second[vote] for vote, count in first.items()) / n**2
    return _beyond_chance(observed, expected)


def fleiss(rows: Sequence[Sequence[Hashable]]) -> float | None:
    """Fleiss' kappa: of the pairs of people that agree on a row, what is expected being of the shares over all people."""
    people, counts = len(rows[0]), [Counter(row) for row in rows]
    pairs = people * (people - 1)
    observed = sum(sum(count * (count - 1) for count in row.values()) / pairs for row in counts) / len(rows)
    shares = sum(counts, Counter())
    expected = sum((count / (people * len(rows))) ** 2 for count in shares.values())
    return _beyond_chance(observed, expected)


def _beyond_chance(observed: float, expected: float) -> float | None:
    return None if expected > 1 - 1e-12 else (observed - expected) / (1 - expected)
