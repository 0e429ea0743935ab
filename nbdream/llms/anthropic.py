"""`Anthropic`: Claude, by the Messages API.

A pure half (`to_body`, `from_message`); what sends is `Service`. The API wants a length limit with every request: `MAX_TOKENS` where
none is given, and it counts in the call's key like one that is. Since its version of 2026-10-21 the API refuses temperature, top_p and
top_k; they are refused here before a call. It takes no seed: further draws are simply asked for again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from nbdream import secrets
from nbdream.errors import ArgumentError, ModelError
from nbdream.llms import failures, formats
from nbdream.llms.base import Reply, Request
from nbdream.llms.batch_anthropic import AnthropicBatches
from nbdream.llms.service import Service, address, split
from nbdream.optional import require

OFFICIAL = "https://api.anthropic.com"
HOME_HOST = "api.anthropic.com"
KEY_VARIABLE = "ANTHROPIC_API_KEY"
TOKEN_VARIABLE = "ANTHROPIC_AUTH_TOKEN"  # noqa: S105 - its name
NO_KEY = "none"
"""Sent to a server of one's own when no key was given: the client insists on one."""
WHERE = "check base_url: it is what comes before /v1/messages"
MAX_TOKENS = 4096
"""The most tokens of a reply where nothing is said; thinking counts in it."""

LIMITS = frozenset({"format"})
"""What the API holds a model to besides the shape of a reply."""
REFUSED = frozenset({"temperature", "top_k", "top_p"})
JSON_ONLY = "Reply with JSON alone, and such that it fits this JSON schema: "

HINTS = {
    401: f"check the key: api_key=… or the environment variable {KEY_VARIABLE}",
    402: failures.NO_CREDIT,
    403: "this key may not use this model",
    404: "check the model's name{and_url}",
}


class Anthropic(Service):
    """A Claude model of Anthropic, or of a server that speaks its Messages API (``base_url``, without ``/v1``).

    The key is ``api_key`` or the environment variable ``ANTHROPIC_API_KEY``; a server on another host is also asked without one. Any
    generation parameter given here counts for every call: ``max_tokens`` (4096 by default, since the API wants one), ``stop``, ``effort``,
    ``thinking``, ``service_tier``, and ``extra`` for whatever else goes into the body.
    """

    provider: ClassVar[str] = "anthropic"
    accepts: ClassVar[frozenset[str]] = frozenset({"effort", "extra", "max_tokens", "service_tier", "stop", "thinking"})
    path: ClassVar[str] = "/v1/messages"
    where: ClassVar[str] = WHERE
    format_field: ClassVar[str] = "output_config"
    rate_headers: ClassVar[tuple[str, str, str]] = (
        "anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset",
    )  # fmt: skip

    def __init__(
        self,
        model_name: str,
        system_prompt: str | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        retry_on_fail: bool = True,
        *,
        max_concurrency: int | None = None,
        identity: Any = None,
        timeout: float | None = None,
        **params: Any,
    ) -> None:
        secrets.remember(api_key, "the api_key of this model")
        self.base_url = base_url or os.environ.get("ANTHROPIC_BASE_URL") or OFFICIAL
        self._url = split(self.base_url)
        secrets.remember(self._url.password, "the password in base_url")
        self._api_key = api_key
        self.retry_on_fail = retry_on_fail
        self._official = self._url.hostname == HOME_HOST
        refuse(params, model_name)
        if identity is None:
            self.identity = {"provider": self.provider, "base_url": address(self._url), "model": model_name}
        super().__init__(
            model_name, system_prompt=system_prompt, identity=identity, max_concurrency=max_concurrency, timeout=timeout, **params
        )
        if self._official:
            self.model_card = "https://platform.claude.com/docs/en/about-claude/models/overview"

    def settings(self, **given: Any) -> dict[str, Any]:
        """``given`` over the model's own defaults; the length limit that the API wants is always there."""
        refuse(given, self.display_name)
        made = super().settings(**given)
        made.setdefault("max_tokens", MAX_TOKENS)
        return made

    def package(self) -> Any:
        """The package `anthropic`."""
        return require("anthropic", "anthropic")

    def client(self, **options: Any) -> Any:
        """Anthropic's client."""
        key, token = self._key()
        shared = {**self.site(), "api_key": key, "auth_token": token, "max_retries": 0}
        return self.package().AsyncAnthropic(**{**shared, **options})

    def body(self, request: Request) -> dict[str, Any]:
        """The body of a request."""
        return to_body(self.model_name, request, self.form(request.schema))

    def formed(self, schema: Mapping[str, Any]) -> dict[str, Any] | None:
        """How a schema goes out; None for one that leaves something open, which the API does not take."""
        held = formats.strict(schema, LIMITS)
        return None if held is None else {"type": "json_schema", "schema": held}

    def reply(self, answer: Any) -> Reply:
        """The reply in a message."""
        return from_message(answer)

    def batch_service(self) -> AnthropicBatches:
        """Anthropic's message batches."""
        return AnthropicBatches(self)

    def hint(self, status: int | None) -> str | None:
        """What to do about an error status."""
        if status is None:
            return f"is a server running at {address(self._url)}?"
        and_url = "" if self._official else f" and the base_url {address(self._url)}"
        return HINTS[status].format(and_url=and_url) if status in HINTS else None

    def _key(self) -> tuple[str | None, str | None]:
        key, token = self._api_key or os.environ.get(KEY_VARIABLE), os.environ.get(TOKEN_VARIABLE)
        if key or token:
            return (key.strip(), None) if key else (None, str(token).strip())
        if not self._official:
            return NO_KEY, None
        hint = "set it, give api_key=…, or use -m demo, which needs no key"
        raise ModelError(f"no key for {self.display_name}: {KEY_VARIABLE} is not set", hint)


