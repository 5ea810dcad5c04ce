"""Images of this machine or of the Hugging Face Hub, in one order: what `gendiv reference` and `ImageData` read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec

from gendiv_lightning.images.decode import ImageItem, is_image
from gendiv_lightning.images.layouts import list_images
from gendiv_lightning.images.tables import find_image_column, read_value, undecoded
from gendiv_lightning.storage.sources import data_files, dataset_name, describe_source, hash_listing
from gendiv_lightning.storage.tar import read_tar


@dataclass(frozen=True)
class ImageSource:
    """Images in their order, the same each time and on each rank.

    Attributes:
        name: of the folder, file or dataset.
        version: hash over names and sizes of all of them, or a dataset's commit.
        items: a list; of a dataset on the Hub a stream, which begins anew with each loop.
        ignored: files that were passed over, by their suffix.
    """

    name: str
    version: str
    items: Iterable[ImageItem]
    ignored: Mapping[str, int]

    @property
    def num_images(self) -> int | None:
        """How many there are; None of a stream."""
        return len(self.items) if isinstance(self.items, Sequence) else None


def open_images(
    source: str,
    *,
    column: str | None = None,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> ImageSource:
    """The images of a folder or file (see `list_images`), or of a dataset on the Hugging Face Hub, by name.

    Args:
        source: path or name.
        column: of the images, where there are columns and several could be it.
        config: configuration of a dataset on the Hub.
        split: of a dataset; None takes the only one there is, on the Hub "train".
        revision: commit, branch or tag of a dataset on the Hub.
        limit: number of images, from the start.

    Raises:
        ValueError: there is no such source, or no image in it.
    """
    if Path(source).exists():
        items, ignored = list_images(Path(source), column=column, split=split)
        kept = items[:limit]
        version = hash_listing([(item.name, item.size) for item in kept])
        return ImageSource(dataset_name(source), version, kept, ignored)
    version = describe_source(source, revision)["version"]
    return ImageSource(source, version, _HubImages(source, config, split or "train", version, column, limit), {})


def ignored_in_words(ignored: Mapping[str, int]) -> str:
    """What was passed over, as a line; "" if nothing."""
    counts = ", ".join(f"{number} {suffix}" for suffix, number in sorted(ignored.items()))
    return f"files that are no images here were ignored: {counts}" if counts else ""


@dataclass(frozen=True)
class _HubImages:
    """A dataset's images, streamed: no more is fetched than what is looped over."""

    dataset: str
    config: str | None
    split: str
    revision: str
    column: str | None
    limit: int | None

    def __iter__(self) -> Iterator[ImageItem]:
        files = data_files(self.dataset, self.config, self.split, self.revision)
        # Of tars `datasets` would take the columns of the first five samples, and lose .png after .jpg.
        is_tar = bool(files) and all(file.endswith(".tar") for file in files)
        yield from islice(self._from_tars(files) if is_tar else self._from_rows(), self.limit)

    def _from_tars(self, files: Sequence[str]) -> Iterator[ImageItem]:
        for address in files:
            for file in read_tar(address):
                if is_image(file.name):
                    data = file.read()  # now, while the stream is here
                    yield ImageItem(f"{Path(address).name}/{file.name}", file.size, partial(bytes, data))

    def _from_rows(self) -> Iterator[ImageItem]:
        from datasets import load_dataset

        rows = load_dataset(self.dataset, self.config, split=self.split, revision=self.revision, streaming=True)
        column = None
        for number, row in enumerate(undecoded(rows)):
            column = column or find_image_column(row, self.column, self.dataset)
            yield ImageItem(f"{self.split}:{number}", 0, partial(_fetch, row[column]))


def _fetch(value: Any) -> bytes:
    address = value.get("path") if isinstance(value, Mapping) and value.get("bytes") is None else None
    if address is None or "://" not in address:
        return read_value(value, Path())
    with fsspec.open(address) as file:
        return file.read()
