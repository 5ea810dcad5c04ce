"""Checks for NaN and infinity, which stop a run: half precision can overflow and a checkpoint can be damaged."""

from __future__ import annotations

from torch import Tensor

from gendiv_lightning.errors import NonFiniteError

PIXELS = "the decoder's pixels"
LATENTS = "the final latents"
ADVICE = (
    "In float16 this is usually an overflow: set model.dtype to bfloat16 or float32. In float32 the checkpoint itself "
    "contains such values"
)


def check_finite(values: Tensor, what: str) -> Tensor:
    """Return the values unchanged if all of them are finite.

    Args:
        values: tensor of any shape.
        what: description for the error message, such as "the decoder's pixels".

    Raises:
        NonFiniteError: some values are NaN or infinite; the message says how many.
    """
    if not values.is_floating_point() or bool(values.isfinite().all()):
        return values
    num_broken = int((~values.isfinite()).sum())
    raise NonFiniteError(f"{what}: {num_broken} of {values.numel()} values are not finite. {ADVICE}")


def broken_rows(logits: Tensor) -> Tensor:
    """Count () the rows of logits (N, K) without a valid distribution: with NaN or +inf, or with -inf only.

    The result stays on the device, so that a loop does not have to synchronise.
    """
    return (~logits.amax(-1).isfinite()).sum()
