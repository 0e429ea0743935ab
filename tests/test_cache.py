"""calls.sqlite: the first reply stays, what is broken is named, and nothing is ever unpickled."""

from __future__ import annotations

import pickle
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbdream.cache
from nbdream.cache import CallCache
from nbdream.errors import BrokenFileError, SessionError

REPLY = {"text": "hello", "usage": {"input_tokens": 3}}
FAILURE = {"error": {"kind": "row", "message": "no"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "output" / "calls.sqlite"


@pytest.fixture
def cache(path: Path) -> Iterator[CallCache]:
    with CallCache(path) as opened:
        yield opened


class Canary:
    """Sings when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("import nbdream.cache; nbdream.cache.SUNG = True",)


@pytest.fixture
def canary() -> Iterator[bytes]:
    yield pickle.dumps(Canary())
    assert not hasattr(nbdream.cache, "SUNG")


def test_what_is_put_is_there_after_opening_again(path: Path) -> None:
    with CallCache(path) as cache:
        assert cache.put([("a", REPLY), ("b", {"text": "é \ud800 \x00"})]) == {}
    with CallCache.open(path) as cache:
        assert cache.lookup(["a", "b", "c"]) == {"a": REPLY, "b": {"text": "é \ud800 \x00"}}
        assert len(cache) == 2
        assert list(cache) == ["a", "b"]


def test_a_key_may_hold_anything(cache: CallCache) -> None:
    odd = ['k"', "k\\", 'k":{"text":"planted"},"other', "é\n"]
    cache.put([(key, {"text": key}) for key in odd])
    assert cache.lookup([*odd, "other"]) == {key: {"text": key} for key in odd}


def test_look_ups_of_more_than_one_batch(cache: CallCache) -> None:
    cache.put([(f"k{number:05}", {"text": str(number)}) for number in range(2500)])
    found = cache.lookup([f"k{number:05}" for number in range(0, 5000, 2)])
    assert found == {f"k{number:05}": {"text": str(number)} for number in range(0, 2500, 2)}
    assert [key for key, _ in cache.items()] == [f"k{number:05}" for number in range(2500)]
    assert cache.lookup([]) == {}
    assert cache.put([]) == {}


def test_a_number_that_json_does_not_have_harms_no_other_reply(cache: CallCache) -> None:
    odd = {"text": "x", "usage": {"score": float("nan"), "all": [float("inf"), 1.5]}}
    assert cache.put([("a", REPLY), ("odd", odd)]) == {}
    assert cache.lookup(["a", "odd"]) == {"a": REPLY, "odd": {"text": "x", "usage": {"score": None, "all": [None, 1.5]}}}


def test_opening_it_twice_in_a_process_leaves_it_to_its_first_user(cache: CallCache, path: Path) -> None:
    cache.put([("a", REPLY)])
    CallCache(path).close()
    another = "import sys, pathlib; from nbdream.cache import CallCache; CallCache(pathlib.Path(sys.argv[1])).close()"
    subprocess.run([sys.executable, "-c", another, str(path)], check=True)
    assert Path(f"{path}-wal").exists()  # the other kernel has seen that it is in use
    cache.put([("b", REPLY)])
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM calls").fetchone() == (2,)


def test_a_write_of_much_text_goes_in_parts(cache: CallCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbdream.cache, "WRITE_AT_ONCE", 1000)
    cache.put([("k3", {"text": "first"})])
    wanted = {f"k{number}": {"text": str(number) * 400} for number in range(9)}
    assert cache.put([*wanted.items(), ("k1", {"text": "again"})]) == {"k3": {"text": "first"}}
    assert cache.lookup(list(wanted)) == {**wanted, "k3": {"text": "first"}}


def test_the_first_reply_stays_and_the_loser_is_told(cache: CallCache) -> None:
    cache.put([("a", {"text": "first"})])
    assert cache.put([("a", {"text": "second"}), ("b", {"text": "new"})]) == {"a": {"text": "first"}}
    assert cache.put([("a", FAILURE)]) == {"a": {"text": "first"}}
    assert cache.lookup(["a", "b"]) == {"a": {"text": "first"}, "b": {"text": "new"}}


def test_a_failure_gives_way_to_a_reply_and_to_nothing_else(cache: CallCache) -> None:
    cache.put([("a", FAILURE)])
    assert cache.put([("a", {"error": {"message": "other"}})]) == {"a": FAILURE}
    assert cache.put([("a", REPLY)]) == {}
    assert cache.lookup(["a"]) == {"a": REPLY}


SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
KEYS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=4)
OBJECTS = st.dictionaries(
    st.text(max_size=3),
    st.recursive(SCALARS, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3), part, max_size=3), max_leaves=8),
    min_size=1,
    max_size=3,
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(KEYS, OBJECTS, min_size=1))
def test_any_object_is_stored_as_it_is(wanted: dict[str, dict]) -> None:
    import json
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "calls.sqlite"
        with CallCache(path) as cache:
            assert cache.put(list(wanted.items())) == {}
        with sqlite3.connect(path) as connection:
            assert dict(connection.execute("SELECT key, value FROM calls")) == {
                key: json.dumps(value, separators=(",", ":")) for key, value in wanted.items()
            }


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([REPLY, FAILURE, {"text": "x"}])), max_size=12), st.integers(1, 5))
def test_any_order_of_writes_keeps_the_first_reply(writes: list[tuple[str, dict]], size: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, CallCache(Path(folder) / "calls.sqlite") as cache:
        batches = [dict(reversed(writes[start : start + size])) for start in range(0, len(writes), size)]
        for batch in batches:
            cache.put(list(batch.items()))
        for key in {key for key, _ in writes}:
            values = [batch[key] for batch in batches if key in batch]
            expected = next((value for value in values if "error" not in value), values[0])
            assert cache.lookup([key]) == {key: expected}


def test_it_is_a_sqlitedict_in_wal_mode(cache: CallCache, path: Path) -> None:
    import json

    from sqlitedict import SqliteDict

    cache.put([("a", REPLY)])
    with SqliteDict(str(path), tablename="calls", journal_mode="WAL", encode=json.dumps, decode=json.loads) as plain:
        assert dict(plain) == {"a": REPLY}
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert cache._writer.ask("PRAGMA synchronous") == (1,)


@pytest.mark.parametrize("content", [b"garbage " * 500, b"SQLite format 3\0" + b"\xff" * 5000, b"x"])
def test_something_else_in_its_place_is_set_aside_with_a_message(path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with CallCache(path) as cache:
        cache.put([("a", REPLY)])
        assert cache.lookup(["a"]) == {"a": REPLY}
    (aside,) = path.parent.glob("calls.sqlite.damaged-*")
    assert aside.read_bytes() == content
    assert aside.name in caplog.text
    assert "0 replies of it were saved" in caplog.text


def test_a_pickle_in_its_place_is_set_aside(path: Path, canary: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(canary)
    with CallCache(path) as cache:
        assert len(cache) == 0
    assert [aside.read_bytes() for aside in path.parent.glob("calls.sqlite.damaged-*")] == [canary]


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_pickle_beside_it_does_no_harm(path: Path, canary: bytes, suffix: str) -> None:
    with CallCache(path) as cache:
        cache.put([("a", REPLY)])
    Path(f"{path}{suffix}").write_bytes(canary * 100)
    with CallCache(path) as cache:
        assert cache.lookup(["a"]) == {"a": REPLY}


def test_a_pickle_among_its_values_is_named(cache: CallCache, path: Path, canary: bytes) -> None:
    cache.put([("good", REPLY)])
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO calls VALUES ('bad', ?)", (canary,))
    assert cache.lookup(["good"]) == {"good": REPLY}
    with pytest.raises(BrokenFileError, match=r"calls\.sqlite"):
        cache.lookup(["bad", "good"])
    with pytest.raises(BrokenFileError, match=r"calls\.sqlite"):
        list(cache)
    assert cache.lookup(["good"]) == {"good": REPLY}


@pytest.mark.parametrize("value", ["[1]", "3", '"text"', "null", "{", "{}", ""])
def test_a_value_that_is_no_object_is_named(cache: CallCache, path: Path, value: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO calls VALUES ('bad', ?)", (value,))
    with pytest.raises(BrokenFileError, match=r"calls\.sqlite"):
        cache.lookup(["bad"])


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE other (a)",
        "CREATE VIEW calls AS SELECT 'k' AS key, 'v' AS value",
        "CREATE TABLE calls (key TEXT, value TEXT, third TEXT)",
    ],
)
def test_another_database_is_named(path: Path, sql: str) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute(sql)
    with pytest.raises(BrokenFileError, match=r"calls\.sqlite"):
        CallCache(path)


def test_a_damaged_page_costs_only_the_replies_on_it(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wanted = {f"k{number:04}": {"text": "x" * 500} for number in range(2000)}
    with CallCache(path) as cache:
        cache.put(list(wanted.items()))
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : 2 * len(data) // 3] = b"\xa5" * (2 * len(data) // 3 - len(data) // 3)
    path.write_bytes(data)
    with CallCache(path) as cache, CallCache(path) as other:
        found = dict(cache.items())
        assert 100 < len(found) < 2000
        assert all(wanted[key] == value for key, value in found.items())
        cache.put([("new", REPLY)])
        assert other.lookup(["new", *wanted]) == {"new": REPLY, **found}  # the other kernel goes on with the same new file
    assert len([aside for aside in path.parent.glob("calls.sqlite.damaged-*") if not aside.name.endswith(("-wal", "-shm"))]) == 1
    assert "replies of it were saved" in caplog.text


def test_a_full_disk_is_an_error_and_what_was_there_stays(cache: CallCache, capfd: pytest.CaptureFixture[str]) -> None:
    cache.put([("a", REPLY)])
    pages = cache._writer.ask("PRAGMA page_count")[0]
    cache._writer.ask(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(SessionError, match="is full"):
        cache.put([(f"k{number}", {"text": "x" * 1000}) for number in range(100)])
    assert list(cache) == ["a"]
    cache._writer.ask("PRAGMA max_page_count = 100000")
    cache.put([("b", REPLY)])
    assert list(cache) == ["a", "b"]
    assert capfd.readouterr() == ("", "")


def test_a_read_only_file_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CallCache(path).close()
    connect = sqlite3.connect
    # Whoever runs the tests as root may write anywhere: so the file is opened read-only.
    monkeypatch.setattr(sqlite3, "connect", lambda name, **options: connect(f"file:{name}?mode=ro", uri=True, **options))
    with CallCache(path) as cache:
        assert cache.lookup(["a"]) == {}
        with pytest.raises(SessionError, match="cannot be written"):
            cache.put([("a", REPLY)])


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "calls.sqlite").mkdir()
    with pytest.raises(SessionError):
        CallCache(tmp_path / "calls.sqlite")


def test_locked_means_try_again(cache: CallCache, path: Path) -> None:
    cache._writer.ask("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    tried = threading.Event()
    exchange = cache._writer.write

    def write(sql: str, values: list[object]) -> int:
        try:
            return exchange(sql, values)
        except sqlite3.OperationalError:
            tried.set()
            raise

    cache._writer.write = write  # type: ignore[method-assign]
    writing = threading.Thread(target=cache.put, args=([("a", REPLY)],))
    writing.start()
    assert tried.wait(10)
    assert cache.lookup(["a"]) == {}  # a look-up does not wait for it
    other.execute("ROLLBACK")
    other.close()
    writing.join(10)
    assert cache.lookup(["a"]) == {"a": REPLY}


def test_a_file_that_stays_locked_is_an_error(cache: CallCache, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbdream.cache, "PATIENCE", 0.05)
    cache._writer.ask("PRAGMA busy_timeout = 10")
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SessionError, match="another program"):
            cache.put([("a", REPLY)])
        other.execute("ROLLBACK")
    cache.put([("a", REPLY)])
    assert list(cache) == ["a"]


def test_two_caches_and_many_threads_lose_nothing(path: Path) -> None:
    with CallCache(path) as one, CallCache(path) as two:
        threads = [
            threading.Thread(target=lambda cache=cache, name=name: [cache.put([(f"{name}{n}", {"text": str(n)})]) for n in range(50)])
            for name, cache in {"a": one, "b": one, "c": two, "d": two}.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(one) == len(two) == 200


def test_a_closed_cache_says_so(path: Path) -> None:
    cache = CallCache(path)
    cache.close()
    cache.close()
    with pytest.raises(SessionError, match="closed"):
        cache.lookup(["a"])
