"""The process that holds a classifier or an embedder: ``python -P -m nbdream.workers.encoder``, JSON lines in and out.

It reads and writes as `nbdream.workers.model` does.

    load      {"spec": {"serves": "labels" | "vectors", …}}      -> what ``about`` says
    about     {}                                                 -> {"context", "device", "dtype"}, and {"labels", "multi"} or {"dims"}
    labels    {"texts", "truncate", "batch_size", "first"}       -> {"scores"}: a probability a label, for each text
    vectors   {"texts", "truncate", "batch_size", "first",
               "instruction"}                                    -> {"vectors"}: base64 of float32, little-endian, a row a text
"""

from __future__ import annotations

import base64
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nbdream.errors import DataError, ModelError
from nbdream.optional import require
from nbdream.trainers.completion import SANE_LENGTH
from nbdream.workers.loading import check_folder, pick_device, pick_dtype, spare_threads
from nbdream.workers.model import Server, describe, main

if TYPE_CHECKING:
    import numpy as np


class Encoder(Protocol):
    """A loaded model that reads texts."""

    def about(self) -> dict[str, Any]:
        """What the kernel is told of it."""

    def answer(self, texts: list[str], batch_size: int, message: dict[str, Any]) -> dict[str, Any]:
        """What it says of texts; ``message`` is the whole question."""


