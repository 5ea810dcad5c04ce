"""Kernel-based Renyi entropies of samples: how many different images there are at the resolution of a kernel.

A kernel k(x, y) = <phi(x), phi(y)> with k(x, x) = 1 gives the samples a density matrix rho = E[phi(x) phi(x)'] of trace
1. Its entropy of order 2 needs no eigenvalues,
    H_2 = -log2 tr rho^2 = -log2 E k(x, x')^2          for independent x and x',
and the mean of k^2 over pairs of different samples is an unbiased estimate of this expectation for any sample size.
The entropy of order 1 is the von Neumann entropy of rho, the log2 of the Vendi score. It grows with the sample size.

With a kernel on a condition t, the kernel of pairs (x, t) is the elementwise product of the two kernels, and
    H(x | t) = H(x, t) - H(t),     I(x; t) = H(x) - H(x | t).

Sources: Jalali, Li and Farnia, "An Information-Theoretic Evaluation of Generative Models" (2023), for order 2 (RKE);
Jalali, Ospanov, Gohari and Farnia, "Conditional Vendi Score" (2024), for conditions.

Notation: N samples, D features, P groups.
"""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from gendiv_lightning.functional.pairwise import group_means
from gendiv_lightning.functional.vendi import hill_number, shares, unit_rows


def check_bandwidth(bandwidth: float | None) -> None:
    """Raise ValueError unless `bandwidth` is None or a finite number of at least 0."""
    if bandwidth is not None and not 0 <= bandwidth < math.inf:
        raise ValueError(
            f"bandwidth must be a distance of at least 0, got {bandwidth}. Use the median distance between samples of "
            "the baseline, 0 for the identity kernel, or leave it out for the cosine of features"
        )


def kernel_matrix(features: Tensor, bandwidth: float | None = None) -> Tensor:
    """Compute the similarities between samples.

    Args:
        features: (N, D), finite.
        bandwidth: sigma of the Gaussian kernel exp(-||x - y||^2 / (2 sigma^2)), in the unit of the features; 0 is the
            identity kernel, its limit (1 for equal rows and 0 for others). None: the cosine of the features.

    Returns:
        (N, N) float64 with ones on the diagonal.

    Raises:
        ValueError: if a row has a non-finite value or, for the cosine, is all zeros.
    """
    check_bandwidth(bandwidth)
    if bandwidth is None:
        unit = unit_rows(features)
        return (unit @ unit.T).fill_diagonal_(1)
    squares = squared_distances(features)
    return (squares == 0).double() if bandwidth == 0 else torch.exp(-squares / (2 * bandwidth**2))


def squared_distances(features: Tensor) -> Tensor:
    """Compute squared Euclidean distances (N, N) float64, exactly zero for equal rows.

    Raises:
        ValueError: if a row has a non-finite value.
    """
    if not features.isfinite().all():
        bad = int((~features.isfinite()).any(1).sum())
        raise ValueError(f"features must be finite, got {bad} rows with NaN or infinity. Check the feature network")
    rows = features.double()
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()


def mean_squared_kernel(kernel: Tensor, groups: Tensor | None = None) -> Tensor:
    """Average k^2 over the pairs of different samples of every two groups, which is unbiased.

    Args:
        kernel: (N, N).
        groups: (N,) group numbers. None: all samples form one group.

    Returns:
        (P, P) float64; NaN on the diagonal for a group with one sample.
    """
    labels = torch.zeros(len(kernel), dtype=torch.int64) if groups is None else groups.cpu()
    return group_means(kernel.double().cpu().square().fill_diagonal_(0), labels)


def kernel_entropy(kernel: Tensor, q: float = 1.0) -> float:
    """Estimate the entropy of order q in bits by plug-in, which is biased low, most for few samples.

    Args:
        kernel: (N, N), positive semidefinite with a constant diagonal.
        q: 1 is the von Neumann entropy (log2 of the Vendi score), 2 is RKE.
    """
    if q == 2:  # the squared eigenvalues sum to the squared Frobenius norm
        return -2 * math.log2((torch.linalg.matrix_norm(kernel.double()) / kernel.diagonal().sum()).item())
    return math.log2(hill_number(shares(kernel), q))


