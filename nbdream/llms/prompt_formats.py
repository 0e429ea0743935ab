"""Prompt formats by name, for models without a chat template of their own: each a Jinja chat template over ``messages``.

Shapes: Vicuna 1.1 (lmsys/FastChat), Llama 2 (meta-llama), ChatML (OpenAI), Alpaca (tatsu-lab), Dolly (databricks), RedPajama-INCITE
(togethercomputer). An answer ends with the tokenizer's end of sequence, so that a model that has learned a format knows when to stop.
"""

from __future__ import annotations

from typing import Any

from nbdream.errors import ArgumentError, nearest
from nbdream.llms.parameters import checked


def _spoken(user: str, assistant: str, *, system: str = "{0}\n", end: str = "\n") -> str:
    """Turns with a name before each: ``user`` and ``assistant``; ``{0}`` is the place of the text."""

    def said(frame: str) -> str:
        before, _, after = frame.partition("{0}")
        return f"{{{{ {before!r} + message['content'] + {after!r} }}}}"

    asks = assistant.partition("{0}")[0].rstrip(" ")
    return (
        "{{ bos_token }}{% for message in messages %}"
        f"{{% if message['role'] == 'system' %}}{said(system)}"
        f"{{% elif message['role'] == 'user' %}}{said(user + end)}"
        f"{{% else %}}{said(assistant)}{{{{ eos_token }}}}{{% if not loop.last %}}{{{{ {end!r} }}}}{{% endif %}}"
        "{% endif %}{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ {asks!r} }}}}{{% endif %}}"
    )


# Llama 2 has the system prompt within the first question.
_LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}{% if message['role'] == 'user' %}"
    "{{ bos_token }}{{ '[INST] ' }}{% if loop.first %}{{ system }}{% endif %}{{ message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + ' ' }}{{ eos_token }}{% endif %}{% endfor %}"
)
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}"
    "{% if message['role'] == 'assistant' and eos_token != '<|im_end|>' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

FORMATS = {
    "alpaca": _spoken("### Instruction:\n{0}\n", "### Response:\n{0}", system="{0}\n\n"),
    "chatml": _CHATML,
    "dolly": _spoken("### Instruction:\n{0}\n", "### Response:\n{0}", system="{0}\n\n"),
    "llama2": _LLAMA_2,
    "redpajama": _spoken("<human>: {0}", "<bot>: {0}"),
    "user_assistant": _spoken("User: {0}", "Assistant: {0}"),
    "vicuna": _spoken("USER: {0}", "ASSISTANT: {0}", system="{0} ", end=" "),
}


def prompt_format(given: Any) -> str | None:
    """The chat template that ``given`` names, or that it is; `ArgumentError` for a word that names none."""
    if isinstance(given, str) and given in FORMATS:
        return FORMATS[given]
    if isinstance(given, str) and given.replace("_", "").replace("-", "").isalnum():
        raise ArgumentError(f"there is no prompt format {given!r}", nearest(given, FORMATS, "it is a template with {{prompt}}, or"))
    made: str | None = checked("chat_prompt_template", given)
    return made
