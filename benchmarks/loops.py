"""One training run, by nbdream's recipe or by a plain script: ``python -m benchmarks.loops BASE RUN ROWS``; what it says is JSON.

Each line of its input is ``ours`` or ``plain``. The run is forked from this process, which has the imports done, and tells the
processor time of a step: of all threads, the median (other work on the machine slows some), and for ours the supervisor's share.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from nbdream.trainers import sft  # noqa: F401 - imported before the fork
from nbdream.workers import train
from nbdream.workers.process import Forked

SKIPPED = 5
TOLD = "BENCHMARK_TOLD"


class Clock(transformers.TrainerCallback):
    """The processor time of each step; the median of them goes into the file that the environment names."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ends.append(time.process_time())
        if state.global_step == state.max_steps:
            steps = [end - begin for begin, end in itertools.pairwise(self.ends[SKIPPED:])]
            Path(os.environ[TOLD]).write_text(json.dumps({"cpu": statistics.median(steps), "steps": state.max_steps}))


def clocked() -> None:
    """Every trainer made from now on has a clock."""
    make = transformers.Trainer.__init__

    def made(self: Any, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        self.add_callback(Clock())

    transformers.Trainer.__init__ = made


def plain(base: str, rows: dict[str, list[str]], spec: dict[str, Any], folder: str) -> None:
    """What one would write without nbdream: the same model, rows, batches, optimiser and number of lines logged."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    examples = []
    for question, answer in zip(rows["question"], rows["answer"], strict=True):
        prompt = tokenizer(f"{question}\n\n")["input_ids"]
        ids = tokenizer(f"{question}\n\n{answer}{tokenizer.eos_token}")["input_ids"]
        examples.append({"input_ids": ids, "labels": [-100] * len(prompt) + ids[len(prompt) :]})
    assert len({len(example["input_ids"]) for example in examples}) == 1, "batches must cost the same in any order"

    def collate(some: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        ids = torch.tensor([example["input_ids"] for example in some])
        return {"input_ids": ids, "labels": torch.tensor([one["labels"] for one in some]), "attention_mask": torch.ones_like(ids)}

    arguments = transformers.TrainingArguments(
        output_dir=folder,
        num_train_epochs=spec["arguments"]["num_train_epochs"],
        learning_rate=spec["arguments"]["learning_rate"],
        weight_decay=spec["arguments"]["weight_decay"],
        per_device_train_batch_size=spec["batch"]["per_device"],
        optim="adamw_torch",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        seed=42,
    )
    transformers.Trainer(model=model, args=arguments, train_dataset=examples, data_collator=collate).train()


def ours(run: Path) -> None:
    """The run in a folder, as its worker runs it; the supervisor's own time comes on top."""
    began = time.process_time()
    train.main([str(run)], Forked)
    told = Path(os.environ[TOLD])
    measured = json.loads(told.read_text())
    told.write_text(json.dumps({"cpu": measured["cpu"] + (time.process_time() - began) / measured["steps"]}))


def main() -> None:
    """Run what is asked for, one after the other."""
    base, template, rows = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    spec = json.loads((template / "spec.json").read_text())
    clocked()
    for line in sys.stdin:
        with tempfile.TemporaryDirectory(dir=template.parent) as folder:
            os.environ[TOLD] = str(Path(folder) / "told.json")
            run = shutil.copytree(template, template.parent / "run")  # the base's place is given relative to it
            if not (pid := os.fork()):
                silent = os.open(os.devnull, os.O_WRONLY)
                os.dup2(silent, 1)
                os.dup2(silent, 2)
                torch.set_num_threads(1)
                if line.strip() == "plain":
                    plain(base, rows, spec, folder)
                else:
                    ours(run)
                os._exit(0)
            os.waitpid(pid, 0)
            shutil.rmtree(run)
            print(Path(os.environ[TOLD]).read_text(), flush=True)


if __name__ == "__main__":
    main()
