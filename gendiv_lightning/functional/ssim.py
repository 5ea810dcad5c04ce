"""Structural similarity of all pairs of a set of images; the moments of an image are shared by all of its pairs.

Images are processed in tiles with a margin of five pixels per side, half of the 11-pixel window. Pairs are processed
in blocks of 16 x 16 images, and the moments of the second block are recomputed for each first block. Apart from the
images and the result, memory grows neither with image size nor with the number of images, and small tiles are fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

KERNEL_SIZE = 11
_SIGMA = 1.5
_LUMINANCE = 0.01**2
_CONTRAST = 0.03**2
_TILE = 48
_BLOCK = 16
_CHUNK_VALUES = 2**19


def ssim_matrix(images: Tensor) -> Tensor:
    """Structural similarity (SSIM) of every pair of images, in [-1, 1], averaged over pixels and channels.

    With local means m, variances v and covariance c under a Gaussian window (sigma 1.5, 11 x 11, mirrored borders):
    SSIM = (2 m_a m_b + 0.01^2) (2 c + 0.03^2) / ((m_a^2 + m_b^2 + 0.01^2) (v_a + v_b + 0.03^2)), the definition of
    torchmetrics at `data_range=1`. Means and variances are computed per image, only c per pair.
    Source: Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment" (2004), eq. 13.

    Args:
        images: (N, C, H, W) uint8, or floating point in [0, 1]; H and W at least 11. uint8 images are computed in
            float64, floating-point images in their own dtype (float32 suffers from cancellation in flat areas).

    Returns:
        (N, N), symmetric, ones on the diagonal.

    Raises:
        ValueError: the images are smaller than the window.
    """
    num_images, height, width = images.shape[0], *images.shape[-2:]
    if min(height, width) < KERNEL_SIZE:
        raise ValueError(
            f"images must be at least {KERNEL_SIZE} x {KERNEL_SIZE} pixels for SSIM, got {height} x {width}. Enlarge "
            "them or leave SSIM out"
        )
    dtype = images.dtype if images.is_floating_point() else torch.float64
    total = torch.zeros(num_images, num_images, dtype=dtype, device=images.device)
    for rows, down in _bands(height):
        for columns, across in _bands(width):
            _add_tile(total, images[..., rows, columns], down.to(total), across.T.to(total))
    return ((total + total.T) / images[0].numel()).fill_diagonal_(1)


class _Local(NamedTuple):
    """A tile (N, C, h, w) of some images and the local moments of its inner pixels."""

    tile: Tensor
    mean: Tensor
    square: Tensor
    variance: Tensor


def _add_tile(total: Tensor, images: Tensor, down: Tensor, across: Tensor) -> None:
    """Add each pair's similarities, summed over the inner pixels of a tile (N, C, h, w), above the diagonal."""
    blocks = range(0, len(images), _BLOCK)
    for a in blocks:
        first = _local(images[a : a + _BLOCK], down, across)
        for b in blocks[a // _BLOCK :]:
            second = first if a == b else _local(images[b : b + _BLOCK], down, across)
            _add_block(total[a : a + _BLOCK, b : b + _BLOCK], first, second, down, across)


def _local(images: Tensor, down: Tensor, across: Tensor) -> _Local:
    tile = images.to(down.dtype) if images.is_floating_point() else images.to(down.dtype) / 255
    mean = down @ tile @ across
    square = mean.square()
    return _Local(tile, mean, square, (down @ tile.square() @ across - square).clamp(min=0))


def _add_block(total: Tensor, first: _Local, second: _Local, down: Tensor, across: Tensor) -> None:
    """Add the pairs of two blocks in chunks; within one block each pair is added once."""
    chunk = max(1, _CHUNK_VALUES // first.mean[:1].numel())
    for a in range(len(first.tile)):
        for start in range(a + 1 if first is second else 0, len(second.tile), chunk):
            b = slice(start, start + chunk)
            means = first.mean[a] * second.mean[b]  # in place from here on: the loop is bound by memory bandwidth
            covariance = (down @ (first.tile[a] * second.tile[b]) @ across).sub_(means)
            upper = means.mul_(2).add_(_LUMINANCE).mul_(covariance.mul_(2).add_(_CONTRAST))
            lower = (first.square[a] + second.square[b]).add_(_LUMINANCE)
            lower.mul_((first.variance[a] + second.variance[b]).add_(_CONTRAST))
            total[a, b] += upper.div_(lower).sum((1, 2, 3))


def _bands(size: int) -> Iterator[tuple[slice, Tensor]]:
    """Tiles along one side: their pixels (h) with margins, and the blur matrix (inner, h) with mirrored borders."""
    offsets = torch.arange(KERNEL_SIZE) - KERNEL_SIZE // 2
    kernel = torch.exp(-offsets.double().square() / (2 * _SIGMA**2))
    sources = (torch.arange(size)[:, None] + offsets).abs()
    sources = size - 1 - (size - 1 - sources).abs()
    weights = (kernel / kernel.sum()).expand(size, -1)
    window = torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, sources, weights)
    for inner in window.split(_TILE):
        used = inner.any(0).nonzero()[:, 0]
        pixels = slice(int(used[0]), int(used[-1]) + 1)
        yield pixels, inner[:, pixels]
