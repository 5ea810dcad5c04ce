"""Effects of a probe: paired differences, remaining share of the diversity, and the knee of the subset curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.functional.bootstrap import bootstrap_mean, bootstrap_ratio
from gendiv_lightning.functional.comparison import sign_flip_test
from gendiv_lightning.runs.load import Setting
from gendiv_lightning.storage.codebook_counts import read_usage

MARGIN = 0.1
KNEE_RULE = (
    f"The knee is the smallest measured share of the codebook from which on the diversity stays within "
    f"{100 * MARGIN:.0f} % of that of the whole codebook."
)
NUM_RESAMPLES = 2000


class Interval(NamedTuple):
    """A number with its 95 % interval; NaN if unknown."""

    value: float
    low: float = math.nan
    high: float = math.nan


def change(setting: Setting, baseline: Setting, name: str) -> Interval:
    """Mean paired difference of a number with its interval; for a number of a whole set only the difference."""
    if name in setting.columns and name in baseline.columns:
        return Interval(*bootstrap_mean(_differences(setting, baseline, name)))
    return Interval(setting.value(name) - baseline.value(name))


def p_value(setting: Setting, baseline: Setting, name: str) -> float:
    """P-value of the hypothesis that the paired difference is 0, by sign flips."""
    return sign_flip_test(_differences(setting, baseline, name))


def _differences(setting: Setting, baseline: Setting, name: str) -> Tensor:
    differences = setting.columns[name] - baseline.columns[name]
    return differences[~differences.isnan()]


def share_left(setting: Setting, baseline: Setting, name: str) -> Interval:
    """The mean of a setting divided by the mean of its baseline."""
    if name not in setting.columns or name not in baseline.columns:
        return Interval(math.nan)
    return Interval(*bootstrap_ratio(setting.columns[name], baseline.columns[name]))


def share_within(setting: Setting, part: str, whole: str) -> Interval:
    """One mean of a setting divided by another."""
    if part not in setting.columns or whole not in setting.columns:
        return Interval(math.nan)
    return Interval(*bootstrap_ratio(setting.columns[part], setting.columns[whole]))


class Knee(NamedTuple):
    """The smallest subset that does not change the diversity, see `KNEE_RULE`.

    Attributes:
        ratio: share of the codebook; 1 if every measured subset changes the diversity.
        certainty: share of bootstrap resamples over prompts with this answer.
    """

    ratio: float
    certainty: float

    @property
    def is_sure(self) -> bool:
        """Whether nine of ten resamples agree, as for the verdict."""
        return self.certainty >= 0.9


def find_knee(curve: Sequence[tuple[float, Setting]], name: str, seed: int = 0) -> Knee | None:
    """The knee of a curve whose last point is the whole codebook; None for fewer than two subsets or two prompts."""
    if len(curve) < 3 or any(name not in setting.columns for _, setting in curve):
        return None
    columns = torch.stack([setting.columns[name] for _, setting in curve], 1)
    columns = columns[~columns.isnan().any(1)]
    if len(columns) < 2:
        return None
    draws = torch.randint(len(columns), (NUM_RESAMPLES, len(columns)), generator=torch.Generator().manual_seed(seed))
    (index,), resampled = _knees(columns.mean(0)[None]), _knees(columns[draws].mean(1))
    return Knee(curve[int(index)][0], (resampled == index).double().mean().item())


def _knees(means: Tensor) -> Tensor:
    """Indices of the knees of curves (R, points)."""
    is_near = (means / means[:, -1:] - 1).abs() <= MARGIN
    return is_near.shape[1] - is_near.flip(1).long().cumprod(1).sum(1)


def usage_counts(setting: Setting) -> Tensor:
    """Counts (K,) of each codebook entry, summed over seeds."""
    counts = [read_usage(run.folder.path / "usage.safetensors")[0] for run in setting.runs]
    return torch.stack(counts).sum(0)


def codebook_size(setting: Setting) -> int:
    """Number of codebook entries K."""
    return len(usage_counts(setting))
