"""When is the picture decided? The share of the diversity of a prompt that is fixed by a step of the sampling loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from gendiv_lightning.errors import NotComparableError, TooLittleDataError
from gendiv_lightning.functional.bootstrap import bootstrap_ratio
from gendiv_lightning.runs.load import Family, Setting


class Decided(NamedTuple):
    """A point of the curve.

    Attributes:
        step: samples share all noise before this decision.
        share: share of the diversity that is decided by then, 0 at step 0.
        low: lower end of the 95 % interval over prompts.
        high: upper end.
    """

    step: int
    share: float
    low: float
    high: float


def branches_of(family: Family) -> dict[int, Setting]:
    """The runs of a family whose only probe shares all noise until a step, by that step; empty without step 0."""
    found = {int(s.probes[0]["step"]): s for s in family.settings if len(s.probes) == 1 and "step" in s.probes[0]}
    return found if 0 in found and len(found) > 1 else {}


def branch_curve(distances: Mapping[int, Tensor]) -> list[Decided]:
    """share(t) = 1 - E_t / D, with a percentile bootstrap interval of the ratio of means over prompts.

    Args:
        distances: mean distance (P,) of two samples of each prompt, by the step until which they share all noise.
            Step 0 is D, the distance of independent samples.

    Returns:
        The points in the order of the steps; NaN if independent samples do not differ.

    Raises:
        TooLittleDataError: step 0 is missing.
        NotComparableError: two steps have different numbers of prompts.
    """
    if 0 not in distances:
        raise TooLittleDataError(
            f"the curve needs step 0, the distance of independent samples, got steps {sorted(distances)}. Add step 0"
        )
    whole, points = distances[0], []
    for step in sorted(distances):
        if distances[step].shape != whole.shape:
            raise NotComparableError(
                f"step {step} has {len(distances[step])} prompts, but step 0 has {len(whole)}. Use the same prompts"
            )
        ratio, low, high = bootstrap_ratio(distances[step], whole)
        # Without shared noise the ratio is 1 in every resample.
        points.append(Decided(step, 1 - ratio, 1 - high, 1 - low))
    return points


def decided_at(points: list[Decided], share: float = 0.5) -> float:
    """The first step by which at least this share is decided, interpolated; NaN if it is never reached."""
    for before, after in pairwise(points):
        if before.share < share <= after.share:
            return before.step + (share - before.share) / (after.share - before.share) * (after.step - before.step)
    return math.nan
