"""The part of a README that nbdream writes anew at every publish, between two marks; what a person wrote around it stays."""

from __future__ import annotations

import hashlib
import re

_NOTE = "written by nbdream at every publish: your own words above and below stay"


def block(content: str, name: str = "") -> str:
    """``content`` between its marks. They carry its digest, so that no text inside can pass for the end.

    ``name`` tells several blocks of one text apart.
    """
    content = content.strip("\n")
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    return f"<!-- nbdream:begin {digest} {f'({name}) ' if name else ''}{_NOTE} -->\n{content}\n<!-- nbdream:end {digest} -->\n"


def replace(text: str, content: str, name: str = "") -> str:
    """``text`` with its managed part of this ``name`` replaced by ``content``; at the end where there is none."""
    whose = rf"\({re.escape(name)}\)" if name else r"(?!\()"
    begin = re.compile(rf"^<!-- nbdream:begin ([0-9a-f]{{12}}) {whose}[^\n]*-->\n", re.MULTILINE).search(text)
    end = re.compile(rf"^<!-- nbdream:end {begin[1]} -->\n?", re.MULTILINE).search(text, begin.end()) if begin else None
    if begin and end:
        return text[: begin.start()] + block(content, name) + text[end.end() :]
    own = text.rstrip("\n")
    return (own + "\n\n" if own else "") + block(content, name)
