"""Numbers that are not finite stop a run: a network in half precision can overflow, a checkpoint can be damaged."""

from __future__ import annotations

from torch import Tensor

from gendiv_lightning.errors import NonFiniteError

PIXELS = "the decoder's pixels"
ADVICE = (
    "In float16 this is usually an overflow: set model.dtype to bfloat16 or float32. In float32 the checkpoint itself "
    "contains such values"
)


def check_finite(values: Tensor, what: str) -> Tensor:
    """The values themselves.

    Args:
        values: of any shape.
        what: what they are, for the error: "the decoder's pixels".

    Raises:
        NonFiniteError: some are NaN or infinite; how many is said.
    """
    if not values.is_floating_point() or bool(values.isfinite().all()):
        return values
    num_broken = int((~values.isfinite()).sum())
    raise NonFiniteError(f"{what}: {num_broken} of {values.numel()} values are not finite. {ADVICE}")


def broken_rows(logits: Tensor) -> Tensor:
    """Number of distributions () among logits (N, K) that cannot be drawn from: NaN, +inf, or nothing but -inf.

    Stays on the device, so that a loop need not wait for it.
    """
    return (~logits.amax(-1).isfinite()).sum()
