"""Calls and tokens, computed from replies and nodes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nbdream import ledger
from nbdream.llms.base import Reply, failure

PAID = Reply("a", usage={"input_tokens": 10, "output_tokens": 3})
KNOWN = Reply("a", usage={"input_tokens": 5, "output_tokens": 2}, cached=True)
REFUSED = failure("row", "no")


def usage_of(replies: list[Reply]) -> ledger.Usage:
    usage = ledger.nothing()
    for reply in replies:
        ledger.add_reply(usage, reply)
    return usage


def test_usage_of_replies() -> None:
    assert usage_of([PAID, PAID, KNOWN, REFUSED]) == {
        "calls": 3, "cached_calls": 1, "failed_calls": 1, "input_tokens": 25, "output_tokens": 8,
        "cached_input_tokens": 5, "cached_output_tokens": 2, "cost": None,
    }  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.sampled_from([PAID, KNOWN, REFUSED]), max_size=20), st.integers(0, 20))
def test_the_whole_is_the_sum_of_its_parts(replies: list[Reply], cut: int) -> None:
    parts = [usage_of(replies[:cut]), usage_of(replies[cut:])]
    assert ledger.total(parts) == usage_of(replies)
    assert ledger.of_nodes([{"usage": part} for part in parts]) == usage_of(replies)


def test_nodes_without_calls_count_as_nothing() -> None:
    assert ledger.of_nodes([{}, {"usage": None}, {"usage": {"calls": 2}}])["calls"] == 2
    assert ledger.total([]) == ledger.nothing()
    assert ledger.nothing()["cost"] is None


def test_groups() -> None:
    nodes = [
        {"type": "Generate", "usage": {"calls": 1}, "models": [{"name": "gpt"}]},
        {"type": "Map"},
        {"type": "Generate", "usage": {"calls": 2}, "models": [{"name": "gpt"}, {"name": "judge"}]},
    ]
    grouped = ledger.by(nodes, lambda node: node["type"])
    assert list(grouped) == ["Generate", "Map"]
    assert grouped["Generate"]["calls"] == 3


def test_stored_replies_by_step_and_by_model() -> None:
    paid = [
        {"by": "a", "model": "gpt", "calls": 3, "failed_calls": 1, "input_tokens": 30, "output_tokens": 6},
        {"by": "b", "model": "gpt", "calls": 1, "failed_calls": 0, "input_tokens": 10, "output_tokens": 2},
        {"by": None, "model": None, "calls": 2, "failed_calls": 0, "input_tokens": 0, "output_tokens": 0},
    ]
    by_step = ledger.of_calls(paid, "by", "asked directly")
    assert {name: usage["calls"] for name, usage in by_step.items()} == {"a": 3, "b": 1, "asked directly": 2}
    by_model = ledger.of_calls(paid, "model", "unknown")
    assert {name: (usage["calls"], usage["input_tokens"]) for name, usage in by_model.items()} == {"gpt": (4, 40), "unknown": (2, 0)}
