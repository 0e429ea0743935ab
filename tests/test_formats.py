"""Strict copies of JSON schemas: what a provider can hold a model to, and what it cannot."""

from __future__ import annotations

from typing import Any, Literal

import jsonschema
import pydantic
import pytest

from nbdream.llms.formats import name_of, strict

LIMITS = frozenset({"format", "minimum", "maxItems"})


def objects(schema: Any) -> list[dict[str, Any]]:
    """All schemas of objects in a schema."""
    parts = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else []
    own = [schema] if isinstance(schema, dict) and schema.get("type") == "object" else []
    return own + [found for part in parts for found in objects(part)]


class Part(pydantic.BaseModel):
    name: str = pydantic.Field(description="What it is called", min_length=2)
    count: int | None = None
    of: list[Part] = []


class Machine(pydantic.BaseModel):
    first: Part
    kind: Literal["a", "b"] | None = "a"
    weights: list[float] = pydantic.Field(default=[1.0], max_length=3)
    shape: Part | int = pydantic.Field(description="either")


def test_a_strict_copy_closes_every_object() -> None:
    schema = Machine.model_json_schema()
    copy = strict(schema, LIMITS)
    assert copy is not None
    jsonschema.Draft202012Validator.check_schema(copy)
    assert len(objects(copy)) == 2
    for part in objects(copy):
        assert part["additionalProperties"] is False
        assert part["required"] == list(part["properties"])
    assert copy["properties"]["weights"]["maxItems"] == 3
    assert "default" not in str(copy)


def test_what_fits_the_copy_fits_the_schema() -> None:
    reply = {"first": {"name": "wheel", "count": None, "of": []}, "kind": None, "weights": [1.5], "shape": 3}
    schema = Machine.model_json_schema()
    jsonschema.validate(reply, strict(schema, LIMITS) or {})
    jsonschema.validate(reply, schema)
    assert Machine.model_validate(reply).first.name == "wheel"


def test_what_cannot_be_held_is_told() -> None:
    name = (strict(Part.model_json_schema(), LIMITS) or {})["$defs"]["Part"]["properties"]["name"]
    assert name == {"type": "string", "title": "Name", "description": "What it is called (minLength: 2)"}
    when = {"type": "object", "properties": {"at": {"type": "string", "format": "date"}, "uri": {"type": "string", "format": "uri"}}}
    assert (strict(when, LIMITS) or {})["properties"] == {
        "at": {"type": "string", "format": "date"},
        "uri": {"type": "string", "description": 'format: "uri"'},
    }
    assert (strict(when) or {})["properties"]["at"] == {"type": "string", "description": 'format: "date"'}


def one(schema: Any) -> Any:
    """The strict copy of one property's schema."""
    copy = strict({"type": "object", "properties": {"one": schema}}, LIMITS)
    return copy and copy["properties"]["one"]


@pytest.mark.parametrize(
    ("schema", "copy"),
    [
        ({"enum": ["a", "b"]}, {"type": "string", "enum": ["a", "b"]}),
        ({"const": True}, {"type": "boolean", "const": True}),
        ({"enum": ["a", None]}, {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]}),
        ({"type": ["integer", "null"], "minimum": 1}, {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"allOf": [{"$ref": "#/$defs/X"}], "description": "d"}, {"$ref": "#/$defs/X"}),
        ({"items": {"type": "string"}}, {"type": "array", "items": {"type": "string"}}),
        ({"type": "object", "properties": {}, "additionalProperties": False}, {
            "type": "object", "properties": {}, "required": [], "additionalProperties": False,
        }),
        ({"type": "integer", "exclusiveMaximum": 9, "title": "T"}, {"type": "integer", "title": "T", "description": "exclusiveMaximum: 9"}),
    ],
)  # fmt: skip
def test_a_property(schema: dict[str, Any], copy: dict[str, Any]) -> None:
    assert one(schema) == copy


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"type": "object"},
        {"type": "array"},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": True},
        {"type": "array", "prefixItems": [{"type": "string"}]},
        {"allOf": [{"type": "string"}, {"minLength": 2}]},
        {"type": "object", "properties": {"a": {"type": "string"}}, "anyOf": [{"required": ["a"]}]},
        {"not": {"type": "string"}},
        {"$ref": "http://elsewhere.invalid/x"},
        {"patternProperties": {"^a": {"type": "string"}}},
    ],
)
def test_what_leaves_something_open_has_no_strict_copy(schema: Any) -> None:
    assert one(schema) is None


@pytest.mark.parametrize(
    "schema", [{"type": "array", "items": {"type": "string"}}, {"type": "string"}, {"$ref": "#/$defs/X", "$defs": {}}, {}]
)
def test_a_reply_is_an_object(schema: dict[str, Any]) -> None:
    assert strict(schema) is None


def test_a_schema_that_is_a_name_is_what_it_names() -> None:
    copy = strict({"$ref": "#/$defs/Node", "$defs": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}}})
    assert copy is not None
    assert copy["type"] == "object"
    assert copy["$defs"]["Node"]["properties"] == copy["properties"] == {"next": {"$ref": "#/$defs/Node"}}


def test_names() -> None:
    assert name_of({"title": "Ein schöner Name!"}) == "Ein_sch_ner_Name"
    assert name_of({"title": "ä"}) == name_of({}) == "reply"
    assert len(name_of({"title": "x" * 99})) == 64
