"""The images that every feature extractor and metric takes, and the parts that a network sees at a time."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK_PIXELS = 2**19
_CHUNK_IMAGES = 32


def check_images(images: Tensor) -> None:
    """Raise ValueError unless images are (N >= 1, 3, H, W) uint8."""
    if not isinstance(images, Tensor):
        raise ValueError(
            f"images must be one tensor (N, 3, H, W); got {type(images).__name__}: resize images of mixed sizes to one "
            "size and stack them"
        )
    if images.dtype != torch.uint8:
        raise ValueError(
            f"images must be uint8 in 0..255; got {images.dtype}: images in [0, 1] without NaN are converted by "
            "(255 * images).round().to(torch.uint8)"
        )
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise ValueError(f"images must be (N, 3, H, W) with N >= 1 and RGB channels; got {tuple(images.shape)}")


def split_images(images: Tensor, most_pixels: int = _CHUNK_PIXELS) -> tuple[Tensor, ...]:
    """Images (N, 3, H, W) in parts of at most 2^19 pixels and 32 images, so that memory does not depend on N."""
    height, width = images.shape[-2:]
    return images.split(max(1, min(_CHUNK_IMAGES, most_pixels // (height * width))))
