"""How a cell is read: words, options, front matter, and one line for what does not fit."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdream.errors import ArgumentError
from nbdream.magics.extension import CELL_MAGICS, definition
from nbdream.magics.grammar import Call, Magic, Option, parse, read_words, split_line

GENERATE = definition("generate")[0]
TRAIN = definition("train")[0]


def read(line: str, body: str = "Say hello.\n") -> Call:
    return parse(GENERATE, line, body)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("tweets --from abstracts", ["tweets", "--from", "abstracts"]),
        ('t --from "df[df.len < 280]"', ["t", "--from", "df[df.len < 280]"]),
        ("t --from 'df[\"a b\"]'", ["t", "--from", 'df["a b"]']),
        ('t --from df["a b"]', ["t", "--from", 'df["a b"]']),
        ("t --from [{'a': 1}, {'a': 2}]", ["t", "--from", "[{'a': 1}, {'a': 2}]"]),
        ('t --from="df[a < b]"', ["t", "--from=df[a < b]"]),
        (r't --system "say \"hi\" \\ there"', ["t", "--system", r'say "hi" \ there']),
        ("t --system don't", ["t", "--system", "don't"]),
        ("t {x} $HOME", ["t", "{x}", "$HOME"]),
        ("status            # every cell", ["status"]),
        ("t --as #1", ["t", "--as", "#1"]),
        ("t <<", ["t", "<<"]),
    ],
)
def test_words(line: str, words: list[str]) -> None:
    assert split_line(line) == words


@pytest.mark.parametrize("line", ['t --from "df[', "t --from df[a", "t --from 'a'b"])
def test_words_that_never_end(line: str) -> None:
    with pytest.raises(ArgumentError):
        split_line(line)


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=60))
def test_a_quoted_word_is_what_was_quoted(text: str) -> None:
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert split_line(f"t --from {quoted}") == ["t", "--from", text]


@given(st.text(max_size=80))
def test_no_line_does_worse_than_one_error(line: str) -> None:
    with contextlib.suppress(ArgumentError):
        parse(GENERATE, line, "body\n")


def test_a_whole_cell() -> None:
    call = read(
        "tweets --from abstracts -m gpt --as tweet", "---\nsystem: Be careful.\ntop_p: 1.0\n---\nWrite a tweet.\n\n{{ abstract }}\n"
    )
    assert call.name == "tweets"
    assert not call.silent
    assert call.options == {"from": "abstracts", "model": "gpt", "as": "tweet", "system": "Be careful.", "top_p": 1.0}
    assert call.body.strip() == "Write a tweet.\n\n{{ abstract }}"


@pytest.mark.parametrize("line", ["abstracts << -n 3", "abstracts<< -n 3", "abstracts -n 3 <<"])
def test_the_arrow_binds_without_showing(line: str) -> None:
    call = read(line)
    assert (call.name, call.silent, call.get("n")) == ("abstracts", True, 3)


def test_spellings_of_one_option() -> None:
    for line in ("t --max-tokens 5", "t --max_tokens 5", "t --max-new-tokens=5"):
        assert read(line).options == {"max_tokens": 5}
    assert read("t", "---\nmax-tokens: 5\n---\nx").options == {"max_tokens": 5}
    assert read("t -n 1_000").options == {"n": 1000}
    assert read("t --temperature -1").options == {"temperature": -1.0}
    assert read("t --retry-failed").options == {"retry_failed": True}
    assert read("t --with style,tone").options == {"with": ["style", "tone"]}
    assert read("t", "---\nwith: [style, tone]\n---\nx").options == {"with": ["style", "tone"]}


def test_values_are_not_expanded() -> None:
    call = read("t --system {x}$HOME", "Say {x} and $HOME.")
    assert call.options["system"] == "{x}$HOME"
    assert call.body == "Say {x} and $HOME."


@pytest.mark.parametrize(
    ("line", "body", "says"),
    [
        ("t --temprature 1", "x", r"%%generate knows no option --temprature \(did you mean '--temperature'\?\)"),
        ("t -x", "x", "knows no option -x"),
        ("t --model", "x", "--model needs a value"),
        ("t --system --temperature 1", "x", "--system needs a value"),
        ("t -n many", "x", "-n is a whole number, not 'many'"),
        ("t -n 1.5", "x", "-n is a whole number"),
        ("t --temperature hot", "x", "--temperature is a number, not 'hot'"),
        ("t --on-fail ignore", "x", "--on-fail cannot be 'ignore'"),
        ("t --force=yes", "x", "--force takes no value"),
        ("t --seed 1 --seed 2", "x", "--seed is given twice"),
        ("t u", "x", "takes one name, and 'u' is a second"),
        ("", "x", "needs a name"),
        ("t --temperature 1", "---\ntemperature: 1\n---\nx", "temperature stands both on the line and below it"),
        ("t", "---\ntemprature: 1\n---\nx", r"knows no key 'temprature' \(did you mean 'temperature'\?\)"),
        ("t", "---\nn: true\n---\nx", "n is a whole number, not True"),
        ("t", "---\nforce: 1\n---\nx", "force is true or false, not 1"),
        ("t", "---\nas: 5\n---\nx", "as is text, not 5"),
        ("t", "---\nwith: 5\n---\nx", "with is a list of names"),
        ("t", "---\nsystem: [\n---\nx", "line [34]: "),
        ("t", "---\nsystem: x\n", "line 2: the front matter is not closed"),
    ],
)
def test_mistakes_are_one_line_with_a_hint(line: str, body: str, says: str) -> None:
    with pytest.raises(ArgumentError, match=says) as caught:
        read(line, body)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_front_matter_only_if_the_first_line_is_three_dashes() -> None:
    body = "\n---\nsystem: x\n---\nHello\n"
    assert read("t", body).options == {}


def test_settings_of_train() -> None:
    call = parse(
        TRAIN,
        "tweeter --method sft --on tweets.train --base b --devices 2",
        "input: abstract\noutput: tweet\nlora: {r: 8}\nlearning_rate: 1e-4\n",
    )
    assert call.options == {"method": "sft", "on": "tweets.train", "base": "b", "devices": 2, "input": "abstract", "output": "tweet"}
    assert call.settings == {"lora": {"r": 8}, "learning_rate": 1e-4}
    with pytest.raises(ArgumentError, match="both"):
        parse(TRAIN, "t --devices 2", "devices: 2")
    with pytest.raises(ArgumentError, match="YAML"):
        parse(TRAIN, "t", "just words")


@pytest.mark.parametrize("name", CELL_MAGICS)
def test_help_names_every_option(name: str) -> None:
    magic = definition(name)[0]
    assert parse(magic, "--help", "").help
    for option in magic.options:
        assert option.flag in magic.help()
        assert option.help


def test_options_have_one_meaning() -> None:
    for name in CELL_MAGICS:
        magic = definition(name)[0]
        spellings = [spelling for option in magic.options for spelling in option.spellings]
        assert len(spellings) == len(set(spellings))


def test_unknown_words_of_an_empty_magic() -> None:
    magic = Magic(name="dream x", summary="", options=(Option(name="seed", kind="integer", help="h"),), line_only=True)
    with pytest.raises(ArgumentError, match="%dream x knows no option --sed"):
        read_words(Call(magic), ["--sed", "1"])
