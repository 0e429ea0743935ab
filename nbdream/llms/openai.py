"""`OpenAI`: chat completions, of OpenAI, of Azure, and of every server that speaks the same.

A pure half (`to_body`, `from_completion`); what sends is `Service`. The length limit that steps call ``max_new_tokens`` goes out
as ``max_completion_tokens`` to OpenAI and Azure, whose newer models refuse ``max_tokens``, and as ``max_tokens`` to all others, some
of which ignore ``max_completion_tokens`` without a word. ``extra`` goes into the body as it is, over everything else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import SplitResult

from nbdream import secrets
from nbdream.errors import ModelError
from nbdream.llms import failures, formats
from nbdream.llms.base import COMMON, Reply, Request
from nbdream.llms.batch_openai import OpenAIBatches
from nbdream.llms.service import Service, address, split
from nbdream.optional import require

OFFICIAL = "https://api.openai.com/v1"
HOME_HOST = "api.openai.com"
KEY_VARIABLE = "OPENAI_API_KEY"
NO_KEY = "none"
"""Sent to a server of one's own when no key was given: the client insists on one."""
WHERE = "check base_url: it is what comes before /chat/completions, and mostly ends in /v1"

CHAT = COMMON | {
    "frequency_penalty", "max_completion_tokens", "presence_penalty", "reasoning_effort", "response_format", "service_tier", "verbosity",
}  # fmt: skip
LIMITS = frozenset({
    "exclusiveMaximum", "exclusiveMinimum", "format", "maxItems", "maximum", "minItems", "minimum", "multipleOf", "pattern",
})  # fmt: skip
"""What OpenAI, and Azure not, holds a model to besides the shape of a reply."""
OTHERS = CHAT | {"min_p", "repetition_penalty", "top_k"}
"""What servers of open models take besides."""

HINTS = {
    401: "check the key: api_key=… or the environment variable OPENAI_API_KEY",
    402: failures.NO_CREDIT,
    403: "this key may not use this model",
    404: "check the model's name{and_url}",
}


