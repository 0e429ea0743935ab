"""Local models: their process, their identity, how rows are sampled, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdream.errors import ArgumentError, ModelError
from nbdream.llms.base import Reply, Request
from nbdream.llms.hf_transformers import HFTransformers
from nbdream.llms.weights import DEMO_FOLDER, content
from tests import tiny


def ask(model: HFTransformers, prompts: list[str], *, draw: int = 0, seed: int | None = None, **params: Any) -> list[Reply]:
    requests = [Request(model.messages(prompt), model.settings(**params), seed, draw) for prompt in prompts]
    return asyncio.run(model.complete_batch(requests))


def texts(replies: list[Reply]) -> list[str]:
    assert not [reply.error for reply in replies if reply.error]
    return [str(reply.text) for reply in replies]


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends in time (a zombie that nobody reaps has ended too)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def demo() -> Iterator[HFTransformers]:
    model = HFTransformers(str(DEMO_FOLDER))
    yield model
    model.unload_model()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model without a chat template that reads 64 tokens."""
    return tiny.causal(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.t5(tmp_path_factory.mktemp("models") / "t5")


ABSTRACT = "Generate an arXiv abstract of an NLP research paper. Return just the abstract, no titles."
MIXED = [
    ABSTRACT,
    "Write a haiku about the sea.",
    "Hello",
    "Write a short news article about sports.",
    "Write an abstract about fact checking.",
]


# --- sampling -----------------------------------------------------------------------------------------------------------


def test_a_row_says_the_same_whatever_its_neighbours(demo: HFTransformers) -> None:
    together = texts(ask(demo, MIXED, temperature=1.0))
    assert together == [texts(ask(demo, [prompt], temperature=1.0))[0] for prompt in MIXED]
    assert texts(ask(demo, MIXED[::-1], temperature=1.0)) == together[::-1]


def test_draws_and_seeds_give_other_replies_and_each_the_same_again(demo: HFTransformers) -> None:
    drawn = [texts(ask(demo, [ABSTRACT], draw=draw, temperature=1.0))[0] for draw in range(3)]
    seeded = texts(ask(demo, [ABSTRACT], seed=5, temperature=1.0))[0]
    assert len({*drawn, seeded}) == 4
    assert texts(ask(demo, [ABSTRACT], draw=2, temperature=1.0)) == drawn[2:]
    assert texts(ask(demo, [ABSTRACT], seed=5, temperature=1.0)) == [seeded]


def test_greedy_draws_are_one(demo: HFTransformers) -> None:
    assert texts(ask(demo, [ABSTRACT], draw=0, temperature=0)) == texts(ask(demo, [ABSTRACT], draw=7, temperature=0))


def test_limits_and_stop_strings_hold_for_each_row(demo: HFTransformers) -> None:
    requests = [
        Request(demo.messages(ABSTRACT), demo.settings(temperature=0, max_new_tokens=5)),
        Request(demo.messages(ABSTRACT), demo.settings(temperature=0, stop="We ")),
        Request(demo.messages(ABSTRACT), demo.settings(temperature=0, max_tokens=200)),
    ]
    short, stopped, whole = asyncio.run(demo.complete_batch(requests))
    assert (short.finish_reason, short.usage and short.usage["output_tokens"]) == ("length", 5)
    assert whole.finish_reason == stopped.finish_reason == "stop"
    assert stopped.text == str(whole.text).partition("We ")[0] != whole.text
    assert str(whole.text).startswith(str(short.text))
    assert whole.model == "demo"


def test_a_logit_bias_and_a_penalty_change_what_is_said(demo: HFTransformers) -> None:
    said = ask(demo, ["Hello"], temperature=0)[0]
    end = json.loads((DEMO_FOLDER / "generation_config.json").read_text())["eos_token_id"]
    silent = ask(demo, ["Hello"], temperature=0, logit_bias={str(end): 1000})[0]
    assert silent.text == ""
    assert ask(demo, ["Hello"], temperature=0, repetition_penalty=5.0)[0].text != said.text


def test_the_sampler_draws_what_its_filters_leave() -> None:
    import torch

    from nbdream.workers.sampling import Row, RowParams, Sampler

    scores = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0]).log()[None]

    def share(**params: Any) -> list[float]:
        sampler = Sampler()
        sampler.add(Row(seed, [0], RowParams(seed=seed, max_new_tokens=1, **params)) for seed in range(3000))
        return (torch.bincount(sampler.choose(scores.repeat(3000, 1)), minlength=5) / 3000).tolist()

    assert share(temperature=1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05, 0.0], abs=0.03)
    assert share(temperature=1.0, top_k=2) == pytest.approx([0.625, 0.375, 0, 0, 0], abs=0.03)
    assert share(temperature=1.0, top_p=0.9)[3:] == [0, 0]
    assert share(temperature=1.0, top_p=0.0) == [1, 0, 0, 0, 0]
    assert share(temperature=1.0, min_p=0.5) == pytest.approx([0.625, 0.375, 0, 0, 0], abs=0.03)
    assert share() == [1, 0, 0, 0, 0]
    assert share(temperature=0.5)[0] == pytest.approx(0.25 / 0.365, abs=0.03)


