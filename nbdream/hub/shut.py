"""Run as a program, a kernel whose network is shut, and that of all that it starts.

Where Linux lets it, the process enters a network namespace of its own, in which no interface is up, not even loopback: no program
reaches anything, whatever it is written in. Elsewhere, and besides, a hook of the interpreter refuses every connection of Python's
sockets, here and in every Python that inherits the environment; programs that are not Python's are then not held.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

NEW_USER, NEW_NET = 0x10000000, 0x40000000
TOLD = "replay.json"
"""Where a session keeps how its network was shut."""
NAMESPACE, HOOK = "namespace", "hook"
GUARD = Path(__file__).resolve().parent / "guard"
"""The folder whose ``sitecustomize`` sets the hook in a Python that is started."""
EVENTS = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind")
NAMES = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")
LOCAL = tuple(getattr(socket, name) for name in ("AF_UNIX", "AF_NETLINK") if hasattr(socket, name))


def shut() -> str:
    """Shut the network of this process for good, before it has a second thread; how it was done."""
    how = NAMESPACE if _namespace() else HOOK
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(GUARD), os.environ.get("PYTHONPATH"))))
    sys.addaudithook(refuse)
    return how


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """The hook: ``OSError`` for a socket that would leave this machine, or reach another program on it."""
    if event in NAMES or (event in EVENTS and arguments[0].family not in LOCAL):
        raise OSError(errno.ENETUNREACH, "the network is shut: this is a replay")


def _namespace() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(NEW_NET) == 0:
        return True
    user, group = os.getuid(), os.getgid()
    if library.unshare(NEW_USER | NEW_NET) != 0:
        return False
    with contextlib.suppress(OSError):  # without the maps its user is called nobody, and owns the same files
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return True


def main() -> None:
    """Shut the network, then be the kernel that the arguments describe."""
    how = shut()
    Path(os.environ["NBDREAM_SESSION"], TOLD).write_text(json.dumps({"network": how}))
    import warnings

    from ipykernel.kernelapp import IPKernelApp

    warnings.filterwarnings("ignore", message="Couldn't bind IOPub Pipe")
    IPKernelApp.launch_instance()


if __name__ == "__main__":
    main()
