"""A value or a function → canonical JSON → sha256.

The *form* of a value is JSON that says all of its content and nothing else: equal content gives the same form in every
process and on every Python from 3.11 on. Text, whole numbers, floats, booleans, None, lists and dicts with text keys stand for
themselves (a tuple counts as a list, the order of a dict does not count); anything else is an object with a ``$`` that says what
it is. What lies under ``$shown`` (a function's name and source) is kept for words and is not hashed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import json
import math
import os
import pathlib
import re
import types
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nbdream import code, foreign
from nbdream.difference import difference, with_article
from nbdream.errors import FingerprintError

__all__ = [
    "Tagged", "canonical", "canonical_json", "difference", "digest", "form_digest", "form_json", "function_code",
    "path_digest",
]  # fmt: skip

Form = Any
"""JSON: None, bool, int, float, str, list or dict of forms."""

HINT = "say yourself what counts: version='1', and another one when it changes"
LONG_CAPTURE = 4000
"""A captured value whose form is longer than this many characters is kept as its digest."""

_OF_CODE = frozenset(("function", "class", "module", "method", "partial", "cached", "property", "schema", "staticmethod", "classmethod"))
"""Forms that are kept whole however long, so that a change deep inside can be told in words."""

form_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"), check_circular=False)


class Tagged(dict[str, Any]):
    """A form that is not plain JSON data: ``$`` says what it stands for. Walked again, it stays as it is."""


def canonical(value: object) -> Form:
    """The form of ``value``; `FingerprintError` names the part of it that has none."""
    return Walk().value(value)


def canonical_json(value: object) -> str:
    """The text that is hashed for ``value``: one line of JSON, keys sorted, valid UTF-8."""
    return form_json(canonical(value))


def digest(value: object) -> str:
    """The sha256 of the canonical JSON of ``value``, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def form_json(form: Form) -> str:
    """The text that is hashed for a form made by `canonical`, also when it was read back from a file."""
    return form_encoder.encode(_hashed(form))


def form_digest(form: Form) -> str:
    """The sha256 of a form made by `canonical`, also when it was read back from a file."""
    return hashlib.sha256(form_json(form).encode()).hexdigest()


def function_code(function: object, version: str | int | None = None) -> dict[str, Any]:
    """The form of a function's or class's code with all it captures; with ``version``, of that version instead."""
    name = getattr(function, "__name__", type(function).__name__)
    if version is not None:
        return Tagged({"$": "code", "version": str(version), "$shown": {"name": name}})
    form: dict[str, Any] = Walk(name).value(function)
    return form