def conditional_entropy(kernel: Tensor, condition: Tensor, q: float = 1.0) -> float:
    """Estimate H(x | t) = H(x, t) - H(t) in bits by plug-in.

    Two to this power is the Conditional-Vendi score (order 1) or Conditional-RKE (order 2).

    Args:
        kernel: (N, N) kernel of the samples, ones on the diagonal.
        condition: (N, N) kernel of their conditions, ones on the diagonal: for example a kernel of the prompts' texts,
            or 1 for samples of the same group and 0 for others.
        q: order of the entropy.
    """
    return kernel_entropy(kernel * condition, q) - kernel_entropy(condition, q)


def kernel_information(kernel: Tensor, condition: Tensor, q: float = 1.0) -> float:
    """Estimate I(x; t) = H(x) - H(x | t) in bits by plug-in; two to this power is the Information-Vendi score.

    For the arguments see `conditional_entropy`.
    """
    return kernel_entropy(kernel, q) - conditional_entropy(kernel, condition, q)


def matched_entropies(kernel: Tensor, paraphrases: Tensor, paths: Tensor) -> tuple[float, float, float]:
    """Estimate the order-1 entropies of a path, of a paraphrase and of a prompt from groups of equal size.

    The estimate of order 1 grows with the number of samples, so the three are only comparable at equal numbers. With n
    paths of n executions each for every one of Q paraphrases, every group has n samples:
    - of a path: its n executions;
    - of a paraphrase: one sample of each of its paths;
    - of the prompt: n / Q such samples of each paraphrase.
    If no two samples share a path, only the last two exist, with as many samples as a paraphrase has.

    Args:
        kernel: (N, N), see `kernel_matrix`.
        paraphrases: (N,) paraphrase number of each sample.
        paths: (N,) path number of each sample.

    Returns:
        Execution, paraphrase and total entropy in bits, means over groups; NaN if the samples do not form such groups.
    """
    cells = list(zip(paraphrases.tolist(), paths.tolist(), strict=True))
    texts, executions, seen = sorted({text for text, _ in cells}), [], Counter[tuple[int, int]]()
    paths_of = {text: sorted({path for other, path in cells if other == text}) for text in texts}
    for cell in cells:
        executions.append(seen[cell])
        seen[cell] += 1
    ranks = [paths_of[text].index(path) for text, path in cells]
    num_paths, is_shared = len(paths_of[texts[0]]), len(seen) < len(cells)
    if is_shared and num_paths == 1:  # with a single path, the groups run over its executions instead
        ranks, executions, num_paths = executions, ranks, max(executions) + 1
    size = num_paths // len(texts)
    groups = {
        "paraphrase": [(text, execution) for (text, _), execution in zip(cells, executions, strict=True)],
        "total": [(rank // size if size else 0, execution) for rank, execution in zip(ranks, executions, strict=True)],
    }
    is_crossed = is_shared and len(cells) == len(texts) * num_paths**2
    has_one_path = is_shared and len(seen) == len(texts)
    of_path = _mean_entropy(kernel, cells, num_paths) if is_crossed or has_one_path else math.nan
    of_paraphrase, total = (_mean_entropy(kernel, groups[kind], num_paths) for kind in ("paraphrase", "total"))
    return of_path, of_paraphrase, of_paraphrase if len(texts) == 1 else total


def _mean_entropy(kernel: Tensor, labels: list[tuple[int, int]], size: int) -> float:
    """Mean order-1 entropy of the groups, or NaN unless all have `size` >= 2 samples."""
    members: dict[tuple[int, int], list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    if size < 2 or any(len(rows) != size for rows in members.values()):
        return math.nan
    kernels = [kernel[rows][:, rows] for rows in map(torch.tensor, members.values())]
    return sum(map(kernel_entropy, kernels)) / len(kernels)
