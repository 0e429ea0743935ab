"""An archive that a stranger made: what is wrong is named in a line, nothing is written outside, and nothing is left behind."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nbdream import Session
from nbdream.cli import main
from nbdream.errors import DataError, NbDreamError
from nbdream.hub import admission, archive
from nbdream.hub.archive import MANIFEST, Archive
from nbdream.hub.share import share
from nbdream.hub.unpack import unpack
from nbdream.hub.verify import verify
from nbdream.llms import EchoLLM
from nbdream.steps import DataSource, Generate
from tests.hostile import HOSTILE
from tests.test_cli import write_notebook

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of an archive with nothing wrong."""
    folder = tmp_path_factory.mktemp("good")
    with Session(str(folder / "output")) as session:
        rows = DataSource("topics", {"topic": ["rain", "snow"]})
        Generate("lines", inputs={"rows": rows.output}, args={"llm": EchoLLM(), "template": "On {{ topic }}"})
        share(session, folder / "good.zip", write_notebook(folder / "a.ipynb", ["%load_ext nbdream"]))
    with zipfile.ZipFile(folder / "good.zip") as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def manifest_of(files: Files) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files[MANIFEST])
    return found


def with_manifest(files: Files, /, **changed: Any) -> Files:
    """The files, their manifest made to fit them."""
    entries = {name: {"size": len(text), "sha256": hashlib.sha256(text).hexdigest()} for name, text in files.items() if name != MANIFEST}
    return {**files, MANIFEST: json.dumps({**manifest_of(files), "files": entries, **changed}).encode()}


