"""Read prompts from a dataset: a local folder, a folder of `save_to_disk`, or a dataset on the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from gendiv_lightning.errors import DatasetError, OptionConflictError, PromptError
from gendiv_lightning.prompts.files import READERS, REMOTE_READERS, read_sample, to_prompts
from gendiv_lightning.records import Prompt
from gendiv_lightning.storage.files import IMAGE_SUFFIXES, File, list_folder, on_disk
from gendiv_lightning.storage.sources import data_files, dataset_name, is_saved_dataset, open_saved_dataset
from gendiv_lightning.storage.tables import Record, Unreadable
from gendiv_lightning.storage.tar import sample_key

_TABLES = (".jsonl", ".csv", ".tsv", ".parquet")
# Names of splits in file names, as `datasets` interprets them.
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_SPLIT = re.compile(rf"(?<![a-z])({'|'.join(sorted(_SPLITS, key=len, reverse=True))})(?![a-z])")


class PromptFiles(NamedTuple):
    """The files of a folder that contain captions.

    Attributes:
        files: files to read: tables, tars, or the texts next to images.
        are_samples: whether these are texts of samples, rather than tables or tars.
        notes: lines about ignored files.
    """

    files: list[File]
    are_samples: bool
    notes: list[str]


def find_prompt_files(folder: Path, split: str | None = None) -> PromptFiles:
    """The files of a folder that contain captions. Linked folders are followed, hidden files are ignored.

    These are its WebDataset tars, or its tables if all have the same suffix, or the .txt and .json next to its images.
    Parquet next to tars is ignored as a table about them. If file names contain splits (train, test, ...), the files of
    one split are returned.

    Args:
        folder: the folder.
        split: the split, if there are several; None takes "train".

    Raises:
        OSError: a folder cannot be listed.
        PromptError: there are no captions, or tables of several kinds.
        DatasetError: there is no such split.
    """
    listing = list_folder(folder)
    by_suffix: dict[str, list[File]] = {}
    for file in listing.files:
        by_suffix.setdefault(PurePosixPath(file.name).suffix.lower(), []).append(file)
    tables = [suffix for suffix in _TABLES if suffix in by_suffix]
    texts = [file for suffix in (".txt", ".json") for file in by_suffix.get(suffix, [])]
    images = {sample_key(file.name)[0] for suffix in IMAGE_SUFFIXES for file in by_suffix.get(suffix, [])}
    next_to_images = [file for file in texts if sample_key(file.name)[0] in images]
    if ".tar" in by_suffix:
        chosen = by_suffix[".tar"]
    elif len(tables) > 1 and not next_to_images:
        counts = " and ".join(f"{len(by_suffix[suffix])} {suffix}" for suffix in tables)
        raise PromptError(f"{folder} contains tables of several kinds, {counts}. Give one of the files instead")
    elif next_to_images:
        chosen = sorted(next_to_images, key=lambda file: file.name)
    else:
        chosen = by_suffix[tables[0]] if tables else by_suffix.get(".json", [])
    if not chosen:
        raise PromptError(
            f"{folder} contains no captions: no {', '.join(_TABLES)}, .tar or .json, and no .txt next to images. Give "
            "a "
            "file, or a folder with such files"
        )
    chosen, others = (
        (chosen, []) if next_to_images and chosen[0] in next_to_images else _of_split(chosen, split, folder)
    )
    num_images = sum(len(by_suffix.get(suffix, ())) for suffix in IMAGE_SUFFIXES)
    left = len(listing.files) - len(chosen) - len(others) - num_images
    notes = [
        *listing.notes,
        *([f"{sum(listing.hidden.values())} hidden files ignored"] if listing.hidden else []),
        *([f"{len(others)} files of other splits were ignored, such as {others[0].name}"] if others else []),
        *([f"{left} files without captions were ignored"] if left else []),
    ]
    return PromptFiles(chosen, chosen[0] in next_to_images, notes)


def _of_split(files: list[File], split: str | None, folder: Path) -> tuple[list[File], list[File]]:
    """The files of a split, and the other files; if no file name contains a split, all files are "train"."""
    splits: dict[str, list[File]] = {}
    for file in files:
        found = _SPLIT.search(file.name.lower())
        splits.setdefault(_SPLITS[found[1]] if found else "", []).append(file)
    if splits.keys() == {""}:
        splits = {"train": files}
    name = _SPLITS.get(split or "train", split)
    if name not in splits:
        known = ", ".join(sorted(filter(None, splits)))
        raise DatasetError(f"{folder} has the splits {known}, not {split or 'train'}. Choose one with --split")
    return splits[name], [file for other, files in splits.items() if other != name for file in files]


def _read_folder(folder: Path, split: str) -> Iterator[Record | Unreadable]:
    found = find_prompt_files(folder, split)
    if found.are_samples:
        for key, sample in groupby(found.files, key=lambda file: sample_key(file.name)[0]):
            yield read_sample(sample, f"{folder.name}/{key}")
        return
    for file in found.files:
        path = on_disk(file)
        yield from READERS[path.suffix.lower()](path)


def stream_prompts(
    name: str,
    *,
    config: str | None = None,
    split: str = "train",
    column: str | None = None,
    id_column: str | None = None,
    revision: str | None = None,
) -> Iterator[Prompt | Unreadable]:
    """Stream the prompts of a Hugging Face dataset (Hub name or local folder); only what is consumed is downloaded.

    Columns and unreadable members are treated as in `scan_prompts`.
    """
    records, named = _stream_records(name, config, split, revision), dataset_name(name)
    return to_prompts(records, column, id_column, named, source=named)


def _stream_records(name: str, config: str | None, split: str, revision: str | None) -> Iterator[Record | Unreadable]:
    folder = Path(name)
    if folder.is_dir() and not is_saved_dataset(folder):
        if config is not None:
            raise OptionConflictError(f"config applies to datasets on the Hub, but {name} is a folder. Remove it")
        yield from _read_folder(folder, split)
        return
    if folder.is_dir():
        # "train" is the default, but not every saved dataset has splits.
        named = None if split == "train" and not (folder / "train").is_dir() else split
        yield from _rows(open_saved_dataset(folder, named), name)
        return
    from datasets import load_dataset  # takes seconds to import

    files = data_files(name, config, split, revision)
    suffixes = {Path(file).suffix for file in files}
    if len(suffixes) == 1 and suffixes <= REMOTE_READERS.keys():
        # `datasets` would download all images, and of tars lose the columns missing from the first five records.
        for file in files:
            yield from REMOTE_READERS[Path(file).suffix](file)
        return
    yield from _rows(load_dataset(name, config, split=split, revision=revision, streaming=True), name)


def _rows(dataset: Any, name: str) -> Iterator[Record]:
    """The rows of a dataset, without images, audio and video."""
    from datasets import Audio, Image, Video

    if dataset.features:
        media = (Audio, Image, Video)
        dataset = dataset.select_columns([c for c, kind in dataset.features.items() if not isinstance(kind, media)])
    for number, columns in enumerate(dataset, start=1):
        yield Record(f"{dataset_name(name)}, record {number}", columns)
