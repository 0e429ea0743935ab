"""The process that holds one local model: ``python -P -m nbdream.workers.model``, JSON lines in and out.

It reads ``{"op": …, "id": …}`` lines from stdin and answers each with one line of the same id on stdout; what
libraries print goes to stderr. The first line loads the model. Requests are generated together and answered as they end, in any
order. It ends when its stdin ends or its parent is gone.

    load      {"spec": {…}}                            -> {"kind", "context", "device", "dtype", "rows"}
    about     {}                                       -> the same
    generate  {"request": {"messages", "params", "seed", "draw", "schema"}}
                                                       -> {"text", "usage", "finish_reason"} or {"failure": {…}}, when it is there
    score     {"messages", "answer"}                   -> {"nll", "tokens", "input_tokens"} or {"failure": {…}}: how likely the
                                                          model holds this answer; its tokens and their negative log-likelihood
    count     {"texts": […]}                           -> {"counts": […]}
    stop      gives the request of this id up, between two tokens; not answered
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from nbdream.errors import MissingPackageError, ModelError, NbDreamError
from nbdream.workers.chat import prompt_text
from nbdream.workers.failures import hint_for
from nbdream.workers.guided import Grammars
from nbdream.workers.loading import load
from nbdream.workers.sampling import Row, RowParams, cut

if TYPE_CHECKING:
    from nbdream.workers.generation import RowByRow
    from nbdream.workers.in_batches import InBatches
    from nbdream.workers.scoring import Scoring

DEFAULT_MAX_NEW_TOKENS = 256
"""How much is written at most where neither the request nor the model's generation_config says it."""

CHECK = "look at the model's settings: device, dtype, adapter_name, quantization_config, chat_prompt_template"

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")
OF_A_BATCH = ("typical_p", "max_length", "min_length", "forced_eos_token_id", "num_beams", "num_return_sequences", "stop_strings")
"""Options of `generate` that hold for a whole batch: a row's neighbours would decide what it says."""
PARENT_SECONDS = 2.0


def describe(error: BaseException, model: str) -> dict[str, Any]:
    """An error as JSON: a kind that the kernel knows, one line, a hint."""
    if isinstance(error, ModuleNotFoundError) and not isinstance(error, NbDreamError):
        package = (error.name or "a package").partition(".")[0]
        return {"kind": "package", "message": f"{package} is not installed", "hint": "pip install 'nbdream[local]'"}
    if isinstance(error, NbDreamError):
        kind = "package" if isinstance(error, MissingPackageError) else "model"
        return {"kind": kind, "message": error.message, "hint": error.hint}
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    if "trust_remote_code" in str(error):
        return {"kind": "model", "message": f"{model} brings code of its own", "hint": "read it, then give trust_remote_code=True"}
    return {"kind": "model", "message": f"{model} cannot be used: {type(error).__name__}: {said[:300]}", "hint": hint_for(said) or CHECK}


def row_seed(request: Mapping[str, Any]) -> int:
    """The seed of a row's random numbers: from what is asked, the seed and the draw, never from its neighbours."""
    told = json.dumps([list(request["messages"]), request.get("seed"), request.get("draw", 0)], sort_keys=True, ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:8], "big")


