"""Run the measurements that are named, or all but the long ones: ``python -m benchmarks [NAME …]``.

A run of all of them, or of the long ones, is kept under ``benchmarks/results/`` with the date and what it ran on.
"""

from __future__ import annotations

import datetime
import importlib
import os
import platform
import sqlite3
import sys
from pathlib import Path

from benchmarks.measure import markdown, rows, table
from nbdream.optional import versions

LONG = ("stress",)
HERE = Path(__file__).parent


def main() -> None:
    """Print one table a measurement."""
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    named = sys.argv[1:]
    parts = []
    for name in named or [name for name in known if name not in LONG]:
        if name not in known:
            raise SystemExit(f"there is no measurement {name!r}; there are: {', '.join(known)}")
        module = importlib.import_module(f"benchmarks.bench_{name}")
        cells = rows(module.run())
        print(f"\n{name}\n{table(cells)}", flush=True)
        parts.append(f"## {name}\n\n{str(module.__doc__).strip()}\n\n{markdown(cells)}\n")
    if not named or set(named) & set(LONG):
        keep("-".join(named), parts)


def keep(name: str, parts: list[str]) -> None:
    """Write what was measured into a dated file."""
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    packages = ", ".join(f"{package} {number}" for package, number in versions(("aiohttp", "openai", "pyarrow")).items())
    ran_on = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {packages}"
    path = HERE / "results" / f"{day}{f'-{name}' if name else ''}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"# {day}\n\n{ran_on}. Ratios were measured side by side in one run.\n\n" + "\n".join(parts))
    print(f"\nwritten to {path.relative_to(HERE.parent)}")


main()