def refuse(given: Mapping[str, Any], model: str) -> None:
    """Say what the API says to parameters that it no longer takes."""
    for name in sorted(REFUSED & given.keys()):
        raise ArgumentError(f"{model} takes no {name}: the API refuses it", f"leave {name} out; further draws differ as they are")


def to_body(model: str, request: Request, form: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The body of a request; ``form`` is that of the reply. A schema that has none is put to the model in words."""
    params = dict(request.params)
    system = [message["content"] for message in request.messages if message["role"] == "system"]
    if request.schema is not None and form is None:
        system.append(JSON_ONLY + json.dumps(request.schema, ensure_ascii=False))
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": params.pop("max_tokens", MAX_TOKENS),
        "messages": [message for message in request.messages if message["role"] != "system"],
    }
    if system:
        body["system"] = "\n\n".join(system)
    if "stop" in params:
        body["stop_sequences"] = params.pop("stop")
    config = {"effort": params.pop("effort", None), "format": form}
    if any(config.values()):
        body["output_config"] = {name: value for name, value in config.items() if value}
    extra = params.pop("extra", {})
    return {**body, **params, **extra}


def from_message(answer: Any) -> Reply:
    """The reply in the JSON of a message: its text blocks, one after the other. What the model thought is not part of it."""
    try:
        finish, blocks = answer.get("stop_reason"), answer["content"]
        texts = [block["text"] for block in blocks if block.get("type") == "text"]
        text = "".join(texts) if texts else None
    except (TypeError, KeyError, AttributeError):
        return failures.no_completion(WHERE)
    reply = Reply(text, usage=_usage(answer.get("usage")), model=answer.get("model"), finish_reason=finish)
    if finish == "refusal":
        details = answer.get("stop_details")
        category = details.get("category") if isinstance(details, Mapping) else None
        reply.error = {"kind": "row", "message": f"the model refused ({category})" if category else "the model refused", "status": None}
    elif text is None and finish not in ("end_turn", "stop_sequence"):
        reply.error = {"kind": "row", "message": f"the model gave no text (finish reason: {finish})", "status": None}
    elif text is None:
        reply.text = ""
    return reply


def _usage(counted: Any) -> dict[str, int] | None:
    """Tokens as all providers count them: those of the prompt with what the provider still had, or kept, of it."""
    if not isinstance(counted, dict):
        return None
    read, written = counted.get("cache_read_input_tokens") or 0, counted.get("cache_creation_input_tokens") or 0
    asked, said = counted.get("input_tokens"), counted.get("output_tokens")
    sides = {
        "input_tokens": asked + read + written if isinstance(asked, int) else None,
        "output_tokens": said,
        "cached_input_tokens": read or None,
        "cache_write_input_tokens": written or None,
    }
    return {side: tokens for side, tokens in sides.items() if isinstance(tokens, int)}
