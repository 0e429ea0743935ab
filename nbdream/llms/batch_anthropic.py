"""`AnthropicBatches`: Anthropic's message batches.

A batch has no place for a tag of ours, so the ids of its requests carry it; they are told only when it has ended. A job whose id could
not be noted may therefore be one that is still at work: as long as there is a batch of its size of which that is not known, its requests
are held back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from nbdream.llms.base import Reply, Request, failure
from nbdream.llms.batch_service import CANCELLED, EXPIRED, BatchService, BatchServiceError, BatchState, Finding, encoded

PATH = "/v1/messages/batches"
SKEW = timedelta(hours=1)
"""How far the provider's clock and ours may be apart."""
STATUSES = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403, "not_found_error": 404,
    "request_too_large": 413, "rate_limit_error": 429, "api_error": 500, "timeout_error": 504, "overloaded_error": 529,
}  # fmt: skip
"""The status that a request of its own would have met with such an error."""


class AnthropicBatches(BatchService):
    """Message batches of Anthropic."""

    def line(self, custom_id: str, request: Request) -> bytes:
        """One element of the list of requests."""
        return encoded({"custom_id": custom_id, "params": self.llm.body(request)})

    async def submit(self, tag: str, lines: Sequence[bytes], about_to: Callable[[], None]) -> str:
        """Create the batch."""
        with self.errors():
            client = self.sending()
            content = b'{"requests":[' + b",".join(lines) + b"]}"
            about_to()
            # What `batches.create` posts. The requests are JSON already, encoded where no event loop waits for it.
            batch = await client.post(PATH, content=content, cast_to=_package_type(self.llm.package()))
            return str(batch.id)

    async def find(self, tag: str, size: int, since: datetime, others: Collection[str]) -> Finding:
        """Look at the first result of each batch of that size since then; the newest come first."""
        unclear = False
        with self.errors():
            async for batch in self.asking().messages.batches.list(limit=100):
                if batch.created_at < since - SKEW:
                    break
                if batch.id in others or _size(batch) != size:
                    continue
                if batch.processing_status != "ended":
                    unclear = True
                elif batch.results_url and await self._holds(batch.id, tag):
                    return Finding(str(batch.id))
        return Finding(None, unclear)

    async def state(self, job: str) -> BatchState:
        """How far it is."""
        with self.errors():
            batch = await self.asking().messages.batches.retrieve(job)
        if batch.processing_status == "ended" and not batch.results_url:
            reply = failure("all", f"the results of the batch {job} are no longer kept", 404)
            raise BatchServiceError(reply.error or {}, self.llm.display_name)
        total = _size(batch)
        return BatchState(batch.processing_status == "ended", total - batch.request_counts.processing, total)

    async def results(self, job: str) -> AsyncIterator[tuple[str, Reply]]:
        """What has become of each request."""
        with self.errors():
            async with self.asking().messages.batches.with_streaming_response.results(job) as response:
                async for line in self.lines(response.iter_bytes()):
                    yield str(line.get("custom_id")), self._reply(line.get("result"))

    async def _holds(self, job: str, tag: str) -> bool:
        async with self.asking().messages.batches.with_streaming_response.results(job) as response:
            async for line in self.lines(response.iter_bytes()):
                return str(line.get("custom_id")).startswith(tag)
        return False

    def _reply(self, result: Any) -> Reply:
        kind = result.get("type") if isinstance(result, dict) else None
        if kind == "succeeded":
            return self.answered(result.get("message"))
        if kind == "errored":
            said = result.get("error")
            inner = said.get("error") if isinstance(said, dict) else None
            return self.failed(STATUSES.get(str(inner.get("type")) if isinstance(inner, dict) else "", 500), said)
        return failure("transient", CANCELLED if kind == "canceled" else EXPIRED, cancelled=kind == "canceled")


def _package_type(package: Any) -> Any:
    """The type of what creating a batch answers."""
    return package.types.messages.MessageBatch


def _size(batch: Any) -> int:
    """How many requests a batch has."""
    counts = batch.request_counts
    return int(counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired)
