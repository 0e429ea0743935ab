"""`OpenAI`: chat completions, of OpenAI, of Azure, and of every server that speaks the same.

A pure half (`to_body`, `from_completion`, `to_failure`) and a thin call. The length limit that steps call ``max_new_tokens`` goes out
as ``max_completion_tokens`` to OpenAI and Azure, whose newer models refuse ``max_tokens``, and as ``max_tokens`` to all others, some
of which ignore ``max_completion_tokens`` without a word. ``extra`` goes into the body as it is, over everything else.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import re
import time
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import SplitResult, urlsplit

from nbdream import secrets
from nbdream.errors import ArgumentError, ModelError
from nbdream.llms.base import COMMON, LLM, Reply, Request, failure
from nbdream.optional import require

OFFICIAL = "https://api.openai.com/v1"
HOME_HOST = "api.openai.com"
KEY_VARIABLE = "OPENAI_API_KEY"
NO_KEY = "none"
"""Sent to a server of one's own when no key was given: the client insists on one."""
NO_COMPLETION = "the server's answer is no chat completion"
WHERE = "check base_url: it is what comes before /chat/completions, and mostly ends in /v1"
LATER = "run the cell again: what has arrived is kept"

CHAT = COMMON | {
    "frequency_penalty", "max_completion_tokens", "presence_penalty", "reasoning_effort", "response_format", "service_tier", "verbosity",
}  # fmt: skip
OTHERS = CHAT | {"min_p", "repetition_penalty", "top_k"}
"""What servers of open models take besides."""

EVERYONE = frozenset({401, 402, 403, 404, 405})
"""Statuses that every request would meet."""
AGAIN = frozenset({408, 409, 425, 429})
HINTS = {
    401: "check the key: api_key=… or the environment variable OPENAI_API_KEY",
    402: "the account has no credit left",
    403: "this key may not use this model",
    404: "check the model's name{and_url}",
}


class OpenAI(LLM):
    """A chat model of OpenAI or of a server that speaks its protocol (``base_url``).

    The key is ``api_key`` or the environment variable ``OPENAI_API_KEY``; a server on another host is also asked without one. Azure is
    taken where ``base_url`` is Azure's or ``api_version`` is given. Without ``system_prompt`` no system message is sent. Any generation
    parameter given here counts for every call.
    """

    provider: ClassVar[str] = "openai"

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
        **params: Any,
    ) -> None:
        secrets.remember(api_key, "the api_key of this model")
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or OFFICIAL
        self._url = _split(self.base_url)
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
        super().__init__(model_name, system_prompt=system_prompt, identity=identity, max_concurrency=max_concurrency, **params)
        if self._url.hostname == HOME_HOST:
            self.model_card = f"https://platform.openai.com/docs/models/{model_name}"
        # A client lives on one event loop, a model in as many sessions as it likes.
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = weakref.WeakKeyDictionary()

    async def complete(self, request: Request) -> Reply:
        """One chat completion."""
        client = self._connected()
        openai = require("openai", "all")
        try:
            # Not `chat.completions.create`: it makes typed copies of body and answer, which cost more than the call itself.
            answer = await client.post("/chat/completions", body=to_body(self.model_name, request), cast_to=object)
        except openai.APIError as error:
            return to_failure(error, self._hint)
        except UnicodeEncodeError:
            return failure("row", "the prompt holds half a character (a lone surrogate)")
        except ValueError:  # cut off, or not JSON at all
            return failure("transient", NO_COMPLETION, no_completion=True, hint=WHERE)
        return from_completion(answer)

    async def aclose(self) -> None:
        """Close the connections."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    def _connected(self) -> Any:
        """The client, made at the first call: what is all in the cache needs neither key nor package."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = self._made()
        return self._clients[loop]

    def _made(self) -> Any:
        openai = require("openai", "all")
        shared = {"api_key": self._key(), "organization": self._organization, "max_retries": 0}
        try:
            # Many times faster than the default one when hundreds of requests are in flight.
            shared["http_client"] = openai.DefaultAioHttpClient()
        except RuntimeError:  # an older client without it
            pass
        if not self.azure:
            return openai.AsyncOpenAI(base_url=self.base_url, **shared)
        version = self._api_version or os.environ.get("OPENAI_API_VERSION")
        if version is None:
            raise ModelError("Azure needs an API version", 'api_version="2024-10-21", or the environment variable OPENAI_API_VERSION')
        return openai.AsyncAzureOpenAI(azure_endpoint=self.base_url, api_version=version, **shared)

    def _key(self) -> str:
        variables = ["AZURE_OPENAI_API_KEY", KEY_VARIABLE] if self.azure else [KEY_VARIABLE]
        found = self._api_key or next(filter(None, map(os.environ.get, variables)), None)
        if found or not self._official:
            return found or NO_KEY
        hint = "set it, give api_key=…, or use -m demo, which needs no key"
        raise ModelError(f"no key for {self.display_name}: {KEY_VARIABLE} is not set", hint)

    def _hint(self, status: int | None) -> str | None:
        if status is None:
            return f"is a server running at {address(self._url)}?"
        and_url = "" if self._official else f" and the base_url {address(self._url)}"
        return HINTS[status].format(and_url=and_url) if status in HINTS else None


