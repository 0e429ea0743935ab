"""The JupyterLab extension in a real JupyterLab: panel, badges, results, stopping, reloading; what is seen is kept as pictures."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.conftest import ROOT, free_port
from tests.test_browser import ARGUMENTS, CHROMIUM, KERNEL, _wait_for, run_all

BUILT = ROOT / "nbdream" / "labextension"
PICTURES = ROOT / "test-output"
TOKEN = "abc"
ECHO = "%load_ext nbdream\n%dream open ./{folder}\n%dream model echo = echo/{folder} delay={delay} max_concurrency=4"
BLOCKS = "import time; until = time.monotonic() + 30\nwhile time.monotonic() < until: sum(range(1000))"

NOTEBOOKS = {
    "first.ipynb": [
        ECHO.format(folder="first", delay=0),
        "%%generate topics -m echo -n 40 --temperature 1.2\nName a topic of an <b>NLP</b> paper; don't explain it: just the topic.",
        "%%generate tweets --from topics -m echo --as tweet\n---\nsystem: You are careful.  # as ever\ntop_p: 1.0\n---\n{{ topics }}!",
        "longer = tweets.to_pandas()",
        "%%generate replies --from tweets -m echo\nReply: {{ tweet }}",
    ],
    "slow.ipynb": [
        ECHO.format(folder="slow", delay=0.1),
        "%%generate slow -m echo -n 2000\nHello",
        "%%generate aside -m echo -n 2000 --background\nHello again",
        BLOCKS,
    ],
    "other.ipynb": ["print('%%generate nothing')", "1 + 1"],
}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(150),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium"),
    pytest.mark.skipif(shutil.which("npm") is None and not (BUILT / "package.json").exists(), reason="the extension is not built: no Node"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the notebooks, and an installation of the extension as it is built."""
    assert (BUILT / "package.json").exists(), "the extension is not built: make setup"
    folder = tmp_path_factory.mktemp("lab")
    for name, cells in NOTEBOOKS.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, folder / name)
    (folder / ".jupyter" / "labextensions").mkdir(parents=True)
    (folder / ".jupyter" / "labextensions" / "nbdream").symlink_to(BUILT)
    settings = folder / ".jupyter" / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false"}')
    return folder


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    """A JupyterLab on loopback."""
    port = free_port()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={root}",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    places = {name: str(root / ".jupyter" / name) for name in ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    with (root / ".jupyter" / "lab.log").open("w") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **places, "JUPYTER_PATH": str(root / ".jupyter")}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token={TOKEN}")
        yield f"http://127.0.0.1:{port}/lab"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Lab:
    """A page with a notebook, and what it complained about or asked elsewhere."""

    def __init__(self, browser: Any, address: str, name: str) -> None:
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.page = browser.new_page(viewport={"width": 1000, "height": 800})
        self.page.set_default_timeout(40_000)
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self._requested(request.url))
        self.page.goto(f"{address}/workspaces/{name.partition('.')[0]}/tree/{name}?token={TOKEN}")
        self.wait(f"{KERNEL}?.connectionStatus == 'connected' && {KERNEL}?.status == 'idle'")

    def _requested(self, url: str) -> None:
        if not re.match(r"(http|ws)://127\.0\.0\.1:|data:|blob:", url):
            self.elsewhere.append(url)

    def command(self, name: str, args: dict[str, Any] | None = None) -> None:
        self.page.evaluate(f"async args => {{ await window.jupyterapp.commands.execute('{name}', args) }}", args or {})

    def wait(self, condition: str) -> None:
        try:
            self.page.wait_for_function(condition)
        except Exception:
            self.picture("lab-failed")
            raise

    def cell(self, number: int, script: str) -> Any:
        """What a script finds about ``cell``, the notebook's cell of that number."""
        return self.page.evaluate(f"() => {{ const cell = window.jupyterapp.shell.currentWidget.content.widgets[{number}]; {script} }}")

    def badges(self) -> list[str]:
        return self.page.locator(".nbd-Badge").all_inner_texts()  # type: ignore[no-any-return]

    def badge(self, number: int) -> Any:
        return self.page.locator(".jp-Cell").nth(number).locator(".nbd-Badge")

    def picture(self, name: str) -> None:
        PICTURES.mkdir(exist_ok=True)
        self.page.screenshot(path=str(PICTURES / f"{name}.png"))


