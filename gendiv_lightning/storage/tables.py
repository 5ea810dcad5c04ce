"""Read records from text tables: JSON lines, JSON, CSV, TSV and plain lines. Every error names the file and the line.

The encoding is that of the byte-order mark, or UTF-8 without one. The delimiter of a CSV is inferred from its header.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import IO, Any, NamedTuple

from gendiv_lightning.errors import FileFormatError, restated
from gendiv_lightning.storage.files import check_regular

_MARKS = {  # UTF-32 before UTF-16, whose mark is a prefix
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}
PROMPT_COLUMNS = ("prompt", "caption", "text", "short_caption")
_GZIP = b"\x1f\x8b"
_START = 64  # bytes that are looked at before decoding
_LONGEST_CELL = 2**31 - 1  # characters; the default of the csv module is 131,072


class Record(NamedTuple):
    """A record of a table.

    Attributes:
        where: file and line, for messages.
        columns: values by column.
    """

    where: str
    columns: Mapping[str, Any]


class Unreadable(NamedTuple):
    """Stands for a record that cannot be read: location and reason."""

    where: str


def read_table(path: Path) -> Iterator[Record]:
    """The records of a .jsonl, .json, .csv, .tsv or .txt file, in order.

    A line of text becomes a record with the column `prompt`, as does a text in place of a JSON object.

    Raises:
        MissingFileError: the path is not a regular file.
        FileFormatError: the file is not Unicode or not in the format of its suffix, or a row has more cells than the
            header.
    """
    try:
        yield from _READERS[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{path}{_undecodable_line(path)} cannot be read as UTF-8 ({error.reason}). Save the file as UTF-8"
        ) from error
    except csv.Error as error:
        raise FileFormatError(
            f"{path} cannot be read as {path.suffix} ({error}). Correct or rename the file"
        ) from error


def decode_text(data: bytes) -> str:
    """Decode text in UTF-8 or the encoding of its byte-order mark; raises UnicodeDecodeError otherwise."""
    return data.decode(_encoding(data))


def parse_json(text: str, where: str) -> Any:
    """Parse a JSON value; raises FileFormatError with the location if the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # including numbers with thousands of digits and deep nesting
        raise FileFormatError(f"{where} is not JSON: {error}") from error


def as_record(item: Any, where: str) -> Record:
    """A record from a JSON object, or from a text as the column `prompt`; raises FileFormatError otherwise."""
    if isinstance(item, str):
        return Record(where, {"prompt": item})
    if isinstance(item, Mapping):
        return Record(where, item)
    raise FileFormatError(f"{where} must be an object or a text, got {type(item).__name__}. Correct it")


def list_records(items: Any, path: Path) -> Iterator[Record]:
    """The records of a parsed JSON file; raises FileFormatError if it is not a list of objects or texts."""
    if not isinstance(items, list):
        raise FileFormatError(
            f"{path} must contain a list of records, got {type(items).__name__}. Use .jsonl for one object per line"
        )
    for number, item in enumerate(items, start=1):
        yield as_record(item, f"{path.name}, item {number}")


def find_name(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """The column with the first of `names` that exists, ignoring case, spaces and underscores."""
    known = {_plain(column): column for column in reversed(list(columns))}
    return next((known[plain] for plain in map(_plain, names) if plain in known), None)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def _encoding(start: bytes) -> str:
    return next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), "utf-8")


def _open(path: Path, newline: str | None = None) -> IO[str]:
    check_regular(path)
    with path.open("rb") as file:
        start = file.read(_START)
    encoding = _encoding(start)
    if start.startswith(_GZIP):
        raise FileFormatError(f"{path} is compressed. Decompress it")
    if encoding == "utf-8" and b"\0" in start:
        raise FileFormatError(
            f"{path} contains zero bytes, as UTF-16 without a byte-order mark does. Save the file as UTF-8"
        )
    return path.open(encoding=encoding, newline=newline)


