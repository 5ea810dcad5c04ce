"""`ImageTokenizer`: images of any origin to the tokens of one codebook, so that generators share their unit."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from gendiv_lightning.errors import ConfigValueError
from gendiv_lightning.features.base import ImageFeatures


class ImageTokenizer(ImageFeatures):
    """Images to tokens, as features (N, L) that are whole numbers; see `tokens`.

    Images of another size are brought to `side` x `side` pixels, with antialiasing, as networks of features do.

    Args:
        side: pixels per side of the images that are encoded.

    Attributes:
        default_side: the side that needs no mention in the tag.
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
        """Of the tokenizer, for the tag."""

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
        """One image (1, 3, side, side) uint8 to its tokens (1, L)."""

    @override
    def prepare(self, images: Tensor) -> Tensor:
        if images.shape[-2:] == (self.side, self.side):
            return images
        return F.interpolate(images.cpu().contiguous(), (self.side, self.side), mode="bicubic", antialias=True)

    @override
    def embed(self, images: Tensor) -> Tensor:
        """Encode one image at a time: the batch size can change the last digits of a distance, and so a token."""
        return torch.cat([self.encode(image) for image in images.split(1)])

    def tokens(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) uint8 to tokens (N, L) int64, on the CPU."""
        return self(images).long().cpu()
