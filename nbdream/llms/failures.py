"""What an error means, once for all providers: for this request, for every request, or only for now."""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from nbdream.llms.base import Reply, failure

EVERYONE = frozenset({401, 402, 403, 404, 405})
"""Statuses that every request would meet."""
AGAIN = frozenset({408, 409, 425, 429})
BROKE = re.compile(r"insufficient_quota|billing_(?:not_active|hard_limit_reached|error)|credit balance is too low")
"""What providers say, under several statuses, when an account has no credit left."""
NO_CREDIT = "the account has no credit left"
LATER = "run the cell again: what has arrived is kept"
NO_COMPLETION = "the server's answer is no chat completion"
SLOW = "the server took too long"
BROKEN = "the connection broke off"

Hint = Callable[[int | None], str | None]
"""What to do about a status; None stands for a server that cannot be reached."""


def of_status(status: int, headers: Mapping[str, str], body: bytes, hint: Hint) -> Reply:
    """The failure that an answer with an error status is."""
    said, marks = _said(body)
    message = one_line(said, status)
    if BROKE.search(f"{marks} {said}"):
        return failure("all", message, status, hint=NO_CREDIT)
    if status in EVERYONE:
        return failure("all", message, status, hint=hint(status))
    if 300 <= status < 400:
        where = headers.get("location") or headers.get("Location") or "another address"
        return failure("all", f"the server sends on to {where} (HTTP {status})", status, hint="give that address as base_url")
    transient = status in AGAIN or status >= 500
    told = headers.get("x-should-retry")
    if told in ("true", "false"):
        transient = told == "true"
    if not transient:
        return failure("row", message, status)
    return failure("transient", message, status, retry_after=retry_after(headers), hint=LATER)


def no_completion(hint: str, status: int | None = None) -> Reply:
    """An answer that is no reply at all: cut off, not JSON, or of another kind of server."""
    return failure("transient", NO_COMPLETION, status, no_completion=True, hint=hint)


def unreachable(hint: Hint) -> Reply:
    """No connection was made."""
    return failure("transient", "the server cannot be reached", None, unreachable=True, hint=hint(None))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, however it says so."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) * scale)
        except ValueError:
            parsed = email.utils.parsedate_tz(value)
            if parsed is not None:
                return max(0.0, email.utils.mktime_tz(parsed) - time.time())
    return None


def one_line(text: str, status: int) -> str:
    """A server's message in one line of bearable length."""
    flat = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)).strip()[:300]
    return f"{flat} (HTTP {status})" if flat else f"HTTP {status}"


def _said(body: bytes) -> tuple[str, str]:
    """A server's message, and the marks (code, type) that it gives it."""
    text = body[:100_000].decode("utf-8", "replace")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return text, ""
    inner: Any = told.get("error", told) if isinstance(told, Mapping) else told
    if not isinstance(inner, Mapping):
        return inner if isinstance(inner, str) else text, ""
    said = inner.get("message", inner.get("detail"))
    return said if isinstance(said, str) else text, f"{inner.get('code')} {inner.get('type')}"
