"""Running a notebook without a front end: a line per cell, the executed notebook and a page of it as HTML."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbdream.cli.live import LiveLine
from nbdream.errors import DataError
from nbdream.files import write_atomic
from nbdream.optional import require
from nbdream.widgets.status import seconds

if TYPE_CHECKING:
    from nbclient import NotebookClient


@dataclass(slots=True)
class CellRun:
    """How one cell went."""

    number: int
    title: str
    state: str = "running"
    seconds: float = 0.0
    says: str = ""


@dataclass(slots=True)
class NotebookRun:
    """How a notebook went, and where it lies."""

    notebook: Path
    html: Path | None
    cells: list[CellRun] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every cell ran."""
        return all(cell.state == "done" for cell in self.cells)


def run_notebook(
    source: Path, folder: Path, *, say: Callable[[str], None], html: bool = True, replay: Mapping[str, str] | None = None
) -> NotebookRun:
    """Run ``source`` in a fresh kernel of this Python, in the notebook's own folder, and write the results into ``folder``.

    A failed cell ends the run; what ran before it is written all the same. Interrupted, the kernel is interrupted first,
    so that what it was doing ends cleanly. ``replay`` is the environment of a kernel whose network is shut, where a failed cell ends
    nothing.
    """
    nbformat = require("nbformat", "lab")
    try:
        notebook = nbformat.read(source, as_version=4)
    except FileNotFoundError:
        raise DataError(f"there is no notebook {source}", "give the path of an .ipynb file") from None
    except Exception as error:
        raise DataError(f"{source} is not a notebook: {str(error)[:200]}", "give the path of an .ipynb file") from None
    folder.mkdir(parents=True, exist_ok=True)
    run = NotebookRun(folder / f"{source.stem}.executed.ipynb", folder / f"{source.stem}.html" if html else None)
    try:
        _execute(notebook, source.resolve(), run, say, replay)
    finally:
        write_atomic(run.notebook, nbformat.writes(notebook) + "\n")
        if run.html is not None:
            write_atomic(run.html, _page(notebook, source.stem))
    return run


def _execute(notebook: Any, source: Path, run: NotebookRun, say: Callable[[str], None], replay: Mapping[str, str] | None) -> None:
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    live = LiveLine(say)
    sockets = None if replay is None else tempfile.TemporaryDirectory(prefix="nbd-")
    client = _client(notebook, source, None if sockets is None else sockets.name)
    began = 0.0

    def starts(cell: Any, cell_index: int) -> None:
        nonlocal began
        began = time.monotonic()
        run.cells.append(CellRun(len(run.cells) + 1, title(cell.source)))
        live.begin(f"[{len(run.cells):>2}/{len(code)}]")
        # The kernel learns which cell this is as it does from JupyterLab; nbclient itself does not say.
        client.kc.session.metadata = {"cellId": cell.get("id", "")}

    def ends(cell: Any, cell_index: int, **_: Any) -> None:
        last = run.cells[-1]
        if last.state == "running":
            last.state, last.seconds, last.says = "done", time.monotonic() - began, said(cell)
            live.say(line(last, len(code)))

    def fails(cell: Any, cell_index: int, execute_reply: Any) -> None:
        content = execute_reply["content"]
        last = run.cells[-1]
        last.state, last.seconds, last.says = "failed", time.monotonic() - began, f"{content.get('ename')}: {content.get('evalue')}"
        live.say(line(last, len(code)))

    process = client.process_message

    def hears(message: dict[str, Any], *place: Any) -> Any:
        live.hear(message)
        return process(message, *place)

    client.process_message = hears
    client.on_cell_execute, client.on_cell_executed, client.on_cell_error = _if_code(starts), ends, fails
    try:
        told = {**os.environ, "NBDREAM_NOTEBOOK": str(source)} if replay is None else replay
        client.execute(env={**told, "PYTHONPATH": _python_path()})
    except CellExecutionError:
        pass  # the cell's line has said it, and its output holds it
    except DeadKernelError:
        run.cells[-1].state, run.cells[-1].says = "failed", "the kernel died"
        live.say(line(run.cells[-1], len(code)))
    except KeyboardInterrupt:
        run.cells[-1].state, run.cells[-1].says = "failed", "interrupted"
        raise
    finally:
        live.clear()
        if sockets is not None:
            sockets.cleanup()


