"""Rows of input and output as a model reads them, with labels on the output only. Pure: a tokenizer in, numbers out.

The text of a row is tokenised **once**. Tokenising prompt and answer apart and counting tokens, or tokenising the prompt again
to find where it ends, shifts the labels by a token wherever the two texts' tokens merge; here a token is learned when any of
its characters lies behind the prompt's last one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbdream.errors import DataError, TrainingError
from nbdream.workers.chat import prompt_text

IGNORED = -100
DEFAULT_MAX_LENGTH = 1024
SANE_LENGTH = 1_000_000
"""Tokenizers without a limit of their own say 10^30."""

PLAIN = "{{prompt}}\n\n"
"""What a causal model without a chat template learns: the system prompt if there is one and the input, each with an empty line behind
it, the output, the end."""

_ROLES = (
    "{%- set system = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\n\n') -%}"
    "{%- set prompt = messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('\n\n') -%}"
)
_ANSWER = "{%- for message in messages if message['role'] == 'assistant' -%}{{ message['content'] }}{{ eos_token }}{%- endfor -%}"


def chat_template(tokenizer: Any, given: str | None) -> str:
    """The chat template that a causal model is trained with, and saved with: whoever asks it then asks in the same form.

    ``given``: a Jinja chat template over ``messages``, or a short form that holds ``{{prompt}}`` and, if wanted,
    ``{{system_prompt}}``; without one, the tokenizer's own; where it has none, `PLAIN`.
    """
    found = given or tokenizer.chat_template or PLAIN
    if not isinstance(found, str):
        raise TrainingError("the base model has several chat templates", "pick one: chat_prompt_template=…")
    return found if "messages" in found else _long_form(found, begins=_adds_bos(tokenizer))


def _long_form(short: str, *, begins: bool) -> str:
    if "prompt" not in short:
        raise TrainingError("chat_prompt_template has no place for the prompt", "write {{prompt}} where it belongs")
    parts = re.split(r"(\{\{ ?(?:system_)?prompt ?\}\})", short)
    # What stands between the places is text, and must not be read as a template.
    written = [
        f"{{{{ {part.strip('{} ').replace('system_prompt', 'system')} }}}}" if n % 2 else f"{{{{ {json.dumps(part)} }}}}"
        for n, part in enumerate(parts)
    ]
    if short == PLAIN:
        written.insert(0, '{% if system %}{{ system + "\\n\\n" }}{% endif %}')
    return _ROLES + ("{{- bos_token -}}" if begins else "") + "".join(written) + _ANSWER


def _adds_bos(tokenizer: Any) -> bool:
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and bool(ids) and ids[0] == tokenizer.bos_token_id


@dataclass(slots=True)
class Prepared:
    """Tokenised rows, and what was done to them."""

    rows: list[dict[str, list[int]]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    """Which of the given rows each of them is."""
    max_length: int = 0
    truncated: int = 0
    contexts_cut: int = 0
    """Of the truncated rows, those that lost of their contexts."""
    dropped: int = 0
    """Rows whose output lay wholly behind the limit: nothing of them could be learned."""
    tokens: int = 0
    trained_tokens: int = 0

    def add(self, number: int, ids: list[int], labels: list[int]) -> None:
        """Keep the row of this number, unless nothing of it is learned."""
        trained = sum(label != IGNORED for label in labels)
        if not trained:
            self.dropped += 1
            return
        self.rows.append({"input_ids": ids, "labels": labels})
        self.numbers.append(number)
        self.tokens += len(ids)
        self.trained_tokens += trained

    def facts(self) -> dict[str, int]:
        """The numbers, for an event."""
        return {
            "rows": len(self.rows), "tokens": self.tokens, "trained_tokens": self.trained_tokens, "max_length": self.max_length,
            "truncated": self.truncated, "dropped": self.dropped, **({"contexts_cut": self.contexts_cut} if self.contexts_cut else {}),
        }  # fmt: skip


def max_length_of(tokenizer: Any, config: Any, given: int | None) -> int:
    """The longest row in tokens: what was given, else the least of the model's own limits, else a documented constant."""
    own = [
        getattr(tokenizer, "model_max_length", None),
        *(getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")),
    ]
    limits = [int(limit) for limit in own if isinstance(limit, int) and 0 < limit < SANE_LENGTH]
    return int(given) if given else min(limits, default=DEFAULT_MAX_LENGTH)


def render(tokenizer: Any, text: str, output: str, system: str | None) -> tuple[str, str]:
    """The prompt as it is put to the model when it is used, and that prompt followed by the answer, as texts."""
    asked = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": text}]
    prompt, whole, _ = rendered(tokenizer, asked, output)
    return prompt, whole


def rendered(tokenizer: Any, asked: Sequence[Mapping[str, str]], output: str, template: str | None = None) -> tuple[str, str, bool]:
    """As `render`, of messages and with a template as `prompt_text` takes it; last, whether special tokens are still to be added."""
    prompt, special = prompt_text(tokenizer, asked, template)
    extra = {} if template is None else {"chat_template": template}
    try:
        chat = [*map(dict, asked), {"role": "assistant", "content": output}]
        whole = "" if special else str(tokenizer.apply_chat_template(chat, tokenize=False, **extra))
    except Exception:
        whole = ""
    if whole.startswith(prompt) and not special:
        return prompt, whole, special
    # Some templates open an answer differently when they ask for it; then what ends the answer is taken from the template.
    stripped = output.strip()
    at = whole.rfind(stripped)
    ends = whole[at + len(stripped) :] if whole and stripped and at >= 0 else tokenizer.eos_token or ""
    return prompt, prompt + stripped + ends, special


def prepare_causal(
    tokenizer: Any,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    system: str | None,
    max_length: int,
    truncate: bool,
    blocks: Sequence[str] | None = None,
) -> Prepared:
    """Rows for a causal model: prompt and answer in one sequence, the prompt's labels ignored.

    ``blocks``: what stands before each input, its contexts. Where a row is too long they are cut first, at their end.
    """
    made = Prepared(max_length=max_length)
    for number, (block, text, output) in enumerate(zip(blocks or [""] * len(inputs), inputs, outputs, strict=True)):

        def tokens(before: str, text: str = text, output: str = output) -> tuple[list[int], list[int]]:
            return labelled(tokenizer, *render(tokenizer, before + text, output, system))

        ids, labels = tokens(block)
        if len(ids) > max_length:
            _refuse_unless(truncate, number, len(ids), max_length)
            made.truncated += 1
            if block:
                made.contexts_cut += 1
                ids, labels = tokens(cut_block(tokenizer, block, lambda before: len(tokens(before)[0]) - max_length))
        made.add(number, ids[:max_length], labels[:max_length])
    return made


def cut_block(tokenizer: Any, block: str, excess: Callable[[str], int]) -> str:
    """The beginning of ``block``, the lines before a question, with which the row fits: ``excess`` says by how many tokens it does not.

    Nothing of it is left where the question and its answer alone are too long.
    """
    kept = block
    while kept and (over := excess(kept)) > 0:
        text = kept.removesuffix("\n")
        if tokenizer.is_fast:
            spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            length = spans[-over][0] if over <= len(spans) else 0
        else:
            count = len(tokenizer(text, add_special_tokens=False)["input_ids"])
            length = len(text) - math.ceil(over * len(text) / max(count, 1))
        text = text[: max(0, min(length, len(text) - 1))].rstrip()
        kept = f"{text}\n" if text else ""
    return kept


def labelled(tokenizer: Any, prompt: str, whole: str, *, special: bool = False) -> tuple[list[int], list[int]]:
    """The tokens of ``whole``, and as labels those behind ``prompt``; ``special``: the tokenizer adds its own first."""
    if not tokenizer.is_fast:  # no offsets: two tokenisations put one behind the other have an exact border, too
        before = tokenizer(prompt, add_special_tokens=special)["input_ids"]
        after = tokenizer(whole[len(prompt) :], add_special_tokens=False)["input_ids"]
        return before + after, [IGNORED] * len(before) + after
    # Without ``special``, the template has written the special tokens itself.
    encoded = tokenizer(whole, add_special_tokens=special, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    labels = [token if end > len(prompt) else IGNORED for token, (_, end) in zip(ids, encoded["offset_mapping"], strict=True)]
    return ids, [IGNORED, *labels[1:]]  # nothing comes before the first token that could tell it


def prepare_seq2seq(
    tokenizer: Any,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    max_length: int,
    truncate: bool,
    blocks: Sequence[str] | None = None,
) -> Prepared:
    """Rows for an encoder and a decoder: two sequences of their own. ``blocks``: as for `prepare_causal`."""
    made = Prepared(max_length=max_length)
    before = blocks or [""] * len(inputs)
    asked = [block + text for block, text in zip(before, inputs, strict=True)]
    pairs = zip(tokenizer(asked)["input_ids"], tokenizer(text_target=list(outputs))["input_ids"], strict=True)
    for number, (ids, labels) in enumerate(pairs):
        longest = max(len(ids), len(labels))
        if longest > max_length:
            _refuse_unless(truncate, number, longest, max_length)
            made.truncated += 1
        if before[number] and len(ids) > max_length:

            def tokens(block: str, text: str = inputs[number]) -> list[int]:
                return list(tokenizer(block + text)["input_ids"])

            made.contexts_cut += 1
            ids = tokens(cut_block(tokenizer, before[number], lambda block: len(tokens(block)) - max_length))
        made.add(number, _cut(ids, max_length), _cut(labels, max_length))
    return made


def _cut(ids: list[int], length: int) -> list[int]:
    """The beginning of ``ids``, with the token that ends them kept."""
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]


def _refuse_unless(truncate: bool, row: int, length: int, limit: int) -> None:
    if not truncate:
        raise DataError(f"row {row} has {length} tokens, and the model takes {limit}", "truncate: true cuts it, max_length: sets the limit")
