"""`OpenAIBatches`: OpenAI's batch service, and that of servers with the same protocol.

A job is a file of requests and a batch that names it. The batch carries our tag in its metadata, so that it is found again by whoever
was killed before its id was noted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from nbdream.llms.base import Reply, Request, failure
from nbdream.llms.batch_service import CANCELLED, EXPIRED, BatchService, BatchState, Finding, encoded

MARK = "nbdream"
"""The name of our tag in a batch's metadata."""
ENDED = frozenset({"completed", "expired", "cancelled", "failed"})
NOT_RUN = {"batch_expired": EXPIRED, "batch_cancelled": CANCELLED}


class OpenAIBatches(BatchService):
    """Files and batches of OpenAI."""

    @property
    def endpoint(self) -> str:
        """What each request of a job asks; Azure's has no version in it."""
        return "/chat/completions" if getattr(self.llm, "azure", False) else "/v1/chat/completions"

    def line(self, custom_id: str, request: Request) -> bytes:
        """One line of the file."""
        return encoded({"custom_id": custom_id, "method": "POST", "url": self.endpoint, "body": self.llm.body(request)})

    async def submit(self, tag: str, lines: Sequence[bytes], about_to: Callable[[], None]) -> str:
        """Upload the file and create the batch."""
        with self.errors():
            client = self.sending()
            file = await client.files.create(file=(f"{tag}.jsonl", b"\n".join([*lines, b""]), "application/jsonl"), purpose="batch")
            about_to()
            batch = await client.batches.create(
                input_file_id=file.id, endpoint=self.endpoint, completion_window="24h", metadata={MARK: tag}
            )  # fmt: skip
            return str(batch.id)

    async def find(self, tag: str, size: int, since: datetime, others: Collection[str]) -> Finding:
        """Look through the account's batches for the tag."""
        with self.errors():
            async for batch in self.asking().batches.list(limit=100):
                if (batch.metadata or {}).get(MARK) == tag:
                    return Finding(str(batch.id))
        return Finding()

    async def state(self, job: str) -> BatchState:
        """How far it is."""
        with self.errors():
            batch = await self.asking().batches.retrieve(job)
        counts = batch.request_counts
        done, total = (counts.completed + counts.failed, counts.total) if counts else (0, 0)
        return BatchState(batch.status in ENDED, done, total, _refusal(batch) if batch.status == "failed" else None)

    async def results(self, job: str) -> AsyncIterator[tuple[str, Reply]]:
        """What stands in the two files of results."""
        with self.errors():
            client = self.asking()
            batch = await client.batches.retrieve(job)
            for file in filter(None, (batch.output_file_id, batch.error_file_id)):
                async with client.files.with_streaming_response.content(file) as response:
                    async for line in self.lines(response.iter_bytes()):
                        yield str(line.get("custom_id")), self._reply(line)

    def _reply(self, line: dict[str, Any]) -> Reply:
        response, error = line.get("response"), line.get("error")
        if isinstance(response, dict):
            status = response.get("status_code")
            body = response.get("body")
            return self.answered(body) if status in (None, 200) else self.failed(int(status or 0), body)
        code, said = (error.get("code"), error.get("message")) if isinstance(error, dict) else (None, None)
        why = NOT_RUN.get(str(code)) or str(said or "the batch service gave no answer")
        return failure("transient", why, cancelled=code == "batch_cancelled")


def _refusal(batch: Any) -> str:
    """What OpenAI found wrong with a whole batch."""
    for error in (batch.errors.data if batch.errors else None) or ():
        where = f" (line {error.line} of the file)" if error.line is not None else ""
        return f"{error.message or error.code}{where}"
    return "the batch service refused the batch and did not say why"
