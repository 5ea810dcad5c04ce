"""Samples of a run as small pictures: WebP files with several samples side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from gendiv_lightning.report.document import Row

LARGEST = 128  # pixels of a sample; larger ones are made smaller
_COLUMNS = 8


def make_row(setting: str, samples: Sequence[bytes], numbers: str = "") -> Row:
    """Samples side by side, eight per line.

    Args:
        setting: in a word or two.
        samples: PNG files of one size.
        numbers: of the prompt under the setting, in words.
    """
    images = [_small(png) for png in samples]
    (width, height), columns = images[0].size, min(_COLUMNS, len(images))
    sheet = Image.new("RGB", (width * columns, height * -(-len(images) // columns)), "white")
    for place, image in enumerate(images):
        sheet.paste(image, (width * (place % columns), height * (place // columns)))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=85)
    return Row(setting, buffer.getvalue(), *sheet.size, len(images), numbers)


def _small(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGB")
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return image
