"""What every handle on a result can do, whether its step was just constructed or loaded by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbdream.browsing import Browse
from nbdream.datasets import OutputDataset, OutputDatasetColumn
from nbdream.errors import ArgumentError
from nbdream.objects import ResultFolder

if TYPE_CHECKING:
    import datasets
    import pandas
    import polars

    from nbdream.steps import exports, operations
    from nbdream.steps.base import Step
else:

    class _Room:
        """A module that is imported when it is first used: operations are steps, and steps are handles."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(importlib.import_module(self._name), attribute)

    operations, exports = _Room("nbdream.steps.operations"), _Room("nbdream.steps.exports")

SPLITS = ("train", "validation", "test")


class StepHandle:
    """A finished result: its rows, where they come from, and what can be made of them."""

    name: str
    key: str
    """The folder of the result below ``objects/``: its recipe, with ``-2`` … for a further attempt."""
    use_id: str
    """Its place in the graph."""
    node: dict[str, Any]
    """How the work went."""
    runner: Any
    inputs: Mapping[str, OutputDataset | OutputDatasetColumn]

    @property
    def output(self) -> OutputDataset:
        """The rows."""
        raise NotImplementedError

    @property
    def failures(self) -> OutputDataset:
        """The rows that failed, with what the model really said."""
        raise NotImplementedError

    # --- looking ----------------------------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        """The recipe of the result."""
        return self.key

    @property
    def __nbdream_fingerprint__(self) -> dict[str, str]:
        """What code that reads this handle depends on: the content of its rows."""
        return self.output.__nbdream_fingerprint__

    @property
    def folder(self) -> ResultFolder:
        """The result's folder."""
        return ResultFolder(Path(self.runner.folder) / "objects" / self.key)

    @property
    def dataset_path(self) -> str:
        """Where the columns lie that the step made."""
        return str(self.folder.data)

    @property
    def output_names(self) -> list[str]:
        """The names of the columns."""
        return self.output.column_names

    @property
    def column_names(self) -> list[str]:
        """The names of the columns."""
        return self.output.column_names

    def __len__(self) -> int:
        return self.output.num_rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.output)

    def __getitem__(self, key: Any) -> Any:
        return self.output[key]

    def __getattr__(self, name: str) -> Any:
        if name in SPLITS:
            return self.runner.split(self, name)
        raise AttributeError(f"{type(self).__name__} {self.__dict__.get('name', '')!r} has no attribute {name!r}")

    def head(self, n: int = 5, shuffle: bool = False, seed: int | None = None, buffer_size: int = 1000) -> pandas.DataFrame:
        """The first ``n`` rows as a pandas frame."""
        return self.output.head(n, shuffle, seed, buffer_size)

    @property
    def dataset(self) -> datasets.Dataset:
        """The rows as a Hugging Face ``Dataset``."""
        return self.output.dataset

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a pandas frame."""
        return self.output.to_pandas()

    def to_polars(self) -> polars.DataFrame:
        """The rows as a polars frame."""
        return self.output.to_polars()

    def browse(self, other: Any = None, *, columns: Sequence[str] | None = None) -> Browse:
        """A live table of the rows, in a notebook; two columns, or the same columns of another result, side by side with what differs."""
        return self.output.browse(other, columns=columns)

    def why(self) -> list[str]:
        """Why the step ran when it last ran, and why it would run again, in words; empty when it never ran before."""
        words: list[str] = self.runner.why(self.name)
        return words

    def card(self) -> dict[str, Any]:
        """The data card, recursive over everything that the rows come from."""
        card: dict[str, Any] = self.runner.card(self)
        return card

    data_card = card

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.output!r})"

    # --- making something of it -------------------------------------------------------------------------------------

    def select(self, indices: Iterable[int], **options: Any) -> Step:
        """Some rows, by their indices."""
        return operations.select(self, indices, **options)

    def select_columns(self, column_names: str | list[str], **options: Any) -> Step:
        """Some columns."""
        return operations.select_columns(self, column_names, **options)

    def take(self, n: int, **options: Any) -> Step:
        """The first ``n`` rows."""
        return operations.take(self, n, **options)

    def skip(self, n: int, **options: Any) -> Step:
        """All rows but the first ``n``."""
        return operations.skip(self, n, **options)

    def shuffle(self, seed: int | None = None, buffer_size: int = 1000, **options: Any) -> Step:
        """The rows in a random order that ``seed`` (default 42) decides."""
        return operations.shuffle(self, seed, buffer_size, **options)

    def sort(
        self, column_names: str | list[str], reverse: bool | list[bool] = False, null_placement: str = "at_end", **options: Any
    ) -> Step:
        """The rows sorted by columns; a stable sort."""
        return operations.sort(self, column_names, reverse, null_placement, **options)

    def add_item(self, item: Mapping[str, Any], **options: Any) -> Step:
        """The rows and one more."""
        return operations.add_item(self, item, **options)

    def map(self, function: Callable[..., Any], **options: Any) -> Step:
        """What ``function`` makes of each row, as Hugging Face ``datasets`` has it."""
        return operations.map(self, function, **options)

    def filter(self, function: Callable[..., Any], **options: Any) -> Step:
        """The rows for which ``function`` is true."""
        return operations.filter(self, function, **options)

    def rename_column(self, original_column_name: str, new_column_name: str, **options: Any) -> Step:
        """The rows with one column renamed."""
        return operations.rename_column(self, original_column_name, new_column_name, **options)

    def rename_columns(self, column_mapping: Mapping[str, str], **options: Any) -> Step:
        """The rows with columns renamed."""
        return operations.rename_columns(self, column_mapping, **options)

    def remove_columns(self, column_names: str | list[str], **options: Any) -> Step:
        """The rows without some columns."""
        return operations.remove_columns(self, column_names, **options)

    def splits(
        self,
        train_size: float | None = None,
        validation_size: float | None = None,
        test_size: float | None = None,
        stratify_by_column: str | None = None,
        **options: Any,
    ) -> dict[str, Step]:
        """The rows in up to three parts, shuffled with seed 42: sizes are shares of 1.0 or numbers of rows."""
        return operations.splits(self, train_size, validation_size, test_size, stratify_by_column, **options)

    def shard(self, num_shards: int, index: int, contiguous: bool = False, **options: Any) -> Step:
        """One of ``num_shards`` parts."""
        return operations.shard(self, num_shards, index, contiguous, **options)

    def reverse(self, **options: Any) -> Step:
        """The rows from the last to the first."""
        return operations.reverse(self, **options)

    def save(self, **options: Any) -> Step:
        """The rows, with every column stored by the step itself."""
        return operations.save(self, **options)

    def copy(self, **options: Any) -> Step:
        """The same rows as a step of their own."""
        return operations.copy(self, **options)

    # --- taking it out ----------------------------------------------------------------------------------------------

    def export_to_dict(self, **splits: Any) -> dict[str, Any]:
        """The rows as a dict of columns; with sizes, one per split."""
        return exports.to_dict(self, **splits)

    def export_to_list(self, **splits: Any) -> list[dict[str, Any]] | dict[str, list[dict[str, Any]]]:
        """The rows as a list of dicts; with sizes, one per split."""
        return exports.to_list(self, **splits)

    def export_to_json(self, path: str | Path, **options: Any) -> str | dict[str, str]:
        """Write JSON lines; with sizes, a file per split. Returns where they lie."""
        return exports.to_json(self, path, **options)

    def export_to_csv(self, path: str | Path, sep: str = ",", **options: Any) -> str | dict[str, str]:
        """Write CSV; with sizes, a file per split. Returns where they lie."""
        return exports.to_csv(self, path, sep, **options)

    def export_to_hf_dataset(self, path: str | Path, **splits: Any) -> Any:
        """Write what ``datasets.load_from_disk`` reads, and return it; with sizes, a ``DatasetDict``."""
        return exports.to_hf_dataset(self, path, **splits)

    def publish_to_hf_hub(
        self,
        repo_id: str,
        branch: str | None = None,
        private: bool = False,
        token: str | None = None,
        train_size: float | None = None,
        validation_size: float | None = None,
        test_size: float | None = None,
        stratify_by_column: str | None = None,
        is_synthetic: bool = True,
        yes: bool = False,
        license: str | None = None,  # noqa: A002 - as the Hub calls it
        config: str | None = None,
        allow: Sequence[str] = (),
        dry_run: bool = False,
        **without_effect: Any,
    ) -> str:
        """Publish the rows with their card: to the Hub, or to a folder (``./x``, ``~/x``, ``/x``). Returns the URL or path.

        What will be sent is shown first; ``dry_run`` shows it only. ``config``: a configuration beside others. ``yes`` allows
        rows of the demo model, stale ones, and the same reply in two splits; ``allow`` names further findings that shall not
        stop it: ``secrets``, ``personal``, ``paths``.
        """
        for given in without_effect:
            if given not in ("writer_batch_size", "save_num_proc", "save_num_shards"):
                raise ArgumentError(f"publish_to_hf_hub takes no argument {given!r}", "see its docstring for what it takes")
        sizes = {
            "train_size": train_size,
            "validation_size": validation_size,
            "test_size": test_size,
            "stratify_by_column": stratify_by_column,
        }
        url: str = self.runner.publish(
            self, repo_id, branch=branch, private=private, token=token, is_synthetic=is_synthetic, yes=yes, license=license, config=config,
            allow=tuple(allow), dry_run=dry_run, **sizes,
        )  # fmt: skip
        return url
