"""Shells and kernels for tests: a quick shell without a kernel, and real kernels that run cells as a front end does."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

TESTS = Path(__file__).parent


class Shell:
    """IPython without a kernel: what a terminal has. Errors of cells are raised."""

    def __init__(self) -> None:
        from IPython.core.interactiveshell import InteractiveShell

        InteractiveShell.clear_instance()
        self.ip = InteractiveShell.instance()
        self.ip.run_line_magic("load_ext", "nbdream")

    def run(self, source: str) -> Any:
        """Run a cell; its value, or its error raised."""
        result = self.ip.run_cell(source)
        result.raise_error()
        return result.result

    def __getitem__(self, name: str) -> Any:
        return self.ip.user_ns[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.ip.user_ns[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self.ip.user_ns

    def close(self) -> None:
        """Take the shell down."""
        from IPython.core.interactiveshell import InteractiveShell

        self.ip.run_line_magic("unload_ext", "nbdream")
        with contextlib.suppress(AttributeError):
            self.ip.history_manager.end_session()
        InteractiveShell.clear_instance()


@dataclass
class CellResult:
    """What a cell put on the page, as the messages came."""

    status: str = "ok"
    error: str = ""
    traceback: list[str] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """What stays on the page: after the last clear_output, without what was only updated."""
        kept: list[dict[str, Any]] = []
        for message in self.messages:
            if message["msg_type"] == "clear_output":
                kept.clear()
            elif message["msg_type"] in ("display_data", "execute_result", "stream", "error"):
                kept.append(message)
        return kept

    @property
    def text(self) -> str:
        """The text of what stays."""
        parts = []
        for message in self.outputs:
            content = message["content"]
            parts.append(content.get("text") or content.get("data", {}).get("text/plain") or "")
        return "\n".join(parts)

    @property
    def live(self) -> list[str]:
        """The text of every display and update of one, in order."""
        kinds = ("display_data", "update_display_data")
        return [str(m["content"]["data"].get("text/plain", "")) for m in self.messages if m["msg_type"] in kinds]


class Kernel:
    """A real kernel, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
        from jupyter_client.manager import KernelManager

        class ThisPython(KernelSpecManager):
            def get_kernel_spec(self, kernel_name: str) -> Any:
                return KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], language="python")

        self.manager = KernelManager(kernel_name="python3", kernel_spec_manager=ThisPython())
        self.manager.start_kernel(cwd=str(folder), env={**os.environ, "JPY_SESSION_NAME": str(folder / "notebook.ipynb")})
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def start(self, source: str, cell_id: str | None = None) -> str:
        """Send a cell; returns its message id."""
        message = self.client.session.msg(
            "execute_request", {"code": source, "silent": False, "store_history": True, "stop_on_error": True}
        )
        if cell_id is not None:
            message["metadata"]["cellId"] = cell_id
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def finish(self, message_id: str, timeout: float = 60) -> CellResult:
        """Everything that a cell sends until it is idle."""
        result = CellResult()
        began = time.monotonic()
        for message in self.messages(message_id, timeout):
            result.messages.append(message)
            if message["msg_type"] == "error":
                result.status = "error"
                result.error = f"{message['content']['ename']}: {message['content']['evalue']}"
                result.traceback = message["content"]["traceback"]
        result.seconds = time.monotonic() - began
        return result

    def messages(self, message_id: str, timeout: float = 60) -> Iterator[dict[str, Any]]:
        """The messages of a cell as they come, until it is idle."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=max(0.01, deadline - time.monotonic()))
            except Empty:
                raise TimeoutError(f"the cell was not idle after {timeout} s") from None
            if message.get("parent_header", {}).get("msg_id") != message_id:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return
            yield message

    def run(self, source: str, cell_id: str | None = None, timeout: float = 60) -> CellResult:
        """Run a cell to its end."""
        return self.finish(self.start(source, cell_id), timeout)

    def close(self) -> None:
        """End the kernel."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@contextlib.contextmanager
def kernel_in(folder: Path) -> Iterator[Kernel]:
    """A kernel that is gone afterwards."""
    kernel = Kernel(folder)
    try:
        yield kernel
    finally:
        kernel.close()
