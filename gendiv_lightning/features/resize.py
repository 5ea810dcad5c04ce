"""Two rules for bringing images to a network's size; a Frechet distance depends on which."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Resize = Literal["clean", "torch-fidelity"]


def resize_images(images: Tensor, size: int, rule: Resize) -> Tensor:
    """Images as (size, size) squares, whatever their sides were, in [0, 255].

    - "clean": Pillow's bicubic filter, widened where it shrinks so that nothing aliases, a channel at a time without
      rounding, and cut to the range at the end. It is the rule of clean-fid (Parmar, Zhang and Zhu, "On Aliased
      Resizing and Surprising Subtleties in GAN Evaluation", 2022). In float64, or the weights are not Pillow's.
    - "torch-fidelity": bilinear between the two nearest pixels, places counted from the corner as TensorFlow 1 did. It
      is the rule of the first FID; shrinking aliases.

    Args:
        images: (N, 3, H, W) uint8.
        size: side in pixels.
        rule: which.

    Returns:
        (N, 3, size, size) float32.
    """
    if rule == "torch-fidelity":
        return _interpolate(_interpolate(images.float(), size, 3), size, 2)
    resized = F.interpolate(images.double(), size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 255).float()


def _interpolate(images: Tensor, size: int, axis: int) -> Tensor:
    """One axis of TensorFlow 1's bilinear rule: output i is at i * (old size / new size)."""
    last = images.shape[axis] - 1
    places = torch.arange(size, device=images.device) * (images.shape[axis] / size)
    low = places.long()
    weights = (places - low).view(-1, *[1] * (3 - axis))
    return images.index_select(axis, low).lerp(images.index_select(axis, (low + 1).clamp(max=last)), weights)
