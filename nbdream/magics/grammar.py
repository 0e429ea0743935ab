"""How a cell is read: the magic's line, its front matter and its body, into a `Call`.

``NAME [<<] [options]`` on the line; options again, as YAML, between two ``---`` lines at the top of the body. An option
stands in one of the two places. What is unknown is one error with the nearest name, before anything runs.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nbdream.errors import ArgumentError, nearest
from nbdream.frontmatter import parse_yaml, split_body

Kind = Literal["text", "integer", "number", "flag", "choice", "expression", "model", "names", "pair", "schema", "value"]
"""A ``schema`` is an expression on the line, and below it also a mapping; a ``pair`` is two words there."""
Body = Literal["template", "expression", "text", "settings", "none"]

FIRST_LINE = 2
"""The line of a cell on which its body begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a magic."""

    name: str
    help: str
    kind: Kind = "text"
    short: str | None = None
    choices: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    """Other names for the same option."""

    @property
    def flag(self) -> str:
        """How the option is written on the line."""
        return "--" + self.name.replace("_", "-") if len(self.name) > 1 else "-" + self.name

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every way to write it on the line."""
        names = ("--" + other.replace("_", "-") for other in self.also)
        return tuple(filter(None, (self.short, self.flag, *names)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Magic:
    """What a cell magic takes."""

    name: str
    summary: str
    options: tuple[Option, ...]
    body: Body = "template"
    line_only: bool = False
    """Whether it is a verb of ``%dream``: words as many as its verb takes, no body."""
    open_settings: bool = False
    """Whether YAML keys that are no option here are passed on (and checked) by what the magic constructs."""

    def option(self, name: str) -> Option | None:
        """The option that ``name`` (a flag or a YAML key) means."""
        key = name.lstrip("-").replace("-", "_")
        for option in self.options:
            if name == option.short or key == option.name or key in option.also:
                return option
        return None

    @property
    def shown(self) -> str:
        """How messages call it."""
        return f"%{self.name}" if self.line_only else f"%%{self.name}"

    def help(self) -> str:
        """The text that ``--help`` prints."""
        head = f"%%{self.name} NAME [<<] [options]"
        lines = [head, *textwrap.wrap(self.summary, 100, initial_indent="  ", subsequent_indent="  "), ""]
        width = max((len(", ".join(option.spellings)) for option in self.options), default=0) + 2
        for option in self.options:
            start = f"  {', '.join(option.spellings):{width}}"
            lines += textwrap.wrap(option.help, 100, initial_indent=start, subsequent_indent=" " * len(start))
        if self.body in ("template", "expression", "text"):
            lines += ["", "  Options may stand in YAML between two --- lines at the top of the body instead."]
        return "\n".join(lines)


@dataclass(slots=True)
class Call:
    """A cell, read."""

    magic: Magic
    name: str = ""
    words: list[str] = field(default_factory=list)
    """What stands on the line beside options."""
    silent: bool = False
    help: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    """YAML keys beyond the options, for a magic with ``open_settings``."""
    body: str = ""
    once: str = ""
    """What the page has asked of this run of the cell: see `Notebook.once`."""

    def get(self, name: str, default: Any = None) -> Any:
        """The value of an option, or ``default``."""
        return self.options.get(name, default)


def split_line(line: str) -> list[str]:
    """The words of a magic's line.

    A word in quotes loses them; quotes and brackets inside a word keep their spaces (``df["a b"]`` is one word);
    a word ``#`` starts a comment.
    """
    words: list[str] = []
    at = 0
    while at < len(line):
        if line[at].isspace():
            at += 1
        elif line[at] == "#" and (at + 1 == len(line) or line[at + 1].isspace()):
            break
        elif line[at] in "\"'":
            word, at = _quoted(line, at)
            words.append(word)
        else:
            word, at = _bare(line, at)
            words.append(word)
    return words


def _quoted(line: str, start: int) -> tuple[str, int]:
    quote, at, out = line[start], start + 1, []
    while at < len(line):
        char = line[at]
        if char == "\\" and at + 1 < len(line) and line[at + 1] in (quote, "\\"):
            out.append(line[at + 1])
            at += 2
            continue
        if char == quote:
            if at + 1 < len(line) and not line[at + 1].isspace():
                raise ArgumentError(f"there is no space after {line[start : at + 1]}", "quote the whole expression")
            return "".join(out), at + 1
        out.append(char)
        at += 1
    raise ArgumentError(f"a quote is opened and never closed: {line[start:]}", f"end it with {quote}")


def _bare(line: str, start: int) -> tuple[str, int]:
    at, depth = start, 0
    while at < len(line) and (depth or not line[at].isspace()):
        char = line[at]
        if char == "=" and line[start:at].startswith("-") and at + 1 < len(line) and line[at + 1] in "\"'":
            word, end = _quoted(line, at + 1)
            return line[start : at + 1] + word, end
        if char in "\"'":
            end = line.find(char, at + 1)
            at = end if end > 0 else at
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth = max(0, depth - 1)
        at += 1
    if depth:
        raise ArgumentError(f"a bracket is opened and never closed: {line[start:]}", "quote the whole expression")
    return line[start:at], at


def parse(magic: Magic, line: str, cell: str) -> Call:
    """Read a cell of ``magic``. Raises `ArgumentError` in one line for whatever does not fit."""
    call = Call(magic)
    words = split_line(line)
    if any(word in ("--help", "-h", "?") for word in words):
        call.help = True
        return call
    read_words(call, words)
    _read_name(call)
    front, call.body = _split(magic, cell)
    _read_front(call, front)
    return call


def _split(magic: Magic, cell: str) -> tuple[Mapping[str, Any], str]:
    if magic.body == "settings":
        settings = parse_yaml(cell, FIRST_LINE)
        if settings is None:
            return {}, ""
        if not isinstance(settings, Mapping):
            raise ArgumentError(f"the body of %%{magic.name} is not a list of settings", "write it as YAML: epochs: 3")
        return settings, ""
    return split_body(cell, FIRST_LINE)


def read_words(call: Call, words: list[str]) -> None:
    """Read options and plain words of a line into ``call``."""
    rest = iter(words)
    for word in rest:
        if word == "<<":
            call.silent = True
        elif word.startswith("-") and len(word) > 1 and not word[1].isdigit():
            option, value = _read_option(call, word, rest)
            if option.name in call.options:
                raise ArgumentError(f"{option.flag} is given twice", "keep one of them")
            call.options[option.name] = value
        else:
            call.words.append(word)


def _read_option(call: Call, word: str, rest: Iterator[str]) -> tuple[Option, Any]:
    flag, equals, given = word.partition("=")
    option = _known(call.magic, flag)
    if option.kind == "flag":
        if equals:
            raise ArgumentError(f"{flag} takes no value", f"write {flag} alone")
        return option, True
    text = given if equals else next(rest, None)
    if text is None or (not equals and text.startswith("-") and call.magic.option(text) is not None):
        raise ArgumentError(f"{flag} needs a value", option.help)
    if option.kind == "pair" and "," not in text:
        text = f"{text},{next(rest, '')}"
    return option, _from_text(option, flag, text)


def _read_name(call: Call) -> None:
    if not call.words:
        raise ArgumentError(f"{call.magic.shown} needs a name for its result", f"{call.magic.shown} NAME …")
    name, *more = call.words
    if name.endswith("<<"):
        name, call.silent = name[:-2], True
    if more:
        hint = "quote an expression that has spaces" if "from" in call.options or "on" in call.options else "options start with --"
        raise ArgumentError(f"{call.magic.shown} takes one name, and {more[0]!r} is a second word", hint)
    call.name = name


def _read_front(call: Call, front: Mapping[str, Any]) -> None:
    for key, value in front.items():
        option = call.magic.option(str(key)) if not str(key).startswith("-") else None
        if option is None:
            if call.magic.open_settings:
                call.settings[str(key)] = value
                continue
            raise ArgumentError(f"{call.magic.shown} knows no key {str(key)!r}", nearest(str(key), _keys(call.magic), "its keys are"))
        if option.name in call.options:
            raise ArgumentError(f"{option.name} stands both on the line and below it", "an option stands in one of the two places")
        call.options[option.name] = _from_yaml(option, str(key), value)


def _known(magic: Magic, flag: str) -> Option:
    option = magic.option(flag)
    if option is not None and (flag.startswith("--") or flag == option.short or flag == option.flag):
        return option
    hint = nearest(flag, (spelling for option in magic.options for spelling in option.spellings), "the options are")
    raise ArgumentError(f"{magic.shown} knows no option {flag}", hint)


def _keys(magic: Magic) -> Iterable[str]:
    return (option.name for option in magic.options)


def _from_text(option: Option, shown: str, text: str) -> Any:
    if option.kind in ("integer", "number"):
        return _number(option, shown, text)
    if option.kind == "choice":
        return _choice(option, shown, text)
    if option.kind in ("names", "pair"):
        return [name.strip() for name in text.split(",") if name.strip()]
    if option.kind == "value":
        return parse_yaml(text)
    return text


def _from_yaml(option: Option, shown: str, value: Any) -> Any:
    if option.kind == "flag":
        if not isinstance(value, bool):
            raise ArgumentError(f"{shown} is true or false, not {value!r}", f"{shown}: true")
        return value
    if option.kind in ("integer", "number"):
        return _number(option, shown, value)
    if option.kind == "choice":
        return _choice(option, shown, value)
    if option.kind in ("names", "pair"):
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ArgumentError(f"{shown} is a list of names, not {value!r}", f"{shown}: [style, tone]")
        return [name.strip() for name in names]
    if option.kind == "schema" and isinstance(value, Mapping):
        return dict(value)
    if option.kind in ("text", "expression", "model", "schema") and not isinstance(value, str):
        raise ArgumentError(f"{shown} is text, not {value!r}", f'put it in quotes: {shown}: "{value}"')
    return value


def _number(option: Option, shown: str, value: Any) -> int | float:
    kind = "whole number" if option.kind == "integer" else "number"
    error = ArgumentError(f"{shown} is a {kind}, not {value!r}", f"{shown} {1 if option.kind == 'integer' else 0.7}")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise error
    try:
        number = int(str(value).replace("_", "")) if option.kind == "integer" else float(value)
    except ValueError:
        raise error from None
    return number


def _choice(option: Option, shown: str, value: Any) -> str:
    if value not in option.choices:
        raise ArgumentError(f"{shown} cannot be {value!r}", nearest(str(value), option.choices, "it is"))
    return str(value)
