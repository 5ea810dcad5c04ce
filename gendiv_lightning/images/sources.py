"""Open images on this machine or on the Hugging Face Hub in a fixed order, for `gendiv reference` and `ImageData`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa

from gendiv_lightning.errors import OptionConflictError, UnsafeInputError
from gendiv_lightning.images.decode import MEMORY_LIMIT, ImageItem, is_image
from gendiv_lightning.images.layouts import list_images, select_samples
from gendiv_lightning.images.tables import ReadRules, find_image_column, read_value, undecoded
from gendiv_lightning.storage.sources import data_files, dataset_name, describe_source, hash_listing
from gendiv_lightning.storage.tar import read_tar, sample_key


@dataclass(frozen=True)
class ImageSource:
    """Images in a fixed order, the same each time and on each rank.

    Attributes:
        name: name of the folder, file or dataset.
        version: hash of all names and sizes, or the commit of a dataset.
        items: a list, or for a dataset on the Hub a stream, which restarts with each loop.
        notes: lines about ignored files, and how the layout was interpreted.
    """

    name: str
    version: str
    items: Iterable[ImageItem]
    notes: Sequence[str] = ()

    @property
    def num_images(self) -> int | None:
        """Number of images; None for a stream."""
        return len(self.items) if isinstance(self.items, Sequence) else None


def open_images(
    source: str,
    *,
    column: str | None = None,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    allow_outside: bool = False,
    memory_limit: float = MEMORY_LIMIT,
) -> ImageSource:
    """The images of a folder or file (see `list_images`), or of a dataset on the Hugging Face Hub, by name.

    Args:
        source: path or name.
        column: column with the images, if several columns could contain them.
        config: configuration of a dataset on the Hub.
        split: split of a dataset; None takes the only one, or "train" on the Hub.
        revision: commit, branch or tag of a dataset on the Hub.
        limit: number of images to use, from the start.
        allow_outside: also read files outside the data folder, if a table names them.
        memory_limit: memory in GiB that one image, or one Parquet row group, may take.

    Raises:
        ValueError: the source does not exist or contains no images, or an option does not apply to it.
    """
    if Path(source).exists():
        if config is not None or revision is not None:
            raise OptionConflictError(
                f"config and revision apply to datasets on the Hub, but {source} is a local path. Remove them"
            )
        listing = list_images(
            Path(source), column=column, split=split, allow_outside=allow_outside, memory_limit=memory_limit
        )
        kept = listing.items[:limit]
        version = hash_listing([(item.name, item.size) for item in kept])
        return ImageSource(dataset_name(source), version, kept, listing.lines())
    version = describe_source(source, revision)["version"]
    images = _HubImages(source, config, split or "train", version, column, limit, memory_limit)
    return ImageSource(source, version, images)


@dataclass(frozen=True)
class _HubImages:
    """Images of a dataset, streamed: only images that are iterated over are downloaded."""

    dataset: str
    config: str | None
    split: str
    revision: str | None
    column: str | None
    limit: int | None
    memory_limit: float = MEMORY_LIMIT

    def __iter__(self) -> Iterator[ImageItem]:
        files = data_files(self.dataset, self.config, self.split, self.revision)
        # For tars `datasets` would use the columns of the first five samples, and lose .png after .jpg.
        is_tar = bool(files) and all(file.lower().endswith(".tar") for file in files)
        yield from islice(self._from_tars(files) if is_tar else self._from_rows(), self.limit)

    def _from_tars(self, files: Sequence[str]) -> Iterator[ImageItem]:
        for address in files:
            members = (file for file in read_tar(address, self.memory_limit) if is_image(file.name))
            # Images are read while the stream is at them: masks are known only after the whole sample.
            loaded = (file._replace(read=partial(bytes, file.read())) for file in members)
            for _, sample in groupby(loaded, key=lambda file: sample_key(file.name)[0]):
                taken, _ = select_samples(list(sample), is_tar=True, kind=self.column)
                yield from (ImageItem(f"{Path(address).name}/{file.name}", file.size, file.read) for file in taken)

    def _from_rows(self) -> Iterator[ImageItem]:
        from datasets import load_dataset

        rows = load_dataset(self.dataset, self.config, split=self.split, revision=self.revision, streaming=True)
        column = None
        for number, row in enumerate(undecoded(rows)):
            column = column or self._find_column(rows.features, row)
            yield ImageItem(f"{self.split}:{number}", 0, partial(self._fetch, row[column]))

    def _find_column(self, features: Any, row: Mapping[str, Any]) -> str:
        schema = features.arrow_schema if features else pa.Table.from_pylist([row]).schema
        return find_image_column(schema, [row], self.column, self.dataset)

    def _fetch(self, value: Any) -> bytes:
        """Bytes of an image; addresses may point to the Hub or the web, file names to the dataset's own folder."""
        address = value.get("path") if isinstance(value, Mapping) and value.get("bytes") is None else None
        if address is None or "://" not in address:
            return read_value(value, Path(self.dataset), ReadRules(Path(self.dataset), False, self.memory_limit))
        if address.startswith("file") or "::file" in address:
            raise UnsafeInputError(f"{address} is a file on this machine, not in the dataset. Do not use this dataset")
        with fsspec.open(address) as file:
            return file.read()