def _lines(file: IO[str]) -> Iterator[str]:
    """The lines of a file without byte-order marks, which occur inside files that were put together from others."""
    return (line.removeprefix("\ufeff") for line in file)


def _undecodable_line(path: Path) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f", line {number},"
    return ""


def _read_lines(path: Path) -> Iterator[Record]:
    with _open(path) as file:
        for number, line in enumerate(_lines(file), start=1):
            if number == 1:
                _check_plain(line, path)
            yield Record(f"{path.name}, line {number}", {"prompt": line.rstrip("\n")})


def _check_plain(line: str, path: Path) -> None:
    """Raise FileFormatError if the first line of a text is that of JSON lines or of a table."""
    suffix = ".jsonl" if re.fullmatch(r'\{\s*".*\}\s*', line) else ".csv" if len(_header(line)) > 1 else ""
    if suffix:
        raise FileFormatError(
            f"{path} is not one prompt per line, its first line is {line[:60]!r}. Rename it to {suffix}"
        )


def _header(line: str) -> list[str]:
    """The columns of a line if it is the header of a table with prompts; else nothing."""
    columns = next(csv.reader([line], delimiter=_delimiter(line)), [])
    return columns if find_name(columns, ("prompt", "caption")) and all(len(c.split()) <= 2 for c in columns) else []


def _read_jsonl(path: Path) -> Iterator[Record]:
    with _open(path) as file:
        for number, line in enumerate(_lines(file), start=1):
            if line.strip():
                where = f"{path.name}, line {number}"
                try:
                    item = parse_json(line, where)
                except ValueError as error:
                    hint = ". Use .json for one list of all records" if number == 1 and line.strip() in "[{" else ""
                    raise restated(error, f"{error}{hint}") from error
                yield as_record(item, where)


def load_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        MissingFileError: the path is not a regular file.
        FileFormatError: the file is not JSON.
    """
    with _open(path) as file:
        text = file.read()
    try:
        return parse_json(text, path.name)
    except ValueError as error:
        hint = ". It contains one object per line: rename it to .jsonl" if "Extra data" in str(error) else ""
        raise restated(error, f"{error}{hint}") from error


def _read_csv(path: Path) -> Iterator[Record]:
    csv.field_size_limit(_LONGEST_CELL)
    with _open(path, newline="") as file:
        header = file.readline()
        declared = re.fullmatch(r'"?sep=(.)"?', header.rstrip("\r\n"))  # a first line that Excel writes
        delimiter = declared[1] if declared else _delimiter(header)
        lines = _lines(file) if declared else chain([header], _lines(file))
        # The line added at the end becomes a separate row, unless a quote is still open.
        rows = csv.reader(chain(lines, ["\n"]), delimiter=delimiter)
        columns, last = None, next(rows)
        for number, row in enumerate(rows):
            if columns is None:
                columns = _checked_columns(last, path)
            elif len(last) > len(columns):
                raise FileFormatError(
                    f"{path}, row {number} has {len(last)} cells under {len(columns)} columns ({', '.join(columns)}). "
                    f"Quote the cell that contains the delimiter ({_DELIMITERS.get(delimiter, delimiter)})"
                )
            else:
                yield Record(f"{path.name}, row {number}", dict(zip_longest(columns, last)))
            last = row
    if last:
        raise FileFormatError(f"{path}: a quote is never closed. Double the quotes inside a cell and quote the cell")


def _delimiter(header: str) -> str:
    """The delimiter that splits a header into the most columns; any, if there is only one column."""
    counts = {delimiter: len(next(csv.reader([header], delimiter=delimiter), [])) for delimiter in _DELIMITERS}
    return max(counts, key=lambda delimiter: counts[delimiter])


def _checked_columns(columns: list[str], path: Path) -> list[str]:
    repeated = [column for column, count in Counter(columns).items() if column and count > 1]
    if repeated:
        raise FileFormatError(f"{path} has several columns {repeated[0]!r}. Rename all but one")
    return columns


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".json": lambda path: list_records(load_json(path), path),
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".txt": _read_lines,
}
