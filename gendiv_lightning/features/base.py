"""`ImageFeatures`: what a distance between distributions of images asks of a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gendiv_lightning.features.pixels import check_images, split_images


class ImageFeatures(nn.Module, ABC):
    """Images to vectors, an image at a time whatever its batch, by a network that can be named."""

    @property
    @abstractmethod
    def tag(self) -> str:
        """Short name, for the brackets behind the name of a number."""

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """All that can change a feature, as plain values; numbers of two sets compare only where it is the same."""

    @abstractmethod
    def load(self) -> None:
        """Read the weights; `forward` does it on first use.

        Weights that must be downloaded are: call this on one rank first.

        Raises:
            OSError: the weights cannot be had; the message names the ways out.
        """

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """A few images (n, 3, H, W) uint8 to features (n, D)."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) uint8 to features (N, D) float32, without TF32 and autocast."""
        check_images(images)
        self.load()
        with exact(images.device):
            return torch.cat([self.embed(part).float() for part in split_images(images)])


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Float32 as it is: no autocast, and no TF32 or bfloat16 inside matrix products and convolutions."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def check_device(name: str) -> None:
    """Raise ValueError unless torch can work on a device of this name here."""
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without it
        raise ValueError(f"--device {name}: torch cannot use it here: leave it out, or use cpu") from error
