"""What the sources ask of Hugging Face: a dataset's commit, its rows, and what its page says about it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nbdream.errors import ArgumentError, DataError, HubError, NbDreamError
from nbdream.llms.licenses import in_card, on_hub
from nbdream.optional import require


def commit(path: str, revision: str | None) -> str:
    """The commit that a revision of a dataset stands for now."""
    hub = require("huggingface_hub", "hub")
    with _in_one_line(path):
        return str(hub.HfApi().dataset_info(path, revision=revision).sha)


def load(path: str, commit: str | None, config: str | None, split: str | None, streaming: bool, options: Mapping[str, Any]) -> Any:
    """One split of a dataset. A dataset of one split needs no ``split``."""
    datasets = require("datasets", "hub")
    local = commit is None
    with _in_one_line(path):
        data = datasets.load_dataset(
            str(Path(path).expanduser()) if local else path, name=config, split=split, revision=commit, streaming=streaming, **options
        )
    if not isinstance(data, Mapping):
        return data
    if len(data) > 1:
        raise ArgumentError(f"{path} has the splits {', '.join(map(str, data))}", f"take one: split={str(next(iter(data)))!r}")
    return next(iter(data.values()))


def load_folder(path: str | Path) -> Any:
    """A dataset that was saved with ``save_to_disk``."""
    datasets = require("datasets", "hub")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}", "give the folder that save_to_disk wrote")
    with _in_one_line(str(folder)):
        data = datasets.load_from_disk(str(folder))
    if isinstance(data, Mapping):
        raise ArgumentError(f"{folder} has the splits {', '.join(map(str, data))}", f"take one: {folder / str(next(iter(data)))}")
    return data


def describe(path: str, commit: str | None) -> dict[str, Any]:
    """What a card says of a dataset: name, URL, revision, and what its README says: licence, citation, its own card."""
    text, url, said = "", None, {"license": None}
    if commit is None:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = (Path(path).expanduser() / "README.md").read_text("utf-8")
        said = in_card(text)
    else:
        hub: Any = require("huggingface_hub", "hub")
        url = f"{require('huggingface_hub.constants', 'hub').ENDPOINT}/datasets/{path}"
        with contextlib.suppress(Exception):  # a dataset without a README is still a dataset
            text = Path(hub.hf_hub_download(path, "README.md", repo_type="dataset", revision=commit)).read_text("utf-8")
        said = on_hub(path, "dataset", lambda: commit, url)
    name = path if commit else Path(path).name
    return {"name": name, "url": url, "revision": commit, "card": url, **said, "citation": citation(text)}


def citation(readme: str) -> str | None:
    """The first BibTeX entry of a README."""
    start = re.search(r"@[A-Za-z]+\s*\{", readme)
    if start is None:
        return None
    depth = 0
    for end in range(start.end() - 1, len(readme)):
        depth += {"{": 1, "}": -1}.get(readme[end], 0)
        if depth == 0:
            return readme[start.start() : end + 1]
    return None


@contextlib.contextmanager
def _in_one_line(path: str) -> Iterator[None]:
    """What goes wrong while a dataset is fetched, in our words."""
    try:
        yield
    except (KeyboardInterrupt, NbDreamError):
        raise
    except Exception as error:
        kind, said = type(error).__name__, " ".join(str(error).split())
        if "Dataset scripts are no longer supported" in said:
            raise DataError(f"{path} is made by a script, which `datasets` no longer runs", "look for a copy of it in Parquet") from error
        if kind in ("RepositoryNotFoundError", "DatasetNotFoundError", "RevisionNotFoundError", "GatedRepoError"):
            raise HubError(
                f"{path} is not on the Hub, or you may not read it", "check its name; a private one needs `hf auth login`"
            ) from error
        if isinstance(error, ValueError):
            raise DataError(f"{path}: {said[:300]}", "check config_name= and split=") from error
        raise HubError(f"{path} cannot be read: {kind}: {said[:300]}", "check the network and run the cell again") from error