def path_digest(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file's bytes, or of a folder's files with their relative names."""
    top = pathlib.Path(path)
    if not top.is_dir():
        with top.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted((found.relative_to(top).as_posix(), found) for found in top.rglob("*") if found.is_file())
    return digest({"folder": [[name, path_digest(found)] for name, found in files]})


def _hashed(form: Form) -> Form:
    """``form`` without what is only shown."""
    if isinstance(form, dict):
        return {key: _hashed(part) for key, part in form.items() if key != "$shown"}
    if isinstance(form, list):
        return [_hashed(part) for part in form]
    return form


class Walk:
    """One walk over a value: knows where it is, what it is inside of, and which functions it has met."""

    def __init__(self, name: str = "") -> None:
        self._path = [name] if name else []
        self._open: dict[int, object] = {}
        self._met: dict[int, tuple[int, object]] = {}

    def value(self, value: Any) -> Form:
        """The form of ``value``."""
        simple = _SIMPLE.get(type(value))
        if simple is not None:
            return simple(value)
        try:
            return self._structure(value)
        except RecursionError:
            raise FingerprintError(f"{self.where()}: nested too deeply", HINT) from None

    def part(self, name: str, value: object) -> Form:
        """The form of a part of the value, called ``name`` in messages."""
        self._path.append(name)
        try:
            return self.value(value)
        finally:
            self._path.pop()

    def parts(self, values: Mapping[str, Any], prefix: str = "") -> dict[str, Form]:
        """The forms of named parts, in the order of their names."""
        return {key: self.part(prefix + _step(key), values[key]) for key in sorted(values)}

    def capture(self, name: str, value: object) -> Form:
        """The form of a value that code captures; a long one is kept as its digest."""
        form = self.part(name, value)
        if not isinstance(form, (str, list, dict)) or (isinstance(form, dict) and form.get("$") in _OF_CODE):
            return form
        text = form_json(form)
        if len(text) <= LONG_CAPTURE:
            return form
        return Tagged({"$": "long", "type": type(value).__name__, "length": len(form), "sha256": hashlib.sha256(text.encode()).hexdigest()})

    def where(self) -> str:
        """The path to the part that is being walked."""
        return "".join(self._path).lstrip(".") or "the value"

    def refuse(self, value: object, why: str = "its content cannot be told") -> FingerprintError:
        """The error for a part without a form."""
        kind = type(value)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.lstrip('_')}.{kind.__name__}"
        return FingerprintError(f"{self.where()}: {with_article(name)}: {why}", HINT)

    @contextlib.contextmanager
    def inside(self, value: object) -> Iterator[None]:
        """Refuse to walk into what we are already inside of."""
        if id(value) in self._open:
            raise self.refuse(value, "it contains itself")
        self._open[id(value)] = value
        try:
            yield
        finally:
            del self._open[id(value)]

    def once(self, value: object, form: Callable[[], Form]) -> Form:
        """The form of a function, class or module the first time; later its ordinal in this walk."""
        met = self._met.get(id(value))
        if met is not None:
            return Tagged({"$": "above", "ordinal": met[0]})
        self._met[id(value)] = (len(self._met), value)
        return form()

    def apart(self, values: Iterable[object], name: str) -> list[Form]:
        """Forms of values without an order, sorted by their text."""
        forms = []
        for value in values:
            walk = Walk("".join(self._path) + name)
            walk._open = dict(self._open)
            forms.append(walk.value(value))
        return sorted(forms, key=form_json)

    def _structure(self, value: Any) -> Form:
        if isinstance(value, Tagged):
            return value
        own = self._own_form(value)
        if own is not None:
            return own
        if isinstance(value, enum.Enum):
            return Tagged({"$": "enum", "type": type(value).__name__, "name": value.name, "value": self.part(".value", value.value)})
        for kinds, form in _KINDS:
            if isinstance(value, kinds):
                return form(self, value)
        if foreign.is_number(value):
            return self.value(value.item())
        found = foreign.form(value, self) or code.form(value, self)
        if found is not None:
            return Tagged(found)
        with self.inside(value):
            if dataclasses.is_dataclass(value):
                return Tagged(_dataclass(self, value))
            return Tagged(foreign.state(value, self))

    def _own_form(self, value: Any) -> Form | None:
        """The form that an object says it has: ``__nbdream_fingerprint__``, or the ``identity`` of a model."""
        if isinstance(value, (type, types.ModuleType, types.FunctionType)) or type(value).__module__ == "builtins":
            return None
        own = getattr(value, "__nbdream_fingerprint__", None)
        if own is not None:
            said = own() if callable(own) else own
            return Tagged({"$": "object", "type": type(value).__name__, "value": self.part("", said)})
        identity = getattr(value, "identity", None)
        if isinstance(identity, dict):
            return Tagged({"$": "model", "identity": self.part(".identity", identity)})
        return None


def is_plain_key(key: object) -> bool:
    """Whether a dict's key can be a key of its form."""
    return type(key) is str and not key.startswith("$") and type(_text(key)) is str


def _step(key: str) -> str:
    return f".{key}" if key.isidentifier() else f"[{key!r}]"


def _text(value: str) -> Form:
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:  # lone surrogates: no file can hold them as they are
        return Tagged({"$": "text", "escaped": value.encode("ascii", "backslashreplace").decode()})
    return value


def _whole(value: int) -> Form:
    return int(value) if value.bit_length() < 10_000 else Tagged({"$": "int", "hex": hex(value)})


def _number(value: float) -> Form:
    return float(value) if math.isfinite(value) else Tagged({"$": "float", "value": repr(float(value))})


def _bytes(value: bytes | bytearray | memoryview) -> Form:
    return Tagged({"$": "bytes", "length": memoryview(value).nbytes, "sha256": hashlib.sha256(value).hexdigest()})


def _said(kind: str) -> Callable[[Walk, Any], Form]:
    return lambda walk, value: Tagged({"$": kind, "value": _text(str(value))})


def _iso(kind: str) -> Callable[[Walk, Any], Form]:
    return lambda walk, value: Tagged({"$": kind, "value": value.isoformat()})


def _list(walk: Walk, value: list[Any] | tuple[Any, ...]) -> Form:
    if hasattr(value, "_fields"):
        return Tagged({"$": "namedtuple", "type": type(value).__name__, "fields": walk.parts(dict(zip(value._fields, value, strict=True)))})
    with walk.inside(value):
        return [walk.part(f"[{index}]", item) for index, item in enumerate(value)]


def _dict(walk: Walk, value: Mapping[Any, Any]) -> Form:
    with walk.inside(value):
        if all(map(is_plain_key, value)):
            return walk.parts(value)
        keys = sorted(((Walk(walk.where()).value(key), key) for key in value), key=lambda pair: form_json(pair[0]))
        return Tagged({"$": "dict", "items": [[form, walk.part(f"[{key!r}]", value[key])] for form, key in keys]})


def _set(walk: Walk, value: set[Any] | frozenset[Any]) -> Form:
    with walk.inside(value):
        return Tagged({"$": "set", "items": walk.apart(value, "{}")})


def _sequence(kind: str) -> Callable[[Walk, Any], Form]:
    return lambda walk, value: Tagged({"$": kind, "items": _list(walk, list(value))})


def _dataclass(walk: Walk, value: Any) -> dict[str, Form]:
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if hasattr(value, field.name)}
    return {"$": "dataclass", "type": code.type_form(type(value), walk), "fields": walk.parts(fields)}


