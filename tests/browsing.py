"""A JupyterLab with a real Chromium in front of it: what the tests of the page share.

One JupyterLab serves all tests of a process, each in a folder of its own; a `Lab` is a page of it with one notebook.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "nbdream" / "labextension"
PICTURES = ROOT / "test-output"
TOKEN = "abc"
PATIENCE = 40.0
"""Seconds that a page is waited for, unless told otherwise."""
CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
]
THEIRS = "Canceled future for "
"""What JupyterLab itself complains of where a kernel is restarted while it works."""
WIDE = {"width": 1000, "height": 800}

NOTEBOOK = "window.jupyterapp?.shell.currentWidget"
KERNEL = f"{NOTEBOOK}?.context?.sessionContext?.session?.kernel"
IDLE = f"{KERNEL}?.connectionStatus == 'connected' && {KERNEL}?.status == 'idle'"
OUTPUTS = "[...document.querySelectorAll('.jp-OutputArea-output')]"
TEXT = f"{OUTPUTS}.map(output => output.innerText).join('\\n')"
POINTS = (
    f"Math.max(0, ...{OUTPUTS}.flatMap(o => [...o.querySelectorAll('svg polyline')]).map(p => p.getAttribute('points').split(' ').length))"
)
"""How many points the longest curve on the page has."""

# A command's promise is kept on the page, not awaited by the test: a dialog that nobody answers would hang it without a word.
COMMAND = """([name, args]) => {
  const at = (window.commands ??= []).push({ name }) - 1;
  const began = performance.now();
  const end = (how) => { window.commands[at] = { name, how, at: performance.now(), took: (performance.now() - began) / 1000 }; };
  window.jupyterapp.commands.execute(name, args).then(() => end('done'), (error) => end(String(error)));
  return at;
}"""
SHOWN = """() => ({
  dialogs: [...document.querySelectorAll('.jp-Dialog')].map(dialog => dialog.innerText.replace(/\\s+/g, ' ')),
  kernel: window.jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel?.status ?? 'none',
  cells: [...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell')].map(cell =>
    `${cell.querySelector('.jp-InputPrompt')?.innerText ?? ''} ${cell.querySelector('.jp-OutputArea')?.innerText.slice(-300) ?? ''}`.trim()
    + (cell.querySelector('.nbd-Badge') ? ` <${cell.querySelector('.nbd-Badge').innerText.replace(/\\s+/g, ' ')}>` : '')),
  panel: document.querySelector('#nbdream-panel')?.innerText.slice(0, 600) ?? '',
  commands: (window.commands ?? []).filter(command => command.how !== 'done'),
})"""

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
needs_extension = pytest.mark.skipif(not (BUILT / "package.json").exists(), reason="the extension is not built: make setup")


@dataclass(frozen=True)
class Server:
    """A JupyterLab on loopback."""

    port: int
    root: Path

    def ask(self, path: str, method: str = "GET") -> Any:
        """What its REST interface answers."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/{path}?token={TOKEN}", method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def shut_down(self, folder: str) -> None:
        """End the kernels of the notebooks in a folder."""
        for session in self.ask("sessions"):
            if session["path"].startswith(f"{folder}/"):
                with contextlib.suppress(OSError):  # a page may have ended it just now
                    self.ask(f"sessions/{session['id']}", "DELETE")


