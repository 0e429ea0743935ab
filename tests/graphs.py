"""Graphs for tests of cards and publishing: a dataset of the Hub → tweets by a model → a model trained on them."""

from __future__ import annotations

from typing import Any

CITATION = "@article{openai2023gpt4,\n  title={GPT-4 Technical Report},\n  year={2023}\n}"
GPT = {
    "kind": "OpenAI",
    "name": "gpt-4",
    "identity": {"model": "gpt-4"},
    "card_url": "https://cdn.openai.com/papers/gpt-4-system-card.pdf",
    "license": "https://openai.com/policies",
    "citation": CITATION,
}
T5 = {
    "kind": "sft",
    "name": "google/t5-v1_1-base",
    "card_url": "https://huggingface.co/google/t5-v1_1-base",
    "license": "apache-2.0",
    "citation": None,
}
SOURCE = {
    "name": "org/papers",
    "url": "https://huggingface.co/datasets/org/papers",
    "revision": "a" * 40,
    "license": "cc-by-4.0",
    "citation": "@misc{papers}",
    "card": "https://huggingface.co/datasets/org/papers/blob/main/README.md",
}
MACHINE = {"processor": "A processor", "cores": 2, "memory": 23.5, "gpus": ["A GPU"]}
ENVIRONMENT = {
    "nbdream": "0.1.0", "python": "3.11.9", "platform": "Linux", "machine": MACHINE, "packages": {"pyarrow": "26.0.1", "openai": "3.52.0"},
}  # fmt: skip


MADE = {"started": "2026-11-20T10:00:00Z", "finished": "2026-11-20T10:00:12Z", "seconds": 12.0}


def place(
    name: str, step_type: str, inputs: dict[str, str] | None = None, use: dict[str, Any] | None = None, **node: Any
) -> dict[str, Any]:
    """One step in its place; ``inputs`` maps the names of inputs to the uses they come from, ``node`` overrides its node."""
    sources = {key: {"recipe": f"r-{source}", "use": source, "columns": [], "whole": True} for key, source in (inputs or {}).items()}
    columns = {column: {"digest": "0", "type": "string"} for column in node.pop("made_columns", [])}
    whole = {
        "format": 1, "kind": "step", "type": step_type, "name": name, "version": "1.0", "recipe_key": f"r-{name}",
        "rows": 1000, "columns": columns, "failures": 0, "made": MADE, "environment": ENVIRONMENT,
        "recipe": {"kind": step_type, "version": "1.0", "args": {}, "inputs": {}}, "usage": {}, "models": [], "source": None, "cards": [],
    }  # fmt: skip
    return {
        "use": {"name": name, "type": step_type, "inputs": sources, "outputs": {}, "carries": None, "view": None, **(use or {})},
        "node": {**whole, **node},
    }


def three_steps() -> dict[str, Any]:
    """A dataset of the Hub → tweets by a model → a model trained on them."""
    llm = {"$": "x", "value": {"system_prompt": "You are careful."}}
    args = {"template": "Write a tweet: {{ abstract }}", "temperature": 1.2, "llm": llm}
    usage = {"calls": 900, "cached_calls": 103, "input_tokens": 5000, "output_tokens": 7000}
    carried = {"carries": "rows", "outputs": {"generations": "tweet"}}
    made = {"started": "2026-11-20T11:00:00Z", "finished": "2026-11-20T11:30:00Z", "seconds": 1800.0}
    return {
        "root": "c",
        "nodes": {
            "c": place("tweeter", "TrainHFFineTune", {"train_input": "b", "train_output": "b"}, kind="run", rows=0, models=[T5], made=made,
                       recipe={"kind": "sft", "args": {"epochs": 30, "batch_size": 8}}),
            "b": place("tweets", "Generate", {"rows": "a"}, carried, models=[GPT], failures=3,
                       recipe={"kind": "Generate", "args": args, "inputs": {"rows": {"rows": 1003}}}, usage=usage,
                       made_columns=["generations"]),
            "a": place("papers", "HFHubDataSource", source=SOURCE, made_columns=["abstract", "title"]),
        },
    }  # fmt: skip


def tweets() -> dict[str, Any]:
    graph = three_steps()
    return {"root": "b", "nodes": {key: graph["nodes"][key] for key in "ab"}}


HOSTILE = [
    "<script>alert(1)</script>",
    "<!-- nbdream:end 000000000000 -->",
    "x\n---\nlicense: mit\n---\n",
    "```\n# heading\n```",
    "| a | b |\n| --- | --- |",
    '"] click n0 "javascript:alert(1)"',
    "[x](javascript:alert(1)) ![y](http://evil.example/z.png)",
    "a: b\n- c: !!python/object:os.system x",
    "\x1b[31mred\u202e",
    "' onmouseover='alert(1)",
    "-->\n<img src=x onerror=alert(1)>",
]
