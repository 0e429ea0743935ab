"""The process that holds one local model: ``python -P -m nbdream.workers.model``, JSON lines in and out.

It reads ``{"op": …, "id": …}`` lines from stdin and answers each with one line of the same id on stdout; what
libraries print goes to stderr. The first line loads the model. It ends when its stdin ends or its parent is gone.

    load      {"spec": {…}}                            -> {"kind", "context", "device", "dtype"}
    about     {}                                       -> the same
    generate  {"requests": [{"messages", "params", "seed", "draw", "schema"}]}  -> {"replies": […]}
    count     {"texts": […]}                           -> {"counts": […]}
    stop      ends the generation that runs, between two tokens; not answered
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
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from nbdream.errors import MissingPackageError, ModelError, NbDreamError
from nbdream.workers.chat import prompt_text
from nbdream.workers.failures import hint_for
from nbdream.workers.guided import Grammars
from nbdream.workers.loading import load
from nbdream.workers.sampling import RowParams, RowSampler, RowStopper, cut

DEFAULT_MAX_NEW_TOKENS = 256
"""How much is written at most where neither the request nor the model's generation_config says it."""

BATCH_ROWS = 64
"""How many rows are generated together at most."""

CHECK = "look at the model's settings: device, dtype, adapter_name, quantization_config, chat_prompt_template"

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")
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
    """A loaded model that answers batches of requests."""

    def __init__(self, spec: dict[str, Any], stopping: threading.Event) -> None:
        self.spec = spec
        self.stopping = stopping
        self.model, self.tokenizer, self.kind = load(spec)
        self.tokenizer.padding_side = "left" if self.kind == "causal" else "right"
        self._take_defaults()
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token_id = self.pad_id
        self.grammars = Grammars(self.tokenizer, int(self.model.get_output_embeddings().weight.shape[0]))

    def _take_defaults(self) -> None:
        """Keep the model's own sampling defaults for our sampler, and leave `generate` the special tokens only."""
        config = self.model.generation_config
        self.defaults = {name: getattr(config, name, None) for name in SAMPLING}
        if not getattr(config, "do_sample", False):
            self.defaults["temperature"] = 0.0
        elif self.defaults["temperature"] is None:
            self.defaults["temperature"] = 1.0
        for name in (*SAMPLING, "typical_p", "max_length", "min_length", "num_beams", "num_return_sequences", "stop_strings"):
            setattr(config, name, None)
        config.do_sample = False
        ends = config.eos_token_id if config.eos_token_id is not None else self.tokenizer.eos_token_id
        self.end_ids = set(ends) if isinstance(ends, list | tuple) else {ends}
        pads = (self.tokenizer.pad_token_id, config.pad_token_id, *sorted(end for end in self.end_ids if end is not None), 0)
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
        return {"kind": self.kind, "context": self.context, "device": str(self.model.device), "dtype": dtype}

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
        bias = {int(token): float(value) for token, value in (given.get("logit_bias") or {}).items()}
        return RowParams(seed=row_seed(request), max_new_tokens=longest, stop=stops, logit_bias=bias, **merged)

    def tokens(self, request: Mapping[str, Any]) -> list[int]:
        """The prompt of a request as tokens."""
        text, special = prompt_text(self.tokenizer, request["messages"], self.spec.get("chat_template"))
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def generate(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One reply a request, in order. Rows of like length are generated together."""
        replies: list[dict[str, Any]] = [{} for _ in requests]
        prompts: dict[int, list[int]] = {}
        for index, request in enumerate(requests):
            ids = self.tokens(request)
            if self.kind == "causal" and self.context is not None and len(ids) >= self.context:
                message = f"the prompt has {len(ids)} tokens, the model takes {self.context}"
                replies[index] = {"error": {"kind": "row", "message": message, "status": None}}
            else:
                prompts[index] = ids
        order = sorted(prompts, key=lambda index: (len(prompts[index]), index))
        for start in range(0, len(order), BATCH_ROWS):
            rows = order[start : start + BATCH_ROWS]
            made = self._batch([requests[row] for row in rows], [prompts[row] for row in rows])
            for row, reply in zip(rows, made, strict=True):
                replies[row] = reply
        return replies

    def _batch(self, requests: list[Mapping[str, Any]], prompts: list[list[int]]) -> list[dict[str, Any]]:
        """A batch; when the device's memory does not hold it, its halves."""
        import torch

        try:
            return self._together(requests, prompts)
        except torch.OutOfMemoryError:
            if len(requests) == 1:
                return [{"error": {"kind": "row", "message": "the device has no memory left for this row", "status": None}}]
        torch.cuda.empty_cache()
        half = len(requests) // 2
        return self._batch(requests[:half], prompts[:half]) + self._batch(requests[half:], prompts[half:])

    def _together(self, requests: list[Mapping[str, Any]], prompts: list[list[int]]) -> list[dict[str, Any]]:
        import torch

        rows = [self.row_params(request, len(ids)) for request, ids in zip(requests, prompts, strict=True)]
        width = max(1, *(len(ids) for ids in prompts))
        tokens = torch.full((len(rows), width), self.pad_id)
        mask = torch.zeros_like(tokens)
        for row, ids in enumerate(prompts):
            place = slice(width - len(ids), width) if self.kind == "causal" else slice(0, len(ids))
            tokens[row, place] = torch.tensor(ids, dtype=tokens.dtype)
            mask[row, place] = 1
        begin = width if self.kind == "causal" else 1
        begins = [width - len(ids) for ids in prompts] if self.kind == "causal" else [0] * len(rows)
        device = self.model.device
        guide = self.grammars.guide([request.get("schema") for request in requests])
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=tokens.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=max(row.max_new_tokens for row in rows),
                pad_token_id=self.pad_id,
                eos_token_id=[end for end in self.end_ids if end is not None] or None,
                logits_processor=[*([guide] if guide is not None else []), RowSampler(rows, begins)],
                stopping_criteria=[RowStopper(rows, begin, self._decode, self.stopping.is_set)],
            )
        said = out[:, begin:].tolist()
        return [self._reply(ids, row, len(prompt)) for ids, row, prompt in zip(said, rows, prompts, strict=True)]

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _reply(self, ids: list[int], row: RowParams, prompt_length: int) -> dict[str, Any]:
        """A reply from what a row said, up to its own end."""
        end = next((place for place, token in enumerate(ids) if token in self.end_ids), None)
        ids = ids[: row.max_new_tokens if end is None else min(end, row.max_new_tokens)]
        ended = end is not None and end <= len(ids)
        text, stopped = cut(self._decode(ids), row.stop)
        usage = {"input_tokens": prompt_length, "output_tokens": len(ids)}
        return {"text": text, "usage": usage, "finish_reason": "stop" if ended or stopped else "length"}


