"""Takes rows out of a session: as Python values, as files, or as a Hugging Face dataset; whole, or split."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError, nearest
from nbdream.files import disk_errors, write_atomic
from nbdream.optional import require
from nbdream.steps import operations

if TYPE_CHECKING:
    from nbdream.datasets import OutputDataset
    from nbdream.steps.handle import StepHandle

SIZES = ("train_size", "validation_size", "test_size", "stratify_by_column")
WITHOUT_EFFECT = ("writer_batch_size", "save_num_proc", "save_num_shards")
SHORT = {"validation": "val"}
"""How a split is called in a file's name, where that differs."""


def to_dict(step: StepHandle, **options: Any) -> dict[str, Any]:
    """The rows as a dict of columns; with sizes, one per split."""
    made: dict[str, Any] = _each(step, _sizes("export_to_dict", options), lambda rows, _: rows.table().to_pydict())
    return made


def to_list(step: StepHandle, **options: Any) -> list[dict[str, Any]] | dict[str, list[dict[str, Any]]]:
    """The rows as a list of dicts; with sizes, one per split."""
    made: list[dict[str, Any]] = _each(step, _sizes("export_to_list", options), lambda rows, _: list(rows))
    return made


def to_json(step: StepHandle, path: str | Path, **options: Any) -> str | dict[str, str]:
    """Write JSON lines, or with ``lines=False`` one list; with sizes, a file per split. Returns where they lie."""
    sizes = _sizes("export_to_json", options, ("lines", "indent", "force_ascii", "orient"))
    return _write(step, path, sizes, lambda rows: _json(rows, options))


def to_csv(step: StepHandle, path: str | Path, sep: str = ",", **options: Any) -> str | dict[str, str]:
    """Write CSV with a header; with sizes, a file per split. Lists and dicts are written as JSON. Returns where the files lie."""
    sizes = _sizes("export_to_csv", options, ("header", "index", "columns", "na_rep"))
    return _write(step, path, sizes, lambda rows: _csv(rows, sep, options))


def to_hf_dataset(step: StepHandle, path: str | Path, **options: Any) -> Any:
    """Write what ``datasets.load_from_disk`` reads, and return it; with sizes, a ``DatasetDict``."""
    datasets = require("datasets", "hub")
    made = _each(step, _sizes("export_to_hf_dataset", options), lambda rows, _: rows.dataset)
    whole = datasets.DatasetDict(made) if isinstance(made, dict) else made
    target = Path(path).expanduser()
    with disk_errors(target):
        whole.save_to_disk(str(target))
    return datasets.load_from_disk(str(target))


def split_path(path: Path, split: str) -> Path:
    """``base.ext`` → ``base.train.ext``."""
    return path.with_name(f"{path.stem}.{SHORT.get(split, split)}{path.suffix}")


def _sizes(what: str, options: dict[str, Any], own: tuple[str, ...] = ()) -> dict[str, Any]:
    """The sizes among ``options``; an error for what is none of them nor in ``own``."""
    for given in options:
        if given not in (*SIZES, *WITHOUT_EFFECT, *own):
            raise ArgumentError(f"{what} takes no argument {given!r}", nearest(given, (*SIZES, *own)))
    return {name: options[name] for name in SIZES if options.get(name) is not None}


def _each(step: StepHandle, sizes: dict[str, Any], make: Callable[[OutputDataset, str | None], Any]) -> Any:
    if not sizes:
        return make(step.output, None)
    return {name: make(part.output, name) for name, part in operations.splits(step, **sizes).items()}


def _write(step: StepHandle, path: str | Path, sizes: dict[str, Any], text: Callable[[OutputDataset], str]) -> str | dict[str, str]:
    whole = Path(path).expanduser()

    def write(rows: OutputDataset, split: str | None) -> str:
        target = whole if split is None else split_path(whole, split)
        write_atomic(target, text(rows))
        return str(target)

    made: str | dict[str, str] = _each(step, sizes, write)
    return made


def _json(rows: OutputDataset, options: dict[str, Any]) -> str:
    if options.get("orient", "records") != "records":
        raise ArgumentError(f"orient={options['orient']!r}", "rows are written as records: lines=True, or lines=False for one list")
    values = map(_finite, rows)
    encode = functools.partial(json.dumps, ensure_ascii=bool(options.get("force_ascii")), default=_plain)
    if options.get("lines", True):
        return "".join(encode(row) + "\n" for row in values)
    return encode(list(values), indent=options.get("indent")) + "\n"


def _csv(rows: OutputDataset, sep: str, options: dict[str, Any]) -> str:
    names = options.get("columns") or rows.column_names
    index = options.get("index", False)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=sep, lineterminator="\n")
    if options.get("header", True):
        writer.writerow(([""] if index else []) + list(names))
    for i, row in enumerate(_dicts(rows, names)):
        cells = [_cell(row[name], options.get("na_rep", "")) for name in names]
        writer.writerow([str(i), *cells] if index else cells)
    return text.getvalue()


def _dicts(rows: OutputDataset, names: list[str]) -> Iterator[dict[str, Any]]:
    for table in rows.iter_batches(names):
        yield from table.to_pylist()


def _cell(value: Any, null: str) -> Any:
    if value is None:
        return null
    return json.dumps(_finite(value), ensure_ascii=False, default=_plain) if isinstance(value, (list, dict)) else value


def _finite(value: Any) -> Any:
    """``value`` with null for what JSON has no number for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list) else value


def _plain(value: Any) -> str:
    """Dates as ISO text; bytes as base64."""
    if isinstance(value, bytes):
        import base64

        return base64.b64encode(value).decode()
    return str(value.isoformat() if hasattr(value, "isoformat") else value)
