"""Features with equal identities share a network, which runs once per batch of images."""

import pytest
import torch
from torch import nn

from gendiv_lightning.features.base import ImageFeatures


class Means(ImageFeatures):
    """Mean colours times a factor, from a network that counts its images."""

    smallest_side = 2

    def __init__(self, factor=1.0, width=1):
        super().__init__()
        self.factor, self.width = factor, width

    @property
    def tag(self):
        return "means"

    def identity(self):
        return {"network": "means", "factor": self.factor, "width": self.width}

    def read(self):
        network = nn.Linear(1, 1)
        network.num_images = 0
        return network

    def embed(self, images):
        self.network.num_images += len(images)
        return self.factor * images.double().mean((2, 3)).repeat(1, self.width)


def images(num=3, seed=0):
    return torch.randint(0, 256, (num, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_features_share_a_network_only_if_their_identities_are_equal():
    one, two, other = Means().load(), Means().load(), Means(2.0).load()
    assert one.network is two.network
    assert one.network is not other.network


def test_the_same_images_are_embedded_once_for_all_metrics():
    one, two = Means(), Means()
    assert torch.equal(one(images()), two(images()))
    assert one.network.num_images == 3
    assert one(images()).dtype == torch.float32
    with torch.inference_mode():
        two(images(seed=1))
        one(images(seed=1))
    assert one.network.num_images == 6


def test_other_images_are_embedded_again():
    features, pictures = Means(), images()
    before = features(pictures)
    pictures[0] += 1  # in place
    after = features(pictures)
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1:], after[1:])
    assert features(pictures[:2]).shape == (2, 3)


def test_features_larger_than_their_images_are_not_cached():
    features = Means(width=16)
    features(images())
    features(images())
    assert features.network.num_images == 6


def test_too_small_images_are_an_error_before_weights_are_read():
    features = Means()
    with pytest.raises(ValueError, match="at least 2 pixels high and wide for 'means'"):
        features(torch.zeros(1, 3, 1, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="uint8"):
        features(images().float())
    assert features.network is None


def test_features_without_weights_need_no_network():
    class Corner(ImageFeatures):
        tag = "corner"

        def identity(self):
            return {"network": "corner"}

        def embed(self, images):
            return images[:, :, 0, 0]

    assert torch.equal(Corner()(images()), images()[:, :, 0, 0].float())
