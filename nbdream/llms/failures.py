"""What an error means, once for all providers: for this request, for every request, or only for now."""

from __future__ import annotations

import email.utils
import functools
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from nbdream.llms.base import Reply, failure
from nbdream.optional import require

EVERYONE = frozenset({401, 402, 403, 404, 405})
"""Statuses that every request would meet."""
AGAIN = frozenset({408, 409, 425, 429})
NO_MONEY = re.compile(
    r"insufficient_quota|billing_\w+|credit_balance_exhausted|organization_on_hold|[a-z]+_(?:spend|usage)_limit_(?:exceeded|reached)"
)
"""The marks of an account that may ask for nothing more, under several statuses."""
NO_MONEY_SAID = re.compile(r"Your credit balance is too low|You have reached your specified (?:workspace )?API usage limits")
"""The beginnings of messages that say so without a mark."""
NO_CREDIT = "the account has no credit left"
LATER = "run the cell again: what has arrived is kept"
NO_COMPLETION = "the server's answer is no chat completion"
SLOW = "the server took too long"
BROKEN = "the connection broke off"
LONGEST_WAIT = 24 * 3600.0
"""Seconds: a date further away than this is a clock that is wrong."""

Hint = Callable[[int | None], str | None]
"""What to do about a status; None stands for a server that cannot be reached."""


class TooLongError(Exception):
    """An answer without end."""


def of_status(status: int, headers: Mapping[str, str], body: bytes, hint: Hint) -> Reply:
    """The failure that an answer with an error status is."""
    said, marks = _said(body)
    message = one_line(said, status)
    if any(NO_MONEY.fullmatch(mark) for mark in marks) or NO_MONEY_SAID.match(said):
        return failure("all", message, status, hint=NO_CREDIT)
    if status in EVERYONE:
        return failure("all", message, status, hint=hint(status))
    if status < 400:
        where = one_line(headers.get("location") or "another address", status)
        return failure("all", f"the server sends on to {where}", status, hint="give the right address as base_url")
    transient = status in AGAIN or status >= 500
    told = headers.get("x-should-retry")
    if told in ("true", "false"):
        transient = told == "true"
    if not transient:
        return failure("row", message, status)
    return failure("transient", message, status, retry_after=retry_after(headers), hint=LATER)


def of_exception(error: BaseException, hint: Hint) -> Reply:
    """The failure that is no answer at all: a connection that was not made, broke, or timed out."""
    aiohttp = _aiohttp()
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return failure("all", "the server's certificate is not to be trusted", hint="a proxy's own authority goes into SSL_CERT_FILE")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return failure("transient", f"the proxy refuses (HTTP {error.status})", error.status, unreachable=True, hint="see HTTPS_PROXY")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return unreachable(hint)
    if isinstance(error, TimeoutError):
        return failure("transient", SLOW, hint=LATER)
    if isinstance(error, TooLongError):
        return failure("transient", str(error))
    return failure("transient", BROKEN, hint=LATER)


@functools.cache
def exceptions() -> tuple[type[BaseException], ...]:
    """What sending raises and `of_exception` understands."""
    return (_aiohttp().ClientError, TooLongError, TimeoutError, OSError)


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
            then = _date(value)
            if then is not None:
                # By the server's own clock where it tells the time: ours may be wrong, or jump.
                wait = then - (_date(headers.get("date", "")) or time.time())
                return max(0.0, wait) if wait < LONGEST_WAIT else None
    return None


def one_line(text: str, status: int) -> str:
    """A server's message in one line of bearable length."""
    flat = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)).strip()[:300]
    return f"{flat} (HTTP {status})" if flat else f"HTTP {status}"


def _date(text: str) -> float | None:
    parsed = email.utils.parsedate_tz(text)
    return None if parsed is None else float(email.utils.mktime_tz(parsed))


def _said(body: bytes) -> tuple[str, list[str]]:
    """A server's message, and the marks (code, type) that it gives it."""
    text = body[:100_000].decode("utf-8", "replace")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return text, []
    inner: Any = told.get("error", told) if isinstance(told, Mapping) else told
    if not isinstance(inner, Mapping):
        return inner if isinstance(inner, str) else text, []
    said, details = inner.get("message", inner.get("detail")), inner.get("details")
    marks = [inner.get("code"), inner.get("type"), details.get("error_code") if isinstance(details, Mapping) else None]
    return said if isinstance(said, str) else text, [mark for mark in marks if isinstance(mark, str)]


@functools.cache
def _aiohttp() -> Any:
    return require("aiohttp", "all")