def to_body(model: str, request: Request) -> dict[str, Any]:
    """The body of a request."""
    params = {name: value for name, value in request.params.items() if name != "extra"}
    body: dict[str, Any] = {"model": model, "messages": [dict(message) for message in request.messages], **params}
    if request.sampling_seed is not None:
        body["seed"] = request.sampling_seed
    return body | dict(request.params.get("extra") or {})


def from_completion(answer: Any) -> Reply:
    """The reply in the JSON of a chat completion."""
    try:
        choice = answer["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        content = message.get("content")
    except (TypeError, KeyError, IndexError, AttributeError):
        return failure("transient", NO_COMPLETION, no_completion=True, hint=WHERE)
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
    return {side: tokens for side, tokens in sides.items() if isinstance(tokens, int)}


def to_failure(error: Any, hint: Any = lambda status: None) -> Reply:
    """What an error of the client means: for this request, for every request, or only for now."""
    response = getattr(error, "response", None)
    if response is None:
        return _no_answer(error, hint)
    status, headers = int(response.status_code), response.headers
    message = one_line(_said(error), status)
    if status < 400:  # an answer that does not parse
        return failure("transient", NO_COMPLETION, status, no_completion=True, hint=WHERE)
    if status in EVERYONE or error.code == "insufficient_quota" or getattr(error, "type", None) == "insufficient_quota":
        return failure("all", message, status, hint=HINTS[402] if "quota" in str(error.code) else hint(status))
    transient = status in AGAIN or status >= 500
    said = headers.get("x-should-retry")
    if said in ("true", "false"):
        transient = said == "true"
    if not transient:
        return failure("row", message, status)
    wait = retry_after(headers)
    return failure("transient", message, status, retry_after=wait, hint=LATER)


def _no_answer(error: Any, hint: Any) -> Reply:
    """A connection that was not made, broke, or timed out."""
    causes = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    if "ConnectError" in causes or "ConnectTimeout" in causes:
        return failure("transient", "the server cannot be reached", None, unreachable=True, hint=hint(None))
    if "APITimeoutError" in causes:
        return failure("transient", "the server took too long", hint=LATER)
    return failure("transient", "the connection broke off", hint=LATER)


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


def _said(error: Any) -> str:
    body = error.body
    if isinstance(body, Mapping) and isinstance(body.get("message"), str):
        return str(body["message"])
    return str(error.message)


def one_line(text: str, status: int) -> str:
    """A server's message in one line of bearable length."""
    flat = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)).strip()[:300]
    return f"{flat} (HTTP {status})" if flat else f"HTTP {status}"


def address(url: SplitResult) -> str:
    """A server's address as it counts: scheme, host, port and path; never who asks."""
    port = "" if url.port is None or (url.scheme, url.port) in (("http", 80), ("https", 443)) else f":{url.port}"
    host = url.hostname or ""
    return f"{url.scheme}://{f'[{host}]' if ':' in host else host}{port}{url.path.rstrip('/')}"


def _split(base_url: str) -> SplitResult:
    try:
        url = urlsplit(base_url.strip())
        valid = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise ArgumentError("base_url is not a web address", "for example base_url=http://127.0.0.1:8000/v1")
    return url


def _is_azure(url: SplitResult) -> bool:
    host = url.hostname or ""
    return host.endswith((".azure.com", ".azure.us", ".azure.cn"))


def _limit_name(official: bool) -> str:
    return "max_completion_tokens" if official else "max_tokens"
