"""Rows as a run would see them: ``python -P -m nbdream.workers.tokens FOLDER EXAMPLES`` prints one line of JSON."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from nbdream.errors import NbDreamError
from nbdream.files import read_object
from nbdream.workers.paths import RunPaths
from nbdream.workers.rank import Run


def main(arguments: Sequence[str]) -> None:
    """Tokenize the rows of the folder's spec."""
    import transformers

    from nbdream.trainers import sft
    from nbdream.trainers.completion import IGNORED
    from nbdream.workers import recipe
    from nbdream.workers.batching import choose, filling

    paths = RunPaths(arguments[0])
    run = Run(paths, read_object(paths.spec))
    config = transformers.AutoConfig.from_pretrained(**recipe.source(run))
    seq2seq = bool(config.is_encoder_decoder)
    tokenizer = sft.tokenizer_of(run, seq2seq=seq2seq)
    data = sft.prepare(run, tokenizer, config, paths.train_data, seq2seq=seq2seq)
    lengths = [len(row["input_ids"]) for row in data.rows]
    batching = run.spec["batching"]
    if batching == "by lengths":
        batch = run.spec["batch"]["per_device"] * run.spec["batch"]["accumulation"]
        batching = "grouped" if seq2seq else choose(lengths, data.max_length, batch)
    rows = sft.packed(data) if batching == "packed" else data.rows
    facts = {**data.facts(), "longest": max(lengths), "median": statistics.median(lengths), "batching": batching}
    if batching == "packed":
        facts |= {"packed_rows": len(rows), "filling": round(filling(data.tokens, len(rows), data.max_length), 4)}

    def parts(row: dict[str, Any]) -> list[list[list[Any]]]:
        if seq2seq:  # what is read and what is learned are two sequences
            sides = ((row["input_ids"], False), (row["labels"], True))
            return [[[tokenizer.decode(ids), len(ids), learned] for ids, learned in sides]]
        made, at = [], 0
        for length in row.get("lengths", [len(row["input_ids"])]):
            ids, labels = row["input_ids"][at : at + length], row["labels"][at : at + length]
            made.append(_pieces(tokenizer, ids, [label != IGNORED for label in labels]))
            at += length
        return made

    examples = [parts(row) for row in rows[: int(arguments[1])]]
    print(json.dumps({"facts": facts, "examples": examples}))


def _pieces(tokenizer: Any, ids: list[int], learned: list[bool]) -> list[list[Any]]:
    made: list[list[Any]] = []
    for token, flag in zip(ids, learned, strict=True):
        if made and made[-1][1] == flag:
            made[-1][0].append(token)
        else:
            made.append([[token], flag])
    return [[tokenizer.decode(part), len(part), flag] for part, flag in made]


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except NbDreamError as problem:
        print(json.dumps({"error": problem.message, "hint": problem.hint}))
