"""Diversity of the samples of one prompt as a mean distance of pairs, decomposed by paraphrase and path."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor
from typing_extensions import override

from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.dinov2 import DINOv2Features
from gendiv_lightning.features.dists import DISTSFeatures
from gendiv_lightning.features.images import check_images, split_images
from gendiv_lightning.features.lpips import PerceptualFeatures
from gendiv_lightning.features.pixels import pixel_features
from gendiv_lightning.features.registry import perceptual_of
from gendiv_lightning.functional.pairwise import PairDistances, group_means, split, split_paths
from gendiv_lightning.functional.ssim import ssim_matrix
from gendiv_lightning.functional.vendi import unit_rows
from gendiv_lightning.metrics.base import PromptMetric, metric_name
from gendiv_lightning.records import PromptSamples

_PIXELS_AT_ONCE = 2**15


class DiversityMetric(PromptMetric):
    """Mean distance of two samples of a prompt, and its parts within and between the prompt's paraphrases and paths.

    The numbers of a prompt, all unbiased in the number of samples:

    - `<name>`: two draws from the pool of paraphrases.
    - `<name>/within`: two samples of one paraphrase.
    - `<name>/between`: samples of different paraphrases; NaN if there is one text, in which case the first two are the
      plain mean over pairs.
    - `<name>/exec`: two samples on the same sampler path, if samples share paths (`Decompose`, `FreezePath`).
    - `<name>/path`: the total minus `exec`, the sum of `<name>/sampler_path` and `<name>/prompt_path`.

    A prompt with one sample is undefined (NaN) and left out.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    @property
    @override
    def names(self) -> tuple[str, ...]:
        parts = ("within", "between", "exec", "path", "sampler_path", "prompt_path")
        return self.name, *(f"{self.name}/{part}" for part in parts)

    @abstractmethod
    def mean_distances(self, images: Tensor, groups: Tensor) -> Tensor:
        """(P, P) mean distances between groups, from images (N, 3, H, W) uint8 and their group numbers (N,)."""

    @override
    def measure(self, samples: PromptSamples) -> list[float]:
        images = samples.images.to(self.device)
        cells, cell = samples.groups.unique(dim=0, return_inverse=True)
        if len(cells) < len(images):
            return list(split_paths(self.mean_distances(images, cell), cells[:, 0]))
        return [*split(self.mean_distances(images, samples.groups[:, 0])), *[math.nan] * 4]

    def matrix(self, samples: PromptSamples) -> Tensor:
        """(N, N) distances of all pairs of a prompt's samples, with zeros on the diagonal.

        For one text, their off-diagonal mean is `<name>`. `functional.pairwise.extreme_pairs` finds the nearest and the
        farthest pair.
        """
        check_images(samples.images)
        images = samples.images.to(self.device)
        groups = torch.arange(len(images))  # every sample is its own group
        return self.mean_distances(images, groups).fill_diagonal_(0)


class LPIPS(DiversityMetric):
    """`diversity/lpips`: learned perceptual distance, in closed form over all pairs; at least 0.

    Args:
        net: "alex", "vgg" or "squeeze" as in the `lpips` package, or another network that is registered as `lpips-NET`.
            Networks other than alex appear in brackets in the name.
        weights: weight file to read instead of the default.
    """

    features: PerceptualFeatures
    title = "learned perceptual distance of two images of a prompt"
    short = "LPIPS"

    def __init__(self, net: str = "alex", weights: str | None = None) -> None:
        super().__init__(metric_name("diversity/lpips", None if net == "alex" else net))
        self.features = perceptual_of(net, weights)

    @property
    @override
    def method(self) -> str:
        weights = f", weights {(self.features.weights_sha256 or '')[:8]}" if self.features.weights else ""
        return f"LPIPS v0.1 ({self.features.net}{weights}), closed form over all pairs; BCa bootstrap over prompts"

    @override
    def identity(self) -> dict[str, object]:
        """Includes the hash of a weight file; torchvision's backbones are identified by name."""
        return {**super().identity(), "weights": self.features.weights_sha256}

    @override
    def mean_distances(self, images: Tensor, groups: Tensor) -> Tensor:
        return _mean_squared_distances(map(self.features, split_images(images)), groups)


