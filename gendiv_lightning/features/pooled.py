"""Networks of the project as `ImageFeatures`: few enough numbers an image for a distance between distributions."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.clip import DEFAULT_BACKBONE, ClipFeatures
from gendiv_lightning.features.lpips import TINY_WEIGHTS, PerceptualFeatures
from gendiv_lightning.weights.hash import sha256


class TinyFeatures(ImageFeatures):
    """Mean over pixels of each of the 176 channels of a `TinyPerceptualNet`; it knows the embedded world only.

    Args:
        weights: see `PerceptualFeatures`.
    """

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.features = PerceptualFeatures("tiny", weights)

    @property
    def tag(self) -> str:
        """See `ImageFeatures`."""
        return "tiny"

    def identity(self) -> dict[str, object]:
        """With the hash of the weights."""
        weights = Path(self.features.weights or TINY_WEIGHTS)
        return {"network": "tiny perceptual net, mean over pixels", "weights": sha256(weights)}

    def load(self) -> None:
        """See `ImageFeatures`."""
        self.features.load()

    def embed(self, images: Tensor) -> Tensor:
        """See `ImageFeatures`."""
        network = self.features.network.to(images.device, torch.float32)
        return torch.cat([stage.mean((2, 3)) for stage in network(images.float() / 127.5 - 1)], 1)


class ClipImages(ImageFeatures):
    """The image tower of a CLIP.

    Args:
        backbone: see `ClipFeatures`.
    """

    def __init__(self, backbone: str = DEFAULT_BACKBONE) -> None:
        super().__init__()
        self.features = ClipFeatures(backbone)

    @property
    def tag(self) -> str:
        """That of `ClipFeatures`, which has none for the default backbone."""
        return self.features.tag or "clip"

    def identity(self) -> dict[str, object]:
        """That of `ClipFeatures`."""
        return self.features.identity()

    def load(self) -> None:
        """See `ImageFeatures`."""
        self.features.load()

    def embed(self, images: Tensor) -> Tensor:
        """See `ImageFeatures`."""
        return self.features.to(images.device).images(images)
