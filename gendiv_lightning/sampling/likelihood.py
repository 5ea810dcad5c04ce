"""The probability with which a sampling loop draws given tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from gendiv_lightning.sampling.sampler import Draw, TokenSampler


def score_given_tokens(sampler: TokenSampler, logits: Tensor, tokens: Tensor) -> Tensor:
    """Log2-probability (B, L) of tokens (B, L) under guided logits (B, L, K), after the filters of `sampler`.

    With execution noise off, the mode has log-probability 0 and every other token -inf.
    """
    filtered, flat = sampler.filter_logits(logits).flatten(0, 1), tokens.flatten()
    if sampler.exec.is_off:
        log_prob = torch.where(filtered.argmax(-1) == flat, 0.0, -torch.inf)
    else:
        log_prob = Draw(0, flat, flat, flat, filtered).log_prob  # rows and positions are not used here
    return log_prob.view_as(tokens)
