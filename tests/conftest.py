"""What every test starts from: a folder and an environment of its own, no key, no network beyond this machine."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from nbdream.session import Session

TESTS = Path(__file__).parent
ROOT = TESTS.parent
CREDENTIALS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy")
OURS = ("NBDREAM_", "JPY_", "OPENAI_", "AZURE_", "ANTHROPIC_", "HF_", "HUGGING", "TRACKIO_", "WANDB_")


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _isolate(home: Path, hub_port: int) -> None:
    """Take this process, and those it starts, away from the user's keys, folders and network.

    It happens before any test module is imported, since the clients of the Hub read these values once, at their import.
    """
    for name in list(os.environ):
        if name.upper().endswith(CREDENTIALS) or name.lower() in PROXIES or name.startswith(OURS):
            del os.environ[name]
    os.environ |= {
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_ENDPOINT": f"http://127.0.0.1:{hub_port}",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "jupyter" / "config"),
        "JUPYTER_DATA_DIR": str(home / "jupyter" / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "jupyter" / "runtime"),
        "JUPYTER_PLATFORM_DIRS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        # As many tests run side by side as there are processors: the threads of one would wait for those of another.
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Python imports the guard at the start of every process that finds it here.
        "PYTHONPATH": os.pathsep.join([str(TESTS / "guard"), str(ROOT)]),
    }
    sys.path.insert(0, str(TESTS / "guard"))
    sys.modules.pop("sitecustomize", None)
    importlib.import_module("sitecustomize")


# What a shell starts in the background ignores SIGINT, and so would all that it starts; the tests interrupt for real.
signal.signal(signal.SIGINT, signal.default_int_handler)
HOME = Path(tempfile.mkdtemp(prefix="nbdream-tests-"))
HUB_PORT = free_port()
_isolate(HOME, HUB_PORT)


# The same cases every time, and no clock: a test that fails here fails everywhere.
hypothesis.settings.register_profile("nbdream", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("nbdream")

# One JupyterLab for all tests of a process.
pytest_plugins = ("tests.browsing",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin first (with ``--no-loadscope-reorder``): no worker is left alone with one of them at the end."""

    def seconds(item: pytest.Item) -> float:
        if item.get_closest_marker("stress"):
            return 0.0
        told = item.get_closest_marker("timeout")
        if told:
            return float(told.args[0]) / 10  # it is given with that much to spare
        return 10.0 if item.get_closest_marker("slow") else 0.1

    longest: dict[Path, float] = {}
    for item in items:
        longest[item.path] = longest.get(item.path, 0.0) + seconds(item)
    items.sort(key=lambda item: -longest[item.path])


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _warm() -> Iterator[None]:
    """What holds torch is forked from one server, which has its imports done; a test of the start itself starts cold."""
    from tests.training import started_warm

    with started_warm():
        yield


@pytest.fixture
def cold() -> Iterator[None]:
    """Processes with imports of their own, as a script starts them."""
    from tests.training import started_cold

    with started_cold():
        yield


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test works in an empty folder, and leaves no session open for the next one."""
    monkeypatch.chdir(tmp_path)
    yield
    context = sys.modules.get("nbdream.context")
    while context is not None and (runner := context.active()) is not None:
        runner.stop()


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A session that is open in the test's own folder."""
    from nbdream import Session

    with Session(str(tmp_path / "output")) as opened:
        yield opened


@pytest.fixture
def openai_server() -> Iterator[Any]:
    """A server on loopback that speaks OpenAI's chat completions and counts what it is asked."""
    from tests.servers.openai_server import OpenAIServer

    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="session")
def _hub_server() -> Iterator[Any]:
    from tests.servers.hub_server import HubServer

    with HubServer(port=HUB_PORT) as server:
        yield server


@pytest.fixture
def hub(_hub_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty Hub on loopback, with a token in the environment that it accepts."""
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield _hub_server
    _hub_server.reset()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured beside what they assert (`record_property`), each a line."""
    passed = [report for report in terminalreporter.stats.get("passed", []) if report.when == "call" and report.user_properties]
    if passed:
        terminalreporter.section("measured")
        for report in passed:
            terminalreporter.line(f"{report.nodeid}: " + ", ".join(f"{what} {value}" for what, value in report.user_properties))