# --- kinds of models ------------------------------------------------------------------------------------------------------


def test_a_seq2seq_model_answers_and_rows_do_not_mix(t5: Path) -> None:
    model = HFTransformers(str(t5))
    prompts = ["the cat sings", "a big red bird sleeps under the tree over the river"]
    together = ask(model, prompts, temperature=1.0, max_new_tokens=6)
    assert texts(together) == [texts(ask(model, [prompt], temperature=1.0, max_new_tokens=6))[0] for prompt in prompts]
    assert all(reply.usage and 0 < reply.usage["output_tokens"] <= 6 for reply in together)
    assert model.get_max_context_length(10) == 64
    model.unload_model()


def test_a_prompt_that_is_too_long_fails_alone(plain: Path) -> None:
    model = HFTransformers(str(plain))
    good, bad = ask(model, ["cat", "cat " * 100], temperature=0, max_new_tokens=3)
    assert good.error is None
    assert bad.error is not None
    assert bad.error["kind"] == "row"
    assert "64" in bad.error["message"]
    assert model.count_tokens("cat dog") == 2
    assert model.get_max_context_length(24) == 40
    model.unload_model()


def test_an_adapter_changes_what_is_said_and_who_it_is(plain: Path, tmp_path: Path) -> None:
    import peft
    import torch
    import transformers

    torch.manual_seed(1)
    base = transformers.AutoModelForCausalLM.from_pretrained(plain)
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "adapter")
    bare, model = HFTransformers(str(plain)), HFTransformers(str(plain), adapter_name=str(tmp_path / "adapter"))
    assert texts(ask(bare, ["the cat"], temperature=0, max_new_tokens=8)) != texts(ask(model, ["the cat"], temperature=0, max_new_tokens=8))
    assert bare.identity != model.identity
    bare.unload_model()
    model.unload_model()


def test_what_a_model_reads() -> None:
    from nbdream.workers.chat import prompt_text

    class Picky:
        chat_template = "own"

        def apply_chat_template(self, chat: list[dict[str, str]], **options: Any) -> str:
            if chat[0]["role"] == "system":
                raise ValueError("no system role")
            return f"{options.get('chat_template', 'own')}:{chat[0]['content']}"

    class Bare:
        chat_template = None

    chat = [{"role": "system", "content": "Be {{prompt}}."}, {"role": "user", "content": "Hi {{system_prompt}}"}]
    assert prompt_text(Bare(), chat) == ("Be {{prompt}}.\n\nHi {{system_prompt}}", True)
    assert prompt_text(Picky(), chat) == ("own:Be {{prompt}}.\n\nHi {{system_prompt}}", False)
    assert prompt_text(Picky(), chat, "{{ messages }}") == ("{{ messages }}:Be {{prompt}}.\n\nHi {{system_prompt}}", False)
    assert prompt_text(Picky(), chat, "S: {{system_prompt}} Q: {{prompt}} A:") == ("S: Be {{prompt}}. Q: Hi {{system_prompt}} A:", True)


# --- who it is --------------------------------------------------------------------------------------------------------------


