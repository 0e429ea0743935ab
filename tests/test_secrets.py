"""Known credentials: which values they are, and that they are found and replaced wherever they stand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbdream import secrets


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_given", {})


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "HF_TOKEN", "CLIENT_SECRET", "DB_PASSWORD", "my_lower_key"])
def test_values_of_the_environment_are_known_by_its_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not secrets.contains("abc value-of-8 def")
    monkeypatch.setenv(name, "value-of-8\n")
    assert secrets.contains("abc value-of-8 def")
    assert secrets.found_in("value-of-8") == name
    assert secrets.redact("abc value-of-8 def value-of-8") == "abc *** def ***"


LONG = "a-long-enough-value"


@pytest.mark.parametrize(("name", "value"), [("EDITOR", LONG), ("KEYBOARD", LONG), ("A_KEY", "short12"), ("A_KEY", "")])
def test_other_values_are_not(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert not secrets.contains(f"abc {value} def")


def test_given_values_are_known() -> None:
    secrets.remember("sk-given-by-hand", "api_key")
    secrets.remember(None)
    secrets.remember("short")
    assert secrets.known() == {"sk-given-by-hand": "api_key"}
    assert secrets.redact("x sk-given-by-hand") == "x ***"
    assert secrets.redact("nothing here, short") == "nothing here, short"


def test_a_key_that_begins_with_another_is_replaced_whole() -> None:
    secrets.remember("sk-12345678")
    secrets.remember("sk-12345678-and-more")
    assert secrets.redact("sk-12345678-and-more sk-12345678") == "*** ***"


def test_json_values_are_scrubbed_to_the_bottom() -> None:
    secrets.remember("sk-12345678")
    value = {"a": ["sk-12345678", 3, None, {"sk-12345678": True}], "b": 1.5}
    assert secrets.scrub(value) == {"a": ["***", 3, None, {"***": True}], "b": 1.5}


@settings(deadline=None)
@given(st.lists(st.text(min_size=8, max_size=20), max_size=4), st.lists(st.text(max_size=10), min_size=1, max_size=4), st.data())
def test_no_text_holds_a_credential_afterwards(values: list[str], around: list[str], data: st.DataObject) -> None:
    secrets._given.clear()
    for value in values:
        secrets.remember(value)
    known = secrets.known()
    text = "".join(part + (data.draw(st.sampled_from(values)) if values else "") for part in around)
    redacted = secrets.redact(text, known)
    for value in known:
        # What the mask and its neighbours happen to spell anew is no credential that stood there.
        assert value not in redacted or secrets.MASK in value
    assert secrets.redact("".join(around), {}) == "".join(around)
