"""A zip with a manifest: the same content gives the same bytes, and one that a stranger made is opened with care.

The manifest names every file with its size and sha256. Opening looks at names and sizes before anything is unpacked, unpacks beside
the target and moves the whole there at the end: what is refused leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from nbdream.errors import DataError, NbDreamError
from nbdream.files import disk_errors, write_json

MANIFEST = "nbdream-archive.json"
FORMAT = 1
DAY = (1980, 1, 1, 0, 0, 0)
"""The time of every file: the same content is the same archive."""
CHUNK = 1 << 20
LARGEST_MANIFEST = 256 << 20
MOST_FILES = 500_000
LONGEST_NAME = 255
STORED = (".safetensors",)
"""What does not get smaller."""
RATIO, SMALL = 250, 64 << 20
"""How many times smaller than its content a file may be packed, from so many bytes of content on."""
UNREADABLE = (
    zipfile.BadZipFile,  # no zip, or a checksum that is not that of the content
    zlib.error,  # packed content that is damaged
    EOFError,  # content that is cut off
    OSError,  # a seek to before the beginning of the file
    NotImplementedError,  # a later version of the format, strong encryption, or a way of packing that it does not have
    ValueError,  # a date or an extra field that is none
)
"""What `zipfile` raises over a file that a stranger made; its errors have no class in common."""

Content = Path | bytes
Progress = Callable[[int, int], None]
"""Told how many bytes are done, of how many."""


def write(path: Path, manifest: Mapping[str, Any], files: Mapping[str, Content], progress: Progress | None = None) -> dict[str, Any]:
    """Write ``files`` by their names, and a manifest of them, to a new or replaced zip; returns the manifest."""
    total = sum(len(content) if isinstance(content, bytes) else content.stat().st_size for content in files.values())
    done = 0
    entries: dict[str, Any] = {}

    def further(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    check_together(path, files)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with disk_errors(path), os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as packed:
            for name in sorted(files):
                check_name(name)
                entries[name] = _put(packed, name, files[name], further)
            made = {"format": FORMAT, **manifest, "files": entries}
            _put(packed, MANIFEST, (json.dumps(made, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode(errors="surrogatepass"))
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return made


def _put(packed: zipfile.ZipFile, name: str, content: Content, further: Callable[[int], None] = lambda size: None) -> dict[str, Any]:
    info = zipfile.ZipInfo(name, DAY)
    info.create_system = 3
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.compress_type = zipfile.ZIP_STORED if name.endswith(STORED) else zipfile.ZIP_DEFLATED
    sha, size = hashlib.sha256(), 0
    with packed.open(info, "w", force_zip64=True) as target:
        for chunk in _chunks(content):
            sha.update(chunk)
            size += len(chunk)
            target.write(chunk)
            further(len(chunk))
    return {"size": size, "sha256": sha.hexdigest()}


def _chunks(content: Content) -> Iterable[bytes]:
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


class Archive:
    """An archive, opened: its names and sizes are looked at, its content is not yet read. A context manager."""

    def __init__(self, path: Path, kind: str | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"there is no archive {self.path}", "give the path of a zip that %dream share wrote")
        try:
            self._zip = zipfile.ZipFile(self.path)
        except UNREADABLE as error:
            raise refusal(self.path, f"it is no zip ({_said(error)})") from None
        try:
            self._infos = self._looked_at(self._zip.infolist())
            self.manifest = self._read_manifest(kind)
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    # --- before anything is unpacked --------------------------------------------------------------------------------

    def _looked_at(self, infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        if len(infos) > MOST_FILES:
            raise refusal(self.path, f"it holds {len(infos):,} files")
        found: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            if info.orig_filename != info.filename:
                raise refusal(self.path, f"a name in it holds characters that no file name has: {shown(info.orig_filename)}")
            try:
                check_name(info.filename)
            except DataError as error:
                raise refusal(self.path, error.message) from None
            if (info.external_attr >> 16) and not stat.S_ISREG(info.external_attr >> 16) and stat.S_IFMT(info.external_attr >> 16):
                raise refusal(self.path, f"{shown(info.filename)} is {_kind(info.external_attr >> 16)}, and no file")
            if info.filename in found:
                raise refusal(self.path, f"{shown(info.filename)} is in it twice")
            if info.flag_bits & 0x1:
                raise refusal(self.path, f"{shown(info.filename)} is encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise refusal(self.path, f"{shown(info.filename)} is packed in a way that nbdream does not write")
            if info.file_size > SMALL and info.file_size > RATIO * max(1, info.compress_size):
                sizes = f"{size_words(info.file_size)} out of {size_words(info.compress_size)}"
                raise refusal(self.path, f"{shown(info.filename)} would be {sizes}: a compression bomb")
            found[info.filename] = info
        if sum(info.compress_size for info in infos) > self.path.stat().st_size:
            raise refusal(self.path, "its files overlap: a compression bomb")
        check_together(self.path, found)
        return found

    def _read_manifest(self, kind: str | None) -> dict[str, Any]:
        info = self._infos.get(MANIFEST)
        if info is None:
            raise refusal(self.path, f"it has no {MANIFEST}: nbdream did not write it")
        if info.file_size > LARGEST_MANIFEST:
            raise refusal(self.path, f"its {MANIFEST} has {size_words(info.file_size)}")
        try:
            found = json.loads(b"".join(self._stream(info, LARGEST_MANIFEST)))
        except (ValueError, RecursionError):
            raise refusal(self.path, f"its {MANIFEST} is not JSON") from None
        check_manifest(self.path, found, kind)
        files = found["files"]
        for name in self._infos.keys() - {MANIFEST} - files.keys():
            raise refusal(self.path, f"its {MANIFEST} knows nothing of {shown(name)}")
        for name, entry in files.items():
            if name not in self._infos or name == MANIFEST:
                raise refusal(self.path, f"{shown(name)} is missing from it")
            if self._infos[name].file_size != entry["size"]:
                raise refusal(self.path, f"{shown(name)} has another size than its {MANIFEST} says")
        return dict(found)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _stream(self, info: zipfile.ZipInfo, most: int) -> Iterable[bytes]:
        """The content of a file, which ends where it would be longer than it may be."""
        size = 0
        try:
            with self._zip.open(info) as file:
                while chunk := file.read(CHUNK):
                    size += len(chunk)
                    if size > most:
                        raise refusal(self.path, f"{shown(info.filename)} is longer than it says")
                    yield chunk
        except UNREADABLE as error:
            if isinstance(error, NbDreamError):
                raise
            raise refusal(self.path, f"{shown(info.filename)} is damaged ({_said(error)})") from None

    def content(self, name: str) -> Iterable[bytes]:
        """The content of a file in pieces; refused at its end where its sha256 is not the one that the manifest says."""
        entry = self.manifest["files"][name]
        sha, size = hashlib.sha256(), 0
        for chunk in self._stream(self._infos[name], entry["size"]):
            sha.update(chunk)
            size += len(chunk)
            yield chunk
        if size != entry["size"] or sha.hexdigest() != entry["sha256"]:
            raise refusal(self.path, f"{shown(name)} is not what its {MANIFEST} says: its sha256 is another one")

    def unpack(self, folder: Path, check: Callable[[Path], None], progress: Progress | None = None) -> None:
        """Unpack everything to a new or empty ``folder``, once ``check`` has looked at it whole; or leave nothing behind."""
        folder = Path(folder)
        if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            raise DataError(f"{folder} is there already", "give a new folder")
        total = sum(entry["size"] for entry in self.manifest["files"].values())
        with disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            if total > shutil.disk_usage(folder.parent).free:
                raise DataError(f"{self.path} needs {size_words(total)}, and the disk of {folder} has less", "give a folder elsewhere")
            beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            done = 0
            for name in self.manifest["files"]:
                done += self._unpack_one(name, beside / name)
                if progress is not None:
                    progress(done, total)
            write_json(beside / MANIFEST, self.manifest)
            check(beside)
            with disk_errors(folder):
                os.chmod(beside, 0o777 & ~_umask())
                os.replace(beside, folder)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise

    def _unpack_one(self, name: str, target: Path) -> int:
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                return sum(file.write(chunk) for chunk in self.content(name))


# --- what names may be ------------------------------------------------------------------------------------------------


def check_name(name: str) -> None:
    """Raise `DataError` for a name that could mean anything but a file below the folder that it is unpacked to."""
    parts = name.split("/")
    wrong = None
    if not name or name.startswith("/") or re.match(r"[A-Za-z]:", name):
        wrong = "is an absolute path"
    elif "\\" in name or any(unicodedata.category(char)[0] == "C" for char in name) or unicodedata.normalize("NFC", name) != name:
        wrong = "holds characters that no file name of ours has"
    elif any(part == ".." for part in parts):
        wrong = "climbs out of its folder"
    elif any(part in ("", ".") or part != part.strip() or part.endswith(".") for part in parts):
        wrong = "is no plain path"
    elif any(len(part.encode()) > LONGEST_NAME for part in parts) or len(name.encode()) > 4 * LONGEST_NAME:
        wrong = "is too long"
    if wrong:
        raise DataError(f"the name {shown(name)} {wrong}")


def check_together(path: Path, names: Iterable[str]) -> None:
    """Refuse names that are one file, or a file and a folder, where case does not count."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        folded = unicodedata.normalize("NFKC", name.casefold())
        if folded in files:
            raise refusal(path, f"{shown(name)} and {shown(files[folded])} are one file where case does not count")
        files[folded] = name
        for at, char in enumerate(folded):
            if char == "/":
                folders[folded[:at]] = name
    for folded in files.keys() & folders.keys():
        raise refusal(path, f"{shown(files[folded])} is both a file and a folder")


