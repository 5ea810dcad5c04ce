"""DISTS, deep image structure and texture similarity, for all pairs of a set of images.

The image itself and five stages of VGG16 are compared channel by channel: texture by the mean over pixels, structure by
the covariance. Means and variances are computed per image, only covariances per pair. The learned weights of the
channels and the pooling layer are those of torchmetrics. Source: Ding, Ma, Wang and Simoncelli, "Image Quality
Assessment: Unifying Structure and Texture Similarity" (2020), arXiv 2004.07728.
"""

from __future__ import annotations

from functools import cached_property
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from gendiv_lightning.errors import ConfigValueError
from gendiv_lightning.features.base import ImageFeatures, exact
from gendiv_lightning.features.lpips import backbone_weights
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import load_strictly, read_checkpoint

_CHANNELS = (3, 64, 128, 256, 512, 512)  # of the image and of the last layer of each stage
_STAGES = (0, 4, 9, 16, 23, 30)  # where the stages of VGG16 start and end; all but the first start with pooling
_STABLE = 1e-6
_BLOCK_IMAGES = 16
_BLOCK_PIXELS = 2**20  # features of a block take 0.5 GiB


class DISTSFeatures(ImageFeatures):
    """Activations of VGG16 with L2 pooling, and the DISTS of pairs of images.

    Args:
        weights: file to read instead of the default, torchvision's checkpoint of VGG16.
    """

    tag = "dists"

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        if weights is not None and not Path(weights).is_file():
            raise ConfigValueError(f"weights must be a file, got {weights!r}. Leave it out to use the default")
        self.weights = weights

    @cached_property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the weight file at first use; None for the default."""
        return sha256(Path(self.weights)) if self.weights else None

    @override
    def identity(self) -> dict[str, object]:
        return {"network": "DISTS (VGG16)", "weights": self.weights_sha256}

    @override
    def read(self) -> nn.Module:
        from torchvision.models import vgg16

        backbone = read_checkpoint(Path(self.weights)) if self.weights else backbone_weights("vgg", "dists")
        with torch.device("meta"):
            layers = vgg16(weights=None, init_weights=False).features
        state = {name.removeprefix("features."): value for name, value in backbone.items() if "features." in name}
        load_strictly(layers, state, Path(self.weights or "VGG16"), torch.float32)
        return _Network(layers).eval().requires_grad_(False)

    @override
    def embed(self, images: Tensor) -> Tensor:
        return torch.cat([stage.flatten(1) for stage in self.network(images.float() / 255)], 1)

    @torch.no_grad()
    def distances(self, images: Tensor) -> Tensor:
        """DISTS of all pairs of images (N, 3, H, W) uint8: (N, N) float64, symmetric, zeros on the diagonal."""
        pixels = images.shape[-2] * images.shape[-1]
        rows = torch.arange(len(images)).split(max(1, min(_BLOCK_IMAGES, _BLOCK_PIXELS // pixels)))
        matrix = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)
        for start, a in enumerate(rows):
            first = self._moments(images[a])
            for b in rows[start:]:
                second = first if b is a else self._moments(images[b])
                matrix[a[:, None], b] = 1 - self._similarity(first, second)
        upper = matrix.triu(1)
        return upper + upper.T

    def _moments(self, images: Tensor) -> list[_Moments]:
        """Moments of a block of images, for each stage."""
        height, width = images.shape[-2:]
        shrink = [2 ** max(0, stage - 1) for stage in range(len(_CHANNELS))]  # pooling rounds sides up
        sizes = [c * -(-height // s) * -(-width // s) for c, s in zip(_CHANNELS, shrink, strict=True)]
        stages = self(images).split(sizes, 1)
        moments = []
        for stage, channels in zip(stages, _CHANNELS, strict=True):
            activations = stage.unflatten(1, (channels, -1))
            mean = activations.mean(2, keepdim=True)
            centred = activations - mean
            moments.append(_Moments(mean.squeeze(2).double(), centred.square().mean(2).double(), centred))
        return moments

    def _similarity(self, first: list[_Moments], second: list[_Moments]) -> Tensor:
        """Similarities (n, m) of the images of two blocks."""
        total = torch.zeros((), dtype=torch.float64)
        alphas, betas = (weights.double().split(_CHANNELS) for weights in (self.network.alpha, self.network.beta))
        for a, b, alpha, beta in zip(first, second, alphas, betas, strict=True):
            with exact(a.centred.device):
                covariance = torch.einsum("icp,jcp->ijc", a.centred, b.centred).double() / a.centred.shape[2]
            texture = _ratio(a.mean[:, None] * b.mean, a.mean.square()[:, None] + b.mean.square())
            total = total + texture @ alpha + _ratio(covariance, a.variance[:, None] + b.variance) @ beta
        return total


class _Moments(NamedTuple):
    """Means and variances (n, C) over the pixels of n images, and their centred activations (n, C, h w)."""

    mean: Tensor
    variance: Tensor
    centred: Tensor


class _Network(nn.Module):
    """The stages of VGG16, with pooling by the L2 norm, and the weights (1475,) of the channels, which sum to 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, layers: nn.Sequential) -> None:
        from torchmetrics.functional.image.dists import L2pooling

        super().__init__()
        self.stages = nn.ModuleList()
        for channels, (start, end) in zip(_CHANNELS, pairwise(_STAGES), strict=False):
            pooling = [L2pooling(channels=channels)] if start else []
            self.stages.append(nn.Sequential(*pooling, *layers[start + len(pooling) : end]))
        package = files("torchmetrics.functional.image")
        weights = read_checkpoint(Path(str(package / "dists_models" / "weights.pt")))
        total = weights["alpha"].sum() + weights["beta"].sum()
        for name in ("alpha", "beta"):
            self.register_buffer(name, weights[name].flatten() / total)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))  # of ImageNet
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """The images (n, 3, H, W) in [0, 1] and the activations of the five stages."""
        stages, x = [images], (images - self.mean) / self.std
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        return stages


def _ratio(product: Tensor, squares: Tensor) -> Tensor:
    return (2 * product + _STABLE) / (squares + _STABLE)
