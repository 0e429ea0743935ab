"""The committer: its thread waits neither for the engine's loop nor for the disk to settle."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import nbdream.engine.commits
from nbdream.cache import CallCache
from nbdream.engine.commits import Commits

SECONDS = 10


class Watched(CallCache):
    """A cache whose writing and settling can be held, and are counted."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.go_on, self.settled = threading.Event(), threading.Event()
        self.go_on.set()
        self.may_settle = threading.Event()
        self.may_settle.set()
        self.batches: list[int] = []
        self.wrote = threading.Condition()
        self.begun = threading.Event()

    def put(self, items: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
        self.begun.set()
        assert self.go_on.wait(SECONDS)
        taken = super().put(items)
        with self.wrote:
            self.batches.append(len(items))
            self.wrote.notify_all()
        return taken

    def settle(self) -> None:
        self.settled.set()
        assert self.may_settle.wait(3 * SECONDS)  # longer than anybody waits for a reply
        super().settle()

    def wait_for(self, rows: int) -> bool:
        with self.wrote:
            return self.wrote.wait_for(lambda: sum(self.batches) == rows, SECONDS)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Watched]:
    with Watched(tmp_path / "calls.sqlite") as opened:
        yield opened


async def one_under_way_and_ten_waiting(commits: Commits, cache: Watched) -> tuple[asyncio.Future[Any], list[asyncio.Future[Any]]]:
    """Replies handed over while a first one is being written, which goes on when the cache may."""
    cache.go_on.clear()
    first = commits.put("first", {"text": "x"})
    assert await asyncio.to_thread(cache.begun.wait, SECONDS)
    return first, [commits.put(str(number), {"text": "x"}) for number in range(10)]


def test_what_comes_in_one_breath_is_one_batch(cache: Watched) -> None:
    async def work() -> None:
        commits = Commits(cache)
        assert await asyncio.gather(*(commits.put(str(number), {"text": "x"}) for number in range(100))) == [None] * 100
        commits.close()

    asyncio.run(work())
    assert cache.batches == [100]


def test_the_next_batch_does_not_wait_for_the_loop(cache: Watched) -> None:
    async def work() -> None:
        commits = Commits(cache)
        first, others = await one_under_way_and_ten_waiting(commits, cache)
        cache.go_on.set()
        assert cache.wait_for(11)  # the loop stands still meanwhile
        assert not first.done()
        assert await asyncio.gather(first, *others) == [None] * 11
        commits.close()

    asyncio.run(work())
    assert cache.batches == [1, 10]


def test_settling_holds_up_no_reply(cache: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbdream.engine.commits, "SETTLING", 0.0)

    async def work() -> None:
        commits = Commits(cache)
        cache.may_settle.clear()
        await commits.put("first", {"text": "x"})
        assert await asyncio.to_thread(cache.settled.wait, SECONDS)
        assert await asyncio.wait_for(commits.put("second", {"text": "x"}), SECONDS) is None
        assert sorted(cache.lookup(["first", "second"])) == ["first", "second"]
        cache.may_settle.set()
        commits.close()

    asyncio.run(work())


def test_a_caller_who_goes_away_takes_nothing_back_and_flush_waits_for_it(cache: Watched) -> None:
    async def work() -> None:
        commits = Commits(cache)
        cache.go_on.clear()
        commits.put("a", {"text": "x"}).cancel()
        flushing = asyncio.create_task(commits.flush())
        assert await asyncio.to_thread(cache.begun.wait, SECONDS)
        assert not flushing.done()
        cache.go_on.set()
        await asyncio.wait_for(flushing, SECONDS)
        assert list(cache.lookup(["a"])) == ["a"]
        await commits.flush()  # nothing is waiting: it returns at once
        commits.close()

    asyncio.run(work())


def test_a_batch_that_cannot_be_written_is_told_and_the_next_one_is_written(cache: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        commits = Commits(cache)
        with monkeypatch.context() as patch:
            patch.setattr(cache, "_writer", None)
            with pytest.raises(AttributeError):
                await commits.put("a", {"text": "x"})
            await asyncio.wait_for(commits.flush(), SECONDS)
        assert await commits.put("b", {"text": "x"}) is None
        commits.close()

    asyncio.run(work())
    assert list(cache) == ["b"]


def test_what_has_arrived_is_written_when_python_ends(cache: Watched) -> None:
    async def work() -> None:
        commits = Commits(cache)
        first, others = await one_under_way_and_ten_waiting(commits, cache)
        commits._thread.shutdown(wait=False)  # as Python does before anybody is told that it ends
        cache.go_on.set()
        assert await asyncio.wait_for(asyncio.gather(first, *others), SECONDS) == [None] * 11
        late = commits.put("late", {"text": "x"})
        await asyncio.wait_for(commits.flush(), SECONDS)
        assert isinstance(late.exception(), RuntimeError)
        commits.close()

    asyncio.run(work())
    assert len(cache) == 11
