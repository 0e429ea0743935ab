"""A Messages API on loopback: `OpenAIServer` with Anthropic's paths, headers and shapes.

with AnthropicServer(key="sk-ant-1") as server:
    llm = Anthropic("claude-test", base_url=server.base_url, api_key="sk-ant-1")
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.servers.openai_server import STRANGE, Body, Fault, OpenAIServer

VERSION = "2026-10-21"
REFUSED = {"logit_bias", "n", "seed", "temperature", "top_k", "top_p"}
KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip


class AnthropicServer(OpenAIServer):
    """The server. It wants the version and the length limit that the API wants, and refuses what the API refuses."""

    @property
    def base_url(self) -> str:
        """What `Anthropic` is given."""
        return f"http://127.0.0.1:{self.port}"

    def _route(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/messages", self._chat)

    async def _answer(self, request: web.Request, body: Body) -> web.StreamResponse:
        if request.headers.get("anthropic-version") != VERSION:
            return self._refused("anthropic-version: header is required")
        if type(body.get("max_tokens")) is not int:
            return self._refused("max_tokens: Field required")
        if wrong := REFUSED & body.keys():
            return self._refused(f"{min(wrong)}: Extra inputs are not permitted")
        if not body["messages"] or any(message["role"] not in ("user", "assistant") for message in body["messages"]):
            return self._refused("messages: Input should be 'user' or 'assistant'")
        return await super()._answer(request, body)

    def _refused(self, message: str) -> web.Response:
        return web.json_response(self._error(400, message), status=400)

    def _key_sent(self, request: web.Request) -> str:
        return request.headers.get("Authorization", "").removeprefix("Bearer ")

    def _error(self, status: int, message: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": KINDS.get(status, "api_error"), "message": message}, "request_id": "req_1"}

    def _quota(self) -> tuple[int, dict[str, Any]]:
        return 400, self._error(400, "Your credit balance is too low to access the Anthropic API.")

    def _saying(self, completion: dict[str, Any], text: str) -> dict[str, Any]:
        completion["content"] = [{"type": "text", "text": text}]
        return completion

    def _strange(self, completion: dict[str, Any], fault: str) -> dict[str, Any]:
        if fault == "refusal":
            details = {"type": "refusal", "category": "bio", "explanation": None}
            return completion | {"stop_reason": "refusal", "stop_details": details, "content": []}
        if fault == "no_text":
            return completion | {"stop_reason": "max_tokens", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "x"}]}
        raise ValueError(f"{fault!r} is none of {STRANGE}")

    def _completion(self, body: Body) -> dict[str, Any]:
        text, (asked, said) = self._said(body)
        return {
            "id": f"msg_{self.calls}",
            "type": "message",
            "role": "assistant",
            "model": f"{body['model']}-20260101",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": asked, "output_tokens": said},
        }


__all__ = ["AnthropicServer", "Fault"]
