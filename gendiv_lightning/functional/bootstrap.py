"""Bootstrap intervals over prompts. The prompt is the resampled unit, so the samples of one prompt stay together."""

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
    """Mean over prompts with a bootstrap interval: BCa where the values are demonstrably skewed, symmetric otherwise.

    The acceleration of a mean needs no jackknife loop: leaving out x_i moves the mean by (mean - x_i) / (P - 1), so
    a = sum d^3 / (6 (sum d^2)^(3/2)) with d = x - mean. Resamples of a small set spread too little, by a factor of
    sqrt((P - 1) / P), and BCa uses normal quantiles: with 16 prompts it would cover 92 %. The normal quantile z is
    therefore replaced by sqrt(P / (P - 1)) t with P - 1 degrees of freedom, which restores 95 %.

    BCa shifts the interval towards the skewed side. With few prompts a single outlier mostly decides which side that
    is: for prompts of unequal variance and no true skewness, BCa covers 90 %. The interval is therefore a mixture of
    BCa and a symmetric interval, weighted by how far the skewness exceeds chance (`_skewness_weight`). With many
    skewed prompts it is BCa.
    Sources: Efron, "Better Bootstrap Confidence Intervals" (1987); Hesterberg, "What Teachers Should Know About the
    Bootstrap" (2015), section 5.3, for the wider quantiles; the mixture is ours.

    Args:
        values: (P,) one number per prompt, no NaN.
        level: nominal coverage of the interval, in (0, 1).
        num_resamples: number of bootstrap resamples.
        seed: seed of the resamples; equal seeds give equal intervals.

    Returns:
        Mean, lower and upper end. All three are NaN for P = 0, the ends are NaN for P = 1, and all three equal the
        mean if all values are equal.
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
    """`bootstrap_mean` of each column, bit-identical to separate calls; all columns share the same resamples.

    Args:
        columns: one (P,) tensor per column, all of the same length P, no NaN.
        level: see `bootstrap_mean`.
        num_resamples: see `bootstrap_mean`.
        seed: see `bootstrap_mean`.
        watch: wraps the iterable of work steps, for example with a progress bar.

    Returns:
        Mean, lower and upper end of each column.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), for example 0.95; got {level}")
    # Columns keep their memory layout, because it changes the last digit of a mean.
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
    """Mean, lower and upper end for values (P,), given the means of their resamples; see `bootstrap_mean`."""
    mean = values.mean()
    deviations, shifts = values - mean, means - mean
    reach = math.sqrt(len(values) / (len(values) - 1)) * student_quantile((1 + level) / 2, len(values) - 1)
    bca = torch.quantile(means, _bca_levels(deviations, shifts, reach))
    half = torch.quantile(shifts.abs(), math.erf(reach / math.sqrt(2)))
    # No resampled mean is outside the range of the values.
    symmetric = torch.stack([mean - half, mean + half]).clamp(values.min(), values.max())
    ends = torch.lerp(symmetric, bca, _skewness_weight(deviations))
    return mean.item(), ends[0].item(), ends[1].item()


def bootstrap_ratio(
    numerator: Tensor, denominator: Tensor, *, level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Ratio of two means over the same prompts, with its percentile bootstrap interval over prompts.

    Args:
        numerator: (P,) one number per prompt; prompts that are NaN on either side are left out.
        denominator: (P,) one number per prompt.
        level: nominal coverage of the interval, in (0, 1).
        num_resamples: number of bootstrap resamples.
        seed: seed of the resamples.

    Returns:
        Ratio, lower and upper end. All are NaN if the mean of the denominator is 0; the ends are NaN for fewer than
        two prompts.
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
    """(num_resamples,) means of each column (P,) over resamples with replacement; all columns share the draws."""
    generator = torch.Generator().manual_seed(seed)
    num_values = len(columns[0])
    chunk = max(1, _CHUNK_DRAWS // num_values)
    sizes = [min(chunk, num_resamples - start) for start in range(0, num_resamples, chunk)]
    means: list[list[Tensor]] = [[] for _ in columns]
    for size in watch(sizes):
        draw = torch.randint(num_values, (size, num_values), generator=generator)
        for column, chunks in zip(columns, means, strict=True):
            chunks.append(column.take(draw).mean(1))
    return [torch.cat(chunks) for chunks in means]


def _bca_levels(deviations: Tensor, shifts: Tensor, reach: float) -> Tensor:
    """(2,) quantile levels of the interval's ends among the resamples; `shifts` are resampled means minus the mean."""
    acceleration = deviations.pow(3).sum() / (6 * deviations.square().sum() ** 1.5)
    share_below = (shifts < 0).double().mean() + (shifts == 0).double().mean() / 2
    bias = torch.special.ndtri(share_below)
    moved = bias + torch.tensor([-reach, reach], dtype=torch.float64)
    return torch.special.ndtr(bias + moved / (1 - acceleration * moved))


def _skewness_weight(deviations: Tensor) -> float:
    """1 - 1 / T^2, at least 0, with T the sum of cubed deviations over its standard deviation under random signs.

    This is the positive-part James-Stein factor (1961). A single outlier gives T = 1 and therefore weight 0.
    """
    cubes = deviations.pow(3)
    return max(0.0, 1 - (cubes.square().sum() / cubes.sum().square()).item())
