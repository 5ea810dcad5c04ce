"""Quantiles of Student's t, for intervals and power analysis with few prompts."""

from __future__ import annotations

import math

import torch


def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t with `degrees` degrees of freedom.

    Exact for 1 and 2 degrees, then the expansion in 1 / degrees of Abramowitz and Stegun (1964), 26.7.5. Its relative
    error at 97.5 % is 0.3 % for 3 degrees and 0.02 % from 5 degrees on.
    """
    if degrees == 1:
        return math.tan(math.pi * (probability - 0.5))
    if degrees == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z = torch.special.ndtri(torch.tensor(probability, dtype=torch.float64)).item()
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))
