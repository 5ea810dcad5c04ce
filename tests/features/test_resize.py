import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from gendiv_lightning.features.resize import resize_images

SIZES = [(48, 48), (256, 256), (512, 384), (299, 299), (600, 40), (1, 7)]


def noise(height, width):
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


def by_pillow(images):
    channels = [Image.fromarray(channel.numpy().astype(np.float32)) for channel in images.flatten(0, 1)]
    resized = [np.array(channel.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255) for channel in channels]
    return torch.from_numpy(np.stack(resized)).unflatten(0, images.shape[:2])


@pytest.mark.parametrize("size", SIZES)
def test_the_clean_rule_agrees_with_pillow(size):
    torch.testing.assert_close(resize_images(noise(*size), 299, "clean"), by_pillow(noise(*size)), rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_the_legacy_rule_agrees_with_torch_fidelity(size):
    theirs = interpolate_bilinear_2d_like_tensorflow1x(noise(*size).float(), (299, 299), align_corners=False)
    torch.testing.assert_close(resize_images(noise(*size), 299, "torch-fidelity"), theirs, rtol=0, atol=0.02)


@pytest.mark.parametrize("rule", ["clean", "torch-fidelity"])
def test_images_of_the_target_size_and_constant_images_are_unchanged(rule):
    torch.testing.assert_close(resize_images(noise(299, 299), 299, rule), noise(299, 299).float(), rtol=0, atol=1e-4)
    grey = torch.full((1, 3, 50, 70), 255, dtype=torch.uint8)
    torch.testing.assert_close(resize_images(grey, 299, rule), torch.full((1, 3, 299, 299), 255.0), rtol=0, atol=1e-4)


def test_an_image_does_not_depend_on_its_batch():
    for rule in ("clean", "torch-fidelity"):
        assert torch.equal(resize_images(noise(64, 80), 299, rule)[:1], resize_images(noise(64, 80)[:1], 299, rule))
