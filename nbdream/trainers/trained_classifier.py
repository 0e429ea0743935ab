"""`TrainedClassifier`: what a run of `TrainHFClassifier` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from nbdream.task_models.hf_classification import HFClassificationTaskModel
from nbdream.trainers.labels import ID_TO_LABEL
from nbdream.trainers.trained import WHAT_IT_IS, Trained
from nbdream.workers import runs

if TYPE_CHECKING:
    from nbdream.steps.handle import StepHandle


class TrainedClassifier(Trained, HFClassificationTaskModel):
    """The model of a finished run: it says of a text how likely each label of the training rows is."""

    task: ClassVar[str] = "text-classification"
    what_it_is: ClassVar[tuple[str, ...]] = (*WHAT_IT_IS, ID_TO_LABEL)

    def __init__(self, step: StepHandle, device: Any = None, dtype: Any = None) -> None:
        spec = self._find(step)
        base = spec["model"]
        told = (runs.result(self.paths) or {}).get("data") or {}
        where: dict[str, Any] = {"model_name": str(self.paths.model)}
        if self.adapted:
            where = {"model_name": self._base_path(base), "revision": base.get("revision"), "adapter_name": str(self.paths.model)}
        super().__init__(
            **where,
            trust_remote_code=bool(base.get("trust_remote_code")),
            device=device,
            dtype=dtype,
            multi_label=bool(told.get("multi_label")),
            identity=self._who(base),
        )
