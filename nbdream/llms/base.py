"""A language model: what it is (`identity`), what it takes (`settings`), and one call that its provider implements.

A provider writes ``complete`` (a service: the engine has as many calls in flight as it bears) or ``complete_batch`` (a local
model: one batch at a time). All that is public is here, once: it goes through the open session, so that it is cached and paid once.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import logging
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from nbdream import context, prices
from nbdream.errors import ArgumentError, ModelError, nearest
from nbdream.fingerprint import function_code
from nbdream.llms.parameters import checked

if TYPE_CHECKING:
    from nbdream.llms.batch_service import BatchService

logger = logging.getLogger(__name__)

Message = Mapping[str, str]
"""``{"role": "system" | "user" | "assistant", "content": …}``."""

IGNORED = frozenset({
    "adaptive_batch_size", "batch_scheduler_buffer_size", "cache_folder_path", "hf_log", "log_level", "progress_interval",
    "save_num_proc", "save_num_shards", "verbose",
})  # fmt: skip
"""Arguments that older programs give and that have no effect: taken here, in one place."""

COMMON = frozenset({"temperature", "top_p", "max_tokens", "stop", "logit_bias", "extra"})


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model. ``params`` holds only what was given, under the provider's names (see `LLM.settings`)."""

    messages: tuple[Message, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    draw: int = 0
    """The ordinal among identical requests; the engine gives it."""
    schema: Mapping[str, Any] | None = None
    """The JSON schema that the reply's text is to fit; each provider has its own way to see to it."""

    @property
    def greedy(self) -> bool:
        """Whether the request was declared greedy: every draw of it is the same, so it is asked once."""
        return self.params.get("temperature") == 0

    @property
    def sampling_seed(self) -> int | None:
        """The seed to hand to a provider that takes one: the user's for the first draw, another for each further draw."""
        if self.seed is None or self.draw == 0:
            return self.seed
        mixed = hashlib.sha256(f"{self.seed}:{self.draw}".encode()).digest()
        return int.from_bytes(mixed[:4], "big") >> 1

    @property
    def prompt(self) -> str:
        """The text of the last message."""
        return self.messages[-1]["content"] if self.messages else ""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What a provider's headers say about requests: how many a period allows, how many are left, and when all are back (seconds)."""

    limit: int
    remaining: int
    reset: float


@dataclass(slots=True)
class Reply:
    """What came back for a request: ``text``, or ``error`` with its ``kind``.

    Kinds: ``transient`` (asking again may help), ``row`` (this request is refused), ``all`` (every request would be: wrong key,
    unknown model). Also in ``error``: ``message``, ``status``, ``retry_after`` in seconds, ``unreachable`` (no connection was made),
    ``no_completion`` (what came is no reply at all: it may be another kind of server).
    """

    text: str | None = None
    error: dict[str, Any] | None = None
    usage: dict[str, int] | None = None
    model: str | None = None
    finish_reason: str | None = None
    made: str | None = None
    by: str | None = None
    """The step that paid for it."""
    cached: bool = False
    batch: bool = False
    """Whether it came from a batch service, at half the price."""
    cost: float | None = None
    """Dollars, by the price that held when it was made; None where that is not known."""
    earlier: tuple[Reply, ...] = ()
    """The replies to requests that this one mends; not stored with it: each has its own key."""
    rate: RateLimit | None = None
    """What came with it about the provider's limits; not stored."""

    def to_json(self) -> dict[str, Any]:
        """What is stored."""
        names = ("error", "text", "usage", "model", "finish_reason", "made", "by", "cost")
        stored = {name: value for name in names if (value := getattr(self, name)) is not None}
        return {**stored, "batch": True} if self.batch else stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """A stored reply; ``ValueError`` when it is none."""
        get = stored.get
        text, error, usage = get("text"), get("error"), get("usage")
        if not (
            (type(text) is str or (text is None and type(error) is dict and type(error.get("message")) is str))
            and (error is None or type(error) is dict)
            and (usage is None or type(usage) is dict)
        ):
            raise ValueError("it holds something that is not a reply")
        cost = get("cost") if type(get("cost")) in (float, int) else None
        return cls(text, error, usage, get("model"), get("finish_reason"), get("made"), get("by"), True, get("batch") is True, cost)


def failure(kind: str, message: str, status: int | None = None, *, said: str | None = None, **more: Any) -> Reply:
    """A reply that is an error; ``said`` is what the model really said, if anything."""
    return Reply(text=said, error={"kind": kind, "message": message, "status": status, **more})


class LLM:
    """A language model. Subclasses implement ``complete`` or ``complete_batch``; a notebook cell may define one."""

    provider: ClassVar[str] = ""
    """What the class is called in a model's identity; default: the name of the class."""
    accepts: ClassVar[frozenset[str]] = COMMON
    """The generation parameters that the provider takes."""
    aliases: ClassVar[Mapping[str, str]] = {"max_new_tokens": "max_tokens"}
    """Other names of them."""

    model_name: str = ""
    system_prompt: str | None = None
    max_concurrency: int | None = None
    """The most calls in flight; no part of any key."""
    adaptive: ClassVar[bool] = True
    """Whether the number of calls in flight finds itself; a local model's is ``max_concurrency``."""
    batch_size: int = 16
    """The most requests in one ``complete_batch``; no part of any key."""
    price: Mapping[str, float] | None = None
    """Dollars per million tokens, ``{"input": …, "output": …}``, where the user says so; no part of any key."""
    retry_on_fail: bool = True
    defaults: Mapping[str, Any] = {}
    """Generation parameters of every call that does not say otherwise."""
    model_card: str | None = None
    license: str | None = None
    citation: str | None = None

    def __init__(
        self,
        model_name: str = "",
        *,
        system_prompt: str | None = None,
        identity: Any = None,
        max_concurrency: int | None = None,
        price: Mapping[str, float] | None = None,
        **params: Any,
    ) -> None:
        self.model_name = model_name
        self.system_prompt = system_prompt
        self.price = prices.given(price)
        checked("system_prompt", system_prompt)
        checked("max_concurrency", max_concurrency)
        self.max_concurrency = max_concurrency
        if identity is not None:
            self.identity = {"provider": self._kind(), "identity": plain_json(identity, "identity")}
        for name in params:
            if name not in self.parameters() | IGNORED:
                arguments = {*inspect.signature(type(self)).parameters, *self.parameters()} - {"params", "kwargs"}
                raise ArgumentError(f"{type(self).__name__} takes no argument {name!r}", nearest(name, arguments, "it takes"))
        self.defaults = self.settings(**params)

    # --- what a provider implements -----------------------------------------------------------------------------------

    async def complete(self, request: Request) -> Reply:
        """Answer one request. What goes wrong is a `failure`, not an exception."""
        if not self.batched:
            raise NotImplementedError(f"{type(self).__name__} implements neither complete nor complete_batch")
        return (await self.complete_batch([request]))[0]

    async def complete_batch(self, requests: list[Request]) -> list[Reply]:
        """Answer requests together, in order. Cancelled, it leaves the model ready for the next batch."""
        return list(await asyncio.gather(*map(self.complete, requests)))

    def batch_service(self) -> BatchService:
        """The provider's batch service, where it has one."""
        raise ModelError(f"{self.display_name} has no batch service", "leave --batch out")

    async def aclose(self) -> None:
        """Let go of connections and processes; called on the engine's loop when it stops."""

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What makes it this model, and so is part of every call's key. Default: provider and model, and code that is not ours."""
        made: dict[str, Any] = {"provider": self._kind(), "model": self.model_name}
        if not type(self).__module__.startswith("nbdream."):
            made["code"] = function_code(type(self))
        return made

    # --- what a step asks ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def batched(self) -> bool:
        """Whether it answers in batches, one at a time."""
        return type(self).complete_batch is not LLM.complete_batch

    def parameters(self) -> frozenset[str]:
        """The names of the generation parameters it takes, other names included."""
        return self.accepts | frozenset(self.aliases)

    def settings(self, **given: Any) -> dict[str, Any]:
        """``given`` over the model's own defaults, under the provider's names, without what is None.

        Raises `ArgumentError` for a parameter that the provider does not take, before any call is paid for.
        """
        made = dict(self.defaults)
        for name, value in given.items():
            if name in IGNORED:
                logger.debug("%s has no effect", name)
            elif name not in self.parameters():
                raise ArgumentError(f"{self.display_name} takes no parameter {name!r}", nearest(name, self.parameters(), "it takes"))
            elif value is not None:
                plain = checked(name, plain_json(value, name))
                made[self.aliases.get(name, name)] = [plain] if name == "stop" and isinstance(plain, str) else plain
        return made

    def messages(self, prompt: str | Sequence[Message], system: str | None = None) -> tuple[Message, ...]:
        """The messages of a prompt, after ``system`` or the model's own system prompt."""
        system = self.system_prompt if system is None else system
        before: tuple[Message, ...] = () if system is None else ({"role": "system", "content": system},)
        if isinstance(prompt, str):
            return (*before, {"role": "user", "content": prompt})
        if isinstance(prompt, (list, tuple)) and prompt and all(isinstance(part, Mapping) for part in prompt):
            return (*before, *(dict(part) for part in prompt))
        hint = "give strings, or lists of messages with role and content"
        raise ArgumentError(f"a prompt is a {type(prompt).__name__}, not a text", hint)

    def requests(
        self,
        prompts: Iterable[str | Sequence[Message]],
        *,
        system: str | None = None,
        seed: int | None = None,
        schema: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> Iterator[Request]:
        """The requests for ``prompts``, made as they are asked for; parameters are checked at once."""
        settings = self.settings(**params)
        return (Request(self.messages(prompt, system), settings, seed, schema=schema) for prompt in prompts)

    def count_tokens(self, value: str) -> int:
        """How many tokens a text has; a guess of four bytes each where the tokenizer is not at hand."""
        return math.ceil(len(value.encode()) / 4)

    def unload_model(self) -> None:
        """Free what a local model holds; nothing for a service."""

    @property
    def display_name(self) -> str:
        """What tables and messages call it."""
        return self.model_name or type(self).__name__

    @property
    def card(self) -> dict[str, Any]:
        """What a data card says about it."""
        return {
            "kind": type(self).__name__,
            "name": self.display_name,
            "card_url": self.model_card,
            "license": self.license,
            "citation": self.citation,
        }

    @property
    def __nbdream_fingerprint__(self) -> dict[str, Any]:
        """What a recipe counts of it: who it is and what it adds to every call."""
        adds = {"system_prompt": self.system_prompt, "defaults": dict(self.defaults) or None}
        return {"identity": self.identity, **{name: value for name, value in adds.items() if value is not None}}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model_name!r})" if self.model_name else f"{type(self).__name__}()"

    def _kind(self) -> str:
        return self.provider or type(self).__name__

    # --- what a person calls ------------------------------------------------------------------------------------------

    def __call__(self, text: str, **params: Any) -> str:
        """The reply to one prompt."""
        return self.generate([text], **params)[0]

    def generate(self, texts: Iterable[str], **params: Any) -> list[str]:
        """The reply to each prompt, in order."""
        return cast(list[str], self.run(texts, **{**params, "n": 1, "return_generator": False}))

    def run(
        self,
        prompts: Iterable[str | Sequence[Message]],
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        n: int = 1,
        stop: str | list[str] | None = None,
        repetition_penalty: float | None = None,
        logit_bias: dict[str, float] | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
        force: bool = False,
        cache_only: bool = False,
        total_num_prompts: int | None = None,
        return_generator: bool = False,
        **params: Any,
    ) -> Any:
        """The reply to each prompt, in order: a list of texts, of lists of ``n`` texts, or a generator of them.

        ``batch_size`` is the most requests at a time. ``force`` asks again what is already stored, ``cache_only`` asks nothing.
        """
        given: dict[str, Any] = {
            "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "stop": stop,
            "repetition_penalty": repetition_penalty, "logit_bias": logit_bias,
        }  # fmt: skip
        requests = self.requests(prompts, seed=seed, **{name: value for name, value in given.items() if value is not None}, **params)
        stream = context.current().engine.stream(
            self,
            requests,
            draws=n,
            total=total_num_prompts,
            limit=batch_size,
            cache_only=cache_only,
            attempt=uuid.uuid4().hex if force else "",
        )
        if return_generator:
            return (_texts(replies, row, n) for row, replies in enumerate(stream))
        rows = list(stream)
        failed = [row for row, replies in enumerate(rows) if any(reply.error for reply in replies)]
        if len(failed) > 1:
            error = next(reply.error for reply in rows[failed[0]] if reply.error)
            raise ModelError(f"{len(failed)} of {len(rows)} prompts failed; the first, number {failed[0]}: {error['message']}", _KEPT)
        return [_texts(replies, row, n) for row, replies in enumerate(rows)]


_KEPT = "the other replies are stored: asked again, they cost nothing"


def _texts(replies: Sequence[Reply], row: int, n: int) -> Any:
    for reply in replies:
        if reply.error:
            raise ModelError(f"prompt {row} failed: {reply.error['message']}", _KEPT if row else None)
    texts = [reply.text for reply in replies]
    return texts if n > 1 else texts[0]


def plain_json(value: Any, name: str) -> Any:
    """``value`` as canonical JSON data: tuples are lists and whole floats are whole numbers, since providers do not tell them apart."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() else float(value)
    if isinstance(value, Mapping) and all(isinstance(key, str | int) for key in value):
        return {str(key): plain_json(part, name) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(part, name) for part in value]
    if hasattr(value, "tolist"):  # numpy's numbers
        return plain_json(value.tolist(), name)
    shown = "not a finite number" if isinstance(value, float) else f"a {type(value).__name__}"
    raise ArgumentError(f"the parameter {name!r} is {shown}", "give numbers, texts, lists or dicts: they are sent as JSON")
