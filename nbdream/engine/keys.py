"""The call key, and the draws of a stream: which of several identical requests this one is.

A key is ``<128 bits of the sha256 of the canonical request, in hexadecimal>:<draw>``, so that the draws of one request are neighbours on
disk. (All 256 bits would make the index of a million replies twice as large, and storing the last of them half as fast.) The canonical
request is the JSON of model identity, messages, parameters and seed, with sorted keys; ``1.0`` is ``1``, since providers do
not tell them apart, and what is None was not given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from nbdream import quickjson
from nbdream.llms.base import Message, Request, plain_json

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"), check_circular=False)


def call_key(identity: Mapping[str, Any], request: Request) -> str:
    """The key under which the reply to ``request`` is stored."""
    return f"{Keys(identity).digest(request)}:{0 if request.greedy else request.draw}"


class Keys:
    """Digests of requests to one model. What many requests share is encoded once."""

    def __init__(self, identity: Mapping[str, Any]) -> None:
        self._model = _canonical(plain_json(identity, "identity"))
        self._params: Mapping[str, Any] | None = None
        self._params_text = b""
        self._schema: Mapping[str, Any] | None = None
        self._schema_text = b""

    def digest(self, request: Request) -> str:
        """The digest of the canonical request, without its draw."""
        if request.params is not self._params:
            given = {name: plain_json(value, name) for name, value in request.params.items() if value is not None}
            self._params, self._params_text = request.params, _canonical(given)
        if request.schema is not self._schema:
            told = b"" if request.schema is None else b',"schema":' + _canonical(plain_json(request.schema, "schema"))
            self._schema, self._schema_text = request.schema, told
        seed = b"null" if request.seed is None else b"%d" % int(request.seed)
        parts = (_messages(request.messages), self._model, self._params_text, seed, self._schema_text)
        return hashlib.sha256(b'{"messages":%b,"model":%b,"params":%b,"seed":%b%b}' % parts).hexdigest()[:32]


def _canonical(value: Any) -> bytes:
    return _encoder.encode(value).encode("utf-8", "surrogatepass")


def _messages(messages: Sequence[Message]) -> bytes:
    """The JSON of messages, with sorted keys. Nearly all are of a role and a content: these are written without the encoder's detours."""
    parts = []
    for message in messages:
        if len(message) == 2 and type(message.get("content")) is str and type(message.get("role")) is str:
            parts.append(b'{"content":%b,"role":%b}' % (quickjson.quoted(message["content"]), quickjson.quoted(message["role"])))
        else:
            parts.append(_canonical(message))
    return b"[%b]" % b",".join(parts)


class Draws:
    """Numbers the requests of one stream: with k draws a row, the j-th identical request takes j·k … j·k+k−1.

    A request declared greedy is one and the same at every draw. ``attempt`` sets the draws of a repeated attempt apart.
    """

    def __init__(self, identity: Mapping[str, Any], draws: int = 1, attempt: str = "") -> None:
        self._keys = Keys(identity)
        self._follow_ups = Keys(identity)  # asked for on the engine's thread
        self._draws = draws
        self._suffix = f":{attempt}" if attempt else ""
        self._seen: dict[bytes, int] = {}

    def number(self, request: Request) -> list[tuple[str, int]]:
        """The key and the draw of each time that ``request`` is to be answered."""
        digest = self._keys.digest(request)
        if request.greedy:
            return [(f"{digest}:0{self._suffix}", 0)] * self._draws
        short = bytes.fromhex(digest)  # a million rows are counted here
        first = self._seen.get(short, 0)
        self._seen[short] = first + self._draws
        if self._draws == 1:
            return [(f"{digest}:{first}{self._suffix}", first)]
        return [(f"{digest}:{draw}{self._suffix}", draw) for draw in range(first, first + self._draws)]

    def follow_up(self, request: Request) -> str:
        """The key of a request that mends the reply to another; it has the draw of that one."""
        return f"{self._follow_ups.digest(request)}:{0 if request.greedy else request.draw}{self._suffix}"
