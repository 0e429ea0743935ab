"""`TrainHFFineTune` in a session: recipes, arguments, labels, and real small runs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from nbdream import Session
from nbdream.errors import ArgumentError, BrokenFileError, DataError, Stopped, TrainingError
from nbdream.files import Lock, write_json
from nbdream.magics.dream import card_view
from nbdream.steps import DataSource, Prompt
from nbdream.trainers import TrainHFFineTune
from nbdream.trainers.arguments import Batch, check_names, cut_batch, devices_of, library_arguments, number, plain_adapter
from nbdream.trainers.completion import chat_template, max_length_of, prepare_causal, prepare_seq2seq
from nbdream.trainers.hf_fine_tune import HFFineTune
from nbdream.trainers.run_step import curve
from nbdream.workers import runs
from nbdream.workers.paths import RunPaths
from tests import tiny
from tests.training import called_here


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "causal": tiny.causal(folder / "causal"),
        "chat": tiny.causal(folder / "chat", chat=True),
        "t5": tiny.t5(folder / "t5"),
    }


def rows(**more: list[Any]) -> DataSource:
    inputs, outputs = tiny.pairs(24)
    return DataSource("rows", data={"question": inputs, "answer": outputs, **more})


def columns(data: Any) -> dict[str, Any]:
    return {"train_input": data.output["question"], "train_output": data.output["answer"]}


# --- arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "cut"),
    [
        ((8, 1, 1, None), Batch(8, 8, 1)),
        ((8, 1, 2, None), Batch(8, 4, 1)),
        ((1, 32, 2, None), Batch(32, 1, 16)),
        ((6, 2, 4, None), Batch(12, 1, 3)),
        ((8, 4, 2, 2), Batch(32, 2, 8)),
    ],
)
def test_a_batch_is_cut_and_the_effective_one_stays(given: tuple[Any, ...], cut: Batch) -> None:
    assert cut_batch(*given) == cut
    assert cut.per_device * cut.accumulation * given[2] == cut.effective


@pytest.mark.parametrize("given", [(7, 1, 2, None), (8, 1, 1, 3), (0, 1, 1, None), ("8", 1, 1, None), (True, 1, 1, None)])
def test_a_batch_that_cannot_be_cut_is_refused(given: tuple[Any, ...]) -> None:
    with pytest.raises(ArgumentError):
        cut_batch(*given)


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ((None, None), (1, None)),
        (("cpu", 2), (2, "cpu")),
        ((["cpu", "cpu"], None), (2, "cpu")),
        ((0, None), (1, "cuda:0")),
        ((["cuda:0", "cuda:1"], None), (2, ["cuda:0", "cuda:1"])),
        (([0, 3], 2), (2, ["cuda:0", "cuda:3"])),
    ],
)
def test_devices(given: tuple[Any, ...], made: tuple[Any, ...]) -> None:
    assert devices_of(*given) == made


@pytest.mark.parametrize(
    "given", [(["cuda:0", "cuda:0"], None), (["cpu", "cuda:0"], None), ("tpu", None), ("cuda:0", 2), ([0, 1], 3), (None, 0)]
)
def test_devices_that_make_no_sense_are_refused(given: tuple[Any, ...]) -> None:
    with pytest.raises(ArgumentError):
        devices_of(*given)


def test_the_librarys_names_are_read_from_its_source() -> None:
    import dataclasses

    from transformers import TrainingArguments

    real = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    assert library_arguments() >= real - {"logging_dir"}
    assert {"max_grad_norm", "gradient_accumulation_steps", "lr_scheduler_kwargs"} <= library_arguments()


@pytest.mark.parametrize(
    ("name", "hint"),
    [("max_grad_nrom", "max_grad_norm"), ("batchsize", "batch_size"), ("output_dir", "leave it out"), ("hub_token", "leave")],
)
def test_an_unknown_argument_gets_the_nearest_name(name: str, hint: str) -> None:
    with pytest.raises(ArgumentError, match=hint):
        check_names({name: 1}, TrainHFFineTune.arguments())


@pytest.mark.parametrize("value", ["2e-5", None, True, -1, 0, float("nan"), float("inf")])
def test_a_learning_rate_is_a_number_above_zero(value: Any) -> None:
    with pytest.raises(ArgumentError, match="learning_rate"):
        number("learning_rate", value)


def test_an_adapter_is_what_differs_from_the_defaults() -> None:
    from peft import LoraConfig

    assert plain_adapter(None) is None
    assert plain_adapter(LoraConfig()) == plain_adapter({}) == {"peft_type": "LORA", "target_modules": "all-linear"}
    given = plain_adapter(LoraConfig(r=4, target_modules=["v", "q"], task_type="CAUSAL_LM", lora_dropout=0.1))
    assert given == {"r": 4, "target_modules": ["q", "v"], "lora_dropout": 0.1, "peft_type": "LORA"}
    assert json.loads(json.dumps(given)) == given
    with pytest.raises(ArgumentError):
        plain_adapter(8)


# --- what is learned -----------------------------------------------------------------------------------------------------


def learned(tokenizer: Any, row: dict[str, list[int]]) -> str:
    return str(tokenizer.decode([token for token in row["labels"] if token != -100]))


def causal_rows(tokenizer: Any, inputs: list[str], outputs: list[str], **more: Any) -> Any:
    return prepare_causal(tokenizer, inputs, outputs, **{"system": None, "max_length": 64, "truncate": True, **more})


@pytest.mark.parametrize("system", [None, "be brief"])
def test_only_the_answer_is_learned(models: dict[str, Path], system: str | None) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models["chat"])
    made = causal_rows(tokenizer, *tiny.pairs(8), system=system)
    for row, text, output in zip(made.rows, *tiny.pairs(8), strict=True):
        said = f"<|system|>{system}<eos>" if system else ""
        assert tokenizer.decode(row["input_ids"]) == f"{said}<|user|>{text}<eos><|assistant|>{output}<eos>"
        assert learned(tokenizer, row) == f"{output}<eos>"


def test_tokens_that_merge_over_the_border_shift_no_label(models: dict[str, Path]) -> None:
    """Tokenised apart, prompt and answer have more tokens than together: a mask made by counting would be off by one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models["causal"])
    tokenizer.chat_template = chat_template(tokenizer, "say {{prompt}} re")
    made = causal_rows(tokenizer, ["blue"], ["d green"])
    (row,) = made.rows
    apart = (
        tokenizer("say blue re", add_special_tokens=False)["input_ids"] + tokenizer("d green<eos>", add_special_tokens=False)["input_ids"]
    )
    assert len(row["input_ids"]) < len(apart)
    assert tokenizer.decode(row["input_ids"]) == "say blue red green<eos>"
    assert learned(tokenizer, row) == " red green<eos>"


