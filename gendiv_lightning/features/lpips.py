"""LPIPS as features: vectors whose squared Euclidean distance is LPIPS, so that no pairs need to be enumerated.

The distance of two images is a sum over stages of the spatial mean of sum_c w_c (u_c - u'_c)^2, with activations u
normalised to unit length over channels; the feature is therefore sqrt(w_c / (H W)) u. Source: Zhang, Isola, Efros,
Shechtman and Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018), eq. 1.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from gendiv_lightning.errors import ConfigValueError, MissingWeightsError, WrongWeightsError
from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import read_checkpoint

Net = Literal["alex", "vgg", "squeeze"]
_TORCHVISION = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights", "squeeze": "SqueezeNet1_1_Weights"}
_SMALLEST = {"alex": 31, "vgg": 16, "squeeze": 17}


class PerceptualFeatures(ImageFeatures):
    """Features with ||f(a) - f(b)||^2 = LPIPS(a, b), from the stages of a network.

    Args:
        weights: weight file to read instead of the default.
        default: file of the default weights; None if the name identifies the network.

    Attributes:
        net: short name of the network.
    """

    net: str

    def __init__(self, weights: str | None = None, default: Path | None = None) -> None:
        super().__init__()
        if weights is not None and not Path(weights).is_file():
            raise ConfigValueError(f"weights must be a file, got {weights!r}. Leave it out to use the default")
        self.weights = weights
        self.file = Path(weights) if weights else default

    @cached_property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the weight file at first use; None if there is no file."""
        return sha256(self.file) if self.file else None

    @override
    def identity(self) -> dict[str, object]:
        return {"network": f"LPIPS v0.1 ({self.net})", "weights": self.weights_sha256}

    @property
    @override
    def tag(self) -> str:
        return f"lpips-{self.net}"

    @abstractmethod
    def stages(self, images: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        """Activations (n, C, h, w) and channel weights, () or (1, C, 1, 1), of images (n, 3, H, W) in [-1, 1]."""

    @override
    def embed(self, images: Tensor) -> Tensor:
        stages = self.stages(images.float() / 127.5 - 1)
        return torch.cat([_embed_stage(activations, weights) for activations, weights in stages], 1)


class LPIPSFeatures(PerceptualFeatures):
    """LPIPS as in the `lpips` package (v0.1).

    Args:
        net: the backbone network.
        weights: file to read instead of the default, torchvision's checkpoint of the ImageNet backbone.
    """

    def __init__(self, net: Net = "alex", weights: str | None = None) -> None:
        super().__init__(weights)
        if net not in get_args(Net):
            raise ConfigValueError(f"net must be one of {', '.join(get_args(Net))}, got {net!r}")
        self.net, self.smallest_side = net, _SMALLEST[net]

    @override
    def read(self) -> nn.Module:
        """The package's network with its linear weights and torchvision's backbone weights."""
        import lpips

        backbone = backbone_weights(self.net, "lpips") if self.file is None else read_checkpoint(self.file)
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # its random backbone is replaced below
            warnings.simplefilter("ignore")
            network = lpips.LPIPS(net=self.net, pnet_rand=True, verbose=False)
        # lpips splits torchvision's `features` into slices but keeps their numbers: slice2.3.weight, features.3.weight.
        sources = {name: f"features.{name.split('.', 1)[1]}" for name in network.net.state_dict()}
        missing = sorted(source for source in sources.values() if source not in backbone)
        if missing:
            raise WrongWeightsError(
                f"{self.file} does not contain the backbone of net {self.net!r}: {len(missing)} tensors are missing, "
                f"e.g. {missing[0]}. Pass torchvision's checkpoint of that network"
            )
        network.net.load_state_dict({name: backbone[source] for name, source in sources.items()})
        return network.eval().requires_grad_(False)

    @override
    def stages(self, images: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        network: Any = self.network
        activations = network.net(network.scaling_layer(images))
        return zip(activations, [layer.model[-1].weight for layer in network.lins], strict=True)


def alex(weights: str | None = None) -> LPIPSFeatures:
    """LPIPS with AlexNet, the default; `weights` as in `LPIPSFeatures`."""
    return LPIPSFeatures("alex", weights)


def vgg(weights: str | None = None) -> LPIPSFeatures:
    """LPIPS with VGG16; `weights` as in `LPIPSFeatures`."""
    return LPIPSFeatures("vgg", weights)


def squeeze(weights: str | None = None) -> LPIPSFeatures:
    """LPIPS with SqueezeNet; `weights` as in `LPIPSFeatures`."""
    return LPIPSFeatures("squeeze", weights)


def _embed_stage(activations: Tensor, weights: Tensor) -> Tensor:
    """Part (n, C H W) of the features from a stage's activations (n, C, H, W) and channel weights."""
    num_pixels = activations.shape[2] * activations.shape[3]
    unit = activations / (torch.linalg.vector_norm(activations, dim=1, keepdim=True) + 1e-10)
    return (unit * (weights / num_pixels).sqrt()).flatten(1)


def backbone_weights(net: str, metric: str) -> dict[str, Tensor]:
    """The checkpoint of a network from torchvision, downloaded once.

    Args:
        net: "alex", "vgg" or "squeeze".
        metric: name of the metric that needs it, for the error message.

    Raises:
        OSError: the file is not in torch.hub's cache and could not be downloaded; the message says what to do.
    """
    from torchvision.models import get_weight

    weights = get_weight(f"{_TORCHVISION[net]}.IMAGENET1K_V1")
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except OSError as error:
        path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[1]
        raise MissingWeightsError(
            f"the backbone {net!r} of {metric} is not at {path} and could not be downloaded from {weights.url} "
            f"({error}). Put the file there, or pass a copy as `weights` ({metric}[weights=FILE])"
        ) from error
