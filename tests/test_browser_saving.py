"""Saves of one notebook at the same time, of a user and of the extension, which saves when a cell begins: JupyterLab asks nobody."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browsing import IDLE, NOTEBOOK, Opens, needs_chromium, needs_extension

CELLS = [
    "%load_ext nbdream\n%dream open ./output\n%dream model slow = echo/slow delay=0.1 max_concurrency=4",
    "%%generate greetings -m slow -n 40\nHello",
]
SLOW_DISK = """(() => {
  const ask = window.fetch;
  window.fetch = async (...asked) => {
    const answer = await ask(...asked);
    if ((asked[0]?.method ?? asked[1]?.method) === 'PUT') {
      window.written = (window.written ?? 0) + 1;
      await new Promise(done => setTimeout(done, 300));
    }
    return answer;
  };
})()"""
SAVES = f"""async () => {{
  const {{ context, content }} = {NOTEBOOK};
  const source = content.widgets[0].model.sharedModel.getSource();
  window.saves = [];
  for (const pause of [0, 3, 10, 40, 120]) {{
    await new Promise(done => setTimeout(done, pause));
    content.widgets[0].model.sharedModel.setSource(`# edited ${{pause}}\\n${{source}}`);
    window.saves.push(context.save().then(() => 'saved', String));
  }}
  Promise.all(window.saves).then(all => window.saved = all);
}}"""

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(150), needs_chromium, needs_extension]


def test_saves_at_once_ask_nobody_anything(chromium: Any, opens: Opens) -> None:
    chromium.add_init_script(SLOW_DISK)  # the second save begins after the first is written, and before that is known
    lab = opens(CELLS)
    lab.page.evaluate(SAVES)
    lab.wait("window.saved || document.querySelector('.jp-Dialog')")
    assert lab.page.evaluate("window.saved") == ["saved"] * 5, lab.shown()
    assert lab.page.evaluate("window.written") >= 5
    assert lab.saved()[0].source.startswith("# edited 120\n"), "the last one is kept"

    # The extension saves in the first half second of a cell; a user who does so, too, is not asked which is right.
    lab.run(0)
    running = lab.begin(1)
    written = lab.page.evaluate("window.written")
    for _ in range(8):
        lab.page.keyboard.press("Control+s")
        lab.page.wait_for_timeout(100)
    lab.end(running)
    lab.page.evaluate(f"{NOTEBOOK}.context.save()")  # after those before; the command does nothing while one of its saves goes on
    assert lab.shown()["dialogs"] == []
    assert lab.page.evaluate("window.written") > written + 3
    assert "40 rows" in lab.saved()[1].outputs[0].data["text/plain"]
    lab.wait(IDLE)
    lab.is_clean()