def test_a_short_template_is_no_template_for_what_is_filled_in(models: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models["causal"])
    tokenizer.chat_template = chat_template(tokenizer, '### {{system_prompt}} {% if %}\n{{prompt}}\n### "é":\n')
    made = causal_rows(tokenizer, ["{{ bos_token }} red"], ["blue"], system="brief")
    assert tokenizer.decode(made.rows[0]["input_ids"]) == '### brief {% if %}\n{{ bos_token }} red\n### "é":\nblue<eos>'
    with pytest.raises(TrainingError, match="no place"):
        chat_template(tokenizer, "nothing here")


def test_a_system_prompt_is_learned_or_refused(models: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models["causal"])
    tokenizer.chat_template = chat_template(tokenizer, None)
    for system, begins in (("be brief", "be brief\n\nred cat\n\n"), (None, "red cat\n\n")):
        (row,) = causal_rows(tokenizer, ["red cat"], ["dog"], system=system).rows
        assert tokenizer.decode(row["input_ids"]).startswith(begins)
    with pytest.raises(ArgumentError, match="no place for the system prompt"):
        TrainHFFineTune("tweeter", str(models["causal"]), system_prompt="be brief", chat_prompt_template="Q: {{prompt}} A: ")


def test_what_is_cut_is_counted(models: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models["causal"])
    tokenizer.chat_template = chat_template(tokenizer, None)
    inputs = ["red", "red green blue cat dog bird", "red " * 30]
    made = causal_rows(tokenizer, inputs, ["blue cat dog bird"] * 3, max_length=12)
    assert (len(made.rows), made.truncated, made.dropped) == (2, 2, 1)
    exact = causal_rows(tokenizer, inputs[:1], ["blue"], max_length=len(causal_rows(tokenizer, inputs[:1], ["blue"]).rows[0]["input_ids"]))
    assert (len(exact.rows), exact.truncated) == (1, 0)
    with pytest.raises(DataError, match="row 1"):
        causal_rows(tokenizer, inputs, ["blue cat dog bird"] * 3, max_length=12, truncate=False)


