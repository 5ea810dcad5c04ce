"""`ImageFeatures`, the one protocol of feature networks, and the registry of those that are loaded."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor, nn
from typing_extensions import Self

from gendiv_lightning.errors import ConfigValueError, ImageSizeError
from gendiv_lightning.features.images import check_images, split_images


class ImageFeatures(nn.Module, ABC):
    """Images to vectors, by a network that can be named. The vector of an image does not depend on its batch.

    Features of one class with equal `identity()` are the same features: they share one network, which is read once, and
    the vectors of the images that were embedded last. Metrics of the same samples thus run a network once.

    To add a network, write `tag`, `identity` and `embed`, and `read` if there are weights.

    Attributes:
        network: what `read` returned; None before `load`.
        smallest_side: images must have as many pixels a side.
    """

    network: Any
    smallest_side: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.network = None

    @property
    @abstractmethod
    def tag(self) -> str:
        """Short name, for the brackets behind the name of a number."""

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """All that can change a feature, as plain values; numbers of two sets compare only where it is the same."""

    @cached_property
    def key(self) -> str:
        """Class and identity, as it was at first use: features with equal keys are the same."""
        made_by = f"{type(self).__module__}.{type(self).__qualname__}"
        return f"{made_by} {json.dumps(self.identity(), sort_keys=True)}"

    def read(self) -> nn.Module:
        """The network with its weights, frozen and for evaluation; features without weights leave this out.

        Raises:
            OSError: the weights are neither on this machine nor could they be downloaded; the message says what to do.
            ValueError: the files do not hold such a network.
        """
        return nn.Module()

    def prepare(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) uint8 as the network sees them, uint8; for networks that look at one size only."""
        return images

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """A few prepared images (n, 3, H, W) uint8 to features (n, D), by `network`, which is on their device."""

    def load(self) -> Self:
        """Read the weights, unless features with the same identity have; `forward` does it on first use.

        Weights that must be downloaded are: call this on one rank first.

        Raises:
            OSError: see `read`.
            ValueError: see `read`.
        """
        if self.network is None:
            self.network = _LOADED.network(self)
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) uint8 to features (N, D) float32 on their device, without TF32 and autocast.

        The result is shared with other features of the same identity: do not change it in place.
        """
        check_images(images)
        if min(images.shape[-2:]) < self.smallest_side:
            raise ImageSizeError(
                f"images must be at least {self.smallest_side} pixels a side for {self.tag!r}; got "
                f"{tuple(images.shape[-2:])}. Enlarge them"
            )
        self.load()
        return _LOADED.embed(self, images)


class _LoadedNetworks:
    """Networks by the identity of their features, as long as somebody holds them, and what each embedded last."""

    def __init__(self) -> None:
        self._networks: WeakValueDictionary[str, nn.Module] = WeakValueDictionary()
        self._last: WeakKeyDictionary[nn.Module, dict[str, tuple[Tensor, Tensor]]] = WeakKeyDictionary()

    def network(self, features: ImageFeatures) -> nn.Module:
        """The network of features, read if nobody holds it."""
        network = self._networks.get(features.key)
        if network is None:
            network = self._networks[features.key] = features.read()
        return network

    def embed(self, features: ImageFeatures, images: Tensor) -> Tensor:
        """Features of images, looked up where the network saw the same ones last."""
        lasts = self._last.setdefault(features.network, {})  # several features may look at one network
        last = lasts.get(features.key)
        if last is not None and last[0].device == images.device and torch.equal(last[0], images):
            return last[1]
        device = images.device
        features.network.to(device, torch.float32)
        with exact(device):
            parts = split_images(features.prepare(images))
            found = torch.cat([features.embed(part.to(device)).float() for part in parts])
        if found.numel() < images.numel():  # larger ones would cost more memory than they save time
            lasts[features.key] = images.clone(), found
        return found


_LOADED = _LoadedNetworks()


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
        raise ConfigValueError(f"--device {name}: torch cannot use it here: leave it out, or use cpu") from error
