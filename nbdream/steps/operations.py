"""What can be made of a finished step: each function constructs a step, and so runs it."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError, nearest
from nbdream.steps import joins, mapping, views

if TYPE_CHECKING:
    from nbdream.steps.base import Step
    from nbdream.steps.handle import StepHandle

COMMON = ("name", "lazy", "progress_interval", "force", "writer_batch_size", "save_num_proc", "save_num_shards", "background")
"""What every operation takes besides its own arguments; results are always on disk, so ``lazy`` changes nothing."""
SPLITS = ("train", "validation", "test")


def select(step: StepHandle, indices: Iterable[int], **options: Any) -> Step:
    """Some rows, by their indices."""
    return _make(views.SelectStep, step, "select", {"indices": [_index(index) for index in indices]}, options)


def select_columns(step: StepHandle, column_names: str | Iterable[str], **options: Any) -> Step:
    """Some columns."""
    return _make(views.SelectColumnsStep, step, "select_columns", {"column_names": _names(column_names)}, options)


def take(step: StepHandle, n: int, **options: Any) -> Step:
    """The first ``n`` rows."""
    return _make(views.TakeStep, step, "take", {"n": _count("n", n)}, options)


def skip(step: StepHandle, n: int, **options: Any) -> Step:
    """All rows but the first ``n``."""
    return _make(views.SkipStep, step, "skip", {"n": _count("n", n)}, options)


def shuffle(step: StepHandle, seed: int | None = None, buffer_size: int = 1000, **options: Any) -> Step:
    """The rows in a random order that ``seed`` (default 42) decides."""
    return _make(views.ShuffleStep, step, "shuffle", {"seed": views.SEED if seed is None else seed}, options)


def sort(
    step: StepHandle, column_names: str | Iterable[str], reverse: bool | list[bool] = False, null_placement: str = "at_end", **options: Any
) -> Step:
    """The rows sorted by columns; a stable sort."""
    args = {"column_names": _names(column_names), "reverse": reverse, "null_placement": null_placement}
    return _make(views.SortStep, step, "sort", args, options)


def add_item(step: StepHandle, item: Mapping[str, Any], **options: Any) -> Step:
    """The rows and one more."""
    return _make(joins.AddItemStep, step, "add_item", {"item": dict(item)}, options)


def map(  # noqa: A001 - the published name
    step: StepHandle,
    function: Callable[..., Any],
    with_indices: bool = False,
    input_columns: str | list[str] | None = None,
    batched: bool = False,
    batch_size: int = 1000,
    remove_columns: str | list[str] | None = None,
    total_num_rows: int | None = None,
    auto_progress: bool = True,
    version: str | int | None = None,
    **options: Any,
) -> Step:
    """What ``function`` makes of each row, as Hugging Face ``datasets`` has it; ``version=`` stands for its code."""
    args = {
        **_calling(function, with_indices, input_columns, batched, batch_size, version),
        "remove_columns": _names(remove_columns) or None,
    }
    return _make(mapping.MapStep, step, "map", args, options)


def filter(  # noqa: A001 - the published name
    step: StepHandle,
    function: Callable[..., Any],
    with_indices: bool = False,
    input_columns: str | list[str] | None = None,
    batched: bool = False,
    batch_size: int = 1000,
    total_num_rows: int | None = None,
    auto_progress: bool = True,
    version: str | int | None = None,
    **options: Any,
) -> Step:
    """The rows for which ``function`` is true; ``version=`` stands for its code."""
    return _make(mapping.FilterStep, step, "filter", _calling(function, with_indices, input_columns, batched, batch_size, version), options)


def rename_column(step: StepHandle, original_column_name: str, new_column_name: str, **options: Any) -> Step:
    """The rows with one column renamed."""
    return _make(views.RenameColumnStep, step, "rename_column", {"column_mapping": {original_column_name: new_column_name}}, options)


def rename_columns(step: StepHandle, column_mapping: Mapping[str, str], **options: Any) -> Step:
    """The rows with columns renamed."""
    return _make(views.RenameColumnsStep, step, "rename_columns", {"column_mapping": dict(column_mapping)}, options)


def remove_columns(step: StepHandle, column_names: str | Iterable[str], **options: Any) -> Step:
    """The rows without some columns."""
    return _make(views.RemoveColumnsStep, step, "remove_columns", {"column_names": _names(column_names)}, options)


def splits(
    step: StepHandle,
    train_size: float | None = None,
    validation_size: float | None = None,
    test_size: float | None = None,
    stratify_by_column: str | None = None,
    seed: int = views.SEED,
    **options: Any,
) -> dict[str, Step]:
    """Up to three disjoint parts that hold every row, shuffled: sizes are shares of 1.0 or numbers of rows."""
    given = dict(zip(SPLITS, (train_size, validation_size, test_size), strict=True))
    rows = step.output
    if stratify_by_column is not None:
        views.check_columns(rows, [stratify_by_column])
    sizes = split_sizes(rows.num_rows, {name: size for name, size in given.items() if size is not None})
    base = options.pop("name", None) or step.name
    args = {"sizes": sizes, "seed": seed, "stratify_by_column": stratify_by_column}
    return {name: _make(views.SplitStep, step, f"{name} split", {**args, "split": name}, {**options, "base": base}) for name in sizes}


def shard(step: StepHandle, num_shards: int, index: int, contiguous: bool = False, **options: Any) -> Step:
    """One of ``num_shards`` parts."""
    return _make(views.ShardStep, step, "shard", {"num_shards": num_shards, "index": index, "contiguous": contiguous}, options)


def reverse(step: StepHandle, **options: Any) -> Step:
    """The rows from the last to the first."""
    return _make(views.ReverseStep, step, "reverse", {}, options)


def save(step: StepHandle, **options: Any) -> Step:
    """The rows, with every column stored by the step itself."""
    return _make(joins.SaveStep, step, "save", {}, options)


def copy(step: StepHandle, **options: Any) -> Step:
    """The same rows as a step of their own."""
    return _make(views.CopyStep, step, "copy", {}, options)


def concat(*steps: StepHandle, **options: Any) -> Step:
    """The rows of all ``steps``, one after the other; they have the same columns."""
    return _join(joins.ConcatStep, "concat", steps, options)


def zipped(*steps: StepHandle, **options: Any) -> Step:
    """The columns of all ``steps``, side by side; they have the same number of rows."""
    return _join(joins.ZippedStep, "zipped", steps, options)


def split_sizes(rows: int, sizes: Mapping[str, float]) -> dict[str, int]:
    """The number of rows of each part: ``sizes`` are shares that make 1.0, or numbers that make ``rows``."""
    sizes = dict(sizes) or {"train": 1.0}
    if builtins.any(isinstance(size, bool) or not isinstance(size, (int, float)) or not 0 <= size < math.inf for size in sizes.values()):
        raise ArgumentError(f"sizes {_said(sizes)}", "give shares such as 0.9 or numbers of rows such as 100")
    shares = [Fraction(str(size)) for size in sizes.values()]
    total = sum(shares, Fraction(0))
    if total == rows and all(isinstance(size, int) for size in sizes.values()):
        counts = [int(share) for share in shares]
    elif abs(total - 1) < Fraction(1, 10**6):
        ends = [int(sum(shares[: i + 1]) / total * rows + Fraction(1, 2)) for i in range(len(shares))]
        counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    else:
        raise ArgumentError(f"the sizes {_said(sizes)} make {float(total):g}, not 1.0 or the {rows:,} rows", "give shares that make 1.0")
    for name, count, share in zip(sizes, counts, shares, strict=True):
        if share and not count:
            raise ArgumentError(f"the {name} part of {rows:,} rows would have no row", f"give numbers of rows, for instance {name}_size=1")
    return dict(zip(sizes, counts, strict=True))


# ------------------------------------------------------------------------------------------------ construction


def _make(kind: type[Step], step: StepHandle, op: str, args: Mapping[str, Any], options: dict[str, Any]) -> Step:
    base = options.pop("base", step.name)
    return kind(options.get("name") or f"{base} ({op})", inputs={"rows": step}, args=args, **_common(op, options))


def _join(kind: type[Step], op: str, steps: tuple[StepHandle, ...], options: dict[str, Any]) -> Step:
    from nbdream.steps.handle import StepHandle

    if not steps:
        raise ArgumentError(f"{op} needs a step", f"{op}(first, second)")
    for step in steps:
        if not isinstance(step, StepHandle):
            raise ArgumentError(f"{op} takes steps, not a {type(step).__name__}", "DataSource('name', data=…) makes a step of data")
    name = options.get("name") or f"{op}({', '.join(step.name for step in steps)})"
    return kind(name, inputs={f"step {i}": step for i, step in enumerate(steps, 1)}, **_common(op, options))


def _common(op: str, options: Mapping[str, Any]) -> dict[str, Any]:
    for given in options:
        if given not in COMMON:
            raise ArgumentError(f"{op} takes no argument {given!r}", nearest(given, COMMON))
    return {"force": bool(options.get("force")), "background": bool(options.get("background"))}


def _calling(
    function: Callable[..., Any],
    with_indices: bool,
    input_columns: str | list[str] | None,
    batched: bool,
    batch_size: int,
    version: str | int | None,
) -> dict[str, Any]:
    called = {"function": function, "with_indices": with_indices, "input_columns": _names(input_columns) or None}
    return {**called, "batched": batched, "batch_size": batch_size, "version": version}


def _names(names: str | Iterable[str] | None) -> list[str]:
    if names is None:
        return []
    return [names] if isinstance(names, str) else list(names)


def _index(index: Any) -> Any:
    return index if isinstance(index, int) or not hasattr(index, "__index__") else index.__index__()


def _count(what: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 0:
        raise ArgumentError(f"{what}={value!r}", "give a number of rows of at least 0")
    return int(value)


def _said(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())
