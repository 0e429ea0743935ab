"""What others wrote, made harmless for where it goes: one function a place. Nothing here may be skipped because "it is only a name"."""

from __future__ import annotations

import html as html_module
import json
import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from nbdream.files import safe_name

__all__ = ["csv", "fence", "file_name", "front_matter", "html", "link", "markdown", "mermaid", "script_json", "terminal", "visible"]

file_name = safe_name
"""Text as the name of a file."""

_REORDERING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def _stand_in(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return f"\\u{code:04x}" if character in _REORDERING else "\ufffd"


_UNSEEN = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff{_REORDERING}]")


def visible(text: str) -> str:
    """``text`` with what is not seen made visible: control characters, halves of characters, and what reorders a line."""
    return _UNSEEN.sub(lambda found: _stand_in(found[0]), text.replace("\r\n", "\n"))


def html(text: object) -> str:
    """Text for HTML and SVG, in an element or in a quoted attribute."""
    return html_module.escape(visible(str(text)), quote=True)


def markdown(text: object) -> str:
    """Text on one line of Markdown, or in a cell of a table: no markup, no HTML, no line of its own."""
    line = " ".join(visible(str(text)).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_\[\](){}|~$!#@])", r"\\\1", line)
    line = re.sub(r"://", r"&#58;//", line)
    line = re.sub(r"\bwww\.", "www&#46;", line, flags=re.IGNORECASE)
    return re.sub(r"^(\d+(?=\.)|(?=[-+=:]))", r"\1\\", line)


def fence(text: object, language: str = "") -> str:
    """Text as a fenced block of Markdown, within a fence longer than any run of backticks it has."""
    shown = visible(str(text))
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    bar = "`" * max(3, longest + 1)
    return f"{bar}{re.sub(r'[^A-Za-z0-9_+-]', '', language)}\n{shown.rstrip(chr(10))}\n{bar}\n"


def front_matter(fields: Mapping[str, Any]) -> str:
    """The block of YAML at the head of a Markdown file, between its two ``---``."""
    return "---\n" + "".join(_yaml_line(key, value) for key, value in fields.items()) + "---\n"


def _yaml_line(key: str, value: Any) -> str:
    if isinstance(value, (list, tuple)) and value and not any(isinstance(item, (list, tuple, dict)) for item in value):
        return f"{_yaml_key(key)}\n" + "".join(f"- {_yaml(item)}\n" for item in value)
    return f"{_yaml_key(key)} {_yaml(value)}\n"


def _yaml_key(key: object, end: str = "\n") -> str:
    """A key with its colon; a long key is marked as one, since readers look no further than 1,024 characters for the colon."""
    text = _yaml(str(key))
    return f"{text}:" if len(text) < 500 else f"? {text}{end}:"


_PLAIN_YAML = re.compile(r"[A-Za-z][A-Za-z0-9_./]*(?:-[A-Za-z0-9_./]+)*")
_YAML_WORDS = frozenset(("y", "yes", "n", "no", "true", "false", "on", "off", "null", "nan", "inf"))


def _yaml(value: Any) -> str:
    """A value in YAML on one line, read alike by every version of YAML."""
    if isinstance(value, str) and _PLAIN_YAML.fullmatch(value) and value.lower() not in _YAML_WORDS:
        return value
    if isinstance(value, str):
        clean = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in value)
        text = json.dumps(clean, ensure_ascii=False)
        return re.sub(r"[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_yaml_key(key, ' ')} {_yaml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return {"inf": ".inf", "-inf": "-.inf"}.get(repr(value), ".nan")
    return _yaml(str(value)) if not isinstance(value, (bool, int, float, type(None))) else json.dumps(value)


def mermaid(text: object) -> str:
    """Text for a label of a Mermaid diagram; it goes between double quotes."""
    line = " ".join(visible(str(text)).split())[:200]
    return "".join(c if c.isalnum() or c in " .,-_/:" else f"#{ord(c)};" for c in line).replace("://", "#58;//")


def csv(value: object) -> object:
    """A value for a cell of a CSV file: text that a spreadsheet would run as a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    text = re.sub(r"[\x00\ud800-\udfff]", "\ufffd", value)
    begins = text.lstrip()[:1] in tuple("=+-@|%＝＋－＠") and text.lstrip() != ""
    return f"'{text}" if (begins or text[:1] in ("\t", "\r", "\n")) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", text) is not None


def terminal(text: object) -> str:
    """Text for a terminal or a log: no escape sequence works, lines stay lines."""
    return visible(str(text))


def script_json(value: Any, indent: int | None = None) -> str:
    """JSON that can stand inside a ``<script>`` element, JSON-LD included; what is no number there becomes null."""
    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, indent=indent)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, Mapping):
        return {_finite(str(key)): _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, (list, tuple)) else value


def link(url: object) -> str | None:
    """A web address that can be linked to, percent-encoded; None for anything else, ``javascript:`` among it."""
    try:
        parts = urlsplit(str(url).strip())
        host = parts.hostname
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or _UNSEEN.search(str(url)):
        return None
    try:
        return quote(str(url).strip(), safe="%/:=?#@+,;~.-_")
    except UnicodeEncodeError:
        return None
