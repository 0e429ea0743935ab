"""Rows that come and go in a running batch: each says what it would say alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from nbdream.errors import ModelError  # noqa: E402
from nbdream.workers.generation import RowByRow, writer  # noqa: E402
from nbdream.workers.guided import Grammars  # noqa: E402
from nbdream.workers.in_batches import InBatches  # noqa: E402
from nbdream.workers.kv_cache import RowCache, windows  # noqa: E402
from nbdream.workers.sampling import Row, RowParams, Sampler  # noqa: E402
from nbdream.workers.sizing import MEASURED, MOST, Sizing  # noqa: E402
from tests import tiny  # noqa: E402

WORDS = 320
END = 1


def model(kind: str) -> Any:
    """A small model with random weights."""
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {"vocab_size": WORDS, "pad_token_id": 0, "eos_token_id": END, "bos_token_id": None}
    common = sizes | {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }  # fmt: skip
    made = {
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**common)),
        "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **sizes)),
        "sliding": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(sliding_window=8, **common)),
        "alibi": lambda: transformers.BloomForCausalLM(transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **sizes)),
    }[kind]()
    return made.eval()


class Desk:
    """Takes the rows that have ended, and gives up those it is told to."""

    ends = frozenset({END})

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.given_up: set[int] = set()

    def decode(self, ids: list[int]) -> str:
        return "".join(f"{token}." for token in ids)

    def gone(self, row: Row) -> bool:
        return row.number in self.given_up

    def done(self, row: Row) -> None:
        assert row.number not in self.rows
        self.rows[row.number] = row


def prompts(count: int, longest: int = 40) -> list[list[int]]:
    chance = random.Random(0)
    return [[chance.randrange(2, WORDS) for _ in range(chance.randint(1, longest))] for _ in range(count)]


def params(number: int, **more: Any) -> RowParams:
    return RowParams(**{"seed": number, "max_new_tokens": 1 + number * 7 % 30, **more})


def written(some: Any, rows: list[Row], writing: Any = None) -> dict[int, list[int]]:
    desk = writing.work if writing is not None else Desk()
    writing = writing or writer(some, desk, seq2seq=False, pad=0)
    for row in rows:
        writing.add(row)
    while writing.busy:
        writing.step()
    assert [row.error for row in desk.rows.values() if row.error] == []
    return {row.number: desk.rows[row.number].said for row in rows}


def alone(some: Any, prompt: list[int], longest: int) -> list[int]:
    with torch.inference_mode():
        out = some.generate(
            torch.tensor([prompt]), attention_mask=torch.ones((1, len(prompt))), max_new_tokens=longest, do_sample=False, pad_token_id=0
        )
    said = out[0, len(prompt) :].tolist()
    return said[: said.index(END)] if END in said else said


@pytest.mark.parametrize(("kind", "how"), [("llama", RowByRow), ("gpt2", RowByRow), ("sliding", RowByRow), ("alibi", InBatches)])
def test_every_row_says_what_generate_says_of_it_alone(kind: str, how: type) -> None:
    some = model(kind)
    rows = [Row(number, prompt, params(number)) for number, prompt in enumerate(prompts(40))]
    writing = writer(some, Desk(), seq2seq=False, pad=0)
    assert type(writing) is how
    said = written(some, rows, writing)
    assert said == {row.number: alone(some, row.prompt, row.params.max_new_tokens) for row in rows}
    assert len({len(tokens) for tokens in said.values()}) > 10


MANNERS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.0, "top_p": 0.5},
    {"temperature": 1.3, "min_p": 0.1, "repetition_penalty": 1.5},
    {"repetition_penalty": 2.0},
    {"logit_bias": {7: 4.0}},
    {"temperature": 1.0, "stop": ("7.", "13.")},
    {},
]


@pytest.mark.parametrize("kind", ["llama", "alibi"])
def test_a_row_does_not_notice_its_neighbours(kind: str) -> None:
    some = model(kind)

    def rows() -> list[Row]:
        return [Row(number, prompt, params(number, **MANNERS[number % len(MANNERS)])) for number, prompt in enumerate(prompts(24))]

    together = written(some, rows())
    assert {number: tokens for row in rows() for number, tokens in written(some, [row]).items()} == together
    assert written(some, rows()[::-1]) == together


def test_equal_prompts_are_read_once() -> None:
    some = model("llama")
    read: list[tuple[int, ...]] = []
    some.register_forward_pre_hook(lambda module, args, given: read.append(tuple(given["input_ids"].shape)), with_kwargs=True)
    prompt = prompts(1)[0] * 3
    rows = [Row(number, prompt, RowParams(seed=number, max_new_tokens=4, temperature=1.0)) for number in range(8)]
    said = written(some, rows)
    assert read[0] == (1, len(prompt))
    assert read[1:] == [(8, 1)] * 3
    assert len({tuple(tokens) for tokens in said.values()}) > 4


def test_a_row_that_ends_makes_room_at_once_and_one_that_is_given_up_too() -> None:
    some = model("llama")
    desk = Desk()
    writing = RowByRow(some, desk)
    writing.sizing.rows = 4
    for number, prompt in enumerate(prompts(12)):
        writing.add(Row(number, prompt, RowParams(seed=0, max_new_tokens=60 if number < 3 else 2, logit_bias={END: -1000})))
    while len(desk.rows) < 9:
        writing.step()
        assert len(writing.running) <= 4
    assert {row.number for row in writing.running} == {0, 1, 2}  # the short ones went through beside them
    desk.given_up = {1}
    writing.step()
    assert [row.number for row in writing.running if row.number == 1] == []
    while writing.busy:
        writing.step()
    assert sorted(desk.rows) == [0, *range(2, 12)]
    assert desk.rows[2].said == alone_without_end(some, prompts(12)[2], 60)


def alone_without_end(some: Any, prompt: list[int], longest: int) -> list[int]:
    row = Row(0, prompt, RowParams(seed=0, max_new_tokens=longest, logit_bias={END: -1000}))
    return written(some, [row])[0]


@pytest.mark.parametrize("kind", ["llama", "alibi"])
def test_what_does_not_fit_is_written_in_smaller_parts_and_the_size_is_remembered(kind: str) -> None:
    some = model(kind)

    def rows() -> list[Row]:
        return [Row(number, prompt, params(number, temperature=1.0)) for number, prompt in enumerate(prompts(20, 10))]

    undisturbed = written(some, rows())
    full = 0

    def small(module: Any, args: Any, given: dict[str, Any]) -> None:
        nonlocal full
        rows, tokens = given["input_ids"].shape
        if rows * (given["past_key_values"].get_seq_length() + tokens) > 120:
            full += 1
            raise torch.OutOfMemoryError("CUDA out of memory")

    some.register_forward_pre_hook(small, with_kwargs=True)
    writing = writer(some, Desk(), seq2seq=False, pad=0)
    assert written(some, rows(), writing) == undisturbed
    assert 0 < full < 15
    full = 0
    written(some, [Row(100 + row.number, row.prompt, row.params) for row in rows()], writing)
    assert full < 3
    desk = Desk()
    writing = writer(some, desk, seq2seq=False, pad=0)
    writing.add(Row(0, [5] * 130, params(3)))
    while writing.busy:
        writing.step()
    assert "no memory" in str(desk.rows[0].error)


def test_an_error_in_a_step_leaves_no_row_without_an_answer() -> None:
    some = model("llama")
    writing = RowByRow(some, Desk())
    writing.sizing.rows = 2
    for number, prompt in enumerate(prompts(6)):
        writing.add(Row(number, prompt, RowParams(seed=0, max_new_tokens=50, logit_bias={END: -1000})))
    writing.step()

    def broken(*_: Any) -> None:
        raise ValueError("broken")

    hook = some.register_forward_pre_hook(broken)
    with pytest.raises(ValueError, match="broken"):
        writing.step()
    assert sorted(row.number for row in writing.clear()) == list(range(6))
    assert not writing.busy
    hook.remove()
    assert written(some, [Row(9, [5, 6], params(3))])[9] == alone(some, [5, 6], 22)


# --- the parts ----------------------------------------------------------------------------------------------------------------


def test_the_cache_keeps_rows_apart_as_they_join_and_leave() -> None:
    config = model("llama").config
    chance = random.Random(1)
    cache = RowCache(config, 2, 4)
    held: list[list[float]] = []

    def wrote(target: RowCache, columns: list[list[float]]) -> None:
        width = max(map(len, columns))
        told = torch.tensor([[float("-inf")] * (width - len(column)) + column for column in columns])[:, None, :, None].expand(-1, 2, -1, 8)
        for layer in range(2):
            target.update(told, -told, layer)
        target.read([len(column) for column in columns])

    for _ in range(200):
        if held and chance.random() < 0.4:
            gone = sorted(chance.sample(range(len(held)), chance.randint(1, len(held))))
            held = [held[old] for old in cache.leave(gone)]
        elif len(held) < 9 and chance.random() < 0.5:
            fresh = [[chance.random() for _ in range(chance.randint(1, 30))] for _ in range(chance.randint(1, 3))]
            other = RowCache.for_prompts(config, [len(row) for row in fresh])
            wrote(other, fresh)
            sources = [chance.randrange(len(fresh)) for _ in range(chance.randint(1, 4))]
            cache.join(other, sources)
            held += [list(fresh[source]) for source in sources]
        elif held:
            cache.reserve(len(held), 0)
            step = [chance.random() for _ in held]
            wrote(cache, [[number] for number in step])
            held = [[*row, number] for row, number in zip(held, step, strict=True)]
        assert cache.lengths == [len(row) for row in held]
        assert cache.width == max(cache.lengths, default=0)
        for place, row in enumerate(held):
            columns = slice(cache.place.end - len(row), cache.place.end)
            for layer in cache.layers:
                assert layer.keys[place, 1, columns, 3].tolist() == pytest.approx(row)
                assert layer.values[place, 0, columns, 0].tolist() == pytest.approx([-number for number in row])


def test_only_layers_that_can_be_cut_by_rows_are_taken() -> None:
    import transformers

    assert windows(model("llama").config) == [None, None]
    assert windows(model("sliding").config) == [8, 8]
    with pytest.raises(ValueError, match="cannot be cut"):
        windows(transformers.MambaConfig(num_hidden_layers=1))
    with pytest.raises(ValueError, match="chunks"):
        windows(transformers.Llama4TextConfig(num_hidden_layers=2))


def test_what_only_generate_knows_is_left_to_it() -> None:
    some = model("llama")
    some.generation_config.no_repeat_ngram_size = 2
    assert type(writer(some, Desk(), seq2seq=False, pad=0)) is InBatches


def test_a_sampler_says_the_same_with_all_tokens_and_with_the_likeliest(monkeypatch: pytest.MonkeyPatch) -> None:
    from nbdream.workers import sampling

    torch.manual_seed(3)
    scores = torch.randn(32, 500) * 3
    manners = [{"top_p": 0.9}, {"top_p": 0.2, "top_k": 9}, {"top_k": 3}, {}, {"top_p": 0.999, "min_p": 0.01}]

    def chosen(likely: int) -> list[int]:
        monkeypatch.setattr(sampling, "CANDIDATES", likely)
        sampler = Sampler()
        sampler.add(Row(n, [0], RowParams(seed=n, max_new_tokens=9, temperature=1.0, **manners[n % 5])) for n in range(32))  # type: ignore[arg-type]
        return list(sampler.choose(scores.clone()).tolist())

    assert chosen(500) == chosen(40) == chosen(2)


def test_the_size_grows_while_it_pays() -> None:
    def settled(seconds: Any) -> int:
        sizing = Sizing()
        for _ in range(20 * MEASURED):
            sizing.step(sizing.rows, seconds(sizing.rows))
        return sizing.rows

    assert settled(lambda rows: 0.01) == MOST
    assert settled(lambda rows: 0.01 + 0.0001 * rows) == MOST
    assert settled(lambda rows: 0.001 * rows) == 32  # no more tokens a second: one size above the first was tried
    assert settled(lambda rows: 0.01 if rows <= 32 else 0.1) == 32
    assert settled(lambda rows: 2.0) == MOST  # slow with any number
    assert settled(lambda rows: 0.5 + 0.03 * rows) == 16  # slow, and slower with more
    few = Sizing()
    for _ in range(20 * MEASURED):
        few.step(3, 0.01)
    assert few.rows == 16


def test_rows_are_guided_one_by_one(tmp_path: Path) -> None:
    import json

    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny.causal(tmp_path / "model")
    tokenizer, some = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    grammars = Grammars(tokenizer, some.config.vocab_size, Desk.ends)
    number = {"type": "object", "properties": {"b": {"type": "integer", "minimum": 1, "maximum": 9}, "a": {"type": "boolean"}}}
    number |= {"required": ["b", "a"], "additionalProperties": False}
    schemas = [number, None, {"enum": ["red", "green"]}]
    chance = random.Random(0)

    def rows(schemas: list[Any]) -> list[Row]:
        made = []
        for n in range(18):
            guide = None if schemas[n % 3] is None else grammars.guide(schemas[n % 3])
            made.append(Row(n, [5 + n] * chance.randint(1, 9), RowParams(seed=n, max_new_tokens=40, temperature=1.0), guide))
        return made

    chance.seed(0)
    said = written(some, rows(schemas))
    chance.seed(0)
    free = written(some, rows([None] * 3))
    for n, tokens in said.items():
        if n % 3 == 1:
            assert tokens == free[n]
        else:
            value = json.loads(tokenizer.decode(tokens))
            assert value in ("red", "green") if n % 3 == 2 else list(value) == ["b", "a"] and 1 <= value["b"] <= 9
    with pytest.raises(ModelError, match="uniqueItems"):
        grammars.guide({"type": "array", "items": {"type": "integer"}, "uniqueItems": True})
