"""An image that is not read yet, the one rule by which it becomes pixels, and the one count of those that cannot."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from gendiv_lightning.errors import ConfigValueError, ImageError
from gendiv_lightning.storage.files import GIB, IMAGE_SUFFIXES, is_hidden

MEMORY_LIMIT = 1.0  # GiB
_BYTES_A_PIXEL = 16  # three channels in float32, and the file's own pixels
_NETWORK_SIDE = 512  # networks bring the shorter side of an image to this, or less
_DEEP = re.compile(r"(RGB|L|CMYK)\w*;16[BLN]?")  # Pillow's names of 16 bits a channel, of which it would drop 8

_TURNS: dict[Any, Image.Transpose] = {  # from the EXIF orientation to upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageItem(NamedTuple):
    """One image, not read yet.

    Attributes:
        name: where it is in its source.
        size: bytes of its file.
        read: returns the bytes of the image.
        row: its text and other values by column; empty unless rows are requested.
        problem: why `row` could not be read; "" if it could.
    """

    name: str
    size: int
    read: Callable[[], bytes]
    row: Mapping[str, Any] = {}
    problem: str = ""


class BrokenImage(NamedTuple):
    """Name of an image that cannot be read, and the reason."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def check_memory_limit(memory_limit: float) -> float:
    """The limit; ValueError if it is not a positive number of GiB."""
    if not 0 < memory_limit < float("inf"):
        raise ConfigValueError(f"memory_limit must be a positive number of GiB, got {memory_limit}: 1 is the default")
    return memory_limit


def is_image(name: str) -> bool:
    """Whether a file is an image by its suffix; hidden files (macOS writes them beside others) are not."""
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.name)


def read_image(item: ImageItem, memory_limit: float = MEMORY_LIMIT) -> Image.Image:
    """An image as RGB, 8 bits per channel; see `decode_image`.

    Raises:
        ImageError: it cannot be read, for whatever reason.
    """
    try:
        data = item.read()
    except (OSError, ValueError) as error:
        raise ImageError(_reason(error)) from error
    return decode_image(data, memory_limit)


def decode_image(data: bytes, memory_limit: float = MEMORY_LIMIT) -> Image.Image:
    """The bytes of a file as RGB, 8 bits per channel, turned as its EXIF orientation says.

    Transparency is composited over white, an animation gives its first frame, and greys and palettes become RGB.

    Args:
        data: content of the file.
        memory_limit: GiB that the image may take when it is decoded, at 16 bytes per pixel.

    Raises:
        ImageError: it is not an image, it is damaged or too large, or it has more than 8 bits per channel, for which
            there is no single correct conversion.
    """
    try:
        with _limited(memory_limit), Image.open(io.BytesIO(data)) as file:
            _check_pixels(file.size, memory_limit)
            raw = next((tile[3] for tile in file.tile), "")
            mode = raw if isinstance(raw, str) else str(raw[0]) if raw else ""
            if file.mode.startswith(("I", "F")) or _DEEP.fullmatch(mode):
                raise ImageError(f"more than 8 bits a channel ({mode or file.mode}): convert the image to 8")
            return _turned(file, to_rgb(file))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"it has more pixels than the memory limit of {memory_limit:g} GiB allows") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError("it is empty" if not data else "it is not an image of a known format") from error
    except Exception as error:  # damaged files make Pillow's decoders raise whatever their own code runs into
        raise ImageError(_reason(error)) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of 8 bits per channel as RGB; what is transparent is composited over white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    over_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return over_white.convert("RGB")


def _turned(file: Image.Image, image: Image.Image) -> Image.Image:
    turn = _TURNS.get(file.getexif().get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)


@contextmanager
def _limited(memory_limit: float) -> Iterator[None]:
    """Let Pillow apply our limit, also to the frames inside a file: it raises an error beyond twice its own number."""
    former, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max(1, int(memory_limit * GIB / _BYTES_A_PIXEL / 2))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = former


def _check_pixels(size: tuple[int, int], memory_limit: float) -> None:
    most = memory_limit * GIB / _BYTES_A_PIXEL
    if size[0] * size[1] > most:
        raise ImageError(
            f"{size[0]} x {size[1]} pixels are more than the memory limit of {memory_limit:g} GiB allows "
            f"({most / 1e6:.3g} million)"
        )
    if _NETWORK_SIDE**2 * max(size) / min(size) > most:
        raise ImageError(
            f"a strip of {size[0]} x {size[1]} pixels takes more than the memory limit of {memory_limit:g} GiB once "
            "its shorter side is brought to that of a network"
        )


def _reason(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, OSError | ValueError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class CorruptImages:
    """The images that could not be read, with the reasons, and when they are too many.

    Args:
        max_corrupt: share of all images that may be unreadable.
        num_images: how many there are in all; None where nobody knows yet.

    Raises:
        ValueError: max_corrupt is not a share.
    """

    def __init__(self, max_corrupt: float, num_images: int | None = None) -> None:
        if not 0 <= max_corrupt <= 1:
            raise ConfigValueError(f"max_corrupt is a share in [0, 1], got {max_corrupt}")
        self.max_corrupt, self.num_images = max_corrupt, num_images
        self.images: list[BrokenImage] = []

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [image.name for image in self.images]

    def add(self, images: Iterable[BrokenImage]) -> None:
        """Remember images; ValueError as soon as they are certain to be too many."""
        self.images += images
        if self.num_images is not None:
            self.check(self.num_images)

    def check(self, num_images: int) -> None:
        """Raise ValueError if they are too many of `num_images` images."""
        if len(self.images) > self.max_corrupt * num_images:
            raise ImageError(
                f"{len(self.images)} of {num_images} images cannot be read, the last ones "
                f"{', '.join(map(str, self.images[-3:]))}; at most a share of {self.max_corrupt:g} may be. Repair or "
                "remove them, or allow more with --max-corrupt (in configs max_corrupt)"
            )

    def in_words(self) -> str:
        """All of them, as a line; "" if there are none."""
        if not self.images:
            return ""
        return f"{len(self.images)} images that cannot be read were skipped: {', '.join(map(str, self.images))}"


def read_images(
    items: Iterable[ImageItem], corrupt: CorruptImages, memory_limit: float = MEMORY_LIMIT
) -> Iterator[Tensor]:
    """Images (3, H, W) uint8 in their own sizes; those that cannot be read are left out, and remembered.

    Raises:
        ValueError: too many cannot be read.
    """
    num_images = 0
    for item in items:
        num_images += 1
        try:
            image = read_image(item, memory_limit)
        except ImageError as error:
            corrupt.add([BrokenImage(item.name, str(error))])
        else:
            yield to_tensor(image)
    corrupt.check(num_images)
