"""Reads rows from files of JSON, CSV and text; what cannot be read is said in one line, with the file and the line."""

from __future__ import annotations

import glob
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbdream.errors import ArgumentError, DataError
from nbdream.steps.kinds import KindWatch

if TYPE_CHECKING:
    import pyarrow as pa

Columns = dict[str, list[Any]]
EMPTY = {"", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"}
"""What stands for a missing number in a CSV; in a column of text only nothing at all does."""


def find(folder: Any, names: Any, suffixes: tuple[str, ...]) -> list[Path]:
    """The files meant by ``data_folder`` and ``data_files``, in order; an error when one is not there."""
    if isinstance(names, Mapping):
        raise ArgumentError("data_files is a dict of splits", "a source has one split: give the files of one, data_files=['train.csv']")
    base = Path(folder).expanduser() if folder is not None else None
    if base is not None and not base.is_dir():
        raise DataError(f"there is no folder {base}", "data_folder= is a folder, relative to the working directory")
    if names is None:
        if base is None:
            raise ArgumentError("no file is given", "data_files='rows" + (suffixes or (".csv",))[0] + "'")
        found = sorted(path for path in base.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
        if not found:
            raise DataError(
                f"the folder {base} has no file {' or '.join('*' + suffix for suffix in suffixes)}", "name them: data_files=[…]"
            )
        return found
    given = [names] if isinstance(names, (str, Path)) else names
    if not isinstance(given, (list, tuple)) or not all(isinstance(name, (str, Path)) for name in given):
        raise ArgumentError(f"data_files is a {type(names).__name__}", "it is a path, or a list of paths")
    return [path for name in given for path in _match(base, name)]


def _match(base: Path | None, name: Any) -> list[Path]:
    path = Path(name).expanduser() if base is None else base / name
    if path.is_file():
        return [path]
    if path.is_dir():
        raise DataError(f"{path} is a folder", "give it as data_folder=")
    found = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
    if not found:
        raise DataError(f"there is no file {path}", f"relative names begin at {Path.cwd()}")
    return found


def together(paths: list[Path], read: Callable[[Path], Iterator[Columns | pa.Table]]) -> Iterator[Columns | pa.Table]:
    """The rows of all files, which have the same columns."""
    names: list[str] | None = None
    watch = KindWatch()
    for path in paths:
        for batch in read(path):
            found = list(batch) if isinstance(batch, dict) else batch.column_names
            names = names or found
            if set(found) != set(names):
                wrong = ", ".join(sorted(set(found) ^ set(names)))
                raise DataError(
                    f"{path} has other columns than {paths[0]}: {wrong}", "make a source of each, then rename_columns and concat"
                )
            yield watch.check({name: batch[name] for name in names}) if isinstance(batch, dict) else watch.check_table(batch.select(names))


def _text_of(path: Path, encoding: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in {encoding} (byte {error.start})", "give its encoding=, or another file") from None
    except LookupError:
        raise ArgumentError(f"there is no encoding {encoding!r}", "for instance 'utf-8' or 'latin-1'") from None


# ------------------------------------------------------------------------------------------------ JSON


def read_json(path: Path, field: str | None = None, encoding: str = "utf-8") -> Iterator[Columns]:
    """The rows of a JSON file."""
    rows = _json_rows(path, _text_of(path, encoding), field)
    names: dict[str, None] = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {number} is a {type(row).__name__}, not an object", 'a row is {"column": value, …}')
        names |= dict.fromkeys(row)
    for start in range(0, len(rows), 1000):
        part = rows[start : start + 1000]
        yield {name: [row.get(name) for row in part] for name in names}


def _json_rows(path: Path, text: str, field: str | None) -> list[Any]:
    try:
        value = json.loads(text)
    except RecursionError:
        raise DataError(f"{path} is nested too deeply", "give a list of flat objects") from None
    except ValueError:
        return _json_lines(path, text, field)
    if field is not None:
        if not isinstance(value, dict) or field not in value:
            raise DataError(
                f"{path} has no field {field!r}", f"it has: {', '.join(value)}" if isinstance(value, dict) else "leave field= out"
            )
        value = value[field]
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        lengths = {name: len(column) for name, column in value.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{path} has columns of different lengths", "field= names the list of rows in it")
        return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    if isinstance(value, dict):
        return [value]
    raise DataError(f"{path} holds one {type(value).__name__}", "a list of objects, or an object a line, is rows")


def _json_lines(path: Path, text: str, field: str | None) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                where = f"line {number}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else f"line {number}"
                raise DataError(f"{path} is not JSON: {where}", "it is a JSON list of objects, or an object a line") from None
    if field is not None and rows:
        raise DataError(f"{path} has an object a line, and no field {field!r}", "leave field= out")
    return rows


# ------------------------------------------------------------------------------------------------ CSV


def read_csv(
    path: Path,
    sep: str = ",",
    delimiter: str | None = None,
    column_names: list[str] | None = None,
    names: list[str] | None = None,
    encoding: str = "utf-8",
    quotechar: str = '"',
    skiprows: int = 0,
) -> Iterator[pa.Table]:
    """The rows of a CSV file, each column of the one type that all its values have: int, float, bool or text."""
    import pyarrow as pa
    from pyarrow import csv

    text = _text_of(path, encoding)
    _check_csv(path, text)
    data = pa.py_buffer(text.encode())
    read = csv.ReadOptions(
        use_threads=False, skip_rows=skiprows, column_names=column_names or names, block_size=min(max(data.size + 1, 1 << 16), MOST)
    )
    parse = csv.ParseOptions(delimiter=delimiter or sep, quote_char=quotechar, newlines_in_values=True)
    try:
        header = csv.open_csv(pa.BufferReader(data), read, parse).schema.names
        texts = csv.ConvertOptions(
            null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False, column_types=dict.fromkeys(header, pa.string())
        )
        table = csv.read_csv(pa.BufferReader(data), read, parse, texts)
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a CSV: {' '.join(str(error).split())}", "sep= is what separates its columns") from None
    _check_header(path, header)
    if table.num_rows:
        yield pa.table({name: _typed(table.column(name)) for name in header})


def _check_csv(path: Path, text: str) -> None:
    """Refuse what is plainly something else, and would be read as one strange column."""
    start = text[:200].lstrip().lower()
    if "\0" in text:
        raise DataError(f"{path} is not a CSV: it looks like binary data", "open it to see what it is")
    if start.startswith(("{", "[{")):
        raise DataError(f"{path} is not a CSV: it looks like JSON", "JSONDataSource reads JSON")
    if start.startswith(("<!doctype", "<html")):
        raise DataError(f"{path} is not a CSV: it looks like a web page", "open it to see what it is")


def _check_header(path: Path, header: list[str]) -> None:
    if not all(name.strip() for name in header):
        raise DataError(f"{path} has a column without a name", "column_names=[…] names the columns, skiprows=1 skips its header")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{path} has two columns {twice[0]!r}", "column_names=[…] names the columns, skiprows=1 skips its header")


def _typed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of texts as int, float or bool when every value is one and nothing is lost (``007`` stays text)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pc.if_else(pc.is_in(column, pa.array(sorted(EMPTY))), None, column)
    if values.null_count == len(values):
        return column
    for pattern, kind in ((WHOLE, pa.int64()), (NUMBER, pa.float64()), (TRUTH, pa.bool_())):
        if pc.all(pc.match_substring_regex(values, pattern)).as_py():
            try:
                return values.cast(kind)
            except pa.ArrowInvalid:  # more digits than 64 bits hold
                return column
    return column


MOST = 2**31 - 1
"""Bytes that Arrow reads at once: a row must not be cut where it does not know the type of every column yet."""
WHOLE = r"^-?(0|[1-9][0-9]*)$"
NUMBER = r"^[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
TRUTH = r"^([Tt]rue|[Ff]alse|TRUE|FALSE)$"


# ------------------------------------------------------------------------------------------------ text


def read_text(path: Path, encoding: str = "utf-8", keep_linebreaks: bool = False, sample_by: str = "line") -> Iterator[Columns]:
    """The lines, paragraphs or whole of a text file, in a column ``text``."""
    cut = SAMPLES.get(sample_by)
    if cut is None:
        raise ArgumentError(f"sample_by={sample_by!r}", f"it is one of: {', '.join(SAMPLES)}")
    texts = cut(_text_of(path, encoding), keep_linebreaks)
    for start in range(0, len(texts), 1000):
        yield {"text": texts[start : start + 1000]}


SAMPLES: dict[str, Callable[[str, bool], list[str]]] = {
    "line": lambda text, keep: [line if keep else line.rstrip("\r\n") for line in io.StringIO(text, newline="")],
    "paragraph": lambda text, keep: [part for part in text.replace("\r\n", "\n").strip("\n").split("\n\n") if part.strip()],
    "document": lambda text, keep: [text],
}
