"""Structural similarity of all pairs of a set of images: what belongs to one image is computed once."""

from __future__ import annotations

import torch
from torch import Tensor

KERNEL_SIZE = 11
_SIGMA = 1.5
_LUMINANCE = 0.01**2
_CONTRAST = 0.03**2
_CHUNK_VALUES = 2**19


def ssim_matrix(images: Tensor) -> Tensor:
    """Structural similarity (SSIM) of every pair of images, in [-1, 1], averaged over pixels and channels.

    With local means m, variances v and covariance c under a Gaussian window (sigma 1.5, 11 x 11, mirrored borders):
    SSIM = (2 m_a m_b + 0.01^2) (2 c + 0.03^2) / ((m_a^2 + m_b^2 + 0.01^2) (v_a + v_b + 0.03^2)), the definition of
    torchmetrics at `data_range=1`. Means and variances are an image's own; only c is computed for a pair. Pairs are
    taken a few at a time, so memory grows with the images and not with the pairs.
    Source: Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment" (2004), eq. 13.

    Args:
        images: (N, C, H, W) floating point in [0, 1], both sides at least 11. float64 is advised: flat areas cancel.

    Returns:
        (N, N), symmetric, ones on the diagonal, in the dtype of the images.
    """
    num_images, height, width = images.shape[0], *images.shape[-2:]
    if min(height, width) < KERNEL_SIZE:
        raise ValueError(
            f"images must be at least {KERNEL_SIZE} x {KERNEL_SIZE} pixels for SSIM's window; got {height} x {width}: "
            "enlarge them or leave SSIM out"
        )
    down, across = _window(height, images), _window(width, images).T
    mean = down @ images @ across
    square = mean.square()
    variance = (down @ images.square() @ across - square).clamp(min=0)
    similarity = torch.eye(num_images, dtype=images.dtype, device=images.device)
    chunk = max(1, _CHUNK_VALUES // images[:1].numel())
    for a in range(num_images):
        for start in range(a + 1, num_images, chunk):
            b = slice(start, start + chunk)
            means = mean[a] * mean[b]  # from here on in place: time goes to memory, not to arithmetic
            covariance = (down @ (images[a] * images[b]) @ across).sub_(means)
            upper = means.mul_(2).add_(_LUMINANCE).mul_(covariance.mul_(2).add_(_CONTRAST))
            lower = (square[a] + square[b]).add_(_LUMINANCE).mul_((variance[a] + variance[b]).add_(_CONTRAST))
            similarity[a, b] = similarity[b, a] = upper.div_(lower).mean((1, 2, 3))
    return similarity


def _window(size: int, like: Tensor) -> Tensor:
    """(size, size) matrix that blurs a column, borders mirrored: up to 512 pixels faster than a convolution."""
    offsets = torch.arange(KERNEL_SIZE) - KERNEL_SIZE // 2
    kernel = torch.exp(-offsets.double().square() / (2 * _SIGMA**2))
    sources = (torch.arange(size)[:, None] + offsets).abs()
    sources = size - 1 - (size - 1 - sources).abs()
    weights = (kernel / kernel.sum()).expand(size, -1)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, sources, weights).to(like)
