"""Two rules for resizing images to a network's input size; Frechet distances depend on the rule."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Resize = Literal["clean", "torch-fidelity"]


def resize_images(images: Tensor, size: int, rule: Resize) -> Tensor:
    """Resize images to (size, size) squares in [0, 255], regardless of their aspect ratio.

    - "clean": Pillow's antialiased bicubic filter, per channel, without intermediate rounding, clamped at the end. This
      is the rule of clean-fid (Parmar, Zhang and Zhu, "On Aliased Resizing and Surprising Subtleties in GAN
      Evaluation", 2022). It is computed in float64, because only then the weights equal Pillow's.
    - "torch-fidelity": bilinear between the two nearest pixels, with coordinates counted from the corner as in
      TensorFlow 1. This is the rule of the original FID; downscaling aliases.

    Args:
        images: (N, 3, H, W) uint8.
        size: side in pixels.
        rule: "clean" or "torch-fidelity".

    Returns:
        (N, 3, size, size) float32.
    """
    if rule == "torch-fidelity":
        return _interpolate(_interpolate(images.float(), size, 3), size, 2)
    resized = F.interpolate(images.double(), size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 255).float()


def _interpolate(images: Tensor, size: int, axis: int) -> Tensor:
    """Apply TensorFlow 1's bilinear rule along one axis: output i is at i * (old size / new size)."""
    last = images.shape[axis] - 1
    positions = torch.arange(size, device=images.device) * (images.shape[axis] / size)
    low = positions.long()
    weights = (positions - low).view(-1, *[1] * (3 - axis))
    return images.index_select(axis, low).lerp(images.index_select(axis, (low + 1).clamp(max=last)), weights)