class Server:
    """Reads requests, answers them one after the other."""

    def __init__(self, source: TextIO, answers: TextIO) -> None:
        self.source = source
        self.answers = answers
        self.stopping = threading.Event()
        self.waiting: queue.Queue[dict[str, Any]] = queue.Queue()
        self.stopped: set[int] = set()
        self.current = -1
        self.local: LocalModel | None = None

    def read(self) -> None:
        """Queue what comes in; a stop takes effect at once, and the end of the input ends the process."""
        for line in self.source:
            message = json.loads(line)
            if message["op"] == "stop":
                self.stopped.add(message["id"])
                if message["id"] == self.current:
                    self.stopping.set()
            else:
                self.waiting.put(message)
        os._exit(0)

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """What is said to one message."""
        if message["op"] == "load":
            self.local = LocalModel(message["spec"], self.stopping)
            return self.local.about()
        if self.local is None:
            raise ModelError("no model is loaded")
        if message["op"] == "about":
            return self.local.about()
        if message["op"] == "count":
            return {"counts": self.local.count(message["texts"])}
        return {"replies": self.local.generate(message["requests"])}

    def serve(self) -> None:
        """Answer for ever."""
        threading.Thread(target=self.read, daemon=True).start()
        threading.Thread(target=exit_with_parent, args=(os.getppid(),), daemon=True).start()
        name = "the model"
        while True:
            message = self.waiting.get()
            name = message.get("spec", {}).get("name", name)
            # In this order: a stop that comes after the look into `stopped` finds `current` and sets the event.
            self.current = message["id"]
            self.stopping.clear()
            said: dict[str, Any] = {}
            if self.current not in self.stopped:
                try:
                    said = self.answer(message)
                except Exception as error:
                    said = {"error": describe(error, name)}
                    traceback.print_exc()
            if self.current in self.stopped:
                said = {"stopped": True}
            self.answers.write(json.dumps({"id": message["id"], **said}) + "\n")
            self.answers.flush()


def exit_with_parent(parent: int) -> None:
    """End the process when its parent is gone: another child of the parent may hold our stdin open."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(0)


def main() -> None:
    """Serve on stdin and stdout; what others print to stdout goes to stderr."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    Server(sys.stdin, answers).serve()


if __name__ == "__main__":
    main()
