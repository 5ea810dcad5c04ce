"""Structural similarity of all pairs of a set of images: what belongs to one image is computed once.

Images are taken in tiles: a window of 11 pixels looks no further, so a tile needs five pixels more on each side. Memory
then does not grow with the images' size, and with their number by a tile each; and small tiles are fast.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

KERNEL_SIZE = 11
_SIGMA = 1.5
_LUMINANCE = 0.01**2
_CONTRAST = 0.03**2
_TILE = 48
_CHUNK_VALUES = 2**19


def ssim_matrix(images: Tensor) -> Tensor:
    """Structural similarity (SSIM) of every pair of images, in [-1, 1], averaged over pixels and channels.

    With local means m, variances v and covariance c under a Gaussian window (sigma 1.5, 11 x 11, mirrored borders):
    SSIM = (2 m_a m_b + 0.01^2) (2 c + 0.03^2) / ((m_a^2 + m_b^2 + 0.01^2) (v_a + v_b + 0.03^2)), the definition of
    torchmetrics at `data_range=1`. Means and variances are an image's own; only c is computed for a pair.
    Source: Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment" (2004), eq. 13.

    Args:
        images: (N, C, H, W) uint8, or floating point in [0, 1]; both sides at least 11. What is uint8 is computed in
            float64, floating point in its own dtype: in float32 flat areas cancel.

    Returns:
        (N, N), symmetric, ones on the diagonal.
    """
    num_images, height, width = images.shape[0], *images.shape[-2:]
    if min(height, width) < KERNEL_SIZE:
        raise ValueError(
            f"images must be at least {KERNEL_SIZE} x {KERNEL_SIZE} pixels for SSIM's window; got {height} x {width}: "
            "enlarge them or leave SSIM out"
        )
    dtype = images.dtype if images.is_floating_point() else torch.float64
    total = torch.zeros(num_images, num_images, dtype=dtype, device=images.device)
    for rows, down in _bands(height):
        for columns, across in _bands(width):
            tile = images[..., rows, columns].to(dtype)
            scaled = tile if images.is_floating_point() else tile / 255
            _add_similarities(total, scaled, down.to(tile), across.T.to(tile))
    return (total / images[0].numel()).fill_diagonal_(1)


def _add_similarities(total: Tensor, tile: Tensor, down: Tensor, across: Tensor) -> None:
    """Add each pair's sum of similarities over the inner pixels of a tile (N, C, h, w), a few pairs at a time."""
    mean = down @ tile @ across
    square = mean.square()
    variance = (down @ tile.square() @ across - square).clamp(min=0)
    chunk = max(1, _CHUNK_VALUES // mean[:1].numel())
    for a in range(len(tile)):
        for start in range(a + 1, len(tile), chunk):
            b = slice(start, start + chunk)
            means = mean[a] * mean[b]  # from here on in place: time goes to memory, not to arithmetic
            covariance = (down @ (tile[a] * tile[b]) @ across).sub_(means)
            upper = means.mul_(2).add_(_LUMINANCE).mul_(covariance.mul_(2).add_(_CONTRAST))
            lower = (square[a] + square[b]).add_(_LUMINANCE).mul_((variance[a] + variance[b]).add_(_CONTRAST))
            similarity = upper.div_(lower).sum((1, 2, 3))
            total[a, b] += similarity
            total[b, a] += similarity


def _bands(size: int) -> Iterator[tuple[slice, Tensor]]:
    """Tiles of a side: the pixels (h) that one needs, and the matrix (inner, h) that blurs them, borders mirrored."""
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
