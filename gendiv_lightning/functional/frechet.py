"""Frechet distance of two sets of features, each taken for a Gaussian. It knows features, no images.

A set is its count, mean and scatter (sum of outer products of the deviations from its mean), which merge exactly and
never cancel. With means m and covariances S = scatter / (N - 1),
    distance = ||m_a - m_b||^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2).
With R_a, R_b such that R' R = S, the last trace is the sum of the singular values of R_a R_b': a symmetric problem,
which has no complex parts and does not mind covariances without full rank. Of rows, R is their deviations from the mean
over the root of N - 1, so their covariance is not needed, and few rows make a small problem.

The distance is biased upwards, by about C / N: it compares at equal N only, or after `jackknife_limit`.

Source: Dowson and Landau, "The Frechet distance between multivariate normal distributions" (1982); Heusel et al.,
"GANs Trained by a Two Time-Scale Update Rule" (2017). Letters: N rows, D features, G blocks of rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.functional.jackknife import leave_out


class Statistics(NamedTuple):
    """What the distance needs to know of rows: `num_rows`, their `mean` (D,) and `scatter` (D, D), float64."""

    num_rows: int
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """(D, D), unbiased; NaN for one row."""
        return self.scatter / (self.num_rows - 1)


def statistics(features: Tensor) -> Statistics:
    """Statistics of rows (N, D), N >= 1, in float64; ValueError if a number is not finite."""
    check_finite(features)
    reference = features[0].double()
    centred = features.double() - reference  # identical rows become exact zeros
    shift = centred.mean(0)
    centred -= shift
    return Statistics(len(features), reference + shift, centred.T @ centred)


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Statistics of the rows of both. Source: Chan, Golub and LeVeque, "Updating Formulae" (1979)."""
    num_rows = a.num_rows + b.num_rows
    step = b.mean - a.mean
    mean = a.mean + step * (b.num_rows / num_rows)
    scatter = a.scatter + b.scatter + torch.outer(step, step) * (a.num_rows * b.num_rows / num_rows)
    return Statistics(num_rows, mean, scatter)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Frechet distance of two sets, at least 0; NaN where a set has one row."""
    if a.num_rows < 2 or b.num_rows < 2:
        return torch.nan
    root = _root(a)
    cross = _sum_of_roots(root @ b.covariance @ root.T)
    spread = a.covariance.trace() + b.covariance.trace() - 2 * cross
    return ((a.mean - b.mean).square().sum() + spread).clamp(min=0).item()


def frechet_distances(reference: Statistics, features: Tensor, blocks: Tensor | None = None) -> Tensor:
    """Frechet distance between a set of rows and a reference, with all rows and without each block of them.

    Args:
        reference: of at least 2 rows.
        features: (N, D).
        blocks: (N,) number of each row's block, 0 to G - 1; None is no block.

    Returns:
        (1 + G,) float64: the distance of all rows, then of the rows outside each block. NaN for fewer than 2 rows.
    """
    check_finite(features)
    deviations = features.double() - reference.mean
    projected = deviations @ _root(reference).T
    variance = reference.covariance.trace()
    distances = []
    for kept in leave_out(len(features), blocks):
        mine, crossed = deviations[kept], projected[kept]
        mean, num_free = mine.mean(0), len(mine) - 1
        cross = _sum_of_singular_values(crossed - crossed.mean(0)) / num_free**0.5 if num_free > 0 else torch.nan
        spread = (mine - mean).square().sum() / max(num_free, 1) + variance - 2 * cross
        distances.append((mean.square().sum() + spread).clamp(min=0))
    return torch.stack(distances)


def check_finite(features: Tensor) -> None:
    """Raise ValueError unless features are (N >= 1, D), all of them finite."""
    if features.ndim != 2 or not features.numel():
        raise ValueError(f"features must be (N, D) with N >= 1; got {tuple(features.shape)}")
    if not features.isfinite().all():
        rows = (~features.isfinite()).any(1).nonzero().flatten().tolist()
        raise ValueError(f"features must be finite; got NaN or infinity in {len(rows)} rows, such as row {rows[0]}")


def _root(of: Statistics) -> Tensor:
    """(D, D) R with R' R = covariance."""
    values, vectors = torch.linalg.eigh(of.covariance)
    return values.clamp(min=0).sqrt()[:, None] * vectors.T


def _sum_of_singular_values(rows: Tensor) -> Tensor:
    """Of rows (N, D), by the smaller of the two Gram matrices."""
    return _sum_of_roots(rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows)


def _sum_of_roots(matrix: Tensor) -> Tensor:
    """Sum of the roots of the eigenvalues of a symmetric matrix whose eigenvalues are not negative."""
    return torch.linalg.eigvalsh(matrix).clamp(min=0).sqrt().sum()
