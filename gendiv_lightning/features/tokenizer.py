"""`ImageTokenizer`: encodes images of any origin with one codebook, so that generators can be compared in bits."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from gendiv_lightning.errors import ConfigValueError
from gendiv_lightning.features.base import ImageFeatures


class ImageTokenizer(ImageFeatures):
    """Base class of tokenizers that encode images as features (N, L) of whole numbers; see `tokens`.

    Images of another size are resized to `side` x `side` pixels with antialiasing.

    Args:
        side: size in pixels per side at which images are encoded.

    Attributes:
        default_side: default of `side`, which is not part of the tag.
    """

    default_side: int = 256

    def __init__(self, side: int | None = None) -> None:
        super().__init__()
        if side is not None and side < 1:
            raise ConfigValueError(f"side must be at least 1 pixel, got {side}. Leave it out for {self.default_side}")
        self.side = side or self.default_side

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the tokenizer, for the tag."""

    @property
    @override
    def tag(self) -> str:
        return self.name if self.side == self.default_side else f"{self.name},side={self.side}"

    @property
    @abstractmethod
    def codebook_size(self) -> int:
        """Number of entries K; known once the tokenizer is loaded."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Encode one image (1, 3, side, side) uint8 as tokens (1, L)."""

    @override
    def prepare(self, images: Tensor) -> Tensor:
        if images.shape[-2:] == (self.side, self.side):
            return images
        return F.interpolate(images.cpu().contiguous(), (self.side, self.side), mode="bicubic", antialias=True)

    @override
    def embed(self, images: Tensor) -> Tensor:
        """Encode one image at a time, because rounding, and with it a token, can depend on the batch size."""
        return torch.cat([self.encode(image) for image in images.split(1)])

    def tokens(self, images: Tensor) -> Tensor:
        """Encode images (N, 3, H, W) uint8 as tokens (N, L) int64 on the CPU."""
        return self(images).long().cpu()