def test_identity_is_the_content_not_the_place_or_the_card(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(DEMO_FOLDER, copy)
    (copy / "README.md").write_text("another card")
    assert HFTransformers(str(copy)).identity == HFTransformers(str(DEMO_FOLDER)).identity
    assert HFTransformers(str(copy), device="cpu").identity == HFTransformers(str(copy)).identity
    assert str(tmp_path) not in json.dumps(HFTransformers(str(copy)).identity)
    others = [
        HFTransformers(str(copy), dtype="bfloat16"),
        HFTransformers(str(copy), quantization_config={"load_in_4bit": True}),
        HFTransformers(str(copy), chat_prompt_template="{{prompt}}"),
    ]
    seen = {json.dumps(model.identity) for model in (*others, HFTransformers(str(copy)))}
    assert len(seen) == 4
    (copy / "generation_config.json").write_text('{"do_sample": false}')
    assert HFTransformers(str(copy)).identity != HFTransformers(str(DEMO_FOLDER)).identity


def test_a_hub_name_is_pinned_to_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    from nbdream import context

    class Api:
        def model_info(self, name: str, **_: Any) -> Any:
            return type("Info", (), {"sha": "a" * 40})()

    pins: dict[str, str] = {}

    class Session:
        def pin(self, name: str, find: Any) -> str:
            return pins.setdefault(name, find())

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    session: Any = Session()
    with context.using(session):
        model = HFTransformers("someone/model", token="hf_not_a_real_one")
        assert model.identity == {"provider": "transformers", "model": "someone/model", "commit": "a" * 40}
    assert pins == {"models/someone/model@main": "a" * 40}
    assert model.card["card_url"] == "https://huggingface.co/someone/model"
    assert HFTransformers("someone/model", revision="c" * 40).identity["commit"] == "c" * 40


# --- what goes wrong --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/nothing-here", "what is this?"])
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(ModelError, match="there is no folder") as caught:
        HFTransformers(name)
    assert caught.value.hint


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        HFTransformers(str(tmp_path))


def test_a_hub_that_cannot_be_reached_says_so_in_a_line() -> None:
    model = HFTransformers("someone/model")
    with pytest.raises(ModelError) as caught:
        _ = model.identity
    assert "\n" not in str(caught.value)
    assert "someone/model" in str(caught.value)


def test_an_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(ArgumentError, match="adapter_name"):
        HFTransformers(str(DEMO_FOLDER), adaptor_name="x")
    with pytest.raises(ArgumentError, match="temperature"):
        HFTransformers(str(DEMO_FOLDER)).settings(temprature=1)
    assert HFTransformers(str(DEMO_FOLDER), temperature=0.3).settings() == {"temperature": 0.3}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_broken_file_is_named_and_nothing_is_unpickled(plain: Path, tmp_path: Path, name: str) -> None:
    from nbdream.errors import BrokenFileError
    from nbdream.workers.loading import check_folder

    copy = tmp_path / "broken"
    shutil.copytree(plain, copy)
    sign = tmp_path / "sang"
    (copy / name).write_bytes(b"cposix\nsystem\n(S'touch " + str(sign).encode() + b"'\ntR.")
    with pytest.raises(BrokenFileError, match=name.replace(".", r"\.")):
        check_folder(copy)
    assert not sign.exists()


def test_a_model_that_cannot_be_loaded_refuses_every_row_in_the_same_words(plain: Path, tmp_path: Path) -> None:
    copy = tmp_path / "broken"
    shutil.copytree(plain, copy)
    (copy / "model.safetensors").write_bytes(b"not weights")
    replies = ask(HFTransformers(str(copy)), ["a", "b"])
    assert [reply.error and reply.error["kind"] for reply in replies] == ["all", "all"]
    assert replies[0].error
    assert "model.safetensors" in replies[0].error["message"]


def test_a_missing_package_is_reported_with_its_install_line() -> None:
    from nbdream.workers.client import error_from
    from nbdream.workers.model import describe

    told = describe(ModuleNotFoundError("No module named 'torch'", name="torch"), "demo")
    error = error_from(told)
    assert isinstance(error, ImportError)
    assert str(error) == "torch is not installed (pip install 'nbdream[local]')"


# --- the process ------------------------------------------------------------------------------------------------------------


def test_the_process_is_shared_and_ends_and_starts_again(demo: HFTransformers) -> None:
    other = HFTransformers(str(DEMO_FOLDER))
    assert ask(demo, ["Hello"])[0].text == ask(other, ["Hello"])[0].text
    first = demo._started().pid
    assert first is not None
    assert other._started().pid == first
    demo.unload_model()
    assert gone(first)
    assert ask(demo, ["Hello"])[0].error is None
    assert demo._started().pid not in (None, first)


def test_a_killed_process_is_reported_and_the_next_call_starts_another(demo: HFTransformers) -> None:
    ask(demo, ["Hello"])
    process = demo._started()
    assert process.pid is not None

    async def killed() -> list[Reply]:
        rows = [Request(demo.messages(ABSTRACT), {"max_new_tokens": 900, "logit_bias": {"1": -1000}})] * 64
        running = asyncio.create_task(demo.complete_batch(rows))
        await asyncio.sleep(0.5)
        os.kill(process.pid or 0, signal.SIGKILL)
        return await running

    replies = asyncio.run(killed())
    assert replies[0].error
    assert "killed" in replies[0].error["message"]
    assert ask(demo, ["Hello"])[0].error is None


def test_asking_waits_for_no_pipe(demo: HFTransformers) -> None:
    assert demo.count_tokens("Hello") > 0
    process = demo._started()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        _, future = process.ask("count", texts=["Hello " * 200_000])  # many times what a pipe holds
        assert time.monotonic() - begin < 1
        assert not future.done()
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert future.result(30)["counts"][0] >= 200_000


def test_replies_come_as_they_end(demo: HFTransformers) -> None:
    end = json.loads((DEMO_FOLDER / "generation_config.json").read_text())["eos_token_id"]

    async def order() -> list[int]:
        ended: list[int] = []

        async def one(number: int, longest: int) -> None:
            params = {"max_new_tokens": longest, "logit_bias": {str(end): -1000}}
            assert (await demo.complete(Request(demo.messages(f"Hello {number}"), params))).error is None
            ended.append(number)

        await asyncio.gather(*(one(number, 300 if number == 0 else 2) for number in range(80)))
        return ended

    assert asyncio.run(order())[-1] == 0
    assert demo._started().wait("about")["rows"] >= 16


def test_a_cancelled_batch_ends_within_a_second(demo: HFTransformers) -> None:
    end = json.loads((DEMO_FOLDER / "generation_config.json").read_text())["eos_token_id"]
    ask(demo, ["Hello"])

    async def cancelled() -> tuple[float, float]:
        rows = [Request(demo.messages(f"Hello {number}"), {"max_new_tokens": 900, "logit_bias": {str(end): -1000}}) for number in range(64)]
        running = asyncio.create_task(demo.complete_batch(rows))
        await asyncio.sleep(1.0)
        assert not running.done()
        begin = time.monotonic()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        back = time.monotonic() - begin
        # The next batch gets through only when the model has given this one up.
        replies = await demo.complete_batch([Request(demo.messages("Hello"), {"max_new_tokens": 1})])
        assert replies[0].error is None
        return back, time.monotonic() - begin

    back, free = asyncio.run(cancelled())
    assert back < 0.5
    assert free < 5  # the whole batch takes a minute


def test_the_process_dies_with_a_killed_kernel_and_the_kernel_holds_no_torch(tmp_path: Path) -> None:
    script = tmp_path / "kernel.py"
    script.write_text(
        textwrap.dedent("""
        import asyncio, sys, time
        from nbdream.llms.hf_transformers import demo
        from nbdream.llms.base import Request
        model = demo()
        reply = asyncio.run(model.complete_batch([Request(model.messages("Hello"), {})]))[0]
        assert reply.text, reply
        heavy = [name for name in ("torch", "transformers", "trl", "peft") if name in sys.modules]
        print(model._started().pid, *heavy, flush=True)
        time.sleep(60)
        """)
    )
    kernel = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert kernel.stdout is not None
    told = kernel.stdout.readline().split()
    kernel.kill()
    kernel.wait()
    kernel.stdout.close()
    assert len(told) == 1
    assert gone(int(told[0]))


def test_content_reads_a_changed_file_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = content(tmp_path)
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert content(tmp_path) != before


# --- answers of a form ----------------------------------------------------------------------------------------------------

PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["cat", "dog"]}, "legs": {"type": "integer", "minimum": 2, "maximum": 4}},
    "required": ["name", "legs"],
    "additionalProperties": False,
}


