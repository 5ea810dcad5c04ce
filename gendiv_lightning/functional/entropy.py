"""Codebook usage from the counts of its entries: entropy estimators, coverage, Gini coefficient, rank-frequency data.

Notation: K entries, n = total count.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def plugin_entropy(counts: Tensor) -> Tensor:
    """Entropy of the observed frequencies in bits: -sum p log2 p with p = counts / n.

    Biased low by about (K - 1) / (2 n ln 2) bits, and by far more if n is below K.

    Args:
        counts: (..., K), not negative.

    Returns:
        (...) float64, NaN where all counts are 0.
    """
    frequencies = counts.double() / counts.sum(-1, keepdim=True)
    return torch.special.entr(frequencies).sum(-1) / math.log(2)


def chao_wang_jost_entropy(counts: Tensor) -> Tensor:
    """Entropy in bits, corrected for entries that were never observed.

    With f1, f2 the numbers of entries counted once and twice, H = sum_i X_i / n (psi(n) - psi(X_i)) + f1 / n T nats,
    where T = (1 - A)^(1 - n) (-ln A - sum_{r < n} (1 - A)^r / r) and A = 2 f2 / ((n - 1) f1 + 2 f2), or
    2 / ((n - 1) (f1 - 1) + 2) if f2 = 0. The bias is small once n is of the order of K.
    Source: Chao, Wang and Jost, "Entropy and the species accumulation curve" (2013).

    Args:
        counts: (..., K) whole numbers, not negative.

    Returns:
        (...) float64, NaN where all counts are 0.
    """
    counts = counts.double()
    total = counts.sum(-1)
    seen = counts / total[..., None] * (torch.digamma(total)[..., None] - torch.digamma(counts.clamp(min=1)))
    singletons, doubletons = (counts == 1).double().sum(-1), (counts == 2).double().sum(-1)
    without_doubletons = 2 / ((total - 1) * (singletons - 1).clamp(min=0) + 2)
    with_doubletons = 2 * doubletons / ((total - 1) * singletons + 2 * doubletons)
    rate = torch.where(doubletons > 0, with_doubletons, without_doubletons)
    return (seen.sum(-1) + singletons / total * _unseen_tail(total, rate)) / math.log(2)


def miller_madow_entropy(counts: Tensor) -> Tensor:
    """Plug-in entropy plus (S - 1) / (2 n) nats, in bits, where S is the number of observed entries.

    Removes the bias to first order in 1 / n; too low if many entries were not observed.
    Source: Miller, "Note on the bias of information estimates" (1955).

    Args:
        counts: (..., K), not negative.

    Returns:
        (...) float64, NaN where all counts are 0.
    """
    extra = ((counts > 0).sum(-1) - 1) / (2 * counts.sum(-1).double())
    return plugin_entropy(counts) + extra / math.log(2)


def chao_shen_entropy(counts: Tensor) -> Tensor:
    """Entropy in bits, with Horvitz-Thompson weights on frequencies that are shrunk by the sample coverage.

    H = -sum C p ln(C p) / (1 - (1 - C p)^n) nats with C = 1 - f1 / n (f1 = n - 1 if every entry was counted once).
    Source: Chao and Shen, "Nonparametric estimation of Shannon's index" (2003).

    Args:
        counts: (..., K) whole numbers, not negative.

    Returns:
        (...) float64, NaN where all counts are 0.
    """
    counts = counts.double()
    total = counts.sum(-1, keepdim=True)
    singletons = (counts == 1).sum(-1, keepdim=True)
    singletons = torch.where(singletons == total, total - 1, singletons)
    probs = (1 - singletons / total) * counts / total
    seen = 1 - torch.exp(total * torch.log1p(-probs.clamp(max=1 - 1e-15)))
    terms = torch.where(counts > 0, torch.special.entr(probs) / seen, 0.0)
    return terms.sum(-1).masked_fill(total[..., 0] == 0, math.nan) / math.log(2)


def grassberger_entropy(counts: Tensor) -> Tensor:
    """Entropy in bits by H = ln n - 1 / n sum X G(X) nats, G(X) = psi(X) + (-1)^X / 2 (psi((X + 1) / 2) - psi(X / 2)).

    Source: Grassberger, "Entropy Estimates from Insufficient Samplings" (2003), equation 35.

    Args:
        counts: (..., K) whole numbers, not negative.

    Returns:
        (...) float64, NaN where all counts are 0.
    """
    counts = counts.double()
    total, positive = counts.sum(-1), counts.clamp(min=1)
    sign = 1 - 2 * (positive % 2)
    g = torch.digamma(positive) + sign / 2 * (torch.digamma((positive + 1) / 2) - torch.digamma(positive / 2))
    entropy = total.log() - (counts * g).sum(-1) / total
    return entropy.masked_fill(total == 0, math.nan) / math.log(2)


def coverage(counts: Tensor) -> Tensor:
    """Share of the K entries with a count above 0: (..., K) to (...) float64, NaN where all counts are 0."""
    share = (counts > 0).double().mean(-1)
    return share.masked_fill(counts.sum(-1) == 0, math.nan)


def gini(counts: Tensor) -> Tensor:
    """Gini coefficient of the counts: 0 if all entries are used equally, 1 - 1 / K if a single one is used.

    Half the mean absolute difference between the counts of two entries, over the mean count; unused entries are
    included. In a small sample it is high by chance: if n is much below K, most counts are 0 even for uniform usage.

    Args:
        counts: (..., K), not negative.

    Returns:
        (...) float64 in [0, 1), NaN where all counts are 0.
    """
    ordered = counts.double().sort(-1).values
    num_entries = counts.shape[-1]
    weights = 2 * torch.arange(1, num_entries + 1, dtype=torch.float64, device=counts.device) - num_entries - 1
    return (ordered * weights).sum(-1) / (num_entries * ordered.sum(-1))


def zipf(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Rank-frequency data of counts (K,), usually plotted on two logarithmic axes.

    Returns:
        Ranks 1..S (int64) of the S entries with a count above 0, and their frequencies (float64), highest first; the
        frequencies sum to 1.
    """
    ordered = counts[counts > 0].double().sort(descending=True).values
    return torch.arange(1, len(ordered) + 1, device=counts.device), ordered / ordered.sum()


def _unseen_tail(total: Tensor, rate: Tensor) -> Tensor:
    """T of `chao_wang_jost_entropy`, computed without its sum of n terms, which suffers from cancellation.

    T is the tail sum_{r >= n} y^(r - n + 1) / r with y = 1 - A, that is (y / n) int_0^inf e^-v / (1 - y e^(-v / n)) dv.
    With v = e^x the trapezoidal rule converges exponentially: a step of 1/4 reaches rounding error for every n and A.
    """
    step = 0.25
    v = torch.arange(-60, 5, step, dtype=torch.float64, device=total.device).exp()
    decay = torch.log1p(-rate)[..., None] - v / total[..., None]
    return (1 - rate) / total * step * (v * torch.exp(-v) / -torch.expm1(decay)).sum(-1)
