"""Images in the columns of tables: Parquet files, and datasets as `datasets.save_to_disk` writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gendiv_lightning.images.decode import ImageItem, is_image


def find_image_column(row: Mapping[str, Any], column: str | None, where: str) -> str:
    """The column of a row that holds an image: bytes, {bytes, path}, or the path of a file.

    Args:
        row: one row, whole.
        column: which, if it was told; else `image`, or the only one that can be it.
        where: for the message.

    Raises:
        ValueError: there is none, or several could be it.
    """
    column = column or next((name for name in row if name.lower() == "image"), None)
    found = [name for name, value in row.items() if _may_be_image(value)] if column is None else [column]
    if len(found) == 1 and found[0] in row:
        return found[0]
    what = (
        f"{len(found)} columns that may hold the images, {', '.join(found)}"
        if len(found) > 1
        else (f"no column {column or 'of images'}")
    )
    raise ValueError(
        f"{where} has {what}. Its columns are {', '.join(row)}; name the one with the images, as bytes or as paths of "
        "files, with --image-column (in configs column)"
    )


def _may_be_image(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value.keys() & {"bytes", "path"})
    return isinstance(value, bytes) or (isinstance(value, str) and is_image(value))


def read_value(value: Any, folder: Path) -> bytes:
    """Bytes of an image in a column; paths start from a folder. ValueError where there is none."""
    if isinstance(value, Mapping):
        value = value["path"] if value.get("bytes") is None else value["bytes"]
    if value is None:
        raise ValueError("there is no image in this row")
    return value if isinstance(value, bytes) else (folder / value).read_bytes()


def list_parquet(path: Path, name: str, column: str | None, with_rows: bool) -> Iterator[ImageItem]:
    """The images of a Parquet file; arguments as in `list_images`."""
    table, size, number = pq.ParquetFile(path), path.stat().st_size, 0
    first = next((batch.to_pylist()[0] for batch in table.iter_batches(1)), None)
    if first is None:
        return
    image = find_image_column(first, column, str(path))
    plain = _plain_columns(table.schema_arrow, image) if with_rows else []
    for group in range(table.num_row_groups):
        num_rows = table.metadata.row_group(group).num_rows
        rows = table.read_row_group(group, plain).to_pylist() if plain else [{}] * num_rows
        for place, row in enumerate(rows):
            yield ImageItem(f"{name}:{number}", size, partial(_read_parquet, path, image, group, place), row)
            number += 1


def _plain_columns(schema: pa.Schema, image: str) -> list[str]:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
    return [field.name for field in schema if field.name != image and any(is_kind(field.type) for is_kind in kinds)]


def _read_parquet(path: Path, column: str, group: int, place: int) -> bytes:
    return read_value(_row_group(path, column, group)[place].as_py(), path.parent)


@lru_cache(maxsize=2)
def _row_group(path: Path, column: str, group: int) -> Any:
    return pq.ParquetFile(path).read_row_group(group, [column])[column]


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder is one that `datasets.save_to_disk` wrote."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def list_saved_dataset(folder: Path, column: str | None, split: str | None, with_rows: bool) -> Iterator[ImageItem]:
    """The images of a saved dataset; arguments as in `list_images`."""
    from datasets import DatasetDict, load_from_disk

    dataset: Any = load_from_disk(str(folder))
    if isinstance(dataset, DatasetDict):
        if split is None and len(dataset) == 1:
            split = next(iter(dataset))
        if split not in dataset:
            raise ValueError(f"{folder} has the splits {', '.join(dataset)}, not {split}: name one with --split")
        dataset = dataset[split]
    if not len(dataset):
        return
    dataset = undecoded(dataset)
    image = find_image_column(dataset[0], column, str(folder))
    plain = _plain_columns(dataset.features.arrow_schema, image) if with_rows else []
    rows = dataset.select_columns(plain) if plain else [{}] * len(dataset)
    images, size = dataset.select_columns([image]), dataset.data.nbytes
    for number, row in enumerate(rows):
        yield ImageItem(
            f"{split or folder.name}:{number}", size, partial(_read_cell, images, image, number, folder), row
        )


def _read_cell(dataset: Any, column: str, number: int, folder: Path) -> bytes:
    return read_value(dataset[number][column], folder)


def undecoded(dataset: Any) -> Any:
    """A dataset whose images come as they were stored."""
    from datasets import Image

    for name, kind in (dataset.features or {}).items():
        if isinstance(kind, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    return dataset
