"""Vendi scores: effective number of different images among the samples of a prompt or of a run."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from gendiv_lightning.errors import ConfigValueError, ImageSizeError, MetricInputError
from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.images import check_images
from gendiv_lightning.features.pixels import Pixels, SmallPixels
from gendiv_lightning.functional.jackknife import FEWEST_BLOCKS, jackknife
from gendiv_lightning.functional.vendi import check_order, hill_number, shares, unit_rows, vendi_score
from gendiv_lightning.metrics.base import PromptMetric, SampleMetric, metric_name
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.records.estimate import Estimate

NUM_GROUPS = 16
MAX_WITH_INTERVAL = 1024  # dimensions; 16 groups take 128 MiB of second moments
MAX_DIMENSIONS = 4096  # dimensions; one group takes 128 MiB
# Fixed point of moments. No sum overflows below 2^20 samples in all, and shares change by about 1e-13. Beyond, a sum
# overflows if one entry of the mean moments exceeds 2^20 / (number of samples).
_SCALE = 2.0**43
# Fixed point of conditional terms: per group, N log N (order 1) or N^2 / score (order 2), summed over prompts of N
# samples, must stay below 2^31.
_TERM_SCALE = 2.0**32


class Vendi(PromptMetric):
    """`diversity/vendi[...]`: effective number of different images among all N samples of a prompt.

    It is in [1, N], grows with N and is not corrected for it: compare it at equal N only. `method` contains N. A prompt
    with one sample is left out. Similarity is the cosine of features, which are not centred. Pixels are never negative,
    so their cosines are high and their score stays close to 1.

    Args:
        features: the feature network, whose tag appears in the brackets. Default: all pixels.
        q: order of the score, in (0, inf]; an order other than 1 also appears in the brackets.
    """

    features: ImageFeatures
    title = "effective number of different images of a prompt"
    short = "Vendi score"
    default_features = "pixels"

    def __init__(self, features: ImageFeatures | None = None, q: float = 1.0) -> None:
        super().__init__()
        check_order(q)
        self.features = Pixels() if features is None else features
        self.q = q

    @property
    @override
    def names(self) -> tuple[str, ...]:
        return (_name("diversity/vendi", self.features, self.q),)

    @property
    @override
    def method(self) -> str:
        """The estimator, with the numbers of samples per prompt."""
        nums = dim_zero_cat(self.sizes)[:, 1] if len(self.sizes) else torch.zeros(0, dtype=torch.int64)
        measured = sorted({*nums[nums > 1].tolist()}) or [0]
        bound = f"N = {measured[0]}" if len(measured) == 1 else f"N = {measured[0]} to {measured[-1]}"
        return f"{_estimator(self.q)}, at {bound} samples a prompt: grows with N; BCa bootstrap over prompts"

    @override
    def identity(self) -> dict[str, object]:
        """Names, estimator and features; without N, which is a result."""
        return {"names": list(self.names), "method": _estimator(self.q), "features": self.features.identity()}

    @override
    def measure(self, samples: PromptSamples) -> list[float]:
        if len(samples.images) < 2:
            return [math.nan]
        return [vendi_score(self.features(samples.images.to(self.device)), self.q)]


class MomentMetric(SampleMetric):
    """Base class of metrics of all samples of a run that use the D x D second moments of their unit features.

    Samples are not stored. Moments are summed in fixed point, so the result does not depend on the order of prompts or
    the number of ranks. Intervals come from a jackknife over 16 groups of prompts, assigned by a hash of their indices
    because prompt sets often alternate between kinds. They need five prompts and at most 1,024 dimensions. Features
    with more than 4,096 dimensions are an error.

    Args:
        features: see `Vendi`. Default: pixels averaged to 12 x 12, 432 dimensions.
        q: see `Vendi`.
    """

    features: ImageFeatures
    default_features = "small-pixels"
    moments: list[Tensor]
    num_dimensions: Tensor
    sizes: Tensor

    def __init__(self, features: ImageFeatures | None = None, q: float = 1.0) -> None:
        super().__init__()
        check_order(q)
        self.features = SmallPixels() if features is None else features
        self.q = q
        # Groups x D x D, flattened: D is unknown on a rank without prompts, and flat tensors of any length gather.
        self.add_state("moments", default=[], dist_reduce_fx="cat")
        self.add_state("num_dimensions", torch.tensor(0), dist_reduce_fx="max")
        self.add_state("sizes", torch.zeros(NUM_GROUPS, 3, dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, samples: PromptSamples) -> Tensor:
        """Add the moments of all samples of one prompt, and return their unit features (N, D), float64.

        Raises:
            ValueError: the features have too many dimensions, or a different number than before.
        """
        check_images(samples.images)
        features = unit_rows(self.features(samples.images.to(self.device)))
        num_dimensions = features.shape[1]
        if num_dimensions > MAX_DIMENSIONS:
            raise MetricInputError(
                f"{type(self).__name__} supports features of at most {MAX_DIMENSIONS} dimensions, but "
                f"{self.features.tag!r} has {num_dimensions}. Use features of fewer dimensions (pooled ones, or "
                "SmallPixels), or measure prompt by prompt with Vendi"
            )
        if num_dimensions != self.num_dimensions and self.num_dimensions:
            raise ImageSizeError(
                f"features must have the same dimensions for every image, got {num_dimensions} after "
                f"{int(self.num_dimensions)}. Resize the images to one size, or use features that do not depend on it"
            )
        self.num_dimensions = torch.full_like(self.num_dimensions, num_dimensions)
        moments, group = self.grouped_moments(), _group(samples.place)
        moments[group % len(moments)] += ((features.T @ features) * _SCALE).round().long()
        self.moments = [moments.flatten()]
        self.sizes[group] += torch.tensor([1, samples.num_paths, len(features)], device=self.device)
        return features

    @override
    def empty_states(self) -> dict[str, Tensor]:
        return {"moments": torch.zeros(0, dtype=torch.int64)}

    def parts(self) -> tuple[list[Tensor], str]:
        """Weights (16,) of the groups for all prompts, then with each group left out; and a description."""
        used = self.sizes[:, 0].nonzero()[:, 0].tolist()
        everything = torch.ones(NUM_GROUPS, dtype=torch.float64)
        if int(self.num_dimensions) > MAX_WITH_INTERVAL or len(used) < FEWEST_BLOCKS:
            reason = f"no interval: fewer than {FEWEST_BLOCKS} prompts, or more than {MAX_WITH_INTERVAL} dimensions"
            return [everything], reason
        left_out = [everything.index_fill(0, torch.tensor(group), 0) for group in used]
        return [everything, *left_out], f"jackknife over {len(used)} groups of prompts"

    def grouped_moments(self) -> Tensor:
        """(NUM_GROUPS or 1, D, D) int64 sum of all parts; a copy, because a merged metric may share the parts."""
        num_dimensions = int(self.num_dimensions)
        shape = (NUM_GROUPS if num_dimensions <= MAX_WITH_INTERVAL else 1, num_dimensions, num_dimensions)
        if not len(self.moments):
            return torch.zeros(shape, dtype=torch.int64, device=self.device)
        return dim_zero_cat(self.moments).view(-1, *shape).sum(0)

    def log_scores(self, parts: list[Tensor]) -> Tensor:
        """Logarithm of the Vendi score of all samples, for each of the `parts`."""
        moments = self.grouped_moments().cpu()
        total, logs = moments.sum(0), []
        for part in parts:
            rest = total - sum(moments[group] for group in (part == 0).nonzero()[:, 0].tolist())
            logs.append(math.log(hill_number(shares(rest.double()), self.q)))
        return torch.tensor(logs, dtype=torch.float64)


class VendiSet(MomentMetric):
    """`diversity/vendi_set[...]`: effective number of different images among all samples of all prompts.

    Like `Vendi`, the score grows with the number of samples, up to D: compare it at equal numbers only. The interval
    is computed for the logarithm of the score and describes another set of equally many prompts.

    Args:
        features: see `MomentMetric`.
        q: see `Vendi`.
    """

    title = "effective number of different images of all prompts"
    short = "Vendi score of all"

    @property
    @override
    def names(self) -> tuple[str, ...]:
        return (_name("diversity/vendi_set", self.features, self.q),)

    @override
    def identity(self) -> dict[str, object]:
        """Name, estimator and features."""
        return {"names": list(self.names), "method": _estimator(self.q), "features": self.features.identity()}

    @override
    def update(self, samples: PromptSamples) -> None:
        """Add all samples of one prompt; ValueError if the features have too many dimensions."""
        self.add(samples)

    @override
    def compute(self) -> dict[str, Estimate]:
        """The score of the set; NaN without samples, no interval for too few prompts or too many dimensions."""
        (name,) = self.names
        num_prompts, num_paths, num_samples = self.sizes.sum(0).tolist()
        method = f"{_estimator(self.q)}, of all N = {num_samples} samples: grows with N"
        if not num_samples:
            return {name: Estimate(math.nan, math.nan, math.nan, 0, 0, 0, method)}
        parts, interval = self.parts()
        value, low, high = (math.exp(end) for end in jackknife(self.log_scores(parts)))
        most = float(min(num_samples, int(self.num_dimensions)))
        # In this order NaN stays NaN. Rounding may move the score itself beyond its bounds.
        low, high = min(max(low, 1.0), value), max(min(high, most), value)
        return {name: Estimate(value, low, high, num_prompts, num_paths, num_samples, f"{method}; {interval}")}


class ConditionalVendi(MomentMetric):
    """`diversity/conditional_vendi[...]`, `.../information_vendi[...]`: two factors of the Vendi score of all samples.

    - `diversity/conditional_vendi[...]` = exp H(X | T): effective number of different images given the condition T.
    - `diversity/information_vendi[...]` = exp I(X; T), with I = H(X) - H(X | T): effective number of groups of images
      that conditions distinguish.

    Their product is exp H(X), the score of `VendiSet`. X are the images, compared by the cosine of their features; T is
    the prompt, or the prompt with paraphrase and path, with the identity kernel. With q = 2 the first is
    Conditional-RKE. Both are plug-in estimates, which change with the number of samples per condition: compare them at
    equal numbers. With q = 2 and conditions of different numbers of samples, I may be negative. `KernelEntropy` has no
    such bias at order 2. Both numbers are NaN if no two samples share their condition.

    Source: Jalali, Ospanov, Gohari and Farnia, "Conditional Vendi Score" (2024).

    Args:
        features: see `MomentMetric`.
        q: 1 or 2.
        given: the condition: "prompt", or "path" for samples of equal prompt, paraphrase and path.
    """

    title = "effective number of different images of a prompt, and of distinguishable groups of prompts"
    short = "conditional Vendi"
    conditional: Tensor

    def __init__(
        self, features: ImageFeatures | None = None, q: float = 1.0, given: Literal["prompt", "path"] = "prompt"
    ) -> None:
        super().__init__(features, q)
        if given not in ("prompt", "path"):
            raise ConfigValueError(f"given must be prompt or path, got {given!r}. Choose one of them")
        if q not in (1, 2):
            raise ConfigValueError(
                f"q must be 1 (Conditional-Vendi) or 2 (Conditional-RKE), got {q:g}. Choose one of them"
            )
        self.given = given
        self.add_state("conditional", torch.zeros(NUM_GROUPS, 2, dtype=torch.int64), dist_reduce_fx="sum")

    @property
    @override
    def names(self) -> tuple[str, ...]:
        numbers = ("conditional_vendi", "information_vendi")
        given = None if self.given == "prompt" else self.given
        return tuple(_name(f"diversity/{number}", self.features, self.q, given=given) for number in numbers)

    @override
    def identity(self) -> dict[str, object]:
        """Names, estimator and features."""
        return {"names": list(self.names), "method": _estimator(self.q), "features": self.features.identity()}

    @override
    def update(self, samples: PromptSamples) -> None:
        """Add all samples of one prompt; ValueError if the features have too many dimensions."""
        features = self.add(samples)
        cells = samples.groups.unique(dim=0, return_inverse=True)[1].to(features.device)
        for members in (features[cells == cell] for cell in cells.unique()) if self.given == "path" else (features,):
            weight = len(members) ** int(self.q)  # of a condition, from the eigenvalues of its kernel
            entropy = math.log(vendi_score(members, self.q))
            term = entropy if self.q == 1 else math.exp(-entropy)
            added = torch.tensor([round(weight * term * _TERM_SCALE), weight])
            self.conditional[_group(samples.place)] += added.to(self.device)

    @override
    def compute(self) -> dict[str, Estimate]:
        """Both numbers; NaN without samples, no interval for too few prompts or too many dimensions."""
        num_prompts, num_paths, num_samples = self.sizes.sum(0).tolist()
        num_conditions = num_prompts if self.given == "prompt" else num_paths
        method = f"{_estimator(self.q)}, given the {self.given}, plug-in at N = {num_samples} samples"
        if num_conditions == num_samples:
            return {name: Estimate(math.nan, math.nan, math.nan, 0, 0, 0, method) for name in self.names}
        parts, interval = self.parts()
        terms, weights = (torch.stack(parts) @ self.conditional.cpu().double()).T
        means = terms / weights / _TERM_SCALE
        conditional = means if self.q == 1 else -means.log()
        # By Cauchy and Schwarz, sum N^2 is (sum N)^2 / P only for conditions of one size. For other sizes the weights
        # N^2 of order 2 are not those of the samples in H(X), so H(X | T) may exceed it.
        is_positive = self.q == 1 or int(self.conditional[:, 1].sum()) * num_conditions == num_samples**2
        least = (1.0, 1.0 if is_positive else 0.0)
        estimates = {}
        both = (conditional, self.log_scores(parts) - conditional)
        for name, logs, bound in zip(self.names, both, least, strict=True):
            value, low, high = (math.exp(end) for end in jackknife(logs))
            low = min(max(low, bound), value)
            estimates[name] = Estimate(value, low, high, num_prompts, num_paths, num_samples, f"{method}; {interval}")
        return estimates


def _group(index: int) -> int:
    """Group 0..15 of a prompt by golden-ratio hashing of its index: evenly filled and without a period."""
    return (index * 0x9E3779B9 % 2**32) >> 28


def _name(base: str, features: ImageFeatures, q: float, **options: str | None) -> str:
    return metric_name(base, features.tag, q=None if q == 1 else q, **options)


def _estimator(q: float) -> str:
    return f"Vendi score of order {q:g}, cosine of features"
