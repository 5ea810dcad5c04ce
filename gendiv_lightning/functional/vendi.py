"""Vendi score: how many entirely different items would be as diverse as these. It knows similarities, no images.

The eigenvalues of K / N, with K the N x N similarities and K_ii = 1, are shares that add up to one; the score is their
Hill number. Where a similarity is the cosine of features, K / N and the D x D second moments of the unit features have
the same eigenvalues but for zeros, so the smaller matrix is enough.

The score lies in [1, min(N, D)] and is no estimate of something that more samples would settle: it grows with N.
Scores compare at equal N only.

Source: Friedman and Dieng, "The Vendi Score" (2023), definition 3.1; the orders: Pasarkar and Dieng, "Cousins of the
Vendi Score" (2024). Letters: N samples, D features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_NOTHING = 1e-12  # below it a share is what rounding left; orders close to 0 would count it as one more kind


def check_order(q: float) -> None:
    """Raise ValueError unless 0 < q <= inf."""
    if not q > 0:
        raise ValueError(f"q must lie in (0, inf], 1 for the Shannon entropy and inf for the largest share; got {q}")


def vendi_score(features: Tensor, q: float = 1.0) -> float:
    """Vendi score of the cosine similarity of features.

    Args:
        features: (N, D), finite, N >= 1, of any length but zero, which has no direction.
        q: order; below 1 rare kinds count for more, above 1 for less, and inf counts the most common kind alone.
    """
    unit = unit_rows(features)
    num_rows, num_columns = unit.shape
    return hill_number(shares(unit @ unit.T if num_rows <= num_columns else unit.T @ unit), q)


def vendi_score_of_kernel(kernel: Tensor, q: float = 1.0) -> float:
    """Vendi score of similarities (N, N): symmetric, positive semidefinite, ones on the diagonal."""
    kernel = kernel.double()
    if not torch.allclose(kernel, kernel.T) or not torch.allclose(kernel.diagonal(), torch.ones_like(kernel[0])):
        raise ValueError("kernel must be symmetric with ones on its diagonal; give features to `vendi_score`")
    return hill_number(shares(kernel), q)


def unit_rows(features: Tensor) -> Tensor:
    """Rows (N, D) at length 1, float64; ValueError for a row that is zero or not finite, and for no row."""
    if not len(features) or not features.isfinite().all() or (features == 0).all(1).any():
        raise ValueError(
            f"features must be (N >= 1, D), finite, and no row all zeros; got {tuple(features.shape)} with "
            f"{int((features == 0).all(1).sum())} rows of zeros, {int((~features.isfinite()).any(1).sum())} not finite"
        )
    return F.normalize(features.double(), dim=1)


def shares(matrix: Tensor) -> Tensor:
    """Eigenvalues of a symmetric positive semidefinite matrix over their sum, on the CPU; ascending, float64."""
    values = torch.linalg.eigvalsh(matrix.double().cpu()).clamp(min=0)
    return values / values.sum()


def hill_number(shares: Tensor, q: float = 1.0) -> float:
    """Effective number of kinds: (sum_i p_i^q)^(1 / (1 - q)); the limits are exp(entropy) at q = 1, 1 / max p at inf.

    Args:
        shares: (K,) not negative, adding up to one; those below 1e-12 count as zero.
        q: order in (0, inf].
    """
    check_order(q)
    log_shares = shares[shares > _NOTHING].double().log()
    if q == 1:
        return math.exp(-(log_shares.exp() @ log_shares).item())
    if q == math.inf:
        return math.exp(-log_shares.max().item())
    return math.exp((q * log_shares).logsumexp(0).item() / (1 - q))