def test_sequences_of_a_t5_end_as_they_should(models: dict[str, Path]) -> None:
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models["t5"])
    assert max_length_of(tokenizer, AutoConfig.from_pretrained(models["t5"]), None) == 64
    made = prepare_seq2seq(tokenizer, ["red " * 30, "red"], ["blue", "blue"], max_length=10, truncate=True)
    assert [row["input_ids"][-1] for row in made.rows] == [tokenizer.eos_token_id] * 2
    assert (len(made.rows[0]["input_ids"]), made.truncated) == (10, 1)
    assert learned(tokenizer, made.rows[1]) == "blue<eos>"


def test_a_curve_has_each_step_once() -> None:
    events = [
        {"type": "begin", "step": 0},
        *({"type": "log", "step": step, "loss": float(step), "tokens_per_second": 3.0} for step in (1, 2, 3)),
        {"type": "eval", "step": 2, "eval_loss": 0.5},
        {"type": "resumed", "step": 2},
        {"type": "begin", "step": 2},
        {"type": "log", "step": 3, "loss": 9.0},
    ]
    made = curve(events, HFFineTune.measures)
    assert made["step"] == [1, 2, 3]
    assert made["loss"] == [1.0, 2.0, 9.0]
    assert made["eval_loss"] == [None, 0.5, None]
    assert "tokens_per_second" not in made


# --- recipes -------------------------------------------------------------------------------------------------------------


class Caught(Exception):
    """A step came to the door, and went no further."""


