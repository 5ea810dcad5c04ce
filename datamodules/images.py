"""`ImageData`: anyone's images as squares, for codebook usage. It knows no tokenizer."""

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

from .sharding import check_positive, deal

Placed = tuple[int, ImageItem]
Item = TypeVar("Item")


def crop_center(image: Image.Image, size: int) -> Image.Image:
    """The central (size, size) square after the short side was brought to `size` (ADM; Dhariwal & Nichol, 2021).

    Halved by a box filter while the short side is at least twice `size`, since a bicubic filter alone would alias.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def read_squares(placed: Sequence[Placed], image_size: int, memory_limit: float = MEMORY_LIMIT) -> ImageBatch:
    """Images with their places as a batch of squares; those that cannot be read are named instead."""
    images, places, corrupt = [], [], []
    for place, item in placed:
        try:
            images.append(to_tensor(crop_center(read_image(item, memory_limit), image_size)))
            places.append(place)
        except ImageError as error:
            corrupt.append((item.name, str(error)))
    stacked = torch.stack(images) if images else torch.zeros(0, 3, image_size, image_size, dtype=torch.uint8)
    return ImageBatch(stacked, torch.tensor(places, dtype=torch.int64), tuple(corrupt))


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    items = iter(items)
    return iter(lambda: list(islice(items, size)), [])


class _Streamed(IterableDataset[list[Placed]]):
    """Batches of a rank, of a stream that begins anew with each loop."""

    def __init__(self, items: Iterable[ImageItem], rank: int, world_size: int, batch_size: int) -> None:
        self.items, self.rank, self.world_size, self.batch_size = items, rank, world_size, batch_size

    def __iter__(self) -> Iterator[list[Placed]]:
        return _batches(islice(enumerate(self.items), self.rank, None, self.world_size), self.batch_size)


class ImageModule(LightningDataModule, ABC):
    """Square images for codebook counts: a validation loader of `ImageBatch`es, and what identifies the images.

    Attributes:
        image_size: side of the squares in pixels.
    """

    image_size: int

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything here that can change a number."""

    def outcome(self) -> dict[str, Any]:
        """What became of the images, once all were read; it is stored with the counts."""
        return {}


class ImageData(ImageModule):
    """Images as central squares, dealt to ranks in turn: each is met once, and nothing is padded.

    On this machine they come in the order of their names. A dataset on the Hub is streamed: every rank reads all of it
    and decodes its own part, so for many ranks download it first.

    Args:
        source: a folder, Parquet, WebDataset tars, a saved dataset, or a name on the Hub; see `open_images`.
        image_size: side of the squares in pixels.
        batch_size: images a batch.
        limit: number of images to use, from the start; None uses all.
        num_workers: processes that decode; 0 decodes in this one, as is always done for streams.
        column: of the images, where there are columns and several could be it.
        split: of a dataset; None takes the only one, on the Hub "train".
        revision: commit, branch or tag of a dataset on the Hub.
        max_corrupt: share of the images, over all ranks, that may be unreadable; they are skipped and named.
        allow_outside: read files that tables name outside the folder of the data.
        memory_limit: GiB that one image, or one row group of Parquet, may take.

    Raises:
        ValueError: for arguments that cannot be; in `setup` for a source that is missing or holds no image; where too
            many images are corrupt.
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
            raise ConfigValueError(f"num_workers must be 0 (decode in this process) or more, got {num_workers}")
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
        """Everything here that can change a number."""
        chosen = {"column": self.column, "split": self.split}
        return {
            "images_sha256": self.images().version,
            "image_size": self.image_size,
            "limit": self.limit,
            **{name: value for name, value in chosen.items() if value is not None},
        }

    def outcome(self) -> dict[str, Any]:
        """Names of the corrupt images."""
        return {"corrupt": self.corrupt.names}

    def setup(self, stage: str) -> None:
        """Fail over images and ranks here, before a model loads."""
        self.images()
        deal((), self.trainer)

    def val_dataloader(self) -> DataLoader[Any]:
        """This rank's images as `ImageBatch`, corrupt ones left out."""
        read = partial(read_squares, image_size=self.image_size, memory_limit=self.memory_limit)
        items = self.images().items
        if isinstance(items, Sequence):
            batches = list(_batches(deal(list(enumerate(items)), self.trainer), self.batch_size))
            return DataLoader(batches, batch_size=None, num_workers=self.num_workers, collate_fn=read)  # type: ignore[arg-type]
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return DataLoader(_Streamed(items, rank, world_size, self.batch_size), batch_size=None, collate_fn=read)

    def on_before_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch:
        """Count what was read, and what could not be."""
        self.num_read += len(batch.images) + len(batch.corrupt)
        self.corrupt.add(BrokenImage(*image) for image in batch.corrupt)
        return batch

    def teardown(self, stage: str) -> None:
        """Bring together what the ranks met; name what was skipped, or fail if that was too much."""
        if self.trainer is not None and self.trainer.world_size > 1:
            met: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(met, (self.num_read, self.corrupt.images))
            self.num_read = sum(num_read for num_read, _ in met)
            self.corrupt.images = sorted(image for _, images in met for image in images)
        self.corrupt.check(self.num_read)
        if self.corrupt.images:
            rank_zero_warn(self.corrupt.in_words())
