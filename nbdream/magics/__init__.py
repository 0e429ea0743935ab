"""The magics: `%load_ext nbdream` comes here. Loading prints nothing and imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Put nbdream's magics into ``shell``; loading twice is loading once."""
    from nbdream.magics.extension import Extension

    unload_ipython_extension(shell)
    extension = Extension(shell)
    extension.load()
    setattr(shell, ATTRIBUTE, extension)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take nbdream's magics out of ``shell``; harmless when they are not there."""
    extension: Any = getattr(shell, ATTRIBUTE, None)
    if extension is not None:
        extension.unload()
        delattr(shell, ATTRIBUTE)


ATTRIBUTE = "nbdream"
"""The shell's attribute under which cells reach what was loaded."""
