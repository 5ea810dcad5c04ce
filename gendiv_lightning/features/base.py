"""`ImageFeatures`, the protocol of feature networks, and the registry of loaded networks."""

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
    """Maps images to feature vectors with a network. The vector of an image does not depend on its batch.

    Instances of one class with equal `identity()` share one network, which is read once, and the vectors of the most
    recent images. Metrics that measure the same samples therefore run a network only once.

    To add a network, implement `tag`, `identity` and `embed`, and `read` if it has weights.

    Attributes:
        network: the result of `read`; None before `load`.
        smallest_side: minimum height and width of images, in pixels.
    """

    network: Any
    smallest_side: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.network = None

    @property
    @abstractmethod
    def tag(self) -> str:
        """Short name, shown in brackets after the name of a metric."""

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """Everything that can change a feature, as plain values; only numbers with equal identity are comparable."""

    @cached_property
    def key(self) -> str:
        """Class and identity at first use; features with equal keys are the same."""
        made_by = f"{type(self).__module__}.{type(self).__qualname__}"
        return f"{made_by} {json.dumps(self.identity(), sort_keys=True)}"

    def read(self) -> nn.Module:
        """The network with its weights, frozen and in evaluation mode; not needed for features without weights.

        Raises:
            OSError: the weights are not on this machine and could not be downloaded; the message says what to do.
            ValueError: the files do not contain such a network.
        """
        return nn.Module()

    def prepare(self, images: Tensor) -> Tensor:
        """Resize images (N, 3, H, W) uint8 to the network's input size, uint8; for networks with a fixed size."""
        return images

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Features (n, D) of a chunk of prepared images (n, 3, H, W) uint8; `network` is on their device."""

    def load(self) -> Self:
        """Read the weights, unless features with the same identity already have; `forward` does so on first use.

        Missing weights are downloaded, so call this on one rank first.

        Raises:
            OSError: see `read`.
            ValueError: see `read`.
        """
        if self.network is None:
            self.network = _LOADED.network(self)
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features (N, D) float32 of images (N, 3, H, W) uint8, on their device, without TF32 and autocast.

        The result is shared with other features of the same identity: do not modify it in place.
        """
        check_images(images)
        if min(images.shape[-2:]) < self.smallest_side:
            raise ImageSizeError(
                f"images must be at least {self.smallest_side} pixels high and wide for {self.tag!r}, got "
                f"{tuple(images.shape[-2:])}. Enlarge them"
            )
        self.load()
        return _LOADED.embed(self, images)


class _LoadedNetworks:
    """Networks by the identity of their features, while they are in use, with the most recent features of each."""

    def __init__(self) -> None:
        self._networks: WeakValueDictionary[str, nn.Module] = WeakValueDictionary()
        self._last: WeakKeyDictionary[nn.Module, dict[str, tuple[Tensor, Tensor]]] = WeakKeyDictionary()

    def network(self, features: ImageFeatures) -> nn.Module:
        """The network of features; read if it is not in use."""
        network = self._networks.get(features.key)
        if network is None:
            network = self._networks[features.key] = features.read()
        return network

    def embed(self, features: ImageFeatures, images: Tensor) -> Tensor:
        """Features of images; cached for the most recent images of each network."""
        recent = self._last.setdefault(features.network, {})  # several features may share one network
        last = recent.get(features.key)
        if last is not None and last[0].device == images.device and torch.equal(last[0], images):
            return last[1]
        device = images.device
        features.network.to(device, torch.float32)
        with exact(device):
            parts = split_images(features.prepare(images))
            vectors = torch.cat([features.embed(part.to(device)).float() for part in parts])
        if vectors.numel() < images.numel():  # larger vectors would take more memory than they save time
            recent[features.key] = images.clone(), vectors
        return vectors


_LOADED = _LoadedNetworks()


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Context with exact float32: no autocast, and no TF32 or bfloat16 in matrix products and convolutions."""
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
    """Raise ValueError unless torch can use a device of this name."""
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without it
        raise ConfigValueError(f"--device {name} is not available to torch here. Leave it out, or use cpu") from error
