"""Distances between the distribution of all samples of a run and that of real images.

Each metric stores the features of all samples (8 KB per sample for Inception), ordered by prompt index, so that no
number depends on batches or ranks.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from gendiv_lightning.errors import ConfigValueError
from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.images import check_images
from gendiv_lightning.features.inception import InceptionFeatures
from gendiv_lightning.features.resize import Resize
from gendiv_lightning.functional.frechet import Statistics, check_finite, frechet_distances
from gendiv_lightning.functional.jackknife import FEWEST_BLOCKS, assign_blocks, count_blocks, jackknife, jackknife_limit
from gendiv_lightning.functional.kernel import kernel_distances
from gendiv_lightning.functional.neighbours import density_coverage, precision_recall
from gendiv_lightning.metrics.base import RowMetric, metric_name
from gendiv_lightning.metrics.reference import Reference, check_provenance, read_reference
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.resolve import resolve

Interval = tuple[float, float, float]


class DistributionMetric(RowMetric):
    """Base class of metrics that compare all samples of a run with a reference file.

    Intervals come from a jackknife over at most 20 blocks of prompts and do not include the sampling error of the
    reference. With features other than Inception's of 2015-12-05, names contain the tag of the features in brackets.

    Args:
        reference: reference file of real images, see `metrics.reference`: a path, or OWNER/REPO:FILE on the Hub.
        features: the feature network; it must be the one that made the reference.
    """

    features: ImageFeatures
    needs = ("images", "reference")
    row_dtype = torch.float32  # one row of features per sample
    needs_features: ClassVar[bool] = True  # whether the reference must contain features
    fewest_images: int = 2  # minimum number of images of the reference

    def __init__(self, reference: str, features: ImageFeatures) -> None:
        super().__init__()
        self.reference_name = reference
        self.features = features
        self.reference: Reference | None = None

    @property
    @abstractmethod
    def estimator(self) -> str:
        """Description of the estimator."""

    @property
    @abstractmethod
    def fewest_samples(self) -> int:
        """Minimum number of samples for which the numbers are defined."""

    @abstractmethod
    def measure(self, reference: Reference, features: Tensor, blocks: Tensor | None) -> list[Interval]:
        """Value, lower and upper end of each name, from features (N, D) and the block number (N,) of each row."""

    @property
    @override
    def num_columns(self) -> int:
        return len(self._loaded().statistics.mean)

    @override
    def identity(self) -> dict[str, object]:
        """Names, estimator, features, and the hash of the reference file."""
        return {
            "names": list(self.names),
            "method": self.estimator,
            "features": self.features.identity(),
            "reference": sha256(resolve(self.reference_name, "reference")),
        }

    @override
    def load(self) -> None:
        """Check the reference against the network, then load both; ValueError if they do not match."""
        if self.reference is None:
            path = resolve(self.reference_name, "reference")
            check_provenance(path, self.features, needs_features=self.needs_features, fewest=self.fewest_images)
            super().load()
            self.reference = read_reference(path)

    @override
    def update(self, samples: PromptSamples) -> None:
        """Add all samples of one prompt; ValueError unless its images are (N, 3, H, W) uint8."""
        self.load()
        check_images(samples.images)
        features = self.features(samples.images.to(self.device))
        check_finite(features)
        self.add_rows(samples, features, len(features))

    @override
    def compute(self) -> dict[str, Estimate]:
        """One `Estimate` per name; NaN for too few samples, no interval for fewer than five prompts."""
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
        """Features (N, D) by prompt index, the block (N,) of each row, and numbers of prompts, paths and samples."""
        if not len(self.rows):
            return torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64), (0, 0, 0)
        order, counts = dim_zero_cat(self.order), dim_zero_cat(self.sizes)
        sizes = counts[:, 1]
        ranks = order.argsort(stable=True).argsort()  # of the prompts, by index
        rows = ranks.repeat_interleave(sizes).argsort(stable=True)
        blocks = assign_blocks(len(order)).to(ranks)[ranks].repeat_interleave(sizes)[rows]
        num_paths, num_samples = counts.sum(0).tolist()
        return dim_zero_cat(self.rows)[rows], blocks, (len(order), num_paths, num_samples)

    def _loaded(self) -> Reference:
        self.load()
        assert self.reference is not None, "load sets the reference"
        return self.reference

    @property
    def _tag(self) -> str | None:
        """Tag in the brackets of names; None for Inception's official weights."""
        return None if self.features.tag == "inception" else self.features.tag

    @property
    def _features_in_words(self) -> str:
        identity = self.features.identity()
        return ", ".join(f"{key} {str(value)[:8] if key == 'weights' else value}" for key, value in identity.items())


