"""Renyi entropies of samples by a kernel: how many different images there are at the kernel's resolution.

The samples' features, mapped by the kernel, have the second moment rho = E[phi(x) phi(x)'], whose trace is 1 where
k(x, x) = 1. Its order-2 entropy needs no eigenvalues,
    H_2 = -log2 tr rho^2 = -log2 E k(x, x')^2          over independent x and x',
so the mean over pairs of different samples estimates what is inside the logarithm without bias, whatever their number.
Order 1 is the von Neumann entropy of rho, whose power of two is the Vendi score; it grows with the number of samples.

With a condition t and its kernel, the second moment of pairs (x, t) is the elementwise product of the two kernels, and
    H(x | t) = H(x, t) - H(t),     I(x; t) = H(x) - H(x | t).
Sources: Jalali, Li and Farnia, "An Information-Theoretic Evaluation of Generative Models" (2023), for order 2 (RKE);
Jalali, Ospanov, Gohari and Farnia, "Conditional Vendi Score" (2024), for conditions.

Letters: N samples, D features, P groups.
"""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from gendiv_lightning.functional.pairwise import group_means
from gendiv_lightning.functional.vendi import hill_number, shares, unit_rows


def check_bandwidth(bandwidth: float | None) -> None:
    """Raise ValueError unless it is None or a number of at least 0."""
    if bandwidth is not None and not 0 <= bandwidth < math.inf:
        raise ValueError(
            f"bandwidth must be a distance of at least 0, got {bandwidth}. Take the median distance of a baseline's "
            "samples, 0 for images that are equal or not, or leave it out for the cosine of features"
        )


def kernel_matrix(features: Tensor, bandwidth: float | None = None) -> Tensor:
    """Similarities (N, N) float64 with ones on the diagonal.

    Args:
        features: (N, D), finite.
        bandwidth: sigma of the Gaussian kernel exp(-||x - y||^2 / (2 sigma^2)), in the unit of the features; its limit
            at 0 is the identity kernel, 1 for equal rows and 0 for others. None is the cosine of the features.

    Raises:
        ValueError: a row is not finite; or, for the cosine, all zeros.
    """
    check_bandwidth(bandwidth)
    if bandwidth is None:
        unit = unit_rows(features)
        return (unit @ unit.T).fill_diagonal_(1)
    squares = squared_distances(features)
    return (squares == 0).double() if bandwidth == 0 else torch.exp(-squares / (2 * bandwidth**2))


def squared_distances(features: Tensor) -> Tensor:
    """(N, N) float64, exactly zero for equal rows; ValueError for a row that is not finite."""
    if not features.isfinite().all():
        raise ValueError(f"features must be finite; {int((~features.isfinite()).any(1).sum())} rows are not")
    rows = features.double()
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()


def mean_squared_kernel(kernel: Tensor, groups: Tensor | None = None) -> Tensor:
    """(P, P) unbiased means of k^2 over pairs of different samples of two groups; NaN for a group of one with itself.

    Args:
        kernel: (N, N).
        groups: (N,) group numbers; None is one group.
    """
    labels = torch.zeros(len(kernel), dtype=torch.int64) if groups is None else groups.cpu()
    return group_means(kernel.double().cpu().square().fill_diagonal_(0), labels)


def kernel_entropy(kernel: Tensor, q: float = 1.0) -> float:
    """Entropy of order q in bits of all N samples, plug-in: too low, the more so the fewer samples.

    Args:
        kernel: (N, N), positive semidefinite with one number all along its diagonal.
        q: 1 is the von Neumann entropy (log2 of the Vendi score), 2 is RKE.
    """
    if q == 2:  # the sum of the squared eigenvalues
        return -2 * math.log2((torch.linalg.matrix_norm(kernel.double()) / kernel.diagonal().sum()).item())
    return math.log2(hill_number(shares(kernel), q))


def conditional_entropy(kernel: Tensor, condition: Tensor, q: float = 1.0) -> float:
    """H(x | t) = H(x, t) - H(t) in bits, plug-in; two to the power of it is Conditional-Vendi, of order 2 -RKE.

    Args:
        kernel: (N, N) of the samples, ones on the diagonal.
        condition: (N, N) of their conditions, ones on the diagonal: of the text, or 1 for samples of one group.
        q: order.
    """
    return kernel_entropy(kernel * condition, q) - kernel_entropy(condition, q)


def kernel_information(kernel: Tensor, condition: Tensor, q: float = 1.0) -> float:
    """I(x; t) = H(x) - H(x | t) in bits, plug-in; two to the power of it is Information-Vendi. See above."""
    return kernel_entropy(kernel, q) - conditional_entropy(kernel, condition, q)


def matched_entropies(kernel: Tensor, wordings: Tensor, paths: Tensor) -> tuple[float, float, float]:
    """Order-1 entropies in bits of samples of one path, of one wording, and of all, each from groups of one size.

    An entropy of order 1 grows with the number of samples, so the three are compared at equal numbers: of n paths with
    n executions each, a group is the n samples of a path; one sample of each path; and n / Q such samples of each of
    the Q wordings. Where samples share no path there are the last two kinds, of as many samples as a wording has.

    Args:
        kernel: (N, N), see `kernel_matrix`.
        wordings: (N,) number of each sample's wording.
        paths: (N,) number of its path.

    Returns:
        Means over groups: execution, wording, total. NaN where the samples cannot be grouped so.
    """
    cells = list(zip(wordings.tolist(), paths.tolist(), strict=True))
    texts, turns, seen = sorted({text for text, _ in cells}), [], Counter[tuple[int, int]]()
    ranks = {text: sorted({path for other, path in cells if other == text}) for text in texts}
    for cell in cells:
        turns.append(seen[cell])
        seen[cell] += 1
    places = [ranks[text].index(path) for text, path in cells]
    num_paths, is_shared = len(ranks[texts[0]]), len(seen) < len(cells)
    if is_shared and num_paths == 1:  # executions take the place of paths
        places, turns, num_paths = turns, places, max(turns) + 1
    size = num_paths // len(texts)
    groups = {
        "wording": [(text, turn) for (text, _), turn in zip(cells, turns, strict=True)],
        "total": [(place // size if size else 0, turn) for place, turn in zip(places, turns, strict=True)],
    }
    is_crossed = is_shared and len(cells) == len(texts) * num_paths**2
    one_path = is_shared and len(seen) == len(texts)
    execution = _mean_entropy(kernel, cells, num_paths) if is_crossed or one_path else math.nan
    wording, total = (_mean_entropy(kernel, groups[kind], num_paths) for kind in ("wording", "total"))
    return execution, wording, wording if len(texts) == 1 else total


def _mean_entropy(kernel: Tensor, labels: list[tuple[int, int]], size: int) -> float:
    """Mean order-1 entropy of groups; NaN unless each has so many samples, two or more."""
    members: dict[tuple[int, int], list[int]] = {}
    for place, label in enumerate(labels):
        members.setdefault(label, []).append(place)
    if size < 2 or any(len(rows) != size for rows in members.values()):
        return math.nan
    kernels = [kernel[rows][:, rows] for rows in map(torch.tensor, members.values())]
    return sum(map(kernel_entropy, kernels)) / len(kernels)
