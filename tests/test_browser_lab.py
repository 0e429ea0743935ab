"""The JupyterLab extension in a real JupyterLab: panel, badges, results, stopping, reloading; what is seen is kept as pictures."""

from __future__ import annotations

import pytest

from tests.browsing import IDLE, NOTEBOOK, Lab, Opens, needs_chromium, needs_extension, write

ECHO = "%load_ext nbdream\n%dream open ./{folder}\n%dream model echo = echo/{folder} delay={delay} max_concurrency=4"
BLOCKS = "import time; until = time.monotonic() + 30\nwhile time.monotonic() < until: sum(range(1000))"

FIRST = [
    ECHO.format(folder="first", delay=0),
    "%%generate topics -m echo -n 40 --temperature 1.2\nName a topic of an <b>NLP</b> paper; don't explain it: just the topic.",
    "%%generate tweets --from topics -m echo --as tweet\n---\nsystem: You are careful.  # as ever\ntop_p: 1.0\n---\n{{ topics }}!",
    "longer = tweets.to_pandas()",
    "%%generate replies --from tweets -m echo\nReply: {{ tweet }}",
]
SLOW = [
    ECHO.format(folder="slow", delay=0.1),
    "%%generate slow -m echo -n 2000\nHello",
    "%%generate aside -m echo -n 2000 --background\nHello again",
    BLOCKS,
]
OTHER = ["print('%%generate nothing')", "1 + 1"]
RUNNING = "/running [1-9]\\d* %/.test(document.querySelector('.nbd-Badge[data-state=running]')?.innerText)"
FRESH = "document.querySelectorAll('.nbd-Badge[data-state=fresh]').length"
DONE = "Number((document.querySelector('.nbd-Work')?.innerText.match(/([\\d,]+) of 2,000/)?.[1] ?? '0').replace(',', ''))"

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(150), needs_chromium, needs_extension]


def test_everything_is_there_after_run_all(opens: Opens) -> None:
    lab = opens(FIRST)
    page = lab.page
    assert page.locator(".nbd-Badge").count() == 0
    lab.command("notebook:run-all-cells")
    lab.wait(f"{FRESH} == 3")
    assert [text.split()[:3] for text in lab.badges()] == [["fresh", "40", "rows"]] * 3
    lab.command("nbdream:open")
    lab.command("application:toggle-left-area")
    panel = page.locator("#nbdream-panel")
    assert panel.locator(".nbd-Result .nbd-Name").all_inner_texts() == ["topics", "tweets", "replies"]
    assert panel.locator("h2").inner_text() == "first"
    table = page.locator(".jp-OutputArea-output.nbd-Table").first
    assert "<b>NLP</b>" in table.inner_text()  # what a model wrote is text
    assert page.locator(".jp-OutputArea-output b").count() == 0

    panel.locator(".nbd-Result .nbd-Name", has_text="tweets").click()
    lab.wait("window.jupyterapp.shell.currentWidget.content.activeCellIndex == 2")
    lab.picture("lab-light")
    lab.dark()
    lab.picture("lab-dark")
    _colours(lab)

    # An edit makes its cell stale and what was made from it; running stale cells runs just these.
    counts = [lab.cell(number, "return cell.model.executionCount") for number in range(5)]
    lab.cell(2, "cell.model.sharedModel.setSource(cell.model.sharedModel.getSource() + '?')")
    lab.wait("document.querySelectorAll('.nbd-Badge[data-state=stale]').length == 2")
    assert "edited, not run" in lab.badge(2).inner_text()
    assert panel.locator(".nbd-Stale .nbd-Name").all_inner_texts() == ["tweets", "replies"]
    assert panel.locator(".nbd-Stale .nbd-Reason").all_inner_texts() == ["edited, not run", "tweets was edited, not run"]
    lab.picture("lab-stale")
    panel.get_by_role("button", name="Run stale cells").click()
    lab.wait(f"{FRESH} == 3")
    after = [lab.cell(number, "return cell.model.executionCount") for number in range(5)]
    assert [now > before for before, now in zip(counts, after, strict=True)] == [False, False, True, False, True]

    # The saved notebook holds nothing of the badges; a notebook that does not use nbdream shows nothing of it.
    assert {key for cell in lab.save() for key in cell.metadata} <= {"trusted", "execution"}
    other = lab.path.with_name("other.ipynb")
    write(other, OTHER)
    lab.command("docmanager:open", {"path": str(other.relative_to(lab.server.root))})
    lab.wait(f"{IDLE} && {NOTEBOOK}.context.path.endsWith('other.ipynb')")
    lab.command("notebook:run-all-cells")
    assert lab.cell(0, "return document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .nbd-Badge').length") == 0
    assert "%load_ext nbdream" in panel.inner_text()
    lab.is_clean()


