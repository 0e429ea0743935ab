"""What the work ran on: processor, cores, memory and GPUs, as the operating system tells it without a library."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

GPUS = Path("/proc/driver/nvidia/gpus")
GIB = 2**30


@functools.cache
def machine() -> dict[str, Any]:
    """``processor``, ``cores`` (that this process may use), ``memory`` (GiB) and ``gpus`` (names); what is not known is left out."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count()
    told = {"processor": _processor(), "cores": cores, "memory": _memory(), "gpus": _gpus()}
    return {name: value for name, value in told.items() if value}


def _processor() -> str:
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=2).stdout.strip()
    found = re.search(r"^model name\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _memory() -> float:
    with contextlib.suppress(OSError, ValueError):
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1)
    return 0.0


def _gpus() -> list[str]:
    found = [re.search(r"^Model:\s*(.+)$", _read(path), re.MULTILINE) for path in sorted(GPUS.glob("*/information"))]
    return [match[1].strip() for match in found if match]


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
