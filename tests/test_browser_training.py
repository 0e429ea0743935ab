"""A training run on the page: over a reload, a restart of the kernel, Stop and Interrupt, the curve goes on and is whole in the end."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from nbdream.widgets.live import LIVE
from nbdream.widgets.meter import OVER
from nbdream.workers import runs
from nbdream.workers.paths import RunPaths
from tests.browsing import IDLE, NOTEBOOK, POINTS, TEXT, Lab, Opens, needs_chromium, needs_extension

SETUP = "%load_ext nbdream\n%dream open ./output\nrows = [{'q': f'say {number}', 'a': f'number {number}'} for number in range(48)]"
TRAIN = "%%train counter --on rows --base demo\ninput: q\noutput: a\nepochs: {}\nbatch_size: 4"
EPOCH = 12
"""Steps."""
STEP = f"Number(({TEXT}.match(/step ([\\d,]+) of/)?.[1] ?? '0').replace(',', ''))"
STILL = f"{NOTEBOOK}.content.widgets[1].model.outputs.get(0)?.data['text/html']"
"""What is saved of the run's output."""
PANEL = "Number((document.querySelector('.nbd-Work')?.innerText.match(/step ([\\d,]+) of/)?.[1] ?? '0').replace(',', ''))"

pytestmark = [
    pytest.mark.browser, pytest.mark.slow, pytest.mark.stress, pytest.mark.timeout(600), needs_chromium, needs_extension,
]  # fmt: skip


def run_of(lab: Lab) -> RunPaths:
    (path,) = lab.path.parent.glob("output/objects/*/events.jsonl")
    return RunPaths(path.parent)


def told(lab: Lab, kind: str) -> list[dict[str, Any]]:
    """What the run said of itself, of one kind."""
    return [event for event in runs.events(run_of(lab)) if event["type"] == kind]


def last_step(lab: Lab) -> int:
    return max(int(event["step"]) for event in told(lab, "log"))


def checkpoint(lab: Lab) -> int:
    """The step at which the run saved itself, when it has ended."""
    deadline = time.monotonic() + 30
    while runs.alive(run_of(lab)):
        assert time.monotonic() < deadline, "it was asked to stop, and goes on"
        time.sleep(0.05)
    step = int(told(lab, "save")[-1]["step"])
    assert (run_of(lab).checkpoints / f"checkpoint-{step}").is_dir()
    return step


def is_whole(lab: Lab, steps: int) -> None:
    """Every step was told of, but those at which it stopped, and the cell holds the whole curve and nothing that lives."""
    seen = {event["step"] for event in told(lab, "log") if "loss" in event} | {event["step"] for event in told(lab, "stopping")}
    assert sorted(seen) == list(range(1, steps + 1))
    cell = lab.save()[1]
    (shown,) = cell.outputs
    assert not [kind for kind in shown.data if "widget" in kind]
    assert f"{steps:,} steps" in shown.data["text/plain"], shown.data["text/plain"]
    lab.wait("document.querySelectorAll('.jp-Cell')[1].querySelector('.jp-OutputArea-output svg, .jp-OutputArea-output img')")
    longest = max(len(points.split()) for points in re.findall(r'points="([^"]+)"', shown.data["image/svg+xml"]))
    assert longest >= 100
    assert len(json.dumps(cell)) < 60_000


def test_it_goes_on_over_a_reload_and_a_restart_of_the_kernel(opens: Opens) -> None:
    steps = 40 * EPOCH
    lab = opens([SETUP, TRAIN.format(40)])
    lab.command("nbdream:open")
    lab.run(0)
    lab.begin(1)
    lab.wait(f"{POINTS} >= 4")
    lab.reload()
    lab.wait(f"{POINTS} >= 8 && {PANEL} >= 8")
    lab.picture("training-reloaded")
    before = lab.page.evaluate(STEP)
    lab.wait(f"{STEP} > {before}")

    lab.restart()
    begun = last_step(lab)
    assert begun < steps, "it ended too early for this test"
    lab.run(0)
    running = lab.begin(1)
    lab.wait(f"{STEP} >= {begun}")
    assert lab.page.evaluate(POINTS) >= min(begun, 100), "the whole curve is there at once"
    assert not lab.page.evaluate(f"window.commands[{running}].how")
    lab.picture("training-restarted")
    lab.end(running, 300)
    assert len(told(lab, "begin")) == 1, "it was attached to, not begun again"
    is_whole(lab, steps)
    lab.picture("training-over")
    lab.is_clean()


def test_without_the_extension_a_page_that_was_reloaded_shows_the_curve_to_its_end(opens_plain: Opens) -> None:
    steps = 48 * EPOCH
    lab = opens_plain([f"{SETUP}\nfrom nbdream.widgets import progress\nprogress.ANEW = 0.5", TRAIN.format(48)])
    lab.run(0)
    lab.begin(1)
    lab.wait(f"{POINTS} >= 4 && {STILL}.includes('<polyline ')")
    lab.command("docmanager:save")
    lab.reload()
    lab.wait(f"{STEP} >= 4")
    assert last_step(lab) < steps, "it ended too early for this test"
    lab.page.locator(".jp-OutputArea-output button", has_text="Stop").wait_for()
    lab.wait(f"{TEXT}.includes({json.dumps(OVER)})", 300)
    assert lab.page.evaluate(POINTS) >= 100
    lab.picture("training-reloaded-plain")

    # No page without the extension has the result, and none looks for what is gone.
    (saved,) = lab.save()[1].outputs
    assert set(saved.data) == {"text/plain", "text/html", LIVE}
    lab.page.close()
    lab.server.shut_down(lab.path.parent.name)
    again = opens_plain(lab.path)
    assert "run it again, what is done costs nothing" in again.show(1, "run it again")
    assert again.page.evaluate(POINTS) > 1
    again.is_clean()
    again.run(0, 1)
    is_whole(again, steps)


def test_without_the_extension_stop_and_interrupt_keep_a_checkpoint_and_the_cell_goes_on(opens_plain: Opens) -> None:
    steps = 20 * EPOCH
    lab = opens_plain([SETUP, TRAIN.format(20)])
    lab.run(0)
    running = lab.begin(1)
    lab.wait(f"{POINTS} >= 4")
    lab.press(lab.page.locator(".jp-OutputArea-output button", has_text="Stop"))
    assert lab.ended(running) < 2
    assert "Stopped" in lab.text(1)
    first = checkpoint(lab)
    assert first <= last_step(lab) + 1, "it ended at its next step"
    lab.picture("training-stopped")

    running = lab.begin(1)
    lab.wait(f"{STEP} >= {first + 4}")
    lab.interrupt()
    assert lab.ended(running) < 2
    assert "Stopped" in lab.text(1)
    lab.wait(IDLE)
    second = checkpoint(lab)
    assert first < second < steps

    lab.end(lab.begin(1), 300)
    assert [event["step"] for event in told(lab, "resumed")] == [first, second]
    is_whole(lab, steps)
    lab.is_clean()