def _colours(lab: Lab) -> None:
    """Prompts are coloured as templates, settings as YAML."""

    def coloured(number: int, line: int) -> dict[str, str]:
        """The text of each kind in a line of a cell."""
        return lab.cell(  # type: ignore[no-any-return]
            number,
            f"const line = cell.node.querySelectorAll('.cm-line')[{line}]; const found = {{}};"
            " for (const token of line.querySelectorAll('[class*=nbd-tok]')) { const kind = token.className.replace('nbd-tok-', '');"
            " found[kind] = (found[kind] ?? '') + token.textContent } return found",
        )

    assert coloured(2, 0) == {"magic": "%%generate", "name": "tweets", "option": "--from-m--as", "value": "topicsechotweet"}
    assert coloured(2, 2) == {"key": "system", "comment": "# as ever"}
    assert coloured(2, 3) == {"key": "top_p", "number": "1.0"}
    assert coloured(2, 5) == {"brace": "{{}}", "variable": "topics"}
    # Python's colours are off in prose: the quote of "don't" begins no string.
    assert lab.cell(1, "return new Set([...cell.node.querySelectorAll('.cm-line')[1].querySelectorAll('span')]"
                       ".map(span => getComputedStyle(span).color)).size") <= 1  # fmt: skip


def test_work_goes_on_over_a_reload_and_stops_from_the_panel(opens: Opens) -> None:
    lab = opens(SLOW)
    lab.command("nbdream:open")
    lab.run(0)
    lab.begin(1)
    lab.wait(RUNNING)
    lab.picture("lab-running")

    lab.reload()
    lab.wait(RUNNING)
    work = lab.page.locator(".nbd-Work", has_text="slow")
    assert "left" in work.inner_text()
    before = lab.page.evaluate(DONE)
    lab.wait(f"{DONE} > {before}")
    lab.press(work.get_by_role("button", name="Stop"))
    lab.wait("document.querySelector('.nbd-Badge[data-state=stopped]')")
    took = lab.page.evaluate("(performance.now() - window.pressed) / 1000")
    assert took < 2, took  # until the page shows it; a busy machine is slow to draw
    lab.wait(IDLE)

    # The page that was reloaded has missed what the cell showed: the kernel tells.
    lab.wait("document.querySelectorAll('.jp-Cell')[1].innerText.includes('Stopped: ')")
    assert lab.cell(1, "return cell.model.executionCount") == 2
    lab.picture("lab-stopped")

    # What was done is kept: the cell run again takes it from there.
    running = lab.begin(1)
    lab.wait("/[1-9]\\d* cached/.test(document.querySelector('.nbd-Work')?.innerText)")
    lab.command("nbdream:stop")
    lab.end(running)
    lab.wait("document.querySelector('.nbd-Badge[data-state=stopped]')")

    # A foreign cell blocks the kernel: background work is seen, and stopped.
    lab.begin(2)
    blocking = lab.begin(3)
    lab.wait(f"document.querySelectorAll('.jp-Cell')[3].innerText.includes('[*]') && {DONE} > 0")
    lab.press(lab.page.locator(".nbd-Work", has_text="aside").get_by_role("button", name="Stop"))
    lab.wait("!document.querySelector('.nbd-Work')")
    assert lab.page.evaluate("(performance.now() - window.pressed) / 1000") < 6
    assert lab.cell(3, "return cell.node.innerText.includes('[*]')")
    assert "stopped" in lab.badge(2).inner_text()
    lab.picture("lab-blocked")
    lab.interrupt()
    assert lab.ended(blocking) < 2
    lab.is_clean()
