"""What `import nbdream` and `%load_ext nbdream` may load."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "openai", "anthropic", "aiohttp", "pandas")


def loaded(code: str) -> list[str]:
    """The modules that a fresh interpreter holds after ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return names


def heavy(modules: list[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules} & set(HEAVY)


def test_import_is_light() -> None:
    modules = loaded("import nbdream; nbdream.__version__; dir(nbdream)")
    assert heavy(modules) == set()
    assert "pyarrow" not in modules
    assert "IPython" not in modules


@pytest.mark.parametrize(
    "code",
    [
        "from nbdream import Session",
        "import nbdream.steps, nbdream.llms, nbdream.trainers",
        "from nbdream.llms import Anthropic, OpenAI, EchoLLM, HFTransformers",
        "from nbdream.trainers import TrainHFFineTune",
        "from nbdream.trainers import TrainHFClassifier, TrainSentenceTransformer, TrainedClassifier, TrainedEmbedder",
        "from nbdream.embedders import SentenceTransformersEmbedder\nfrom nbdream.task_models import HFClassificationTaskModel",
        "from IPython.core.interactiveshell import InteractiveShell as S; S.instance().run_line_magic('load_ext', 'nbdream')",
        "import nbdream.cli",
    ],
)
def test_faces_and_rooms_are_light(code: str) -> None:
    assert heavy(loaded(code)) == set()


def test_loading_into_a_notebook_waits_for_no_rows() -> None:
    modules = loaded("from IPython.core.interactiveshell import InteractiveShell as S; S.instance().run_line_magic('load_ext', 'nbdream')")
    assert not {"pyarrow", "numpy"} & set(modules)


def test_unknown_names_are_unknown() -> None:
    import nbdream

    with pytest.raises(AttributeError, match="no attribute 'Sesion'"):
        nbdream.Sesion  # noqa: B018
    assert {"Session", "load_ipython_extension"} <= set(dir(nbdream))


def test_the_heavy_ones_would_be_seen() -> None:
    assert heavy(loaded("import pandas")) == {"pandas"}
