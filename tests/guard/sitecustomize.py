"""Keeps a Python process on this machine: Python imports this module at its start when its folder is on PYTHONPATH.

A connection to any other machine fails at once with an ordinary ``OSError``, as it would with the cable pulled.
"""

from __future__ import annotations

import errno
import ipaddress
import socket

_real = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex", "sendto")}
_getaddrinfo = socket.getaddrinfo


def is_local(host: object) -> bool:
    """Whether ``host``, as given to a socket, is this machine."""
    if host is None:
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    if text in ("", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text == socket.gethostname()
    return address.is_loopback or address.is_unspecified


def _check(sock: socket.socket, address: object) -> None:
    if sock.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple) and not is_local(address[0]):
        raise OSError(errno.ENETUNREACH, f"the tests stay on this machine: {address[0]} is not reached")


def _connect(self, address):
    _check(self, address)
    return _real["connect"](self, address)


def _connect_ex(self, address):
    try:
        _check(self, address)
    except OSError as error:
        return error.errno
    return _real["connect_ex"](self, address)


def _sendto(self, data, *rest):
    _check(self, rest[-1])
    return _real["sendto"](self, data, *rest)


def _local_getaddrinfo(host, *args, **kwargs):
    if not is_local(host):
        raise socket.gaierror(socket.EAI_NONAME, f"the tests stay on this machine: {host} is not looked up")
    return _getaddrinfo(host, *args, **kwargs)


def keep_local() -> None:
    """Refuse every connection that leaves this machine."""
    socket.socket.connect = _connect
    socket.socket.connect_ex = _connect_ex
    socket.socket.sendto = _sendto
    socket.getaddrinfo = _local_getaddrinfo


keep_local()
