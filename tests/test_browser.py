"""What a person sees in JupyterLab: the table, the line that changes, the curve that grows, the button that stops."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from nbdream.widgets.mime import TABLE
from tests.conftest import free_port

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
]
KERNEL = "window.jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel"
OUTPUTS = "[...document.querySelectorAll('.jp-OutputArea-output')]"
POINTS = (
    f"Math.max(0, ...{OUTPUTS}.flatMap(o => [...o.querySelectorAll('svg polyline')]).map(p => p.getAttribute('points').split(' ').length))"
)
TEXT = f"{OUTPUTS}.map(o => o.innerText).join('\\n')"

CELLS = [
    "%load_ext nbdream\n%dream open ./output\n%dream model slow = echo/slow delay=0.25 max_concurrency=4",
    "%%generate greetings -m slow -n 32\nHello <b>there</b>",
    "rows = [{'q': f'say {number}', 'a': f'number {number}'} for number in range(48)]",
    "%%train counter --on rows --base demo\ninput: q\noutput: a\nepochs: 2\nbatch_size: 4",
]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """A JupyterLab on loopback with a notebook; its address."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "n.ipynb")
    places = {name: str(tmp_path / "lab" / name) for name in ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    port = free_port()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=abc", f"--ServerApp.root_dir={tmp_path}",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env={**os.environ, **places}, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token=abc")
        yield f"http://127.0.0.1:{port}/lab/tree/n.ipynb?token=abc"
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(address: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "JupyterLab did not start"
            time.sleep(0.2)


def run_all(page: Any) -> None:
    """Run the notebook from the top, without waiting for it."""
    page.evaluate(
        "() => { window.done = false; window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => window.done = true) }"
    )


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_notebook_in_jupyterlab(lab: str, tmp_path: Path) -> None:
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page()
        page.set_default_timeout(240_000)
        page.goto(lab)
        page.wait_for_function(f"{KERNEL}?.connectionStatus == 'connected' && {KERNEL}?.status == 'idle'")

        run_all(page)
        page.wait_for_function(f"/\\d+ cached · \\d+ new · 0 failed/.test({TEXT})")  # live, while the cell runs
        page.wait_for_function(f"{TEXT}.includes('32 rows · slow · made ')")
        assert "cached" not in page.evaluate(TEXT)
        assert page.locator(".jp-OutputArea-output b").count() == 0  # what a model wrote is text

        page.wait_for_function(f"{POINTS} >= 2")
        page.locator(".jp-OutputArea-output button", has_text="Stop").click()
        page.wait_for_function("window.done")
        assert "Stopped" in page.evaluate(TEXT)

        run_all(page)
        page.wait_for_function(f"window.done || {POINTS} >= 10")
        assert not page.evaluate("window.done"), "ten points were not on the page before the run ended"
        page.wait_for_function("window.done")
        page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        browser.close()

    saved = [cell.outputs for cell in nbformat.read(tmp_path / "n.ipynb", as_version=4).cells]
    assert [set(output.data) for output in saved[3]] == [{"text/plain", "image/svg+xml"}]
    assert [set(output.data) for output in saved[1]] == [{"text/plain", "text/html", TABLE}]
