"""`Service`: a model behind a web address. What all providers share: the sending, and the reading of what comes back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import SplitResult, parse_qsl, urlsplit

from nbdream import quickjson
from nbdream.errors import ArgumentError, ModelError
from nbdream.llms import failures
from nbdream.llms.base import LLM, Message, RateLimit, Reply, Request, failure
from nbdream.llms.http import TIMEOUT, Endpoint, Transport, endpoint


class Service(LLM):
    """A model behind a web address. A provider says what goes into a body, what comes out of an answer, and who its client is."""

    path: ClassVar[str]
    """Where the provider's client posts a request to."""
    where: ClassVar[str] = "check base_url"
    """The hint for an answer that is no reply."""
    format_field: ClassVar[str]
    """The field of a body that holds the form of the reply."""
    rate_headers: ClassVar[tuple[str, str, str]]
    """The headers that tell the limit of requests, how many are left, and when all are back."""
    _url: SplitResult

    def __init__(self, model_name: str, *, timeout: float | None = None, **options: Any) -> None:
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0):
            raise ArgumentError(f"timeout is {timeout!r}", f"it is a number of seconds: {TIMEOUT:g} by default")
        super().__init__(model_name, **options)
        self._transport = Transport(self.endpoint, timeout or TIMEOUT)
        self._last: tuple[Mapping[str, Any] | None, dict[str, Any] | None] = None, None

    # --- what a provider implements -----------------------------------------------------------------------------------

    def package(self) -> Any:
        """The provider's package; `MissingPackageError` when it is not there."""
        raise NotImplementedError

    def client(self, **options: Any) -> Any:
        """The provider's official client, with ``options`` over the model's own."""
        raise NotImplementedError

    def body(self, request: Request) -> dict[str, Any]:
        """The body of a request."""
        raise NotImplementedError

    def formed(self, schema: Mapping[str, Any]) -> dict[str, Any] | None:
        """How a schema goes out; None where the provider cannot hold its model to it."""
        raise NotImplementedError

    def reply(self, answer: Any) -> Reply:
        """The reply in the JSON of an answer."""
        raise NotImplementedError

    def hint(self, status: int | None) -> str | None:
        """What to do about an error status; None: about a server that cannot be reached."""
        raise NotImplementedError

    # --- what a step asks ---------------------------------------------------------------------------------------------

    def requests(
        self,
        prompts: Iterable[str | Sequence[Message]],
        *,
        schema: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Iterator[Request]:
        """The requests for ``prompts``; a schema and a form of the reply of one's own exclude each other."""
        if schema is not None:
            given = self.settings(**{name: value for name, value in options.items() if name not in ("system", "seed")})
            if self.format_field in given or self.format_field in (given.get("extra") or {}):
                raise ArgumentError(f"both a schema and {self.format_field} are given", "leave one of them out")
        return super().requests(prompts, schema=schema, **options)

    # --- sending ------------------------------------------------------------------------------------------------------

    async def complete(self, request: Request) -> Reply:
        """One request and its reply."""
        try:
            body = quickjson.dumps(self.body(request))
        except UnicodeEncodeError:
            return failure("row", "the prompt holds half a character (a lone surrogate)")
        try:
            status, headers, raw = await self._transport.post(body)
        except failures.exceptions() as error:
            return failures.of_exception(error, self.hint)
        reply = self.understood(status, headers, raw)
        reply.rate = self._rate(headers)
        return reply

    def form(self, schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """How a schema goes out, made once for the requests of a step."""
        found = self._last
        if schema is not found[0]:
            found = self._last = schema, None if schema is None else self.formed(schema)
        return found[1]

    def understood(self, status: int, headers: Mapping[str, str], raw: bytes) -> Reply:
        """The reply, or the failure, that an answer is."""
        if status >= 300:
            return failures.of_status(status, headers, raw, self.hint)
        try:
            return self.reply(quickjson.loads(raw))
        except (ValueError, RecursionError):  # cut off, or not JSON at all
            return failures.no_completion(self.where)

    def _rate(self, headers: Mapping[str, str]) -> RateLimit | None:
        limit, left, reset = self.rate_headers
        told = headers.get(limit)
        if told is None:
            return None
        try:
            return RateLimit(int(told), int(headers.get(left, told)), seconds(headers.get(reset, "0")))
        except ValueError:
            return None

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        await self._transport.aclose()

    async def endpoint(self) -> Endpoint:
        """Where requests go, and with which headers: the official client knows."""
        package = await asyncio.to_thread(self.package)  # a second or so, in which others' replies arrive
        try:
            found = await endpoint(self.client, package, self.path, {"model": self.model_name})
        except UnicodeEncodeError:
            found = None
        if found is None or not all(value.isprintable() for value in found.headers.values()):
            raise ModelError(f"the key for {self.display_name} holds characters that no key has", "copy it again")
        return found

    def site(self) -> dict[str, Any]:
        """The address of the service as the official client takes it: what is asked for in it goes with every request."""
        asks = dict(parse_qsl(self._url.query, keep_blank_values=True))
        return {"base_url": self._url._replace(query="", fragment="").geturl(), "default_query": asks or None}


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PARTS = re.compile(r"([0-9.]+)(ms|[smhd])")


def seconds(text: str) -> float:
    """A duration as rate-limit headers write it (``1s``, ``6m0s``, ``120ms``, ``7``), or until a time (RFC 3339); ValueError for others."""
    if "T" in text:
        import datetime

        then = datetime.datetime.fromisoformat(text)
        return max(0.0, (then - datetime.datetime.now(then.tzinfo)).total_seconds())
    parts = _PARTS.findall(text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts) if parts else float(text)


def address(url: SplitResult) -> str:
    """A server's address as it counts: scheme, host, port and path; never who asks."""
    port = "" if url.port is None or (url.scheme, url.port) in (("http", 80), ("https", 443)) else f":{url.port}"
    host = url.hostname or ""
    return f"{url.scheme}://{f'[{host}]' if ':' in host else host}{port}{url.path.rstrip('/')}"


def split(base_url: str) -> SplitResult:
    """The parts of ``base_url``; `ArgumentError` where it is no address."""
    try:
        url = urlsplit(base_url.strip())
        valid = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise ArgumentError("base_url is not a web address", "for example base_url=http://127.0.0.1:8000/v1")
    return url