def test_everything_is_there_after_run_all(chromium: Any, address: str, root: Path) -> None:
    lab = Lab(chromium, address, "first.ipynb")
    page = lab.page
    assert page.locator(".nbd-Badge").count() == 0
    run_all(page)
    lab.wait("window.done && document.querySelectorAll('.nbd-Badge[data-state=fresh]').length == 3")
    assert [text.split() for text in lab.badges()] == [["fresh", "40", "rows"]] * 3
    lab.command("nbdream:open")
    lab.command("application:toggle-left-area")
    panel = page.locator("#nbdream-panel")
    assert panel.locator(".nbd-Result .nbd-Name").all_inner_texts() == ["topics", "tweets", "replies"]
    assert panel.locator("h2").inner_text() == "first"
    table = page.locator(".jp-OutputArea-output.nbd-Table").first
    assert "<b>NLP</b>" in table.inner_text()  # what a model wrote is text
    assert page.locator(".jp-OutputArea-output b").count() == 0

    panel.locator(".nbd-Result .nbd-Name", has_text="tweets").click()
    lab.wait("window.jupyterapp.shell.currentWidget.content.activeCellIndex == 2")
    lab.picture("lab-light")
    lab.command("apputils:change-theme", {"theme": "JupyterLab Dark"})
    lab.wait("document.body.dataset.jpThemeLight == 'false' && !document.getElementById('jupyterlab-splash')")
    lab.picture("lab-dark")

    def coloured(number: int, line: int) -> dict[str, str]:
        """The text of each kind in a line of a cell."""
        return lab.cell(  # type: ignore[no-any-return]
            number,
            f"const line = cell.node.querySelectorAll('.cm-line')[{line}]; const found = {{}};"
            " for (const token of line.querySelectorAll('[class*=nbd-tok]')) { const kind = token.className.replace('nbd-tok-', '');"
            " found[kind] = (found[kind] ?? '') + token.textContent } return found",
        )

    assert coloured(2, 0) == {"magic": "%%generate", "name": "tweets", "option": "--from-m--as", "value": "topicsechotweet"}
    assert coloured(2, 2) == {"key": "system", "comment": "# as ever"}
    assert coloured(2, 3) == {"key": "top_p", "number": "1.0"}
    assert coloured(2, 5) == {"brace": "{{}}", "variable": "topics"}
    # Python's colours are off in prose: the quote of "don't" begins no string.
    assert lab.cell(1, "return new Set([...cell.node.querySelectorAll('.cm-line')[1].querySelectorAll('span')]"
                       ".map(span => getComputedStyle(span).color)).size") <= 1  # fmt: skip

    # An edit makes its cell stale and what was made from it; running stale cells runs just these.
    counts = [lab.cell(number, "return cell.model.executionCount") for number in range(5)]
    lab.cell(2, "cell.model.sharedModel.setSource(cell.model.sharedModel.getSource() + '?')")
    lab.wait("document.querySelectorAll('.nbd-Badge[data-state=stale]').length == 2")
    assert "edited, not run" in lab.badge(2).inner_text()
    assert panel.locator(".nbd-Stale .nbd-Name").all_inner_texts() == ["tweets", "replies"]
    assert panel.locator(".nbd-Stale .nbd-Reason").all_inner_texts() == ["edited, not run", "tweets was edited, not run"]
    lab.picture("lab-stale")
    panel.get_by_role("button", name="Run stale cells").click()
    lab.wait("document.querySelectorAll('.nbd-Badge[data-state=fresh]').length == 3")
    after = [lab.cell(number, "return cell.model.executionCount") for number in range(5)]
    assert [now > before for before, now in zip(counts, after, strict=True)] == [False, False, True, False, True]

    # The saved notebook holds nothing of the badges; a notebook that does not use nbdream shows nothing of it.
    lab.command("docmanager:save")
    saved = nbformat.read(root / "first.ipynb", as_version=4)
    assert {key for cell in saved.cells for key in cell.metadata} <= {"trusted", "execution"}
    lab.command("docmanager:open", {"path": "other.ipynb"})
    lab.wait(f"{KERNEL}?.status == 'idle' && window.jupyterapp.shell.currentWidget.context.path == 'other.ipynb'")
    run_all(page)
    lab.wait("window.done")
    assert lab.cell(0, "return document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .nbd-Badge').length") == 0
    assert "%load_ext nbdream" in panel.inner_text()

    assert lab.elsewhere == []
    assert lab.errors == []
    page.close()