class DISTS(DiversityMetric):
    """`diversity/dists`: structure and texture distance by VGG16, in [0, 2]; see `DISTSFeatures`.

    Args:
        weights: file of VGG16 to read instead of torchvision's.
    """

    features: DISTSFeatures
    title = "structure and texture distance of two images of a prompt"
    short = "DISTS"

    def __init__(self, weights: str | None = None) -> None:
        super().__init__("diversity/dists")
        self.features = DISTSFeatures(weights)

    @property
    @override
    def method(self) -> str:
        weights = f", weights {self.features.weights_sha256[:8]}" if self.features.weights_sha256 else ""
        return f"DISTS (VGG16{weights}), mean over all pairs; BCa bootstrap over prompts"

    @override
    def identity(self) -> dict[str, object]:
        return {**super().identity(), "features": self.features.identity()}

    @override
    def mean_distances(self, images: Tensor, groups: Tensor) -> Tensor:
        return group_means(self.features.distances(images).cpu(), groups)


class PixelCosine(DiversityMetric):
    """`diversity/pixel_cosine`: 1 - cosine of the images' pixels, in [0, 1]."""

    title = "cosine distance of the pixels of two images of a prompt"
    short = "pixel cosine"

    def __init__(self) -> None:
        super().__init__("diversity/pixel_cosine")

    @property
    @override
    def method(self) -> str:
        return "1 - cosine of pixels, closed form over all pairs; BCa bootstrap over prompts"

    @override
    def mean_distances(self, images: Tensor, groups: Tensor) -> Tensor:
        parts = split_images(images, _PIXELS_AT_ONCE)  # larger chunks are not faster
        return _mean_squared_distances(map(pixel_features, parts), groups) / 2


class FeatureCosine(DiversityMetric):
    """`diversity/cosine[...]`: 1 - cosine of a network's features, in [0, 2]; the brackets contain the network's tag.

    Args:
        features: the feature network. Default: DINOv2 (`cosine[dinov2]`).
    """

    features: ImageFeatures
    title = "cosine distance of the features of two images of a prompt"
    short = "feature cosine"
    default_features = "dinov2"

    def __init__(self, features: ImageFeatures | None = None) -> None:
        features = DINOv2Features() if features is None else features
        super().__init__(metric_name("diversity/cosine", features.tag))
        self.features = features

    @property
    @override
    def method(self) -> str:
        return f"1 - cosine of features ({self.features.tag}), closed form over all pairs; BCa bootstrap over prompts"

    @override
    def identity(self) -> dict[str, object]:
        return {**super().identity(), "features": self.features.identity()}

    @override
    def mean_distances(self, images: Tensor, groups: Tensor) -> Tensor:
        parts = self.features(images).split([len(part) for part in split_images(images)])
        return _mean_squared_distances(map(unit_rows, parts), groups) / 2  # unit vectors: twice the cosine distance


class SSIM(DiversityMetric):
    """`diversity/ssim`: 1 - structural similarity, in [0, 2]; see `ssim_matrix`."""

    title = "structural dissimilarity of two images of a prompt"
    short = "1 \u2212 SSIM"

    def __init__(self) -> None:
        super().__init__("diversity/ssim")

    @property
    @override
    def method(self) -> str:
        return "1 - SSIM (Gaussian window, sigma 1.5, 11 x 11), mean over all pairs; BCa bootstrap over prompts"

    @override
    def mean_distances(self, images: Tensor, groups: Tensor) -> Tensor:
        return group_means(1 - ssim_matrix(images).cpu(), groups)


def _mean_squared_distances(parts: Iterable[Tensor], groups: Tensor) -> Tensor:
    """(P, P) mean squared distances between groups, from features that arrive in chunks."""
    pairs = PairDistances()
    start = 0
    for features in parts:
        pairs.update(features, groups[start : start + len(features)])
        start += len(features)
    return pairs.matrix()
