"""Do groups of samples differ? Permutational analysis of variance on distances (Anderson 2001), within prompts.

Notation: N samples, G groups.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Permanova(NamedTuple):
    """Result over all prompts.

    Attributes:
        pseudo_f: between-group mean square over within-group mean square.
        share: share of the sum of squares between groups (R^2), in [0, 1]; it exceeds 0 by chance.
        p_value: share of permutations, including the observed one, with a pseudo-F at least as large.
    """

    pseudo_f: float
    share: float
    p_value: float


def permanova(prompts: Iterable[tuple[Tensor, Tensor]], num_permutations: int = 999, seed: int = 0) -> Permanova:
    """Test for group differences within prompts: labels are permuted within each prompt, sums of squares are added up.

    Args:
        prompts: squared distances (N, N), zero on the diagonal, and group numbers (N,) of each prompt.
        num_permutations: number of random permutations.
        seed: seed of the permutations.

    Raises:
        ValueError: no prompt has two groups of which one has two samples.
    """
    generator = torch.Generator().manual_seed(seed)
    within = torch.zeros(num_permutations + 1, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    between_degrees = within_degrees = 0
    for distances, groups in prompts:
        numbers, labels, counts = groups.unique(return_inverse=True, return_counts=True)
        num_samples, num_groups = len(labels), len(numbers)
        if num_groups < 2 or num_samples == num_groups:
            continue
        squares = distances.double()
        total += squares.sum() / (2 * num_samples)
        member = torch.nn.functional.one_hot(labels, num_groups).double()
        orders = [torch.arange(num_samples)]
        orders += [torch.randperm(num_samples, generator=generator) for _ in range(num_permutations)]
        for number, order in enumerate(orders):
            permuted = member[order]
            within[number] += ((permuted.T @ squares @ permuted).diagonal() / (2 * counts)).sum()
        between_degrees += num_groups - 1
        within_degrees += num_samples - num_groups
    if within_degrees == 0:
        raise ValueError("no prompt has two groups with several samples")
    between = (total - within).clamp(min=0)
    pseudo_f = (between / between_degrees) / (within / within_degrees)
    as_large = (pseudo_f[1:] >= pseudo_f[0] * (1 - 1e-12)).sum().item()
    p_value = (as_large + 1) / (num_permutations + 1)
    return Permanova(pseudo_f[0].item(), (between[0] / total).item(), p_value)