class FrechetDistance(DistributionMetric):
    """`quality/fd[...]`: Frechet distance of Gaussians fitted to the features; `quality/fid` for Inception features.

    It is biased upwards by about C / N: compare it at equal N only. `.../infinity` removes the part of this bias that
    is proportional to 1 / N, which needs several samples per dimension; it may be negative. The bias from the number of
    reference images remains in both. The value and its interval take 21 eigenvalue problems of min(N, D) dimensions.
    """

    title = "Frechet distance to real images"
    short = "FD"
    higher_is_better = False
    needs_features = False
    fewest_samples = 2

    @property
    @override
    def names(self) -> tuple[str, ...]:
        name = metric_name("quality/fd" if self._tag else "quality/fid", self._tag)
        return name, f"{name}/infinity"

    @property
    @override
    def estimator(self) -> str:
        return f"Frechet distance ({self._features_in_words}), too high for few samples, and its jackknife limit"

    @override
    def measure(self, reference: Reference, features: Tensor, blocks: Tensor | None) -> list[Interval]:
        distances = frechet_distances(reference.statistics, features, blocks)
        return [_clamp(jackknife(distances), 0, math.inf), jackknife_limit(distances)]


class FID(FrechetDistance):
    """`quality/fid`: the Frechet distance of Inception features.

    Args:
        reference: see `DistributionMetric`.
        weights: see `InceptionFeatures`.
        resize: see `InceptionFeatures`.
    """

    title = "Frechet Inception distance to real images"
    short = "FID"

    def __init__(self, reference: str, weights: str | None = None, resize: Resize = "clean") -> None:
        super().__init__(reference, InceptionFeatures(weights, resize))


class KernelDistance(DistributionMetric):
    """`quality/kd[...]`: squared maximum mean discrepancy, polynomial kernel; `quality/kid` for Inception features.

    It is unbiased, so it can be compared at different N, and can be negative if the distributions are close.
    """

    title = "kernel distance to real images"
    short = "KD"
    higher_is_better = False
    fewest_samples = 2

    @property
    @override
    def names(self) -> tuple[str, ...]:
        return (metric_name("quality/kd" if self._tag else "quality/kid", self._tag),)

    @property
    @override
    def estimator(self) -> str:
        return f"unbiased squared MMD over all pairs, kernel (x'y / D + 1)^3 ({self._features_in_words})"

    @override
    def measure(self, reference: Reference, features: Tensor, blocks: Tensor | None) -> list[Interval]:
        assert reference.features is not None, "load checks that there are features"
        return [jackknife(kernel_distances(reference.features, features, blocks))]


class KID(KernelDistance):
    """`quality/kid`: the kernel distance of Inception features.

    Args:
        reference: see `DistributionMetric`.
        weights: see `InceptionFeatures`.
        resize: see `InceptionFeatures`.
    """

    title = "kernel Inception distance to real images"
    short = "KID"

    def __init__(self, reference: str, weights: str | None = None, resize: Resize = "clean") -> None:
        super().__init__(reference, InceptionFeatures(weights, resize))


class PrecisionRecall(DistributionMetric):
    """`quality/precision`, `.../recall`, `.../density` and `.../coverage`, see `functional.neighbours`.

    Recall and coverage grow with the number of samples: compare at equal N only. They are not smooth functions of the
    samples, and their intervals are too wide (by 1.6 and 1.3 on mixtures with 40 prompts of two samples).

    Args:
        reference: see `DistributionMetric`.
        features: see `DistributionMetric`. Default: Inception's.
        k: number of nearest neighbours that define the radius of a ball, for precision and recall.
        k_density: the same for density and coverage.
    """

    title = "precision, recall, density and coverage of real images"
    short = "precision"
    higher_is_better = True
    default_features = "inception"

    def __init__(self, reference: str, features: ImageFeatures | None = None, k: int = 3, k_density: int = 5) -> None:
        super().__init__(reference, InceptionFeatures() if features is None else features)
        if min(k, k_density) < 1:
            raise ConfigValueError(f"k and k_density must be at least 1, got {k} and {k_density}")
        self.k, self.k_density = k, k_density
        self.fewest_images = max(k, k_density) + 1

    @property
    @override
    def names(self) -> tuple[str, ...]:
        numbers = ("precision", "recall", "density", "coverage")
        return tuple(metric_name(f"quality/{number}", self._tag) for number in numbers)

    @property
    @override
    def estimator(self) -> str:
        return (
            f"nearest neighbours, k = {self.k} for precision and recall, {self.k_density} for density and coverage "
            f"({self._features_in_words}); recall and coverage grow with N"
        )

    @property
    @override
    def fewest_samples(self) -> int:
        """One more than the number of neighbours."""
        return self.k + 1

    @override
    def measure(self, reference: Reference, features: Tensor, blocks: Tensor | None) -> list[Interval]:
        assert reference.features is not None, "load checks that there are features"
        first = precision_recall(reference.features, features, self.k, blocks)
        second = density_coverage(reference.features, features, self.k_density, blocks)
        most = (1, 1, math.inf, 1)
        return [
            _clamp(jackknife(column), 0, high)
            for column, high in zip(torch.cat([first, second], 1).T, most, strict=True)
        ]


def _moved(reference: Reference, device: torch.device) -> Reference:
    num_rows, mean, scatter = reference.statistics
    features = None if reference.features is None else reference.features.to(device)
    return Reference(Statistics(num_rows, mean.to(device), scatter.to(device)), features, reference.provenance)


def _clamp(interval: Interval, low: float, high: float) -> Interval:
    """Value and ends, clamped to the range of the value; NaN stays NaN."""
    value, *ends = (end if math.isnan(end) else min(max(end, low), high) for end in interval)
    return value, ends[0], ends[1]
