"""Distances between the distribution of all samples of a run and that of real images.

Each metric keeps the features of all samples (8 KB a sample for Inception), ordered by their prompts' places, so that
no number depends on batches or ranks. Metrics with one network run it once.
"""

from __future__ import annotations

import json
import math
import weakref
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.inception import InceptionFeatures
from gendiv_lightning.features.pixels import check_images
from gendiv_lightning.functional.frechet import Statistics, check_finite, frechet_distances
from gendiv_lightning.functional.jackknife import FEWEST_BLOCKS, assign_blocks, count_blocks, jackknife, jackknife_limit
from gendiv_lightning.functional.kernel import kernel_distances
from gendiv_lightning.functional.neighbours import density_coverage, precision_recall
from gendiv_lightning.metrics.base import SampleMetric
from gendiv_lightning.metrics.reference import Reference, check_provenance, read_reference
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.resolve import resolve

Interval = tuple[float, float, float]


class DistributionMetric(SampleMetric):
    """Numbers of all samples of a run beside a reference file.

    Intervals are a jackknife over at most 20 blocks of prompts; the reference is taken as given. With features other
    than Inception's of 2015-12-05 the names have the features' tag in brackets.

    Args:
        reference: reference file of real images, see `metrics.reference`: a path, or OWNER/REPO:FILE on the Hub.
        features: network; it must be the one that made the reference.
    """

    needs_features = True  # of the reference
    fewest_images = 2  # in the reference
    features: list[Tensor]
    order: list[Tensor]
    counts: list[Tensor]

    def __init__(self, reference: str, features: ImageFeatures | None = None) -> None:
        super().__init__()
        self.reference_name = reference
        self.network = InceptionFeatures() if features is None else features
        self.reference: Reference | None = None
        self.add_state("features", default=[], dist_reduce_fx="cat")  # (samples, D) float32 each
        self.add_state("order", default=[], dist_reduce_fx="cat")  # (1,) int64 each
        self.add_state("counts", default=[], dist_reduce_fx="cat")  # (1, 2) int64 each: paths, samples

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the numbers, as they stand in `metrics.json`."""

    @property
    @abstractmethod
    def estimator(self) -> str:
        """The estimator in words."""

    @property
    @abstractmethod
    def fewest_samples(self) -> int:
        """With fewer the numbers are not defined."""

    @abstractmethod
    def measure(self, reference: Reference, features: Tensor, blocks: Tensor | None) -> list[Interval]:
        """Value, low and high of each name, from features (N, D) and the number (N,) of each row's block."""

    def identity(self) -> dict[str, object]:
        """Names, estimator, network, and the hash of the reference file."""
        return {
            "names": list(self.names),
            "method": self.estimator,
            "features": self.network.identity(),
            "reference": sha256(resolve(self.reference_name, "reference")),
        }

    def load(self) -> None:
        """Check the reference against the network, then load both; ValueError where they do not belong together."""
        if self.reference is None:
            path = resolve(self.reference_name, "reference")
            check_provenance(path, self.network, needs_features=self.needs_features, fewest=self.fewest_images)
            self.network.load()
            self.reference = read_reference(path)

    def update(self, samples: PromptSamples) -> None:
        """Add all samples of one prompt; ValueError unless its images are (N, 3, H, W) uint8."""
        self.load()
        features = _LAST.embed(self.network, samples.images, self.device)
        check_finite(features)
        self.features.append(features)
        self.order.append(torch.tensor([samples.place], device=self.device))
        self.counts.append(torch.tensor([[samples.num_paths, len(features)]], device=self.device))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather over all ranks; one that measured no prompt takes part with no rows of the same shape."""
        if not len(self.features):
            num_dimensions = len(self._loaded().statistics.mean)
            self.features = [torch.zeros(0, num_dimensions, device=self.device)]
            self.order = [torch.zeros(0, dtype=torch.int64, device=self.device)]
            self.counts = [torch.zeros(0, 2, dtype=torch.int64, device=self.device)]
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Estimate]:
        """One `Estimate` a name; NaN for too few samples, no interval for fewer than five prompts."""
        features, blocks, sizes = self._gathered()
        if len(features) < self.fewest_samples:
            missing = f"{self.estimator}: needs {self.fewest_samples} samples, there are {len(features)}"
            return {name: Estimate(math.nan, math.nan, math.nan, *sizes, missing) for name in self.names}
        fewest = len(features) - int(blocks.bincount().max())
        usable = blocks if fewest >= self.fewest_samples else None
        reference = self._loaded()
        numbers = self.measure(_moved(reference, features.device), features, usable)
        num_blocks = count_blocks(usable)
        interval = (
            f"jackknife over {num_blocks} blocks of prompts"
            if num_blocks >= FEWEST_BLOCKS
            else "no interval: few prompts"
        )
        images = f"N = {len(features)} beside {reference.statistics.num_rows} of {reference.provenance['dataset']}"
        method = f"{self.estimator}; {images}; {interval}"
        return {name: Estimate(*number, *sizes, method) for name, number in zip(self.names, numbers, strict=True)}

    def _gathered(self) -> tuple[Tensor, Tensor, tuple[int, int, int]]:
        """Features (N, D) by the prompts' places, the number (N,) of each row's block, and what they are made of."""
        if not len(self.features):
            return torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64), (0, 0, 0)
        order, counts = dim_zero_cat(self.order), dim_zero_cat(self.counts)
        sizes = counts[:, 1]
        ranks = order.argsort(stable=True).argsort()  # of the prompts, by place
        rows = ranks.repeat_interleave(sizes).argsort(stable=True)
        blocks = assign_blocks(len(order)).to(ranks)[ranks].repeat_interleave(sizes)[rows]
        num_paths, num_samples = counts.sum(0).tolist()
        return dim_zero_cat(self.features)[rows], blocks, (len(order), num_paths, num_samples)

    def _loaded(self) -> Reference:
        self.load()
        assert self.reference is not None, "load sets it"
        return self.reference

    def _name(self, bare: str, otherwise: str) -> str:
        return bare if self.network.tag == "inception" else f"{otherwise}[{self.network.tag}]"

    @property
    def _features_in_words(self) -> str:
        identity = self.network.identity()
        return ", ".join(f"{key} {str(value)[:8] if key == 'weights' else value}" for key, value in identity.items())


class FrechetDistance(DistributionMetric):
    """`quality/fid`: Frechet distance of Gaussians fitted to the features; `quality/fd[...]` with other features.

    It is too high for few samples, by about C / N, so it compares at equal N only. `.../infinity` has this bias removed
    as far as it falls as 1 / N, which needs several samples a dimension; it may be negative. The bias from the number
    of reference images stays in both. With the interval it takes 21 eigenvalue problems of min(N, D) dimensions.
    """

    needs_features = False
    fewest_samples = 2

    @property
    def names(self) -> tuple[str, ...]:
        """The distance, and its limit."""
        name = self._name("quality/fid", "quality/fd")
        return name, f"{name}/infinity"

    @property
    def estimator(self) -> str:
        """With the features."""
        return f"Frechet distance ({self._features_in_words}), too high for few samples, and its jackknife limit"

    def measure(self, reference: Reference, features: Tensor, blocks: Tensor | None) -> list[Interval]:
        """See `DistributionMetric`."""
        distances = frechet_distances(reference.statistics, features, blocks)
        return [_clamp(jackknife(distances), 0, math.inf), jackknife_limit(distances)]


class KernelDistance(DistributionMetric):
    """`quality/kid`: squared maximum mean discrepancy, polynomial kernel; `quality/kd[...]` with other features.

    It is unbiased: it compares at different N, and is negative at times where the distributions are the same.
    """

    fewest_samples = 2

    @property
    def names(self) -> tuple[str, ...]:
        """The distance."""
        return (self._name("quality/kid", "quality/kd"),)

    @property
    def estimator(self) -> str:
        """With the features."""
        return f"unbiased squared MMD over all pairs, kernel (x'y / D + 1)^3 ({self._features_in_words})"

    def measure(self, reference: Reference, features: Tensor, blocks: Tensor | None) -> list[Interval]:
        """See `DistributionMetric`."""
        assert reference.features is not None, "load checks it"
        return [jackknife(kernel_distances(reference.features, features, blocks))]


class PrecisionRecall(DistributionMetric):
    """`quality/precision`, `.../recall`, `.../density` and `.../coverage`, see `functional.neighbours`.

    Recall and coverage grow with the number of samples: they compare at equal N only. They are no smooth functions of
    the samples, and their intervals are too wide (by 1.6 and 1.3 on mixtures with 40 prompts of two samples).

    Args:
        reference: see `DistributionMetric`.
        features: see `DistributionMetric`.
        k: how many nearest neighbours a ball reaches to, for precision and recall.
        k_density: the same for density and coverage.
    """

    def __init__(self, reference: str, features: ImageFeatures | None = None, k: int = 3, k_density: int = 5) -> None:
        super().__init__(reference, features)
        if min(k, k_density) < 1:
            raise ValueError(f"k and k_density must be at least 1; got {k} and {k_density}")
        self.k, self.k_density = k, k_density
        self.fewest_images = max(k, k_density) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """Four."""
        return tuple(
            self._name(f"quality/{what}", f"quality/{what}") for what in ("precision", "recall", "density", "coverage")
        )

    @property
    def estimator(self) -> str:
        """With k and the features."""
        return (
            f"nearest neighbours, k = {self.k} for precision and recall, {self.k_density} for density and coverage "
            f"({self._features_in_words}); recall and coverage grow with N"
        )

    @property
    def fewest_samples(self) -> int:
        """One more than the neighbours of a sample."""
        return self.k + 1

    def measure(self, reference: Reference, features: Tensor, blocks: Tensor | None) -> list[Interval]:
        """See `DistributionMetric`."""
        assert reference.features is not None, "load checks it"
        first = precision_recall(reference.features, features, self.k, blocks)
        second = density_coverage(reference.features, features, self.k_density, blocks)
        most = (1, 1, math.inf, 1)
        return [
            _clamp(jackknife(column), 0, high)
            for column, high in zip(torch.cat([first, second], 1).T, most, strict=True)
        ]


class _LastFeatures:
    """Features of the images that were embedded last, for the next metric of the same network."""

    def __init__(self) -> None:
        self.key: tuple[object, ...] = ()
        self.images: Any = lambda: None
        self.features = torch.zeros(0)

    def embed(self, network: ImageFeatures, images: Tensor, device: torch.device) -> Tensor:
        """Features on a device; images that were changed in place since are others, where torch counts changes."""
        check_images(images)
        version = None if images.is_inference() else images._version
        key = (json.dumps(network.identity(), sort_keys=True), str(device), version)
        if self.images() is not images or self.key != key:
            self.features = network(images.to(device))
            self.key, self.images = key, weakref.ref(images)
        return self.features


_LAST = _LastFeatures()


def _moved(reference: Reference, device: torch.device) -> Reference:
    num_rows, mean, scatter = reference.statistics
    features = None if reference.features is None else reference.features.to(device)
    return Reference(Statistics(num_rows, mean.to(device), scatter.to(device)), features, reference.provenance)


def _clamp(interval: Interval, low: float, high: float) -> Interval:
    """Value and ends, cut to the range that the value has anyway; NaN stays NaN."""
    value, *ends = (end if math.isnan(end) else min(max(end, low), high) for end in interval)
    return value, ends[0], ends[1]
