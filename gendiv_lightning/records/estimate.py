"""`Estimate`: the only form in which a number leaves the project."""

from __future__ import annotations

from typing import NamedTuple


class Estimate(NamedTuple):
    """A number with its interval and what it rests on.

    Attributes:
        value: the estimate; NaN when it cannot be made (`method` says why).
        low: lower end of the 95 % interval; NaN when there is none.
        high: upper end.
        num_prompts: prompts that entered.
        num_paths: distinct (prompt, wording, path) that entered.
        num_samples: images that entered, over all prompts.
        method: estimator and interval in words.
    """

    value: float
    low: float
    high: float
    num_prompts: int
    num_paths: int
    num_samples: int
    method: str
