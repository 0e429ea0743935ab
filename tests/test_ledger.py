"""Calls and tokens, computed from replies and nodes."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from nbdream import ledger
from nbdream.llms.base import Reply, failure

PAID = Reply("a", usage={"input_tokens": 10, "output_tokens": 3}, cost=0.25)
KNOWN = Reply("a", usage={"input_tokens": 5, "output_tokens": 2}, cached=True, cost=0.125)
REFUSED = replace(failure("row", "no"), cost=0.0)
UNPRICED = replace(PAID, cost=None)
MENDED = replace(PAID, earlier=(KNOWN, PAID))


def usage_of(replies: list[Reply]) -> ledger.Usage:
    usage = ledger.nothing()
    for reply in replies:
        ledger.add_reply(usage, reply)
    return usage


def test_usage_of_replies() -> None:
    assert usage_of([PAID, PAID, KNOWN, REFUSED]) == {
        "calls": 3, "cached_calls": 1, "failed_calls": 1, "input_tokens": 25, "output_tokens": 8,
        "cached_input_tokens": 5, "cached_output_tokens": 2, "cost": 0.5, "saved": 0.125,
    }  # fmt: skip


def test_replies_that_were_mended_are_paid_for_too() -> None:
    usage = usage_of([MENDED])
    assert (usage["calls"], usage["cached_calls"], usage["failed_calls"]) == (2, 1, 0)
    assert (usage["cost"], usage["saved"]) == (0.5, 0.125)
    assert (usage["input_tokens"], usage["output_tokens"]) == (25, 8)


def test_one_unknown_price_makes_the_sum_unknown() -> None:
    usage = usage_of([PAID, UNPRICED, KNOWN])
    assert (usage["cost"], usage["saved"], usage["calls"]) == (None, 0.125, 2)
    assert ledger.total([usage, usage_of([PAID])])["cost"] is None


@settings(deadline=None)
@given(st.lists(st.sampled_from([PAID, KNOWN, REFUSED, UNPRICED, MENDED]), max_size=20), st.integers(0, 20))
def test_the_whole_is_the_sum_of_its_parts(replies: list[Reply], cut: int) -> None:
    parts = [usage_of(replies[:cut]), usage_of(replies[cut:])]
    assert ledger.total(parts) == usage_of(replies)
    assert ledger.of_nodes([{"usage": part} for part in parts]) == usage_of(replies)


def test_nodes_without_calls_count_as_nothing() -> None:
    assert ledger.of_nodes([{}, {"usage": None}, {"usage": {"calls": 2}}])["calls"] == 2
    assert ledger.total([]) == ledger.nothing()
    assert ledger.of_nodes([{}, {"usage": {"calls": 0, "cost": None}}])["cost"] == 0.0


def test_calls_of_a_node_without_an_amount_have_an_unknown_price() -> None:
    assert ledger.of_nodes([{"usage": {"calls": 2, "cost": None}}, {"usage": {"calls": 1, "cost": 0.5}}])["cost"] is None


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
        {"by": "a", "model": "gpt", "calls": 3, "failed_calls": 1, "input_tokens": 30, "output_tokens": 6, "cost": 0.5},
        {"by": "b", "model": "gpt", "calls": 1, "failed_calls": 0, "input_tokens": 10, "output_tokens": 2, "cost": 0.25},
        {"by": None, "model": None, "calls": 2, "failed_calls": 0, "input_tokens": 0, "output_tokens": 0, "cost": None},
    ]
    by_step = ledger.grouped(paid, lambda part: str(part["by"] or "asked directly"))
    assert {name: ledger.total(parts)["calls"] for name, parts in by_step.items()} == {"a": 3, "b": 1, "asked directly": 2}
    by_model = {name: ledger.total(parts) for name, parts in ledger.grouped(paid, lambda part: str(part["model"])).items()}
    assert {name: (usage["calls"], usage["cost"]) for name, usage in by_model.items()} == {"gpt": (4, 0.75), "None": (2, None)}
    assert (ledger.at_least(paid), ledger.unpriced(paid)) == (0.75, 2)
