"""`HFClassificationTaskModel`: a classifier of Hugging Face `transformers`, in a process of its own."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from nbdream.files import read_object
from nbdream.task_models.base import Label, Scores, TaskModel
from nbdream.trainers.labels import ID_TO_LABEL, values_of
from nbdream.workers.held import Held


class HFClassificationTaskModel(Held, TaskModel):
    """A model with a head for labels: a folder that ``save_pretrained`` wrote, or a name on the Hugging Face Hub.

    ``adapter_name``: a LoRA adapter over it, with its own head; the labels are those of the ``id2label.json`` in its folder.
    ``multi_label``: whether a text may have several labels, where the model's configuration does not say it.
    """

    serves: ClassVar[str] = "labels"

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        trust_remote_code: bool = False,
        device: Any = None,
        device_map: Any = None,
        dtype: Any = None,
        adapter_name: str | None = None,
        adapter_kwargs: Mapping[str, Any] | None = None,
        multi_label: bool | None = None,
        identity: Any = None,
    ) -> None:
        super().__init__(model_name, revision, trust_remote_code, device, device_map, dtype, adapter_name, adapter_kwargs, identity)
        self._multi = multi_label
        home = self._adapter_folder or self.folder
        self._values = _values(home) if home is not None else None

    @functools.cached_property
    def labels(self) -> list[Label]:
        """The labels, in order."""
        return self._values or list(self.about()["labels"])

    @property
    def multi_label(self) -> bool:
        """Whether a text may have any number of labels."""
        return bool(self.about()["multi"]) if self._multi is None else self._multi

    def classify_batch(self, texts: list[str], *, truncate: bool, batch_size: int, first: int) -> list[Scores]:
        """The probability of each label, for each text."""
        answer = self.asked("labels", texts=texts, truncate=truncate, batch_size=batch_size, first=first)
        return [dict(zip(self.labels, row, strict=True)) for row in answer["scores"]]

    def _spec(self) -> dict[str, Any]:
        names = None if self._values is None or self._adapter_folder is None else [str(value) for value in self._values]
        return {**super()._spec(), "labels": names, "multi": self._multi}


def _values(folder: Path) -> list[Label] | None:
    """The labels as the rows had them, where the folder says them."""
    path = folder / ID_TO_LABEL
    return values_of(read_object(path)) if path.is_file() else None
