"""Intervals over prompts: a prompt is the unit that is resampled, so the samples of one prompt stay together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from gendiv_lightning.functional.student import student_quantile

_CHUNK_DRAWS = 2**20


def bootstrap_mean(
    values: Tensor, *, level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean over prompts with its bias-corrected and accelerated (BCa) bootstrap interval, where skewness is shown.

    The acceleration of a mean needs no jackknife loop: leaving out x_i moves the mean by (mean - x_i) / (P - 1), so
    a = sum d^3 / (6 (sum d^2)^(3/2)) with d = x - mean. Resamples of few prompts spread too little, by
    sqrt((P - 1) / P), and BCa ends at normal quantiles: 16 prompts would be covered 92 % of the time. So the normal
    quantile z gives way to sqrt(P / (P - 1)) t with P - 1 degrees of freedom, which makes it 95 %.

    BCa moves towards the side where the values are skewed. Of few prompts that is mostly the side of the one that
    happens to be far off: where prompts differ in how much they scatter, around no skewness at all, BCa covers 90 %.
    So it is mixed with the interval that reaches equally far to both sides, by how far the skewness is beyond its
    chance (`_shown_skewness`); of many skewed prompts it is BCa.
    Sources: Efron, "Better Bootstrap Confidence Intervals" (1987); Hesterberg, "What Teachers Should Know About the
    Bootstrap" (2015), section 5.3, for the wider quantiles; the mixture is ours.

    Args:
        values: (P,) one number a prompt, no NaN.
        level: probability that the interval should cover, in (0, 1).
        num_resamples: bootstrap resamples.
        seed: seed of the resamples; equal seeds give equal intervals.

    Returns:
        Mean, low and high. P = 0: three NaN. P = 1: the ends are NaN. All values equal: three times that value.
    """
    return bootstrap_means([values], level=level, num_resamples=num_resamples, seed=seed)[0]


def bootstrap_means(
    columns: Sequence[Tensor],
    *,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
    watch: Callable[[list[int]], Iterable[int]] = iter,
) -> list[tuple[float, float, float]]:
    """`bootstrap_mean` of each column, bit for bit; the resamples are drawn once for all of them.

    Args:
        columns: numbers (P,) of each, all of one P, no NaN.
        level: see `bootstrap_mean`.
        num_resamples: see `bootstrap_mean`.
        seed: see `bootstrap_mean`.
        watch: gets the steps of the work and returns them, such as a progress bar.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), for instance 0.95; got {level}")
    # As they lie in memory: it shows in the last digit of a mean.
    columns = [column.detach().cpu().double() for column in columns]
    varying = [column for column in columns if len(column) > 1 and not (column == column[0]).all()]
    means = iter(_resampled_means(varying, num_resamples, seed, watch) if varying else ())
    ends = []
    for column in columns:
        if len(column) < 2:
            ends.append(((column[0].item() if len(column) else math.nan), math.nan, math.nan))
        elif (column == column[0]).all():
            ends.append((column[0].item(),) * 3)
        else:
            ends.append(_bca_interval(column, next(means), level))
    return ends


def _bca_interval(values: Tensor, means: Tensor, level: float) -> tuple[float, float, float]:
    """Mean, low and high of values (P,), from means of resamples; see `bootstrap_mean`."""
    mean = values.mean()
    deviations, shifts = values - mean, means - mean
    reach = math.sqrt(len(values) / (len(values) - 1)) * student_quantile((1 + level) / 2, len(values) - 1)
    bca = torch.quantile(means, _bca_levels(deviations, shifts, reach))
    half = torch.quantile(shifts.abs(), math.erf(reach / math.sqrt(2)))
    even = torch.stack([mean - half, mean + half]).clamp(values.min(), values.max())  # as all resamples are
    ends = torch.lerp(even, bca, _shown_skewness(deviations))
    return mean.item(), ends[0].item(), ends[1].item()


def bootstrap_ratio(
    numerator: Tensor, denominator: Tensor, *, level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Ratio of two means over the same prompts, with its percentile bootstrap interval over prompts.

    Args:
        numerator: (P,) one number a prompt; prompts that are NaN on either side are left out.
        denominator: (P,) likewise.
        level: probability that the interval should cover, in (0, 1).
        num_resamples: bootstrap resamples.
        seed: seed of the resamples.

    Returns:
        Ratio, low and high; NaN where the denominator's mean is 0, and ends that are NaN for fewer than two prompts.
    """
    pairs = torch.stack([numerator, denominator], 1).detach().cpu().double()
    pairs = pairs[~pairs.isnan().any(1)]
    if not len(pairs) or pairs[:, 1].mean() == 0:
        return math.nan, math.nan, math.nan
    ratio = (pairs[:, 0].mean() / pairs[:, 1].mean()).item()
    if len(pairs) < 2:
        return ratio, math.nan, math.nan
    over, under = _resampled_means([column.contiguous() for column in pairs.T], num_resamples, seed)
    ratios = over / under
    low, high = torch.quantile(ratios[ratios.isfinite()], torch.tensor([(1 - level) / 2, (1 + level) / 2]).double())
    return ratio, low.item(), high.item()


def _resampled_means(
    columns: list[Tensor], num_resamples: int, seed: int, watch: Callable[[list[int]], Iterable[int]] = iter
) -> list[Tensor]:
    """(num_resamples,) means of resamples with replacement of each column (P,), by the same draws."""
    generator = torch.Generator().manual_seed(seed)
    num_values = len(columns[0])
    chunk = max(1, _CHUNK_DRAWS // num_values)
    sizes = [min(chunk, num_resamples - start) for start in range(0, num_resamples, chunk)]
    means: list[list[Tensor]] = [[] for _ in columns]
    for size in watch(sizes):
        draw = torch.randint(num_values, (size, num_values), generator=generator)
        for column, found in zip(columns, means, strict=True):
            found.append(column.take(draw).mean(1))
    return [torch.cat(found) for found in means]


def _bca_levels(deviations: Tensor, shifts: Tensor, reach: float) -> Tensor:
    """(2,) probabilities at which to read the ends from the resamples; `shifts` are resampled means minus the mean."""
    acceleration = deviations.pow(3).sum() / (6 * deviations.square().sum() ** 1.5)
    share_below = (shifts < 0).double().mean() + (shifts == 0).double().mean() / 2
    bias = torch.special.ndtri(share_below)
    moved = bias + torch.tensor([-reach, reach], dtype=torch.float64)
    return torch.special.ndtr(bias + moved / (1 - acceleration * moved))


def _shown_skewness(deviations: Tensor) -> float:
    """1 - 1 / T^2, at least 0: T is the sum of cubed deviations over what it would be by chance, with random signs.

    The positive part of the James-Stein factor (1961). One value far off has T = 1, and shows nothing.
    """
    cubes = deviations.pow(3)
    return max(0.0, 1 - (cubes.square().sum() / cubes.sum().square()).item())
