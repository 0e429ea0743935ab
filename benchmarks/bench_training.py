"""Training from a notebook: how soon the first point is on the page, cold and warm, how late a loss is heard, and what the loop costs.

The curve's first point and the lags are those of a real kernel. The loop is measured against a script with `transformers`' own
`Trainer` (same model, rows, batches, optimiser), one thread each, in alternating pairs.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.measure import Result
from nbdream import Session
from nbdream.steps import DataSource
from nbdream.trainers import TrainHFFineTune
from nbdream.workers import runs
from tests import tiny
from tests.notebook import Kernel, kernel_in

STARTS = 3
PAIRS = 40
T95 = 2.023
"""Student's t for 39 degrees of freedom, two-sided 95 %."""

SETUP = """%load_ext nbdream
%dream open ./output
import time
from nbdream import context
from nbdream.workers import warm
rows = [{'q': f'say {number}', 'a': f'number {number}'} for number in range(64)]
lags = []
def hear(event):
    if event['type'] == 'run.event' and event['event']['type'] == 'log':
        lags.append(time.time() - event['event']['time'])
unsubscribe = context.active().subscribe(hear)"""
TRAIN = "%%train {name} --on rows --base demo\ninput: q\noutput: a\nepochs: 12\nbatch_size: 8\nseed: {seed}\n"
WAIT = "while warm._server is None or not warm._server.ready(60): time.sleep(0.05)"


def first_point(kernel: Kernel, name: str, seed: int) -> float:
    """Seconds from the start of a training cell until a loss is on the page; the cell is awaited."""
    cell = kernel.start(TRAIN.format(name=name, seed=seed))
    began, found = time.monotonic(), math.inf
    for message in kernel.messages(cell, timeout=300):
        state = message["content"].get("data", {}).get("state", {}) if message["msg_type"] == "comm_msg" else {}
        if state.get("series", {}).get("loss"):
            found = min(found, time.monotonic() - began)
    return found


def in_a_kernel() -> list[Result]:
    """A cold start is that of a kernel's first run; after it, its runs are warm."""
    cold, warm, lags = [], [], []
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory() as folder, kernel_in(Path(folder)) as kernel:
            kernel.run(SETUP)
            cold.append(first_point(kernel, "first", 1))
            kernel.run(WAIT, timeout=120)
            warm.append(first_point(kernel, "second", 2))
            lags += json.loads(kernel.run("print(lags)").text)
    late = statistics.quantiles(lags, n=20)[-1]
    return [
        Result("first point of a curve on the page, cold", statistics.median(cold), "s"),
        Result("first point of a curve on the page, warm", statistics.median(warm), "s", most=4),
        Result(f"a loss is heard, 95th percentile of {len(lags)}", 1000 * late, "ms", most=100),
    ]


class Prepared(Exception):
    """A run is ready to be launched."""


def template(folder: Path) -> tuple[Path, Path, dict[str, list[str]]]:
    """A model of two million weights, and the folder of a run on rows of one length, made as a cell would make it."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = tiny._tokenizer(chat=False, seq2seq=False)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=48, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    base = folder / "base"
    Qwen3ForCausalLM(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    words = [word for word in tiny.WORDS if len(tokenizer(f" {word}")["input_ids"]) == len(tokenizer(word)["input_ids"]) == 1]
    chance = random.Random(0)
    rows = {name: [" ".join(chance.choices(words, k=count)) for _ in range(320)] for name, count in (("question", 24), ("answer", 24))}
    with Session(str(folder / "output")), mock.patch.object(runs, "launch", side_effect=Prepared) as launched:
        data = DataSource("rows", data=rows)
        trainer = TrainHFFineTune("tweeter", str(base), device="cpu")
        try:
            trainer.train(data.output["question"], data.output["answer"], epochs=1, batch_size=8, packing=False)
        except Prepared:
            pass
    paths, spec = launched.call_args.args
    paths.spec.write_text(json.dumps(spec))
    return base, paths.folder, rows


def steps() -> list[Result]:
    """The processor time of a step of ours and of a plain script's."""
    with tempfile.TemporaryDirectory() as folder:
        base, run, rows = template(Path(folder))
        command = [sys.executable, "-m", "benchmarks.loops", str(base), str(run), json.dumps(rows)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def ask(kind: str) -> float:
                process.stdin.write(f"{kind}\n")  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]
                told: dict[str, Any] = json.loads(process.stdout.readline())  # type: ignore[union-attr]
                return float(told["cpu"])

            ask("plain"), ask("ours")
            pairs = []
            for number in range(PAIRS):
                order = ("ours", "plain") if number % 2 else ("plain", "ours")
                told = {kind: ask(kind) for kind in order}
                pairs.append((told["ours"], told["plain"]))
            process.stdin.close()
    logs = [math.log(one / other) for one, other in pairs]
    upper = math.exp(statistics.mean(logs) + T95 * statistics.stdev(logs) / math.sqrt(len(logs)))
    one, other = (1000 * statistics.median(pair[place] for pair in pairs) for place in range(2))
    return [
        Result("processor time of a step", one, "ms", "a plain script", other),
        Result(f"the ratio of {PAIRS} pairs, upper end of its 95 % interval", upper, "×", most=1.05),
    ]


def run() -> list[Result]:
    """What is promised of training."""
    return [*in_a_kernel(), *steps()]
