"""The toy's feature networks, which are trained on postcards only and need no download."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.clip import ClipFeatures
from gendiv_lightning.features.lpips import PerceptualFeatures
from gendiv_lightning.generators.tokenizers import LlamaGenTokenizer
from gendiv_lightning.toy import FILES, postcards
from gendiv_lightning.weights.load import load_strictly, read_checkpoint

WEIGHTS = FILES / "perceptual.safetensors"


class TinyPerceptualNet(nn.Module):
    """Four stages of 3 x 3 convolution, GroupNorm and ReLU, for postcards of 48 x 48 pixels; accepts any size."""

    def __init__(self) -> None:
        super().__init__()
        channels = (3, 16, 32, 64, 64)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels[i], channels[i + 1], 3, stride=1 if i == 0 else 2, padding=1),
                nn.GroupNorm(8, channels[i + 1]),
                nn.ReLU(),
            )
            for i in range(4)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Activations of images (N, 3, H, W) in [-1, 1]: 16, 32, 64, 64 channels at 1, 1/2, 1/4, 1/8 of the size."""
        activations = []
        for stage in self.stages:
            images = stage(images)
            activations.append(images)
        return activations


class TinyPerceptual(PerceptualFeatures):
    """The toy's LPIPS, `lpips[tiny]`: stages and channels of a `TinyPerceptualNet`, equally weighted.

    Args:
        weights: safetensors file of a `TinyPerceptualNet` to read instead of the default.
    """

    net = "tiny"

    def __init__(self, weights: str | None = None) -> None:
        super().__init__(weights, WEIGHTS)

    @override
    def read(self) -> nn.Module:
        assert self.file is not None, "there is a default file"
        return _read_network(self.file)

    @override
    def stages(self, images: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        activations = self.network(images)
        weight = torch.ones((), device=images.device) / len(activations)
        return [(stage, weight) for stage in activations]


class TinyFeatures(ImageFeatures):
    """Spatial mean of each of the 176 channels of a `TinyPerceptualNet`.

    Args:
        weights: see `TinyPerceptual`.
    """

    tag = "tiny"

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self._perceptual = TinyPerceptual(weights)

    @override
    def identity(self) -> dict[str, object]:
        return {**self._perceptual.identity(), "network": "tiny perceptual net, mean over pixels"}

    @override
    def read(self) -> nn.Module:
        return self._perceptual.load().network

    @override
    def embed(self, images: Tensor) -> Tensor:
        return torch.cat([stage.mean((2, 3)) for stage in self.network(images.float() / 127.5 - 1)], 1)


class TinyClip(ClipFeatures):
    """The toy's CLIP, in open_clip's layout."""

    label = "tiny"
    tag = "tiny-clip"

    def __init__(self) -> None:
        super().__init__(f"local-dir:{FILES / 'clip'}")


class TinyTokenizer(LlamaGenTokenizer):
    """Tokenizer of the toy LlamaGen: 256 entries, 36 tokens per postcard.

    Args:
        side: see `ImageTokenizer`.
    """

    default_side = 48

    def __init__(self, side: int | None = None) -> None:
        super().__init__("toy:llamagen_vq.json", "toy:llamagen_vq.safetensors", side, name="tiny")


class PostcardFactors(ImageFeatures):
    """Content of a postcard: the exact values of its five groups of factors, one-hot.

    `kernel_entropy[postcard-factors,bandwidth=0]` is based on how often two postcards of a prompt have equal content.
    """

    tag = "postcard-factors"

    @override
    def identity(self) -> dict[str, object]:
        return {"network": "ground truth of postcards, groups one-hot"}

    @override
    def embed(self, images: Tensor) -> Tensor:
        values = postcards.values_of(postcards.read(images)[0])
        sizes = [len(group) for group in postcards.GROUPS.values()]
        return torch.cat([F.one_hot(column, size) for column, size in zip(values.T, sizes, strict=True)], 1)


def _read_network(path: Path) -> nn.Module:
    network = TinyPerceptualNet()
    load_strictly(network, read_checkpoint(path), path, torch.float32)
    return network
