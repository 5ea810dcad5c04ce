"""Mean distance over pairs of samples, within and between groups. It knows distances and groups, no images.

Where the distance is a squared Euclidean distance of features no pairs are visited: a group is its count, mean and
scatter (sum of squared distances to the mean), which merge exactly and never cancel, and
    mean over pairs within a group       2 scatter / (n - 1)            = 2 n / (n - 1) (mean ||f||^2 - ||mean f||^2)
    mean over pairs of groups a and b    scatter_a / n_a + scatter_b / n_b + ||mean_a - mean_b||^2
Any other distance gives its matrix of pairs to `group_means`. Both end in a (P, P) matrix of means, read by `split`.

Letters: N samples, P groups, D features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """What the pairs of a group need to know: `num_rows`, their `mean` (D,) and `scatter` (), float64."""

    num_rows: int
    mean: Tensor
    scatter: Tensor


class Split(NamedTuple):
    """Mean distance of two draws from the pool of groups, of pairs within a group, of pairs in different groups."""

    total: float
    within: float
    between: float


class PathSplit(NamedTuple):
    """Mean distances of two draws from all that is left open (`total`), given the wording, given wording and path.

    Attributes:
        total: see `Split`.
        within: of two draws in one wording, on paths of their own.
        between: of draws in different wordings; NaN for one wording.
        execution: of two draws in one wording, on one path.
        path: total - execution.
        sampler_path: within - execution; NaN for one path.
        prompt_path: total - within; NaN for one wording.
    """

    total: float
    within: float
    between: float
    execution: float
    path: float
    sampler_path: float
    prompt_path: float


class ExtremePairs(NamedTuple):
    """The two nearest and the two farthest samples, each as places (i, j) with i < j."""

    nearest: tuple[int, int]
    farthest: tuple[int, int]


def moments(features: Tensor) -> Moments:
    """Moments of rows (N, D), N >= 1, in float64."""
    reference = features[0].double()
    centred = features.double() - reference  # identical rows become exact zeros
    shift = centred.mean(0)
    centred -= shift
    return Moments(len(features), reference + shift, centred.flatten() @ centred.flatten())


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Moments of the rows of both. Source: Chan, Golub and LeVeque, "Updating Formulae" (1979)."""
    num_rows = a.num_rows + b.num_rows
    step = b.mean - a.mean
    mean = a.mean + step * (b.num_rows / num_rows)
    return Moments(num_rows, mean, a.scatter + b.scatter + (step @ step) * (a.num_rows * b.num_rows / num_rows))


@dataclass
class PairDistances:
    """Accumulator of mean squared distances between rows, by group; its memory does not depend on the number of rows.

    Attributes:
        groups: moments by the group's number.
    """

    groups: dict[int, Moments] = field(default_factory=dict)

    def update(self, features: Tensor, groups: Tensor | None = None) -> None:
        """Add rows (N, D) with their groups' numbers (N,); None puts all in group 0."""
        labels = torch.zeros(len(features), dtype=torch.int64) if groups is None else groups
        for label in labels.unique().tolist():
            self._add(label, moments(features[labels == label]))

    def merge(self, other: PairDistances) -> None:
        """Add the rows that another accumulator has seen."""
        for label, rows in other.groups.items():
            self._add(label, rows)

    def matrix(self) -> Tensor:
        """(P, P) unbiased mean distances of pairs of two groups, ordered by number; NaN for a row with itself."""
        ordered = [rows for _, rows in sorted(self.groups.items())]
        counts = torch.tensor([rows.num_rows for rows in ordered], dtype=torch.float64)
        scatters = torch.stack([rows.scatter for rows in ordered]).cpu()
        means = torch.stack([rows.mean for rows in ordered])
        spread = scatters / counts
        steps = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").square().cpu()
        within = torch.diag(2 * scatters / (counts - 1))
        return torch.where(torch.eye(len(ordered), dtype=torch.bool), within, spread[:, None] + spread + steps)

    def _add(self, label: int, rows: Moments) -> None:
        self.groups[label] = merge_moments(self.groups[label], rows) if label in self.groups else rows


def group_means(distances: Tensor, groups: Tensor | None = None) -> Tensor:
    """(P, P) unbiased mean distances of pairs of two groups, ordered by number; NaN for a row with itself.

    Args:
        distances: (N, N), symmetric, zero on the diagonal.
        groups: (N,) group numbers; None is one group.
    """
    labels = torch.zeros(len(distances), dtype=torch.int64) if groups is None else groups
    member = (labels[:, None] == labels.unique()).to(distances)
    counts = member.sum(0)
    return (member.T @ distances @ member) / (torch.outer(counts, counts) - torch.diag(counts))


def split(matrix: Tensor) -> Split:
    """Total, within and between from mean distances (P, P) of pairs of groups.

    Groups weigh the same, whatever their size: within W is the mean over groups that have a pair, between B the mean
    over pairs of groups, total = W / P + (1 - 1 / P) B. One group: total = within, and between is NaN. No pair within
    any group: within and total are NaN.
    """
    num_groups = len(matrix)
    within = matrix.diagonal().nanmean().item()
    between = matrix[~torch.eye(num_groups, dtype=torch.bool)].mean().item()
    total = within if num_groups == 1 else within / num_groups + (1 - 1 / num_groups) * between
    return Split(total, within, between)


def split_paths(matrix: Tensor, wordings: Tensor) -> PathSplit:
    """Total, execution and path from mean distances (P, P) of pairs of groups, a group a path in a wording.

    Wordings are a given pool, as in `split`; paths are drawn, so the distance in a wording is that of pairs of
    different paths, and does not depend on their number. One path a wording: within is execution.

    Args:
        matrix: see `PairDistances.matrix`; each wording has the same number of paths.
        wordings: (P,) wording of each group.
    """
    same = wordings[:, None] == wordings
    own = torch.eye(len(matrix), dtype=torch.bool)
    num_wordings = len(wordings.unique())
    execution = matrix.diagonal().nanmean().item()
    one_path, one_wording = num_wordings == len(matrix), num_wordings == 1
    within = execution if one_path else matrix[same & ~own].mean().item()
    between = matrix[~same].mean().item()
    total = within if one_wording else within / num_wordings + (1 - 1 / num_wordings) * between
    return PathSplit(
        total,
        within,
        between,
        execution,
        total - execution,
        math.nan if one_path else within - execution,
        math.nan if one_wording else total - within,
    )


def extreme_pairs(matrix: Tensor) -> ExtremePairs:
    """Nearest and farthest pair of distances (N, N); of equal pairs the first in reading order.

    Raises:
        ValueError: there is no pair.
    """
    if len(matrix) < 2:
        raise ValueError(f"matrix must hold the distances of two samples or more; got {tuple(matrix.shape)}")
    rows, columns = torch.triu_indices(len(matrix), len(matrix), 1, device=matrix.device)
    distances = matrix[rows, columns]
    # argmin and argmax promise no order among equals
    first, last = ((distances == end).nonzero()[0] for end in (distances.min(), distances.max()))
    return ExtremePairs(*((int(rows[pair]), int(columns[pair])) for pair in (first, last)))
