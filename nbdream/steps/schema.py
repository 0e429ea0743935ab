"""`Shape`: what a structured answer is to look like, and what is made of one.

A shape comes from a pydantic class, from any type that pydantic knows (``list[Triple]``), or from a JSON schema. The model sees a JSON
schema with an object at its root, since providers want one: a list or a single value is wrapped, and unwrapped when it is read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from nbdream import optional
from nbdream.errors import ArgumentError
from nbdream.fingerprint import function_code
from nbdream.llms.base import Reply, Request
from nbdream.objects import check_column
from nbdream.optional import require
from nbdream.templates import as_json

REPAIRS = 2
"""How often an answer that does not fit is asked for again."""
LONGEST = 1_000_000
"""Characters of an answer that is still read."""
WHOLE = range(-(2**63), 2**63)
SCALARS: dict[str, Callable[[Any], Any]] = {"string": str, "integer": int, "number": float, "boolean": bool}
AGAIN = "This is not valid: {why}. Answer again, with nothing but JSON that fits the schema."

Json = Mapping[str, Any]
Convert = Callable[[Any], Any]


class InvalidAnswerError(ValueError):
    """An answer that does not fit its shape, and why."""


class Shape:
    """The shape of an answer. ``wire`` is the schema that the model sees; ``columns`` are an object's fields, None for a single value."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self.schema = _schema_of(given)
        self._validate = _validator(given, self.schema)
        root = _resolved(self.schema, self.schema)
        self.many = root.get("type") == "array"
        """Whether an answer is a list, whose items become rows."""
        item = _resolved(root.get("items") or {}, self.schema) if self.many else root
        self.columns = list(item["properties"]) if _is_object(item) else None
        for name in self.columns or ():
            check_column(name)
        self._wrapped = None if root.get("type") == "object" else "items" if self.many else "value"
        self._convert = _converter(item, self.schema)

    @property
    def wire(self) -> dict[str, Any]:
        """The JSON schema for the model: an object at the root."""
        if self._wrapped is None:
            return dict(self.schema)
        inner = {name: value for name, value in self.schema.items() if name not in ("$defs", "definitions", "$schema")}
        shared: dict[str, Any] = {name: self.schema[name] for name in ("$defs", "definitions") if name in self.schema}
        return {
            "type": "object", "properties": {self._wrapped: inner}, "required": [self._wrapped], "additionalProperties": False, **shared,
        }  # fmt: skip

    @property
    def form(self) -> Any:
        """What a recipe counts: the schema, and the code of a class of the notebook's, which may check more than its schema says."""
        code = function_code(self._given) if isinstance(self._given, type) else None
        return {"schema": self.schema, "order": self.columns} | ({} if code is None else {"code": code})

    def read(self, text: str | None) -> list[Any]:
        """The values of an answer: one, or those of its list; `InvalidAnswerError` when it does not fit.

        An object is a dict with all of its columns; each column has values of one kind, or their JSON.
        """
        value = _first_json(text or "")
        if self._wrapped is not None and isinstance(value, dict) and list(value) == [self._wrapped]:
            value = value[self._wrapped]
        try:
            value = self._validate(value)
            return [self._convert(part) for part in value] if self.many else [self._convert(value)]
        except RecursionError:
            raise InvalidAnswerError("it is nested too deeply") from None

    def review(self, request: Request, reply: Reply, tries: int) -> Request | None:
        """None for an answer that fits; else the request that asks for it again, or at the end a failure."""
        try:
            self.read(reply.text)
        except InvalidAnswerError as error:
            why = "it was cut off at the most tokens of a reply" if reply.finish_reason == "length" else str(error)
            if tries > REPAIRS:
                reply.error = {"kind": "row", "message": f"no valid answer in {tries} tries: {why}", "status": None}
                return None
            said = ({"role": "assistant", "content": reply.text or ""}, {"role": "user", "content": AGAIN.format(why=why)})
            return dataclasses.replace(request, messages=(*request.messages, *said))
        return None


# --- what is given ------------------------------------------------------------------------------------------------------


def _schema_of(given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping):
        _check_schema(given)
        return dict(given)
    if isinstance(given, str) or given is None:
        raise ArgumentError(f"schema is {given!r}", "give a pydantic class, list[Class], or a JSON schema as a dict")
    pydantic = require("pydantic", "all")
    try:
        made: dict[str, Any] = pydantic.TypeAdapter(given).json_schema()
    except (pydantic.errors.PydanticUserError, TypeError) as error:
        said = str(error).splitlines()[0]
        raise ArgumentError(f"no JSON schema can be made of {given!r}: {said}", "give a pydantic class, list[Class], or a dict") from None
    return made