def under(model: HFTransformers, schemas: list[dict[str, Any] | None], **params: Any) -> list[Reply]:
    requests = [Request(model.messages(f"row {number}"), model.settings(**params), schema=schema) for number, schema in enumerate(schemas)]
    return asyncio.run(model.complete_batch(requests))


@pytest.mark.parametrize("kind", ["plain", "t5"])
def test_a_local_model_is_held_to_a_schema(kind: str, request: pytest.FixtureRequest) -> None:
    model = HFTransformers(str(request.getfixturevalue(kind)))
    other = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": False}
    replies = under(model, [PERSON, None, PERSON, other] * 3, max_new_tokens=50, temperature=1.0)
    for number, reply in enumerate(replies):
        if number % 4 != 1:
            said = json.loads(texts([reply])[0])
            assert set(said) == ({"yes"} if number % 4 == 3 else {"name", "legs"})
            assert said.get("legs", 3) in (2, 3, 4)
            assert reply.finish_reason == "stop"
    alone = under(model, [None, None], max_new_tokens=50, temperature=1.0)
    assert replies[1].text == alone[1].text  # a row without a schema does not notice those with one
    model.unload_model()


def test_a_schema_that_no_grammar_holds_is_one_line(plain: Path) -> None:
    model = HFTransformers(str(plain))
    [reply] = under(model, [{"type": "object", "properties": {"x": {"not": {"type": "string"}}}, "required": ["x"]}])
    assert reply.error is not None
    assert (reply.error["kind"], "\n" in reply.error["message"]) == ("all", False)
    assert "cannot be held to this schema" in reply.error["message"]
    model.unload_model()


def test_code_that_a_model_brings_is_not_run_unless_it_is_trusted(tmp_path: Path) -> None:
    folder, canary = tiny.causal(tmp_path / "own"), tmp_path / "sang"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "sung", "auto_map": {"AutoConfig": "song.Sung", "AutoModelForCausalLM": "song.Sings"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "song.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    (reply,) = ask(HFTransformers(str(folder), device="cpu"), ["red cat"])
    assert reply.error is not None
    assert re.search(r"brings code of its own.*trust_remote_code=True", str(reply.error))
    assert not canary.exists()
