"""The toy tokenizer in the class of diffusers: same tokens and images, in [-1, 1] and in [0, 1]."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gendiv_lightning.generators.vqgan import from_uint8
from gendiv_lightning.toy import postcards
from gendiv_lightning.toy.recipes.base import load_tokenizer
from gendiv_lightning.toy.recipes.diffusers_vq import diffusers_vq, in_unit_range

pytestmark = pytest.mark.usefixtures("_no_grad")


@pytest.fixture
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def ours(toy_weights):
    return load_tokenizer(toy_weights)


@pytest.fixture(scope="module")
def theirs(ours):
    return diffusers_vq(ours)


@pytest.fixture(scope="module")
def images():
    """64 postcards in [-1, 1]."""
    numbers = torch.randperm(postcards.NUM_IMAGES, generator=torch.Generator().manual_seed(0))[:64]
    return from_uint8(postcards.render(numbers))


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(256, (16, 36), generator=torch.Generator().manual_seed(1))


def is_clear(latents, codes):
    """Whether the nearest code is nearer than the second by more than rounding, (B, L)."""
    vectors = F.normalize(latents, dim=1).flatten(2).transpose(1, 2)
    first, second = torch.cdist(vectors, codes).topk(2, largest=False).values.unbind(-1)
    return second - first > 1e-4


def test_both_classes_have_the_same_latents_and_tokens(ours, theirs, images):
    latents = ours.latents(images)
    torch.testing.assert_close(theirs.encode(images).latents, latents, atol=1e-4, rtol=0)
    result = theirs.quantize(theirs.encode(images).latents)[2][2].view(len(images), -1)
    clear = is_clear(latents, ours.quantize.codes())
    assert clear.float().mean() > 0.95
    assert len(result.unique()) > 50
    assert result[clear].equal(ours.encode(images)[clear])


def decode(model, tokens):
    codes = model.quantize.embedding(tokens.unflatten(1, (6, 6))).permute(0, 3, 1, 2)
    return model.decode(codes, force_not_quantize=True).sample


def test_both_classes_decode_the_same_images(ours, theirs, tokens):
    images = decode(theirs, tokens)
    assert images.std() > 0.1
    torch.testing.assert_close(images, ours.decode(tokens, 6, 6), atol=1e-4, rtol=0)


def test_the_original_is_not_modified(toy_weights, ours, images):
    in_unit_range(diffusers_vq(ours))
    fresh = load_tokenizer(toy_weights).state_dict()
    assert all(tensor.equal(fresh[name]) for name, tensor in ours.state_dict().items())


def test_the_decoder_for_the_unit_range_gives_the_same_images(theirs, tokens):
    unit = in_unit_range(copy.deepcopy(theirs))
    torch.testing.assert_close(decode(unit, tokens), (decode(theirs, tokens) + 1) / 2, atol=1e-5, rtol=0)


def test_the_encoder_for_the_unit_range_differs_at_the_border_only(theirs, images):
    unit = in_unit_range(copy.deepcopy(theirs))
    there, here = theirs.encoder.conv_in(images), unit.encoder.conv_in((images + 1) / 2)
    torch.testing.assert_close(here[..., 1:-1, 1:-1], there[..., 1:-1, 1:-1], atol=1e-5, rtol=0)
    outermost = torch.ones(48, 48, dtype=torch.bool)
    outermost[1:-1, 1:-1] = False
    assert ((here - there).abs() > 1e-3).any(1)[:, outermost].all()


class GreyPadding(nn.Module):
    """A convolution over images in [0, 1] with grey padding, like zero padding in [-1, 1]."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, images):
        return F.conv2d(F.pad(images, (1, 1, 1, 1), value=0.5), self.conv.weight, self.conv.bias)


def test_with_grey_padding_the_encoder_for_the_unit_range_is_exact(theirs, images):
    unit = in_unit_range(copy.deepcopy(theirs))
    unit.encoder.conv_in = GreyPadding(unit.encoder.conv_in)
    torch.testing.assert_close(unit.encode((images + 1) / 2).latents, theirs.encode(images).latents, atol=1e-4, rtol=0)