def _partial(walk: Walk, value: functools.partial[Any]) -> Form:
    with walk.inside(value):
        form = {"function": walk.part(".func", value.func), "args": walk.part(".args", list(value.args))}
        return Tagged({"$": "partial", **form, "keywords": walk.parts(value.keywords, ".keywords")})


_SIMPLE: dict[type, Callable[[Any], Form]] = {
    type(None): lambda value: None,
    bool: lambda value: value,
    int: _whole,
    float: _number,
    str: _text,
    bytes: _bytes,
}
"""Types that hold no others, by their exact type."""

_KINDS: tuple[tuple[type | tuple[type, ...], Callable[[Walk, Any], Form]], ...] = (
    (str, lambda walk, value: _text(str.__str__(value))),
    (int, lambda walk, value: _whole(int(value))),
    (float, lambda walk, value: _number(float(value))),
    (complex, _said("complex")),
    ((bytes, bytearray, memoryview), lambda walk, value: _bytes(value)),
    ((list, tuple), _list),
    ((dict, types.MappingProxyType), _dict),
    ((set, frozenset), _set),
    (deque, _sequence("deque")),
    (range, lambda walk, value: Tagged({"$": "range", "items": [value.start, value.stop, value.step]})),
    (slice, lambda walk, value: Tagged({"$": "slice", "items": _list(walk, [value.start, value.stop, value.step])})),
    (type(...), lambda walk, value: Tagged({"$": "ellipsis"})),
    (pathlib.PurePath, lambda walk, value: Tagged({"$": "path", "value": _text(value.as_posix())})),
    (datetime.datetime, _iso("datetime")),
    (datetime.date, _iso("date")),
    (datetime.time, _iso("time")),
    (datetime.timedelta, lambda walk, value: Tagged({"$": "timedelta", "items": [value.days, value.seconds, value.microseconds]})),
    (decimal.Decimal, _said("decimal")),
    (fractions.Fraction, _said("fraction")),
    (uuid.UUID, _said("uuid")),
    (re.Pattern, lambda walk, value: Tagged({"$": "pattern", "flags": int(value.flags), "pattern": walk.part(".pattern", value.pattern)})),
    (types.SimpleNamespace, lambda walk, value: Tagged({"$": "namespace", "fields": walk.parts(vars(value))})),
    (functools.partial, _partial),
)
"""Types of the standard library and their subclasses, in the order in which they are tried."""
