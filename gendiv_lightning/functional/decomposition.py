"""Lens A from sums of distributions: entropies of tokens given path and wording, without the bias of few samples.

Letters: Q wordings, n paths, L positions, K codebook entries; U units: groups of samples of a wording.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

# Bits a token: what a prompt's row of marginals holds, first corrected for the number of samples, then as they are.
NAMES = ("exec", "wording", "pool", "exec_plugin", "wording_plugin", "pool_plugin")
ROUNDING = 1e-5  # what float32 sums of distributions may differ by


def marginal_entropies(sums: Tensor, pool: float | None = None) -> Tensor:
    """Entropy of the mean token, given path and wording, given the wording, and of the pool of wordings.

    With p_qz the mean distribution of a position in wording q on path z, and H the mean over positions of the entropy:
        exec  mean_qz H[p_qz]        wording  mean_q H[mean_z p_qz]        pool  H[mean_qz p_qz]
    H_exec is the first, the sampler path the step from the first to the second, the prompt path that to the third.

    Entropy is concave: the mean of few distributions has too little of it. The pool's is extrapolated to infinitely
    many. The steps are measured by themselves, `_sampler_path` and `_prompt_path`, so that each is 0 on average where
    paths, or wordings, tell nothing, whatever the number of samples. Wordings are a given set, paths are drawn.

    Args:
        sums: (V, Q, n, halves, L, K) sums of distributions. V = 2: n paths with n samples each; then n groups with one
            sample of each path. V = 1 with two halves: paths, without such groups. One half: no two samples share a
            path, and any n blocks of samples will do.
        pool: the pool's entropy, if it is known better than by leaving out paths (jackknife).

    Returns:
        (6,) float64, bits a token, in the order of `NAMES`: corrected, then plug-in. NaN for what cannot be told.
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
    """Entropy of one wording minus that of one of its paths, from groups (2, Q, n, L, K) and their halves.

    By entropies: n samples of one path (`one`) lack as much as n samples of a path each (mixed), but for the scale,
    which is that of what half of them lack of all. That holds for paths that differ in what they draw; but paths may
    differ in how sure they are (a token drawn late follows from more), which entropies take for a path. So near 0,
    where paths draw much the same, it is by spread.
    """
    mixed = _mean_entropy(groups[1])
    one_half, mixed_half = (_mean_entropy(part) for part in parts)
    scale = (one - one_half) / (mixed - mixed_half) if mixed - mixed_half > ROUNDING else 1.0
    apart = (wording - one) - (wording - mixed) * scale
    same = _sameness(_overlap(parts[0]))
    return same * _spread(groups[0], parts[0]) + (1 - same) * apart


def _spread(paths: Tensor, halves: Tensor) -> float:
    """Information of paths (Q, n, L, K) to second order, bits a token: mean of sum_k (p - p')^2 / (4 m ln 2) of pairs.

    Each product is of different samples, and m, the mean distribution, of other paths than the pair: so where all paths
    have one mean it is 0 on average, however sure each is. m is that of all wordings as far as they have tokens in
    common. Half a token's mean probability is added to it, for tokens that no other path shows, and the sum is divided
    by what that takes away where p - p' is in proportion to m.
    """
    num_wordings, num_paths, num_positions = paths.shape[:3]
    squares, own = halves[:, :, 0] * halves[:, :, 1], paths.mean(1)
    common = min(_overlap(paths), 1.0) if num_wordings > 1 else 0.0
    mean = common * own.mean(0) + (1 - common) * own
    share = common / (num_wordings * num_paths) + (1 - common) / num_paths  # of a path in it
    floor = mean.square().sum(-1, keepdim=True) / 2
    kept = (mean.square() / ((1 - 2 * share) * mean + floor)).sum(-1, keepdim=True)
    total = 0.0
    for first, second in combinations(range(num_paths), 2):
        p, q = paths[:, first], paths[:, second]
        differences = (squares[:, first] + squares[:, second]) / 2 - p * q
        others = (mean - share * (p + q)).clamp(min=0)
        total += (differences / (others + floor) / kept).sum(dtype=torch.float64).item()
    return total / (math.comb(num_paths, 2) * num_wordings * num_positions) / (2 * math.log(2))


def _prompt_path(units: Tensor, halves: Sequence[Tensor]) -> float:
    """Entropy of the pool minus that of one wording, from units (Q, U, L, K) and both halves of each, if there are any.

    Of wordings that mean the same the step from U units of one to as many of all is 0 on average, however few they are;
    but in all of them a wording that means something else is there with few samples, and lacks much. Of wordings with
    little in common the difference of two jackknives is better: all lacks are the wordings' own.
    """
    num_wordings, num_units = units.shape[:2]
    if num_wordings == 1:
        return 0.0
    if num_units < 2 or num_units % num_wordings:
        return math.nan
    even = _even_step(units)
    if halves:
        even = 2 * even - sum(map(_even_step, halves)) / len(halves)
    apart = _jackknife(units.mean(0)) - _jackknife(units.transpose(0, 1))
    same = _sameness(_overlap(units))
    return same * even + (1 - same) * apart


def _even_step(units: Tensor) -> float:
    """Entropy of the mean of U of the units (Q, U, L, K), as many of each wording, minus that of U of one wording."""
    mixed = units.unflatten(1, (len(units), -1)).mean((0, 2))
    return _mean_entropy(mixed) - _mean_entropy(units.mean(1))


def _overlap(units: Tensor) -> float:
    """How often tokens of two groups agree, over how often those of two units of one do: units (..., G, U, L, K).

    1 on average for groups that mean the same, however sure their units are, 0 if they have no token in common. Above
    and below the line it is unbiased.
    """
    num_groups, num_units = units.shape[-4:-2]
    sums = units.sum(-3)
    pairs = [torch.linalg.vector_norm(x, dtype=torch.float64).item() ** 2 for x in (units, sums, sums.sum(-3))]
    within = (pairs[1] - pairs[0]) / (num_units - 1)
    between = (pairs[2] - pairs[1]) / (num_units * (num_groups - 1))
    return between / within if within > ROUNDING else 0.0


def _sameness(overlap: float) -> float:
    """Weight of what is right for groups that mean the same: rises from 0 to 1 with overlaps from a half to 1.

    It is flat at both ends, where the overlap of few samples scatters. Half is nothing: two paths, or wordings, of a
    few kinds may be of one kind.
    """
    share = min(max(2 * overlap - 1, 0.0), 1.0)
    return share * share * (3 - 2 * share)


def _jackknife(units: Tensor) -> float:
    """Entropy (mean over all but units and entries) of the mean of units (U, ..., K), extrapolated; NaN for one unit.

    Leaving out one unit at a time cancels what U of them lack to first order in 1 / U (Quenouille 1956), leaving out
    two or three as well also the next orders (Schucany, Gray and Owen 1971), where there are as many and one more. Of
    more than eight units the third order is little, and takes many entropies.
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
    """Mean entropy of distributions (..., K), bits; a few at a time, since K may be large."""
    flat = probs.flatten(0, -2)
    return sum(torch.special.entr(part).sum(dtype=torch.float64).item() for part in flat.split(4096)) / (
        len(flat) * math.log(2)
    )
