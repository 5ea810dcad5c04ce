"""Images in the columns of tables: Parquet files, and datasets as `datasets.save_to_disk` writes them."""

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
_ROW_BYTES = 256  # that a listed image takes at least
_BASE64 = re.compile(r"(data:image/[\w.+-]+;base64,)?[A-Za-z0-9+/_-]{64,}={0,2}\s*")


class ReadRules(NamedTuple):
    """How the values of image columns are read.

    Attributes:
        root: the folder of the data, which holds all files that tables name.
        allow_outside: read files outside of it.
        memory_limit: GiB that one image, or one row group of Parquet, may take.
    """

    root: Path
    allow_outside: bool = False
    memory_limit: float = MEMORY_LIMIT


def find_image_column(
    schema: pa.Schema, first_rows: Iterable[Mapping[str, Any]], column: str | None, where: str
) -> str:
    """The column that holds images: bytes, {bytes, path}, or names of files. Types decide, and not the first row.

    Args:
        schema: of the table.
        first_rows: some rows, from which the first text of a column is taken.
        column: which, if it was named; else `image`, or the only one that can be it.
        where: for the message.

    Raises:
        ValueError: there is none, several could be it, or its values cannot be read as images.
    """
    chosen = column if column in schema.names else find_name(schema.names, [column or "image"])
    texts = {field.name: _first_text(first_rows, field.name) for field in schema if is_text(field.type)}
    found = [chosen] if chosen else [field.name for field in schema if _holds_images(field.type)]
    if not found and column is None:
        found = [name for name, text in texts.items() if text and is_image(text) and "://" not in text]
    if len(found) != 1:
        what = (
            f"{len(found)} columns that may hold the images, {', '.join(found)}"
            if found
            else f"no column {column or 'of images'}"
        )
        raise FileFormatError(
            f"{where} has {what}. Its columns are {', '.join(schema.names)}; name the one with the images, as bytes or "
            "as names of files, with --image-column (in configs column)"
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
    """Raise ValueError for a column whose type, or whose first text, is not that of an image."""
    column = f"{where}: the column {field.name!r}"
    if not (_holds_images(field.type) or is_text(field.type)):
        raise FileFormatError(
            f"{column} holds {field.type}, not one image per row as bytes or as the name of a file. Write a row for "
            "each image, or name another column with --image-column (in configs column)"
        )
    if text is None:
        return
    if re.match(r"[a-zA-Z][\w+.-]*://", text):
        raise FileFormatError(f"{column} holds addresses ({text[:60]}), not images: download the images first")
    if not is_image(text) and _BASE64.fullmatch(text):
        raise FileFormatError(f"{column} holds base64 text ({text[:20]}...), not bytes: decode it first")


def read_value(value: Any, folder: Path, rules: ReadRules) -> bytes:
    """Bytes of an image in a column; names of files start from a folder.

    Raises:
        OSError: the file is missing, or is not a regular file.
        ValueError: there is no image, or its name leads out of the folder.
    """
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if value is None:
        raise ImageError("there is no image in this row")
    return value if isinstance(value, bytes) else read_file(resolve(str(value), folder, rules), rules.memory_limit)


def resolve(name: str, folder: Path, rules: ReadRules) -> Path:
    """The file that a table means by a name; backslashes are slashes where there is no file with them in its name.

    Raises:
        ValueError: it is outside the folder.
    """
    name = name.strip()
    if "\\" in name and not (folder / name).exists():
        name = name.replace("\\", "/")
    path = folder / name if rules.allow_outside else inside(rules.root, str(folder.absolute() / name))
    if path is None:
        raise UnsafeInputError(
            f"{valid_text(name)} leads out of {valid_text(str(rules.root))}: pass --allow-outside (in configs "
            "allow_outside) if it should be read"
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
            for place, row in enumerate(rows if plain else [{}] * num_rows):
                read = partial(_read_parquet, path, image, group, place, rules)
                yield ImageItem(f"{name}:{number}", size, read, row)
                number += 1


def _check_num_rows(path: Path, num_rows: int, size: int, rules: ReadRules) -> None:
    if num_rows * _ROW_BYTES > max(rules.memory_limit * GIB, 4 * size):
        raise MemoryLimitError(
            f"{path} lists {num_rows:,} rows in {size / 2**20:.3g} MiB, more than the memory limit of "
            f"{rules.memory_limit:g} GiB allows: raise it with --memory-limit (in configs memory_limit)"
        )


def _plain_columns(schema: pa.Schema, image: str) -> list[str]:
    return [field.name for field in schema if field.name != image and _is_plain(field.type)]


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return is_text(kind.value_type)
    return is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _read_parquet(path: Path, column: str, group: int, place: int, rules: ReadRules) -> bytes:
    return read_value(_row_group(path, column, group, rules.memory_limit)[place].as_py(), path.parent, rules)


@lru_cache(maxsize=2)
def _row_group(path: Path, column: str, group: int, memory_limit: float) -> Any:
    with open_parquet(path) as table:
        return load_columns(table, [column], group, size=path.stat().st_size, memory_limit=memory_limit)[column]


def holds_images(path: Path) -> bool:
    """Whether a Parquet file has a column of bytes; beside images, one without is a table about them."""
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
    """A dataset whose images come as they were stored."""
    from datasets import Image

    for name, kind in (dataset.features or {}).items():
        if isinstance(kind, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    return dataset