def check_manifest(path: Path, found: Any, kind: str | None) -> None:
    """Refuse a manifest of another version, or that is none."""
    version = found.get("format") if isinstance(found, dict) else None
    if isinstance(version, bool) or not isinstance(version, int):
        raise refusal(path, f"its {MANIFEST} says no format")
    if version != FORMAT:
        hint = "pip install -U nbdream" if version > FORMAT else "share it again"
        raise DataError(f"{path} has the format {version}, and this nbdream reads {FORMAT}", hint)
    if kind is not None and found.get("kind") != kind:
        raise refusal(path, f"it holds {shown(str(found.get('kind')))}, not {kind}")
    files = found.get("files")
    if not isinstance(files, dict) or not all(map(_is_entry, files.values())):
        raise refusal(path, f"its {MANIFEST} has no list of files")


def _is_entry(entry: Any) -> bool:
    size = entry.get("size") if isinstance(entry, dict) else None
    return type(size) is int and size >= 0 and bool(re.fullmatch(r"[0-9a-f]{64}", str(entry.get("sha256"))))


def refusal(path: Path | str, why: str) -> DataError:
    """The error for an archive, or a folder, that is not opened."""
    return DataError(f"{path} is refused: {why}", "nothing of it was kept; ask who sent it for another one")


def shown(text: str) -> str:
    """A stranger's text in one of our lines."""
    return repr(text if len(text) <= 120 else text[:119] + "…")


def size_words(size: int) -> str:
    """A number of bytes as a person reads it."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:,.0f} TB"


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
    }  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "something else")


def _said(error: BaseException) -> str:
    return shown(str(error) or type(error).__name__).strip("'")