def pack(path: Path, files: Files, change: Callable[[zipfile.ZipFile], None] = lambda packed: None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in files.items():
            packed.writestr(name, text)
        change(packed)
    return path


def refused(path: Path, said: str) -> None:
    """It is refused by all that open archives, in one line, and leaves nothing behind."""
    here = path.parent
    before = {found: found.stat().st_mtime_ns for found in here.rglob("*")}
    for opens in (lambda: unpack(path, here / "target"), lambda: verify(path)):
        with pytest.raises(NbDreamError) as error:
            opens()
        assert said in str(error.value)
        assert "\n" not in str(error.value)
        assert "\x1b" not in str(error.value)
    assert {found: found.stat().st_mtime_ns for found in here.rglob("*")} == before


def test_the_good_one_opens(good: Files, tmp_path: Path) -> None:
    assert unpack(pack(tmp_path / "a.zip", with_manifest(good)), tmp_path / "target") == tmp_path / "target" / "output"
    assert (tmp_path / "target" / "a.ipynb").read_bytes() == good["a.ipynb"]


NAMES = [
    ("../evil.json", "climbs out of its folder"),
    ("output/../../evil.json", "climbs out of its folder"),
    ("/tmp/evil.json", "is an absolute path"),
    ("C:/evil.json", "is an absolute path"),
    ("..\\evil.json", "holds characters"),
    ("output//evil.json", "is no plain path"),
    ("output/./evil.json", "is no plain path"),
    ("output/evil.json ", "is no plain path"),
    ("output/ev\x1b[31mil.json", "holds characters"),
    ("output/ev\u202eil.json", "holds characters"),
    ("output/e\u0301vil.json", "holds characters"),
    ("output/" + "x" * 300 + ".json", "is too long"),
    ("A.ipynb", "one file where case does not count"),
    ("output/Session.json", "one file where case does not count"),
    ("a.ipynb/evil.json", "is both a file and a folder"),
    ("output/evil.pkl", "is of a kind that does not belong there"),
    ("output/objects/" + "a" * 40 + "/model/pytorch_model.bin", "is of a kind"),
    ("output/objects/" + "a" * 40 + "/model/modeling_evil.py", "is of a kind"),
    ("output/objects/" + "a" * 40 + "/training_args.bin", "is of a kind"),
    ("output/calls.sqlite", "is of a kind"),
    ("sitecustomize.py", "is of a kind"),
    ("evil.so", "is of a kind"),
    (".ipython/profile_default/startup/evil.py", "is of a kind"),
]


@pytest.mark.parametrize(("name", "said"), NAMES, ids=[ascii(name)[:40] for name, _ in NAMES])
def test_names(good: Files, tmp_path: Path, name: str, said: str) -> None:
    refused(pack(tmp_path / "a.zip", with_manifest({**good, name: b"{}"})), said)


def test_a_name_with_a_zero_byte(good: Files, tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", with_manifest({**good, "output/evil.json": b"{}"}))
    path.write_bytes(path.read_bytes().replace(b"output/evil.json", b"output/ev\x00l.json"))
    refused(path, "a name in it holds characters that no file name has")


@pytest.mark.parametrize(
    ("mode", "said"),
    [(stat.S_IFLNK, "is a link"), (stat.S_IFCHR, "is a device"), (stat.S_IFIFO, "is a pipe"), (stat.S_IFDIR, "is a folder")],
)
def test_what_is_no_file(good: Files, tmp_path: Path, mode: int, said: str) -> None:
    def change(packed: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("output/names/link.json")
        info.external_attr = (mode | 0o777) << 16
        packed.writestr(info, "/etc/passwd")

    refused(pack(tmp_path / "a.zip", with_manifest(good), change), f"'output/names/link.json' {said}")


def test_a_name_twice(good: Files, tmp_path: Path) -> None:
    def change(packed: zipfile.ZipFile) -> None:
        with pytest.warns(UserWarning, match="Duplicate"):
            packed.writestr("a.ipynb", b"{}")

    refused(pack(tmp_path / "a.zip", with_manifest(good), change), "'a.ipynb' is in it twice")


def test_what_the_manifest_does_not_know_and_what_is_missing(good: Files, tmp_path: Path) -> None:
    refused(pack(tmp_path / "a.zip", {**with_manifest(good), "output/names/x.json": b"{}"}), "knows nothing of 'output/names/x.json'")
    less = {name: text for name, text in good.items() if name != "output/calls.jsonl"}
    refused(pack(tmp_path / "a.zip", less), "'output/calls.jsonl' is missing from it")
    refused(pack(tmp_path / "a.zip", {name: text for name, text in good.items() if name != MANIFEST}), f"it has no {MANIFEST}")


def test_another_content(good: Files, tmp_path: Path) -> None:
    other = good["output/calls.jsonl"].replace(b"On rain", b"On lies")
    refused(pack(tmp_path / "a.zip", {**good, "output/calls.jsonl": other}), "its sha256 is another one")
    refused(pack(tmp_path / "a.zip", {**good, "output/calls.jsonl": other + b" "}), "has another size")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": 2}, "has the format 2, and this nbdream reads 1 (pip install -U nbdream)"),
        ({"format": "1"}, "says no format"),
        ({"format": True}, "says no format"),
        ({"kind": "replies"}, "it holds 'replies', not session"),
        ({"session": "../x"}, "climbs out of its folder"),
        ({"session": None}, "does not say what it holds"),
        ({"session": "elsewhere"}, "is of a kind"),
        ({"notebook": "b.ipynb"}, "'b.ipynb' is not its notebook"),
        ({"notebook": ["a.ipynb"]}, "does not say what it holds"),
        ({"files": []}, "has no list of files"),
        ({"files": {"a.ipynb": {"size": -1, "sha256": "0" * 64}}}, "has no list of files"),
        ({"files": {"a.ipynb": None}}, "has no list of files"),
    ],
)
def test_manifests(good: Files, tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    refused(pack(tmp_path / "a.zip", with_manifest(good, **changed)), said)


@pytest.mark.parametrize("text", [b"", b"PK", b"not a zip", b"\x00" * 100, b"[" * 100_000])
def test_no_zip(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(text)
    refused(tmp_path / "a.zip", "it is no zip")


@pytest.mark.parametrize("manifest", [b"{", b"[" * 200_000, b"null", b"\xff"])
def test_a_manifest_that_is_none(good: Files, tmp_path: Path, manifest: bytes) -> None:
    refused(pack(tmp_path / "a.zip", {**good, MANIFEST: manifest}), f"its {MANIFEST}")


def test_cut_off_and_bent(good: Files, tmp_path: Path) -> None:
    whole = pack(tmp_path / "whole.zip", with_manifest(good)).read_bytes()
    (tmp_path / "whole.zip").unlink()
    path = tmp_path / "a.zip"
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "is refused")
    at = whole.index(b"PK\x03\x04", 10) + 60  # within the second file
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
    refused(path, "is refused")


def deflated_zeros(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    chunk = bytes(1 << 20)
    return b"".join([*(packer.compress(chunk) for _ in range(size >> 20)), packer.flush()])


def bomb(path: Path, name: str, claimed: int, really: int) -> None:
    """A file of zeros whose size is a claim."""
    body = deflated_zeros(really)
    crc = 0
    for _ in range(really >> 20):
        crc = zlib.crc32(bytes(1 << 20), crc)
    old = path.read_bytes()
    end = old.rindex(b"PK\x05\x06")
    count, _, size, offset = struct.unpack("<HHII", old[end + 8 : end + 20])
    head = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, crc, len(body), claimed, len(name), 0)
    local = b"PK\x03\x04" + head + name.encode() + body
    central = b"PK\x01\x02" + struct.pack("<H", 20) + head + struct.pack("<HHHII", 0, 0, 0, 0, offset) + name.encode()
    directory = old[offset : offset + size] + central
    tail = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count + 1, count + 1, len(directory), offset + len(local), 0)
    path.write_bytes(old[:offset] + local + directory + tail)


def claiming(good: Files, name: str, size: int) -> Files:
    files = with_manifest(good)
    told = manifest_of(files)
    told["files"][name] = {"size": size, "sha256": "0" * 64}
    return {**files, MANIFEST: json.dumps(told).encode()}


NAME = "output/names/zeros.json"


def test_ten_gigabytes_of_zeros(good: Files, tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", claiming(good, NAME, 10 << 30))
    bomb(path, NAME, claimed=(4 << 30) - 1, really=64 << 20)  # it claims all that fits into the old header
    assert path.stat().st_size < 200_000
    refused(path, f"{NAME!r} would be 4.29 GB out of 65.2 kB: a compression bomb")


def test_zeros_that_claim_to_be_few(good: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path / "a.zip", claiming(good, NAME, 1000))
    bomb(path, NAME, claimed=1000, really=64 << 20)
    read = 0
    real = Archive.content

    def counted(self: Archive, name: str) -> Any:
        nonlocal read
        for chunk in real(self, name):
            read += len(chunk)
            yield chunk

    monkeypatch.setattr(Archive, "content", counted)
    refused(path, f"{NAME!r} is")
    assert read < 1 << 20  # it was not unpacked to its end


def test_files_that_overlap(good: Files, tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", with_manifest({**good, "output/names/x.json": bytes(100_000), "output/names/y.json": bytes(100_000)}))
    text = path.read_bytes()
    directory = struct.unpack("<I", text[text.rindex(b"PK\x05\x06") + 16 :][:4])[0]
    first = struct.unpack("<I", text[text.index(b"PK\x01\x02", directory) + 42 :][:4])[0]
    at = directory
    offsets = []
    while (at := text.find(b"PK\x01\x02", at)) >= 0:
        offsets.append(at + 42)
        at += 4
    bent = bytearray(text)
    for offset in offsets:
        bent[offset : offset + 4] = struct.pack("<I", first)
    path.write_bytes(bytes(bent))
    refused(path, "is refused")


# --- records that lie -------------------------------------------------------------------------------------------------


def changed_record(good: Files, inside: str, change: Callable[[dict[str, Any]], None]) -> Files:
    """The files with one record changed, and a manifest that fits."""
    name = next(name for name in sorted(good) if inside in name and b'"lines"' in good[name])
    record = json.loads(good[name])
    change(record)
    return with_manifest({**good, name: json.dumps(record).encode()})


RECORDS: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    ("/names/", lambda record: record["history"][-1].update(recipe="../../../etc"), "is not in it"),
    ("/names/", lambda record: record.update(history=[{"recipe": "../x", "use": "y"}, *record["history"]]), "points out of it"),
    ("/names/", lambda record: record.update(name="../../evil"), "is no pointer"),
    ("/names/", lambda record: record.update(history=[]), "is no pointer"),
    ("/uses/", lambda record: record["inputs"]["rows"].update(recipe="../../../home"), "is not in it"),
    ("/uses/", lambda record: record["inputs"]["rows"].update(columns=[7]), "is not in it"),
    ("/uses/", lambda record: record.update(outputs={"x": 1}), "is no place in a graph"),
    ("/node.json", lambda record: record["recipe"]["args"].update(template="another"), "is not that of its folder"),
    ("/node.json", lambda record: record.update(rows="2"), "is not a node"),
    ("/node.json", lambda record: record.update(attempt='2":{}'), "is not one"),
    ("/node.json", lambda record: record.update(columns={"x": {"digest": "../x"}}), "is not one"),
]


@pytest.mark.parametrize(("inside", "change", "said"), RECORDS, ids=[str(number) for number in range(len(RECORDS))])
def test_records(good: Files, tmp_path: Path, inside: str, change: Callable[[dict[str, Any]], None], said: str) -> None:
    refused(pack(tmp_path / "a.zip", changed_record(good, inside, change)), said)


def test_a_graph_that_is_made_of_itself(good: Files, tmp_path: Path) -> None:
    files = {name: text for name, text in good.items() if "/uses/" in name}
    places = {name.split("/")[2]: name.rsplit("/", 1)[1].removesuffix(".json") for name in files}
    (above, below) = sorted(places, key=lambda key: b'"lines"' in files[f"output/objects/{key}/uses/{places[key]}.json"])
    name = f"output/objects/{above}/uses/{places[above]}.json"
    record = json.loads(good[name])
    record["inputs"] = {"rows": {"recipe": below, "use": places[below], "columns": [], "whole": True}}
    refused(pack(tmp_path / "a.zip", with_manifest({**good, name: json.dumps(record).encode()})), "is made of itself")


def arrow(good: Files, content: bytes) -> Files:
    name = next(name for name in good if name.endswith(".arrow"))
    return with_manifest({**good, name: content})


def test_rows_that_are_none(good: Files, tmp_path: Path) -> None:
    for content in (b"", b"not rows", pickle.dumps({"a": 1}), good["a.ipynb"]):
        refused(pack(tmp_path / "a.zip", arrow(good, content)), "is not an Arrow stream")


def test_rows_that_would_read_beyond_their_end(good: Files, tmp_path: Path) -> None:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.schema([("topic", pa.string())])) as writer:
        writer.write_batch(pa.record_batch({"topic": ["rain", "snow"]}))
    content = sink.getvalue()
    assert content.count(struct.pack("<3i", 0, 4, 8)) == 1
    content = content.replace(struct.pack("<3i", 0, 4, 8), struct.pack("<3i", 0, 4, 1 << 30))
    refused(pack(tmp_path / "a.zip", arrow(good, content)), "is not an Arrow stream")


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_rows_that_grow_in_memory(good: Files, tmp_path: Path, codec: str) -> None:
    table = pa.table({"topic": ["x" * 1_000_000], "more": pa.array(["y"]).dictionary_encode()})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table)
    refused(pack(tmp_path / "a.zip", arrow(good, sink.getvalue())), "is compressed, which rows of ours are not")
    plain = io.BytesIO()
    with pa.ipc.new_stream(plain, table.schema) as writer:
        writer.write_table(table)
    path = tmp_path / "plain.arrow"
    path.write_bytes(plain.getvalue())
    admission._check_rows("x", tmp_path, path)  # the same, not compressed, is well


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"null",
        b"[" * 100_000,
        b'{"key": "x", "value": {"text": "y"}}',
        b'{"key": "' + b"a" * 32 + b':0", "value": {"text": "\\ud800"}}',
        b'{"key": "' + b"a" * 32 + b':0", "value": {"text": "y", "cost": 1e400}}',
        b'{"key": "' + b"a" * 32 + b':0", "value": {"text": "y", "usage": {"input_tokens": -1}}}',
        b'{"key": "' + b"a" * 32 + b':0", "value": {"text": "y", "__reduce__": "x"}}',
        b'{"key": "' + b"a" * 32 + b':0", "value": {"text": 7}}',
        pickle.dumps("text"),
    ],
)
def test_replies_that_are_none(good: Files, tmp_path: Path, line: bytes) -> None:
    files = with_manifest({**good, "output/calls.jsonl": good["output/calls.jsonl"] + line + b"\n"})
    refused(pack(tmp_path / "a.zip", files), "calls.jsonl is broken: line 3 holds no reply")


