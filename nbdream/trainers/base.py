"""`Trainer`: a recipe with a name. Its ``train`` runs a step whose result is a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbdream.errors import TrainingError


class Trainer:
    """What all trainers have: a name, and after ``train`` a model. Subclasses write ``train``, which sets ``step``."""

    def __init__(self, name: str, force: bool = False) -> None:
        self.name = name
        self.force = force
        self.step: Any = None
        """The step behind the last `train`: its rows are the curve."""
        self._model: Any = None

    @property
    def model(self) -> Any:
        """The trained model, of the class that the method gives. Waits for a run in the background."""
        if self.step is None:
            raise TrainingError(f"{self.name} has not been trained", "call its train(…)")
        if self._model is None:
            from nbdream.trainers.trained import trained

            self.step.wait()
            self._model = trained(self.step)
        return self._model

    @property
    def model_path(self) -> str:
        """Where the trained model lies; for an adapter, what ``adapter_name=`` takes."""
        return str(self.model.model_path)

    @property
    def fingerprint(self) -> str:
        """The recipe of the run."""
        return str(self.model.fingerprint)

    def model_card(self) -> dict[str, Any]:
        """The model's card: the run, and everything that its rows come from."""
        return dict(self.model.training_card())

    def unload_model(self) -> None:
        """Free what the model holds while it answers."""
        if self._model is not None:
            self._model.unload_model()

    def export_to_disk(self, path: str | Path, adapter_only: bool = False) -> str:
        """Write the model as plain transformers loads it (`Trained.export_to_disk`)."""
        return str(self.model.export_to_disk(path, adapter_only))

    def publish_to_hf_hub(
        self,
        repo_id: str,
        branch: str | None = None,
        private: bool = False,
        token: str | None = None,
        adapter_only: bool = False,
        is_synthetic: bool = True,
        yes: bool = False,
        **further: Any,
    ) -> str:
        """Publish the model with its card: to the Hub, or to a folder. Returns the URL or path."""
        return str(self.model.publish_to_hf_hub(repo_id, branch, private, token, adapter_only, is_synthetic, yes, **further))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"
