"""The token-marginal decomposition from sums of distributions, corrected for small-sample bias.

Notation: Q paraphrases, n paths, L positions, K codebook entries; U units, which are groups of samples of a paraphrase.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

# Bits per token, the columns of a prompt's row of marginals: bias-corrected estimates, then plug-in estimates.
NAMES = ("exec", "wording", "pool", "exec_plugin", "wording_plugin", "pool_plugin")
ROUNDING = 1e-5  # rounding error of float32 sums of distributions


def marginal_entropies(sums: Tensor, pool: float | None = None) -> Tensor:
    """Mean token entropy given path and paraphrase, given the paraphrase, and of the pool of paraphrases.

    With p_qz the mean distribution of a position under paraphrase q on path z, and H the entropy averaged over
    positions:
        exec  mean_qz H[p_qz]        wording  mean_q H[mean_z p_qz]        pool  H[mean_qz p_qz]
    H_exec is the first; the sampler path is the step from the first to the second, the prompt path the step from the
    second to the third.

    Entropy is concave, so the mean of a small number of distributions underestimates it. The pool's entropy is
    extrapolated to infinitely many samples. The two steps are estimated separately (`_sampler_path`, `_prompt_path`),
    so that each is 0 on average if paths, or paraphrases, carry no information, regardless of the number of samples.
    Paraphrases are treated as a fixed set, paths as random.

    Args:
        sums: (V, Q, n, halves, L, K) sums of distributions. With V = 2 the first view holds n paths with n samples
            each, the second n groups with one sample of each path. V = 1 with two halves holds the paths only. With
            one half no two samples share a path, and the n entries are arbitrary blocks of samples.
        pool: the pool's entropy, if a better estimate than the jackknife over paths is known.

    Returns:
        (6,) float64, bits per token, in the order of `NAMES`: corrected, then plug-in. NaN for what the design cannot
        identify.
    """
    num_views, num_halves = sums.shape[0], sums.shape[3]
    counts = sums[..., :1, :].sum(-1, keepdim=True).round()  # each distribution adds up to one
    groups, parts = sums.sum(3) / counts.sum(3), sums / counts
    paths = groups[0]
    if num_halves == 1:
        paths = paths[:, (counts[0, :, :, 0, 0, 0] > 0).all(0)]
    one_path = paths.shape[1] == 1 and num_halves == 2
    units = parts[0, :, 0] if one_path else paths
    plugin = [_mean_entropy(paths), _mean_entropy(paths.mean(1)), _mean_entropy(paths.mean((0, 1)))]
    pool = _jackknife(units.mean(0)) if pool is None else pool
    wording = pool - _prompt_path(units, parts[0].unbind(2) if num_views == 2 else ())
    execution = math.nan
    if num_views == 2:
        execution = wording - _sampler_path(groups, parts, wording, plugin[0])
    elif one_path:
        execution = wording
    if num_halves == 1:
        plugin[0] = math.nan
    return torch.tensor([execution, wording, pool, *plugin], dtype=torch.float64)


def _sampler_path(groups: Tensor, parts: Tensor, wording: float, one: float) -> float:
    """Entropy of a paraphrase minus that of one of its paths, from groups (2, Q, n, L, K) and their halves.

    By entropies: n samples of one path (`one`) are biased like n samples from n paths (mixed), up to a scale, which is
    estimated from the bias of half the samples. That holds for paths that differ in what they draw. But paths may also
    differ in their certainty (a token drawn late depends on more of the image), which entropies mistake for path
    information. Near 0, where all paths draw much the same, the squared differences of `_spread` are used instead.
    """
    mixed = _mean_entropy(groups[1])
    one_half, mixed_half = (_mean_entropy(part) for part in parts)
    scale = (one - one_half) / (mixed - mixed_half) if mixed - mixed_half > ROUNDING else 1.0
    apart = (wording - one) - (wording - mixed) * scale
    same = _sameness(_overlap(parts[0]))
    return same * _spread(groups[0], parts[0]) + (1 - same) * apart


def _spread(paths: Tensor, halves: Tensor) -> float:
    """Second-order path information of (Q, n, L, K), bits per token: mean of sum_k (p - p')^2 / (4 m ln 2) over pairs.

    Each product uses different samples, and m, the mean distribution, uses paths outside the pair. So the result is 0
    on average if all paths have the same mean, regardless of certainty. m is pooled over paraphrases to the extent
    that they share tokens. Half the mean probability of a token is added to m, for tokens that occur on no other path;
    the sum is then divided by the resulting attenuation for p - p' proportional to m.
    """
    num_paraphrases, num_paths, num_positions = paths.shape[:3]
    squares, own = halves[:, :, 0] * halves[:, :, 1], paths.mean(1)
    common = min(_overlap(paths), 1.0) if num_paraphrases > 1 else 0.0
    mean = common * own.mean(0) + (1 - common) * own
    share = common / (num_paraphrases * num_paths) + (1 - common) / num_paths  # weight of one path in the mean
    floor = mean.square().sum(-1, keepdim=True) / 2
    kept = (mean.square() / ((1 - 2 * share) * mean + floor)).sum(-1, keepdim=True)
    total = 0.0
    for first, second in combinations(range(num_paths), 2):
        p, q = paths[:, first], paths[:, second]
        differences = (squares[:, first] + squares[:, second]) / 2 - p * q
        others = (mean - share * (p + q)).clamp(min=0)
        total += (differences / (others + floor) / kept).sum(dtype=torch.float64).item()
    return total / (math.comb(num_paths, 2) * num_paraphrases * num_positions) / (2 * math.log(2))


def _prompt_path(units: Tensor, halves: Sequence[Tensor]) -> float:
    """Entropy of the pool minus that of one paraphrase, from units (Q, U, L, K) and both halves of each, if available.

    For paraphrases with the same distribution, the step from U units of one paraphrase to U units of all is 0 on
    average for any U. But a paraphrase with its own distribution contributes few samples to the pool and is strongly
    biased there. For paraphrases with little in common the difference of two jackknives is better, because each bias
    is then within a paraphrase.
    """
    num_paraphrases, num_units = units.shape[:2]
    if num_paraphrases == 1:
        return 0.0
    if num_units < 2 or num_units % num_paraphrases:
        return math.nan
    even = _even_step(units)
    if halves:
        even = 2 * even - sum(map(_even_step, halves)) / len(halves)
    apart = _jackknife(units.mean(0)) - _jackknife(units.transpose(0, 1))
    same = _sameness(_overlap(units))
    return same * even + (1 - same) * apart


def _even_step(units: Tensor) -> float:
    """Entropy of the mean of U units (Q, U, L, K), equally many per paraphrase, minus that of one paraphrase's U."""
    mixed = units.unflatten(1, (len(units), -1)).mean((0, 2))
    return _mean_entropy(mixed) - _mean_entropy(units.mean(1))


def _overlap(units: Tensor) -> float:
    """Agreement of tokens between groups over agreement between units of one group, from units (..., G, U, L, K).

    1 on average for groups with the same distribution, regardless of the certainty of their units; 0 if they share no
    token. Numerator and denominator are unbiased.
    """
    num_groups, num_units = units.shape[-4:-2]
    sums = units.sum(-3)
    pairs = [torch.linalg.vector_norm(x, dtype=torch.float64).item() ** 2 for x in (units, sums, sums.sum(-3))]
    within = (pairs[1] - pairs[0]) / (num_units - 1)
    between = (pairs[2] - pairs[1]) / (num_units * (num_groups - 1))
    return between / within if within > ROUNDING else 0.0


def _sameness(overlap: float) -> float:
    """Weight of the estimator for groups with the same distribution: rises from 0 to 1 for overlaps from 0.5 to 1.

    The curve is flat at both ends, where the overlap of a small sample is noisy. An overlap of 0.5 gives 0, because
    two paths or paraphrases of a small number of kinds can agree by chance.
    """
    share = min(max(2 * overlap - 1, 0.0), 1.0)
    return share * share * (3 - 2 * share)


def _jackknife(units: Tensor) -> float:
    """Jackknife estimate of the entropy of the mean of units (U, ..., K), averaged over the middle axes; NaN if U = 1.

    Leaving out one unit at a time removes the bias of first order in 1 / U (Quenouille 1956). Leaving out two or three
    removes the next orders (Schucany, Gray and Owen 1971), given at least one unit more than the order. With more than
    eight units the third order is negligible and expensive.
    """
    size, whole = len(units), units.sum(0)
    if size < 2:
        return math.nan
    order = min(3 if size <= 8 else 2, size - 1)
    value = 0.0
    for left_out in range(order + 1):
        weight = (
            (-1) ** left_out
            * (size - left_out) ** order
            / (math.factorial(left_out) * math.factorial(order - left_out))
        )
        choices = list(combinations(range(size), left_out))
        less = ((whole - units[list(out)].sum(0)) / (size - left_out) for out in choices)
        value += weight * sum(_mean_entropy(mean.clamp(min=0)) for mean in less) / len(choices)
    return value


def _mean_entropy(probs: Tensor) -> float:
    """Mean entropy of distributions (..., K), bits; computed in chunks, because K may be large."""
    flat = probs.flatten(0, -2)
    return sum(torch.special.entr(part).sum(dtype=torch.float64).item() for part in flat.split(4096)) / (
        len(flat) * math.log(2)
    )
