"""Packages that are loaded only when they are used."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from nbdream.errors import MissingPackageError


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, or raise `MissingPackageError` with the line that installs it.

    ``extra`` is the extra of nbdream's own distribution that brings the package.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        raise MissingPackageError(f"{top} is not installed", f"pip install 'nbdream[{extra}]'") from None


GRAMMAR = "rfc3987_syntax"
_one_at_a_time = threading.Lock()


def jsonschema() -> Any:
    """The package ``jsonschema``, without the grammar of international addresses: that takes a second, and comes when one is checked."""
    with _one_at_a_time:  # whoever comes second must not find the grammar half replaced
        if "jsonschema" in sys.modules or GRAMMAR in sys.modules or not installed(GRAMMAR):
            return require("jsonschema", "all")
        sys.modules[GRAMMAR] = _Later(GRAMMAR)
        try:
            return require("jsonschema", "all")
        finally:
            del sys.modules[GRAMMAR]


class _Later(ModuleType):
    """Stands for a module until one of its functions is called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*given: Any) -> Any:
            return getattr(importlib.import_module(self.__name__), name)(*given)

        return call


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package: each name is imported from its home, a module, when it is first used."""

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return get, lambda: sorted({*vars(sys.modules[package]), *homes})


def installed(module: str) -> bool:
    """Whether ``module`` could be imported, without importing it."""
    return module in sys.modules or importlib.util.find_spec(module) is not None


def is_instance(value: object, module: str, name: str) -> bool:
    """Whether ``value`` is an instance of ``module.name``, without importing ``module`` to find out."""
    loaded: Any = sys.modules.get(module)
    kind = getattr(loaded, name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """The installed versions of those of ``distributions`` that are installed.

    Read from the names of the ``dist-info`` folders, which say it: `importlib.metadata` would parse the whole description of each.
    """
    wanted = {_plain(name): name for name in distributions}
    found: dict[str, str] = {}
    for folder in sys.path:
        try:
            entries = os.listdir(folder or ".")
        except OSError:
            continue
        for entry in entries:
            stem, dot, kind = entry.rpartition(".")
            name, dash, number = stem.partition("-")
            if kind in ("dist-info", "egg-info") and dot and dash and (known := wanted.get(_plain(name))) is not None:
                found.setdefault(known, number)
    return {name: found[name] for name in wanted.values() if name in found}


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")
