"""Diversity at equal quality: the frontier of a set of settings, and gains of a setting or a set over another.

Samples of two settings can be mixed. The quality of the mixture is the weighted mean of the two; its diversity, if it
is a mean squared distance of features, is at least the weighted mean. The frontier is therefore the highest diversity
of single settings and mixtures of two with at least a given quality: piecewise linear, non-increasing in the quality,
and without extrapolation.

The highest of several noisy means is too high on average, so a plug-in frontier is optimistic, most of all where the
settings lie on a straight line. The bootstrap shows by how much: the mean over resamples exceeds the plug-in value by
about as much as that exceeds the truth. Gains are corrected by this difference (Efron and Tibshirani, An Introduction
to the Bootstrap, 1993, chapter 10). Intervals are symmetric, t times the standard deviation of the resamples, widened
by sqrt(P / (P - 1)) as in `bootstrap_mean`. `tests/functional/test_frontier_coverage.py` measures bias and coverage.

Notation: S settings, Q qualities, P prompts, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gendiv_lightning.functional.student import student_quantile

NUM_RESAMPLES = 2000
_GRID = 33  # qualities at which two frontiers are compared


def frontier(quality: Tensor, diversity: Tensor, at: Tensor) -> Tensor:
    """Compute the highest diversity of settings and mixtures of two with at least a given quality.

    Args:
        quality: (..., S), higher is better.
        diversity: (..., S).
        at: (..., Q) lowest accepted qualities.

    Returns:
        (..., Q); NaN if no setting has the quality.
    """
    quality, diversity, at = quality[..., None, :], diversity[..., None, :], at[..., :, None]
    enough = quality >= at
    alone = diversity.masked_fill(~enough, -math.inf).amax(-1)
    # Mixtures, exactly at the quality, of a setting i that reaches it and a setting j that does not.
    (q_i, q_j), (d_i, d_j) = ((x[..., :, None], x[..., None, :]) for x in (quality, diversity))
    mixes = enough[..., :, None] & ~enough[..., None, :]
    share = (at[..., None] - q_j) / torch.where(mixes, q_i - q_j, 1.0)
    mixed = torch.where(mixes, d_j + share * (d_i - d_j), -math.inf).flatten(-2).amax(-1)
    best = torch.maximum(alone, mixed)
    return best.masked_fill(~enough.any(-1), math.nan)


def gain_at_equal_quality(
    quality: Tensor, diversity: Tensor, reference_quality: Tensor, reference_diversity: Tensor, *, seed: int = 0
) -> tuple[float, float, float]:
    """Diversity of a setting minus that of a reference frontier at the same quality, corrected, with its interval.

    Args:
        quality: (P,) quality of the setting by prompt, higher is better.
        diversity: (P,) diversity of the setting by prompt.
        reference_quality: (S, P) qualities of the reference settings, for the same prompts.
        reference_diversity: (S, P) diversities of the reference settings.
        seed: seed of the resamples over prompts.

    Returns:
        Gain, lower and upper end; NaN if no reference setting has the quality.
    """

    def gain(means: Tensor) -> Tensor:
        own_quality, own, qualities, diversities = means[:, :1], means[:, 1], *means[:, 2:].chunk(2, 1)
        if len(means) > 1:  # resamples without such a quality compare with the highest quality
            own_quality = torch.minimum(own_quality, qualities.amax(1, keepdim=True))
        return own - frontier(qualities, diversities, own_quality)[:, 0]

    return _bootstrap(torch.cat([quality[None], diversity[None], reference_quality, reference_diversity]), gain, seed)


def mean_gain(
    quality: Tensor, diversity: Tensor, reference_quality: Tensor, reference_diversity: Tensor, *, seed: int = 0
) -> tuple[float, float, float]:
    """Mean difference of two frontiers over the range of qualities that both reach, corrected, with its interval.

    Args:
        quality: (S, P) qualities by prompt, higher is better.
        diversity: (S, P) diversities by prompt.
        reference_quality: (S', P) qualities of the reference settings, for the same prompts.
        reference_diversity: (S', P) diversities of the reference settings.
        seed: seed of the resamples over prompts.

    Returns:
        Mean difference, lower and upper end; NaN if the two ranges of quality do not overlap.
    """
    num = len(quality)

    def area(means: Tensor) -> Tensor:
        own, own_diversity = means[:, :num], means[:, num : 2 * num]
        theirs, their_diversity = means[:, 2 * num :].chunk(2, 1)
        low = torch.maximum(own.amin(1), theirs.amin(1))[:, None]
        high = torch.minimum(own.amax(1), theirs.amax(1))[:, None]
        at = low + (high - low) * torch.linspace(0, 1, _GRID, dtype=means.dtype)
        at = torch.minimum(at, high)  # rounding must not exceed the range
        gains = frontier(own, own_diversity, at) - frontier(theirs, their_diversity, at)
        means_of_gains = (gains[:, 1:] + gains[:, :-1]).mean(1) / 2
        return means_of_gains.masked_fill((high <= low)[:, 0], math.nan)

    return _bootstrap(torch.cat([quality, diversity, reference_quality, reference_diversity]), area, seed)


def _bootstrap(columns: Tensor, statistic: Callable[[Tensor], Tensor], seed: int) -> tuple[float, float, float]:
    """Corrected statistic of the means (R, C) of columns (C, P), and its interval; prompts with NaN are excluded.

    The ends are NaN for one prompt, and if the statistic is NaN in more than 5 % of the resamples.
    """
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
    resampled = statistic(counts @ columns.T / num)
    known = resampled[~resampled.isnan()]
    if len(known) < 0.95 * NUM_RESAMPLES:
        return value, math.nan, math.nan
    corrected = 2 * value - known.mean().item()
    half = student_quantile(0.975, num - 1) * math.sqrt(num / (num - 1)) * known.std().item()
    return corrected, corrected - half, corrected + half
