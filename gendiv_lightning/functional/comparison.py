"""Is one set of samples more diverse than another? Comparisons are paired by prompt; both sides share the noise.

Notation: P prompts, T tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.functional.bootstrap import bootstrap_mean, bootstrap_means
from gendiv_lightning.functional.student import student_quantile

NUM_FLIPS = 10_000
_CHUNK = 2**20


class Comparison(NamedTuple):
    """Paired difference between two sides, over P prompts.

    Attributes:
        difference: mean of b - a.
        low: lower end of its 95 % interval (BCa bootstrap over prompts).
        high: upper end of that interval.
        p_value: two-sided sign-flip p-value; 1 if there is nothing to compare.
        effect_size: mean over standard deviation of the differences (Cohen's d_z, with Hedges' small-sample
            correction); 0 if all differences are 0, infinite if all have the same non-zero value, NaN for fewer
            than three prompts.
        num_prompts: prompts that both sides have in common.
    """

    difference: float
    low: float
    high: float
    p_value: float
    effect_size: float
    num_prompts: int


class Equivalence(NamedTuple):
    """Result of an equivalence test.

    Attributes:
        answer: "equivalent" if the 90 % interval is inside the margin, "different" if it is outside, else "undecided".
        low: lower end of the 90 % interval of b - a.
        high: upper end of that interval.
    """

    answer: str
    low: float
    high: float


def compare(a: Tensor, b: Tensor, seed: int = 0) -> Comparison:
    """Paired comparison of per-prompt numbers (P,); prompts that are NaN on either side are left out."""
    return compare_all([(a, b)], seed)[0]


def compare_all(
    pairs: Sequence[tuple[Tensor, Tensor]],
    seed: int = 0,
    watch: Callable[[list[int]], Iterable[int]] = iter,
) -> list[Comparison]:
    """`compare` many pairs of columns; pairs with the same number of prompts share their random draws.

    Args:
        pairs: columns a and b (P,) of each comparison, see `compare`.
        seed: seed of the resamples and sign flips.
        watch: wraps the iterable of work steps, for example with a progress bar.

    Returns:
        One `Comparison` per pair, in the same order.
    """
    differences = [(b - a).double() for a, b in pairs]
    differences = [column[~column.isnan()] for column in differences]
    comparisons: dict[int, Comparison] = {}
    for num in dict.fromkeys(map(len, differences)):
        indices = [index for index, column in enumerate(differences) if len(column) == num]
        columns = [differences[index] for index in indices]
        intervals = bootstrap_means(columns, seed=seed, watch=watch)
        p_values = sign_flip_tests(torch.stack(columns, 1), seed, watch)
        for index, interval, p_value in zip(indices, intervals, p_values, strict=True):
            comparisons[index] = Comparison(*interval, p_value, effect_size(differences[index]), num)
    return [comparisons[index] for index in range(len(differences))]


def sign_flip_test(differences: Tensor, seed: int = 0) -> float:
    """Two-sided p-value of the hypothesis that differences (P,) are symmetric around 0.

    Enumerates all 2^P sign flips if there are at most 10,000. Otherwise it draws 10,000 random flips and counts the
    observed one among them (Phipson and Smyth 2010), so that the p-value is never 0.
    """
    return sign_flip_tests(differences[:, None], seed)[0]


def sign_flip_tests(
    differences: Tensor, seed: int = 0, watch: Callable[[list[int]], Iterable[int]] = iter
) -> list[float]:
    """`sign_flip_test` of each column of differences (P, T); all columns share the same flips."""
    num, num_tests = differences.shape
    p_values, values = [1.0] * num_tests, differences.double()
    nonzero = (differences != 0).any(0).nonzero().flatten().tolist() if num else []
    if not nonzero:
        return p_values
    values = values[:, nonzero]
    if 2**num <= NUM_FLIPS:
        bits = torch.arange(2**num)[:, None] >> torch.arange(num) & 1
        shares = _share_as_large(_flipped_means(bits, values), values.mean(0))
    else:
        generator = torch.Generator().manual_seed(seed)
        rows = max(1, _CHUNK // num)
        sizes = [min(rows, NUM_FLIPS - start) for start in range(0, NUM_FLIPS, rows)]
        flips = (torch.randint(2, (size, num), generator=generator) for size in watch(sizes))
        means = torch.cat([_flipped_means(flip, values) for flip in flips])
        shares = (_share_as_large(means, values.mean(0)) * NUM_FLIPS + 1) / (NUM_FLIPS + 1)
    for column, share in zip(nonzero, shares.tolist(), strict=True):
        p_values[column] = share
    return p_values


def _flipped_means(flips: Tensor, values: Tensor) -> Tensor:
    """(R, T) means of values (P, T) whose signs are flipped where flips (R, P) are 1."""
    return (1 - 2 * flips).double() @ values / len(values)


def _share_as_large(means: Tensor, observed: Tensor) -> Tensor:
    return (means.abs() >= observed.abs() * (1 - 1e-12)).double().mean(0)


def effect_size(differences: Tensor) -> float:
    """Cohen's d_z of differences (P,), with Hedges' correction 1 - 3 / (4 (P - 1) - 1); see `Comparison`."""
    num = len(differences)
    if num < 3:
        return math.nan  # of two differences the correction is 0, whatever they are
    mean, spread = differences.mean().item(), differences.std().item()
    if spread <= 1e-12 * abs(mean):
        return 0.0 if mean == 0 else math.copysign(math.inf, mean)
    return (1 - 3 / (4 * (num - 1) - 1)) * mean / spread


def holm(p_values: Tensor) -> Tensor:
    """P-values (T,) corrected for T tests, controlling the family-wise error rate (Holm 1979)."""
    ordered, order = p_values.double().sort()
    num = len(ordered)
    factors = torch.arange(num, 0, -1, dtype=torch.float64)
    corrected = (ordered * factors).cummax(0).values.clamp(max=1) if num else ordered
    return torch.empty_like(corrected).scatter_(0, order, corrected)


def benjamini_hochberg(p_values: Tensor) -> Tensor:
    """P-values (T,) corrected for T tests, controlling the false discovery rate (Benjamini and Hochberg 1995)."""
    ordered, order = p_values.double().sort()
    num = len(ordered)
    scaled = ordered * num / torch.arange(1, num + 1, dtype=torch.float64)
    corrected = scaled.flip(0).cummin(0).values.flip(0).clamp(max=1) if num else scaled
    return torch.empty_like(corrected).scatter_(0, order, corrected)


def equivalence(a: Tensor, b: Tensor, margin: float, seed: int = 0) -> Equivalence:
    """Test whether b - a is within +- margin: two one-sided tests at 5 %, done with the 90 % interval.

    Unlike a non-significant difference, a positive answer is evidence of no difference. Source: Schuirmann (1987).

    Args:
        a: (P,), see `compare`.
        b: (P,).
        margin: largest difference that counts as none, in the unit of the numbers, positive.
        seed: seed of the bootstrap.

    Raises:
        ValueError: the margin is not positive.
    """
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin}")
    differences = (b - a).double()
    _, low, high = bootstrap_mean(differences[~differences.isnan()], level=0.9, seed=seed)
    is_shown, is_refuted = -margin < low and high < margin, low >= margin or high <= -margin
    return Equivalence("equivalent" if is_shown else "different" if is_refuted else "undecided", low, high)


def factorial_effects(cells: Tensor) -> dict[tuple[int, ...], Tensor]:
    """Main effects and interactions of a 2^k design, per prompt.

    Args:
        cells: (2, ..., 2, P), one number per prompt in each combination of k switches.

    Returns:
        (P,) effects by the switches involved, (0,), (1,), (0, 1), ...: for one switch the mean with the switch at 1
        minus the mean with it at 0; for two switches half the difference of one switch's effect between the settings
        of the other; and so on (Yates).
    """
    num_switches = cells.ndim - 1
    if any(size != 2 for size in cells.shape[:-1]):
        raise ValueError(f"cells must be (2, ..., 2, prompts), got {tuple(cells.shape)}")
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    effects = {}
    for order in range(1, num_switches + 1):
        for chosen in combinations(range(num_switches), order):
            contrast = cells.double()
            for switch in chosen:
                contrast = contrast * signs.view([2 if d == switch else 1 for d in range(cells.ndim)])
            effects[chosen] = contrast.flatten(0, -2).sum(0) / 2 ** (num_switches - 1)
    return effects


def prompts_for_width(between: float, within: float, num_samples: int, half_width: float) -> int:
    """Number of prompts needed for a 95 % interval of mean +- half_width.

    Args:
        between: variance of the prompts' true values.
        within: variance of one prompt's estimate times its number of samples.
        num_samples: samples per prompt.
        half_width: target half-width of the interval.
    """
    if not half_width > 0:
        raise ValueError(f"half_width must be positive, got {half_width}")
    return _smallest(between + within / num_samples, lambda num: (student_quantile(0.975, num - 1) / half_width) ** 2)


def prompts_for_effect(between: float, within: float, num_samples: int, effect: float, power: float = 0.8) -> int:
    """Number of prompts needed to detect a paired difference of `effect` with this power, two-sided at 5 %.

    The variances are those of the paired differences, see `prompts_for_width`.
    """
    if effect == 0 or not 0.5 <= power < 1:
        raise ValueError(f"effect must not be 0 and power must be in [0.5, 1), got {effect} and {power}")
    variance = between + within / num_samples
    return _smallest(
        variance, lambda num: ((student_quantile(0.975, num - 1) + student_quantile(power, num - 1)) / effect) ** 2
    )


def variance_components(estimates: Tensor, errors: Tensor, num_samples: int) -> tuple[float, float]:
    """Variance of the prompts' true values, and variance of one prompt's estimate times its number of samples.

    Args:
        estimates: (P,) each prompt's estimate from all its samples.
        errors: (P,) variance of that estimate, for example from two halves of the samples: (x_1 - x_2)^2 / 4.
        num_samples: samples per prompt.
    """
    error = errors.double().mean().item()
    return max(0.0, estimates.double().var().item() - error), error * num_samples


def _smallest(variance: float, needed: Callable[[int], float]) -> int:
    """Smallest number of prompts n >= 2 with n >= variance * needed(n)."""
    if variance == 0:
        return 2
    low, high = 2, 4
    while variance * needed(high) > high:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if variance * needed(middle) <= middle else (middle + 1, high)
    return low
