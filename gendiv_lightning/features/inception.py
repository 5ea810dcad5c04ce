"""The Inception v3 of the Frechet Inception distance: torchvision's, changed to match the 2015 TensorFlow graph.

The differences are average pooling without the padding, maximum pooling in the last block, 1008 classes, and inputs
(pixel - 128) / 128. Source: Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter, "GANs Trained by a Two Time-Scale
Update Rule" (2017); the weights were converted to PyTorch by pytorch-fid and torch-fidelity.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import inception
from typing_extensions import override

from gendiv_lightning.errors import ConfigValueError, MissingWeightsError, WrongWeightsError
from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.resize import Resize, resize_images
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import load_strictly, read_checkpoint

IMAGE_SIZE = 299
URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
_HASH = URL[-12:-4]  # the file's SHA-256 starts with it


class InceptionFeatures(ImageFeatures):
    """Features with 2048 dimensions: the spatial mean of Inception's last block.

    Distances of these features have plain names (`quality/fid`) with the weights of 2015-12-05 only; for other weights
    the `tag` contains the first digits of their hash.

    Args:
        weights: file to read instead of the default, torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`.
        resize: rule for resizing images to 299 x 299 pixels, see `resize_images`.
    """

    def __init__(self, weights: str | None = None, resize: Resize = "clean") -> None:
        super().__init__()
        if resize not in get_args(Resize):
            raise ConfigValueError(f"resize must be one of {', '.join(get_args(Resize))}, got {resize!r}")
        if weights is not None and not Path(weights).is_file():
            raise ConfigValueError(f"weights must be a file, got {weights!r}. Leave it out to use the default")
        self.weights = weights
        self.resize = resize

    @property
    @override
    def tag(self) -> str:
        return "inception" if self._hash == _HASH else f"inception-{self._hash}"

    @override
    def identity(self) -> dict[str, object]:
        return {"network": "Inception v3 for FID", "weights": self._hash, "resize": self.resize}

    @override
    def read(self) -> nn.Module:
        return _read_network(Path(self.weights) if self.weights else _fetch())

    @override
    def embed(self, images: Tensor) -> Tensor:
        resized = resize_images(images, IMAGE_SIZE, self.resize)
        return self.network((resized - 128) / 128)

    @property
    def _hash(self) -> str:
        return sha256(Path(self.weights))[: len(_HASH)] if self.weights else _HASH


def _fetch() -> Path:
    """The default weights in torch.hub's cache, downloaded if they are missing."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / URL.rsplit("/", 1)[1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL, str(path), hash_prefix=_HASH)
        except (OSError, RuntimeError) as error:  # RuntimeError: another hash
            raise MissingWeightsError(
                f"the weights of Inception are not at {path} and could not be downloaded from {URL} ({error}). Put "
                "the file there, or pass a copy as `weights` (fid[weights=FILE])"
            ) from error
    if not sha256(path).startswith(_HASH):
        raise WrongWeightsError(
            f"{path} does not contain the weights of 2015-12-05, whose SHA-256 starts with {_HASH}. Delete it"
        )
    return path


def _read_network(path: Path) -> nn.Module:
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # torchvision's warning about initial weights
        blocks = [inception.BasicConv2d, _BlockA, inception.InceptionB, _BlockC, inception.InceptionD, _BlockE, None]
        network = inception.Inception3(num_classes=1008, aux_logits=False, inception_blocks=blocks, init_weights=False)
    network.Mixed_7c.pool = _pool_maximum
    # The number of training batches does not affect the output, and some copies of the weights do not contain it.
    unused = {name: torch.zeros((), dtype=torch.int64) for name in network.state_dict() if "num_batches" in name}
    load_strictly(network, {**unused, **read_checkpoint(path)}, path, torch.float32)
    network.fc = nn.Identity()
    return network


def _pool_mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)


def _pool_maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, kernel_size=3, stride=1, padding=1)


class _BlockA(inception.InceptionA):
    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_pool_mean(x))], 1)


class _BlockC(inception.InceptionC):
    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), seven, twice, self.branch_pool(_pool_mean(x))], 1)


class _BlockE(inception.InceptionE):
    pool = staticmethod(_pool_mean)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        parts += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
        return torch.cat([self.branch1x1(x), *parts, self.branch_pool(self.pool(x))], 1)