class OpenAI(Service):
    """A chat model of OpenAI or of a server that speaks its protocol (``base_url``).

    The key is ``api_key`` or the environment variable ``OPENAI_API_KEY``; a server on another host is also asked without one. Azure is
    taken where ``base_url`` is Azure's or ``api_version`` is given. Without ``system_prompt`` no system message is sent. Any generation
    parameter given here counts for every call.
    """

    provider: ClassVar[str] = "openai"
    path: ClassVar[str] = "/chat/completions"
    where: ClassVar[str] = WHERE
    format_field: ClassVar[str] = "response_format"
    rate_headers: ClassVar[tuple[str, str, str]] = (
        "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    )  # fmt: skip

    def __init__(
        self,
        model_name: str,
        system_prompt: str | None = None,
        organization: str | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        api_version: str | None = None,
        retry_on_fail: bool = True,
        *,
        max_concurrency: int | None = None,
        identity: Any = None,
        timeout: float | None = None,
        **params: Any,
    ) -> None:
        secrets.remember(api_key, "the api_key of this model")
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or OFFICIAL
        self._url = split(self.base_url)
        secrets.remember(self._url.password, "the password in base_url")
        self._api_key = api_key
        self._organization = organization
        self._api_version = api_version
        self.retry_on_fail = retry_on_fail
        self.azure = api_version is not None or (_is_azure(self._url) and "/openai/v1" not in self._url.path)
        official = self._official = _is_azure(self._url) or self.azure or self._url.hostname == HOME_HOST
        self.accepts = CHAT if official else OTHERS  # type: ignore[misc] # of this server, not of the class
        self.aliases = {"max_new_tokens": _limit_name(official), "max_tokens": _limit_name(official)}  # type: ignore[misc]
        if identity is None:
            self.identity = {"provider": self.provider, "base_url": address(self._url), "model": model_name}
        super().__init__(
            model_name, system_prompt=system_prompt, identity=identity, max_concurrency=max_concurrency, timeout=timeout, **params
        )
        if self._url.hostname == HOME_HOST:
            self.model_card = f"https://platform.openai.com/docs/models/{model_name}"

    def package(self) -> Any:
        """The package `openai`."""
        return require("openai", "all")

    def client(self, **options: Any) -> Any:
        """OpenAI's client, or Azure's."""
        openai = self.package()
        shared = {"api_key": self._key(), "organization": self._organization, "max_retries": 0, **options}
        if not self.azure:
            return openai.AsyncOpenAI(**self.site(), **shared)
        version = self._api_version or os.environ.get("OPENAI_API_VERSION")
        if version is None:
            raise ModelError("Azure needs an API version", 'api_version="2024-10-21", or the environment variable OPENAI_API_VERSION')
        return openai.AsyncAzureOpenAI(azure_endpoint=self.base_url, api_version=version, **shared)

    def body(self, request: Request) -> dict[str, Any]:
        """The body of a request."""
        return to_body(self.model_name, request, self.form(request.schema))

    def formed(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """How a schema goes out: OpenAI takes strict ones, other servers all that their grammars know."""
        held = formats.strict(schema, frozenset() if _is_azure(self._url) else LIMITS) if self._official else dict(schema)
        told = {"name": formats.name_of(schema), "strict": held is not None, "schema": held or dict(schema)}
        return {"type": "json_schema", "json_schema": told}

    def reply(self, answer: Any) -> Reply:
        """The reply in a chat completion."""
        return from_completion(answer)

    def batch_service(self) -> OpenAIBatches:
        """OpenAI's batch service."""
        return OpenAIBatches(self)

    def hint(self, status: int | None) -> str | None:
        """What to do about an error status."""
        if status is None:
            return f"is a server running at {address(self._url)}?"
        and_url = "" if self._official else f" and the base_url {address(self._url)}"
        return HINTS[status].format(and_url=and_url) if status in HINTS else None

    def _key(self) -> str:
        variables = ["AZURE_OPENAI_API_KEY", KEY_VARIABLE] if self.azure else [KEY_VARIABLE]
        found = self._api_key or next(filter(None, map(os.environ.get, variables)), None)
        if found or not self._official:
            return found.strip() if found else NO_KEY
        hint = "set it, give api_key=…, or use -m demo, which needs no key"
        raise ModelError(f"no key for {self.display_name}: {KEY_VARIABLE} is not set", hint)


def to_body(model: str, request: Request, form: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The body of a request; ``form`` is that of the reply."""
    body: dict[str, Any] = {"model": model, "messages": list(request.messages), **request.params}
    if request.sampling_seed is not None:
        body["seed"] = request.sampling_seed
    if form is not None:
        body["response_format"] = form
    if "extra" in body:
        body |= body.pop("extra")
    return body


def from_completion(answer: Any) -> Reply:
    """The reply in the JSON of a chat completion."""
    try:
        choice = answer["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        content = message.get("content")
    except (TypeError, KeyError, IndexError, AttributeError):
        return failures.no_completion(WHERE)
    reply = Reply(content, usage=_usage(answer.get("usage")), model=answer.get("model"), finish_reason=finish)
    if finish == "content_filter":
        return _refused(reply, "the provider's content filter stopped the reply", content)
    if message.get("refusal"):
        return _refused(reply, "the model refused", message["refusal"])
    if not isinstance(content, str):
        return _refused(reply, f"the model gave no text (finish reason: {finish})", None)
    return reply


def _refused(reply: Reply, why: str, said: Any) -> Reply:
    reply.text = said if isinstance(said, str) else None
    reply.error = {"kind": "row", "message": why, "status": None}
    return reply


def _usage(counted: Any) -> dict[str, int] | None:
    if not isinstance(counted, dict):
        return None
    sides = {"input_tokens": counted.get("prompt_tokens"), "output_tokens": counted.get("completion_tokens")}
    details = counted.get("prompt_tokens_details")
    if isinstance(details, dict) and details.get("cached_tokens"):
        sides["cached_input_tokens"] = details["cached_tokens"]
    return {side: tokens for side, tokens in sides.items() if isinstance(tokens, int)}


def _is_azure(url: SplitResult) -> bool:
    host = url.hostname or ""
    return host.endswith((".azure.com", ".azure.us", ".azure.cn"))


def _limit_name(official: bool) -> str:
    return "max_completion_tokens" if official else "max_tokens"
