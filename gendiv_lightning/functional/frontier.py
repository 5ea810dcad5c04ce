"""Diversity at equal quality: what a set of settings reaches, and the gain of one setting or set over another.

Samples of two settings may be mixed, a share of them from each. The quality of the mixture is the mean of the two; its
diversity, a mean distance that is a squared distance of features, is at least their mean. So the frontier of settings
is what single ones and mixtures of two reach at a given quality or a higher one: piecewise linear, never rising with
the quality, and without extrapolation.

Letters: S settings, Q qualities, P prompts, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

NUM_RESAMPLES = 2000
_GRID = 33  # qualities at which two frontiers are compared


def frontier(quality: Tensor, diversity: Tensor, at: Tensor) -> Tensor:
    """The highest diversity of settings, and of mixtures of two, whose quality is at least that asked for.

    Args:
        quality: (..., S), higher is better.
        diversity: (..., S).
        at: (..., Q) qualities asked for.

    Returns:
        (..., Q); NaN where no setting has such a quality.
    """
    quality, diversity, at = quality[..., None, :], diversity[..., None, :], at[..., :, None]
    enough = quality >= at
    alone = diversity.masked_fill(~enough, -math.inf).amax(-1)
    # Mixtures of a setting i that has the quality, and one j that lacks it, exactly at it.
    (q_i, q_j), (d_i, d_j) = ((x[..., :, None], x[..., None, :]) for x in (quality, diversity))
    mixes = enough[..., :, None] & ~enough[..., None, :]
    share = (at[..., None] - q_j) / torch.where(mixes, q_i - q_j, 1.0)
    mixed = torch.where(mixes, d_j + share * (d_i - d_j), -math.inf).flatten(-2).amax(-1)
    best = torch.maximum(alone, mixed)
    return best.masked_fill(~enough.any(-1), math.nan)


def gain_at_equal_quality(
    quality: Tensor, diversity: Tensor, reference_quality: Tensor, reference_diversity: Tensor, *, seed: int = 0
) -> tuple[float, float, float]:
    """Diversity of one setting minus that of the reference's frontier at its quality, with a bootstrap interval.

    Args:
        quality: (P,) of the setting, higher is better.
        diversity: (P,).
        reference_quality: (S, P) of the settings it is compared with, over the same prompts.
        reference_diversity: (S, P).
        seed: of the resamples of prompts.

    Returns:
        Gain, low and high; NaN where no setting of the reference has such a quality. The interval is NaN where that is
        so in more than 5 % of the resamples.
    """

    def gain(means: Tensor) -> Tensor:
        own_quality, own, qualities, diversities = means[:, :1], means[:, 1], *means[:, 2:].chunk(2, 1)
        return own - frontier(qualities, diversities, own_quality)[:, 0]

    return _bootstrap(torch.cat([quality[None], diversity[None], reference_quality, reference_diversity]), gain, seed)


def mean_gain(
    quality: Tensor, diversity: Tensor, reference_quality: Tensor, reference_diversity: Tensor, *, seed: int = 0
) -> tuple[float, float, float]:
    """Area between the frontier of settings and that of a reference over the qualities that both reach, per quality.

    Args:
        quality: (S, P), higher is better.
        diversity: (S, P).
        reference_quality: (S', P), over the same prompts.
        reference_diversity: (S', P).
        seed: of the resamples of prompts.

    Returns:
        Mean of the difference, low and high; NaN where the two reach no qualities in common.
    """
    num = len(quality)

    def area(means: Tensor) -> Tensor:
        own, own_diversity = means[:, :num], means[:, num : 2 * num]
        theirs, their_diversity = means[:, 2 * num :].chunk(2, 1)
        low = torch.maximum(own.amin(1), theirs.amin(1))[:, None]
        high = torch.minimum(own.amax(1), theirs.amax(1))[:, None]
        at = low + (high - low) * torch.linspace(0, 1, _GRID, dtype=means.dtype)
        at = torch.minimum(at, high)  # rounding must not go beyond what is reached
        gains = frontier(own, own_diversity, at) - frontier(theirs, their_diversity, at)
        means_of_gains = (gains[:, 1:] + gains[:, :-1]).mean(1) / 2
        return means_of_gains.masked_fill((high <= low)[:, 0], math.nan)

    return _bootstrap(torch.cat([quality, diversity, reference_quality, reference_diversity]), area, seed)


def _bootstrap(columns: Tensor, statistic: Callable[[Tensor], Tensor], seed: int) -> tuple[float, float, float]:
    """A statistic of means (R, C) of columns (C, P), with its percentile interval over prompts without NaN."""
    columns = columns.double()
    columns = columns[:, ~columns.isnan().any(0)]
    num = columns.shape[1]
    if not num:
        return math.nan, math.nan, math.nan
    value = statistic(columns.mean(1)[None]).item()
    if num < 2 or math.isnan(value):
        return value, math.nan, math.nan
    draws = torch.randint(num, (NUM_RESAMPLES, num), generator=torch.Generator().manual_seed(seed))
    counts = torch.zeros(NUM_RESAMPLES, num, dtype=torch.float64)
    counts.scatter_add_(1, draws, torch.ones_like(counts))
    found = statistic(counts @ columns.T / num)
    known = found[~found.isnan()]
    if len(known) < 0.95 * NUM_RESAMPLES:
        return value, math.nan, math.nan
    low, high = torch.quantile(known, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return value, low, high
