"""Power analysis: how many prompts and samples a question needs, from given variances or pilot runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.analysis.decompose import read_prompts
from gendiv_lightning.errors import (
    ConfigValueError,
    NotComparableError,
    OptionConflictError,
    TooLittleDataError,
    UnknownNameError,
)
from gendiv_lightning.functional.comparison import prompts_for_effect, prompts_for_width, variance_components
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.runs.folder import RunFolder

if TYPE_CHECKING:
    from gendiv_lightning.metrics.base import PromptMetric

NUMBERS_OF_SAMPLES = (2, 4, 8, 16, 32, 64)


class Variances(NamedTuple):
    """Variance of the true values between prompts, and variance of the estimate of a prompt times its samples."""

    between: float
    within: float


class Need(NamedTuple):
    """Number of prompts that a question needs, for a number of samples per prompt."""

    num_samples: int
    num_prompts: int

    @property
    def num_images(self) -> int:
        """Total number of images."""
        return self.num_samples * self.num_prompts


class Pilot(NamedTuple):
    """A number of a run, prompt by prompt.

    Attributes:
        whole: values (P,) from all samples.
        halves: values (P, 2) from two halves of the samples.
        num_samples: smallest number of samples of a prompt.
    """

    whole: Tensor
    halves: Tensor
    num_samples: int


def find_needs(
    variances: Variances, *, width: float | None = None, effect: float | None = None, power: float = 0.8
) -> list[Need]:
    """Number of prompts for each number of samples in `NUMBERS_OF_SAMPLES`.

    Args:
        variances: variances of per-prompt values, or for an effect of their paired differences.
        width: half-width of the 95 % interval. Give this or `effect`.
        effect: difference to detect.
        power: probability of detecting it.

    Raises:
        ValueError: a variance is negative or not finite, or width, effect or power is out of range.
    """
    for name, value in variances._asdict().items():
        if not 0 <= value < math.inf:
            raise ConfigValueError(f"--{name} is a variance and must be at least 0, got {value:g}. Correct it")
    if (width is None) == (effect is None):
        raise OptionConflictError(
            "exactly one goal is needed. Give either --width (of an interval) or --effect (a difference to detect)"
        )
    for name, goal in (("width", width), ("effect", effect)):
        if goal is not None and not math.isfinite(goal):
            raise ConfigValueError(f"--{name} must be finite, got {goal:g}. Correct it")
    if not 0.5 <= power < 1:
        raise ConfigValueError(f"--power must be in [0.5, 1), got {power:g}. The usual value is 0.8")
    needs = []
    for num in NUMBERS_OF_SAMPLES:
        try:
            if width is not None:
                needs.append(Need(num, prompts_for_width(*variances, num, width)))
            else:
                assert effect is not None, "one of the two is given"
                needs.append(Need(num, prompts_for_effect(*variances, num, effect, power)))
        except OverflowError as error:
            raise ConfigValueError(
                "--width or --effect is too small for any number of prompts. Choose a larger one"
            ) from error
    return needs


def measure_pilot(folder: RunFolder, metric: PromptMetric, part: str | None = None) -> Pilot:
    """Measure a metric on the stored samples of a run, on all samples and on two halves.

    Args:
        folder: the run folder.
        metric: the metric, not loaded yet.
        part: which of its numbers, by the end of the name; None for the first.

    Raises:
        UnknownNameError: the metric has no such number.
    """
    indices = [index for index, name in enumerate(metric.names) if part is None or name.endswith(f"/{part}")]
    if not indices:
        raise UnknownNameError(f"--metric has no number {part}. Choose one of {', '.join(metric.names)} with --number")
    metric.load()
    rows = []
    for samples in read_prompts(folder, f"Measuring {folder.path.name}"):
        halves = (samples, _every_other(samples, 0), _every_other(samples, 1))
        rows.append((samples.place, len(samples.images), *(metric.measure(half)[indices[0]] for half in halves)))
    table = torch.tensor(sorted(rows), dtype=torch.float64)
    return Pilot(table[:, 2], table[:, 3:], int(table[:, 1].min()))


def variances_of(pilots: Sequence[Pilot]) -> Variances:
    """Variances of the number of one pilot, or of the difference of two pilots over the same prompts.

    Raises:
        NotComparableError: the pilots have different numbers of prompts.
        TooLittleDataError: the number is defined for fewer than three prompts.
    """
    first, last = pilots[0], pilots[-1]
    if len(first.whole) != len(last.whole):
        raise NotComparableError(
            f"the pilots have {len(first.whole)} and {len(last.whole)} prompts. Make them over the same prompts"
        )
    values, halves = first.whole, first.halves
    if len(pilots) == 2:
        values, halves = last.whole - first.whole, last.halves - first.halves
    is_defined = ~(values.isnan() | halves.isnan().any(1))
    values, halves = values[is_defined], halves[is_defined]
    if len(values) < 3:
        raise TooLittleDataError(
            f"the pilot has {len(values)} prompts with this number and at least 4 samples, but 3 are required. Make a "
            "larger pilot"
        )
    errors = (halves[:, 0] - halves[:, 1]).square() / 4
    return Variances(*variance_components(values, errors, min(pilot.num_samples for pilot in pilots)))


def _every_other(samples: PromptSamples, start: int) -> PromptSamples:
    """Half of a prompt's samples."""
    return samples.take(torch.arange(start, len(samples.images), 2))
