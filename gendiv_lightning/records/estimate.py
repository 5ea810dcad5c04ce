"""`Estimate`: a number with its interval and sample sizes, the form of every reported result."""

from __future__ import annotations

from typing import NamedTuple


class Estimate(NamedTuple):
    """A number with its interval and the samples it is based on.

    Attributes:
        value: the estimate; NaN if it is undefined, in which case `method` gives the reason.
        low: lower end of the 95 % interval; NaN if there is none.
        high: upper end of that interval.
        num_prompts: number of prompts used.
        num_paths: number of distinct (prompt, paraphrase, path) used.
        num_samples: number of images used, over all prompts.
        method: description of the estimator and its interval.
    """

    value: float
    low: float
    high: float
    num_prompts: int
    num_paths: int
    num_samples: int
    method: str
