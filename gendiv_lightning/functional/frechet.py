"""Frechet distance between two sets of features, each modelled as a Gaussian. Works on features, not images.

A set is represented by its count, mean and scatter (sum of outer products of the deviations from the mean), which can
be merged exactly and without cancellation. With means m and covariances S = scatter / (N - 1),
    distance = ||m_a - m_b||^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2).
With R_a, R_b such that R' R = S, the last trace is the sum of the singular values of R_a R_b'. This problem is
symmetric, has no complex parts, and allows singular covariances. For a set of rows, R is the deviations from the mean
divided by the root of N - 1, so the covariance is never formed and a small number of rows makes a small problem.

The distance is biased upwards by about C / N: compare it at equal N only, or after `jackknife_limit`.

Source: Dowson and Landau, "The Frechet distance between multivariate normal distributions" (1982); Heusel et al.,
"GANs Trained by a Two Time-Scale Update Rule" (2017). Notation: N rows, D features, G blocks of rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.functional.jackknife import leave_out


class Statistics(NamedTuple):
    """Sufficient statistics of a set of rows: `num_rows`, their `mean` (D,) and `scatter` (D, D), float64."""

    num_rows: int
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance (D, D); NaN for one row."""
        return self.scatter / (self.num_rows - 1)


def statistics(features: Tensor) -> Statistics:
    """Statistics of rows (N, D), N >= 1, in float64; ValueError if a value is not finite."""
    check_finite(features)
    reference = features[0].double()
    centred = features.double() - reference  # identical rows become exact zeros
    shift = centred.mean(0)
    centred -= shift
    return Statistics(len(features), reference + shift, centred.T @ centred)


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Statistics of the union of both sets. Source: Chan, Golub and LeVeque, "Updating Formulae" (1979)."""
    num_rows = a.num_rows + b.num_rows
    step = b.mean - a.mean
    mean = a.mean + step * (b.num_rows / num_rows)
    scatter = a.scatter + b.scatter + torch.outer(step, step) * (a.num_rows * b.num_rows / num_rows)
    return Statistics(num_rows, mean, scatter)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Frechet distance between two sets, at least 0; NaN if either set has a single row."""
    if a.num_rows < 2 or b.num_rows < 2:
        return torch.nan
    root = _root(a)
    cross = _sum_of_roots(root @ b.covariance @ root.T)
    spread = a.covariance.trace() + b.covariance.trace() - 2 * cross
    return ((a.mean - b.mean).square().sum() + spread).clamp(min=0).item()


def frechet_distances(reference: Statistics, features: Tensor, blocks: Tensor | None = None) -> Tensor:
    """Frechet distance between a set of rows and a reference, with all rows and with each block left out.

    Args:
        reference: statistics of at least 2 rows.
        features: (N, D).
        blocks: (N,) block number of each row, 0 to G - 1; None means no blocks.

    Returns:
        (1 + G,) float64: the distance of all rows, then of the rows outside each block. NaN for fewer than 2 rows.
    """
    check_finite(features)
    deviations = features.double() - reference.mean
    projected = deviations @ _root(reference).T
    variance = reference.covariance.trace()
    distances = []
    for kept in leave_out(len(features), blocks):
        rows, crossed = deviations[kept], projected[kept]
        mean, num_free = rows.mean(0), len(rows) - 1
        cross = _sum_of_singular_values(crossed - crossed.mean(0)) / num_free**0.5 if num_free > 0 else torch.nan
        spread = (rows - mean).square().sum() / max(num_free, 1) + variance - 2 * cross
        distances.append((mean.square().sum() + spread).clamp(min=0))
    return torch.stack(distances)


def check_finite(features: Tensor) -> None:
    """Raise ValueError unless features have shape (N >= 1, D) and are finite."""
    if features.ndim != 2 or not features.numel():
        raise ValueError(f"features must be (N, D) with N >= 1; got {tuple(features.shape)}")
    if not features.isfinite().all():
        rows = (~features.isfinite()).any(1).nonzero().flatten().tolist()
        raise ValueError(f"features must be finite; got NaN or infinity in {len(rows)} rows, e.g. row {rows[0]}")


def _root(of: Statistics) -> Tensor:
    """(D, D) R with R' R = covariance."""
    values, vectors = torch.linalg.eigh(of.covariance)
    return values.clamp(min=0).sqrt()[:, None] * vectors.T


def _sum_of_singular_values(rows: Tensor) -> Tensor:
    """Sum of the singular values of rows (N, D), from the smaller of the two Gram matrices."""
    return _sum_of_roots(rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows)


def _sum_of_roots(matrix: Tensor) -> Tensor:
    """Sum of the square roots of the eigenvalues of a symmetric positive semidefinite matrix."""
    return torch.linalg.eigvalsh(matrix).clamp(min=0).sqrt().sum()
