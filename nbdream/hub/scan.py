"""What is looked for before anything is published or shared: credentials, what looks like a secret, personal data, paths of a machine.

Every finding names its place. The patterns would rather miss a strange form than stop on an ordinary text: an address at
example.org, a number without a country code, ``/home/user`` are nobody's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nbdream.errors import HubError
from nbdream.secrets import known

CREDENTIALS, SECRETS, PERSONAL, PATHS = "credentials", "secrets", "personal", "paths"
KINDS = (CREDENTIALS, SECRETS, PERSONAL, PATHS)
"""The kinds of findings. What a credential of this process is, nothing allows."""


@dataclass(frozen=True)
class Finding:
    """Something that stands where it should not: what it looks like, and the first place."""

    kind: str
    what: str
    where: str
    more: int = 0
    """In how many further rows or lines it stands."""

    def __str__(self) -> str:
        return (f"{self.where} holds {self.what}" if self.where else self.what) + (f", and so do {self.more:,} more" if self.more else "")


@dataclass(frozen=True)
class Pattern:
    """A form of text that is looked for; ``is_one`` has the last word on what fits it."""

    kind: str
    what: str
    form: str
    """A regular expression that Python and RE2 read alike, without groups that capture."""
    is_one: Callable[[str], bool] = lambda text: True


# --- what is a real one -----------------------------------------------------------------------------------------------

_NOBODYS = re.compile(r"(^|[.@])(example|test|invalid|localhost|local|noreply|no-reply|users\.noreply)(\.|$)|^(no-?reply|git)@|@example")
_FILES = (".css", ".gif", ".html", ".ico", ".ipynb", ".jpg", ".js", ".json", ".md", ".pdf", ".png", ".py", ".svg", ".ts", ".txt", ".webp")
_PLACEHOLDERS = frozenset(
    ("app", "jovyan", "me", "name", "root", "runner", "shared", "someone", "ubuntu", "user", "username", "you", "your-name", "your_name",
     "yourname")
)  # fmt: skip
_TEST_CARDS = frozenset(("4111111111111111", "4242424242424242", "5555555555554444", "4000000000000002", "378282246310005"))


def _digits(text: str) -> str:
    return "".join(re.findall(r"\d", text))


def _is_email(text: str) -> bool:
    return not _NOBODYS.search(text.lower()) and not text.lower().endswith(_FILES)


def _is_phone(text: str) -> bool:
    digits = _digits(text)
    if text.lstrip().startswith("+"):
        return 10 <= len(digits) <= 15 and not digits.startswith("0") and not digits.endswith("000")
    # Numbers of 555-01.. are kept free for fiction.
    return digits[0] >= "2" and digits[3] >= "2" and not digits[3:].startswith("55501") and digits[:6] != "555555"


def _is_card(text: str) -> bool:
    digits = _digits(text)
    doubled = [int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(reversed(digits))]
    return sum(number // 10 + number % 10 for number in doubled) % 10 == 0 and len(set(digits)) > 2 and digits not in _TEST_CARDS


def _is_iban(text: str) -> bool:
    plain = text.replace(" ", "")
    moved = plain[4:] + plain[:4]
    return 15 <= len(plain) <= 34 and int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def _is_social_security(text: str) -> bool:
    area, group, serial = text.split("-")
    real = area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"
    return real and text not in ("123-45-6789", "078-05-1120")


def _is_home(text: str) -> bool:
    return re.split(r"[/\\]", text.strip())[-1].lower() not in _PLACEHOLDERS


PATTERNS = (
    Pattern(SECRETS, "an API key", r"\bsk-[A-Za-z0-9_-]{20,}"),
    Pattern(SECRETS, "a Hugging Face token", r"\bhf_[A-Za-z0-9]{20,}"),
    Pattern(SECRETS, "a GitHub token", r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})"),
    Pattern(SECRETS, "a GitLab token", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    Pattern(SECRETS, "an AWS key", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    Pattern(SECRETS, "a Google API key", r"\bAIza[0-9A-Za-z_-]{35}"),
    Pattern(SECRETS, "a Slack token", r"\bxox[abposr]-[A-Za-z0-9-]{10,}"),
    Pattern(SECRETS, "a private key", r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    Pattern(SECRETS, "a JSON web token", r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    Pattern(PERSONAL, "an email address", r"\b[A-Za-z0-9][A-Za-z0-9._%+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,24}\b", _is_email),
    Pattern(PERSONAL, "a phone number", r"\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){1,4}\b", _is_phone),
    Pattern(PERSONAL, "a phone number", r"(?:\(\d{3}\) ?|\b\d{3}[-.])\d{3}[-.]\d{4}\b", _is_phone),
    Pattern(PERSONAL, "a payment card", r"\b(?:(?:\d{4}[ -]){3}\d{4}|4\d{15}|5[1-5]\d{14}|3[47]\d{13})\b", _is_card),
    Pattern(PERSONAL, "an IBAN", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", _is_iban),
    Pattern(PERSONAL, "a social security number", r"\b\d{3}-\d{2}-\d{4}\b", _is_social_security),
    Pattern(PATHS, "a path of a home directory", r"(?:^|[^\w.~])/(?:home|Users)/[A-Za-z0-9._-]+", _is_home),
    Pattern(PATHS, "a path of a home directory", r"\b[A-Za-z]:\\{1,2}Users\\{1,2}[A-Za-z0-9._-]+", _is_home),
)


# --- looking ----------------------------------------------------------------------------------------------------------


class Scan:
    """A search for some ``kinds``; ``folders`` are paths of this machine, as the home directory is and the one that it works in."""

    def __init__(self, kinds: Sequence[str] = KINDS, folders: Sequence[Path] = ()) -> None:
        self.folders = folders
        self._patterns = [pattern for pattern in PATTERNS if pattern.kind in kinds]
        self._literals: dict[str, tuple[str, str]] = {}
        if PATHS in kinds:
            places = {str(Path(folder).expanduser().absolute()) for folder in (Path.home(), Path.cwd(), *folders)}
            self._literals = {place: (PATHS, "a path of this machine") for place in places if len(place) > 6 and place.count("/") > 1}
        if CREDENTIALS in kinds:
            self._literals = {**{value: (CREDENTIALS, f"the value of {name}") for value, name in known().items()}, **self._literals}
        forms = [f"(?:{form})" for form in (*map(re.escape, self._literals), *(pattern.form for pattern in self._patterns))]
        self._form = "|".join(forms)
        self._exact = [(pattern, re.compile(pattern.form, re.MULTILINE | re.ASCII)) for pattern in self._patterns]

    def tables(self, tables: Mapping[str, pa.Table]) -> list[Finding]:
        """What stands in the rows of ``tables``, by their names: each kind of thing once a column, at its first row."""
        found = []
        for split, table in tables.items():
            found += self.texts({f"the column names of {split!r}": "\n".join(table.column_names)})
            for name in table.column_names:
                found += self._column(table.column(name), f"of column {name!r} in {split!r}")
        return found

    def texts(self, texts: Mapping[str, str]) -> list[Finding]:
        """What stands in ``texts``, by their names: each kind of thing once a text, at its first line."""
        found = []
        for file, text in texts.items():
            lines = [line.encode(errors="replace").decode() for line in text.splitlines()]
            found += self._found(range(1, len(lines) + 1), pa.array(lines, pa.string()), "line {place} of " + _braced(file))
        return found

    def _column(self, column: pa.ChunkedArray, of: str) -> list[Finding]:
        if not self._form:
            return []
        start, rows = 0, list[tuple[int, str]]()
        for chunk in column.chunks:
            rows += [(start + row, text) for row, text in _candidates(chunk, self._form)]
            start += len(chunk)
        texts = pa.array([text for _, text in rows], pa.large_string())
        return self._found([row for row, _ in rows], texts, "row {place} " + _braced(of))

    def _found(self, places: Sequence[int], texts: pa.Array, where: str) -> list[Finding]:
        """Each thing that stands in ``texts``, with the first of its places and how many more there are."""
        hits: dict[tuple[str, str], set[int]] = {}
        for value, thing in self._literals.items():
            hits.setdefault(thing, set()).update(_rows_with(pc.match_substring(texts, value)))
        for pattern, form in self._exact:
            rows = _rows_with(pc.match_substring_regex(texts, pattern.form))
            real = (row for row in rows if any(pattern.is_one(match[0]) for match in form.finditer(texts[row].as_py())))
            hits.setdefault((pattern.kind, f"what looks like {pattern.what}"), set()).update(real)
        firsts = sorted((min(rows), thing) for thing, rows in hits.items() if rows)
        return [Finding(*thing, where.format(place=places[row]), len(hits[thing]) - 1) for row, thing in firsts]


def _rows_with(hits: pa.Array) -> list[int]:
    rows: list[int] = pc.indices_nonzero(pc.fill_null(hits, False)).to_pylist()
    return rows


def _braced(text: str) -> str:
    """Text for a format string."""
    return text.replace("{", "{{").replace("}", "}}")


HINTS = {
    "demo": "publish to a folder (./…), or say --yes (yes=True)",
    "stale": "run its cell again, or say --yes (yes=True)",
    "overlap": "split one result instead, ask for other draws (--seed), or say --yes (yes=True)",
}
"""What to do about the findings that are not of a text."""


def refuse(findings: Sequence[Finding], allowed: Sequence[str] = (), done: str = "published") -> None:
    """Raise `HubError` for the first finding of a kind that is not ``allowed``; a credential never is."""
    for finding in findings:
        if finding.kind == CREDENTIALS or finding.kind not in allowed:
            hint = HINTS.get(finding.kind, "remove it (%%filter or .map)")
            if finding.kind in (SECRETS, PERSONAL, PATHS):
                hint += f", or allow it: --allow {finding.kind}"
            raise HubError(f"nothing was {done}: {finding}", hint)


def _candidates(values: pa.Array, form: str) -> list[tuple[int, str]]:
    """The rows of ``values`` with a match in any text below them, each with its texts."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _candidates(values.dictionary_decode(), form)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [(row, values[row].as_py()) for row in _rows_with(pc.match_substring_regex(values, form))]
    if not pa.types.is_nested(kind) or not any(_candidates(leaf, form) for leaf in _leaves(values)):
        return []
    search = _compiled(form).search
    rows = ((row, "\n".join(_texts(value))) for row, value in enumerate(values.to_pylist()))
    return [(row, text) for row, text in rows if search(text)]


@functools.lru_cache(maxsize=4)
def _compiled(form: str) -> re.Pattern[str]:
    return re.compile(form, re.MULTILINE | re.ASCII)


def _leaves(values: pa.Array) -> Iterator[pa.Array]:
    if pa.types.is_struct(values.type):
        for child in values.flatten():
            yield from _leaves(child)
    elif pa.types.is_nested(values.type) and hasattr(values, "flatten"):
        yield from _leaves(values.flatten())
    else:
        yield values


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
