"""A JSON schema as providers take it that hold a model to it: a strict copy.

Strict is: an object has exactly the properties that are named, each of them there, and nothing is left open. What a provider cannot hold a
model to (a length, a pattern) goes into the description, where the model reads it; the reply is checked against the schema itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

TEXT_FORMATS = frozenset({"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uuid"})
NOTES = frozenset({"$comment", "$id", "$schema", "default", "deprecated", "discriminator", "examples", "readOnly", "writeOnly"})
"""What says nothing about a reply."""
OPEN = ("dependentSchemas", "if", "not", "patternProperties", "prefixItems", "propertyNames", "unevaluatedProperties")
"""What no strict schema can say."""


class NotStrictError(ValueError):
    """A schema that leaves something open."""


def name_of(schema: Mapping[str, Any]) -> str:
    """What a schema is called on the wire."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", str(schema.get("title") or "")).strip("_")[:64] or "reply"


def strict(schema: Mapping[str, Any], limits: frozenset[str] = frozenset()) -> dict[str, Any] | None:
    """A strict copy of ``schema``, None where there is none. ``limits``: the keywords on values that the provider holds a model to."""
    try:
        root = dict(schema)
        for _ in range(len(schema.get("$defs") or ())):
            if "$ref" not in root:
                break
            root = {**_definition(schema, root["$ref"]), **{name: schema[name] for name in ("$defs", "title") if name in schema}}
        made = _strict(root, limits)
    except (NotStrictError, RecursionError):
        return None
    return made if made.get("type") == "object" else None


def _definition(schema: Mapping[str, Any], ref: Any) -> Mapping[str, Any]:
    found = schema.get("$defs", {}).get(str(ref).removeprefix("#/$defs/"))
    if not isinstance(found, Mapping):
        raise NotStrictError(f"{ref} is nowhere")
    return found


def _strict(node: Any, limits: frozenset[str]) -> dict[str, Any]:
    if not isinstance(node, Mapping) or any(name in node for name in OPEN):
        raise NotStrictError("anything goes")
    left = {name: value for name, value in node.items() if name not in NOTES}
    if isinstance(left.get("allOf"), list) and len(left["allOf"]) == 1:
        left |= dict(left.pop("allOf")[0])
    made: dict[str, Any] = {}
    if isinstance(left.get("$defs"), Mapping):
        made["$defs"] = {name: _strict(part, limits) for name, part in left.pop("$defs").items()}
    if "$ref" in left:
        if not str(left["$ref"]).startswith("#"):
            raise NotStrictError("it is elsewhere")
        return {**made, "$ref": left["$ref"]}
    for name in ("title", "description"):
        if isinstance(left.get(name), str):
            made[name] = left.pop(name)
    made |= _shape(left, limits)
    if left:  # what the provider does not know, the model may
        told = ", ".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in left.items())
        made["description"] = f"{made['description']} ({told})" if made.get("description") else told
    return made


def _shape(left: dict[str, Any], limits: frozenset[str]) -> dict[str, Any]:
    """The part of a strict copy that says which values there are; it is taken out of ``left``."""
    several = left.pop("anyOf", None) or left.pop("oneOf", None)
    if "allOf" in left or (several and set(left) & {"const", "enum", "items", "properties"}):
        raise NotStrictError("several schemas at once")
    if several:
        left.pop("type", None)
        return {"anyOf": [_strict(part, limits) for part in several]}
    kind = left.pop("type", None) or _kind(left)
    if isinstance(kind, list):
        rest = {name: left.pop(name) for name in list(left)}
        parts = [{"type": one, **_of_kind(rest, one)} for one in kind]
        return {"anyOf": [_strict(part, limits) for part in parts if part.get("enum") != []]}
    made: dict[str, Any] = {"type": kind}
    if kind == "object":
        made |= _object(left, limits)
    elif kind == "array":
        made["items"] = _strict(left.pop("items", None), limits)
    for name in ("const", "enum", *limits):
        if name in left and (name != "format" or left[name] in TEXT_FORMATS):
            made[name] = left.pop(name)
    return made


def _object(left: dict[str, Any], limits: frozenset[str]) -> dict[str, Any]:
    properties, more = left.pop("properties", None) or {}, left.pop("additionalProperties", None)
    if more or (not properties and more is not False):
        raise NotStrictError("an object of any properties")
    left.pop("required", None)
    return {
        "properties": {name: _strict(part, limits) for name, part in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }


_OF_KIND = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "minItems", "maxItems", "uniqueItems"),
    "string": ("enum", "const", "format", "pattern", "minLength", "maxLength"),
    "number": ("enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


def _of_kind(rest: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What of a schema for several kinds of values is about one of them."""
    names = _OF_KIND.get("number" if kind == "integer" else kind, ())
    chosen = {name: rest[name] for name in names if name in rest}
    if "enum" in chosen:
        chosen["enum"] = [value for value in chosen["enum"] if _is(value, kind)]
    return chosen


def _kind(left: Mapping[str, Any]) -> str | list[str]:
    """The kind of values of a schema that does not say it."""
    for name, kind in (("properties", "object"), ("items", "array")):
        if name in left:
            return kind
    values = left.get("enum") or ([left["const"]] if "const" in left else [])
    kinds = [kind for kind in _TYPES if any(_is(value, kind) for value in values)]
    if not kinds:
        raise NotStrictError("any value")
    return kinds[0] if len(kinds) == 1 else kinds


_TYPES: dict[str, Any] = {"string": str, "boolean": bool, "integer": int, "number": float, "null": type(None)}


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _TYPES.get(kind, ())) and (kind == "boolean" or not isinstance(value, bool))
