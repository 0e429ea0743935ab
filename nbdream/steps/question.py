"""`Question`: what people are asked about each row, and what their decisions come to."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nbdream.annotations import Decision, Decisions, row_key
from nbdream.errors import ArgumentError, ColumnError, DataError, nearest
from nbdream.fingerprint import Tagged, canonical_json, digest
from nbdream.steps.agreement import Agreement, agreement, most

if TYPE_CHECKING:
    from nbdream.datasets import OutputDataset

REVIEW, RATE, PREFER = "review", "rate", "prefer"
ACCEPT, EDIT, REJECT, CHOOSE, TIE = "accept", "edit", "reject", "choose", "tie"
ANSWERS = {REVIEW: (ACCEPT, EDIT, REJECT), RATE: (RATE,), PREFER: (CHOOSE, TIE)}
"""What can be decided, by what is asked."""
MADE = {REVIEW: ("reviewed",), RATE: ("rating",), PREFER: ("chosen", "rejected")}
"""The columns that the decisions make."""
HIGHEST = 9
"""The highest rating: each has a key of its own."""
LONGEST = 400_000
"""Characters of an edited text."""

Vote = tuple[str, Any]
"""What was decided: what, and the value."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question about the rows of a dataset, all of whose columns are shown."""

    mode: str
    columns: tuple[str, ...]
    column: str | None = None
    """The column that is reviewed."""
    highest: int | None = None
    """The highest rating."""
    pair: tuple[str, ...] = ()
    """The two columns one of which is chosen."""

    @classmethod
    def of(cls, rows: OutputDataset, column: str | None = None, rate: int | None = None, prefer: Sequence[str] | None = None) -> Question:
        """The question that arguments mean; `ArgumentError` for those that make none."""
        given = [name for name, value in (("column", column), ("rate", rate), ("prefer", prefer)) if value is not None]
        if len(given) > 1:
            raise ArgumentError(f"{given[0]} and {given[1]} are two questions", "ask them one after the other, in two cells")
        if not rows.num_rows:
            raise DataError(f"{rows.step.name!r} has no rows", "there is nothing to annotate")
        names = tuple(rows.column_names)
        if rate is not None:
            if isinstance(rate, bool) or not isinstance(rate, int) or not 2 <= rate <= HIGHEST:
                raise ArgumentError(f"rate is {rate!r}", f"it is the highest rating, 2 to {HIGHEST}: each has a key of its own")
            return cls(RATE, names, highest=rate)
        if prefer is not None:
            if isinstance(prefer, str) or len(prefer) != 2 or prefer[0] == prefer[1]:
                raise ArgumentError(f"prefer takes two columns, not {prefer!r}", "for example --prefer first second")
            return cls(PREFER, names, pair=tuple(_column(name, names) for name in prefer))
        return cls(REVIEW, names, column=names[-1] if column is None else _column(column, names))

    @property
    def recipe(self) -> dict[str, Any]:
        """What is asked, for the recipe."""
        asked = {"column": self.column, "rate": self.highest, "prefer": list(self.pair) or None}
        return {name: value for name, value in asked.items() if value is not None}

    def id(self, name: str) -> str:
        """Under which the decisions are kept: name, question, and the columns that are shown, in whatever order."""
        return digest({"name": name, "mode": self.mode, **self.recipe, "columns": sorted(self.columns)})[:40]

    def check(self, rows: OutputDataset, do: str, value: Any) -> None:
        """`ArgumentError` unless this can be decided about a row."""
        answers = ANSWERS[self.mode]
        if do not in answers:
            raise ArgumentError(f"a row cannot be decided by {do!r}", nearest(str(do), answers, "it is"))
        if do == EDIT:
            if not isinstance(value, str):
                raise ArgumentError("an edit is a text", "decide(row, 'edit', 'the new text')")
            if not pa.types.is_string(kind := rows.column(str(self.column)).type) and not pa.types.is_large_string(kind):
                raise ArgumentError(f"{self.column!r} holds {kind}: only texts can be edited", "accept or reject the row")
            if len(value) > LONGEST:
                raise ArgumentError(f"the text has {len(value):,} characters", f"at most {LONGEST:,} can be edited here")
        elif do == RATE:
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= (self.highest or 0):
                raise ArgumentError(f"a rating of {value!r}", f"it is a whole number, 1 to {self.highest}")
        elif do == CHOOSE:
            if value not in self.pair:
                raise ArgumentError(f"{value!r} cannot be chosen", f"it is {' or '.join(self.pair)}")
        elif value is not None:
            raise ArgumentError(f"{do!r} takes no value", f"decide(row, {do!r})")

    def values(self, vote: Vote, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """The columns that a decision makes of a row; None where it leaves the row out."""
        do, value = vote
        if do == CHOOSE:
            other = self.pair[0] if value == self.pair[1] else self.pair[1]
            return {"chosen": row[value], "rejected": row[other]}
        if do == RATE:
            return {"rating": value}
        return {ACCEPT: {"reviewed": row[str(self.column)]}, EDIT: {"reviewed": value}}.get(do) if self.column else None

    def swapped(self, key: str) -> bool:
        """Whether the second column of the pair stands on the left: the row's key decides, and so nothing else."""
        return int(key[-1], 16) % 2 == 1


def _column(name: str, columns: Sequence[str]) -> str:
    if name not in columns:
        raise ColumnError(f"the rows have no column {name!r}", nearest(str(name), columns, "the columns are"))
    return name


class Tally:
    """What the decisions on some rows come to: of everybody who decided anything about them."""

    def __init__(self, question: Question, keys: Sequence[str], decisions: Decisions) -> None:
        self.question = question
        self.keys = keys
        self.mark = decisions.mark()
        here = set(keys)
        found = {who: {key: made for key, made in decisions.of(who).items() if key in here} for who in decisions.people}
        self.people: dict[str, dict[str, Decision]] = {who: made for who, made in found.items() if made}

    @functools.cached_property
    def votes(self) -> dict[str, list[Vote]]:
        """By row, what was decided."""
        found: dict[str, list[Vote]] = {}
        for made in self.people.values():
            for key, decision in made.items():
                found.setdefault(key, []).append((decision.do, decision.value))
        return found

    def decided(self, key: str) -> Vote | None:
        """What most people decided about a row; None where nobody did, or they are at a tie."""
        return most(self.votes.get(key, ()))

    @functools.cached_property
    def outcomes(self) -> Counter[Any]:
        """How many rows have which outcome: an answer (with the rating, or what was chosen), ``disagree`` or ``undecided``."""
        votes = [(key, self.decided(key)) for key in self.keys]
        return Counter(self._label(vote) if vote else ("disagree" if key in self.votes else "undecided") for key, vote in votes)

    @property
    def done(self) -> int:
        """How many rows are decided."""
        return len(self.keys) - self.outcomes["disagree"] - self.outcomes["undecided"]

    @functools.cached_property
    def agreement(self) -> Agreement | None:
        """How far people agree, of the rows that all of them decided: equal rows count once."""
        both = [key for key in dict.fromkeys(self.keys) if all(key in made for made in self.people.values())]
        return agreement([[self._label((made[key].do, made[key].value)) for made in self.people.values()] for key in both])

    @property
    def recipe(self) -> dict[str, Any]:
        """The decisions that count, whoever took them, and their number."""
        whose = sorted(canonical_json({key: [one.do, one.value] for key, one in made.items()}) for made in self.people.values())
        return Tagged({"$": "decisions", "count": sum(map(len, self.people.values())), "people": len(whose), "digest": digest(whose)})

    @property
    def days(self) -> str:
        """When people decided: a day, or the first and the last one."""
        when = sorted(one.when[:10] for made in self.people.values() for one in made.values())
        return " to ".join(dict.fromkeys((when[0], when[-1]))) if when else ""

    def line(self) -> str:
        """How far it is, and what came of it, in one line without names of people."""
        parts = [f"{self.done:,} of {len(self.keys):,} row{'' if len(self.keys) == 1 else 's'} decided", *self._parts()]
        if self.outcomes["disagree"]:
            parts.append(f"{self.outcomes['disagree']:,} on which people disagree")
        if len(self.people) > 1:
            parts.append(f"{len(self.people)} people" + (f", {self.agreement}" if self.agreement else ""))
        return " · ".join(parts)

    def _parts(self) -> list[str]:
        found = self.outcomes
        if self.question.mode == REVIEW:
            edited = f" ({found[EDIT]:,} of them edited)" if found[EDIT] else ""
            said = {"accepted": found[ACCEPT] + found[EDIT], "rejected": found[REJECT]}
            return [f"{count:,} {word}{edited if word == 'accepted' else ''}" for word, count in said.items() if count]
        if self.question.mode == PREFER:
            chosen = [f"{count:,} {name}" for name in self.question.pair if (count := found[CHOOSE, name])]
            return [*chosen, f"{found[TIE]:,} tie{'' if found[TIE] == 1 else 's'}"] if found[TIE] else chosen
        total = sum(label[1] * count for label, count in found.items() if isinstance(label, tuple))
        return [f"mean rating {total / self.done:.2f}"] if self.done else []

    @staticmethod
    def _label(vote: Vote) -> str | Vote:
        return vote if vote[0] in (RATE, CHOOSE) else vote[0]


KEPT = 8
"""Contents whose rows' keys are remembered."""
_known: dict[str, list[str]] = {}


def keys_of(rows: OutputDataset, columns: Sequence[str]) -> list[str]:
    """The key of each row, of all the columns that are shown."""
    content = digest({name: rows.digest(name) for name in columns})
    found = _known.pop(content, None)
    if found is None:
        found = [row_key(row) for batch in rows.iter_batches(columns) for row in batch.to_pylist()]
    _known[content] = found
    while len(_known) > KEPT:
        del _known[next(iter(_known))]
    return found
