"""List images in the columns of tables: Parquet files, and datasets written by `datasets.save_to_disk`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from gendiv_lightning.errors import FileFormatError, ImageError, MemoryLimitError, UnsafeInputError
from gendiv_lightning.images.decode import MEMORY_LIMIT, ImageItem, is_image
from gendiv_lightning.storage.files import GIB, inside, read_file, valid_text
from gendiv_lightning.storage.parquet import is_binary, is_text, load_columns, open_parquet, read_columns, to_rows
from gendiv_lightning.storage.sources import open_saved_dataset
from gendiv_lightning.storage.tables import find_name

FILE_COLUMNS = (
    *("file_name", "image_file_name", "image_file", "image_path", "image_name", "file_path", "file", "image"),
    *("img", "img_path", "img_name", "path"),
)
_ROW_BYTES = 256  # minimum memory of a listed image
_BASE64 = re.compile(r"(data:image/[\w.+-]+;base64,)?[A-Za-z0-9+/_-]{64,}={0,2}\s*")


class ReadRules(NamedTuple):
    """How the values of image columns are read.

    Attributes:
        root: the data folder, which contains all files that tables name.
        allow_outside: also read files outside of it.
        memory_limit: memory in GiB that one image, or one Parquet row group, may take.
    """

    root: Path
    allow_outside: bool = False
    memory_limit: float = MEMORY_LIMIT


def find_image_column(
    schema: pa.Schema, first_rows: Iterable[Mapping[str, Any]], column: str | None, where: str
) -> str:
    """The column with images: bytes, {bytes, path}, or file names. Decided by types, not by the first row.

    Args:
        schema: schema of the table.
        first_rows: some rows, which provide the first text of each column.
        column: name of the column; None takes `image`, or the only column that can contain images.
        where: location for the message.

    Raises:
        FileFormatError: no column or several columns can contain images, or the values cannot be read as images.
    """
    chosen = column if column in schema.names else find_name(schema.names, [column or "image"])
    texts = {field.name: _first_text(first_rows, field.name) for field in schema if is_text(field.type)}
    found = [chosen] if chosen else [field.name for field in schema if _holds_images(field.type)]
    if not found and column is None:
        found = [name for name, text in texts.items() if text and is_image(text) and "://" not in text]
    if len(found) != 1:
        what = (
            f"{len(found)} columns that could contain the images, {', '.join(found)}"
            if found
            else f"no column {column or 'of images'}"
        )
        raise FileFormatError(
            f"{where} has {what}. Choose the column with the images, as bytes or file names, with --image-column (in "
            f"configs column); the columns are {', '.join(schema.names)}"
        )
    _check_values(schema.field(found[0]), texts.get(found[0]), where)
    return found[0]


def _first_text(rows: Iterable[Mapping[str, Any]], column: str) -> str | None:
    return next((row[column] for row in rows if isinstance(row.get(column), str) and row[column]), None)


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool({field.name for field in kind} & {"bytes", "path"})
    return is_binary(kind)


def _check_values(field: pa.Field, text: str | None, where: str) -> None:
    """Raise FileFormatError for a column whose type or first text is not that of an image."""
    column = f"{where}: the column {field.name!r}"
    if not (_holds_images(field.type) or is_text(field.type)):
        raise FileFormatError(
            f"{column} contains {field.type}, not one image per row as bytes or file name. Write one row per image, or "
            "choose another column with --image-column (in configs column)"
        )
    if text is None:
        return
    if re.match(r"[a-zA-Z][\w+.-]*://", text):
        raise FileFormatError(f"{column} contains addresses ({text[:60]}), not images. Download the images first")
    if not is_image(text) and _BASE64.fullmatch(text):
        raise FileFormatError(f"{column} contains base64 text ({text[:20]}...), not bytes. Decode it first")


def read_value(value: Any, folder: Path, rules: ReadRules) -> bytes:
    """Bytes of an image in a column; file names are relative to a folder.

    Raises:
        MissingFileError: the file is missing, or is not a regular file.
        ImageError: there is no image.
        UnsafeInputError: the file is outside the data folder.
    """
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if value is None:
        raise ImageError("there is no image in this row")
    return value if isinstance(value, bytes) else read_file(resolve(str(value), folder, rules), rules.memory_limit)


def resolve(name: str, folder: Path, rules: ReadRules) -> Path:
    """The path of a file name in a table. Backslashes become slashes, unless a file with backslashes exists.

    Raises:
        UnsafeInputError: the file is outside the data folder.
    """
    name = name.strip()
    if "\\" in name and not (folder / name).exists():
        name = name.replace("\\", "/")
    path = folder / name if rules.allow_outside else inside(rules.root, str(folder.absolute() / name))
    if path is None:
        raise UnsafeInputError(
            f"{valid_text(name)} is outside {valid_text(str(rules.root))}. Pass --allow-outside (in configs "
            "allow_outside) to read it"
        )
    return path


def list_parquet(path: Path, name: str, column: str | None, with_rows: bool, rules: ReadRules) -> Iterator[ImageItem]:
    """The images of a Parquet file; arguments as in `list_images`."""
    size, number = path.stat().st_size, 0
    with open_parquet(path) as table:
        schema = table.schema_arrow
        _check_num_rows(path, table.metadata.num_rows, size, rules)
        if table.metadata.num_rows == 0:
            return
        texts = [field.name for field in schema if is_text(field.type)]
        groups = range(table.num_row_groups if texts else 0)
        first_rows = next((to_rows(batch) for group in groups for batch in read_columns(table, texts, group)), [])
        image = find_image_column(schema, first_rows, column, str(path))
        plain = _plain_columns(schema, image) if with_rows else []
        for group in range(table.num_row_groups):
            num_rows = table.metadata.row_group(group).num_rows
            rows = (row for batch in read_columns(table, plain, group) for row in to_rows(batch))
            for row_index, row in enumerate(rows if plain else [{}] * num_rows):
                read = partial(_read_parquet, path, image, group, row_index, rules)
                yield ImageItem(f"{name}:{number}", size, read, row)
                number += 1


def _check_num_rows(path: Path, num_rows: int, size: int, rules: ReadRules) -> None:
    if num_rows * _ROW_BYTES > max(rules.memory_limit * GIB, 4 * size):
        raise MemoryLimitError(
            f"{path} lists {num_rows:,} rows in {size / 2**20:.3g} MiB, more than the memory limit of "
            f"{rules.memory_limit:g} GiB allows. Raise it with --memory-limit (in configs memory_limit)"
        )


def _plain_columns(schema: pa.Schema, image: str) -> list[str]:
    return [field.name for field in schema if field.name != image and _is_plain(field.type)]


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return is_text(kind.value_type)
    return is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _read_parquet(path: Path, column: str, group: int, row_index: int, rules: ReadRules) -> bytes:
    values = _row_group(path, column, group, rules.memory_limit)
    if isinstance(values, MemoryLimitError):
        raise MemoryLimitError(str(values))
    return read_value(values[row_index].as_py(), path.parent, rules)


@lru_cache(maxsize=2)
def _row_group(path: Path, column: str, group: int, memory_limit: float) -> Any:
    """A column of a row group, or the error if it expands too much: each of its rows would expand it again."""
    with open_parquet(path) as table:
        try:
            return load_columns(table, [column], group, size=path.stat().st_size, memory_limit=memory_limit)[column]
        except MemoryLimitError as error:
            return error


def holds_images(path: Path) -> bool:
    """Whether a Parquet file has a column of bytes; a file without one, next to images, is a table about them."""
    with open_parquet(path) as table:
        return any(_holds_images(field.type) for field in table.schema_arrow)


def list_saved_dataset(
    folder: Path, column: str | None, split: str | None, with_rows: bool, rules: ReadRules
) -> Iterator[ImageItem]:
    """The images of a saved dataset; arguments as in `list_images`."""
    dataset = open_saved_dataset(folder, split)
    if not len(dataset):
        return
    dataset = undecoded(dataset)
    schema = dataset.features.arrow_schema
    first_rows = dataset.select(range(min(100, len(dataset))))
    image = find_image_column(schema, first_rows, column, str(folder))
    plain = _plain_columns(schema, image) if with_rows else []
    rows = dataset.select_columns(plain) if plain else [{}] * len(dataset)
    images, size = dataset.select_columns([image]), dataset.data.nbytes
    for number, row in enumerate(rows):
        read = partial(_read_cell, images, image, number, folder, rules)
        yield ImageItem(f"{split or dataset.split or folder.name}:{number}", size, read, row)


def _read_cell(dataset: Any, column: str, number: int, folder: Path, rules: ReadRules) -> bytes:
    return read_value(dataset[number][column], folder, rules)


def undecoded(dataset: Any) -> Any:
    """A dataset that returns its images undecoded, as they are stored."""
    from datasets import Image

    for name, kind in (dataset.features or {}).items():
        if isinstance(kind, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    return dataset
