"""How a model reads contexts goes on to what is trained from it, as its chat template does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nbdream import Session
from nbdream.errors import ArgumentError
from nbdream.steps import DataSource
from nbdream.trainers import TrainHFDPO, TrainHFFineTune
from nbdream.workers.paths import CONTEXT_TEMPLATE
from tests import tiny

WRITTEN = "({{index}}) {{text}}"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.causal(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model that was trained with contexts."""
    folder = tiny.causal(tmp_path / "base")
    (folder / CONTEXT_TEMPLATE).write_text(WRITTEN)
    return folder


class _Constructed(Exception):
    """The step is there; what it says is enough."""


def settings_of(train: Any, session: Session) -> dict[str, Any]:
    """What a run that ``train`` would start is told."""
    found: list[Any] = []

    def door(step: Any) -> None:
        found.append(step)
        raise _Constructed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "run", door)
        with pytest.raises(_Constructed):
            train()
    settings: dict[str, Any] = found[0].args["settings"]
    assert found[0].recipe_made["args"].get("context_template") == settings.get("context_template")
    return settings


def test_what_a_run_is_told(session: Session, base: Path, plain: Path) -> None:
    rows = DataSource("rows", data={"q": ["one", "two"], "a": ["x", "y"], "r": ["z", "z"], "c": [["a"], []]}).output
    pair, with_contexts = (rows["q"], rows["a"]), {"train_contexts": rows["c"]}

    def told(folder: Path, given: dict[str, Any] | None = None) -> Any:
        train = TrainHFFineTune("tuned", str(folder)).train
        return settings_of(lambda: train(*pair, **(given or {})), session).get("context_template")

    def told_to_prefer(folder: Path) -> Any:
        train = TrainHFDPO("aligned", str(folder)).train
        return settings_of(lambda: train(*pair, rows["r"]), session).get("context_template")

    assert (told_to_prefer(base), told_to_prefer(plain)) == (WRITTEN, None)
    assert (told(base), told(plain)) == (WRITTEN, None)
    assert (told(base, with_contexts), told(plain, with_contexts)) == (WRITTEN, "{{text}}")
    assert told(base, {**with_contexts, "context_template": "{{text}}!"}) == "{{text}}!"
    with pytest.raises(ArgumentError, match="context_template is given, and no contexts are"):
        TrainHFFineTune("tuned", str(base)).train(*pair, context_template="{{text}}!")
    (base / CONTEXT_TEMPLATE).write_text("of no text")
    with pytest.raises(ArgumentError, match="no place for the text"):
        TrainHFDPO("aligned", str(base)).train(*pair, rows["r"])


@pytest.mark.slow
def test_preferred_answers_of_a_model_that_reads_contexts(session: Session, plain: Path, tmp_path: Path) -> None:
    """Trained as an adapter and merged, then by preferences: the whole way of the template."""
    inputs, outputs = tiny.pairs(8)
    rows = DataSource(
        "rows", data={"q": inputs, "a": outputs, "r": outputs[::-1], "c": [[text, "the river"][: n % 3] for n, text in enumerate(outputs)]}
    ).output
    common: dict[str, Any] = {"epochs": 1, "batch_size": 4}
    tuned = TrainHFFineTune("tuned", str(plain), peft_config={"r": 4}, device="cpu").train(
        rows["q"], rows["a"], train_contexts=rows["c"], context_template=WRITTEN, **common
    )
    merged = Path(tuned.export_to_disk(tmp_path / "merged"))
    assert (merged / CONTEXT_TEMPLATE).read_text() == WRITTEN
    aligned = TrainHFDPO("aligned", str(merged), device="cpu").train(rows["q"], rows["a"], rows["r"], **common)
    assert aligned.context_template == WRITTEN
    assert aligned.examples == inputs[:3], "its own prompts, which hold what contexts they have"
    asked = aligned.generate([f"(1) {outputs[1]}\n{inputs[1]}"], max_new_tokens=3)
    assert aligned.generate(inputs[1:2], contexts=[outputs[1:2]], max_new_tokens=3, cache_only=True) == asked
    further = TrainHFFineTune("further", aligned.model_path, device="cpu").train(rows["q"], rows["a"], **common)
    assert further.context_template == WRITTEN