class Classifier:
    """A model with a head for labels."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.model, self.tokenizer = load_classifier(spec)
        config = self.model.config
        self.multi = bool(spec["multi"] if spec.get("multi") is not None else config.problem_type == "multi_label_classification")
        self.labels = [str(config.id2label[number]) for number in range(config.num_labels)]
        self.context = _limit(self.tokenizer, config)

    def about(self) -> dict[str, Any]:
        """Its labels, and where it is."""
        told = {"context": self.context, "device": str(self.model.device), "dtype": str(self.model.dtype).removeprefix("torch.")}
        return {**told, "labels": self.labels, "multi": self.multi}

    def answer(self, texts: list[str], batch_size: int, message: dict[str, Any]) -> dict[str, Any]:
        """The probability of each label: they add up to one, or with several labels a text each stands by itself."""
        import torch

        rows = _tokens(self.tokenizer, texts, self.context, message)
        scores: list[Any] = [None] * len(rows)
        ordered = sorted(range(len(rows)), key=lambda number: -len(rows[number]["input_ids"]))
        for start in range(0, len(rows), batch_size):
            numbers = ordered[start : start + batch_size]
            inputs = self.tokenizer.pad([rows[number] for number in numbers], return_tensors="pt").to(self.model.device)
            with torch.inference_mode():
                logits = self.model(**inputs).logits.float()
            made = (logits.sigmoid() if self.multi else logits.softmax(1)).tolist()
            for number, row in zip(numbers, made, strict=True):
                scores[number] = row
        return {"scores": scores}


class Sentences:
    """A model of sentence-transformers."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.model = load_sentences(spec)
        limit = self.model.max_seq_length
        self.context = limit if limit is not None and limit < SANE_LENGTH else None

    def about(self) -> dict[str, Any]:
        """How long its vectors are, and where it is."""
        told = {"device": str(self.model.device), "dtype": str(self.model.dtype).removeprefix("torch.")}
        return {**told, "context": self.context, "dims": self.model.get_embedding_dimension()}

    def answer(self, texts: list[str], batch_size: int, message: dict[str, Any]) -> dict[str, Any]:
        """The vectors, each of length one."""
        instruction = message.get("instruction")
        if self.model.tokenizer is not None and not message["truncate"]:
            whole = [(instruction or "") + text for text in texts]
            _tokens(self.model.tokenizer, whole, self.context, message)
        found: np.ndarray = self.model.encode(
            texts, prompt=instruction, batch_size=batch_size, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        return {"vectors": base64.b64encode(found.astype("<f4").tobytes()).decode()}


def load_classifier(spec: dict[str, Any]) -> tuple[Any, Any]:
    """The model (in evaluation mode) and its tokenizer."""
    import transformers

    device, common = _begin(spec)
    adapter = spec.get("adapter")
    options = {**common, "dtype": pick_dtype(spec.get("dtype"), device)}
    if spec.get("device_map") is not None:
        options["device_map"] = spec["device_map"]
    if spec.get("labels") is not None:  # an adapter's, which its base knows nothing of
        options |= {"num_labels": len(spec["labels"]), "id2label": dict(enumerate(spec["labels"])), "ignore_mismatched_sizes": True}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(spec["model"], **options)
    if "device_map" not in options:
        model = model.to(device)
    home = Path(adapter) if adapter is not None and (Path(adapter) / "tokenizer_config.json").is_file() else None
    tokenizer = transformers.AutoTokenizer.from_pretrained(*([home] if home else [spec["model"]]), **({} if home else common))
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    if adapter is not None:
        model = require("peft", "local").PeftModel.from_pretrained(model, adapter, **spec.get("adapter_options", {}))
    spare_threads(model)
    return model.eval(), tokenizer


def load_sentences(spec: dict[str, Any]) -> Any:
    """The model (in evaluation mode); a plain encoder is given the mean of its tokens' vectors as pooling."""
    device, common = _begin(spec)
    sentence_transformers = require("sentence_transformers", "train")
    model = sentence_transformers.SentenceTransformer(
        spec["model"],
        device=device,
        model_kwargs={"dtype": pick_dtype(spec.get("dtype"), device)},
        local_files_only=Path(spec["model"]).is_dir(),
        **common,
    )
    if spec.get("adapter") is not None:
        adapted = require("peft", "local").PeftModel.from_pretrained(model.transformers_model, spec["adapter"])
        adapted.merge_and_unload()  # within the model itself
    spare_threads(model)
    return model.eval()


def _begin(spec: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The device, and what every loader takes; folders are looked through first."""
    for folder in (spec["model"], spec.get("adapter")):
        if folder is not None and Path(folder).is_dir():
            check_folder(Path(folder))
    common: dict[str, Any] = {"revision": spec["revision"]} if spec.get("revision") else {}
    # Said either way: left out, the library asks whoever is at standard input, which is where requests come from.
    common["trust_remote_code"] = bool(spec.get("trust_remote_code"))
    return pick_device(spec.get("device")), common


def _limit(tokenizer: Any, config: Any) -> int | None:
    """How many tokens a text may have."""
    told = [getattr(tokenizer, "model_max_length", None), getattr(config.get_text_config(), "max_position_embeddings", None)]
    return min((int(size) for size in told if size and 0 < size < SANE_LENGTH), default=None)


def _tokens(tokenizer: Any, texts: Sequence[str], limit: int | None, message: dict[str, Any]) -> list[dict[str, Any]]:
    """Each text as the tokenizer gives it. `DataError` names one that is too long, unless it may be cut."""
    cut = {"truncation": True, "max_length": limit} if message["truncate"] and limit is not None else {"truncation": False}
    made = tokenizer(list(texts), **cut, verbose=False)
    for number, ids in enumerate(made["input_ids"]):
        if limit is not None and len(ids) > limit:
            row = message.get("first", 0) + number + 1
            raise DataError(f"text {row} has {len(ids)} tokens, and the model takes {limit}", "truncate=True cuts it")
    return [{name: made[name][number] for name in made} for number in range(len(texts))]


SERVES: dict[str, Callable[[dict[str, Any]], Encoder]] = {"labels": Classifier, "vectors": Sentences}


class EncoderServer(Server):
    """Answers questions one after the other, each with all its texts."""

    encoder: Encoder | None = None

    def take(self, message: dict[str, Any]) -> None:
        """Answer a message."""
        number = message["id"]
        self.name = message.get("spec", {}).get("name", self.name)
        if number in self.stopped:
            return
        try:
            if message["op"] == "load":
                self.encoder = SERVES[message["spec"]["serves"]](message["spec"])
            if self.encoder is None:
                raise ModelError("no model is loaded")
            self.say(number, self.encoder.about() if message["op"] in ("load", "about") else self._answer(self.encoder, message))
        except Exception as error:
            traceback.print_exc()
            self.say(number, {"error": describe(error, self.name)})

    def _answer(self, encoder: Encoder, message: dict[str, Any]) -> dict[str, Any]:
        """The answer; when memory is full, the same with half as many texts at once."""
        from nbdream.workers.memory import free_memory, out_of_memory

        size = message["batch_size"]
        while True:
            try:
                return encoder.answer(message["texts"], size, message)
            except Exception as error:
                if not out_of_memory(error) or size == 1:
                    raise
            free_memory()
            size = max(1, size // 2)


if __name__ == "__main__":
    main(EncoderServer)
