"""Precision, recall, density and coverage: how two sets of features lie in balls around each other's rows.

The ball of a row reaches to its k-th nearest other row of the same set; what lies on its surface is inside.
    precision   share of the rows that lie in a ball of the reference
    recall      share of the reference rows that lie in a ball of the rows
    density     number of reference balls that a row lies in, over k, on average; 1 for equal distributions, no limit
    coverage    share of the reference balls in which a row lies
Recall and coverage grow with the number of rows: they compare at equal numbers only.

Distances are float64 from inner products of rows around the reference's mean. Rounding could put a row that lies on a
surface (a duplicate does) on either side; in comparisons a distance is therefore taken at the lower end of its error.

Sources: Kynkäänniemi, Karras, Laine, Lehtinen and Aila, "Improved Precision and Recall Metric" (2019), eq. 2; Naeem,
Oh, Uh, Choi and Yoo, "Reliable Fidelity and Diversity Metrics" (2020), eq. 3 and 5.
Letters: N rows, R reference rows, D features, G blocks of rows.
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
    """Precision and recall, with all rows and without each block of them.

    Args:
        reference: (R, D), R > k.
        features: (N, D), more than k of them outside each block.
        k: how many nearest rows a ball reaches to.
        blocks: (N,) number of each row's block, 0 to G - 1; None is no block.

    Returns:
        (1 + G, 2) float64: of all rows, then of the rows outside each block.
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
        for variant, (mine, radius) in enumerate(zip(member[:, part], radii[:, part], strict=True)):
            is_reached[variant] |= (distances[mine] <= radius[mine, None]).any(0)
    precision = (member & is_inside).sum(1) / member.sum(1).double()
    return torch.stack([precision, is_reached.double().mean(1)], 1)


def density_coverage(reference: Tensor, features: Tensor, k: int = 5, blocks: Tensor | None = None) -> Tensor:
    """Density and coverage, with all rows and without each block of them; arguments and shape of `precision_recall`."""
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
    """(1 + G, N) which rows count."""
    return torch.stack(list(leave_out(num_rows, blocks)))


def _radii_without_blocks(features: Tensor, k: int, blocks: Tensor | None) -> Tensor:
    """(1 + G, N) squared distance of each row to its k-th nearest other row, of all and of those outside each block."""
    if blocks is None:
        return _nearest(features, features, k, is_same=True)[None, :, -1]
    # The k nearest of each block are enough: the k nearest outside a block are among the others'.
    nearest = features.new_full((count_blocks(blocks), len(features), k), torch.inf)
    for block, mine in enumerate(F.one_hot(blocks).bool().T):
        inside, outside = mine.nonzero().flatten(), (~mine).nonzero().flatten()
        for rows, is_same in ((inside, True), (outside, False)):
            found = _nearest(features[rows], features[inside], min(k, len(inside) - is_same), is_same=is_same)
            nearest[block, rows, : found.shape[1]] = found
    kept = [range(len(nearest)), *([i for i in range(len(nearest)) if i != block] for block in range(len(nearest)))]
    return torch.stack([nearest[list(some)].transpose(0, 1).flatten(1).kthvalue(k).values for some in kept])


def _nearest(x: Tensor, y: Tensor, k: int, *, is_same: bool) -> Tensor:
    """(N, k) squared distances of each row of x to the k nearest of y, ascending; not to itself where y is x."""
    found = []
    for part in _parts(len(x), len(y)):
        distances = _distances(x[part], y)
        if is_same:
            distances[:, part].fill_diagonal_(torch.inf)
        found.append(distances.topk(k, largest=False).values)
    return torch.cat(found) if found else x.new_zeros(0, k)


def _distances(x: Tensor, y: Tensor, rounding: float = 0.0) -> Tensor:
    """Squared distances of all pairs, minus `rounding` times the squared lengths."""
    lengths = x.square().sum(1)[:, None] + y.square().sum(1)
    return torch.addmm(lengths * (1 - rounding), x, y.T, alpha=-2)


def _lowest_distances(x: Tensor, y: Tensor) -> Tensor:
    return _distances(x, y, _ROUNDING)


def _parts(num_rows: int, num_columns: int) -> list[slice]:
    """Cuts of the rows, so that a part has at most 2^22 pairs."""
    chunk = max(1, _CHUNK_PAIRS // num_columns)
    return [slice(start, start + chunk) for start in range(0, num_rows, chunk)]
