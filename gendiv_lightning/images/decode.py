"""An image that is not read yet, the one rule by which it becomes pixels, and the one count of those that cannot."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # Pillow's words for a broken file
_DEEP = re.compile(r"(RGB|L|CMYK)\w*;16[BLN]?")  # Pillow's names of 16 bits a channel, of which it would drop 8


class ImageItem(NamedTuple):
    """One image, not read yet.

    Attributes:
        name: where it is in its source.
        size: bytes of its file.
        read: gives the bytes of the image.
        row: what stands beside it, by column; empty unless it was asked for.
    """

    name: str
    size: int
    read: Callable[[], bytes]
    row: Mapping[str, Any] = {}


def is_image(name: str) -> bool:
    """Whether a file is one by its name; hidden ones (macOS writes them beside others) are none."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def decode_image(data: bytes) -> Image.Image:
    """A file's bytes as RGB, 8 bits a channel.

    What is transparent stands over white; of an animation the first frame is taken; greys and palettes become RGB.

    Raises:
        one of `BROKEN`: it is no image, or a damaged one, or one of more than 8 bits a channel: how those are to be
            brought to 8 is not for us to guess.
    """
    with Image.open(io.BytesIO(data)) as file:
        raw = next((tile[3] for tile in file.tile), "")
        mode = raw if isinstance(raw, str) else str(raw[0]) if raw else ""
        if file.mode.startswith(("I", "F")) or _DEEP.fullmatch(mode):
            raise ValueError(f"more than 8 bits a channel ({mode or file.mode}): convert the image to 8")
        if not file.has_transparency_data:
            return file.convert("RGB")
        image = file.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class CorruptImages:
    """Names of images that could not be read, and when they are too many.

    Args:
        max_corrupt: share of all images that may be corrupt.
        num_images: how many there are in all; None where nobody knows yet.

    Raises:
        ValueError: max_corrupt is no share.
    """

    def __init__(self, max_corrupt: float, num_images: int | None = None) -> None:
        if not 0 <= max_corrupt <= 1:
            raise ValueError(f"max_corrupt is a share in [0, 1], got {max_corrupt}")
        self.max_corrupt, self.num_images = max_corrupt, num_images
        self.names: list[str] = []

    def add(self, names: Iterable[str]) -> None:
        """Remember names; ValueError as soon as they are certain to be too many."""
        self.names += names
        if self.num_images is not None:
            self.check(self.num_images)

    def check(self, num_images: int) -> None:
        """Raises ValueError if they are too many of so many images."""
        if len(self.names) > self.max_corrupt * num_images:
            raise ValueError(
                f"{len(self.names)} of {num_images} images are corrupt, the last ones {', '.join(self.names[-3:])}; at "
                f"most a share of {self.max_corrupt:g} may be: fetch them again, or allow more with --max-corrupt "
                "(in configs max_corrupt)"
            )

    def in_words(self) -> str:
        """All of them, as a line; "" if there are none."""
        return f"{len(self.names)} corrupt images were skipped: {', '.join(self.names)}" if self.names else ""


def read_images(items: Iterable[ImageItem], corrupt: CorruptImages) -> Iterator[Tensor]:
    """Images (3, H, W) uint8 in their own sizes; those that cannot be read are left out, and remembered.

    Raises:
        ValueError: too many cannot be read.
    """
    num_images = 0
    for item in items:
        num_images += 1
        try:
            image = decode_image(item.read())
        except BROKEN:
            corrupt.add([item.name])
        else:
            yield to_tensor(image)
    corrupt.check(num_images)