class LocalModel:
    """A loaded model, and the requests it is at work on."""

    def __init__(self, spec: dict[str, Any], say: Callable[[int, dict[str, Any]], None], stopped: Collection[int]) -> None:
        """``say`` is told of each reply; ``stopped`` are the numbers of requests that were given up."""
        from nbdream.workers.generation import writer
        from nbdream.workers.scoring import Scoring

        self.spec = spec
        self.say = say
        self.stopped = stopped
        self.model, self.tokenizer, self.kind = load(spec)
        self.tokenizer.padding_side = "left" if self.kind == "causal" else "right"
        self._take_defaults()
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token_id = self.pad_id
        head = self.model.get_output_embeddings()
        self.vocabulary = int(self.model.config.get_text_config().vocab_size if head is None else head.weight.shape[0])
        self.grammars = Grammars(self.tokenizer, self.vocabulary, self.ends)
        seq2seq = self.kind == "seq2seq"
        # The repetition penalty counts what is said, and for a causal model the prompt.
        self.before = [self.model.generation_config.decoder_start_token_id or self.pad_id] if seq2seq else []
        self.writer = writer(self.model, self, seq2seq=seq2seq, pad=self.pad_id)
        template = spec.get("chat_template")
        self.scoring = Scoring(self.model, self.tokenizer, self, seq2seq=seq2seq, pad=self.pad_id, template=template)

    def _take_defaults(self) -> None:
        """Keep the model's own sampling defaults for our sampler, and leave `generate` the special tokens only."""
        config = self.model.generation_config
        self.defaults = {name: getattr(config, name, None) for name in SAMPLING}
        if not getattr(config, "do_sample", False):
            self.defaults["temperature"] = 0.0
        elif self.defaults["temperature"] is None:
            self.defaults["temperature"] = 1.0
        for name in (*SAMPLING, *OF_A_BATCH):
            setattr(config, name, None)
        config.do_sample = False
        ends = config.eos_token_id if config.eos_token_id is not None else self.tokenizer.eos_token_id
        ends = ends if isinstance(ends, list | tuple) else [ends]
        self.ends = frozenset(end for end in ends if end is not None)
        pads = (self.tokenizer.pad_token_id, config.pad_token_id, *sorted(self.ends), 0)
        self.pad_id = next(pad for pad in pads if pad is not None)

    @property
    def context(self) -> int | None:
        """How many tokens the model takes, prompt and answer together; for seq2seq the prompt alone."""
        config = self.model.config.get_text_config() if hasattr(self.model.config, "get_text_config") else self.model.config
        known = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
        told = getattr(self.tokenizer, "model_max_length", None)
        sizes = [int(size) for size in (*known, told) if size and size < 1e9]
        return min(sizes) if sizes else None

    def about(self) -> dict[str, Any]:
        """What the kernel is told of the model."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        rows = self.writer.sizing.rows
        return {"kind": self.kind, "context": self.context, "device": str(self.model.device), "dtype": dtype, "rows": rows}

    def count(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, special tokens not counted."""
        return [len(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]] if texts else []

    def row_params(self, request: Mapping[str, Any], prompt_length: int) -> RowParams:
        """How a request is sampled: what it says, else what the model's makers said."""
        given = {name: value for name, value in request["params"].items() if value is not None}
        if "max_tokens" in given:
            given.setdefault("max_new_tokens", given.pop("max_tokens"))
        told = {name: value for name, value in self.defaults.items() if value is not None}
        merged = {**told, **{name: value for name, value in given.items() if name in SAMPLING}}
        longest = int(merged.pop("max_new_tokens", DEFAULT_MAX_NEW_TOKENS))
        if self.kind == "causal" and self.context is not None:
            longest = max(1, min(longest, self.context - prompt_length))
        stop = given.get("stop") or ()
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        special = {str(added): token for token, added in self.tokenizer.added_tokens_decoder.items() if added.special}
        ends = frozenset(special[text] for text in stops if text in special)
        bias = {int(token): float(value) for token, value in (given.get("logit_bias") or {}).items()}
        if strange := [token for token in bias if not 0 <= token < self.vocabulary]:
            raise ModelError(f"logit_bias names the token {strange[0]}", f"the model has {self.vocabulary} tokens, counted from 0")
        return RowParams(seed=row_seed(request), max_new_tokens=longest, stop=stops, ends=ends, logit_bias=bias, **merged)

    def tokens(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """A prompt as tokens."""
        text, special = prompt_text(self.tokenizer, messages, self.spec.get("chat_template"))
        ids = list(self.tokenizer(text, add_special_tokens=special)["input_ids"])
        first = self.tokenizer.bos_token_id
        return ids or [self.pad_id if first is None else first]

    def add(self, number: int, request: Mapping[str, Any]) -> None:
        """Line a request up; its reply is said when it is there."""
        prompt = self.tokens(request["messages"])
        if self.kind == "causal" and self.context is not None and len(prompt) >= self.context:
            message = f"the prompt has {len(prompt)} tokens, the model takes {self.context}"
            self.say(number, {"failure": {"kind": "row", "message": message, "status": None}})
            return
        if (known := self.model.get_input_embeddings().weight.shape[0]) <= max(prompt, default=0):
            message = f"the tokenizer knows token {max(prompt)}, and the model {known} tokens: they do not belong together"
            self.say(number, {"failure": {"kind": "row", "message": message, "status": None}})
            return
        guide = None if request.get("schema") is None else self.grammars.guide(request["schema"])
        self.writer.add(Row(number, prompt, self.row_params(request, len(prompt)), guide, self.before))

    def score(self, number: int, messages: Sequence[Mapping[str, str]], answer: str) -> None:
        """Line a question up: how likely the model holds an answer."""
        self.scoring.add(number, self.tokens(messages), messages, answer)

    @property
    def busy(self) -> list[RowByRow | InBatches | Scoring]:
        """Who has something to do."""
        return [part for part in (self.scoring, self.writer) if part.busy]

    def decode(self, ids: list[int]) -> str:
        """Tokens as text."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def gone(self, row: Row) -> bool:
        """Whether nobody waits for a row any more."""
        return row.number in self.stopped

    def done(self, row: Row) -> None:
        """Say the reply of a row that has ended."""
        if row.error is not None:
            self.say(row.number, {"failure": {"kind": "row", "message": row.error, "status": None}})
            return
        text, stopped = cut(self.decode(row.said), row.params.stop)
        usage = {"input_tokens": len(row.prompt), "output_tokens": len(row.said)}
        self.say(row.number, {"text": text, "usage": usage, "finish_reason": "stop" if stopped else row.ended})


class Server:
    """Reads requests, writes on while there are some, and says each reply as soon as it is there."""

    def __init__(self, source: TextIO, answers: TextIO) -> None:
        self.source = source
        self.answers = answers
        self.inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.stopped: set[int] = set()
        self.local: LocalModel | None = None
        self.name = "the model"

    def read(self) -> None:
        """Queue what comes in; a stop takes effect at once, and the end of the input ends the process."""
        for line in self.source:
            message = json.loads(line)
            if message["op"] == "stop":
                self.stopped.add(message["id"])
            else:
                self.inbox.put(message)
        os._exit(0)

    def say(self, number: int, answer: dict[str, Any]) -> None:
        """One line to the kernel."""
        self.answers.write(json.dumps({"id": number, **answer}) + "\n")
        self.answers.flush()

    def take(self, message: dict[str, Any]) -> None:
        """Answer a message, or line it up."""
        number = message["id"]
        self.name = message.get("spec", {}).get("name", self.name)
        if number in self.stopped:
            return
        try:
            if message["op"] == "load":
                self.local = LocalModel(message["spec"], self.say, self.stopped)
            if self.local is None:
                raise ModelError("no model is loaded")
            if message["op"] == "generate":
                self.local.add(number, message["request"])
            elif message["op"] == "score":
                self.local.score(number, message["messages"], message["answer"])
            elif message["op"] == "count":
                self.say(number, {"counts": self.local.count(message["texts"])})
            else:
                self.say(number, self.local.about())
        except Exception as error:
            self._failed([number], error)

    def serve(self) -> None:
        """Answer for ever."""
        threading.Thread(target=self.read, daemon=True).start()
        threading.Thread(target=exit_with_parent, args=(os.getppid(),), daemon=True).start()
        while True:
            busy = [] if self.local is None else self.local.busy
            if not busy or not self.inbox.empty():
                self.take(self.inbox.get())
                continue
            for part in busy:
                try:
                    part.step()
                except Exception as error:
                    self._failed([row.number for row in part.clear()], error)

    def _failed(self, numbers: list[int], error: Exception) -> None:
        traceback.print_exc()
        for number in numbers:
            self.say(number, {"error": describe(error, self.name)})


def exit_with_parent(parent: int) -> None:
    """End the process when its parent is gone: another child of the parent may hold our stdin open."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(0)


def main(server: type[Server] = Server) -> None:
    """Serve on stdin and stdout; what others print to stdout goes to stderr."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    server(sys.stdin, answers).serve()


if __name__ == "__main__":
    main()
