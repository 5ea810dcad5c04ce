"""`ImageData`: images as squares, for counting codebook usage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from gendiv_lightning.errors import ConfigValueError
from gendiv_lightning.images.decode import (
    MEMORY_LIMIT,
    BrokenImage,
    CorruptImages,
    ImageError,
    ImageItem,
    check_memory_limit,
    read_image,
    to_tensor,
)
from gendiv_lightning.images.sources import ImageSource, open_images
from gendiv_lightning.records import ImageBatch

from .sharding import check_positive, shard

IndexedItem = tuple[int, ImageItem]
Item = TypeVar("Item")


def crop_center(image: Image.Image, size: int) -> Image.Image:
    """Resize the short side to `size` and crop the central (size, size) square (ADM; Dhariwal & Nichol, 2021).

    While the short side is at least twice `size`, the image is halved with a box filter, since a bicubic filter alone
    would alias.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def read_squares(indexed: Sequence[IndexedItem], image_size: int, memory_limit: float = MEMORY_LIMIT) -> ImageBatch:
    """Read images as a batch of squares, with their indices; unreadable images are listed with reasons."""
    images, indices, corrupt = [], [], []
    for index, item in indexed:
        try:
            images.append(to_tensor(crop_center(read_image(item, memory_limit), image_size)))
            indices.append(index)
        except ImageError as error:
            corrupt.append((item.name, str(error)))
    stacked = torch.stack(images) if images else torch.zeros(0, 3, image_size, image_size, dtype=torch.uint8)
    return ImageBatch(stacked, torch.tensor(indices, dtype=torch.int64), tuple(corrupt))


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    items = iter(items)
    return iter(lambda: list(islice(items, size)), [])


class _Streamed(IterableDataset[list[IndexedItem]]):
    """Batches of one rank from a stream, which restarts with each loop."""

    def __init__(self, items: Iterable[ImageItem], rank: int, world_size: int, batch_size: int) -> None:
        self.items, self.rank, self.world_size, self.batch_size = items, rank, world_size, batch_size

    def __iter__(self) -> Iterator[list[IndexedItem]]:
        return _batches(islice(enumerate(self.items), self.rank, None, self.world_size), self.batch_size)


class ImageModule(LightningDataModule, ABC):
    """Square images for codebook counts: a validation loader of `ImageBatch`es and the identity of the images.

    Attributes:
        image_size: side of the squares in pixels.
    """

    image_size: int

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """The settings that can change a number."""

    def outcome(self) -> dict[str, Any]:
        """Facts about the images after all of them were read, stored with the counts."""
        return {}


class ImageData(ImageModule):
    """Images as central squares, sharded over ranks: each image occurs once, without padding.

    Local images are ordered by name. A dataset on the Hub is streamed: every rank reads all of it and decodes its own
    part, so download it first if there are many ranks.

    Args:
        source: a folder, Parquet, WebDataset tars, a saved dataset, or a name on the Hub; see `open_images`.
        image_size: side of the squares in pixels.
        batch_size: images per batch.
        limit: number of images to use, from the start; None uses all.
        num_workers: processes for decoding; 0 decodes in the main process, as is always done for streams.
        column: column with the images, if several columns could contain them.
        split: split of a dataset; None takes the only one, or "train" on the Hub.
        revision: commit, branch or tag of a dataset on the Hub.
        max_corrupt: share of the images, over all ranks, that may be unreadable; they are skipped and reported.
        allow_outside: also read files outside the data folder, if a table names them.
        memory_limit: memory in GiB that one image, or one Parquet row group, may take.

    Raises:
        ValueError: an argument is invalid. In `setup`: the source is missing or contains no images. After reading: too
            many images are unreadable.
    """

    def __init__(
        self,
        source: str,
        image_size: int = 256,
        batch_size: int = 16,
        limit: int | None = None,
        num_workers: int = 2,
        column: str | None = None,
        split: str | None = None,
        revision: str | None = None,
        max_corrupt: float = 0.01,
        allow_outside: bool = False,
        memory_limit: float = MEMORY_LIMIT,
    ) -> None:
        super().__init__()
        check_positive(image_size=image_size, batch_size=batch_size, limit=limit)
        if num_workers < 0:
            raise ConfigValueError(
                f"num_workers must be at least 0, got {num_workers}. Use 0 to decode in the main process"
            )
        self.source, self.image_size, self.batch_size, self.limit = source, image_size, batch_size, limit
        self.num_workers, self.column, self.split, self.revision = num_workers, column, split, revision
        self.allow_outside, self.memory_limit = allow_outside, check_memory_limit(memory_limit)
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more ranks than images
        self.corrupt = CorruptImages(max_corrupt)
        self.num_read = 0
        self._images: ImageSource | None = None

    def images(self) -> ImageSource:
        """The images, listed on the first call."""
        if self._images is None:
            self._images = open_images(
                self.source,
                column=self.column,
                split=self.split,
                revision=self.revision,
                limit=self.limit,
                allow_outside=self.allow_outside,
                memory_limit=self.memory_limit,
            )
            self.corrupt.num_images = self._images.num_images
            for note in self._images.notes:
                rank_zero_info(f"{self.source}: {note}")
        return self._images

    def identity(self) -> dict[str, Any]:
        """The settings that can change a number."""
        chosen = {"column": self.column, "split": self.split}
        return {
            "images_sha256": self.images().version,
            "image_size": self.image_size,
            "limit": self.limit,
            **{name: value for name, value in chosen.items() if value is not None},
        }

    def outcome(self) -> dict[str, Any]:
        """Names of the unreadable images."""
        return {"corrupt": self.corrupt.names}

    def setup(self, stage: str) -> None:
        """Check images and ranks before the model is loaded."""
        self.images()
        shard((), self.trainer)

    def val_dataloader(self) -> DataLoader[Any]:
        """The images of this rank as `ImageBatch`es, without unreadable ones."""
        read = partial(read_squares, image_size=self.image_size, memory_limit=self.memory_limit)
        items = self.images().items
        if isinstance(items, Sequence):
            batches = list(_batches(shard(list(enumerate(items)), self.trainer), self.batch_size))
            return DataLoader(batches, batch_size=None, num_workers=self.num_workers, collate_fn=read)  # type: ignore[arg-type]
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return DataLoader(_Streamed(items, rank, world_size, self.batch_size), batch_size=None, collate_fn=read)

    def on_before_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch:
        """Count images and unreadable images."""
        self.num_read += len(batch.images) + len(batch.corrupt)
        self.corrupt.add(BrokenImage(*image) for image in batch.corrupt)
        return batch

    def teardown(self, stage: str) -> None:
        """Combine the counts of all ranks; report skipped images, or raise an error if there are too many."""
        if self.trainer is not None and self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, (self.num_read, self.corrupt.images))
            self.num_read = sum(num_read for num_read, _ in gathered)
            self.corrupt.images = sorted(image for _, images in gathered for image in images)
        self.corrupt.check(self.num_read)
        if self.corrupt.images:
            rank_zero_warn(self.corrupt.in_words())