@pytest.fixture
def keys(session: Session, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The recipe that a trainer and its arguments give, without a run."""
    data = rows(note=list(range(24)))

    def recipe(base: str = "causal", made: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
        found: list[HFFineTune] = []

        def door(step: HFFineTune) -> None:
            found.append(step)
            raise Caught

        with monkeypatch.context() as patch:
            patch.setattr(session, "run", door)
            with pytest.raises(Caught):
                TrainHFFineTune(**{"name": "tweeter", "model_name": str(models.get(base, base)), **(made or {})}).train(
                    **columns(data), **given
                )
        return found[0].recipe_made

    return recipe


def test_what_cannot_change_the_model_is_not_in_the_recipe(keys: Any) -> None:
    first = keys()
    assert keys(made={"devices": 2, "device": "cpu"}) == first
    assert keys(made={"name": "another", "fsdp": False}) == first
    assert keys(logging_steps=7, save_steps=3, per_device_train_batch_size=2, report_to="none", dataloader_num_workers=1) == first
    assert keys(batch_size=4, gradient_accumulation_steps=2) == first
    assert keys(batch_size=1, gradient_accumulation_steps=8, made={"devices": 4}) == first


@pytest.mark.parametrize(
    "changed",
    [
        {"epochs": 4}, {"batch_size": 16}, {"learning_rate": 1e-4}, {"seed": 1}, {"max_length": 32}, {"max_grad_norm": 0.5},
        {"base": "chat"}, {"made": {"peft_config": {"r": 8}}}, {"made": {"system_prompt": "brief"}}, {"made": {"dtype": "bfloat16"}},
        {"made": {"chat_prompt_template": "{{prompt}}: "}},
    ],
    ids=str,
)  # fmt: skip
def test_what_changes_the_model_is_in_the_recipe(keys: Any, changed: dict[str, Any]) -> None:
    assert keys(**changed) != keys()


def test_the_default_learning_rate_stands_in_the_recipe(keys: Any) -> None:
    assert keys()["args"]["learning_rate"] == 2e-5
    assert keys(made={"peft_config": {"r": 8}})["args"]["learning_rate"] == 2e-4
    assert keys(base="t5")["args"]["learning_rate"] == 1e-3
    assert keys(learning_rate=3)["args"]["learning_rate"] == 3


def test_a_moved_base_model_is_the_same_model(keys: Any, models: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    moved = shutil.copytree(models["causal"], tmp_path / "moved")
    assert keys(base=str(moved)) == keys()
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**config, "rope_theta": 5000}))
    assert keys(base=str(moved)) != keys()


# --- refused before a process is started ---------------------------------------------------------------------------------


@pytest.fixture
def _no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(runs, "launch", refuse)


@pytest.mark.usefixtures("_no_process", "session")
@pytest.mark.parametrize(
    ("questions", "answers", "words"),
    [
        (["a", "b"], ["x", None], "row 1 of 'answer' is null"),
        (["a", "b"], [1, 2], "holds int64, not text"),
        (["a", "b"], [" ", ""], "is empty"),
        (["a"], ["b"], "no row"),
    ],
)
def test_rows_that_cannot_be_learned(models: dict[str, Path], questions: list[Any], answers: list[Any], words: str) -> None:
    data: Any = DataSource("bad", data={"question": questions, "answer": answers})
    if words == "no row":
        data = data.take(0)
    with pytest.raises(DataError, match=words):
        TrainHFFineTune("tweeter", str(models["causal"])).train(**columns(data))


@pytest.mark.usefixtures("_no_process", "session")
def test_arguments_that_make_no_sense(models: dict[str, Path]) -> None:
    data = rows()
    trainer = TrainHFFineTune("tweeter", str(models["causal"]), devices=2)
    for given, words in (
        ({"batch_size": 7}, "equal parts"), ({"learning_rate": "1e-4"}, "without quotes"), ({"epochs": 0}, "epochs"),
        ({"max_grad_nrom": 1}, "max_grad_norm"), ({"compute_loss": len}, "compute_loss"), ({"optim_args": len}, "builtin_function"),
        ({"validation_input": data.output["question"]}, "the same columns"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=words):
            trainer.train(**columns(data), **given)
    with pytest.raises(TrainingError, match="has not been trained"):
        _ = trainer.model_path


@pytest.mark.usefixtures("_no_process")
def test_another_run_of_the_name_is_not_trained_over(session: Session, models: dict[str, Path]) -> None:
    other = RunPaths(session.folder / "objects" / "other")
    lock = Lock(other.lock)
    assert lock.acquire()
    write_json(other.spec, {"name": "tweeter"})
    other.events.write_text(json.dumps({"type": "log", "step": 41, "max_steps": 100}) + "\n")
    try:
        with pytest.raises(TrainingError, match=r"tweeter is training \(41 %\).*--replace"):
            TrainHFFineTune("tweeter", str(models["causal"])).train(**columns(rows()))
    finally:
        lock.release()


@pytest.mark.usefixtures("_no_process")
def test_a_run_that_is_just_being_started_is_in_nobodys_way(session: Session, models: dict[str, Path]) -> None:
    """It holds its lock, and has no spec yet."""
    with (
        Lock(session.folder / "objects" / "other" / "run.lock"),
        pytest.raises(AssertionError, match="a process was started"),
    ):
        TrainHFFineTune("tweeter", str(models["causal"])).train(**columns(rows()))


def test_a_failed_run_is_one_line_with_its_hint(session: Session, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "launch", lambda *_, **__: None)
    monkeypatch.setattr(runs, "follow", lambda *_: {"state": "failed", "message": "rank 1 of 2 was killed (SIGKILL)", "hint": "use less"})
    with pytest.raises(TrainingError) as raised:
        TrainHFFineTune("tweeter", str(models["causal"])).train(**columns(rows()))
    assert str(raised.value) == "training tweeter failed: rank 1 of 2 was killed (SIGKILL) (use less)"
    assert list(session) == ["rows"]


# --- real runs -----------------------------------------------------------------------------------------------------------

KERNEL = """
import json, sys
from nbdream import Session
from nbdream.steps import DataSource
from nbdream.trainers import TrainHFFineTune

base, inputs, outputs = json.loads(sys.argv[1])
with Session("output") as session:
    data = DataSource("rows", data={"question": inputs, "answer": outputs})
    heard = []
    session.subscribe(heard.append)
    trainer = TrainHFFineTune("tweeter", base, peft_config={"r": 8, "lora_alpha": 16}, system_prompt="be brief", device="cpu")
    pair = data.output["question"], data.output["answer"]
    model = trainer.train(*pair, *pair, epochs=12, batch_size=8, learning_rate=0.02)
    answer = model("red green blue cat dog", max_new_tokens=8)
    heavy = [name for name in ("torch", "transformers", "peft", "trl") if name in sys.modules]
    events = [event["event"]["type"] for event in heard if event["type"] == "run.event"]
    print(json.dumps({"answer": answer, "heavy": heavy, "events": events, "path": model.model_path}))
"""


@pytest.fixture(scope="module")
def trained(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An adapter trained by a kernel that is gone, and what that kernel saw."""
    folder = tmp_path_factory.mktemp("trained")
    told = json.dumps([str(models["chat"]), *tiny.pairs(24)])
    done = subprocess.run([sys.executable, "-c", KERNEL, told], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "folder": folder}


@pytest.mark.slow
def test_a_kernel_trains_and_asks_without_torch(trained: dict[str, Any]) -> None:
    assert trained["heavy"] == []
    assert trained["events"].count("log") == 36
    assert isinstance(trained["answer"], str)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_process")
def test_what_was_trained_is_loaded(trained: dict[str, Any], models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained["folder"])
    with Session("output") as session:
        inputs, outputs = tiny.pairs(24)
        data = DataSource("rows renamed", data={"question": inputs, "answer": outputs, "unread": list(range(24))})
        held = {"validation_input": data.output["question"], "validation_output": data.output["answer"]}
        trainer = TrainHFFineTune(
            "renamed", str(models["chat"]), peft_config={"r": 8, "lora_alpha": 16}, system_prompt="be brief", device="cpu", devices=2
        )
        model = trainer.train(**columns(data), **held, epochs=12, batch_size=8, learning_rate=0.02)
        assert model("red green blue cat dog", max_new_tokens=8, cache_only=True) == trained["answer"]  # who it is has not changed
        again = session.load("tweeter")
        assert again.identity == model.identity
        assert again.model_path == trained["path"]
        assert len(again.curve) == 36
        losses = list(again.curve["loss"])
        assert losses[-1] < losses[0] - 0.1
        assert [value is not None for value in again.curve["eval_loss"]].count(True) == 12
        assert again.node["kind"] == "run"
        assert again.node["models"][0]["identity"]["content"]
        assert again.examples == inputs[:3]
        assert "model_card" in again.training_card()
        assert again.picture.count("<polyline") == 2
        assert b64encode(again.picture.encode()).decode() in card_view(session, again).bundle["text/html"], "the curve in the card"
        asked = Prompt("asked", inputs={"prompts": data.take(2).output["question"]}, args={"llm": again, "max_new_tokens": 2})
        assert {"asked", "tweeter", "rows"} <= {place["use"]["name"] for place in session.graph(asked)["nodes"].values()}
        assert session.load("asked").output[:] == asked.output[:]
        assert session.names.state("asked").state == "fresh"


@pytest.mark.slow
def test_code_in_a_folder_runs_only_for_a_kernel_that_said_so(trained: dict[str, Any], tmp_path: Path) -> None:
    folder, canary = tmp_path / "session", tmp_path / "sings"
    shutil.copytree(next(trained["folder"].glob("*/session.json")).parent, folder)
    spec = next(folder.glob("objects/*/spec.json"))
    told = json.loads(spec.read_text())
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "song", "auto_map": {"AutoConfig": "song.Song"}}))
    (base / "song.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    told["model"] |= {"path": os.path.relpath(base, spec.parent), "local": True, "trust_remote_code": True}
    spec.write_text(json.dumps(told))
    with Session(folder) as session:
        model = session.load(told["name"])
        assert not model.trust_remote_code
        with pytest.raises(TrainingError):
            model.export_to_disk(tmp_path / "merged")
    assert not canary.exists()


@pytest.mark.slow
def test_a_merged_model_says_what_the_adapter_says(trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.chdir(trained["folder"])
    with Session("output") as session:
        model = session.load("tweeter")
        with called_here():
            merged = model.export_to_disk(tmp_path / "merged")
        adapter = model.export_to_disk(tmp_path / "adapter", adapter_only=True)
        with pytest.raises(ArgumentError, match="there already"):
            model.export_to_disk(tmp_path / "merged")
        base = model.folder
    ids = torch.tensor([AutoTokenizer.from_pretrained(merged)("red green blue")["input_ids"]])
    whole = AutoModelForCausalLM.from_pretrained(merged)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    with torch.no_grad():
        assert torch.allclose(whole(ids).logits, adapted(ids).logits, atol=1e-4)
    assert {path.suffix for path in Path(merged).iterdir()} <= {".json", ".safetensors", ".jinja"}


@pytest.mark.slow
def test_four_bits_train_an_adapter_that_is_loaded_over_them(session: Session, models: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    data = rows()
    quantized = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}

    def train() -> Any:
        trainer = TrainHFFineTune(
            "small", str(models["causal"]), device="cpu", peft_config={"r": 8}, quantization_config=quantized, dtype="float32"
        )
        return trainer.train(**columns(data), epochs=4, learning_rate=1e-2)

    model = train()
    losses = list(model.curve["loss"])
    assert losses[-1] < losses[0] - 0.1
    ready = next(event for event in model.events if event["type"] == "ready")
    assert ready["trainable"] < ready["parameters"]
    said = model("red cat sings", max_new_tokens=6)
    model.unload_model()
    assert train().fingerprint == model.fingerprint
    assert train()("red cat sings", max_new_tokens=6, force=True) == said
    with called_here():
        merged = model.export_to_disk(tmp_path / "merged")
    assert (Path(merged) / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_best_evaluation_is_the_model_and_nothing_better_ends_it(session: Session, models: dict[str, Path]) -> None:
    inputs, outputs = tiny.pairs(24)
    wrong = [" ".join(text.split()[:2]) for text in inputs]  # held-out rows that training makes ever less likely
    data = DataSource("rows", data={"question": inputs, "answer": outputs, "other": wrong})
    held = {"validation_input": data.output["question"], "validation_output": data.output["other"]}
    trainer = TrainHFFineTune("tweeter", str(models["causal"]), device="cpu")
    model = trainer.train(**columns(data), **held, epochs=40, learning_rate=3e-2, early_stopping_patience=2)
    measured = {row["step"]: row["eval_loss"] for row in model.curve if row["eval_loss"] is not None}
    done = next(event for event in model.events if event["type"] == "done")
    best = min(measured, key=lambda step: measured[step])
    assert done["best_step"] == best
    assert done["eval_loss"] == measured[best]
    assert [event["best_step"] for event in model.events if event["type"] == "early_stop"] == [best]
    assert max(measured) < 40 * 3, "it ended early"
    assert len([step for step in measured if step > best]) == 2
    again = TrainHFFineTune("measured", str(Path(model.model_path)), device="cpu")
    first = again.train(**columns(data), **held, epochs=1, learning_rate=1e-12, early_stopping_patience=None)
    assert first.curve["eval_loss"][-1] == pytest.approx(measured[best], abs=1e-5)  # the weights are those of the best step


@pytest.mark.slow
def test_stopped_in_a_cell_and_run_again(session: Session, models: dict[str, Path]) -> None:
    data = rows()
    asked: list[float] = []

    def hear(event: dict[str, Any]) -> None:
        if event["type"] == "run.event" and event["event"]["type"] == "first_step" and not asked:
            asked.append(time.monotonic())
            session.running()[0].stopping.set()

    def train() -> Any:
        return TrainHFFineTune("tweeter", str(models["causal"]), device="cpu").train(**columns(data), epochs=20, batch_size=8)

    unsubscribe = session.subscribe(hear)
    with pytest.raises(Stopped, match="run the cell again"):
        train()
    assert time.monotonic() - asked[0] < 1
    unsubscribe()
    model = train()  # the run may still be saving: it is waited for
    kinds = [event["type"] for event in model.events]
    assert kinds.count("resumed") == 1
    assert list(model.curve["step"]) == list(range(1, 61))
    assert not runs.alive(model.paths)


@pytest.mark.slow
def test_a_second_kernel_attaches(session: Session, models: dict[str, Path]) -> None:
    """The run was started by somebody else; whoever trains the same follows it from its first event."""
    data = rows()
    begun = threading.Event()
    heard: list[dict[str, Any]] = []

    def hear(event: dict[str, Any]) -> None:
        heard.append(event)
        begun.set()

    session.subscribe(hear)
    trainer = TrainHFFineTune("tweeter", str(models["t5"]), device="cpu")
    trainer.train(**columns(data), epochs=2, batch_size=8, background=True)
    step = trainer.step
    while not hasattr(step, "paths") or not runs.alive(step.paths):
        assert begun.wait(30)
        time.sleep(0.01)
    seen: list[dict[str, Any]] = []
    ended = runs.follow(step.paths, seen.append)
    assert ended["state"] == "done"
    assert trainer.model.model_path.startswith(str(session.folder))
    ours = [event["event"] for event in heard if event["type"] == "run.event"]
    assert ours == seen
    assert [event["step"] for event in seen if event["type"] == "log"] == list(range(1, 7))


class Canary:
    """Sings when it is unpickled."""

    def __init__(self, song: Path) -> None:
        self.song = song

    def __reduce__(self) -> Any:
        return Path.touch, (self.song,)


@pytest.mark.slow
def test_a_pickle_in_place_of_any_file_of_a_trained_session_never_sings(trained: dict[str, Any], tmp_path: Path) -> None:
    song = tmp_path / "song"
    folder = tmp_path / "session"
    shutil.copytree(next(trained["folder"].glob("*/session.json")).parent, folder)
    named = set()
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(("lock", "-shm", "-wal"))]
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(pickle.dumps(Canary(song)))
        try:
            with Session(folder) as session:
                for name in session:
                    handle = session.load(name)
                    handle.card, handle.why()
                    list(handle.curve if hasattr(handle, "curve") else handle.output)
                assert session.engine
        except BrokenFileError as error:
            named.add(path.name)
            assert path.name in str(error)  # noqa: PT017 - not every file is read, but one that is read is named
        path.write_bytes(whole)
        assert not song.exists(), f"{path} was unpickled"
    assert {"session.json", "node.json", "00000.arrow", "spec.json", "adapter_config.json"} <= named
    assert list(folder.glob("calls.sqlite.damaged-*")), "calls.sqlite is set aside"
    assert len(files) > len(named) > 8
