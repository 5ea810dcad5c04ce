"""Kernel distance (KID) between two sets of features: the unbiased squared maximum mean discrepancy.

With k(x, y) = (x'y / D + 1)^3 the distance is the mean of k over pairs of rows, plus its mean over pairs of reference
rows, minus twice its mean over pairs of one row and one reference row. No row is paired with itself, which makes the
estimate unbiased: for two independent sets from one distribution it is 0 on average and negative half of the time. For
a set compared with itself it is below 0, because the two sets are not independent.

All pairs are used, in chunks, instead of the usual mean over random subsets: the expectation is the same, and the
result is deterministic.

Source: Binkowski, Sutherland, Arbel and Gretton, "Demystifying MMD GANs" (2018), section 4.
Notation: N rows, R reference rows, D features, G blocks of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gendiv_lightning.functional.frechet import check_finite
from gendiv_lightning.functional.jackknife import leave_out

_CHUNK_PAIRS = 2**23


def kernel_distances(reference: Tensor, features: Tensor, blocks: Tensor | None = None) -> Tensor:
    """Kernel distance between a set of rows and a reference, with all rows and with each block left out.

    Args:
        reference: (R, D), R >= 2.
        features: (N, D).
        blocks: (N,) block number of each row, 0 to G - 1; None means no blocks.

    Returns:
        (1 + G,) float64: the distance of all rows, then of the rows outside each block. NaN for fewer than 2 rows.
    """
    check_finite(reference)
    check_finite(features)
    reference, features = reference.double(), features.double()
    one_block = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    member = F.one_hot(one_block if blocks is None else blocks).to(features)
    everything = reference.new_ones(len(reference), 1)

    within = _sum_kernel(features, features, member, member) - torch.diag(_own_kernel(features) @ member)
    cross = _sum_kernel(features, reference, member, everything)[:, 0]
    within_reference = _sum_kernel(reference, reference, everything, everything) - _own_kernel(reference).sum()

    # Sums over all rows first, then over the rows outside each block.
    numbers = torch.arange(member.shape[1], device=member.device)
    outside = torch.stack(list(leave_out(len(numbers), None if blocks is None else numbers))).to(member)
    num_rows, num_reference = outside @ member.sum(0), len(reference)
    means = torch.einsum("vi,ij,vj->v", outside, within, outside) / (num_rows * (num_rows - 1))
    mean_reference = within_reference.item() / (num_reference * (num_reference - 1))
    distances = means + mean_reference - 2 * (outside @ cross) / (num_rows * num_reference)
    return distances.masked_fill(num_rows < 2, torch.nan)


def _sum_kernel(x: Tensor, y: Tensor, member_x: Tensor, member_y: Tensor) -> Tensor:
    """Sums (G_x, G_y) of k over all pairs of a row of x and a row of y, by their blocks."""
    chunk = max(1, _CHUNK_PAIRS // len(y))
    total = x.new_zeros(member_x.shape[1], member_y.shape[1])
    for rows, member in zip(x.split(chunk), member_x.split(chunk), strict=True):
        total += member.T @ ((rows @ y.T / x.shape[1] + 1) ** 3 @ member_y)
    return total


def _own_kernel(x: Tensor) -> Tensor:
    """(N,) kernel of each row with itself."""
    return (x.square().mean(1) + 1) ** 3
