"""What a run gives: a model that knows where it comes from. `TrainedModel` answers like any other language model."""

from __future__ import annotations

import functools
import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from nbdream import context
from nbdream.errors import ArgumentError, TrainingError
from nbdream.files import disk_errors, read_object, read_text
from nbdream.fingerprint import digest, path_digest
from nbdream.llms.contexts import ContextTemplate
from nbdream.llms.hf_transformers import HFTransformers
from nbdream.llms.weights import DEMO_FOLDER, content
from nbdream.workers import runs
from nbdream.workers.failures import hint_for
from nbdream.workers.paths import RunPaths

if TYPE_CHECKING:
    from nbdream.datasets import OutputDataset
    from nbdream.steps.handle import StepHandle

ADAPTER = "adapter_config.json"
LOSSES = ("loss", "eval_loss")
WHAT_IT_IS = ("*.safetensors", "*.jinja", "tokenizer.json", "tokenizer_config.json", "config.json")
"""The files that decide what a trained model says. An adapter's own configuration names folders of this machine."""
SCALE = ("alpha_pattern", "bias", "lora_alpha", "peft_type", "r", "rank_pattern", "use_dora", "use_rslora")


class Trained:
    """The model of a finished run, with its folder, its card and its curve: what all kinds of trained models have in common.

    Who it is, for what is made with it, is its weights: not a path, not a name, not how it was made.
    """

    step: StepHandle
    paths: RunPaths
    adapted: bool
    """Whether it is an adapter over the model that it was trained from."""
    task: ClassVar[str]
    """What it is for, as the Hub calls it."""
    what_it_is: ClassVar[tuple[str, ...]] = WHAT_IT_IS

    def _find(self, step: StepHandle) -> dict[str, Any]:
        """Take the model of ``step``; what the run was told."""
        self.step = step
        self.paths = RunPaths(step.folder.path)
        if not self.paths.model.is_dir():
            raise TrainingError(f"the model of {step.name} is not in the session", "train it again with force=True")
        self.adapted = (self.paths.model / ADAPTER).is_file()
        spec = read_object(self.paths.spec)
        # Code that a base model brings runs where this kernel has said so itself: what a folder says may be a stranger's word.
        said = getattr(step, "args", {}).get("model")
        spec["model"]["trust_remote_code"] = bool(getattr(said, "trust_remote_code", False))
        return spec

    def _base_path(self, base: dict[str, Any]) -> str:
        if not base.get("local"):
            return str(base["path"])
        found = (self.paths.folder / base["path"]).resolve()
        if not found.is_dir():  # the session was made on another machine
            if is_demo(base):
                return str(DEMO_FOLDER)
            if context.replaying():  # it is not loaded: what it said is stored
                return str(self.paths.model)
        return str(found)

    def _who(self, base: dict[str, Any]) -> dict[str, Any]:
        folder = self.paths.model
        files = sorted({path for pattern in self.what_it_is for path in folder.glob(pattern)})
        made: dict[str, Any] = {"trained": digest([[path.relative_to(folder).as_posix(), path_digest(path)] for path in files])}
        if self.adapted:
            config = read_object(self.paths.model / ADAPTER)
            made |= {"base": base["identity"], "adapter": {name: config[name] for name in SCALE if name in config}}
        return made

    # --- what it is called and where it is ----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.step.name

    @property
    def display_name(self) -> str:
        """What the run is called."""
        return self.step.name

    @property
    def model(self) -> Self:
        """The model itself, as trainers have it."""
        return self

    @property
    def model_path(self) -> str:
        """The folder of the model; for an adapter, what ``adapter_name=`` takes."""
        return str(self.paths.model)

    @property
    def fingerprint(self) -> str:
        """The recipe of the run."""
        return self.step.key

    @property
    def key(self) -> str:
        """The folder of the run: what is made with the model says by it where it comes from."""
        return self.step.key

    @property
    def use_id(self) -> str:
        """The run's place in the graph."""
        return self.step.use_id

    @property
    def node(self) -> dict[str, Any]:
        """How the run went."""
        return self.step.node

    @property
    def curve(self) -> OutputDataset:
        """The run's measurements, a row a step."""
        return self.step.output

    @property
    def picture(self) -> str:
        """The loss of both sets of rows, as SVG."""
        from nbdream.cards.curve import curve_svg

        told = self.curve.table(["step", *LOSSES]).to_pydict()
        drawn = {name: [point for point in zip(told["step"], told[name], strict=True) if point[1] is not None] for name in LOSSES}
        return curve_svg(drawn, self.name)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Everything that the run said."""
        return runs.events(self.paths)

    @property
    def examples(self) -> list[str]:
        """Three inputs that it was trained on, for the page of a published model."""
        column = next(column for name, column in self.step.inputs.items() if name.startswith("train_"))
        return [str(column[index]) for index in range(min(3, len(column)))]

    @functools.cached_property
    def card(self) -> dict[str, Any]:
        """What a data card says about it."""
        found = self.node.get("models") or [{}]
        return {"kind": type(self).__name__, "name": self.name, "card_url": None, "license": found[0].get("license"), "citation": None}

    def training_card(self) -> dict[str, Any]:
        """The model card: the run, and everything that its rows come from."""
        from nbdream.cards import model_card

        return dict(model_card(self.step.runner.graph(self.step)))

    def why(self) -> list[str]:
        """Why it was trained, and why it would be trained again, in words."""
        return self.step.why()

    # --- taking it out ------------------------------------------------------------------------------------------------

    def export_to_disk(self, path: str | Path, adapter_only: bool = False) -> str:
        """Write the model to a new folder as plain transformers loads it, an adapter merged into its base; returns the path.

        ``adapter_only`` writes the adapter alone, for peft.
        """
        target = Path(path).expanduser()
        if adapter_only and not self.adapted:
            raise ArgumentError("this model has no adapter", "export it without adapter_only: it was trained whole")
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ArgumentError(f"{target} is there already", "give a new folder")
        if self.adapted and not adapter_only:
            self._merge(target)
        else:
            with disk_errors(target):
                shutil.copytree(self.paths.model, target, dirs_exist_ok=True)
        return str(target)

    def _merge(self, target: Path) -> None:
        command = [sys.executable, "-P", "-m", "nbdream.workers.merge", str(self.paths.folder), str(target.resolve())]
        command += ["trusted"] if getattr(self, "trust_remote_code", False) else []
        done = subprocess.run(command, env=runs.worker_environment(), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "the process ended without a word")
            raise TrainingError(f"merging the adapter failed: {last}", hint_for(done.stderr))

    def publish_to_hf_hub(
        self,
        repo_id: str,
        branch: str | None = None,
        private: bool = False,
        token: str | None = None,
        adapter_only: bool = False,
        is_synthetic: bool = True,
        yes: bool = False,
        license: str | None = None,  # noqa: A002 - as the Hub calls it
        allow: Sequence[str] = (),
        dry_run: bool = False,
    ) -> str:
        """Publish the model with its card: to the Hub, or to a folder (``./x``, ``~/x``, ``/x``). Returns the URL or path.

        An adapter is merged into its base; ``adapter_only`` publishes it alone. The rest as for rows.
        """
        url: str = self.step.runner.publish(
            self, repo_id, branch=branch, private=private, token=token, adapter_only=adapter_only, is_synthetic=is_synthetic, yes=yes,
            license=license, allow=tuple(allow), dry_run=dry_run,
        )  # fmt: skip
        return url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def is_demo(base: dict[str, Any]) -> bool:
    """Whether a base model is the one that ships with nbdream, by its content."""
    identity = base.get("identity") or {}
    own = identity.get("identity") or identity
    return isinstance(own, dict) and own.get("content") == content(DEMO_FOLDER)


KINDS = {
    "classifier": ("nbdream.trainers.trained_classifier", "TrainedClassifier"),
    "embedder": ("nbdream.trainers.trained_embedder", "TrainedEmbedder"),
}
"""What a method gives that is not a language model."""


def trained(step: StepHandle) -> Any:
    """The model of a finished run, of the class that its method gives."""
    spec = RunPaths(step.folder.path).spec
    method = read_object(spec).get("method") if spec.exists() else None
    home, name = KINDS.get(str(method), (__name__, "TrainedModel"))
    return getattr(importlib.import_module(home), name)(step)


class TrainedModel(Trained, HFTransformers):
    """The model of a finished run: a language model for ``-m`` and for steps."""

    task: ClassVar[str] = "text-generation"

    def __init__(self, step: StepHandle, **params: Any) -> None:
        spec = self._find(step)
        base = spec["model"]
        whole: dict[str, Any] = {"model_name": str(self.paths.model)}
        if self.adapted:
            template = self.paths.model / "chat_template.jinja"
            whole = {
                "model_name": self._base_path(base),
                "revision": base.get("revision"),
                "adapter_name": str(self.paths.model),
                "quantization_config": spec.get("quantization"),
                "chat_prompt_template": read_text(template) if template.is_file() else None,
            }
        trusted = bool(base.get("trust_remote_code"))
        super().__init__(**whole, trust_remote_code=trusted, system_prompt=spec.get("system_prompt"), identity=self._who(base), **params)
        self.context_template: str | None = spec.get("context_template")

    @property
    def examples(self) -> list[str]:
        """Three inputs that it was trained on, with their contexts."""
        questions = super().examples
        if self.context_template is None or "train_contexts" not in self.step.inputs:
            return questions
        contexts: Any = self.step.inputs["train_contexts"]
        return ContextTemplate(self.context_template).before(questions, [contexts[row] for row in range(len(questions))])

    def __call__(self, text: str, contexts: Sequence[str] | None = None, **params: Any) -> str:
        """The reply to one prompt; ``contexts`` stand before it as they did in training."""
        return self.generate([text], None if contexts is None else [contexts], **params)[0]

    def generate(self, texts: Iterable[str], contexts: Iterable[Sequence[str]] | None = None, **params: Any) -> list[str]:
        """The reply to each prompt, in order; ``contexts``: a list for each."""
        return super().generate(self._in_context(texts, contexts), **params)

    def run(self, prompts: Iterable[Any], *args: Any, contexts: Iterable[Sequence[str]] | None = None, **params: Any) -> Any:
        """As every language model's ``run``; ``contexts``: a list for each prompt."""
        return super().run(self._in_context(prompts, contexts), *args, **params)

    def _in_context(self, prompts: Iterable[Any], contexts: Iterable[Sequence[str]] | None) -> Iterable[Any]:
        if contexts is None:
            return prompts
        if self.context_template is None:
            raise ArgumentError(f"{self.name} was trained without contexts", "write them into the prompt, or train it with train_contexts=")
        return ContextTemplate(self.context_template).before(prompts, contexts)

    @functools.cached_property
    def base(self) -> HFTransformers:
        """The model that it was trained from, asked in the same form: the same chat template, the same system prompt."""
        spec, template = read_object(self.paths.spec), self.paths.model / "chat_template.jinja"
        base = spec["model"]
        return HFTransformers(
            self._base_path(base),
            read_text(template) if template.is_file() else None,
            self.system_prompt,
            revision=base.get("revision"),
            trust_remote_code=self.trust_remote_code,
            quantization_config=spec.get("quantization"),
        )
