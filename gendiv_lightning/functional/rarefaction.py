"""Rarefaction: the expected value, for fewer samples, of metrics that grow with the number of samples.

Samples must be exchangeable: a random part of samples that are balanced over paraphrases or paths is not balanced.

Notation: N samples, of which n are kept, K entries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gendiv_lightning.functional.vendi import unit_rows, vendi_score

NUM_SUBSETS = 64


def chance_of_missing(counts: Tensor, num_samples: int, num_kept: int) -> Tensor:
    """Probability (...) that n of N samples, drawn without replacement, include none of a given `counts` (...) samples.

    This is the hypergeometric probability C(N - c, n) / C(N, n). Source: Hurlbert, "The Nonconcept of Species
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
    """Probability (K,) that an entry occurs in none of n images, drawn from N without replacement.

    One minus this, summed over entries, is the expected number of distinct entries in n images.

    Args:
        tokens: (N, L) tokens of the images.
        num_kept: number of images n, at most N.
        codebook_size: number of entries K.
    """
    images = torch.zeros(len(tokens), codebook_size, dtype=torch.bool)
    images[torch.arange(len(tokens))[:, None], tokens.long()] = True
    return chance_of_missing(images.sum(0), len(tokens), num_kept)


def rarefied_vendi(features: Tensor, num_kept: int, q: float = 1.0, *, seed: int = 0) -> float:
    """Mean Vendi score of n of N samples over 64 random subsets; NaN if n > N.

    Args:
        features: (N, D), see `vendi_score`.
        num_kept: number of samples n.
        q: order of the score.
        seed: seed of the subsets.
    """
    if num_kept > len(features):
        return math.nan
    if num_kept == len(features):
        return vendi_score(features, q)
    unit, generator = unit_rows(features), torch.Generator().manual_seed(seed)
    subsets = (torch.randperm(len(unit), generator=generator)[:num_kept] for _ in range(NUM_SUBSETS))
    return sum(vendi_score(unit[rows], q) for rows in subsets) / NUM_SUBSETS
