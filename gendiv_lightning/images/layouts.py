"""Images on this machine, in any layout: folders, tables of file names, Parquet, WebDataset tars, saved datasets.

They are listed with what stands beside them; nothing is decoded, and nothing unpacked.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gendiv_lightning.images.decode import SUFFIXES, ImageItem, is_image
from gendiv_lightning.images.tables import is_saved_dataset, list_parquet, list_saved_dataset
from gendiv_lightning.prompts.files import Unreadable, read_sample
from gendiv_lightning.storage.tar import File, read_tar

TABLES = ("metadata.jsonl", "metadata.csv")
TELLERS = ("prompt.txt", "metadata.jsonl")  # of a folder: what all images in it have in common
SHARDS = (".parquet", ".tar")


def list_images(
    source: Path, *, column: str | None = None, split: str | None = None, with_rows: bool = False
) -> tuple[list[ImageItem], dict[str, int]]:
    """The images of a folder or file, and how many files were passed over, by suffix.

    Args:
        source: a folder with images, with folders of them, with Parquet files or WebDataset tars, with a table of file
            names, or of `datasets.save_to_disk`; or a .parquet, .tar, .jsonl or .csv file.
        column: of the images, where there are columns and several could be it.
        split: of a saved dataset that has several.
        with_rows: fill the rows of items: columns of Parquet, of a saved dataset and of a table (`metadata.jsonl` or
            `metadata.csv`, where `file_name` names the image); `.json` and `.txt` beside an image. Where nothing of
            this is there, what the folder tells (`prompt.txt`, or a `metadata.jsonl` of one line), else the name of the
            first folder on the way, as `prompt`.

    Raises:
        ValueError: there is no such source, no image in it, or it is unclear which column holds them.
    """
    if not source.exists():
        raise ValueError(f"{source} is missing; paths are taken from the working directory, {Path.cwd()}")
    files = list(_files_of(source)) if source.is_dir() else []
    used = set[str]()
    if source.is_file():
        items = list(_from_file(source, source.name, column, with_rows))
    elif is_saved_dataset(source):
        items, used = list(list_saved_dataset(source, column, split, with_rows)), {file.name for file in files}
    else:
        items = list(_from_folder(source, files, column, with_rows, used))
    if not items:
        raise ValueError(
            f"{source} holds no images ({', '.join(SUFFIXES)}), only {_in_words(files) or 'nothing'}. Give a folder of "
            f"images, with a sub-folder a prompt, with .txt or .json beside each image, or with {' or '.join(TABLES)}; "
            "Parquet files; WebDataset tars; or a folder of datasets.save_to_disk"
        )
    return items, _suffixes(file for file in files if file.name not in used)


def _files_of(folder: Path) -> Iterator[File]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    for name in sorted(found):
        yield File(name, found[name].stat().st_size, found[name].read_bytes)


def _suffixes(files: Iterable[File]) -> dict[str, int]:
    paths = (PurePosixPath(file.name) for file in files)
    return dict(Counter(path.suffix.lower() or path.name for path in paths))


def _in_words(files: Iterable[File]) -> str:
    return ", ".join(f"{number} {suffix}" for suffix, number in sorted(_suffixes(files).items()))


def _from_folder(
    folder: Path, files: list[File], column: str | None, with_rows: bool, used: set[str]
) -> Iterator[ImageItem]:
    """Names of files that play a part go into `used`."""
    shards = [file.name for file in files if file.name.endswith(SHARDS)]
    table = _find_table(folder) if with_rows else None
    if table is not None:
        used.add(table.name)
        items = _from_table(table, column)
    elif shards:
        used.update(shards)
        items = (item for name in shards for item in _from_file(folder / name, name, column, with_rows))
    else:
        items = _beside(files, folder.resolve().name, used) if with_rows else _bare(files)
    for item in items:
        used.add(item.name)
        yield item


def _from_file(path: Path, name: str, column: str | None, with_rows: bool) -> Iterator[ImageItem]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from list_parquet(path, name, column, with_rows)
    elif suffix == ".tar":
        files = read_tar(path)
        for item in _beside(list(files), path.stem, set()) if with_rows else _bare(files):
            yield item._replace(name=f"{name}/{item.name}")
    elif suffix in (".jsonl", ".csv"):
        yield from _from_table(path, column)
    else:
        raise ValueError(f"{path} is no .parquet, .tar, .jsonl or .csv file, and no folder")


def _bare(files: Iterable[File]) -> Iterator[ImageItem]:
    yield from (ImageItem(*file) for file in files if is_image(file.name))


def _beside(files: Sequence[File], root: str, used: set[str]) -> Iterator[ImageItem]:
    """Images with the texts beside them; where there are none at all, with what their folders tell."""
    images = list(_bare(files))
    texts: dict[str, list[File]] = {_stem(image.name): [] for image in images}
    for file in files:
        if file.name.endswith((".txt", ".json")) and _stem(file.name) in texts:
            texts[_stem(file.name)].append(file)
            used.add(file.name)
    if not any(texts.values()):
        yield from _by_folder(files, images, root, used)
        return
    for image in images:
        row = read_sample(texts[_stem(image.name)], root)
        yield image._replace(row={"unreadable": row.where} if isinstance(row, Unreadable) else row)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _by_folder(files: Sequence[File], images: list[ImageItem], root: str, used: set[str]) -> Iterator[ImageItem]:
    told = {_folder(file.name): file for name in TELLERS for file in files if PurePosixPath(file.name).name == name}
    used.update(file.name for file in told.values())
    # A picture of them all may lie beside the folders.
    for image in [image for image in images if _folder(image.name).parts] or images:
        folder = _folder(image.name)
        teller = next((told[place] for place in (folder, *folder.parents) if place in told), None)
        yield image._replace(
            row=_folder_row(teller) if teller else {"prompt": folder.parts[0] if folder.parts else root}
        )


def _folder(name: str) -> PurePosixPath:
    return PurePosixPath(name).parent


def _folder_row(file: File) -> dict[str, Any]:
    text = file.read().decode().strip()
    if file.name.endswith(".txt"):
        return {"prompt": text}
    row = json.loads(text) if text.count("\n") == 0 else None
    if not isinstance(row, dict):
        raise ValueError(f"{file.name} must hold file_name in each line, or one line for all images of its folder")
    return row


def _find_table(folder: Path) -> Path | None:
    """The folder's table of file names, if it has one."""
    found = (folder / name for name in TABLES if (folder / name).is_file())
    return next((path for path in found if "file_name" in next(_read_table(path), {})), None)


def _from_table(path: Path, column: str | None) -> Iterator[ImageItem]:
    where = column or "file_name"
    for row in _read_table(path):
        if where not in row:
            raise ValueError(
                f"{path} has no column {where} with names of files, only {', '.join(row)}: name it with --image-column"
            )
        file = path.parent / row[where]
        yield ImageItem(str(row[where]), file.stat().st_size if file.is_file() else 0, file.read_bytes, row)


def _read_table(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8", newline="") as lines:
        is_csv = path.suffix.lower() == ".csv"
        yield from csv.DictReader(lines) if is_csv else (json.loads(line) for line in lines if line.strip())
