"""`Service`: a model behind a web address.

The provider's official client says where a request goes and with which headers (keys, organisation, Azure's addresses), once; aiohttp
sends them all. The client itself would cost six to ten times the processor time of aiohttp for each call.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import re
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nbdream.errors import ArgumentError
from nbdream.llms import failures
from nbdream.llms.base import LLM, RateLimit, Reply, Request, failure
from nbdream.optional import require

TIMEOUT = 600.0
CONNECTING = 5.0
"""Seconds for a connection to be made."""
LONGEST = 64 * 2**20
"""Bytes of an answer after which it is taken for endless."""
NOT_SENT_ON = frozenset({"accept-encoding", "connection", "content-length", "host", "transfer-encoding"})
"""Headers of the official client that are the sender's own business."""
TELEMETRY = "x-stainless-"

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go, and the headers that go with all of them."""

    url: str
    headers: Mapping[str, str]


class Service(LLM):
    """What all services share: the sending, and the sorting of what goes wrong."""

    path: ClassVar[str]
    """Where the provider's client posts a request to."""
    where: ClassVar[str] = "check base_url"
    """The hint for an answer that is no reply."""
    rate_headers: ClassVar[tuple[str, str, str]]
    """The headers that tell the limit of requests, how many are left, and when all are back."""

    def __init__(self, model_name: str, *, timeout: float | None = None, **options: Any) -> None:
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0):
            raise ArgumentError(f"timeout is {timeout!r}", "it is a number of seconds: 600 by default")
        self.timeout = timeout or TIMEOUT
        super().__init__(model_name, **options)
        # Connections live on one event loop, a model in as many sessions as it likes.
        self._sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = weakref.WeakKeyDictionary()

    # --- what a provider implements -----------------------------------------------------------------------------------

    def client(self, **options: Any) -> Any:
        """The provider's official client, with ``options`` over the model's own."""
        raise NotImplementedError

    def package(self) -> Any:
        """The provider's package; `MissingPackageError` when it is not there."""
        raise NotImplementedError

    def body(self, request: Request) -> dict[str, Any]:
        """The body of a request."""
        raise NotImplementedError

    def reply(self, answer: Any) -> Reply:
        """The reply in the JSON of an answer."""
        raise NotImplementedError

    def hint(self, status: int | None) -> str | None:
        """What to do about an error status; None: about a server that cannot be reached."""
        raise NotImplementedError

    # --- sending ------------------------------------------------------------------------------------------------------

    async def complete(self, request: Request) -> Reply:
        """One request and its reply."""
        try:
            body = _encode(self.body(request)).encode()
        except UnicodeEncodeError:
            return failure("row", "the prompt holds half a character (a lone surrogate)")
        session = self._sessions.get(asyncio.get_running_loop()) or await self._connect()
        aiohttp = _aiohttp()
        try:
            async with session.post(self._address, data=body, allow_redirects=False) as response:
                raw = await _read(response.content)
                status, headers = response.status, response.headers
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return failures.unreachable(self.hint)
        except (TimeoutError, aiohttp.ServerTimeoutError):
            return failure("transient", failures.SLOW, hint=failures.LATER)
        except (aiohttp.ClientError, OSError):
            return failure("transient", failures.BROKEN, hint=failures.LATER)
        if raw is None:
            return failure("row", f"the answer is longer than {LONGEST >> 20} MB", status)
        reply = self._understood(status, headers, raw)
        reply.rate = self._rate(headers)
        return reply

    def _understood(self, status: int, headers: Mapping[str, str], raw: bytes) -> Reply:
        if status >= 300:
            return failures.of_status(status, headers, raw, self.hint)
        try:
            return self.reply(json.loads(raw))
        except (ValueError, RecursionError):  # cut off, or not JSON at all
            return failures.no_completion(self.where)

    def _rate(self, headers: Mapping[str, str]) -> RateLimit | None:
        limit, left, reset = self.rate_headers
        told = headers.get(limit)
        if told is None:
            return None
        try:
            return RateLimit(int(told), int(headers.get(left, told)), seconds(headers.get(reset, "")))
        except ValueError:
            return None

    async def aclose(self) -> None:
        """Close the connections."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    async def _connect(self) -> Any:
        """The connections of this event loop, made at the first call: what is all in the cache needs neither key nor package."""
        aiohttp, loop = _aiohttp(), asyncio.get_running_loop()
        endpoint = await self.endpoint()
        if loop not in self._sessions:
            self._address = importlib.import_module("yarl").URL(endpoint.url, encoded=True)
            self._sessions[loop] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),  # how many are in flight is the engine's business
                timeout=aiohttp.ClientTimeout(total=self.timeout, sock_connect=CONNECTING),
                headers=endpoint.headers,
                proxy=_proxy(endpoint.url),
            )
        return self._sessions[loop]

    async def endpoint(self) -> Endpoint:
        """Where the official client would send a request, and with which headers: it is asked to, and stopped at the last moment."""
        package = self.package()
        http = importlib.import_module(package.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])
        caught: list[Any] = []

        def catch(request: Any) -> Any:
            caught.append(request)
            return http.Response(200, json={})

        async with self.client(http_client=http.AsyncClient(transport=http.MockTransport(catch))) as client:
            await client.post(self.path, body={"model": self.model_name}, cast_to=object)
        headers = {
            name: value
            for name, value in caught[0].headers.items()
            if name.lower() not in NOT_SENT_ON and not name.lower().startswith(TELEMETRY)
        }
        return Endpoint(str(caught[0].url), headers)


@functools.cache
def _aiohttp() -> Any:
    return require("aiohttp", "all")


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for ``url``. Asked once: aiohttp would ask in a thread of its own at every request."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return None if proxy is None or proxy_bypass(parts.netloc) else proxy


async def _read(content: Any) -> bytes | None:
    """A whole body; None when it is too long."""
    first: bytes = await content.readany()
    parts, size = [first], len(first)
    while not content.at_eof():
        part = await content.readany()
        parts.append(part)
        size += len(part)
        if size > LONGEST:
            return None
    return first if len(parts) == 1 else b"".join(parts)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str) -> float:
    """A duration as rate-limit headers write it (``1s``, ``6m0s``, ``120ms``, ``7``), or until a time (RFC 3339); ValueError for others."""
    if "T" in text and "-" in text:
        import datetime

        then = datetime.datetime.fromisoformat(text)
        return max(0.0, (then - datetime.datetime.now(then.tzinfo or datetime.UTC)).total_seconds())
    parts = re.findall(r"([0-9.]+)(ms|[smhd])", text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts) if parts else float(text)
