"""What a page asks of a kernel and what it is told, in a real kernel, as the extension does it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest

from nbdream.magics.bridge import OPS, check
from nbdream.magics.snapshot import SIZE, Watch, source_digest
from tests.hostile import HTML, JSON, PATHS, UNICODE
from tests.notebook import Kernel, kernel_in

SLOW = "%dream open ./output\n%dream model slow = echo/slow delay=0.05 max_concurrency=2"
MANY = "%%generate many -m slow -n 400 --background\nHello"
BLOCKS = "import time; time.sleep(30)"


class Page:
    """The page's end: it opens the comm and reads what the kernel says, whatever cell it belongs to."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.kernel.client.allow_stdin = False
        self._send("comm_open", {"comm_id": "page-1", "target_name": "nbdream", "data": {}})
        self.seen: list[dict[str, Any]] = []
        self.subshell: str | None = None
        self.count = 0

    def _send(self, kind: str, content: dict[str, Any], subshell: str | None = None) -> None:
        message = self.kernel.client.session.msg(kind, content)
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        self.kernel.client.shell_channel.send(message)

    def in_a_subshell(self) -> None:
        """From here on, messages go to a thread of their own, as JupyterLab sends them."""
        message = self.kernel.client.session.msg("create_subshell_request", {})
        self.kernel.client.control_channel.send(message)
        reply = self.kernel.client.control_channel.get_msg(timeout=10)
        self.subshell = reply["content"]["subshell_id"]

    def told(self, fits: Any, timeout: float = 20) -> dict[str, Any]:
        """The next message of the bridge that fits."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                message = self.kernel.client.get_iopub_msg(timeout=max(0.01, deadline - time.monotonic()))
            except Empty:
                raise TimeoutError(f"not told within {timeout} s; last: {self.seen[-1:]}") from None
            if message["msg_type"] != "comm_msg":
                continue
            self.seen.append(message["content"])
            if fits(message["content"]["comm_id"], message["content"]["data"]):
                data: dict[str, Any] = message["content"]["data"]
                return data

    def snapshot(self, fits: Any, timeout: float = 20) -> dict[str, Any]:
        """The next broadcast that fits."""
        return self.told(lambda comm, data: comm == "nbdream" and data["op"] == "snapshot" and fits(data), timeout)

    def until(self, fits: Any, timeout: float = 20) -> dict[str, Any]:
        """Where everything stands, asked for until it fits: a cell that was waited for has swallowed what was broadcast."""
        deadline = time.monotonic() + timeout
        while not fits(found := self.ask("snapshot")["result"]):
            assert time.monotonic() < deadline, found
        return found

    def ask(self, op: str, **values: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self.count += 1
        id_ = str(self.count)
        self._send("comm_msg", {"comm_id": "page-1", "data": {"op": op, "id": id_, **values}}, self.subshell)
        return self.told(lambda comm, data: comm == "page-1" and data["id"] == id_)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bridge")


@pytest.fixture(scope="module")
def kernel(folder: Path) -> Iterator[Kernel]:
    with kernel_in(folder) as kernel:
        yield kernel


def comms(kernel: Kernel) -> dict[str, Any]:
    asked = kernel.client.comm_info("nbdream")
    while (reply := kernel.client.get_shell_msg(timeout=10))["parent_header"]["msg_id"] != asked:
        pass  # replies to the cells before
    return reply["content"]["comms"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def page(kernel: Kernel) -> Page:
    assert comms(kernel) == {}
    loaded = kernel.run("%load_ext nbdream")
    assert {message["msg_type"] for message in loaded.messages} <= {"status", "execute_input"}
    kernel.run(SLOW)
    messages = kernel.run("%%generate few -m slow -n 3\nHi", "cell-few").messages
    assert not [message for message in messages if message["content"].get("comm_id") == "nbdream"]
    assert list(comms(kernel)) == ["nbdream"]
    return Page(kernel)


def test_a_page_that_comes_is_told_what_there_is(page: Page) -> None:
    told = page.snapshot(lambda data: data["nodes"])
    assert told["session"] == "output"
    (node,) = told["nodes"]
    assert (node["name"], node["kind"], node["rows"], node["state"], node["above"]) == ("few", "rows", 3, "fresh", [])
    assert told["cells"]["cell-few"] == {
        "name": "few", "state": "fresh", "reason": "", "kind": "rows", "rows": 3, "failed": 0, "cost": node["cost"], "cached": False,
    }  # fmt: skip
    assert told["works"] == []


def test_background_work_is_told_and_stopped_while_a_foreign_cell_blocks(page: Page) -> None:
    page.in_a_subshell()
    page.kernel.run(MANY, "cell-many")
    blocking = page.kernel.start(BLOCKS)
    first = page.snapshot(lambda data: data["works"] and data["works"][0]["done"])
    (work,) = first["works"]
    assert (work["name"], work["cell"], work["total"], work["kind"], work["stoppable"]) == ("many", "cell-many", 400, "Generate", True)
    assert first["cells"]["cell-many"] == {"name": "many", "state": "running", "work": work["id"]}
    later = page.snapshot(lambda data: data["works"] and data["works"][0]["done"] > work["done"])
    assert later["works"][0]["eta"] > 0
    began = time.monotonic()
    assert page.ask("stop", work=work["id"])["result"] == "stopping"
    page.snapshot(lambda data: not data["works"])
    assert time.monotonic() - began < 10
    page.kernel.manager.interrupt_kernel()
    assert page.kernel.finish(blocking).error.startswith("KeyboardInterrupt")  # until then, the cell blocked
    assert page.until(lambda data: data["cells"]["cell-many"]["state"] == "stopped")["cells"]["cell-many"]["reason"].startswith("what was")


def test_a_cell_says_how_it_ended(page: Page) -> None:
    page.kernel.run("%%generate few -m nobody\nHi", "cell-few")
    told = page.until(lambda data: data["cells"]["cell-few"]["state"] == "failed")
    assert "nobody" in told["cells"]["cell-few"]["reason"]
    (output,) = page.ask("outputs", cell="cell-few")["result"]["outputs"]
    assert (output["output_type"], output["ename"]) == ("error", "ModelError")
    page.kernel.run("%%generate other -m nobody\nHi", "cell-other")
    assert page.until(lambda data: "cell-other" in data["cells"])["cells"]["cell-other"]["name"] == "other"
    page.kernel.run("%%generate few -m slow -n 3\nHi", "cell-few")
    assert page.until(lambda data: data["cells"]["cell-few"]["state"] == "fresh")["cells"]["cell-few"]["cached"] is True
    told = page.ask("outputs", cell="cell-few")["result"]
    (output,) = told["outputs"]
    assert {"text/plain", "text/html"} <= set(output["data"])
    assert output["output_type"] == "execute_result"
    assert output["execution_count"] == told["execution_count"] > 1
    assert page.ask("outputs", cell="cell-nowhere")["result"] == {"outputs": [], "execution_count": None}


def test_an_edited_cell_is_stale_and_what_it_feeds_is_told(page: Page) -> None:
    source = "%%generate more --from few -m slow\n{{ few }}!"
    page.kernel.run(source, "cell-more")
    told = page.until(lambda data: "cell-more" in data["cells"])
    assert [node["above"] for node in told["nodes"] if node["name"] == "more"] == [["few"]]
    page.ask("sources", cells=[{"id": "cell-more", "hash": source_digest(source + "?")}])
    told = page.until(lambda data: data["cells"]["cell-more"]["state"] == "stale")
    assert told["cells"]["cell-more"]["reason"] == "edited, not run"
    page.ask("sources", cells=[{"id": "cell-few", "hash": source_digest("%%generate few -m slow -n 4")}])
    told = page.until(lambda data: data["cells"]["cell-few"]["state"] == "stale")
    assert told["cells"]["cell-more"]["reason"] == "edited, not run"  # of its own
    page.ask("sources", cells=[{"id": "cell-more", "hash": source_digest(source)}])
    told = page.until(lambda data: data["cells"]["cell-more"]["reason"] != "edited, not run")
    assert (told["cells"]["cell-more"]["state"], told["cells"]["cell-more"]["reason"]) == ("stale", "few was edited, not run")
    page.ask("sources", cells=[{"id": "cell-few", "hash": source_digest("%%generate few -m slow -n 3\nHi")}])
    page.until(lambda data: data["cells"]["cell-more"]["state"] == "fresh")


BASE, FRAME = "%%map base --from [{'x':1},{'x':2},{'x':3}]\n{'y': row.x + 1}", "frame = base.to_pandas()"
THROUGH = {
    "base": BASE,
    "frame": FRAME,
    "half": "half = frame[frame.y > 2]",
    "aside": "frame.mean()",
    "tops": "%%map tops --from half\n{'z': row.y * 2}",
    "last": "%%map last --from tops\n{'w': row.z}",
    "apart": "%%map apart --from base\n{'v': 1}",
}


@pytest.fixture
def between(page: Page) -> Page:
    """Cells of which two are plain Python between results, and have run."""
    for cell, source in THROUGH.items():
        page.kernel.run(source, cell)
    page.ask("sources", cells=[{"id": cell, "hash": source_digest(source)} for cell, source in THROUGH.items()])
    page.until(lambda data: all(data["cells"][cell]["state"] == "fresh" for cell in ("base", "tops", "last", "apart")))
    assert page.ask("stale")["result"] == []
    return page


def edit(page: Page, cell: str, source: str) -> None:
    page.ask("sources", cells=[{"id": cell, "hash": source_digest(source)}])


def test_an_edit_above_a_frame_takes_the_python_with_it(between: Page) -> None:
    told = between.ask("snapshot")["result"]
    assert next(node for node in told["nodes"] if node["name"] == "tops")["above"] == ["base"]
    assert set(told["between"]) == {"frame", "half"}
    edit(between, "base", BASE.replace("+ 1", "+ 5"))
    told = between.until(lambda data: data["cells"]["tops"]["state"] == "stale")
    assert told["cells"]["last"]["reason"] == "base was edited, not run"
    assert set(between.ask("stale")["result"]) == {"base", "frame", "half", "tops", "last", "apart"}

    between.kernel.run(BASE.replace("+ 1", "+ 5"), "base")  # by hand: what it feeds is stale still, for what the session knows
    told = between.until(lambda data: data["cells"]["tops"]["state"] == "stale" and data["cells"]["base"]["state"] == "fresh")
    assert "base" in told["cells"]["tops"]["reason"]
    assert set(between.ask("stale")["result"]) == {"frame", "half", "tops", "last", "apart"}
    for cell in ("frame", "half"):
        between.kernel.run(THROUGH[cell], cell)
    assert set(between.ask("stale")["result"]) == {"tops", "last", "apart"}, "the frame is the new one by now"
    for cell in ("tops", "last", "apart"):
        between.kernel.run(THROUGH[cell], cell)
    assert between.ask("stale")["result"] == []
    assert between.kernel.run("[row['w'] for row in last.output]").text == "[12, 14, 16]"


def test_python_that_was_edited_is_told(between: Page) -> None:
    edit(between, "half", "half = frame[frame.y > 3]")
    told = between.until(lambda data: data["cells"]["tops"]["state"] == "stale")
    assert told["cells"]["tops"]["reason"] == told["cells"]["last"]["reason"] == "the Python before tops was edited, not run"
    assert set(between.ask("stale")["result"]) == {"frame", "half", "tops", "last"}
    between.kernel.run("half = frame[frame.y > 3]", "half")
    told = between.until(lambda data: data["cells"]["tops"]["reason"] == "the Python before tops has changed")
    assert set(between.ask("stale")["result"]) == {"tops", "last"}
    edit(between, "half", THROUGH["half"])
    edit(between, "last", THROUGH["last"] + "\n")
    between.kernel.run(THROUGH["half"], "half")
    assert between.until(lambda data: data["cells"]["tops"]["state"] == "fresh")
    assert between.ask("stale")["result"] == ["last"], "of an edit below it, the frame knows nothing"


def test_a_seed_is_new(page: Page) -> None:
    assert page.ask("seed", name="few")["result"] == 1
    page.kernel.run("%%generate few -m slow -n 3 --seed 4\nHi", "cell-few")
    assert page.ask("seed", name="few")["result"] == 5
    assert page.ask("seed", name="nothing")["result"] == 1
    page.kernel.run("%%generate few -m slow -n 3\nHi", "cell-few")


def test_a_cell_runs_again_when_it_is_asked_to(page: Page, folder: Path) -> None:
    before = len(list((folder / "output" / "objects").iterdir()))
    assert page.ask("once", cell="cell-few", how="recompute")["result"] == "recompute"
    page.kernel.run("%%generate few -m slow -n 3\nHi", "cell-few")
    assert len(list((folder / "output" / "objects").iterdir())) == before + 1
    page.kernel.run("%%generate few -m slow -n 3\nHi", "cell-few")  # once only
    assert len(list((folder / "output" / "objects").iterdir())) == before + 1


def test_a_cell_is_estimated_and_stays_as_it_is(page: Page) -> None:
    source = "%%generate many -m slow -n 400\nHello"
    assert page.ask("once", cell="cell-many", how="estimate")["result"] == "estimate"
    assert "would" in page.kernel.run(source, "cell-many").text
    assert page.kernel.run("few.name").text == "'few'"
    assert "many (estimate)" not in page.kernel.run("%dream status").text


@pytest.mark.parametrize(
    "message",
    [
        {"op": "eval", "code": "1"},
        {"op": "page"},
        {"op": "page", "use": "../../etc"},
        {"op": "page", "use": "ab" * 20, "count": 10**9},
        {"op": "stop", "work": "x"},
        {"op": "stop", "work": "ab" * 20, "path": "/"},
        {"op": "sources", "cells": [{"id": 1, "hash": "x"}]},
        {"op": "sources", "cells": "all"},
    ],
)
def test_what_is_malformed_gets_a_line(page: Page, message: dict[str, Any]) -> None:
    answer = page.ask(**message)
    assert "result" not in answer
    assert answer["error"]
    assert "\n" not in answer["error"]


def test_a_page_of_rows(page: Page, folder: Path) -> None:
    pointer = json.loads((folder / "output" / "names" / "few.json").read_text())
    answer = page.ask("page", use=pointer["history"][-1]["use"], start=1, count=2)
    assert len(answer["result"]["rows"]) == 2
    assert answer["result"]["total"] == 3
    assert "error" in page.ask("page", use="ab" * 20)


def test_loading_again_closes_what_was_opened(page: Page) -> None:
    messages = page.kernel.run("%reload_ext nbdream").messages
    assert [message["content"]["comm_id"] for message in messages if message["msg_type"] == "comm_close"] == ["page-1", "nbdream"]
    assert list(comms(page.kernel)) == ["nbdream"]


def test_hostile_text_is_refused_or_data() -> None:
    for name, op in OPS.items():
        for text in (*HTML, *JSON, *PATHS, *UNICODE):
            for key in op.properties:
                with pytest.raises(ValueError, match=r"malformed|required|too long"):
                    check({"op": name, "id": "1", key: {"x": {"y": text}}}, op.schema(name))


def test_a_snapshot_has_a_size() -> None:
    from nbdream.magics.snapshot import _fitted

    node = {"name": "n" * 160, "cell": "c", "state": "stale", "reason": "r" * 160, "above": ["a" * 160], "rows": 1}
    nodes = [{**node, "cell": f"c{number}"} for number in range(60)]
    found = _fitted({"works": [], "cells": {n["cell"]: {"state": "stale"} for n in nodes}, "nodes": nodes})
    assert len(json.dumps(found).encode()) <= SIZE + 40
    assert found["left_out"] + len(found["nodes"]) == 60
    assert {n["cell"] for n in found["nodes"]} == set(found["cells"])
    assert found["nodes"][-1]["cell"] == "c59"


def test_without_a_session_there_is_little_to_tell() -> None:
    assert Watch().snapshot(None) == {
        "session": None, "works": [], "cells": {}, "nodes": [], "between": [], "spend": None, "budget": None, "left_out": 0,
    }  # fmt: skip
