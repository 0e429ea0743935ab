"""What rows of a local model must not do to each other, whatever the model, the adapter or the memory."""

from __future__ import annotations

import io
import threading
import weakref
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from nbdream.workers import client, kv_cache  # noqa: E402
from nbdream.workers.generation import RowByRow, writer  # noqa: E402
from nbdream.workers.in_batches import InBatches  # noqa: E402
from nbdream.workers.loading import spare_threads  # noqa: E402
from nbdream.workers.model import LocalModel  # noqa: E402
from nbdream.workers.sampling import Row, RowParams, Sampler  # noqa: E402
from tests import tiny  # noqa: E402
from tests.test_local_batching import END, WORDS, Desk, model, prompts, written  # noqa: E402

ENDLESS = {END: -1000.0}


def wide_llama(**more: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{
        "vocab_size": WORDS, "pad_token_id": 0, "eos_token_id": END, "bos_token_id": None, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, **more,
    })  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def row(number: int, prompt: list[int], longest: int, **more: Any) -> Row:
    return Row(number, prompt, RowParams(seed=number, max_new_tokens=longest, logit_bias=ENDLESS, **more))


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_long_neighbour_does_not_turn_the_positions_of_a_short_row(kind: str) -> None:
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "original_max_position_embeddings": 32}
    rope |= {"factor": 4.0} if kind == "dynamic" else {"short_factor": [1.0] * 4, "long_factor": [4.0, 8.0, 16.0, 32.0]}
    some = wide_llama(rope_parameters=rope, max_position_embeddings=32 if kind == "dynamic" else 256)
    with torch.no_grad():
        for parameter in some.parameters():
            parameter.mul_(4)

    def rows() -> list[Row]:
        return [row(n, [5 + n, 9, 4, 8, *range(20, 20 + length)], 10) for n, length in enumerate((10, 12, 60, 11, 70))]

    together = written(some, rows())
    assert together == {number: said for each in rows() for number, said in written(some, [each]).items()}


def test_memory_of_rows_that_left_is_given_back() -> None:
    writing = RowByRow(wide_llama(), Desk())
    writing.sizing.rows = 64
    for number in range(64):
        writing.add(row(number, [3 + number] * 10, 300 if number == 0 else 5))
    while writing.busy:
        writing.step()
        if writing._cache is not None and len(writing.running) == 1 and writing._cache.width > 250:
            assert writing._cache.layers[0].keys.shape[0] <= 2  # type: ignore[attr-defined]


def test_a_straggler_is_not_refused_for_memory_that_others_held(monkeypatch: pytest.MonkeyPatch) -> None:
    move = kv_cache._Layer.move

    def bounded(self: Any, before: Any, slots: int, columns: int, after: Any) -> Any:
        if slots * columns > 8000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return move(self, before, slots, columns, after)

    monkeypatch.setattr(kv_cache._Layer, "move", bounded)
    desk = Desk()
    writing = RowByRow(wide_llama(), desk)
    writing.sizing.rows = 64
    for number in range(64):
        writing.add(row(number, [3 + number] * 10, 400 if number < 2 else 5))
    while writing.busy:
        writing.step()
    assert [desk.rows[number].error for number in range(64)] == [None] * 64
    assert writing.sizing.cells is None or writing.sizing.cells > 1_000_000


@pytest.mark.filterwarnings("ignore:Position ids")  # peft's own, of prompt tuning
@pytest.mark.parametrize("kind", ["prefix", "prompt", "lora"])
def test_an_adapter_says_what_its_own_library_says(kind: str) -> None:
    peft = pytest.importorskip("peft")
    config = {
        "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        "lora": lambda: peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False),
    }[kind]()
    some = model("llama")
    torch.manual_seed(1)
    adapted = peft.get_peft_model(some, config).eval()
    writing = writer(adapted, Desk(), seq2seq=False, pad=0)
    assert type(writing) is (RowByRow if kind == "lora" else InBatches)
    said = written(adapted, [Row(n, prompt, RowParams(seed=n, max_new_tokens=12)) for n, prompt in enumerate(prompts(4))], writing)
    for number, prompt in enumerate(prompts(4)):
        mask = torch.ones((1, len(prompt)), dtype=torch.long)
        with torch.inference_mode():
            out = adapted.generate(
                input_ids=torch.tensor([prompt]), attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0
            )[0].tolist()
        out = out[len(prompt) :] if out[: len(prompt)] == prompt else out
        assert said[number] == (out[: out.index(END)] if END in out else out)


