"""YAML as a cell writes it: version 1.2's core types, mappings only, no tags; and the front matter of a body."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, ClassVar

from nbdream.errors import ArgumentError

if TYPE_CHECKING:
    from yaml.nodes import Node

MOST_NODES = 100_000
"""Values that a text may give at most, aliases expanded."""

_HINTS = (
    ("mapping values are not allowed", "quote a text that has ': ' in it"),
    ("found character '\\t'", "indent with spaces"),
    ("that cannot start any token", "quote a text that begins with a special character"),
    ("expected the node content", "quote a text that begins with a special character"),
    ("could not find expected ':'", "one `key: value` a line"),
    ("while scanning a quoted scalar", "close the quotes"),
    ("found unexpected end of stream", "close the quotes"),
    ("found unhashable key", "quote a text that has braces"),
    ("expected ',' or", "quote a text that has braces"),
)


def split_body(body: str, first_line: int = 1) -> tuple[dict[str, Any], str]:
    """The front matter of ``body`` and what comes after it; ``first_line`` is the number that messages give the first line.

    There is front matter only if the first line is ``---``; then a second ``---`` must end it.
    """
    lines = body.split("\n")
    if lines[0].rstrip() != "---":
        return {}, body
    end = next((number for number, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if end is None:
        raise ArgumentError(f"line {first_line}: the front matter is not closed", "end it with a line `---`")
    return _mapping("\n".join(lines[1:end]), first_line + 1), "\n".join(lines[end + 1 :])


def parse_yaml(text: str, first_line: int = 1) -> Any:
    """The value that ``text`` writes in YAML, None when it writes none; `ArgumentError` in one line, with the line's number."""
    import yaml

    loader = _loader()(text.replace("\r\n", "\n")) if _is_readable(text) else None
    if loader is None:
        at = next(number for number, line in enumerate(text.split("\n")) if not _is_readable(line))
        raise ArgumentError(f"line {first_line + at}: a control character", "delete it, or write it as \\x.. in double quotes")
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, first_line)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _wrong(first_line + (mark.line if mark else 0), str(error.problem or error.context), str(error.context or "")) from None
    except RecursionError:
        raise ArgumentError(f"line {first_line}: nested too deeply") from None


def _mapping(text: str, first_line: int) -> dict[str, Any]:
    value = parse_yaml(text, first_line)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ArgumentError(f"line {first_line}: not a mapping", "one `key: value` a line")
    for key in value:
        if not isinstance(key, str):
            raise ArgumentError(f"line {first_line}: the key {key!r} is not a name", "quote it")
    return value


def _is_readable(text: str) -> bool:
    """Whether ``text`` has only characters that YAML allows."""
    return not re.search("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)


def _wrong(line: int, problem: str, context: str = "") -> ArgumentError:
    said = f"{problem} {context}"
    return ArgumentError(f"line {line}: {problem}", next((hint for sign, hint in _HINTS if sign in said), "one `key: value` a line"))


def _check(top: Node, first_line: int) -> None:
    """Refuse what aliases make: a node that contains itself, more values than anybody writes."""
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if id(node) in sizes:
            if sizes[id(node)] < 0:
                raise _wrong(first_line + node.start_mark.line, "an alias inside of what it stands for")
            return sizes[id(node)]
        sizes[id(node)] = -1
        parts = node.value if isinstance(node.value, list) else ()
        total = 1 + sum(sum(map(size, part)) if isinstance(part, tuple) else size(part) for part in parts)
        if total > MOST_NODES:
            raise _wrong(first_line + node.start_mark.line, f"more than {MOST_NODES:,} values")
        sizes[id(node)] = total
        return total

    size(top)


@functools.lru_cache(maxsize=1)
def _loader() -> Any:
    """PyYAML's safe loader with the core types of YAML 1.2 in place of those of 1.1."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()
            if getattr(event, "tag", None) is not None:
                raise yaml.MarkedYAMLError(problem=f"the tag {event.tag} is not allowed", problem_mark=event.start_mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            found: dict[Any, Any] = {}
            for key_node, value_node in node.value:
                key = self.construct_object(key_node, deep=True)
                if isinstance(key, (list, dict)):
                    raise yaml.MarkedYAMLError(problem="found unhashable key", problem_mark=key_node.start_mark)
                if key in found:
                    raise yaml.MarkedYAMLError(problem=f"{key!r} is given twice", problem_mark=key_node.start_mark)
                found[key] = self.construct_object(value_node, deep=True)
            return found

        def construct_mapping_node(self, node: Any) -> Any:
            return self.construct_mapping(node, deep=True)

        def construct_whole(self, node: Any) -> int:
            text = node.value
            try:
                return int(text[2:], {"o": 8, "x": 16}[text[1]]) if text[1:2] in ("o", "x") else int(text)
            except ValueError:
                raise yaml.MarkedYAMLError(problem="a number of too many digits", problem_mark=node.start_mark) from None

        def construct_number(self, node: Any) -> float:
            return float(re.sub(r"\.(inf|nan)$", r"\1", node.value.lower()))

    tag = "tag:yaml.org,2002:"
    for name, pattern, first in _CORE:
        Loader.add_implicit_resolver(tag + name, re.compile(rf"\A(?:{pattern})\Z"), list(first))
    Loader.add_constructor(tag + "int", Loader.construct_whole)
    Loader.add_constructor(tag + "float", Loader.construct_number)
    Loader.add_constructor(tag + "map", Loader.construct_mapping_node)
    return Loader


_CORE = (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.0123456789"),
)
"""The core schema of YAML 1.2: tag, pattern, and the characters with which it can begin."""
