"""What it costs to import nbdream, beside an interpreter that imports nothing and beside IPython alone."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measure import Result, seconds

SHELL = "from IPython.core.interactiveshell import InteractiveShell; shell = InteractiveShell.instance()"
LOAD = f"{SHELL}; shell.run_line_magic('load_ext', 'nbdream')"


def _python(code: str) -> float:
    return seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True))


def run() -> list[Result]:
    """The import times, the interpreter's own start taken off."""
    bare = _python("pass")
    ipython = _python("import IPython") - bare
    return [
        Result("import nbdream", _python("import nbdream") - bare, "s", "promised", 0.3),
        Result("from nbdream import Session", _python("from nbdream import Session") - bare, "s", "import IPython", ipython),
        Result("%load_ext nbdream", _python(LOAD) - _python(SHELL), "s", most=0.3),
    ]
