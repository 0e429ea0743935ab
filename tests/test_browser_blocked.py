"""A page that is loaded anew inside a cell that blocks the kernel: it shows what works in the background, and can stop it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.browsing import NOTEBOOK, Opens, needs_chromium, needs_extension

CELLS = [
    "%load_ext nbdream\n%dream open ./output\n%dream model echo = echo/blocked delay=0.1 max_concurrency=4",
    "%%generate aside -m echo -n 4000 --background\nHello",
    "rows = [{'q': f'say {number}', 'a': f'number {number}'} for number in range(48)]",
    "%%train counter --on rows --base demo --background\ninput: q\noutput: a\nepochs: 200\nbatch_size: 4",
    "import time; until = time.monotonic() + 45\nwhile time.monotonic() < until: sum(range(1000))",
]
DONE = "Number((document.querySelector('#nbdream-panel')?.innerText.match(/([\\d,]+) of 4,000/)?.[1] ?? '0').replace(',', ''))"

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.stress, pytest.mark.timeout(300), needs_chromium, needs_extension]


def test_after_a_reload_inside_a_blocking_cell_the_panel_shows_and_stops(opens: Opens) -> None:
    lab = opens(CELLS)
    lab.command("nbdream:open")
    lab.run(0, 1, 2, 3)
    lab.wait("/step [1-9]/.test(document.querySelector('#nbdream-panel').innerText)", 90)
    lab.begin(4)
    lab.wait(f"{NOTEBOOK}.content.widgets[4].node.innerText.includes('[*]')")
    lab.command("docmanager:save")
    lab.reload()
    lab.wait(f"{DONE} > 0")
    before = lab.page.evaluate(DONE)
    lab.wait(f"{DONE} > {before}")
    aside = lab.page.locator(".nbd-Work", has_text="aside")
    lab.picture("blocked-reloaded")

    # Training is stopped from outside, at once; what the kernel itself does waits for the kernel.
    stopped = [sys.executable, "-m", "nbdream", "stop", "counter", "--session", str(lab.path.parent / "output")]
    told = subprocess.run(stopped, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    lab.wait("![...document.querySelectorAll('.nbd-Work')].some(work => work.innerText.includes('counter'))")
    assert aside.count() == 1
    aside.get_by_role("button", name="Stop").click()
    lab.wait("!document.querySelector('.nbd-Work')", 90)
    assert "stopped" in lab.show(1)
    lab.is_clean()
