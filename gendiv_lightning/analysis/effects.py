"""What a probe changes: paired differences, what is left of a diversity, the knee of the subset curve, the verdict."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.analysis.verdict import Verdict, judge
from gendiv_lightning.functional.bootstrap import bootstrap_mean, bootstrap_ratio
from gendiv_lightning.functional.comparison import sign_flip_test
from gendiv_lightning.report.document import Number
from gendiv_lightning.runs.load import Family, Setting
from gendiv_lightning.storage.codebook_counts import read_usage

MARGIN = 0.1
KNEE_RULE = (
    f"The knee is the smallest measured share of the codebook from which on the diversity stays within "
    f"{100 * MARGIN:.0f} % of the whole codebook's."
)
NUM_RESAMPLES = 2000


def change(setting: Setting, baseline: Setting, name: str) -> tuple[float, float, float]:
    """Mean paired difference of a number with its interval; of a number of the whole set the difference alone."""
    if name in setting.columns and name in baseline.columns:
        return bootstrap_mean(_differences(setting, baseline, name))
    return setting.value(name) - baseline.value(name), math.nan, math.nan


def p_value(setting: Setting, baseline: Setting, name: str) -> float:
    """Of a paired difference of 0, by sign flips."""
    return sign_flip_test(_differences(setting, baseline, name))


def _differences(setting: Setting, baseline: Setting, name: str) -> Tensor:
    differences = setting.columns[name] - baseline.columns[name]
    return differences[~differences.isnan()]


def share_left(setting: Setting, baseline: Setting, name: str) -> Number:
    """A setting's mean over its baseline's, in percent."""
    if name not in setting.columns or name not in baseline.columns:
        return Number(math.nan)
    ratio = bootstrap_ratio(setting.columns[name], baseline.columns[name])
    return Number(*ratio, digits=0, percent=True)


def share_within(setting: Setting, part: str, whole: str) -> Number:
    """One of a setting's means over another, in percent."""
    if part not in setting.columns or whole not in setting.columns:
        return Number(math.nan)
    return Number(*bootstrap_ratio(setting.columns[part], setting.columns[whole]), digits=0, percent=True)


def subset_curve(family: Family, select: str = "most_frequent") -> list[tuple[float, Setting]]:
    """Shares of the codebook that were allowed, and their settings; the baseline of the first of them is the whole."""
    found = [s for s in family.find("CodebookSubset") if s.label.select == select and family.baseline_of(s)]
    if not found:
        return []
    whole = family.baseline_of(found[0])
    curve = [(s.label.ratio or math.nan, s) for s in found if family.baseline_of(s) == whole]
    return sorted([*curve, *([(1.0, whole)] if whole else [])], key=lambda point: point[0])


def quarter_of(family: Family) -> Setting | None:
    """The subset of the most frequent entries that is closest to a quarter of the codebook."""
    subsets = [point for point in subset_curve(family) if point[0] < 1]
    return min(subsets, key=lambda point: abs(point[0] - 0.25))[1] if subsets else None


class Knee(NamedTuple):
    """Where the subset begins to matter, see `KNEE_RULE`.

    Attributes:
        ratio: share of the codebook; 1 where every measured subset changes the diversity.
        certainty: share of bootstrap resamples over prompts with this answer.
    """

    ratio: float
    certainty: float

    @property
    def is_sure(self) -> bool:
        """Whether nine of ten resamples agree, as the verdict asks."""
        return self.certainty >= 0.9


def find_knee(curve: list[tuple[float, Setting]], name: str, seed: int = 0) -> Knee | None:
    """The knee of a curve whose last point is the whole codebook; None for fewer than two subsets or two prompts."""
    if len(curve) < 3 or any(name not in setting.columns for _, setting in curve):
        return None
    columns = torch.stack([setting.columns[name] for _, setting in curve], 1)
    columns = columns[~columns.isnan().any(1)]
    if len(columns) < 2:
        return None
    draws = torch.randint(len(columns), (NUM_RESAMPLES, len(columns)), generator=torch.Generator().manual_seed(seed))
    (place,), resampled = _knees(columns.mean(0)[None]), _knees(columns[draws].mean(1))
    return Knee(curve[int(place)][0], (resampled == place).double().mean().item())


def _knees(means: Tensor) -> Tensor:
    """Places of the knees of curves (R, points)."""
    is_near = (means / means[:, -1:] - 1).abs() <= MARGIN
    return is_near.shape[1] - is_near.flip(1).long().cumprod(1).sum(1)


class Profile(NamedTuple):
    """The three runs of `Decompose` that a verdict takes; None where one is missing.

    Attributes:
        plain: without other probes.
        argmax: under `Argmax`.
        subset: under `CodebookSubset` of the most frequent entries, the one closest to a quarter.
    """

    plain: Setting | None
    argmax: Setting | None
    subset: Setting | None


def find_profile(family: Family) -> Profile:
    """The runs of one design."""
    plain = family.first("Decompose")
    if plain is None:
        return Profile(None, None, None)
    argmax = [s for s in family.find("Argmax", "Decompose") if family.baseline_of(s) == plain]
    subsets = [
        s
        for s in family.find("CodebookSubset", "Decompose")
        if family.baseline_of(s) == plain and s.label.select == "most_frequent"
    ]
    subsets.sort(key=lambda setting: abs((setting.label.ratio or 0) - 0.25))
    return Profile(plain, *(next(iter(found), None) for found in (argmax, subsets)))


def find_verdict(family: Family, name: str) -> Verdict | None:
    """The verdict by a distance; None where a run or the distance is missing, or there is one prompt."""
    plain, argmax, subset = find_profile(family)
    if plain is None or argmax is None or subset is None:
        return None
    if any(f"{name}/within" not in s.columns for s in (plain, argmax, subset)):
        return None
    if plain.estimates[f"{name}/within"].num_prompts < 2:
        return None
    columns = [setting.columns[f"{name}/within"] for setting in (plain, argmax, subset)]
    perplexity = plain.value("codebook/perplexity") / codebook_size(plain)
    return judge(columns[0], plain.columns[f"{name}/exec"], columns[1], columns[2], perplexity)


def mixed_paraphrases(family: Family) -> Setting | None:
    """The paraphrases of mixed length, or else of another."""
    return min(family.find("Paraphrase"), key=lambda s: s.label.paraphrase_length != "mixed", default=None)


def usage_counts(setting: Setting) -> Tensor:
    """How often each codebook entry was drawn, (K,), over the seeds."""
    counts = [read_usage(run.folder.path / "usage.safetensors")[0] for run in setting.runs]
    return torch.stack(counts).sum(0)


def codebook_size(setting: Setting) -> int:
    """K."""
    return len(usage_counts(setting))
