"""Anyone's images, grouped by prompt: folders, tables, Parquet, WebDataset tars. Read a prompt at a time.

A first pass reads names and prompts only, a second one the images of one prompt after the other: memory holds the
images of one prompt, however many there are.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from gendiv_lightning.batch import PromptSamples

from .images import SUFFIXES

PROMPT_COLUMNS = ("prompt", "caption", "text")
TABLES = ("metadata.jsonl", "metadata.csv")
BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # Pillow's words for a broken file


class ImageRecord(NamedTuple):
    """One image, not read yet.

    Attributes:
        name: where it is, for messages.
        prompt: the base prompt that it belongs to.
        read: gives the bytes of the file.
        paraphrase: number of its wording.
        path: number of its sampler path; None is a path of its own.
    """

    name: str
    prompt: str
    read: Callable[[], bytes]
    paraphrase: int = 0
    path: int | None = None


def find_images(source: Path, column: str | None = None) -> dict[str, list[ImageRecord]]:
    """The images of a source by prompt, in the order in which prompts first appear; nothing is decoded.

    A source is a folder with a sub-folder a prompt (its name is the prompt, or the text of `prompt.txt` in it); a
    folder with `metadata.jsonl` or `metadata.csv` (columns `file_name` and a prompt); Parquet with a column of images
    and one of prompts; or WebDataset tars with `.json` or `.txt` beside each image.

    Args:
        source: folder or file.
        column: where the prompt stands; by default `prompt`, `caption` or `text`. Columns `paraphrase` and `path` are
            read where they are there.

    Raises:
        ValueError: it is none of these, the column is missing, or there is no image.
    """
    if not source.exists():
        raise ValueError(f"{source} is missing")
    groups: dict[str, list[ImageRecord]] = {}
    for record in _records(source, column):
        groups.setdefault(record.prompt, []).append(record)
    if not groups:
        raise ValueError(
            f"{source} holds no images by prompt: give a folder with a sub-folder of images a prompt, one with "
            f"{' or '.join(TABLES)}, Parquet files, or WebDataset tars"
        )
    return groups


def load_prompts(
    groups: Mapping[str, list[ImageRecord]], resize: int | None = None, max_corrupt: float = 0.01
) -> Iterator[tuple[PromptSamples, list[str]]]:
    """All images of a prompt at a time, and the names of those that could not be read.

    Args:
        groups: of `find_images`.
        resize: side in pixels that all images are brought to (bicubic, the whole image); None keeps their sizes.
        max_corrupt: share of all images that may be corrupt.

    Raises:
        ValueError: too many images are corrupt, or the images of a prompt differ in size.
    """
    num_images, corrupt = sum(map(len, groups.values())), list[str]()
    unnamed = list[str]()  # corrupt images of prompts without any other
    for place, (prompt, records) in enumerate(groups.items()):
        images, read, broken = [], [], []
        for record in records:
            try:
                images.append(_decode(record.read(), resize))
                read.append(record)
            except BROKEN:
                broken.append(record.name)
        corrupt += broken
        _check_corrupt(corrupt, num_images, max_corrupt)
        sizes = {tuple(image.shape[1:]) for image in images}
        if len(sizes) > 1:
            raise ValueError(
                f"images of the prompt {prompt[:60]!r} differ in size, {' and '.join(map(str, sorted(sizes)[:2]))}: "
                "bring them to one with --resize"
            )
        if images:
            yield _to_samples(prompt, place, read, images), unnamed + broken
            unnamed = []
        else:
            unnamed += broken
    if unnamed:
        warnings.warn(f"no image of some prompts could be read: {', '.join(unnamed)}", stacklevel=2)


def read_images(files: Sequence[Path], max_corrupt: float = 0.01) -> Iterator[Tensor]:
    """Images (3, H, W) uint8 of files, in their own sizes; corrupt ones are left out, and named at the end.

    Raises:
        ValueError: more than a share of `max_corrupt` cannot be read.
    """
    broken: list[str] = []
    for file in files:
        try:
            image = _decode(file.read_bytes(), None)
        except BROKEN:
            broken.append(str(file))
            _check_corrupt(broken, len(files), max_corrupt)
            continue
        yield image
    if broken:
        warnings.warn(f"{len(broken)} corrupt images were skipped: {', '.join(broken)}", stacklevel=2)


def _check_corrupt(broken: Sequence[str], num_images: int, max_corrupt: float) -> None:
    if len(broken) > max_corrupt * num_images:
        raise ValueError(
            f"{len(broken)} of {num_images} images are corrupt, the last ones {', '.join(broken[-3:])}; at most a "
            f"share of {max_corrupt:g} may be: fetch them again, or allow more with --max-corrupt"
        )


def _to_samples(prompt: str, place: int, records: list[ImageRecord], images: list[Tensor]) -> PromptSamples:
    # Paths that are not told are each image's own, beside all that are.
    first_free = 1 + max((record.path for record in records if record.path is not None), default=-1)
    paths = [first_free + n if record.path is None else record.path for n, record in enumerate(records)]
    return PromptSamples(
        torch.stack(images),
        prompt=prompt,
        place=place,
        paraphrase=torch.tensor([record.paraphrase for record in records]),
        path=torch.tensor(paths),
    )


def _decode(data: bytes, resize: int | None) -> Tensor:
    with Image.open(io.BytesIO(data)) as file:
        if file.mode.startswith(("I", "F")):  # Pillow would clip them at 255
            raise ValueError(f"pixels of mode {file.mode}, more than 8 bits: convert the image to 8 bits a channel")
        image = file.convert("RGB")
    if resize is not None and image.size != (resize, resize):
        image = image.resize((resize, resize), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _records(source: Path, column: str | None) -> Iterator[ImageRecord]:
    if source.is_file():
        readers = {".parquet": _from_parquet, ".tar": _from_tar, ".jsonl": _from_table, ".csv": _from_table}
        if source.suffix not in readers:
            raise ValueError(f"{source} is no {', '.join(readers)} file and no folder")
        yield from readers[source.suffix](source, column)
        return
    for name in TABLES:
        if (source / name).is_file():
            yield from _from_table(source / name, column)
            return
    tars, tables = sorted(source.glob("*.tar")), sorted(source.glob("*.parquet"))
    for tar in tars:
        yield from _from_tar(tar, column)
    for table in tables:
        yield from _from_parquet(table, column)
    if not tars and not tables:
        yield from _from_folders(source)


def _from_folders(source: Path) -> Iterator[ImageRecord]:
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        text = folder / "prompt.txt"
        prompt = text.read_text(encoding="utf-8").strip() if text.is_file() else folder.name
        for file in files:
            yield ImageRecord(str(file), prompt, file.read_bytes)


def _from_table(path: Path, column: str | None) -> Iterator[ImageRecord]:
    with path.open(encoding="utf-8", newline="") as lines:
        rows: Iterable[dict[str, Any]] = (
            csv.DictReader(lines) if path.suffix == ".csv" else (json.loads(line) for line in lines if line.strip())
        )
        for row in rows:
            if "file_name" not in row:
                raise ValueError(f"{path} has no column file_name, only {', '.join(row)}")
            file = path.parent / row["file_name"]
            yield _record(str(file), row, column, file.read_bytes, path)


def _from_parquet(path: Path, column: str | None) -> Iterator[ImageRecord]:
    table = pq.ParquetFile(path)
    image = next((field.name for field in table.schema_arrow if field.name in ("image", "jpg", "png", "bytes")), None)
    if image is None:
        raise ValueError(f"{path} has no column image with the images, only {', '.join(table.schema_arrow.names)}")
    plain = [name for name in table.schema_arrow.names if name != image and name in _wanted(column)]
    for group in range(table.num_row_groups):
        for number, row in enumerate(table.read_row_group(group, plain).to_pylist()):
            read = partial(_read_parquet, path, image, group, number)
            yield _record(f"{path} (row {number} of group {group})", row, column, read, path)


def _read_parquet(path: Path, image: str, group: int, number: int) -> bytes:
    value = _row_group(path, image, group)[number].as_py()
    return value["bytes"] if isinstance(value, dict) else value


@lru_cache(maxsize=2)
def _row_group(path: Path, image: str, group: int) -> Any:
    return pq.ParquetFile(path).read_row_group(group, [image])[image]


def _from_tar(path: Path, column: str | None) -> Iterator[ImageRecord]:
    rows: dict[str, dict[str, Any]] = {}
    images: dict[str, tarfile.TarInfo] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, suffix = member.name.rpartition(".")
            if f".{suffix.lower()}" in SUFFIXES:
                images[key] = member
            elif suffix in ("json", "txt") and (file := tar.extractfile(member)):
                text = file.read().decode()
                rows.setdefault(key, {}).update(json.loads(text) if suffix == "json" else {"prompt": text.strip()})
    for key, member in images.items():
        read = partial(_read_slice, path, member.offset_data, member.size)
        yield _record(f"{path}:{member.name}", rows.get(key, {}), column, read, path)


def _read_slice(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def _wanted(column: str | None) -> tuple[str, ...]:
    return (*((column,) if column else PROMPT_COLUMNS), "paraphrase", "path")


def _record(
    name: str, row: Mapping[str, Any], column: str | None, read: Callable[[], bytes], source: Path
) -> ImageRecord:
    columns = (column,) if column else PROMPT_COLUMNS
    prompt = next((row[c] for c in columns if row.get(c) is not None), None)
    if prompt is None:
        raise ValueError(
            f"{source}: {name} has no prompt; it was looked for in {', '.join(columns)}, and there are "
            f"{', '.join(map(str, row)) or 'no columns'}: name it with --column"
        )
    path = row.get("path")
    return ImageRecord(name, str(prompt), read, int(row.get("paraphrase") or 0), None if path is None else int(path))