@pytest.mark.parametrize(("given", "weights", "threads"), [(None, 1000, 1), (None, 50_000_000, 2), ("2", 1000, 2)])
def test_a_small_model_takes_one_thread_unless_told(given: str | None, weights: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    part = SimpleNamespace(numel=lambda: weights)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        spare_threads(SimpleNamespace(device=torch.device("cpu"), parameters=lambda: [part]))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_draws_of_a_long_prompt_read_it_once() -> None:
    some = wide_llama()
    read: list[tuple[int, ...]] = []
    some.register_forward_pre_hook(lambda module, args, given: read.append(tuple(given["input_ids"].shape)), with_kwargs=True)
    written(some, [row(number, [5] * 600, 6, temperature=1.0) for number in range(8)])
    assert [shape for shape in read if shape[1] > 1] == [(1, 600)]


def test_a_long_prompt_that_came_first_does_not_end_last() -> None:
    desk, order = Desk(), []
    writing = RowByRow(wide_llama(), desk)
    desk.done = lambda ended: order.append(ended.number)  # type: ignore[method-assign]
    writing.add(row(0, [7] * 1200, 2))
    for number in range(1, 301):
        writing.add(row(number, [3 + number % 300] * (3 + number % 5), 1 + number % 9))
    while writing.busy:
        writing.step()
    assert len(order) == 301
    assert order.index(0) < 100


def test_a_row_whose_answer_fails_is_handed_back_too() -> None:
    class Failing(Desk):
        def done(self, row: Row) -> None:
            if row.number == 2:
                raise ValueError("it cannot be decoded")
            super().done(row)

    desk = Failing()
    writing = RowByRow(wide_llama(), desk)
    for number in range(5):
        writing.add(row(number, [3 + number] * 4, 3 + number))
    failed: list[int] = []
    while writing.busy:
        try:
            writing.step()
        except ValueError:
            failed += [each.number for each in writing.clear()]
    assert sorted([*desk.rows, *failed]) == [0, 1, 2, 3, 4]


def test_equal_scores_are_drawn_alike_beside_any_neighbour() -> None:
    torch.manual_seed(0)
    scores = (torch.randn(4000) * 1.5).bfloat16().float()

    def first(seed: int, others: list[Row]) -> int:
        sampler = Sampler()
        rows = [Row(0, [0], RowParams(seed=seed, max_new_tokens=9, temperature=1.0, top_k=50)), *others]
        sampler.add(rows)
        return int(sampler.choose(scores.repeat(len(rows), 1))[0])

    neighbour = [Row(1, [0], RowParams(seed=5, max_new_tokens=9, temperature=1.0, top_p=0.9))]
    assert [first(seed, []) for seed in range(200)] == [first(seed, neighbour) for seed in range(200)]


@pytest.mark.parametrize(
    ("option", "value"), [("min_new_tokens", 1), ("forced_bos_token_id", 1), ("remove_invalid_values", True), ("length_penalty", 2.0)]
)
def test_an_option_that_only_generate_knows_is_left_to_it(option: str, value: Any) -> None:
    some = model("llama")
    assert type(writer(some, Desk(), seq2seq=False, pad=0)) is RowByRow
    setattr(some.generation_config, option, value)
    assert type(writer(some, Desk(), seq2seq=False, pad=0)) is InBatches


def asked(folder: Path, texts: list[tuple[str, int]]) -> dict[int, dict[str, Any]]:
    """What a model in ``folder`` answers to texts, each with its most tokens."""
    answers: dict[int, dict[str, Any]] = {}
    local = LocalModel({"model": str(folder), "device": "cpu"}, answers.__setitem__, set())
    for number, (text, longest) in enumerate(texts):
        request = {"messages": [{"role": "user", "content": text}], "params": {"max_new_tokens": longest, "logit_bias": {"1": -1000}}}
        local.add(number, {**request, "seed": 0})
    while local.writer.busy:
        local.writer.step()
    return answers


def test_a_neighbour_does_not_decide_where_an_answer_ends(tmp_path: Path) -> None:
    import transformers

    tokenizer = tiny._tokenizer(chat=False, seq2seq=True)
    tokenizer.save_pretrained(tmp_path)
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))}
    config = transformers.BartConfig(
        vocab_size=len(tokenizer), d_model=32, pad_token_id=0, eos_token_id=1, bos_token_id=2, decoder_start_token_id=1,
        forced_eos_token_id=1, max_position_embeddings=128, **sizes,
    )  # fmt: skip
    transformers.BartForConditionalGeneration(config).save_pretrained(tmp_path)
    alone, beside = asked(tmp_path, [("red cat", 5)])[0], asked(tmp_path, [("red cat", 5), ("red cat", 9)])[0]
    assert (alone["text"], alone["finish_reason"]) == (beside["text"], beside["finish_reason"])


def test_a_token_that_the_model_does_not_have_fails_its_row_only(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tiny.causal(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zzunknown"])
    tokenizer.save_pretrained(folder)
    answers = asked(folder, [("red cat", 3), ("red zzunknown", 3), ("blue dog", 3)])
    assert "do not belong together" in answers[1]["failure"]["message"]
    assert all("text" in answers[number] for number in (0, 2))


def test_a_stop_string_may_be_a_special_token_and_ends_its_row_only(tmp_path: Path) -> None:
    folder, answers = tiny.causal(tmp_path / "model", chat=True), {}
    local = LocalModel({"model": str(folder), "device": "cpu"}, answers.__setitem__, set())
    token = str(local.tokenizer.convert_tokens_to_ids("<|user|>"))
    for number, stop in enumerate((["<|user|>"], ["nothing"], None)):
        params = {"max_new_tokens": 6, "logit_bias": {token: 1000}, "stop": stop}
        local.add(number, {"messages": [{"role": "user", "content": "red cat"}], "params": params, "seed": 0})
    while local.writer.busy:
        local.writer.step()
    assert [answers[number]["finish_reason"] for number in range(3)] == ["stop", "length", "length"]
    assert [answers[number]["usage"]["output_tokens"] for number in range(3)] == [0, 6, 6]


def test_a_worker_that_dies_in_the_middle_of_a_line_has_ended() -> None:
    class Child:
        lock, refusal = threading.Lock(), None
        waiting: dict[int, Future[Any]] = {1: Future()}  # noqa: RUF012
        has_ended = False

        def answered(self, line: bytes) -> None:
            client._Child.answered(self, line)  # type: ignore[arg-type]

        def ended(self) -> None:
            self.has_ended = True

    child = Child()
    reading = threading.Thread(target=client._read, args=(weakref.ref(child), io.BytesIO(b'{"id": 1, "text": "abc')))
    reading.start()
    reading.join(10)
    assert child.has_ended
