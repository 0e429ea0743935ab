"""Steps: each takes columns, makes columns, and runs when it is constructed. Loaded when they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbdream.optional import lazily

if TYPE_CHECKING:
    from nbdream.steps.annotating import Annotate
    from nbdream.steps.annotation import Annotation
    from nbdream.steps.background import concurrent, wait
    from nbdream.steps.base import Step, SuperStep
    from nbdream.steps.evaluating import Evaluate
    from nbdream.steps.generate import Filter, Generate
    from nbdream.steps.joins import AddItemStep, ConcatStep, SaveStep, ZippedStep
    from nbdream.steps.mapping import FilterStep, MapStep
    from nbdream.steps.operations import concat, zipped
    from nbdream.steps.prompting import DataFromPrompt, FilterWithPrompt, ProcessWithPrompt, Prompt
    from nbdream.steps.returns import LazyRowBatches, LazyRows
    from nbdream.steps.rows import Failure, Row, Selection
    from nbdream.steps.sources import CSVDataSource, DataSource, HFDatasetDataSource, HFHubDataSource, JSONDataSource, TextDataSource
    from nbdream.steps.views import (
        CopyStep,
        RemoveColumnsStep,
        RenameColumnsStep,
        RenameColumnStep,
        ReverseStep,
        SelectColumnsStep,
        SelectStep,
        ShardStep,
        ShuffleStep,
        SkipStep,
        SortStep,
        SplitStep,
        TakeStep,
    )

__all__ = [
    "AddItemStep", "Annotate", "Annotation", "CSVDataSource", "ConcatStep", "CopyStep", "DataFromPrompt", "DataSource", "Evaluate",
    "Failure", "Filter", "FilterStep", "FilterWithPrompt", "Generate", "HFDatasetDataSource", "HFHubDataSource", "JSONDataSource",
    "LazyRowBatches", "LazyRows", "MapStep", "ProcessWithPrompt", "Prompt", "RemoveColumnsStep", "RenameColumnStep", "RenameColumnsStep",
    "ReverseStep", "Row", "SaveStep", "SelectColumnsStep", "SelectStep", "Selection", "ShardStep", "ShuffleStep", "SkipStep", "SortStep",
    "SplitStep", "Step", "SuperStep", "TakeStep", "TextDataSource", "ZippedStep", "concat", "concurrent", "wait", "zipped",
]  # fmt: skip

_ROOMS = {
    "annotating": "Annotate",
    "annotation": "Annotation",
    "background": "concurrent wait",
    "base": "Step SuperStep",
    "evaluating": "Evaluate",
    "generate": "Filter Generate",
    "joins": "AddItemStep ConcatStep SaveStep ZippedStep",
    "mapping": "FilterStep MapStep",
    "operations": "concat zipped",
    "prompting": "DataFromPrompt FilterWithPrompt ProcessWithPrompt Prompt",
    "returns": "LazyRowBatches LazyRows",
    "rows": "Failure Row Selection",
    "sources": "CSVDataSource DataSource HFDatasetDataSource HFHubDataSource JSONDataSource TextDataSource",
    "views": "CopyStep RemoveColumnsStep RenameColumnStep RenameColumnsStep ReverseStep SelectColumnsStep SelectStep ShardStep ShuffleStep "
    "SkipStep SortStep SplitStep TakeStep",
}
"""The module of each name: a further step is a file and a name here."""
_HOMES = {name: room for room, names in _ROOMS.items() for name in names.split()}

__getattr__, __dir__ = lazily(__name__, {name: f"{__name__}.{room}" for name, room in _HOMES.items()})
