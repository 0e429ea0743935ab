"""Publishing rows: Parquet files, a README that ``datasets.load_dataset`` reads, and the card as JSON, in one commit."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nbdream import cards
from nbdream.errors import ArgumentError, DataError, HubError
from nbdream.hub.described import described, published_file
from nbdream.hub.scan import refuse_secrets
from nbdream.hub.target import CARD, README, Change, Head, Target, is_folder, target, update
from nbdream.optional import require

SHARD_BYTES = 500_000_000
ROW_GROUP = 10_000
PREVIEW = 3
_SHARD = re.compile(r"data/\w+(\.\w+)*-\d{5}-of-\d{5}\.parquet")
_SPLIT = re.compile(r"\w+(\.\w+)*")


def publish_dataset(
    data: Any,
    repo_id: str,
    *,
    branch: str | None = None,
    private: bool = False,
    token: str | None = None,
    train_size: float | None = None,
    validation_size: float | None = None,
    test_size: float | None = None,
    stratify_by_column: str | None = None,
    is_synthetic: bool = True,
    yes: bool = False,
) -> str:
    """Publish a step's rows, or a mapping of split names to steps, and return the URL (or the path of a folder).

    The sizes split the rows first, shuffled with seed 42. Publishing the same again makes no commit. ``yes`` allows rows
    that the demo model wrote to go to the Hub.

    Raises `HubError` when the Hub cannot be reached or refuses, and when the rows hold what looks like a secret;
    `DataError` when there are none.
    """
    sizes = {"train_size": train_size, "validation_size": validation_size, "test_size": test_size}
    splits = _splits(data, sizes, stratify_by_column)
    tables = {name: _table(part) for name, part in splits.items()}
    # Splits by size say nothing of where the rows come from: the card is that of the whole.
    graphs = {name: graph_of(part if isinstance(data, Mapping) else data) for name, part in splits.items()}
    graph = cards.join(graphs.values())
    for name, table in tables.items():
        _check(name, table)
    card = card_json(cards.data_card(graph))
    refuse_secrets(tables, {CARD: card})
    place = open_target(repo_id, "dataset", graph, branch=branch, private=private, token=token, yes=yes)
    with tempfile.TemporaryDirectory(prefix="nbdream-publish-") as folder:
        shards = {name: _write_shards(name, table, Path(folder)) for name, table in tables.items()}
        files = {path: file for paths in shards.values() for path, file in paths.items()}
        rows = [published_file(place, path, file) for path, file in files.items()]
        parts = {
            name: cards.Split(graphs[name]["root"], table.num_rows, table.schema, list(shards[name])) for name, table in tables.items()
        }

        def build(head: Head, existing: str | None) -> Change:
            facts = cards.DatasetFacts(
                repo_id=place.repo_id,
                splits={name: table.num_rows for name, table in tables.items()},
                columns={field.name: str(field.type) for field in next(iter(tables.values())).schema},
                preview=next(iter(tables.values())).slice(0, PREVIEW).to_pylist(),
                metadata=_metadata(existing, tables, files),
                synthetic=is_synthetic,
            )
            texts = {CARD: card, README: cards.readme_dataset(graph, existing, facts)}
            words = cards.description(cards.stages(graph), sum(facts.splits.values()), is_synthetic)
            made = described(place, head, graph, words, rows, texts, parts, is_synthetic)
            return Change({**files, **made}, lambda path: _SHARD.fullmatch(path) is not None)

        update(place, build, "Publish with nbdream")
    return place.url


def open_target(repo_id: str, kind: str, graph: cards.Graph, *, branch: str | None, private: bool, token: str | None, yes: bool) -> Target:
    """The repository or folder to publish to; what the demo model made goes to the Hub only with ``yes``."""
    if cards.is_demo(graph) and not yes and not is_folder(repo_id):
        raise HubError("the demo model, which knows next to nothing, made this", "publish to a folder (./…), or say --yes (yes=True)")
    return target(repo_id, kind, branch=branch, private=private, token=token)


def graph_of(thing: Any) -> cards.Graph:
    """The graph of a step, of its rows, or of a trained model."""
    handle = thing if hasattr(thing, "runner") else thing.step
    graph: cards.Graph = handle.runner.graph(handle)
    return graph


def card_json(card: Mapping[str, Any]) -> str:
    """A card as the text of ``nbdream.json``."""
    return json.dumps(card, indent=2, ensure_ascii=False) + "\n"


def _splits(data: Any, sizes: Mapping[str, float | None], stratify_by_column: str | None) -> dict[str, Any]:
    given = {name: size for name, size in sizes.items() if size is not None}
    if isinstance(data, Mapping):
        if given:
            raise ArgumentError("these are splits already", "give either splits or sizes")
        return dict(data)
    if not given:
        return {"train": data}
    handle = data if hasattr(data, "splits") else data.step
    return dict(handle.splits(**given, stratify_by_column=stratify_by_column))


def _table(part: Any) -> pa.Table:
    rows = part.output if hasattr(part, "output") else part
    table: pa.Table = rows.table()
    # What wrote the rows may have left notes in the schema; bytes would differ with them and content would not.
    return table.replace_schema_metadata(None).combine_chunks()


def _check(name: str, table: pa.Table) -> None:
    if not _SPLIT.fullmatch(name):
        raise ArgumentError(f"{name!r} is no name of a split", "use letters, digits and _")
    if not table.num_rows:
        raise DataError(f"there are no rows to publish in {name!r}", "look at NAME.failures")


def _write_shards(split: str, table: pa.Table, folder: Path) -> dict[str, Path]:
    """Parquet files of at most `SHARD_BYTES` of rows each; the same rows give the same bytes."""
    count = max(1, -(-table.nbytes // SHARD_BYTES))
    each = -(-table.num_rows // count)
    shards = {}
    for number in range(count):
        path = f"data/{split}-{number:05d}-of-{count:05d}.parquet"
        file = folder / path.replace("/", "-")
        part = table.slice(number * each, each)
        pq.write_table(part, file, row_group_size=ROW_GROUP, use_content_defined_chunking=True, write_page_index=True)
        shards[path] = file
    return shards


def _metadata(existing: str | None, tables: Mapping[str, pa.Table], files: Mapping[str, Path]) -> dict[str, Any]:
    """``dataset_info`` and ``configs`` of the README, as ``datasets`` writes them; other configurations stay."""
    datasets = require("datasets", "hub")
    hub = require("huggingface_hub", "hub")
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs

    given = cards.front_matter(existing)
    card = hub.DatasetCardData(**{key: given[key] for key in ("dataset_info", "configs") if key in given})
    info = datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(next(iter(tables.values())).schema))
    info.splits = datasets.SplitDict()
    for name, table in tables.items():
        info.splits.add(datasets.SplitInfo(name, num_bytes=table.nbytes, num_examples=table.num_rows))
    info.dataset_size = sum(table.nbytes for table in tables.values())
    info.download_size = sum(file.stat().st_size for file in files.values())
    DatasetInfosDict({"default": info}).to_dataset_card_data(card)
    data_files = [{"split": name, "path": f"data/{name}-*"} for name in tables]
    MetadataConfigs({"default": {"data_files": data_files}}).to_dataset_card_data(card)
    return {"dataset_info": card["dataset_info"], "configs": card["configs"]}
