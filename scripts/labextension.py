"""Hatchling's hook: the JupyterLab extension is built into the package when it is installed, or made into a wheel or an sdist.

It takes Node. Where that is missing, everything else is installed, without the extension. An sdist holds what is built.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILT = Path("nbdream", "labextension")
SOURCES = ("package.json", "package-lock.json", "tsconfig.json", "labextension/src", "labextension/style", "labextension/schema")
COMPONENTS = Path("nbdream", "widgets", "static")
"""What the widgets show, the extension shows too."""
INSTALLED = Path("node_modules", ".package-lock.json")


class LabExtension(BuildHookInterface):
    """Builds what is not built, or not of the present sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before files are collected."""
        root = Path(self.root)
        (root / BUILT).mkdir(exist_ok=True)
        if not is_stale(root):
            return
        if shutil.which("npm") is None:
            self.app.display_warning("Without Node (npm) there is no JupyterLab extension; everything else is there.")
            return
        try:
            build(root)
        except subprocess.CalledProcessError as error:
            if version != "editable":
                raise
            self.app.display_warning(f"The JupyterLab extension could not be built ({error}); everything else is there.")


def build(root: Path) -> None:
    """Install what the lockfile names, unless that has been done, and build."""
    lock, installed = root / "package-lock.json", root / INSTALLED
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=root, check=True)
    subprocess.run(["npm", "run", "build"], cwd=root, check=True)


def is_stale(root: Path) -> bool:
    """Whether something that the extension is built from is newer than it."""
    built = root / BUILT / "package.json"
    return not built.exists() or max(path.stat().st_mtime for path in files(root)) > built.stat().st_mtime


def files(root: Path) -> Iterator[Path]:
    """Everything that the extension is built from."""
    for place in (*SOURCES, COMPONENTS):
        path = root / place
        yield from (found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
