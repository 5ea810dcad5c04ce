"""Confusion of concepts: what is seen in images whose prompt states a value, and where mass goes when it changes.

Notation: P prompts, V values of an attribute. `seen` (P, V) are probabilities of the values, averaged over the samples
of a prompt; `stated` (P,) is the number of the value that the prompt states. Every prompt weighs equally.
"""

from __future__ import annotations

import torch
from torch import Tensor


def confusion_matrix(seen: Tensor, stated: Tensor) -> Tensor:
    """Mean probability of each value, by the stated value.

    Args:
        seen: (P, V) probabilities, rows sum to 1.
        stated: (P,) int64 in 0..V-1.

    Returns:
        (V, V): row v is the mean of `seen` over prompts that state v, NaN if no prompt does.
    """
    num_values = seen.shape[1]
    sums = seen.new_zeros(num_values, num_values).index_add_(0, stated, seen)
    return sums / stated.bincount(minlength=num_values)[:, None]


def fidelity(seen: Tensor, stated: Tensor) -> Tensor:
    """Probability (P,) of the stated value; its mean is that of the diagonal, each row weighted by its prompts."""
    return seen.gather(1, stated[:, None])[:, 0]


def target_gain(before: Tensor, after: Tensor, stated: Tensor) -> Tensor:
    """Gain (P,) of the value that the other prompts with the same stated value gain most.

    The target of a prompt is the value, other than the stated one, with the largest mean of `after - before` over the
    other prompts of its row. Choosing it on the same prompt would make the gain too large, because chance alone has a
    maximum. Where several values tie, their gains are averaged. If the lost mass spreads evenly, the expected gain is
    that mass over V - 1; if all of it goes to one value, the gain is all of it.

    Args:
        before: (P, V) probabilities.
        after: (P, V) probabilities.
        stated: (P,) int64 in 0..V-1.

    Returns:
        Gains in [-1, 1]; NaN for the only prompt of a row.
    """
    gains = after - before
    rows = torch.zeros(before.shape[1], before.shape[1], dtype=gains.dtype).index_add_(0, stated, gains)
    others = rows[stated] - gains
    others.scatter_(1, stated[:, None], -torch.inf)
    is_target = others >= others.amax(1, keepdim=True) - 1e-12
    found = (gains * is_target).sum(1) / is_target.sum(1)
    return found.where(stated.bincount(minlength=before.shape[1])[stated] > 1, torch.nan)
