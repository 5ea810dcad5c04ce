"""Numbers that grow with the number of samples, brought down to what fewer of them would show on average.

Letters: N samples, n of them, K entries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gendiv_lightning.functional.vendi import unit_rows, vendi_score

NUM_SUBSETS = 64


def chance_of_missing(counts: Tensor, num_samples: int, num_kept: int) -> Tensor:
    """Probability (...) that n of N samples, drawn without replacement, hold none of `counts` (...) of them.

    C(N - c, n) / C(N, n): the hypergeometric probability of none. Source: Hurlbert, "The Nonconcept of Species
    Diversity" (1971).
    """
    left = num_samples - counts.double()
    size, kept = (torch.tensor(float(number), dtype=torch.float64) for number in (num_samples, num_kept))
    log_chance = (
        torch.lgamma(left + 1)
        - torch.lgamma((left - kept).clamp(min=0) + 1)
        - torch.lgamma(size + 1)
        + torch.lgamma(size - kept + 1)
    )
    return log_chance.exp().masked_fill(left < kept, 0.0)


def rarefied_entries(tokens: Tensor, num_kept: int, codebook_size: int) -> Tensor:
    """Expected probability (K,) that each entry is in none of n images out of N.

    One minus it, summed over entries, is the expected number of distinct entries of n images.

    Args:
        tokens: (N, L).
        num_kept: n, at most N.
        codebook_size: K.
    """
    images = torch.zeros(len(tokens), codebook_size, dtype=torch.bool)
    images[torch.arange(len(tokens))[:, None], tokens.long()] = True
    return chance_of_missing(images.sum(0), len(tokens), num_kept)


def rarefied_vendi(features: Tensor, num_kept: int, q: float = 1.0, *, seed: int = 0) -> float:
    """Mean Vendi score of n of N samples: over 64 random subsets, or of all samples where n is N.

    Args:
        features: (N, D), see `vendi_score`.
        num_kept: n, at most N.
        q: order.
        seed: of the subsets.
    """
    if num_kept > len(features):
        return math.nan
    if num_kept == len(features):
        return vendi_score(features, q)
    unit, generator = unit_rows(features), torch.Generator().manual_seed(seed)
    subsets = (torch.randperm(len(unit), generator=generator)[:num_kept] for _ in range(NUM_SUBSETS))
    return sum(vendi_score(unit[rows], q) for rows in subsets) / NUM_SUBSETS
