"""Vendi score: the number of entirely different items that would be as diverse as these. Works on similarities.

The eigenvalues of K / N, with K the N x N similarities and K_ii = 1, are shares that sum to 1; the score is their Hill
number. If the similarity is the cosine of features, K / N and the D x D second moments of the unit features have the
same non-zero eigenvalues, so the smaller of the two matrices is used.

The score is in [1, min(N, D)]. It grows with N and does not converge to a population value: compare scores at equal N
only.

Source: Friedman and Dieng, "The Vendi Score" (2023), definition 3.1; orders other than 1: Pasarkar and Dieng, "Cousins
of the Vendi Score" (2024). Notation: N samples, D features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_NEGLIGIBLE = 1e-12  # shares below this are rounding error, which orders close to 0 would count as another kind


def check_order(q: float) -> None:
    """Raise ValueError unless 0 < q <= inf."""
    if not q > 0:
        raise ValueError(f"q must be in (0, inf] (1: Shannon entropy, inf: largest share), got {q}")


def vendi_score(features: Tensor, q: float = 1.0) -> float:
    """Vendi score under the cosine similarity of features, in [1, min(N, D)].

    Args:
        features: (N, D), N >= 1, finite, no row all zeros.
        q: order in (0, inf]. Orders below 1 give rare kinds more weight, orders above 1 less; inf considers only the
            most common kind.
    """
    unit = unit_rows(features)
    num_rows, num_columns = unit.shape
    return hill_number(shares(unit @ unit.T if num_rows <= num_columns else unit.T @ unit), q)


def vendi_score_of_kernel(kernel: Tensor, q: float = 1.0) -> float:
    """Vendi score of a similarity matrix (N, N): symmetric, positive semidefinite, ones on the diagonal."""
    kernel = kernel.double()
    if not torch.allclose(kernel, kernel.T) or not torch.allclose(kernel.diagonal(), torch.ones_like(kernel[0])):
        raise ValueError("kernel must be symmetric with ones on its diagonal. Pass features to `vendi_score` instead")
    return hill_number(shares(kernel), q)


def unit_rows(features: Tensor) -> Tensor:
    """Rows (N, D) scaled to length 1, float64; ValueError if a row is zero or not finite, or if there are no rows."""
    if not len(features) or not features.isfinite().all() or (features == 0).all(1).any():
        raise ValueError(
            f"features must be (N >= 1, D), finite, with no row of zeros; got {tuple(features.shape)} with "
            f"{int((features == 0).all(1).sum())} rows of zeros, {int((~features.isfinite()).any(1).sum())} not finite"
        )
    return F.normalize(features.double(), dim=1)


def shares(matrix: Tensor) -> Tensor:
    """Eigenvalues of a symmetric positive semidefinite matrix, normalised to sum 1; ascending, float64, on the CPU."""
    values = torch.linalg.eigvalsh(matrix.double().cpu()).clamp(min=0)
    return values / values.sum()


def hill_number(shares: Tensor, q: float = 1.0) -> float:
    """Effective number of kinds: (sum_i p_i^q)^(1 / (1 - q)), with the limits exp(entropy) at 1 and 1 / max p at inf.

    Args:
        shares: (K,) not negative, summing to 1; values below 1e-12 count as 0.
        q: order in (0, inf].
    """
    check_order(q)
    log_shares = shares[shares > _NEGLIGIBLE].double().log()
    if q == 1:
        return math.exp(-(log_shares.exp() @ log_shares).item())
    if q == math.inf:
        return math.exp(-log_shares.max().item())
    return math.exp((q * log_shares).logsumexp(0).item() / (1 - q))
