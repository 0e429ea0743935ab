"""What can go wrong, as one tree. Every error carries a hint: the next thing to type.

    NbDreamError
    ├── ArgumentError            an unknown option, argument or YAML key; a bad value
    │   ├── ColumnError          a column that is not there
    │   ├── SplitError           a split that is not there
    │   └── TemplateError        a template that does not parse, or meets a null
    ├── DataError                rows that cannot be read, or that a step cannot use
    │   ├── StepOutputError      a step returned something that is not rows
    │   └── StepOutputTypeError  a column of mixed types
    ├── FingerprintError         a value or function whose content cannot be told
    ├── ModelError               a model that is unknown, unreachable, refused or misconfigured
    ├── SessionError             the session folder: newer, read-only, full, locked
    │   └── BrokenFileError      one file of it does not hold what its name promises
    ├── BudgetError              the next call could cost more than the user allows
    ├── TrainingError            a training run that failed or cannot start
    ├── HubError                 publishing or fetching failed
    ├── MissingPackageError      an optional package is not installed
    └── Stopped                  the user stopped the work; nothing is wrong

User mistakes print as one line in a notebook (IPython asks ``_render_traceback_``); anything that is not an
``NbDreamError`` is a bug of ours and keeps its full traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NbDreamError(Exception):
    """A mistake that its user can mend: ``message`` says what is wrong, ``hint`` what to do about it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def _render_traceback_(self) -> list[str]:
        """The one line that IPython shows instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class ArgumentError(NbDreamError, ValueError):
    """An unknown option, argument or YAML key, or a value that does not fit."""


class ColumnError(ArgumentError, KeyError):
    """A column that the data does not have."""

    __str__ = NbDreamError.__str__  # KeyError would print the repr


class SplitError(ArgumentError, AttributeError):
    """A split (``.train``, ``.validation``, ``.test``) that a result does not have."""


class TemplateError(ArgumentError):
    """A template that does not parse, names an unknown column, or meets a null."""


class DataError(NbDreamError, ValueError):
    """Rows that cannot be read, or that a step cannot use."""


class StepOutputError(DataError):
    """A step returned something that is not rows of its declared outputs."""


class StepOutputTypeError(StepOutputError, TypeError):
    """A step returned a column whose values have no common type."""


class FingerprintError(NbDreamError, TypeError):
    """A value or function whose content cannot be told."""


class ModelError(NbDreamError):
    """A model that is unknown, unreachable, refuses the key, or is misconfigured."""


class SessionError(NbDreamError, RuntimeError):
    """The session folder cannot be used as it is."""


class BudgetError(NbDreamError):
    """The next call could cost more than the user allows."""


class BrokenFileError(SessionError):
    """A file of the session does not hold what its name promises; ``path`` names it."""

    def __init__(self, path: object, why: str, hint: str | None = None) -> None:
        super().__init__(f"{path} is broken: {why}", hint or "delete it to have it made again")
        self.path = path


class TrainingError(NbDreamError, RuntimeError):
    """A training run failed or cannot start."""


class HubError(NbDreamError):
    """Publishing to or fetching from the Hub failed."""


class MissingPackageError(NbDreamError, ImportError):
    """An optional package is not installed."""


class Stopped(NbDreamError):
    """The user stopped the work. What was done is kept."""


def nearest(name: str, known: Iterable[str], what: str = "it may be") -> str:
    """The hint for an unknown ``name``: the nearest of ``known``, or all of them when none is near."""
    names = sorted({str(k) for k in known})
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(names[:SHOWN]) + (f" … ({len(names)} in all)" if len(names) > SHOWN else "")
    return f"{what} one of: {shown}" if names else "there are none"


SHOWN = 40
"""Names that a hint lists at most: a line is to be read."""
