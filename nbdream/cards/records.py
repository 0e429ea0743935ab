"""The record sets of Croissant: one for each split, with a field for each column, and the fields within it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.types as kinds

from nbdream.cards.linked import sha256

Node = dict[str, Any]
SPLITS = "split-names"
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_NUMBERS = {
    "int8": "cr:Int8", "int16": "cr:Int16", "int32": "cr:Int32", "int64": "cr:Int64", "uint8": "cr:UInt8", "uint16": "cr:UInt16",
    "uint32": "cr:UInt32", "uint64": "cr:UInt64", "halffloat": "cr:Float16", "float": "cr:Float32", "double": "cr:Float64",
    "bool": "sc:Boolean",
}  # fmt: skip


class Rows(Protocol):
    """A split: its types, how many rows it has, and the paths of its files."""

    @property
    def rows(self) -> int:
        """How many rows there are."""

    @property
    def schema(self) -> pa.Schema:
        """The type of each column."""

    @property
    def paths(self) -> Sequence[str]:
        """The files."""


def record_sets(splits: Mapping[str, Rows], about: Callable[[str, str], Node]) -> list[Node]:
    """A record set for each split, and one of their names; ``about`` gives what more is said of a split's column."""
    names: Node = {
        "@type": "cr:RecordSet",
        "@id": SPLITS,
        "name": SPLITS,
        "description": "The splits of the dataset.",
        "dataType": "cr:Split",
        "key": {"@id": f"{SPLITS}/name"},
        "field": [{"@type": "cr:Field", "@id": f"{SPLITS}/name", "name": "name", "dataType": "sc:Text"}],
        "data": [{f"{SPLITS}/name": name} for name in splits],
    }
    return [names, *(_record_set(name, split, about) for name, split in splits.items())]


def word(name: str) -> str:
    """A name as a part of an id: as it is where it is a plain word, else its digest."""
    return name if _WORD.fullmatch(name) else f"id-{sha256(name)[:16]}"


def _record_set(name: str, split: Rows, about: Callable[[str, str], Node]) -> Node:
    where = {"fileSet": {"@id": f"{word(name)}-files"}} if len(split.paths) > 1 else {"fileObject": {"@id": split.paths[0]}}
    fields = [_column(f"{word(name)}/{word(field.name)}", field, where, about(name, field.name)) for field in split.schema]
    if "split" not in split.schema.names:
        constant = {"@id": f"{word(name)}/split", "name": "split", "dataType": ["sc:Text", "cr:Split"], "value": name}
        fields.append({"@type": "cr:Field", **constant})
    return {"@type": "cr:RecordSet", "@id": word(name), "name": name, "description": f"{split.rows:,} rows", "field": fields}


def _column(place: str, field: pa.Field, where: Node, about: Node) -> Node:
    source: Node = {**where, "extract": {"column": field.name}}
    kind, shape = _element(field.type)
    # Of lists of lists, readers find no field; and of a list within a list of structs only the first.
    return {**_field(place, field.name, field.type, source, (), readable=shape.count(",") == 0 or not kinds.is_struct(kind)), **about}


def _field(place: str, name: str, kind: pa.DataType, source: Node, path: tuple[str, ...], readable: bool) -> Node:
    """A field; ``path`` leads to it within its column. What a reader could not find has no source: it is only described."""
    element, shape = _element(kind)
    node: Node = {"@type": "cr:Field", "@id": place, "name": name}
    if shape:
        node |= {"isArray": True, "arrayShape": shape}
    if kinds.is_struct(element) and element.num_fields:
        within = readable and (not shape or not path)
        return node | {
            "subField": [
                _field(f"{place}/{word(child.name)}", child.name, child.type, source, (*path, child.name), within) for child in element
            ]
        }
    node["dataType"] = _data_type(element)
    if not readable:
        return node
    return node | {"source": {**source, "transform": {"jsonPath": "$" + "".join(map(_step, path))}} if path else source}


def _element(kind: pa.DataType) -> tuple[pa.DataType, str]:
    """What lists hold at the bottom, and their shape: ``-1,-1`` for lists of lists."""
    shape: list[str] = []
    while True:
        kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
        if kinds.is_fixed_size_list(kind):
            shape.append(str(kind.list_size))
        elif kinds.is_list(kind) or kinds.is_large_list(kind):
            shape.append("-1")
        else:
            return kind, ",".join(shape)
        kind = kind.value_type


def _data_type(kind: pa.DataType) -> str:
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    if kinds.is_timestamp(kind):
        return "sc:DateTime"
    if kinds.is_date(kind):
        return "sc:Date"
    if kinds.is_time(kind):
        return "sc:Time"
    return "sc:Float" if kinds.is_decimal(kind) else _NUMBERS.get(str(kind), "sc:Text")


def _step(name: str) -> str:
    """One step of a JSONPath, whatever the name holds."""
    return "['" + name.replace("\\", "\\\\").replace("'", "\\'") + "']"