def test_work_goes_on_over_a_reload_and_stops_from_the_panel(chromium: Any, address: str) -> None:
    lab = Lab(chromium, address, "slow.ipynb")
    page = lab.page
    lab.command("nbdream:open")
    page.evaluate("() => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = 0 }")
    lab.command("notebook:run-cell")
    page.evaluate("() => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = 1 }")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-cell') }")
    running = ".nbd-Badge[data-state=running]"
    lab.wait(f"/running [1-9]\\d* %/.test(document.querySelector('{running}')?.innerText)")
    lab.picture("lab-running")

    page.reload()
    lab.wait(f"/running [1-9]\\d* %/.test(document.querySelector('{running}')?.innerText)")
    work = page.locator(".nbd-Work", has_text="slow")
    assert "left" in work.inner_text()
    before = int(re.search(r"([\d,]+) of 2,000", work.inner_text())[1].replace(",", ""))  # type: ignore[index]
    page.wait_for_function(
        "before => Number(document.querySelector('.nbd-Work')?.innerText.match(/([\\d,]+) of/)?.[1].replace(',', '')) > before", arg=before
    )
    began = time.monotonic()
    work.get_by_role("button", name="Stop").click()
    lab.wait("document.querySelector('.nbd-Badge[data-state=stopped]')")
    took = time.monotonic() - began
    assert took < 2, took  # until the page shows it; a busy machine is slow to draw
    lab.wait(f"{KERNEL}?.status == 'idle'")

    # The page that was reloaded has missed what the cell showed: the kernel tells.
    lab.wait("document.querySelectorAll('.jp-Cell')[1].innerText.includes('Stopped: ')")
    assert lab.cell(1, "return cell.model.executionCount") == 2
    lab.picture("lab-stopped")

    # What was done is kept: the cell run again takes it from there.
    page.evaluate("() => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = 1 }")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-cell') }")
    lab.wait("/[1-9]\\d* cached/.test(document.querySelector('.nbd-Work')?.innerText)")
    lab.command("nbdream:stop")
    lab.wait("document.querySelector('.nbd-Badge[data-state=stopped]')")

    # A foreign cell blocks the kernel: background work is seen, and stopped.
    for number in (2, 3):
        page.evaluate(f"() => {{ window.jupyterapp.shell.currentWidget.content.activeCellIndex = {number} }}")
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-cell') }")
    lab.wait("document.querySelectorAll('.jp-Cell')[3].innerText.includes('[*]')")
    lab.wait("/[1-9]\\d* of 2,000/.test(document.querySelector('.nbd-Work')?.innerText)")
    began = time.monotonic()
    page.locator(".nbd-Work", has_text="aside").get_by_role("button", name="Stop").click()
    lab.wait("!document.querySelector('.nbd-Work')")
    assert time.monotonic() - began < 6
    assert lab.cell(3, "return cell.node.innerText.includes('[*]')")
    assert "stopped" in lab.badge(2).inner_text()
    lab.picture("lab-blocked")
    lab.command("notebook:interrupt-kernel")
    assert lab.elsewhere == []
    assert lab.errors == []
    page.close()
