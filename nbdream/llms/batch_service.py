"""`BatchService`: a provider's service that answers many requests within a day, at a lower price.

Requests go in together, each as a line with an id of its own, and make a *job*; when it has ended, its results are read, in any order.
All of it goes through the provider's official client: a job is a handful of requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from nbdream import secrets
from nbdream.errors import ModelError
from nbdream.llms import failures
from nbdream.llms.base import Reply, Request, failure

READING = 60.0
"""Seconds for an answer to a question about a job."""
UPLOADING = 600.0
"""Seconds for a job to be handed in."""
EXPIRED = "the batch service did not get to it in time"
CANCELLED = "the batch was cancelled at the provider"
NO_SERVICE = "is there a batch service at this address? Leave --batch out to ask in the ordinary way"
NOT_SURE = (408, 409)
"""Statuses below 500 after which a request may have had its effect."""

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Provider(Protocol):
    """What a batch service needs of the model it is for."""

    @property
    def display_name(self) -> str:
        """What messages call it."""

    def package(self) -> Any:
        """The provider's package."""

    def client(self, **options: Any) -> Any:
        """Its official client."""

    def body(self, request: Request) -> dict[str, Any]:
        """The body of a request."""

    def reply(self, answer: Any) -> Reply:
        """The reply in the JSON of an answer."""

    def hint(self, status: int | None) -> str | None:
        """What to do about an error status; None: about a server that cannot be reached."""


@dataclass(frozen=True, slots=True)
class BatchState:
    """How far a job is."""

    ended: bool
    done: int = 0
    total: int = 0
    refused: str | None = None
    """Why the provider ran nothing of it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What looking for a job gave: its id; or, with ``unclear``, that it may be one which tells nothing before it has ended."""

    job: str | None = None
    unclear: bool = False


class BatchServiceError(ModelError):
    """The service did not do what it was asked."""

    def __init__(self, error: Mapping[str, Any], name: str) -> None:
        super().__init__(secrets.redact(f"{name}: {error['message']}"), error.get("hint"))
        status = error.get("status")
        self.transient = error["kind"] == "transient"
        """Whether asking again may help."""
        self.sure = isinstance(status, int) and 400 <= status < 500 and status not in NOT_SURE
        """Whether it certainly had no effect."""
        self.gone = status == 404
        self.retry_after: float | None = error.get("retry_after")


class BatchService:
    """What the services have in common. Lives on one event loop; a provider implements the first five."""

    def __init__(self, llm: Provider) -> None:
        self.llm = llm
        self._asking: Any = None

    # --- what a provider implements -----------------------------------------------------------------------------------

    def line(self, custom_id: str, request: Request) -> bytes:
        """One request of a job; ``UnicodeEncodeError`` where it cannot be sent."""
        raise NotImplementedError

    async def submit(self, tag: str, lines: Sequence[bytes], about_to: Callable[[], None]) -> str:
        """Hand in a job and give its id. ``about_to`` is called right before the request that the provider may accept it with."""
        raise NotImplementedError

    async def find(self, tag: str, size: int, since: datetime, others: Collection[str]) -> Finding:
        """Look for the job of ``size`` requests that was handed in as ``tag``, not before ``since``; it is none of ``others``."""
        raise NotImplementedError

    async def state(self, job: str) -> BatchState:
        """How far a job is."""
        raise NotImplementedError

    def results(self, job: str) -> AsyncIterator[tuple[str, Reply]]:
        """The id and the reply of each request of a job that has ended; what was not run is a transient failure."""
        raise NotImplementedError

    # --- what they share ----------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Import the provider's package, while others' replies arrive."""
        await asyncio.to_thread(self.llm.package)

    async def aclose(self) -> None:
        """Close the connections."""
        asking, self._asking = self._asking, None
        if asking is not None:
            await asking.close()

    def asking(self) -> Any:
        """The client, with the patience for a question. It asks once: who hands in twice without looking pays twice."""
        if self._asking is None:
            self._asking = self.llm.client(max_retries=0, timeout=READING)
        return self._asking

    def sending(self) -> Any:
        """The client, with the patience for a whole job to go over the wire."""
        return self.asking().with_options(timeout=UPLOADING)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the client raises into a `BatchServiceError`."""
        package = self.llm.package()
        try:
            yield
        except package.APIStatusError as error:
            response = error.response
            reply = failures.of_status(response.status_code, response.headers, response.content, self._hint)
            raise self._error(reply) from error
        except package.APIConnectionError as error:
            raise self._error(failure("transient", "the server cannot be reached", hint=self._hint(None))) from error
        except Exception as error:
            if not type(error).__module__.startswith("httpx"):  # the client's own, which it does not wrap in the middle of an answer
                raise
            raise self._error(failure("transient", "the connection broke off")) from error

    async def lines(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[dict[str, Any]]:
        """The JSON objects in the lines of an answer. Split at line feeds alone: texts may hold what Unicode calls line ends."""
        rest = b""
        async for chunk in chunks:
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                if line.strip():
                    yield self._object(line)
        if rest.strip():
            yield self._object(rest)

    def failed(self, status: int, said: Any) -> Reply:
        """The failure of one request of a job, sorted by what its status means."""
        reply = failures.of_status(status, {}, _encode(said).encode("utf-8", "replace"), self.llm.hint)
        reply.batch = True
        return reply

    def answered(self, answer: Any) -> Reply:
        """The reply to one request of a job."""
        reply = self.llm.reply(answer)
        reply.batch = True
        return reply

    def _object(self, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise self._error(failure("transient", "a line of the batch's results is not JSON"))
        return value

    def _hint(self, status: int | None) -> str | None:
        return NO_SERVICE if status in (404, 405) else self.llm.hint(status)

    def _error(self, reply: Reply) -> BatchServiceError:
        assert reply.error is not None
        return BatchServiceError(reply.error, self.llm.display_name)


def encoded(value: Any) -> bytes:
    """``value`` as one line of JSON; ``UnicodeEncodeError`` for half a character."""
    return _encode(value).encode()