def _if_code(hook: Callable[[Any, int], None]) -> Callable[..., None]:
    def called(cell: Any, cell_index: int) -> None:
        if cell.cell_type == "code" and cell.source.strip():
            hook(cell, cell_index)

    return called


SHUT = Path(__file__).resolve().parents[1] / "hub" / "shut.py"
"""Started as a file: before the network is shut, nothing may be imported that starts threads."""
START = "import sys; del sys.path[0], sys.argv[0]; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"


def _client(notebook: Any, source: Path, sockets: str | None) -> NotebookClient:
    """The client of a kernel; ``sockets`` is the folder through which it speaks to one whose network is shut."""
    require("nbclient", "lab")
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    class ThisPython(KernelSpecManager):
        """Whatever kernel the notebook names, it runs in the Python that runs this command."""

        def get_kernel_spec(self, kernel_name: str) -> Any:
            kernel = ["-m", "ipykernel_launcher"] if sockets is None else ["-c", START, str(SHUT)]
            argv = [sys.executable, *kernel, "-f", "{connection_file}", "--log-level=40"]
            return KernelSpec(argv=argv, display_name="Python 3", language="python")

    class Manager(AsyncKernelManager):
        def __init__(self, **options: Any) -> None:
            # A kernel that is asked to end waits for what runs in the background; killing it would lose that.
            super().__init__(kernel_spec_manager=ThisPython(), shutdown_wait_time=WEEK, **options)
            if sockets is not None:
                self.transport, self.ip = "ipc", os.path.join(sockets, "kernel")

    return NotebookClient(
        notebook,
        kernel_manager_class=Manager,
        kernel_name="python3",
        timeout=None,
        allow_errors=sockets is not None,
        resources={"metadata": {"path": str(source.parent)}},
        store_widget_state=False,
        record_timing=False,
    )


WEEK = 7 * 24 * 3600.0


def _python_path() -> str:
    """The kernel finds the nbdream that runs this command, installed or not."""
    root = str(Path(__file__).resolve().parents[2])
    given = os.environ.get("PYTHONPATH", "")
    return given if root in given.split(os.pathsep) or "site-packages" in root else os.pathsep.join(filter(None, (given, root)))


def title(source: str, longest: int = 60) -> str:
    """The first line of a cell that is not a comment."""
    lines = [text.strip() for text in source.splitlines() if text.strip()]
    first = next((text for text in lines if not text.startswith("#")), lines[0] if lines else "")
    return first if len(first) <= longest else first[: longest - 1] + "…"


def said(cell: Any) -> str:
    """The last line of what a cell shows."""
    for output in reversed(cell.get("outputs") or []):
        text = "".join(output.get("text") or (output.get("data") or {}).get("text/plain") or "")
        lines = [part.strip() for part in text.splitlines() if part.strip()]
        if lines and not text.startswith("{"):  # a card's last line says nothing
            lines[-1] = re.sub(r"^first [\d,]+ of ", "", lines[-1])
            return lines[-1] if len(lines[-1]) <= 120 else lines[-1][:119] + "…"
    return ""


def line(cell: CellRun, count: int) -> str:
    """A cell's progress line."""
    mark = {"done": "✓", "failed": "✗"}.get(cell.state, " ")
    says = f"  {cell.says}" if cell.says else ""
    return f"{mark} [{cell.number:>2}/{count}] {cell.title:60} {seconds(cell.seconds):>10}{says}"


def _page(notebook: Any, name: str) -> str:
    exporter = require("nbconvert", "lab").HTMLExporter(template_name="lab", embed_images=True)
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": name}})
    return str(page)
