"""LPIPS as features: vectors whose squared Euclidean distance is the perceptual distance, so that no pairs are needed.

The distance of two images is a sum over stages of the spatial mean of sum_c w_c (u_c - u'_c)^2, with u the activations
of unit length over channels; sqrt(w_c / (H W)) u is therefore the feature. Source: Zhang, Isola, Efros, Shechtman and
Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018), eq. 1.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from gendiv_lightning.features.base import exact
from gendiv_lightning.features.pixels import check_images, split_images
from gendiv_lightning.weights.load import load_strictly, read_checkpoint

Net = Literal["alex", "vgg", "squeeze", "tiny"]
TINY_WEIGHTS = Path(__file__).parents[1] / "toy" / "data" / "perceptual.safetensors"
_TORCHVISION = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights", "squeeze": "SqueezeNet1_1_Weights"}
_SMALLEST = {"alex": 31, "vgg": 16, "squeeze": 17, "tiny": 1}


class TinyPerceptualNet(nn.Module):
    """Four stages of 3 x 3 convolution, GroupNorm and ReLU, for the embedded world's 48 x 48 images; any size works."""

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
        """Images (N, 3, H, W) in [-1, 1] to activations of 16, 32, 64, 64 channels and 1, 1/2, 1/4, 1/8 of the size."""
        activations = []
        for stage in self.stages:
            images = stage(images)
            activations.append(images)
        return activations


class PerceptualFeatures(nn.Module):
    """Features with ||f(a) - f(b)||^2 = LPIPS(a, b).

    "alex", "vgg" and "squeeze" are the distances of the `lpips` package (v0.1). "tiny" is a `TinyPerceptualNet`, its
    stages and channels weighted alike; it knows the embedded world and nothing else.

    Args:
        net: which network.
        weights: file to read instead of the default: torchvision's checkpoint of the ImageNet backbone, or
            safetensors of a `TinyPerceptualNet`.
    """

    network: Any

    def __init__(self, net: Net = "alex", weights: str | None = None) -> None:
        super().__init__()
        if net not in get_args(Net):
            raise ValueError(f"net must be one of {', '.join(get_args(Net))}; got {net!r}")
        if weights is not None and not Path(weights).is_file():
            raise ValueError(
                f"weights must name a file; got {weights!r}, which is none: leave it out to use the default"
            )
        self.net = net
        self.weights = weights
        self.network = None

    def load(self) -> PerceptualFeatures:
        """Read the weights; `forward` does it on first use.

        A backbone that is neither given nor in the cache of torch.hub is downloaded: call this on one rank first.

        Raises:
            FileNotFoundError: the weights cannot be had; the message names the ways out.
        """
        if self.network is None:
            network = _tiny_network(self.weights) if self.net == "tiny" else _lpips_network(self.net, self.weights)
            self.network = network.eval().requires_grad_(False)
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) uint8 to features (N, D) float32, on the images' device, without TF32 and autocast."""
        check_images(images)
        if min(images.shape[-2:]) < _SMALLEST[self.net]:
            raise ValueError(
                f"images must be at least {_SMALLEST[self.net]} pixels a side for net {self.net!r}; got "
                f"{tuple(images.shape[-2:])}: enlarge them"
            )
        self.load().network.to(images.device, torch.float32)
        with exact(images.device):
            return torch.cat([self._embed(part.float() / 127.5 - 1) for part in split_images(images)])

    def _embed(self, images: Tensor) -> Tensor:
        if self.net == "tiny":
            activations = self.network(images)
            weights = [torch.ones(()) / len(activations)] * len(activations)
        else:
            activations = self.network.net(self.network.scaling_layer(images))
            weights = [layer.model[-1].weight for layer in self.network.lins]
        return torch.cat([_embed_stage(a, weight) for a, weight in zip(activations, weights, strict=True)], 1)


def _embed_stage(activations: Tensor, weights: Tensor) -> Tensor:
    """Activations (N, C, H, W) and channel weights (1, C, 1, 1) to the stage's part of the features, (N, C H W)."""
    num_pixels = activations.shape[2] * activations.shape[3]
    unit = activations / (torch.linalg.vector_norm(activations, dim=1, keepdim=True) + 1e-10)
    return (unit * (weights / num_pixels).sqrt()).flatten(1)


def _tiny_network(weights: str | None) -> TinyPerceptualNet:
    path = Path(weights or TINY_WEIGHTS)
    if not path.is_file():
        raise FileNotFoundError(
            f"the weights of net 'tiny' are not at {path}: reinstall the package, which ships them, or give `weights`"
        )
    network = TinyPerceptualNet()
    load_strictly(network, read_checkpoint(path), path, torch.float32)
    return network


def _lpips_network(net: str, weights: str | None) -> nn.Module:
    """`lpips.LPIPS` with the linear weights that its package ships and torchvision's weights in the backbone."""
    import lpips

    backbone = _backbone_weights(net) if weights is None else read_checkpoint(Path(weights))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # its random backbone is replaced below
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    # lpips cuts torchvision's `features` into slices but keeps their numbers: slice2.3.weight is features.3.weight
    sources = {name: f"features.{name.split('.', 1)[1]}" for name in network.net.state_dict()}
    lacking = sorted(source for source in sources.values() if source not in backbone)
    if lacking:
        raise ValueError(f"{weights} is no backbone of net {net!r}: {len(lacking)} tensors lack, such as {lacking[0]}")
    network.net.load_state_dict({name: backbone[source] for name, source in sources.items()})
    return network


def _backbone_weights(net: str) -> dict[str, Tensor]:
    from torchvision.models import get_weight

    weights = get_weight(f"{_TORCHVISION[net]}.IMAGENET1K_V1")
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except OSError as error:
        path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[1]
        raise FileNotFoundError(
            f"the backbone of net {net!r} cannot be had: it is not at {path}, and {weights.url} could not be read "
            f"({error}). Put the file there, or give its place as `weights` (lpips[weights=FILE]); for images of the "
            "embedded world only, net 'tiny' needs no download"
        ) from error
