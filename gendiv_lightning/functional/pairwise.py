"""Mean distance over pairs of samples, within and between groups. Works on distances and groups, not images.

For squared Euclidean distances no pairs are enumerated: a group is represented by its count, mean and scatter (sum of
squared distances to the mean), which can be merged exactly and without cancellation, and
    mean over pairs within a group       2 scatter / (n - 1)            = 2 n / (n - 1) (mean ||f||^2 - ||mean f||^2)
    mean over pairs of groups a and b    scatter_a / n_a + scatter_b / n_b + ||mean_a - mean_b||^2
For any other distance, `group_means` takes the matrix of pairwise distances. Both yield a (P, P) matrix of means for
`split` and `split_paths`.

Notation: N samples, P groups, D features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Sufficient statistics for pairwise distances of a group: `num_rows`, `mean` (D,) and `scatter` (), float64."""

    num_rows: int
    mean: Tensor
    scatter: Tensor


class Split(NamedTuple):
    """Mean distance of two draws from the pool of all groups, of pairs within a group, and of pairs between groups."""

    total: float
    within: float
    between: float


class PathSplit(NamedTuple):
    """Mean distance of two samples of a prompt, and its decomposition by paraphrase and path.

    Attributes:
        total: two draws from the pool of paraphrases, see `Split`.
        within: two draws of one paraphrase, on different paths.
        between: draws of different paraphrases; NaN for one paraphrase.
        execution: two draws of one paraphrase, on the same path.
        path: total - execution.
        sampler_path: within - execution; NaN for one path.
        prompt_path: total - within; NaN for one paraphrase.
    """

    total: float
    within: float
    between: float
    execution: float
    path: float
    sampler_path: float
    prompt_path: float


class ExtremePairs(NamedTuple):
    """The two nearest and the two farthest samples, each as indices (i, j) with i < j."""

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
    """Moments of the union of both groups. Source: Chan, Golub and LeVeque, "Updating Formulae" (1979)."""
    num_rows = a.num_rows + b.num_rows
    step = b.mean - a.mean
    mean = a.mean + step * (b.num_rows / num_rows)
    return Moments(num_rows, mean, a.scatter + b.scatter + (step @ step) * (a.num_rows * b.num_rows / num_rows))


@dataclass
class PairDistances:
    """Accumulator of mean squared distances between rows, by group; memory does not depend on the number of rows.

    Attributes:
        groups: moments by group number.
    """

    groups: dict[int, Moments] = field(default_factory=dict)

    def update(self, features: Tensor, groups: Tensor | None = None) -> None:
        """Add rows (N, D) with their group numbers (N,); None puts all rows in group 0."""
        labels = torch.zeros(len(features), dtype=torch.int64) if groups is None else groups
        for label in labels.unique().tolist():
            self._add(label, moments(features[labels == label]))

    def merge(self, other: PairDistances) -> None:
        """Add the rows of another accumulator."""
        for label, rows in other.groups.items():
            self._add(label, rows)

    def matrix(self) -> Tensor:
        """(P, P) unbiased mean distances between groups, ordered by number; NaN within a group of one row."""
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
    """(P, P) unbiased mean distances between groups, ordered by number; NaN within a group of one row.

    Args:
        distances: (N, N), symmetric, zero on the diagonal.
        groups: (N,) group numbers; None puts all rows in one group.
    """
    labels = torch.zeros(len(distances), dtype=torch.int64) if groups is None else groups
    member = (labels[:, None] == labels.unique()).to(distances)
    counts = member.sum(0)
    return (member.T @ distances @ member) / (torch.outer(counts, counts) - torch.diag(counts))


def split(matrix: Tensor) -> Split:
    """Total, within and between from mean distances (P, P) between groups.

    All groups have equal weight, regardless of size: within W is the mean over groups that have a pair, between B is
    the mean over pairs of groups, and total = W / P + (1 - 1 / P) B. For one group total = within, and between is NaN.
    If no group has a pair, within and total are NaN.
    """
    num_groups = len(matrix)
    within = matrix.diagonal().nanmean().item()
    between = matrix[~torch.eye(num_groups, dtype=torch.bool)].mean().item()
    total = within if num_groups == 1 else within / num_groups + (1 - 1 / num_groups) * between
    return Split(total, within, between)


def split_paths(matrix: Tensor, paraphrases: Tensor) -> PathSplit:
    """Total, execution and path from mean distances (P, P) between groups, where a group is one path of a paraphrase.

    Paraphrases are a fixed pool, as in `split`. Paths are random, so `within` is the mean over pairs of different paths
    and does not depend on their number. With one path per paraphrase, within equals execution.

    Args:
        matrix: see `PairDistances.matrix`; each paraphrase has the same number of paths.
        paraphrases: (P,) paraphrase number of each group.
    """
    same = paraphrases[:, None] == paraphrases
    own = torch.eye(len(matrix), dtype=torch.bool)
    num_paraphrases = len(paraphrases.unique())
    execution = matrix.diagonal().nanmean().item()
    one_path, one_paraphrase = num_paraphrases == len(matrix), num_paraphrases == 1
    within = execution if one_path else matrix[same & ~own].mean().item()
    between = matrix[~same].mean().item()
    total = within if one_paraphrase else within / num_paraphrases + (1 - 1 / num_paraphrases) * between
    return PathSplit(
        total,
        within,
        between,
        execution,
        total - execution,
        math.nan if one_path else within - execution,
        math.nan if one_paraphrase else total - within,
    )


def extreme_pairs(matrix: Tensor) -> ExtremePairs:
    """Nearest and farthest pair in distances (N, N); ties go to the first pair in row-major order.

    Raises:
        ValueError: there are fewer than two samples.
    """
    if len(matrix) < 2:
        raise ValueError(f"matrix must contain the distances of at least two samples; got {tuple(matrix.shape)}")
    rows, columns = torch.triu_indices(len(matrix), len(matrix), 1, device=matrix.device)
    distances = matrix[rows, columns]
    # argmin and argmax do not specify which of several equal values they return.
    first, last = ((distances == end).nonzero()[0] for end in (distances.min(), distances.max()))
    return ExtremePairs(*((int(rows[pair]), int(columns[pair])) for pair in (first, last)))
