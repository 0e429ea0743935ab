"""Prompt formats by name: their shapes, and that what is asked is the beginning of what is learned."""

from __future__ import annotations

from typing import Any

import pytest

from nbdream.errors import ArgumentError
from nbdream.llms import HFTransformers
from nbdream.llms.prompt_formats import FORMATS, prompt_format
from nbdream.trainers.completion import IGNORED, chat_template, prepare_causal
from nbdream.workers.chat import prompt_text
from tests import tiny

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "red {{prompt}} cat"}]
SHAPES = {
    "alpaca": "Be brief.\n\n### Instruction:\nred {{prompt}} cat\n\n### Response:\n",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nred {{prompt}} cat<|im_end|>\n<|im_start|>assistant\n",
    "dolly": "Be brief.\n\n### Instruction:\nred {{prompt}} cat\n\n### Response:\n",
    "llama2": "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nred {{prompt}} cat [/INST]",
    "redpajama": "Be brief.\n<human>: red {{prompt}} cat\n<bot>:",
    "user_assistant": "Be brief.\nUser: red {{prompt}} cat\nAssistant:",
    "vicuna": "Be brief. USER: red {{prompt}} cat ASSISTANT:",
}


def tokenizer() -> Any:
    return tiny._tokenizer(chat=False, seq2seq=False)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_has_its_shape_and_learns_the_answer_and_its_end(name: str) -> None:
    some = tokenizer()
    template = prompt_format(name)
    assert template is not None
    assert prompt_text(some, ASKED, template) == (SHAPES[name], False)
    some.chat_template = chat_template(some, template)
    (row,) = prepare_causal(some, ["red cat"], ["cat red"], system="Be brief.", max_length=512, truncate=False).rows
    learned = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
    assert some.decode(learned).strip().removesuffix("<eos>").strip().removesuffix("<|im_end|>") == "cat red"
    assert some.eos_token_id in learned
    whole = some.decode(row["input_ids"])
    assert whole.startswith(SHAPES[name].replace("{{prompt}} ", ""))


def test_a_name_stands_for_its_template_and_a_wrong_one_gets_the_nearest() -> None:
    assert prompt_format("vicuna") == FORMATS["vicuna"]
    assert prompt_format(None) is None
    assert prompt_format("Q: {{prompt}}\nA: ") == "Q: {{prompt}}\nA: "
    with pytest.raises(ArgumentError, match="chatml"):
        prompt_format("chat_ml")
    with pytest.raises(ArgumentError, match="place for the prompt"):
        prompt_format("Q: A: ")


def test_a_model_is_asked_in_a_named_format(tmp_path: Any) -> None:
    folder = str(tiny.causal(tmp_path / "model"))
    named, written = (HFTransformers(folder, chat_prompt_template=form) for form in ("llama2", FORMATS["llama2"]))
    assert named.identity == written.identity != HFTransformers(folder).identity
