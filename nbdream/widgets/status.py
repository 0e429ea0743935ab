"""The two status lines: the live one tells of the run, the saved one of the work.

Only the saved line may stay in a notebook: a notebook that is run again and finds everything cached must not change.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from nbdream.ledger import sum_known
from nbdream.prices import shown


def seconds(value: float) -> str:
    """A duration as a person writes it: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def ago(iso: str, now: datetime.datetime | None = None) -> str:
    """How long ago ``iso`` was, in one unit."""
    try:
        then = datetime.datetime.fromisoformat(iso)
    except ValueError:
        return "earlier"
    now = now or datetime.datetime.now(datetime.UTC)
    if then.tzinfo is None:
        then = then.replace(tzinfo=datetime.UTC)
    passed = max(0, round((now - then).total_seconds()))
    for unit, size in (("day", 86400), ("h", 3600), ("min", 60)):
        if passed >= size:
            count = passed // size
            return f"{count} {unit}{'s' if unit == 'day' and count > 1 else ''} ago"
    return "just now"


def live_line(event: Mapping[str, Any], elapsed: float) -> str:
    """What a running step shows: ``980 cached · 20 new · 0 failed · $0.04 (saved $1.37) · 12 s``."""
    parts = []
    if event.get("cached") is not None:
        parts = [f"{event.get(key) or 0:,} {key}" for key in ("cached", "new", "failed")]
    elif event.get("total"):
        parts = [f"{100 * (event.get('done') or 0) // event['total']} %"]
    cost, saved = event.get("cost"), event.get("saved")
    if cost is not None and (cost or saved):
        parts.append(shown(cost) + (f" (saved {shown(saved)})" if saved else ""))
    if event.get("batch"):
        done, sent = event["batch"]
        parts.append(f"{done:,} of {sent:,} done at the provider")
    return " · ".join([*parts, seconds(elapsed)])


def saved_line(node: Mapping[str, Any]) -> str:
    """What stays below a result: ``1,000 rows · gpt-4o-mini · made 2026-11-20 for $1.41 in 12 s``."""
    rows = int(node.get("rows") or 0)
    parts = [f"{rows:,} row{'' if rows == 1 else 's'}"]
    if node.get("failures"):
        parts.append(f"{node['failures']:,} failed")
    parts += dict.fromkeys(str(model.get("name")) for model in node.get("models") or () if model.get("name"))
    return " · ".join([*parts, _made(node)]) if _made(node) else " · ".join(parts)


def saved_training_line(model_name: str, node: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """What stays below a trained model: its base, what it was trained with (chosen or by default), loss and date."""
    parts = [model_name]
    settings = (node.get("recipe") or {}).get("args") or {}
    if isinstance(settings.get("lora"), Mapping):
        parts.append(f"LoRA r={settings['lora']['r']}" if "r" in settings["lora"] else "LoRA")
    if last.get("step"):
        parts.append(f"{last['step']:,} step{'' if last['step'] == 1 else 's'}")
    if isinstance(settings.get("learning_rate"), (int, float)):
        parts.append(f"learning rate {settings['learning_rate']:g}")
    parts += [
        f"{label} {last[key]:.4g}"
        for key, label in (("loss", "loss"), ("eval_loss", "eval loss"))
        if isinstance(last.get(key), (int, float))
    ]
    return " · ".join([*parts, *filter(None, [_made(node)])])


def _made(node: Mapping[str, Any]) -> str:
    made = node.get("made") or {}
    day = str(made.get("finished") or "")[:10]
    if not day:
        return ""
    usage = node.get("usage") or {}
    # What the work costs, whoever paid for which part of it: the line is the same where all was there already.
    cost = sum_known(usage.get("cost"), usage.get("saved", 0.0))
    took = made.get("seconds")
    paid = f" for {shown(cost)}" if cost else ""
    return f"made {day}{paid}" + (f" in {seconds(took)}" if isinstance(took, (int, float)) else "")
