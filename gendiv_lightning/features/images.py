"""Checks of the images that feature extractors and metrics take, and their chunks for a network."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK_PIXELS = 2**19
_CHUNK_IMAGES = 32


def check_images(images: Tensor) -> None:
    """Raise ValueError unless images are (N >= 1, 3, H, W) uint8."""
    if not isinstance(images, Tensor):
        raise ValueError(
            f"images must be one tensor (N, 3, H, W), got {type(images).__name__}. Resize images of mixed sizes to one "
            "size and stack them"
        )
    if images.dtype != torch.uint8:
        raise ValueError(
            f"images must be uint8 in 0..255, got {images.dtype}. Convert images in [0, 1] without NaN by "
            "(255 * images).round().to(torch.uint8)"
        )
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise ValueError(f"images must be (N, 3, H, W) with N >= 1 and RGB channels; got {tuple(images.shape)}")


def split_images(images: Tensor, most_pixels: int = _CHUNK_PIXELS) -> tuple[Tensor, ...]:
    """Split images (N, 3, H, W) into chunks of at most 2^19 pixels and 32 images, which bounds memory."""
    height, width = images.shape[-2:]
    return images.split(max(1, min(_CHUNK_IMAGES, most_pixels // (height * width))))
