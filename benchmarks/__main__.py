"""Run the measurements that are named, or all but the long ones: ``python -m benchmarks [NAME …]``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from benchmarks.measure import table

LONG = ("stress",)


def main() -> None:
    """Print one table a measurement."""
    known = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
    for name in sys.argv[1:] or [name for name in known if name not in LONG]:
        if name not in known:
            raise SystemExit(f"there is no measurement {name!r}; there are: {', '.join(known)}")
        print(f"\n{name}")
        print(table(importlib.import_module(f"benchmarks.bench_{name}").run()), flush=True)


main()
