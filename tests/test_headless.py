"""The same notebook without a page: by `nbdream run`, by papermill with parameters, as an exported script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from nbdream import Session

TOPICS = ["cats", "dogs", "fish", "owls", "bees"]
CELLS = [
    "%load_ext nbdream\n%dream open ./output\n%dream model gpt = openai/gpt-4.1 base_url={base_url} temperature=0.7",
    "count = 3\nstyle = 'dry'",
    f"rows = [{{{{'topic': topic}}}} for topic in {TOPICS}[:count]]",
    "%%generate lines --from rows -m gpt --with style\nWrite a {{{{ style }}}} line about {{{{ topic }}}}.",
    "%%filter short --from lines -m gpt\nIs this short? {{{{ lines }}}}",
    "frame = short.to_pandas()\nframe['length'] = frame.lines.str.len()",
    "%%generate titles --from frame -m gpt --draws 2\nA title for: {{{{ lines }}}}",
]
"""Braces are doubled: the server's address is put in."""
CALLS = 3 + 3 + 6


@pytest.fixture
def notebook(openai_server: Any, tmp_path: Path) -> Path:
    openai_server.reply = lambda body, count: f"Yes, {body['messages'][-1]['content'][:40]}"
    cells = [nbformat.v4.new_code_cell(cell.format(base_url=openai_server.base_url)) for cell in CELLS]
    cells[1].metadata["tags"] = ["parameters"]
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, tmp_path / "work.ipynb")
    return tmp_path / "work.ipynb"


def by_command(notebook: Path) -> None:
    command = [sys.executable, "-m", "nbdream", "run", str(notebook), "--no-html"]
    done = subprocess.run(command, cwd=notebook.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def by_papermill(notebook: Path, **parameters: Any) -> Any:
    out = notebook.parent / "papermill.ipynb"
    return papermill.execute_notebook(
        str(notebook), str(out), parameters, cwd=str(notebook.parent), progress_bar=False, log_output=False, kernel_name="python3"
    )


def by_script(notebook: Path) -> None:
    """What ``jupyter nbconvert --to script`` writes of the executed notebook (it knows its language), run by ``ipython``."""
    executed = notebook.with_name("work.executed.ipynb")
    convert = [sys.executable, "-m", "nbconvert", "--to", "script", "--output", "exported", str(executed)]
    subprocess.run(convert, cwd=notebook.parent, check=True, capture_output=True, timeout=120)
    run = [sys.executable, "-m", "IPython", "--no-banner", "exported.py"]
    done = subprocess.run(run, cwd=notebook.parent, capture_output=True, text=True, timeout=120, env={**os.environ, "TERM": "dumb"})
    assert done.returncode == 0, done.stdout + done.stderr


def recipes(folder: Path) -> dict[str, str]:
    with Session(folder) as session:
        return {name: session.load(name).key for name in ("lines", "short", "titles")}


@pytest.mark.slow
def test_one_set_of_keys_for_command_papermill_and_script(notebook: Path, openai_server: Any) -> None:
    by_command(notebook)
    assert openai_server.calls == CALLS
    made = recipes(notebook.parent / "output")
    by_papermill(notebook)
    assert recipes(notebook.parent / "output") == made
    by_script(notebook)
    assert recipes(notebook.parent / "output") == made
    assert openai_server.calls == CALLS


@pytest.mark.slow
def test_a_parameter_pays_for_what_it_changes(notebook: Path, openai_server: Any) -> None:
    executed = by_papermill(notebook, count=5)
    assert openai_server.calls == 5 + 5 + 10
    shown = [output.data["text/plain"] for cell in executed.cells for output in cell.outputs if "text/plain" in output.get("data", {})]
    assert any("5 rows" in text for text in shown)
    assert not any("model_id" in str(cell.outputs) for cell in executed.cells)  # tables, not widgets without a model
    by_papermill(notebook, count=5, style="sunny")
    assert openai_server.calls == 2 * (5 + 5 + 10)
