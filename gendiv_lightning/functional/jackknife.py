"""Intervals for numbers of a whole set, which are no mean over prompts: each block of prompts is left out once.

A bootstrap would need a distance between distributions for each of hundreds of resamples, a jackknife over 20 blocks
needs 21. The blocks are made of whole prompts, so the samples of a prompt stay together.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 11; Shao and Tu, "The Jackknife and
Bootstrap" (1995), section 2.3. Letters: P prompts, G blocks.
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
    """(P,) number of each prompt's block: at most 20 blocks, equally large up to one prompt, of prompts at random.

    At random, but the same for every call: prompt sets are often ordered, and neighbours alike.
    """
    order = torch.randperm(num_prompts, generator=torch.Generator().manual_seed(0))
    return order % min(NUM_BLOCKS, max(num_prompts, 1))


def leave_out(num_rows: int, blocks: Tensor | None = None) -> Iterator[Tensor]:
    """Masks (N,) of all rows, then of the rows outside each block; blocks (N,) are numbered 0 to G - 1."""
    if blocks is None:
        yield torch.ones(num_rows, dtype=torch.bool)
        return
    yield torch.ones_like(blocks, dtype=torch.bool)
    for block in range(count_blocks(blocks)):
        yield blocks != block


def count_blocks(blocks: Tensor | None) -> int:
    """G, 0 for None."""
    return 0 if blocks is None else int(blocks.max()) + 1


def jackknife(values: Tensor) -> tuple[float, float, float]:
    """A number and its 95 % interval.

    The variance is (G - 1) / G sum_g (x_g - mean x)^2, with x_g the number without block g; the interval takes
    Student's t with G - 1 degrees of freedom. It is centred at the number, whose bias it does not contain.

    Args:
        values: (1 + G,) the number, then what it is without each block.

    Returns:
        Number, low, high. The ends are NaN for fewer than 5 blocks.
    """
    half = _half_width(values)
    value = values[0].item()
    return value, value - half, value + half


def jackknife_limit(values: Tensor) -> tuple[float, float, float]:
    """The number without the part of its bias that falls as 1 / (number of samples), and its 95 % interval.

    G x - (G - 1) mean x_g: the value at infinitely many samples of a line through the two sizes, so it needs no
    further distances. Variance and interval are those of `jackknife`: the pseudo-values that both come from are the
    same. It may be negative. Sources: Quenouille, "Notes on Bias in Estimation" (1956); for Frechet distances
    Chong and Forsyth, "Effectively Unbiased FID and Inception Score" (2020), with a line through more sizes.

    Args:
        values: see `jackknife`.

    Returns:
        Number, low, high. All NaN for fewer than 5 blocks.
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
