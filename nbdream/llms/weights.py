"""What makes a local model the model it is: the content of its folder, or its name on the Hub at one commit."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbdream import context
from nbdream.errors import BrokenFileError, ModelError
from nbdream.files import read_object
from nbdream.fingerprint import digest
from nbdream.optional import require

SUFFIXES = frozenset({".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".py"})
NOT_THE_MODEL = frozenset({
    "training_args.bin", "optimizer.bin", "scheduler.bin", "trainer_state.json", "all_results.json", "train_results.json",
    "eval_results.json", "requirements.txt",
})  # fmt: skip
HUB_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
COMMIT = re.compile(r"[0-9a-f]{40}")

DEMO_FOLDER = Path(__file__).resolve().parents[1] / "demo" / "model"
"""The tiny model that ships with nbdream; made by ``scripts/train_demo_model.py``."""

_digests: dict[tuple[str, int, int], str] = {}


def local_folder(name: str) -> Path | None:
    """The folder that ``name`` is, or None when it is a name on the Hub; `ModelError` when it is neither."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
            raise ModelError(f"{name} holds no model: there is no config.json", "give the folder that save_pretrained wrote")
        _check_config(name, path / "config.json")
        return path.resolve()
    if path.exists():
        raise ModelError(f"{name} is a file", "give the folder that holds it")
    if name.startswith((".", "/", "~")) or not HUB_NAME.fullmatch(name):
        raise ModelError(f"there is no folder {name}", "give a folder that save_pretrained wrote, or a name on the Hugging Face Hub")
    return None


def _check_config(name: str, path: Path) -> None:
    """Raise `ModelError` where a model's configuration is there and says of no model what it is."""
    try:
        config = read_object(path)
    except FileNotFoundError:  # an adapter
        return
    except BrokenFileError:
        config = {}
    if not {"model_type", "auto_map"} & config.keys():
        raise ModelError(f"{name} holds no model: its config.json names no model_type", "give the folder that save_pretrained wrote")


def content(folder: Path) -> str:
    """The sha256 of what a model's folder holds: weights, configuration, tokenizer, code; not its card or its training."""
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.name not in NOT_THE_MODEL and path.is_file())
    return digest([[path.name, _file_digest(path)] for path in files])


def _file_digest(path: Path) -> str:
    """The sha256 of a file, read once as long as its size and time stay the same."""
    state = path.stat()
    key = (str(path), state.st_size, state.st_mtime_ns)
    if key not in _digests:
        with path.open("rb") as file:
            _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[key]


def commit(name: str, revision: str | None, token: str | None = None) -> str:
    """The commit that a Hub name stands for: pinned by the open session at first use, where there is one."""
    if revision is not None and COMMIT.fullmatch(revision):
        return revision

    def find() -> str:
        return _find_commit(name, revision, token)

    pin: Callable[[str, Callable[[], str]], str] | None = getattr(context.active(), "pin", None)
    return find() if pin is None else pin(f"models/{name}@{revision or 'main'}", find)


def _find_commit(name: str, revision: str | None, token: str | None) -> str:
    hub: Any = require("huggingface_hub", "local")
    # No attributes of the package before they are imported.
    errors: Any = require("huggingface_hub.errors", "local")
    constants: Any = require("huggingface_hub.constants", "local")
    if not constants.HF_HUB_OFFLINE:
        try:
            return str(hub.HfApi().model_info(name, revision=revision, token=token).sha)
        except errors.GatedRepoError:
            raise ModelError(f"{name} is gated", "ask for access on its page, then set HF_TOKEN") from None
        except errors.RevisionNotFoundError:
            raise ModelError(f"{name} has no revision {revision!r}", "look at the branches and tags on its page") from None
        except errors.RepositoryNotFoundError:
            hint = "look at the name; set HF_TOKEN if it is private"
            raise ModelError(f"there is no model {name!r}: neither a folder here nor on the Hub", hint) from None
        except Exception as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            why = f"the Hub cannot be reached ({said[0][:120]})"
    else:
        why = "the Hub is switched off (HF_HUB_OFFLINE)"
    for file in ("config.json", "adapter_config.json"):
        found = hub.try_to_load_from_cache(name, file, revision=revision)
        if isinstance(found, str):
            return Path(found).parent.name
    raise ModelError(f"there is no folder {name!r}, and {why}", "give a local folder, or -m demo, the tiny model that ships with nbdream")
