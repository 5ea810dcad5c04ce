"""Spread among the samples of one prompt: in perception, in pixels, in structure. A prompt's wordings are groups."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.dinov2 import DINOv2Features
from gendiv_lightning.features.lpips import TINY_WEIGHTS, Net, PerceptualFeatures
from gendiv_lightning.features.pixels import check_images, pixel_features, split_images
from gendiv_lightning.functional.pairwise import PairDistances, group_means, split, split_paths
from gendiv_lightning.functional.ssim import ssim_matrix
from gendiv_lightning.functional.vendi import unit_rows
from gendiv_lightning.metrics.base import PromptMetric
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.weights.hash import sha256

_PIXELS_AT_ONCE = 2**15


class DiversityMetric(PromptMetric):
    """Mean distance of two samples of a prompt, and its parts within and between the prompt's wordings and paths.

    Numbers a prompt: `<name>` is the distance of two draws from the pool of wordings, `<name>/within` of two samples of
    one wording, `<name>/between` of samples of different wordings (NaN where there is one wording, and then the first
    two are the plain mean over pairs). Where samples share sampler paths (`Decompose`, `FreezePath`) lens C comes
    beside: `<name>/exec` is the distance of two samples on one path, `<name>/path` what the total has beyond it, which
    is `<name>/sampler_path` and `<name>/prompt_path` together. All are unbiased in the number of samples. A prompt with
    one sample is NaN and left out.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    @property
    def names(self) -> tuple[str, ...]:
        """See above."""
        parts = ("within", "between", "exec", "path", "sampler_path", "prompt_path")
        return self.name, *(f"{self.name}/{part}" for part in parts)

    @abstractmethod
    def mean_distances(self, images: Tensor, groups: Tensor) -> Tensor:
        """(P, P) mean distances of pairs of groups, from images (N, 3, H, W) uint8 and their groups' numbers (N,)."""

    def measure(self, samples: PromptSamples) -> list[float]:
        """The numbers of one prompt; ValueError unless its images are (N, 3, H, W) uint8."""
        check_images(samples.images)
        images = samples.images.to(self.device)
        cells, cell = samples.groups.unique(dim=0, return_inverse=True)
        if len(cells) < len(images):
            return list(split_paths(self.mean_distances(images, cell), cells[:, 0]))
        return [*split(self.mean_distances(images, samples.groups[:, 0])), *[math.nan] * 4]

    def matrix(self, samples: PromptSamples) -> Tensor:
        """(N, N) distances of all pairs of a prompt's samples, for a picture; zeros on the diagonal.

        Their mean off the diagonal is `<name>` of one wording: single samples are groups here, and a group of one has
        no spread. `functional.pairwise.extreme_pairs` finds the nearest and the farthest pair.
        """
        check_images(samples.images)
        images = samples.images.to(self.device)
        return self.mean_distances(images, torch.arange(len(images))).fill_diagonal_(0)


class LPIPS(DiversityMetric):
    """`diversity/lpips`: learned perceptual distance, exact without pairs. Nets other than alex stand in brackets.

    Args:
        net: "alex", "vgg" or "squeeze" as in the `lpips` package, or "tiny" for images of the embedded world.
        weights: see `PerceptualFeatures`.
    """

    def __init__(self, net: Net = "alex", weights: str | None = None) -> None:
        super().__init__("diversity/lpips" if net == "alex" else f"diversity/lpips[{net}]")
        self.features = PerceptualFeatures(net, weights)

    @property
    def method(self) -> str:
        """Network, file of its weights if one was given, and estimator."""
        weights = f", weights {self._weights_sha256[:8]}" if self.features.weights else ""
        return f"LPIPS v0.1 ({self.features.net}{weights}), closed form over all pairs; BCa bootstrap over prompts"

    def identity(self) -> dict[str, object]:
        """With the hash of a weight file; torchvision's backbones are known by their names."""
        return {**super().identity(), "weights": self._weights_sha256 or None}

    def load(self) -> None:
        """Load the backbone, and hash its file while it is there."""
        self.features.load()
        _ = self._weights_sha256

    @cached_property
    def _weights_sha256(self) -> str:
        file = self.features.weights or (TINY_WEIGHTS if self.features.net == "tiny" else None)
        return sha256(Path(file)) if file else ""

    def mean_distances(self, images: Tensor, groups: Tensor) -> Tensor:
        """See `DiversityMetric`."""
        return _mean_squared_distances(map(self.features, split_images(images)), groups)


class PixelCosine(DiversityMetric):
    """`diversity/pixel_cosine`: 1 - cosine of the images' pixels, in [0, 1]."""

    def __init__(self) -> None:
        super().__init__("diversity/pixel_cosine")

    @property
    def method(self) -> str:
        """Distance and estimator."""
        return "1 - cosine of pixels, closed form over all pairs; BCa bootstrap over prompts"

    def mean_distances(self, images: Tensor, groups: Tensor) -> Tensor:
        """See `DiversityMetric`."""
        parts = split_images(images, _PIXELS_AT_ONCE)  # nothing is gained by many at once
        return _mean_squared_distances(map(pixel_features, parts), groups) / 2


class FeatureCosine(DiversityMetric):
    """`diversity/cosine[...]`: 1 - cosine of a network's features, in [0, 2]; the network's tag stands in brackets.

    Args:
        features: the network. Default: DINOv2 (`cosine[dinov2]`).
    """

    def __init__(self, features: ImageFeatures | None = None) -> None:
        features = DINOv2Features() if features is None else features
        super().__init__(f"diversity/cosine[{features.tag}]")
        self.features = features

    @property
    def method(self) -> str:
        """Features and estimator."""
        return f"1 - cosine of features ({self.features.tag}), closed form over all pairs; BCa bootstrap over prompts"

    def identity(self) -> dict[str, object]:
        """With that of the features."""
        return {**super().identity(), "features": self.features.identity()}

    def load(self) -> None:
        """Load the features' weights."""
        self.features.load()

    def mean_distances(self, images: Tensor, groups: Tensor) -> Tensor:
        """See `DiversityMetric`; unit vectors' squared distance is twice their cosine distance."""
        units = (unit_rows(self.features(part)) for part in split_images(images))
        return _mean_squared_distances(units, groups) / 2


class SSIM(DiversityMetric):
    """`diversity/ssim`: 1 - structural similarity, in [0, 2]; see `ssim_matrix`."""

    def __init__(self) -> None:
        super().__init__("diversity/ssim")

    @property
    def method(self) -> str:
        """Distance and estimator."""
        return "1 - SSIM (Gaussian window, sigma 1.5, 11 x 11), mean over all pairs; BCa bootstrap over prompts"

    def mean_distances(self, images: Tensor, groups: Tensor) -> Tensor:
        """See `DiversityMetric`."""
        return group_means(1 - ssim_matrix(images).cpu(), groups)


def _mean_squared_distances(parts: Iterable[Tensor], groups: Tensor) -> Tensor:
    """(P, P) mean squared distances of features, which come a part of the images at a time."""
    pairs = PairDistances()
    start = 0
    for features in parts:
        pairs.update(features, groups[start : start + len(features)])
        start += len(features)
    return pairs.matrix()
