"""The tests stay on this machine, and the processes they start do too."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys

import pytest

ELSEWHERE = "192.0.2.1"  # an address that documentation may use, and nobody has
ATTEMPT = f"import socket; socket.create_connection(({ELSEWHERE!r}, 80), timeout=5)"


def test_no_connection_leaves() -> None:
    with pytest.raises(OSError, match="stay on this machine"):
        socket.create_connection((ELSEWHERE, 80), timeout=5)
    with pytest.raises(OSError, match="stay on this machine"):
        socket.getaddrinfo("example.org", 443)
    with pytest.raises(OSError, match="stay on this machine"):
        asyncio.run(asyncio.open_connection(ELSEWHERE, 80))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, pytest.raises(OSError, match="stay on this machine"):
        datagrams.sendto(b"x", (ELSEWHERE, 53))


def test_no_connection_leaves_a_child() -> None:
    done = subprocess.run([sys.executable, "-c", ATTEMPT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "stay on this machine" in done.stderr


def test_loopback_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=5) as client:
        assert client.getpeername() == server.getsockname()


def test_no_key_is_known() -> None:
    assert [name for name in os.environ if name.endswith(("_KEY", "_TOKEN", "_SECRET", "_PASSWORD"))] == []