def _check_schema(schema: Json) -> None:
    jsonschema = optional.jsonschema()
    try:
        jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator).check_schema(schema)
    except jsonschema.SchemaError as error:
        where = "/".join(map(str, error.absolute_path)) or "its root"
        raise ArgumentError(f"the JSON schema is wrong at {where}: {_sentence(error.message)}", "see json-schema.org") from None
    if not {"type", "properties", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"} & set(schema):
        raise ArgumentError("the JSON schema says nothing", 'for example {"type": "object", "properties": {"name": {"type": "string"}}}')


def _validator(given: Any, schema: dict[str, Any]) -> Convert:
    """A function that gives a value as it fits the shape; `InvalidAnswerError` where it does not."""
    if isinstance(given, Mapping):
        jsonschema = optional.jsonschema()
        checker = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)(schema)

        def by_schema(value: Any) -> Any:
            error = jsonschema.exceptions.best_match(checker.iter_errors(value))
            if error is not None:
                raise InvalidAnswerError(f"{_place(error.absolute_path)}{_sentence(error.message)}")
            return value

        return by_schema
    pydantic = require("pydantic", "all")
    adapter = pydantic.TypeAdapter(given)

    def by_class(value: Any) -> Any:
        try:
            return adapter.dump_python(adapter.validate_json(json.dumps(value)), mode="json")
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise InvalidAnswerError(f"{_place(first['loc'])}{_sentence(first['msg'])}") from None
        except Exception as error:  # a validator of the user's: what it says is why the answer does not fit
            raise InvalidAnswerError(_sentence(f"{type(error).__name__}: {error}")) from None

    return by_class


# --- what is read -------------------------------------------------------------------------------------------------------


def _first_json(text: str) -> Any:
    """The JSON of an answer: all of it, or the first object or list in it, past fences and kind words."""
    if len(text) > LONGEST:
        raise InvalidAnswerError(f"it has more than {LONGEST:,} characters")
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    try:
        try:
            value = decoder.decode(text)
        except json.JSONDecodeError as error:
            start = min((place for mark in "{[" if (place := text.find(mark)) >= 0), default=-1)
            if start < 0:
                raise InvalidAnswerError("it holds no JSON") from None
            try:
                value, _ = decoder.raw_decode(text, start)
            except json.JSONDecodeError:
                raise InvalidAnswerError(f"it is no JSON: {error.msg.lower()} at character {error.pos:,}") from None
        _check_storable(value)
    except RecursionError:
        raise InvalidAnswerError("it is nested too deeply") from None
    except InvalidAnswerError:
        raise
    except ValueError as error:  # a number of 4,300 digits
        raise InvalidAnswerError(_sentence(str(error))) from None
    return value


def _no_constant(name: str) -> Any:
    raise InvalidAnswerError(f"{name} is no JSON")


def _check_storable(value: Any) -> None:
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InvalidAnswerError("it holds half a character") from None
    elif isinstance(value, int) and value not in WHOLE:
        raise InvalidAnswerError("a number in it has more than 64 bits")
    elif isinstance(value, dict):
        for name, part in value.items():
            _check_storable(name)
            _check_storable(part)
    elif isinstance(value, list):
        for part in value:
            _check_storable(part)


# --- what becomes of it -------------------------------------------------------------------------------------------------


def _resolved(schema: Any, root: Json) -> dict[str, Any]:
    """A schema, with a reference into ``root`` followed."""
    for _ in range(20):
        target = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(target, str) or not target.startswith("#/"):
            break
        found: Any = root
        for step in target[2:].split("/"):
            found = found.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(found, Mapping) else {}
        schema = found
    return dict(schema) if isinstance(schema, Mapping) else {}


def _is_object(schema: Json) -> bool:
    return schema.get("type", "object") == "object" and isinstance(schema.get("properties"), Mapping) and bool(schema["properties"])


def _converter(schema: Json, root: Json, depth: int = 0) -> Convert:
    """What gives values of one kind for a column: themselves where the schema says which kind, else their JSON."""
    schema = _resolved(schema, root)
    choices = [part for part in schema.get("anyOf") or () if part.get("type") != "null"] if "anyOf" in schema else []
    if len(choices) == 1:
        return _nullable(_converter(choices[0], root, depth))
    kind = schema.get("type")
    if isinstance(kind, list) and len(named := [name for name in kind if name != "null"]) == 1:
        kind = named[0]
    members = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if kind is None and members and all(isinstance(member, str) for member in members):
        kind = "string"
    if kind in SCALARS:
        return _nullable(SCALARS[str(kind)])
    if kind == "array" and depth < 8 and isinstance(schema.get("items"), Mapping):
        inner = _converter(schema["items"], root, depth + 1)
        return _nullable(lambda values: [inner(value) for value in values])
    if _is_object({**schema, "type": kind or "object"}) and depth < 8:
        fields = {name: _converter(part, root, depth + 1) for name, part in schema["properties"].items()}
        return _nullable(lambda value: {name: convert(value.get(name)) for name, convert in fields.items()})
    return _nullable(as_json)


def _nullable(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


def _place(path: Any) -> str:
    steps = "/".join(map(str, path))
    return f"{steps}: " if steps else ""


def _sentence(text: str) -> str:
    return " ".join(text.split())[:300].rstrip(".")
