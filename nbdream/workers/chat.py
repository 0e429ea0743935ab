"""From messages to the text that a local model reads: its chat template, a template given by the user, or plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def prompt_text(tokenizer: Any, messages: Sequence[Mapping[str, str]], template: str | None = None) -> tuple[str, bool]:
    """The text up to where the answer begins, and whether the tokenizer has still to add its special tokens.

    ``template`` is a Jinja chat template over ``messages``, or a short form that holds ``{{prompt}}`` and, if wanted,
    ``{{system_prompt}}``. Without one the tokenizer's own counts; where it has none, the messages are joined by blank lines.
    """
    if template is not None and "messages" not in template:
        return _filled(template, messages), True
    if template is None and getattr(tokenizer, "chat_template", None) is None:
        return "\n\n".join(message["content"] for message in messages), True
    chat = [dict(message) for message in messages]
    extra = {} if template is None else {"chat_template": template}
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **extra)
    except Exception:
        # Some templates refuse a system message; their makers advise to put it before the first question.
        merged = _without_system(chat)
        if merged == chat:
            raise
        text = tokenizer.apply_chat_template(merged, tokenize=False, add_generation_prompt=True, **extra)
    return str(text), False


def _filled(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """A short template with its two places filled. What is filled in is never read as a template."""
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    prompt = "\n\n".join(message["content"] for message in messages if message["role"] != "system")
    plain = template.replace("{{ prompt }}", "{{prompt}}").replace("{{ system_prompt }}", "{{system_prompt}}")
    return prompt.join(part.replace("{{system_prompt}}", system) for part in plain.split("{{prompt}}"))


def _without_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The messages with what the system says put before the first question."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    rest = [message for message in messages if message["role"] != "system"]
    if not system or not rest:
        return messages
    return [{**rest[0], "content": "\n\n".join([*system, rest[0]["content"]])}, *rest[1:]]
