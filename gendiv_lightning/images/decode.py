"""Decode images to RGB pixels by one rule, and count those that cannot be read."""

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
_BYTES_PER_PIXEL = 16  # three channels in float32, and the file's own pixels
_NETWORK_SIDE = 512  # feature networks resize the shorter side of an image to at most this
# Pillow's names of the formats behind `IMAGE_SUFFIXES`. It knows many more, and for one of them, EPS, it starts
# Ghostscript on the content of the file.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF")
# Pillow's names of modes with 16 bits per channel, of which it would drop 8.
_DEEP = re.compile(r"(RGB|L|CMYK)\w*;16[BLN]?")

_TURNS: dict[Any, Image.Transpose] = {  # from the EXIF orientation to the upright image
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
        name: location in its source.
        size: size of its file in bytes.
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
    """Return the limit; raises ConfigValueError if it is not a positive number of GiB."""
    if not 0 < memory_limit < float("inf"):
        raise ConfigValueError(f"memory_limit must be a positive number of GiB, got {memory_limit}. The default is 1")
    return memory_limit


def is_image(name: str) -> bool:
    """Whether a file is an image by its suffix; hidden files, which macOS adds to archives, are not."""
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.name)


def read_image(item: ImageItem, memory_limit: float = MEMORY_LIMIT) -> Image.Image:
    """An image as RGB, 8 bits per channel; see `decode_image`.

    Raises:
        ImageError: the image cannot be read, for any reason.
    """
    try:
        data = item.read()
    except (OSError, ValueError) as error:
        raise ImageError(_reason(error)) from error
    return decode_image(data, memory_limit)


def decode_image(data: bytes, memory_limit: float = MEMORY_LIMIT) -> Image.Image:
    """Decode the bytes of a file to RGB, 8 bits per channel, with its EXIF orientation applied.

    Transparency is composited over white, an animation gives its first frame, and grayscale and palettes become RGB.

    Args:
        data: content of the file.
        memory_limit: memory in GiB that the decoded image may take, at 16 bytes per pixel.

    Raises:
        ImageError: the data is not an image, is damaged or too large, or has more than 8 bits per channel, for which
            there is no single correct conversion.
    """
    try:
        with _limited(memory_limit), Image.open(io.BytesIO(data), formats=_FORMATS) as file:
            _check_pixels(file.size, memory_limit)
            raw = next((tile[3] for tile in file.tile), "")
            mode = raw if isinstance(raw, str) else str(raw[0]) if raw else ""
            if file.mode.startswith(("I", "F")) or _DEEP.fullmatch(mode):
                raise ImageError(f"more than 8 bits per channel ({mode or file.mode}); convert the image to 8 bits")
            return _turned(file, to_rgb(file))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"it has more pixels than the memory limit of {memory_limit:g} GiB allows") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError("it is empty" if not data else "it is not an image of a known format") from error
    except Exception as error:  # for damaged files Pillow's decoders raise arbitrary exceptions
        raise ImageError(_reason(error)) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image with 8 bits per channel to RGB, with transparency composited over white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    over_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return over_white.convert("RGB")


def _turned(file: Image.Image, image: Image.Image) -> Image.Image:
    turn = _TURNS.get(file.getexif().get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)


@contextmanager
def _limited(memory_limit: float) -> Iterator[None]:
    """Make Pillow apply our limit, also to frames inside a file; it raises an error beyond twice its own limit."""
    former, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max(1, int(memory_limit * GIB / _BYTES_PER_PIXEL / 2))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)  # then there is no orientation
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = former


def _check_pixels(size: tuple[int, int], memory_limit: float) -> None:
    most = memory_limit * GIB / _BYTES_PER_PIXEL
    if size[0] * size[1] > most:
        raise ImageError(
            f"{size[0]} x {size[1]} pixels are more than the memory limit of {memory_limit:g} GiB allows "
            f"({most / 1e6:.3g} million)"
        )
    if _NETWORK_SIDE**2 * max(size) / min(size) > most:
        raise ImageError(
            f"{size[0]} x {size[1]} pixels take more than the memory limit of {memory_limit:g} GiB once the shorter "
            "side "
            "is resized for a feature network"
        )


def _reason(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, OSError | ValueError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class CorruptImages:
    """Collects images that cannot be read, with reasons, and raises an error if there are too many.

    Args:
        max_corrupt: share of all images that may be unreadable.
        num_images: total number of images; None if unknown.

    Raises:
        ConfigValueError: max_corrupt is not in [0, 1].
    """

    def __init__(self, max_corrupt: float, num_images: int | None = None) -> None:
        if not 0 <= max_corrupt <= 1:
            raise ConfigValueError(f"max_corrupt must be a share in [0, 1], got {max_corrupt}. Use 0.01 for 1 %")
        self.max_corrupt, self.num_images = max_corrupt, num_images
        self.images: list[BrokenImage] = []

    @property
    def names(self) -> list[str]:
        """Names of the unreadable images."""
        return [image.name for image in self.images]

    def add(self, images: Iterable[BrokenImage]) -> None:
        """Add images; raises ImageError as soon as there are certainly too many."""
        self.images += images
        if self.num_images is not None:
            self.check(self.num_images)

    def check(self, num_images: int) -> None:
        """Raise ImageError if too many of `num_images` images are unreadable."""
        if len(self.images) > self.max_corrupt * num_images:
            raise ImageError(
                f"{len(self.images)} of {num_images} images cannot be read, more than a share of "
                f"{self.max_corrupt:g}; the "
                f"last are {', '.join(map(str, self.images[-3:]))}. Repair or remove them, or raise --max-corrupt (in "
                "configs max_corrupt)"
            )

    def in_words(self) -> str:
        """A line that lists all of them; "" if there are none."""
        if not self.images:
            return ""
        return f"{len(self.images)} unreadable images were skipped: {', '.join(map(str, self.images))}"


def read_images(
    items: Iterable[ImageItem], corrupt: CorruptImages, memory_limit: float = MEMORY_LIMIT
) -> Iterator[Tensor]:
    """Images (3, H, W) uint8 in their own sizes; unreadable ones are skipped and added to `corrupt`.

    Raises:
        ImageError: too many images are unreadable.
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
