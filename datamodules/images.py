"""`ImageFolderData`: a folder of images as squares, for codebook usage. It knows no tokenizer."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gendiv_lightning.batch import ImageBatch

from .loading import check_positive, deal

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


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


class ImageFiles(Dataset[tuple[Tensor, int] | None]):
    """Files as ((3, S, S) uint8, place); None for a corrupt one, which is remembered.

    Raises:
        ValueError: when more than 1 % of the files, and more than 10, have turned out corrupt.
    """

    def __init__(self, files: Sequence[tuple[int, Path]], image_size: int) -> None:
        self.files = files
        self.image_size = image_size
        self.is_corrupt = torch.zeros(len(files), dtype=torch.bool).share_memory_()  # workers write, we read

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: int) -> tuple[Tensor, int] | None:
        place, path = self.files[item]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow's words for a broken file
            self.is_corrupt[item] = True
            self._check_corrupt()
            return None
        pixels = np.array(crop_center(image, self.image_size))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), place

    def stack(self, items: list[tuple[Tensor, int] | None]) -> ImageBatch:
        """The items that could be read, as a batch."""
        read = [item for item in items if item is not None]
        empty = torch.zeros(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
        images = torch.stack([image for image, _ in read]) if read else empty
        return ImageBatch(images, torch.tensor([place for _, place in read], dtype=torch.int64))

    @property
    def corrupt(self) -> list[Path]:
        """Corrupt files met so far."""
        return [self.files[item][1] for item in self.is_corrupt.nonzero().flatten().tolist()]

    def _check_corrupt(self) -> None:
        num_corrupt, num_files = len(self.corrupt), len(self)
        if num_corrupt > max(10, num_files / 100):
            names = ", ".join(str(path) for path in self.corrupt[:10])
            raise ValueError(
                f"{num_corrupt} of {num_files} images are corrupt, at most 1 % (or 10) may be: {names}, ...; "
                "fetch them again or delete them"
            )


class ImageFolderData(LightningDataModule):
    """The images of a folder and its sub-folders, in the order of their relative paths, as central squares.

    Args:
        root: the folder; files ending in .jpg, .jpeg, .png, .webp or .bmp count.
        image_size: side of the squares in pixels.
        batch_size: images a batch.
        limit: number of images to use, from the start; None uses all.
        num_workers: processes that decode; 0 decodes in this one.

    Raises:
        ValueError: for arguments that cannot be; in `setup` for a missing or empty folder.
    """

    def __init__(
        self, root: str, image_size: int = 256, batch_size: int = 16, limit: int | None = None, num_workers: int = 2
    ) -> None:
        super().__init__()
        check_positive(image_size=image_size, batch_size=batch_size, limit=limit)
        if num_workers < 0:
            raise ValueError(f"num_workers must be 0 (decode in this process) or more, got {num_workers}")
        self.root, self.image_size, self.batch_size = root, image_size, batch_size
        self.limit, self.num_workers = limit, num_workers
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more ranks than images
        self._files: list[Path] | None = None
        self._dataset: ImageFiles | None = None

    def files(self) -> list[Path]:
        """The image files, listed on the first call."""
        if self._files is None:
            root = Path(self.root)
            if not root.is_dir():
                raise ValueError(f"image folder {self.root} is missing; set `root` to a folder of images")
            found = [path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
            if not found:
                raise ValueError(f"image folder {self.root} holds no file ending in {', '.join(SUFFIXES)}")
            self._files = sorted(found, key=lambda path: path.relative_to(root).as_posix())[: self.limit]
        return self._files

    @property
    def corrupt(self) -> list[Path]:
        """Files of this rank that were skipped as corrupt, as far as they have been read."""
        return self._dataset.corrupt if self._dataset else []

    def identity(self) -> dict[str, Any]:
        """Everything here that can change a number."""
        root = Path(self.root)
        listing = [(path.relative_to(root).as_posix(), path.stat().st_size) for path in self.files()]
        return {
            "images_sha256": hashlib.sha256(json.dumps(listing).encode()).hexdigest(),
            "image_size": self.image_size,
            "limit": self.limit,
        }

    def setup(self, stage: str) -> None:
        """Fail over folder and ranks here, before a model loads."""
        deal(self.files(), self.trainer)

    def val_dataloader(self) -> DataLoader[Any]:
        """This rank's images as `ImageBatch`, corrupt files left out."""
        self._dataset = ImageFiles(deal(list(enumerate(self.files())), self.trainer), self.image_size)
        return DataLoader(
            self._dataset, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=self._dataset.stack
        )

    def teardown(self, stage: str) -> None:
        """Name what was skipped."""
        if self.corrupt:
            names = ", ".join(str(path) for path in self.corrupt)
            warnings.warn(f"{len(self.corrupt)} corrupt images were skipped: {names}", stacklevel=2)
