"""Who made a run fail, and what to do about it: from exit codes, what the ranks said, and the ends of their logs."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from typing import Any

# What a rank says that only lost its neighbour.
CONSEQUENCES = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "timed out waiting",
    "remote process exited",
    "ncclremoteerror",
)

OUT_OF_MEMORY = "use a smaller base model, lora: {r: 8}, more --devices, or per_device_train_batch_size: 1 (batch_size stays what it is)"
HINTS: tuple[tuple[str, str], ...] = (
    (r"out of memory|MemoryError|can't allocate memory|cannot allocate memory", OUT_OF_MEMORY),
    (r"No space left on device|is full", "free some space and run the cell again: it resumes from the last checkpoint"),
    (r"No module named '([\w.]+)'", "pip install {0}"),
    (r"401|403|gated|restricted", "set HF_TOKEN to a token that may read the model"),
    (
        r"not a valid model identifier|does not appear to have a file|Repository Not Found|couldn't connect|offline",
        "check the name of the base model, and the network",
    ),
    (r"Target modules .* not found in the base model", "leave target_modules out: then all linear layers are adapted"),
    (r"Could not find the transformer layer class", "leave transformer_layer_cls_to_wrap out: the model names its layers itself"),
    (r"`(pip install [^`]+)`", "{0}"),
    (
        r"_schedule\w*\(\) got an unexpected keyword argument '(\w+)'",
        "lr_scheduler_kwargs: leave {0} out, or take another lr_scheduler_type",
    ),
    (r"sizes of tensors|size mismatch", "the adapter or checkpoint belongs to another base model"),
)


def blame(
    world: int, codes: Mapping[int, int | None], errors: Sequence[Mapping[str, Any]], tails: Mapping[int, Sequence[str]]
) -> dict[str, Any]:
    """The rank that failed first, with its exit code, a message, a hint and the end of its log.

    ``codes`` are the ranks' exit codes (None: it was still running), ``errors`` the error events they wrote.
    """
    rank = _culprit(codes, errors)
    code = codes[rank]
    said = next((error for error in errors if error.get("rank") == rank), None)
    who = f"rank {rank} of {world}" if world > 1 else "the worker"
    if said is not None and not _consequence(said):
        message, hint = f"{who}: {said['message']}" if world > 1 else str(said["message"]), said.get("hint")
    elif code is not None and code < 0:
        message, hint = f"{who} was killed ({_signal_name(-code)})", _hint_for_signal(-code)
    elif said is not None:
        message, hint = f"{who}: {said['message']}", said.get("hint")
    else:
        message, hint = f"{who} ended with exit code {code}", None
    tail = list(tails.get(rank, ()))[-40:]
    return {
        "rank": rank,
        "exit_code": code,
        "message": message,
        "hint": hint or hint_for("\n".join([message, *tail[-5:]])) or "the end of its log says more",
        "log_tail": tail,
    }


def hint_for(text: str) -> str | None:
    """What to do about an error that reads like ``text``."""
    for pattern, hint in HINTS:
        if found := re.search(pattern, text, re.IGNORECASE):
            return hint.replace("{0}", found.group(1)) if found.groups() else hint
    return None


def _culprit(codes: Mapping[int, int | None], errors: Sequence[Mapping[str, Any]]) -> int:
    """Who was killed; else who first said something that is no mere consequence; else who said or did anything at all."""
    failed = {rank: code for rank, code in codes.items() if code not in (None, 0)}
    killed = [rank for rank, code in failed.items() if code is not None and code < 0]
    own = sorted(
        (float(error.get("time", 0)), int(error["rank"])) for error in errors if error.get("rank") in failed and not _consequence(error)
    )
    silent = [rank for rank in failed if all(error.get("rank") != rank for error in errors)]
    told = [int(error["rank"]) for error in errors if error.get("rank") in failed]
    return [*killed, *(rank for _, rank in own), *silent, *told, *failed][0]


def _consequence(error: Mapping[str, Any]) -> bool:
    return any(words in str(error.get("message", "")).lower() for words in CONSEQUENCES)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _hint_for_signal(number: int) -> str | None:
    if number == signal.SIGKILL:
        return f"if nobody killed it, the machine ran out of memory: {OUT_OF_MEMORY}"
    return None