def test_a_target_that_is_there(good: Files, tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", with_manifest(good))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for name in ("link", "full"):
        with pytest.raises(DataError, match="is there already"):
            unpack(path, tmp_path / name)
    assert not list((tmp_path / "elsewhere").iterdir())
    assert [found.name for found in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.zip").write_bytes(b"not a zip")
    assert main(["verify", "a.zip"]) == 2
    assert main(["replay", "a.zip", "--yes", "--json"]) == 2
    assert main(["unpack", "a.zip"]) == 1
    assert capsys.readouterr().err.count("it is no zip") == 3


def test_hostile_texts_in_every_place_do_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [text for text in HOSTILE if text.strip() and not any("\ud800" <= character <= "\udfff" for character in text)]
    with Session(str(tmp_path / "output")) as session:
        rows = DataSource(texts[0], {"topic": texts})
        made = Generate("\x1b[31mred", inputs={"rows": rows.output}, args={"llm": EchoLLM(), "template": "{{ topic }}", "column": "=cmd|x"})
        assert len(made) == len(texts)
        shared = share(session, tmp_path / "a.zip", None, allow=["secrets", "paths"])
    assert main(["verify", str(shared.path)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    unpack(shared.path, tmp_path / "c")
    with Session(str(tmp_path / "c" / "nbdream-output")) as there:
        assert there.load("\x1b[31mred").output["topic"][:] == texts


def test_writing_what_could_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="case does not count"):
        archive.write(tmp_path / "a.zip", {}, {"names/a.json": b"", "names/A.json": b""})
    with pytest.raises(DataError, match="climbs out"):
        archive.write(tmp_path / "a.zip", {}, {"../a": b""})
    assert not list(tmp_path.iterdir())
