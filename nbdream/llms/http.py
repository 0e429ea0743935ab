"""`Transport`: what sends requests to services, and nothing that costs processor time beside aiohttp itself.

The provider's official client says where a request goes and with which headers (keys, organisation, Azure's addresses, versions), once;
it would cost five to ten times as much for each call if it sent them as well.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import ssl
import weakref
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from nbdream import __version__
from nbdream.errors import ModelError
from nbdream.llms.failures import TooLongError
from nbdream.optional import require

TIMEOUT = 600.0
CONNECTING = 5.0
"""Seconds for a connection to be made."""
LONGEST = 64 * 2**20
"""Bytes of an answer after which it is taken for endless."""
NOT_SENT_ON = frozenset({"accept-encoding", "connection", "content-length", "host", "transfer-encoding", "user-agent"})
"""Headers of the official client that are the sender's own business."""
TELEMETRY = "x-stainless-"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go, and the headers that go with all of them."""

    url: str
    headers: Mapping[str, str]


class Transport:
    """Connections to one endpoint. ``find`` tells the endpoint; it is asked at the first request on each event loop."""

    def __init__(self, find: Callable[[], Awaitable[Endpoint]], timeout: float = TIMEOUT) -> None:
        self._find = find
        self._timeout = timeout
        # Connections live on one event loop, a model in as many sessions as it likes.
        self._open: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Connections] = weakref.WeakKeyDictionary()

    async def post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """The status, the headers and the body of the answer to ``body``; what goes wrong is for `failures.of_exception`.

        An answer that leads elsewhere is given back, never followed: the key is for this host alone.
        """
        return await (self._open.get(asyncio.get_running_loop()) or await self._connections()).post(body)

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        found = self._open.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found.aclose()

    async def _connections(self) -> _Connections:
        endpoint = await self._find()
        aiohttp, loop = require("aiohttp", "all"), asyncio.get_running_loop()
        if loop not in self._open:
            address = importlib.import_module("yarl").URL(endpoint.url, encoded=True).with_user(None)
            secure, through = address.scheme == "https", proxy(endpoint.url)
            session = aiohttp.ClientSession(
                # How many are in flight is the engine's business.
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, ssl=_certificates() if secure else True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECTING),
                headers={**endpoint.headers, "User-Agent": f"nbdream/{__version__}"},
                proxy=through,
            )
            self._open[loop] = _Connections(session, address, self._timeout)
        return self._open[loop]


class _Connections:
    """The connections of one event loop. What takes longer than ``seconds`` ends with a `TimeoutError`.

    One timer does for all requests, since all have the same time; aiohttp has one for each, which is a twentieth of what a call costs.
    """

    def __init__(self, session: Any, address: Any, seconds: float) -> None:
        self._session = session
        self._send = functools.partial(session.post, address, allow_redirects=False)
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._began: dict[asyncio.Task[Any], float] = {}
        """When each request under way began, the first one first."""
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """One request and its answer."""
        task = asyncio.current_task()
        assert task is not None
        cancelled = task.cancelling()
        self._began[task] = began = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(began + self._seconds, self._end_late)
        try:
            async with self._send(data=body) as response:
                return response.status, response.headers, await _read(response.content)
        except asyncio.CancelledError:
            if task in self._late and task.uncancel() <= cancelled:  # by us, and by nobody else
                raise TimeoutError from None
            raise
        finally:
            del self._began[task]
            self._late.discard(task)

    def _end_late(self) -> None:
        self._timer = None
        now = self._loop.time()
        for task, began in self._began.items():
            if began + self._seconds > now:
                self._timer = self._loop.call_at(began + self._seconds, self._end_late)
                return
            if task not in self._late:
                self._late.add(task)
                task.cancel()

    async def aclose(self) -> None:
        """Close them."""
        if self._timer is not None:
            self._timer.cancel()
        await self._session.close()


async def endpoint(client: Callable[..., Any], package: Any, path: str, body: Mapping[str, Any]) -> Endpoint:
    """Where the official client would post ``body`` to, and with which headers: it is asked to, and stopped at the last moment."""
    # The provider's package has its own copy of its http library, or a newer one than others: the class says which.
    library = importlib.import_module(package.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])
    caught: list[Any] = []

    def catch(request: Any) -> Any:
        caught.append(request)
        return library.Response(200, json={})

    async with client(http_client=library.AsyncClient(transport=library.MockTransport(catch))) as asked:
        await asked.post(path, body=body, cast_to=object)
    kept = {name: value for name, value in caught[0].headers.items() if not _own(name.lower())}
    return Endpoint(str(caught[0].url), kept)


def _own(name: str) -> bool:
    return name in NOT_SENT_ON or name.startswith(TELEMETRY)


def proxy(url: str) -> str | None:
    """The proxy that the environment names for ``url``. Asked once: aiohttp would ask in a thread of its own at every request."""
    parts = urlsplit(url)
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if found is None or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    if urlsplit(found).scheme not in ("http", "https"):
        hint = f"set {parts.scheme}_proxy to an http:// address, or NO_PROXY"
        raise ModelError("the proxy that the environment names is none for HTTP", hint)
    return found


def _certificates() -> ssl.SSLContext:
    """The system's authorities and, where it is there, certifi's: some Pythons come without any."""
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(importlib.import_module("certifi").where())
    except ModuleNotFoundError:
        pass
    return context


async def _read(content: Any) -> bytes:
    """A whole body."""
    first: bytes = await content.readany()
    if content.at_eof():
        return first
    parts, size = [first], len(first)
    while part := await content.readany():
        parts.append(part)
        size += len(part)
        if size > LONGEST:
            raise TooLongError(f"the answer is longer than {LONGEST >> 20} MB")
    return b"".join(parts)
