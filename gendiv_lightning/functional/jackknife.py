"""Jackknife intervals for set-level numbers, such as FID, that are not means over prompts.

Each block of prompts is left out once. A bootstrap would need a distance between distributions for each of hundreds of
resamples; a jackknife over 20 blocks needs 21. Blocks consist of whole prompts, so the samples of a prompt stay
together.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 11; Shao and Tu, "The Jackknife and
Bootstrap" (1995), section 2.3. Notation: P prompts, G blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gendiv_lightning.functional.student import student_quantile

NUM_BLOCKS = 20
FEWEST_BLOCKS = 5


def assign_blocks(num_prompts: int) -> Tensor:
    """(P,) block number of each prompt: at most 20 random blocks, whose sizes differ by at most one prompt.

    The assignment is random because prompt sets are often ordered, with similar neighbours; it is the same in every
    call.
    """
    order = torch.randperm(num_prompts, generator=torch.Generator().manual_seed(0))
    return order % min(NUM_BLOCKS, max(num_prompts, 1))


def leave_out(num_rows: int, blocks: Tensor | None = None) -> Iterator[Tensor]:
    """Masks (N,) of all rows, then of the rows outside each block; `blocks` (N,) are numbered 0 to G - 1."""
    if blocks is None:
        yield torch.ones(num_rows, dtype=torch.bool)
        return
    yield torch.ones_like(blocks, dtype=torch.bool)
    for block in range(count_blocks(blocks)):
        yield blocks != block


def count_blocks(blocks: Tensor | None) -> int:
    """Number of blocks G; 0 for None."""
    return 0 if blocks is None else int(blocks.max()) + 1


def jackknife(values: Tensor) -> tuple[float, float, float]:
    """A number with its 95 % jackknife interval.

    The variance is (G - 1) / G sum_g (x_g - mean x)^2, with x_g the number without block g; the interval uses
    Student's t with G - 1 degrees of freedom. It is centred at the number and does not account for its bias.

    Args:
        values: (1 + G,) the number from all rows, then with each block left out.

    Returns:
        Number, lower and upper end. The ends are NaN for fewer than 5 blocks.
    """
    half = _half_width(values)
    value = values[0].item()
    return value, value - half, value + half


def jackknife_limit(values: Tensor) -> tuple[float, float, float]:
    """The number without the part of its bias that is proportional to 1 / (number of samples), with a 95 % interval.

    G x - (G - 1) mean x_g: a line through the two sample sizes, extrapolated to infinitely many samples, which needs
    no further distances. Variance and interval are those of `jackknife`, because both use the same pseudo-values. The
    result may be negative. Sources: Quenouille, "Notes on Bias in Estimation" (1956); for Frechet distances Chong and
    Forsyth, "Effectively Unbiased FID and Inception Score" (2020), who fit the line through more sizes.

    Args:
        values: see `jackknife`.

    Returns:
        Number, lower and upper end. All are NaN for fewer than 5 blocks.
    """
    num_blocks = len(values) - 1
    half = _half_width(values)
    limit = math.nan if math.isnan(half) else (num_blocks * values[0] - (num_blocks - 1) * values[1:].mean()).item()
    return limit, limit - half, limit + half


def _half_width(values: Tensor) -> float:
    left_out = values[1:].double()
    num_blocks = len(left_out)
    if num_blocks < FEWEST_BLOCKS:
        return math.nan
    variance = (num_blocks - 1) / num_blocks * (left_out - left_out.mean()).square().sum()
    return student_quantile(0.975, num_blocks - 1) * variance.sqrt().item()
