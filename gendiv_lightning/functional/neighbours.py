"""Precision, recall, density and coverage from nearest-neighbour balls around the rows of two sets of features.

The ball of a row has the distance to its k-th nearest other row of the same set as radius, and includes its surface.
    precision   share of the rows inside a ball of the reference
    recall      share of the reference rows inside a ball of the rows
    density     mean number of reference balls around a row, over k; 1 for equal distributions, unbounded above
    coverage    share of the reference balls that contain a row
Recall and coverage grow with the number of rows: compare them at equal numbers only.

Distances are float64 inner products, centred at the mean of the reference. Rounding could place a row on a surface
(as duplicates are) on either side, so comparisons use the lower end of a distance's rounding error.

Sources: Kynkäänniemi, Karras, Laine, Lehtinen and Aila, "Improved Precision and Recall Metric" (2019), eq. 2; Naeem,
Oh, Uh, Choi and Yoo, "Reliable Fidelity and Diversity Metrics" (2020), eq. 3 and 5.
Notation: N rows, R reference rows, D features, G blocks of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gendiv_lightning.functional.frechet import check_finite
from gendiv_lightning.functional.jackknife import count_blocks, leave_out

_CHUNK_PAIRS = 2**22
_ROUNDING = 1e-12


def precision_recall(reference: Tensor, features: Tensor, k: int = 3, blocks: Tensor | None = None) -> Tensor:
    """Precision and recall, with all rows and with each block left out.

    Args:
        reference: (R, D), R > k.
        features: (N, D), more than k of them outside each block.
        k: the radius of a ball is the distance to the k-th nearest row.
        blocks: (N,) block number of each row, 0 to G - 1; None means no blocks.

    Returns:
        (1 + G, 2) float64: for all rows, then for the rows outside each block.
    """
    reference, features = _centre(reference, features)
    member = _members(len(features), blocks).to(features.device)
    reference_radii = _nearest(reference, reference, k, is_same=True)[:, -1]
    radii = _radii_without_blocks(features, k, blocks)
    is_inside = torch.zeros_like(member[0])
    is_reached = torch.zeros(len(member), len(reference), dtype=torch.bool, device=features.device)
    for part in _parts(len(features), len(reference)):
        distances = _lowest_distances(features[part], reference)
        is_inside[part] = (distances <= reference_radii).any(1)
        for variant, (kept, radius) in enumerate(zip(member[:, part], radii[:, part], strict=True)):
            is_reached[variant] |= (distances[kept] <= radius[kept, None]).any(0)
    precision = (member & is_inside).sum(1) / member.sum(1).double()
    return torch.stack([precision, is_reached.double().mean(1)], 1)


def density_coverage(reference: Tensor, features: Tensor, k: int = 5, blocks: Tensor | None = None) -> Tensor:
    """Density and coverage, with all rows and with each block left out; arguments and shape as `precision_recall`."""
    reference, features = _centre(reference, features)
    member = _members(len(features), blocks).to(features.device).double()
    radii = _nearest(reference, reference, k, is_same=True)[:, -1]
    num_inside = features.new_zeros(len(member), len(reference))
    for part in _parts(len(features), len(reference)):
        is_inside = _lowest_distances(features[part], reference) <= radii
        num_inside += member[:, part] @ is_inside.double()
    density = num_inside.sum(1) / (k * member.sum(1))
    return torch.stack([density, (num_inside > 0).double().mean(1)], 1)


def _centre(reference: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    check_finite(reference)
    check_finite(features)
    mean = reference.double().mean(0)
    return reference.double() - mean, features.double() - mean


def _members(num_rows: int, blocks: Tensor | None) -> Tensor:
    """(1 + G, N) masks of the included rows."""
    return torch.stack(list(leave_out(num_rows, blocks)))


def _radii_without_blocks(features: Tensor, k: int, blocks: Tensor | None) -> Tensor:
    """(1 + G, N) squared distance of each row to its k-th nearest other row, among all and outside each block."""
    if blocks is None:
        return _nearest(features, features, k, is_same=True)[None, :, -1]
    # The k nearest rows in each block are enough: the k nearest outside a block are among those of the other blocks.
    nearest = features.new_full((count_blocks(blocks), len(features), k), torch.inf)
    for block, member in enumerate(F.one_hot(blocks).bool().T):
        inside, outside = member.nonzero().flatten(), (~member).nonzero().flatten()
        for rows, is_same in ((inside, True), (outside, False)):
            distances = _nearest(features[rows], features[inside], min(k, len(inside) - is_same), is_same=is_same)
            nearest[block, rows, : distances.shape[1]] = distances
    kept = [range(len(nearest)), *([i for i in range(len(nearest)) if i != block] for block in range(len(nearest)))]
    return torch.stack([nearest[list(some)].transpose(0, 1).flatten(1).kthvalue(k).values for some in kept])


def _nearest(x: Tensor, y: Tensor, k: int, *, is_same: bool) -> Tensor:
    """(N, k) squared distances of each row of x to its k nearest rows of y (other than itself), ascending."""
    nearest = []
    for part in _parts(len(x), len(y)):
        distances = _distances(x[part], y)
        if is_same:
            distances[:, part].fill_diagonal_(torch.inf)
        nearest.append(distances.topk(k, largest=False).values)
    return torch.cat(nearest) if nearest else x.new_zeros(0, k)


def _distances(x: Tensor, y: Tensor, rounding: float = 0.0) -> Tensor:
    """Squared distances of all pairs, minus `rounding` times the squared lengths."""
    lengths = x.square().sum(1)[:, None] + y.square().sum(1)
    return torch.addmm(lengths * (1 - rounding), x, y.T, alpha=-2)


def _lowest_distances(x: Tensor, y: Tensor) -> Tensor:
    return _distances(x, y, _ROUNDING)


def _parts(num_rows: int, num_columns: int) -> list[slice]:
    """Slices of the rows with at most 2^22 pairs each."""
    chunk = max(1, _CHUNK_PAIRS // num_columns)
    return [slice(start, start + chunk) for start in range(0, num_rows, chunk)]