@contextlib.contextmanager
def serving(root: Path, extension: Path | None) -> Iterator[Server]:
    """A JupyterLab whose files are in ``root``, with the extension that is built at some place, or without one."""
    from tests.conftest import free_port

    places = {name: str(root / ".jupyter" / name) for name in ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    installed = root / ".jupyter" / "labextensions"
    installed.mkdir(parents=True)
    if extension is not None:
        (installed / "nbdream").symlink_to(extension)
    config = root / ".jupyter" / "config" / "labconfig"
    config.mkdir(parents=True)
    (config / "page_config.json").write_text(json.dumps({"disabledExtensions": {} if extension else {"nbdream": True}}))
    news = Path(places["JUPYTERLAB_SETTINGS_DIR"], "@jupyterlab", "apputils-extension", "notification.jupyterlab-settings")
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false"}')
    port = free_port()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={root}",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    places |= {"JUPYTER_PATH": str(root / ".jupyter"), "JUPYTER_CONFIG_DIR": str(config.parent)}
    with (root / ".jupyter" / "lab.log").open("w") as log:
        process = subprocess.Popen(command, env={**os.environ, **places}, stdout=log, stderr=subprocess.STDOUT)
    server = Server(port, root)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                server.ask("status")
                break
            except OSError:
                assert process.poll() is None, (root / ".jupyter" / "lab.log").read_text()[-2000:]
                assert time.monotonic() < deadline, "JupyterLab did not start"
                time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A JupyterLab with the extension."""
    with serving(tmp_path_factory.mktemp("lab"), BUILT) as server:
        yield server


@pytest.fixture(scope="session")
def plain_jupyterlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A JupyterLab without the extension."""
    with serving(tmp_path_factory.mktemp("plain"), None) as server:
        yield server


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A window of Chromium: its pages share what they have loaded."""
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser.new_context(viewport=WIDE)
        browser.close()


@pytest.fixture
def opens(chromium: Any, jupyterlab: Server, request: pytest.FixtureRequest) -> Iterator[Opens]:
    """Opens a notebook in a page."""
    yield from _opening(chromium, jupyterlab, request.node.name)


@pytest.fixture
def opens_plain(chromium: Any, plain_jupyterlab: Server, request: pytest.FixtureRequest) -> Iterator[Opens]:
    """Opens a notebook in a page of a JupyterLab that has no extension of ours."""
    yield from _opening(chromium, plain_jupyterlab, request.node.name)


Opens = Callable[[Sequence[str] | Path], "Lab"]


def _opening(chromium: Any, server: Server, test: str) -> Iterator[Opens]:
    folder = re.sub(r"\W+", "-", test.removeprefix("test_"))
    opened: list[Lab] = []

    def opens(cells: Sequence[str] | Path) -> Lab:
        path = server.root / folder / (cells.name if isinstance(cells, Path) else "n.ipynb")
        if cells != path:
            write(path, cells)
        opened.append(Lab(chromium, server, path))
        return opened[-1]

    yield opens
    for lab in opened:
        lab.page.close()
    server.shut_down(folder)


def write(path: Path, cells: Sequence[str] | Path) -> None:
    """Write a notebook: of sources, or a copy of another."""
    import nbformat

    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(cells, Path):
        shutil.copy(cells, path)
        return
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


class Lab:
    """A page with a notebook, and what it complained about or asked elsewhere."""

    def __init__(self, browser: Any, server: Server, path: Path) -> None:
        self.server, self.path = server, path
        self.name = f"{path.parent.name}-{path.stem}"
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.page = browser.new_page()
        self.page.set_default_timeout(1000 * PATIENCE)
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self._requested(request.url))
        self.open()

    def open(self) -> None:
        """Open the notebook, as it is saved, with its kernel."""
        place = f"lab/workspaces/{self.name}/tree/{self.path.relative_to(self.server.root)}"
        self.page.goto(f"http://127.0.0.1:{self.server.port}/{place}?token={TOKEN}")
        self.wait(IDLE)

    def _requested(self, url: str) -> None:
        if not re.match(r"(http|ws)://127\.0\.0\.1:|data:|blob:", url):
            self.elsewhere.append(url)

    # --- what is done -------------------------------------------------------------------------------------------------

    def start(self, name: str, args: dict[str, Any] | None = None) -> int:
        """Begin a command, and do not wait for it; its number."""
        at: int = self.page.evaluate(COMMAND, [name, args or {}])
        return at

    def end(self, command: int, patience: float = PATIENCE) -> float:
        """Wait for a command that was begun; the seconds that it took."""
        self.wait(f"window.commands[{command}].how", patience)
        found = self.page.evaluate(f"window.commands[{command}]")
        assert found["how"] == "done", found
        return float(found["took"])

    def command(self, name: str, args: dict[str, Any] | None = None) -> float:
        """Do a command to its end; the seconds that it took."""
        return self.end(self.start(name, args))

    def run(self, *numbers: int, patience: float = PATIENCE) -> None:
        """Run cells, each to its end."""
        for number in numbers:
            self.end(self.begin(number), patience)

    def begin(self, number: int) -> int:
        """Run a cell without waiting for it."""
        self.page.evaluate(
            f"number => {{ const notebook = {NOTEBOOK}.content; notebook.activeCellIndex = number; notebook.deselectAll() }}", number
        )
        return self.start("notebook:run-cell")

    def press(self, button: Any) -> None:
        """Press a button, and note when."""
        self.page.evaluate(
            "() => window.addEventListener('click', () => { window.pressed = performance.now() }, { capture: true, once: true })"
        )
        button.click()

    def interrupt(self) -> None:
        """Interrupt the kernel, and note when."""
        self.page.evaluate("() => { window.pressed = performance.now() }")
        self.start("notebook:interrupt-kernel")

    def ended(self, command: int, patience: float = PATIENCE) -> float:
        """Wait until a cell that was begun is over; the seconds since something was pressed, by the page's clock."""
        self.wait(f"window.commands[{command}].how", patience)
        return float(self.page.evaluate(f"(window.commands[{command}].at - window.pressed) / 1000"))

    def reload(self) -> None:
        """Load the page anew; whether a cell runs or not, the notebook is there afterwards."""
        self.page.reload()
        self.wait(f"{NOTEBOOK}?.content?.widgets?.length && {KERNEL}?.connectionStatus == 'connected'")

    def restart(self) -> None:
        """Restart the kernel, as its menu does, without the dialog."""
        self.page.evaluate(f"() => {{ window.restarted = false; {KERNEL}.restart().then(() => window.restarted = true) }}")
        self.wait(f"window.restarted && {IDLE}")

    def save(self) -> list[Any]:
        """Save; the cells as they lie in the file."""
        self.command("docmanager:save")
        return self.saved()

    def saved(self) -> list[Any]:
        """The cells as they lie in the file."""
        import nbformat

        while not (text := self.path.read_text()).rstrip().endswith("}"):
            self.page.wait_for_timeout(20)  # it is being written
        cells: list[Any] = nbformat.reads(text, as_version=4).cells
        return cells

    # --- what is seen -------------------------------------------------------------------------------------------------

    def wait(self, condition: str, patience: float = PATIENCE) -> None:
        """Wait until a script's value is true; where it stays false, say what the page shows."""
        sync = pytest.importorskip("playwright.sync_api")
        try:
            self.page.wait_for_function(condition, timeout=1000 * patience)
        except sync.TimeoutError:
            self.picture(f"failed-{self.name}")
            shown = json.dumps(self.shown(), indent=1, ensure_ascii=False)
            pytest.fail(f"not within {patience:.0f} s: {condition}\nThe page shows {shown}\nIt complained of {self.errors}")

    def shown(self) -> dict[str, Any]:
        """What is on the page, in short: its dialogs before all."""
        found: dict[str, Any] = self.page.evaluate(SHOWN)
        return found

    def show(self, number: int, words: str = "", patience: float = PATIENCE) -> str:
        """Bring a cell into view, which the page may not have drawn before, and wait for some of its words; all of them."""
        self.page.evaluate(f"number => {NOTEBOOK}.content.scrollToCell({NOTEBOOK}.content.widgets[number], 'start')", number)
        self.wait(f"{NOTEBOOK}.content.widgets[{number}].node.innerText.includes({json.dumps(words)})", patience)
        seen: str = self.cell(number, "return cell.node.innerText")
        return seen

    def text(self, number: int | None = None) -> str:
        """The text of a cell's outputs, or of all."""
        cells = self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell")
        found = cells if number is None else cells.nth(number)
        return "\n".join(found.locator(".jp-OutputArea-output").all_inner_texts())

    def cell(self, number: int, script: str) -> Any:
        """What a script finds about ``cell``, the notebook's cell of that number."""
        return self.page.evaluate(f"() => {{ const cell = {NOTEBOOK}.content.widgets[{number}]; {script} }}")

    def badges(self) -> list[str]:
        """The texts of all badges."""
        found: list[str] = self.page.locator(".nbd-Badge").all_inner_texts()
        return found

    def badge(self, number: int) -> Any:
        """The badge of a cell."""
        return self.page.locator(".jp-Cell").nth(number).locator(".nbd-Badge")

    def dark(self) -> None:
        """Change to the dark theme."""
        self.command("apputils:change-theme", {"theme": "JupyterLab Dark"})
        self.wait("document.body.dataset.jpThemeLight == 'false' && !document.getElementById('jupyterlab-splash')")

    def picture(self, name: str) -> None:
        """Keep what is seen."""
        PICTURES.mkdir(exist_ok=True)
        self.page.screenshot(path=str(PICTURES / f"{name}.png"))

    def is_clean(self) -> None:
        """Fail if the page asked something elsewhere, or complained."""
        assert self.elsewhere == []
        assert [error for error in self.errors if THEIRS not in error] == []
