"""Images as vectors of their pixels: features without a network."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from gendiv_lightning.errors import ConfigValueError
from gendiv_lightning.features.base import ImageFeatures


def pixel_features(images: Tensor) -> Tensor:
    """Pixels as a vector of length 1, so that squared distances are twice the cosine distance, in [0, 2].

    A black image has no direction; it is treated as the darkest grey, which has the direction of every uniform grey.

    Args:
        images: (N, 3, H, W) uint8. The cosine is scale-invariant, so [0, 255] and [0, 1] give the same result.

    Returns:
        (N, 3 H W) float64.
    """
    pixels = images.flatten(1).double()
    black = (pixels == 0).all(1, keepdim=True)
    return F.normalize(pixels.masked_fill(black, 1.0), dim=1)


class Pixels(ImageFeatures):
    """All pixels of an image; see `pixel_features`."""

    tag = "pixels"

    @override
    def identity(self) -> dict[str, object]:
        return {"network": "pixels"}

    @override
    def embed(self, images: Tensor) -> Tensor:
        return pixel_features(images)


class SmallPixels(ImageFeatures):
    """Pixels averaged to a small image, which keeps layout and colours; dimensions do not depend on the image size.

    Args:
        side: side of the averaged image in pixels; features have 3 side^2 dimensions.
    """

    def __init__(self, side: int = 12) -> None:
        super().__init__()
        if side < 1:
            raise ConfigValueError(f"side must be at least 1, got {side}. Leave it out for the default, 12")
        self.side = side

    @property
    @override
    def tag(self) -> str:
        return f"pixels{self.side}"

    @override
    def identity(self) -> dict[str, object]:
        return {"network": f"pixels averaged to {self.side} x {self.side}"}

    @override
    def embed(self, images: Tensor) -> Tensor:
        small = F.adaptive_avg_pool2d(images.double(), self.side).flatten(1)
        return small + (small == 0).all(1, keepdim=True)  # black is treated as the darkest grey, as in `pixel_features`
