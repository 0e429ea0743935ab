"""The model in the box: tiny, trained by a script of the repository, for trying things out without key or network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbdream.llms.hf_transformers import HFTransformers

FOLDER = Path(__file__).parent.parent / "demo" / "model"


class DemoModel(HFTransformers):
    """The model that ``-m demo`` names. It counts by its content, as any local model does."""

    def __init__(self, **params: Any) -> None:
        super().__init__(str(FOLDER), **params)

    @property
    def display_name(self) -> str:
        """What tables and messages call it."""
        return "demo"
