"""What cannot be trained, said in one line with a hint: before a process is started where it can be known, by the run where it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdream.errors import ArgumentError, ModelError, NbDreamError, TrainingError
from nbdream.llms import HFTransformers
from nbdream.steps import DataSource
from nbdream.trainers import TrainHFFineTune, fitting
from nbdream.workers import runs
from tests import tiny
from tests.notebook import Shell

SETUP = """
rows = [{'q': f'red cat {n}', 'a': f'blue dog {n}', 'r': f'big tree {n}', 'n': n, 'label': n % 2} for n in range(12)]
blank = [{'q': '', 'a': 'x'}, {'q': ' ', 'a': 'y'}]
silent = [{'q': 'x', 'a': ''}, {'q': 'y', 'a': ' '}]
nulls = [{'q': 'x', 'a': 'y'}, {'q': 'x', 'a': None}]
none = []
"""
SFT, DPO = "input: q\noutput: a", "prompt: q\nchosen: a\nrejected: r"
CLASSIFIER, EMBEDDER = "input: q\noutput: label", "anchor: q\npositive: a"


def cell(more: str = "", *, columns: str = SFT, method: str = "sft", base: str = "causal", on: str = "rows", options: str = "") -> str:
    return f"%%train b --method {method} --on {on} --base ./{base} {options}\n{columns}\n{more}"


T5 = {"base": "t5"}
BERT = {"base": "bert"}
LABELS, VECTORS = {"method": "classifier", "columns": CLASSIFIER}, {"method": "embedder", "columns": EMBEDDER}
LORA = "\nlora: {r: 8}"
WRONG: dict[str, tuple[str, str]] = {
    # rows
    "missing": (cell(columns="input: nope\noutput: a"), r"there is no column 'nope' \(the columns are"),
    "unnamed": (cell(columns="input: q"), r"%%train needs the column 'output' \(write it in the body"),
    "no input": (cell(on="blank"), r"every row of 'q' is empty \(give another column for input"),
    "no output": (cell(on="silent"), r"every row of 'a' is empty \(give another column for output"),
    "null": (cell(on="nulls"), r"row 1 of 'a' is null \(leave such rows out"),
    "0 rows": (cell(on="none"), r"--on none has no rows \(give at least one"),
    "0 held-out rows": (cell(options="--eval none"), r"--eval none has no rows \(give at least one"),
    "not text": (cell(columns="input: q\noutput: n"), r"column 'n' holds int64, not text \(make it text"),
    "two answers": (cell(method="dpo", columns="prompt: q\nchosen: a\nrejected: a"), r"'a' and 'a' are the same \(give two answers"),
    # the base model
    "nowhere": (cell(base="nope"), r"there is no folder ./nope \(give a folder"),
    "no weights": (cell(base="hollow"), r"hollow holds no weights \(give the folder"),
    "no model": (cell(base="empty"), r"holds no model: there is no config.json \(give the folder"),
    "an adapter": (cell("learning_rate: 1e-3", base="adapter"), r"adapter is an adapter, not a whole model \(merge it first"),
    "too long": (cell("max_length: 1000"), r"max_length is 1,000, and causal takes 64 tokens \(max_length: 64, or"),
    # the method and the model
    "sft of an encoder": (cell(**BERT), r"bert is a bert, which writes no texts \(an encoder learns labels or vectors: --method cl"),
    "dpo of an encoder": (cell(method="dpo", columns=DPO, **BERT), r"bert is a bert, which writes no texts \(an encoder"),
    "labels of no language": (cell(**LABELS, base="vit"), r"vit is a vit, which cannot give labels \(take an"),
    "packing a T5": (cell("packing: true", **T5), r"t5 has an encoder, which cannot read packed rows \(leave packing out"),
    "a chat with a T5": (cell("chat_prompt_template: vicuna", **T5), r"t5 has an encoder.*no chat_prompt_template \(write it into"),
    "a system prompt for a T5": (cell("system: be brief", **T5), r"t5 has an encoder.*no system_prompt \(write it into"),
    "packing labels": (cell("packing: true", **LABELS, **BERT), r"takes no 'packing' \(it is for --method sft"),
    "another's column": (cell("label: n"), r"--method sft has no column 'label' \(its columns: input, output"),
    "one pair a batch": (cell("batch_size: 1", **VECTORS, **BERT), r"a batch of one pair .* \(give a larger batch_size"),
    # settings
    "a rate in words": (cell("learning_rate: fast"), r"learning_rate is 'fast', not a number \(write it without quotes"),
    "a rate in quotes": (cell('learning_rate: "1e-4"'), r"learning_rate is '1e-4', not a number \(write it without quotes"),
    "a rate below zero": (cell("learning_rate: -1"), r"learning_rate is -1 \(it is above 0"),
    "an interval": (cell("eval_strategy: sometimes", options="--eval rows"), r"eval_strategy cannot be 'sometimes' \(it is one of: epoch"),
    "nothing to measure": (cell("eval_strategy: epoch"), r"no rows to measure on \(give them: --eval ROWS"),
    "the best of what": (cell("save_strategy: best"), r"metric_for_best_model does not say by what \(leave it out"),
    "no step": (cell("max_steps: 0"), r"max_steps is 0 \(it is 1 or more"),
    "a beta": (cell("adam_beta1: 2.0"), r"adam_beta1 is 2.0 \(it is less than 1"),
    "workers": (cell("dataloader_num_workers: -1"), r"dataloader_num_workers is -1 \(it is at least 0"),
    "two precisions": (cell("bf16: true\nfp16: true"), r"bf16 and fp16 are both true \(give one"),
    "coarse numbers": (cell("dtype: float16"), r"float16 is too coarse to be trained \(dtype: bfloat16"),
    "without effect": (cell("label_smoothing_factor: 0.1"), r"label_smoothing_factor has no place .* \(leave it out"),
    "of the optimiser": (cell("optim_args: nope"), r"optim_args is 'nope' \(it is a list of settings"),
    "whole in four bits": (cell("quantization: {load_in_4bit: true}"), r"a quantized model cannot be trained whole \(.*lora: \{r: 8\}"),
    "four bits misspelt": (cell("quantization: {load_in_4bits: true}" + LORA), r"no setting 'load_in_4bits' \(did you mean 'load_in_4bit'"),
    "no bits": (cell("quantization: {bnb_4bit_quant_type: nf4}" + LORA), r"in how many bits .* \(quantization: \{load_in_4bit: true"),
    "bits of no type": (cell("quantization: {load_in_4bit: true, bnb_4bit_quant_type: x}" + LORA), r"type is 'x' \(it is nf4 or fp4"),
    # devices
    "no GPU": (cell("device: cuda:0"), r"there is no GPU on this machine \(leave device out"),
    "no GPUs": (cell("device: ['cuda:0', 'cuda:1']"), r"there is no GPU on this machine \(leave device out"),
    "no device": (cell("device: tpu"), r"there is no device 'tpu' \(cpu, cuda"),
    "FSDP1": (cell("fsdp_config: {version: 1}", options="--devices 2"), r"fsdp_config has version: 1 \(it is one of: 2"),
    "a setting of FSDP": (cell("fsdp_config: {cpu_ofload: true}"), r"fsdp_config has no setting 'cpu_ofload' \(did you mean 'cpu_offload'"),
    "a value of FSDP": (cell("fsdp_config: {state_dict_type: LOCAL}"), r"state_dict_type: LOCAL \(it is one of: FULL_STATE_DICT, SHARDED"),
    "no mapping": (cell("fsdp_config: offload"), r"fsdp_config is a str \(it is a mapping"),
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the cells find their models."""
    folder = tmp_path_factory.mktemp("bases")
    tiny.causal(folder / "causal")
    tiny.t5(folder / "t5")
    tiny.bert(folder / "bert")
    for name in ("hollow", "empty", "adapter", "vit"):
        (folder / name).mkdir()
    shutil.copy(folder / "causal" / "config.json", folder / "hollow")
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"}))
    (folder / "vit" / "config.json").write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))
    (folder / "vit" / "model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def shell(bases: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Shell]:
    for base in bases.iterdir():
        (tmp_path / base.name).symlink_to(base)
    opened = Shell()
    opened.run(SETUP)
    yield opened
    opened.close()


def line(error: NbDreamError) -> str:
    assert error.hint
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize("case", list(WRONG))
def test_a_cell_says_so_before_a_process_is_started(shell: Shell, case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runs, "launch", lambda *args, **more: pytest.fail("a process was started"))
    monkeypatch.setattr(fitting, "GPUS", ())
    text, said = WRONG[case]
    with pytest.raises(NbDreamError, match=said) as caught:
        shell.run(text)
    line(caught.value)
    assert list(tmp_path.rglob("spec.json")) == []
    assert "b" not in shell


@pytest.mark.parametrize(
    ("visible", "files", "given", "said"),
    [
        (None, 1, {"devices": 2}, "2 GPUs are asked for, and there is one"),
        (None, 2, {"device": ["cuda:0", "cuda:1", "cuda:2"]}, "3 GPUs are asked for, and there are 2"),
        ("0,1", 8, {"device": "cuda", "devices": 4}, "4 GPUs are asked for, and there are 2"),
        ("", 8, {"device": "cuda:0"}, "there is no GPU on this machine"),
        ("0,1", 8, {"devices": 2}, None),
        ("0,1", 8, {"devices": 8, "device": "cpu"}, None),
        (None, 0, {"devices": 8, "device": "cuda"}, None),
    ],
)
def test_more_gpus_than_there_are(
    session: Any, bases: Path, visible: str | None, files: int, given: dict[str, Any], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``files``: how many the machine shows; none, where it shows only that there are some."""
    monkeypatch.setattr(fitting, "GPUS", ("/dev/null",))
    monkeypatch.setattr(fitting, "glob", lambda pattern: list(range(files)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(runs, "launch", lambda *args, **more: (_ for _ in ()).throw(InterruptedError))
    rows = DataSource("rows", data={"q": ["one", "two"], "a": ["x", "y"]}).output
    trainer = TrainHFFineTune("b", str(bases / "causal"), **given)
    with pytest.raises(InterruptedError if said is None else ArgumentError, match=said):
        trainer.train(rows["q"], rows["a"])


def test_who_brings_their_own_code_may_be_anything(bases: Path) -> None:
    config = {"model_type": "bert", "architectures": ["BertModel"]}
    fitting.check_base("sft", "own", {**config, "auto_map": {}}, {})
    fitting.check_base("sft", "decoder", {**config, "is_decoder": True}, {})
    fitting.check_base("sft", "causal", {**config, "architectures": ["BertLMHeadModel"]}, {})
    fitting.check_base("dpo", "bart", {"model_type": "bart", "is_encoder_decoder": True}, {})
    fitting.check_base("classifier", "gpt", {"model_type": "gpt2"}, {"system_prompt": None})
    with pytest.raises(ArgumentError, match="writes no texts"):
        fitting.check_base("sft", "masked", config, {})


LATE = {
    "diverged": (
        "learning_rate: 1e30\nmax_grad_norm: 0\nmax_steps: 9",
        r"the loss is no number any more at step \d+ \(a lower learning_rate",
    ),
    "rows too long": ("truncate: false\nmax_length: 5", r"row 0 has \d+ tokens, and the model takes 5 \(truncate: true cuts it"),
    "nothing fits": ("max_length: 1", r"no row has an output that fits the model \(the model takes 1 tokens"),
    "no such layers": ("lora: {r: 4, target_modules: [nope]}", r"Target modules .* not found .* \(leave target_modules out"),
    "a schedule": ("lr_scheduler_kwargs: {nope: 1}", r"unexpected keyword argument 'nope' \(lr_scheduler_kwargs: leave nope out"),
    "an optimiser": ("optim: lomo", r"You need to install .* \(pip install lomo-optim\)"),
}


@pytest.mark.slow
def test_what_only_the_run_can_know_is_one_line_too(shell: Shell) -> None:
    for more, said in LATE.values():
        with pytest.raises(TrainingError, match=said) as caught:
            shell.run(cell(f"{more}\ndevice: cpu\nepochs: 1"))
        line(caught.value)
        assert "b" not in shell


@pytest.mark.slow
def test_an_adapter_over_another_base(session: Any, bases: Path) -> None:
    rows = DataSource("rows", data=dict(zip(("q", "a"), tiny.pairs(8), strict=True))).output
    trained = TrainHFFineTune("b", str(bases / "causal"), peft_config={"r": 2}, device="cpu").train(rows["q"], rows["a"], epochs=1)
    other = HFTransformers(str(bases / "t5"), adapter_name=trained.model_path, device="cpu")
    with pytest.raises(ModelError, match=r"the adapter model belongs to another base model \(it was trained over .*causal") as caught:
        other("red cat")
    line(caught.value)
    other.unload_model()
