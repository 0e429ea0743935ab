"""Publishing rows: Parquet files, a README that ``datasets.load_dataset`` reads, and the card as JSON, in one commit."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nbdream import cards
from nbdream.errors import ArgumentError, DataError
from nbdream.hub.described import Part, described, published_file
from nbdream.hub.notebook import notebook_files, notebook_findings
from nbdream.hub.order import Order, carry_out, doubts, graph_of
from nbdream.hub.repository import target
from nbdream.hub.scan import Scan
from nbdream.hub.target import CARD, README, Change, Content, Head, Target
from nbdream.optional import require

SHARD_BYTES = 500_000_000
ROW_GROUP = 10_000
PREVIEW = 3
DEFAULT = "default"
_SPLIT = re.compile(r"\w+(\.\w+)*")
_CONFIG = re.compile(r"[A-Za-z0-9][\w-]*(\.[\w-]+)*")


def publish_dataset(
    data: Any,
    repo_id: str,
    *,
    config: str | None = None,
    train_size: float | None = None,
    validation_size: float | None = None,
    test_size: float | None = None,
    stratify_by_column: str | None = None,
    is_synthetic: bool = True,
    **order: Any,
) -> str:
    """Publish a step's rows, or a mapping of split names to steps, and return the URL (or the path of a folder).

    The sizes split the rows first, shuffled with seed 42. ``config`` names one of several configurations of a dataset; the
    others stay. A mapping of names to mappings of splits publishes several at once. ``order``: the fields of `Order`.
    Publishing the same again makes no commit.

    Raises `HubError` when the Hub cannot be reached or refuses, and for what `Order` does not allow; `DataError` when there
    are no rows.
    """
    asked = Order(**order)
    sizes = {"train_size": train_size, "validation_size": validation_size, "test_size": test_size}
    configs = [_Config(name, part, sizes, stratify_by_column) for name, part in _configs(data, config).items()]
    graph = cards.join(part.graph for part in configs)
    findings = [finding for part in configs for finding in doubts(part.graph, part.splits, repo_id)]
    scan = Scan(folders=_folders(configs))
    findings += scan.tables({split: table for part in configs for split, table in part.named_tables().items()})
    findings += scan.texts(told(cards.stages(graph))) + notebook_findings(asked, scan)
    findings = list(dict.fromkeys(findings))
    place = target(repo_id, "dataset", branch=asked.branch, private=asked.private, token=asked.token, only_look=asked.dry_run)
    with _written(configs) as files:

        def build(head: Head, existing: str | None) -> Change:
            made: dict[str, Content] = {**notebook_files(asked)}
            readme, notebooks = existing, list(made)
            for part in configs:
                readme, beside = part.told(place, head, readme, files[part.name], asked, is_synthetic, notebooks)
                made |= {**{part.under + path: file for path, file in files[part.name].items()}, **beside}
            return Change(made, lambda path: any(part.is_shard(path) for part in configs))

        rows = {split: table.num_rows for part in configs for split, table in part.named_tables().items()}
        return carry_out(place, graph, build, findings, asked, rows)


class _Config:
    """One configuration: its splits, their rows, and where they come from."""

    def __init__(self, name: str, data: Any, sizes: Mapping[str, float | None], stratify_by_column: str | None) -> None:
        if not _CONFIG.fullmatch(name) or name == "data":
            raise ArgumentError(f"{name!r} is no name of a configuration", "use letters, digits, - and _")
        self.name = name
        self.under = "" if name == DEFAULT else f"{name}/"
        self.splits = _splits(data, sizes, stratify_by_column)
        self.tables = {split: _table(part) for split, part in self.splits.items()}
        # Splits by size say nothing of where the rows come from: the card is that of the whole.
        self.graphs = {split: graph_of(part if isinstance(data, Mapping) else data) for split, part in self.splits.items()}
        self.graph = cards.join(self.graphs.values())
        for split, table in self.tables.items():
            _check(split, table)

    def named_tables(self) -> dict[str, pa.Table]:
        """The rows by what messages call them."""
        return {split if self.name == DEFAULT else f"{self.name}/{split}": table for split, table in self.tables.items()}

    @property
    def _rows_in(self) -> str:
        return "data/" if self.name == DEFAULT else ""

    def shards(self, folder: Path) -> dict[str, Path]:
        """The Parquet files, by their paths within the configuration."""
        return {
            path: file for split, table in self.tables.items() for path, file in _write_shards(split, table, folder, self._rows_in).items()
        }

    def is_shard(self, path: str) -> bool:
        """Whether a file of the repository holds rows of this configuration."""
        return re.fullmatch(re.escape(self.under + self._rows_in) + r"\w+(\.\w+)*-\d{5}-of-\d{5}\.parquet", path) is not None

    def told(
        self,
        place: Target,
        head: Head,
        existing: str | None,
        shards: Mapping[str, Path],
        asked: Order,
        synthetic: bool,
        notebooks: list[str],
    ) -> tuple[str, dict[str, Content]]:
        """The README with this configuration in it; and what stands beside the rows, by paths in the repository."""
        metadata, total = _metadata(existing, self, shards)
        first = next(iter(self.tables.values()))
        facts = cards.DatasetFacts(
            repo_id=place.repo_id,
            splits={split: table.num_rows for split, table in self.tables.items()},
            columns={field.name: str(field.type) for field in first.schema},
            preview=first.slice(0, PREVIEW).to_pylist(),
            metadata=metadata,
            synthetic=synthetic,
            licence=asked.license,
            config=self.name,
            total=total,
        )
        readme = cards.readme_dataset(self.graph, existing, facts)
        found = cards.stages(self.graph)
        licences, terms = licences_of(self.graph, readme, place.repo_id)
        texts = {CARD: card_json({**cards.data_card(self.graph), **terms})} | ({} if self.under else {README: readme})
        part = Part(place, self.under)
        splits = {
            split: cards.Split(self.graphs[split]["root"], table.num_rows, table.schema, [p for p in shards if _split_of(p) == split])
            for split, table in self.tables.items()
        }
        rows = [published_file(part, path, file) for path, file in shards.items()]
        words = cards.description(found, sum(facts.splits.values()), synthetic)
        made = described(part, head, self.graph, words, rows, texts, licences, notebooks, splits, synthetic)
        return readme, {**{self.under + path: text for path, text in made.items()}, README: readme.encode()}


def told(found: Any) -> dict[str, str]:
    """The texts of a person that a card shows: prompts and Python, by what messages call them."""
    return {f"{name} of {stage.name!r}": text for stage in found for name, text in {**stage.prompts, **stage.code}.items()}


def licences_of(graph: cards.Graph, readme: str, name: str) -> tuple[list[str], dict[str, Any]]:
    """The licences of a publication, for its descriptions; and the terms of what it is made of, for its card."""
    front, found = cards.front_matter(readme), cards.stages(graph)
    given = front.get("license")
    link = front.get("license_link") if given == cards.licence.OTHER else None
    return cards.stated(found, link or given), cards.terms.told(found, given if isinstance(given, str) else None, name)


def card_json(card: Mapping[str, Any]) -> str:
    """A card as the text of ``nbdream.json``."""
    return json.dumps(card, indent=2, ensure_ascii=False) + "\n"


@contextmanager
def _written(configs: list[_Config]) -> Iterator[dict[str, dict[str, Path]]]:
    with tempfile.TemporaryDirectory(prefix="nbdream-publish-") as folder:
        yield {part.name: part.shards(Path(folder) / part.name) for part in configs}


def _configs(data: Any, config: str | None) -> dict[str, Any]:
    """The configurations that ``data`` has: one, or where it is a mapping of mappings, several."""
    several = isinstance(data, Mapping) and bool(data) and all(isinstance(part, Mapping) for part in data.values())
    if several and config is not None:
        raise ArgumentError("these are configurations already", "leave config out")
    return dict(data) if several else {config or DEFAULT: data}


def _folders(configs: list[_Config]) -> list[Path]:
    """Where the session lies: a path of this machine."""
    handles = [part if hasattr(part, "runner") else part.step for config in configs for part in config.splits.values()]
    return list({Path(handle.runner.folder) for handle in handles if getattr(handle.runner, "folder", None)})


def _splits(data: Any, sizes: Mapping[str, float | None], stratify_by_column: str | None) -> dict[str, Any]:
    given = {name: size for name, size in sizes.items() if size is not None}
    if isinstance(data, Mapping):
        if given:
            raise ArgumentError("these are splits already", "give either splits or sizes")
        if not data:
            raise DataError("there are no splits to publish", "give at least one: {'train': …}")
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


def _write_shards(split: str, table: pa.Table, folder: Path, under: str) -> dict[str, Path]:
    """Parquet files of at most `SHARD_BYTES` of rows each; the same rows give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    count = max(1, -(-table.nbytes // SHARD_BYTES))
    each = -(-table.num_rows // count)
    shards = {}
    for number in range(count):
        name = f"{split}-{number:05d}-of-{count:05d}.parquet"
        part = table.slice(number * each, each)
        pq.write_table(part, folder / name, row_group_size=ROW_GROUP, use_content_defined_chunking=True, write_page_index=True)
        shards[under + name] = folder / name
    return shards


def _split_of(path: str) -> str:
    return path.rpartition("/")[2].rsplit("-", 3)[0]


def _metadata(existing: str | None, config: _Config, shards: Mapping[str, Path]) -> tuple[dict[str, Any], int]:
    """``dataset_info`` and ``configs`` of the README, as ``datasets`` writes them, and the rows of all configurations; others stay."""
    datasets = require("datasets", "hub")
    hub = require("huggingface_hub", "hub")
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs

    given = cards.front_matter(existing)
    card = hub.DatasetCardData(**{key: given[key] for key in ("dataset_info", "configs") if key in given})
    info = datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(next(iter(config.tables.values())).schema))
    info.splits = datasets.SplitDict()
    for name, table in config.tables.items():
        info.splits.add(datasets.SplitInfo(name, num_bytes=table.nbytes, num_examples=table.num_rows))
    info.dataset_size = sum(table.nbytes for table in config.tables.values())
    info.download_size = sum(file.stat().st_size for file in shards.values())
    DatasetInfosDict({config.name: info}).to_dataset_card_data(card)
    data_files = [{"split": name, "path": f"{config.under}{config._rows_in}{name}-*"} for name in config.tables]
    MetadataConfigs({config.name: {"data_files": data_files}}).to_dataset_card_data(card)
    infos = card["dataset_info"] if isinstance(card["dataset_info"], list) else [card["dataset_info"]]
    total = sum(int(split.get("num_examples") or 0) for about in infos for split in about.get("splits") or [])
    return {"dataset_info": card["dataset_info"], "configs": card["configs"]}, total
