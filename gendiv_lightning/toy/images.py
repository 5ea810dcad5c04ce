"""`PostcardImages`: images of the toy dataset, for codebook counts without image files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from gendiv_lightning.datamodules.images import ImageModule
from gendiv_lightning.datamodules.sharding import check_positive, shard
from gendiv_lightning.errors import ConfigValueError
from gendiv_lightning.records import ImageBatch
from gendiv_lightning.toy.postcards import NUM_IMAGES, SIZE, render


class PostcardImages(ImageModule):
    """Distinct postcards, drawn uniformly from the dataset.

    Args:
        num_images: number of postcards, at most 52,500.
        seed: seed of the draw.
        batch_size: images per batch.

    Raises:
        ValueError: a count is out of range.
    """

    image_size = SIZE

    def __init__(self, num_images: int = 2048, seed: int = 0, batch_size: int = 64) -> None:
        super().__init__()
        check_positive(num_images=num_images, batch_size=batch_size)
        if num_images > NUM_IMAGES:
            raise ConfigValueError(f"num_images must be at most {NUM_IMAGES}, the size of Postcards, got {num_images}")
        self.num_images, self.seed, self.batch_size = num_images, seed, batch_size
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more ranks than images

    @classmethod
    def all(cls) -> PostcardImages:
        """All 52,500 postcards."""
        return cls(num_images=NUM_IMAGES)

    def identity(self) -> dict[str, Any]:
        """Everything that can change a number."""
        return {"images": "postcards", "num_images": self.num_images, "seed": self.seed}

    def setup(self, stage: str) -> None:
        """Check the distribution over ranks before a model loads."""
        shard((), self.trainer)

    def val_dataloader(self) -> DataLoader[Any]:
        """This rank's postcards as `ImageBatch`; an index is the number of a postcard in the dataset."""
        shuffled = torch.randperm(NUM_IMAGES, generator=torch.Generator().manual_seed(self.seed))
        indices = shard(shuffled[: self.num_images].tolist(), self.trainer)
        starts = range(0, len(indices), self.batch_size)
        batches = [torch.tensor(indices[start : start + self.batch_size]) for start in starts]
        return DataLoader(batches, batch_size=None, collate_fn=_render)  # type: ignore[arg-type]


def _render(indices: Tensor) -> ImageBatch:
    return ImageBatch(render(indices), indices)
