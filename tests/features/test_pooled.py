import pytest
import torch
from random_clips import pictures, write_open_clip

from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.lpips import PerceptualFeatures
from gendiv_lightning.features.pooled import ClipImages, TinyFeatures


def images(num=3, size=48):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, 3, size, size), dtype=torch.uint8, generator=generator)


def test_tiny_features_are_means_of_activations():
    network = PerceptualFeatures("tiny").load().network
    truth = torch.cat([stage.flatten(2).mean(2) for stage in network(images().float() / 127.5 - 1)], 1)
    features = TinyFeatures()(images())
    assert features.shape == (3, 176)
    torch.testing.assert_close(features, truth, rtol=1e-5, atol=1e-6)


def test_features_do_not_depend_on_their_batch_or_on_autocast():
    features = TinyFeatures()
    alone = torch.cat([features(image[None]) for image in images(40)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(features(images(40)), alone, rtol=0, atol=1e-6)


def test_clip_images_are_clips(tmp_path):
    features = ClipImages(write_open_clip(tmp_path / "mine"))
    torch.testing.assert_close(features(pictures(5, 32, 32)), features.features.images(pictures(5, 32, 32)))
    assert features.tag == "mine"
    assert features.identity() == features.features.identity()
    assert ClipImages().tag == "clip"
    assert ClipImages("tiny").tag == "tiny-clip"


def test_weights_show_in_the_identity_and_nothing_is_read_before_it_is_needed(tmp_path):
    features = TinyFeatures()
    assert not list(features.parameters())
    assert features.tag == "tiny"
    (tmp_path / "other").write_bytes(b"others")
    assert TinyFeatures(str(tmp_path / "other")).identity() != features.identity()


def test_images_that_are_not_uint8_are_an_error():
    assert issubclass(TinyFeatures, ImageFeatures)
    with pytest.raises(ValueError, match="uint8"):
        TinyFeatures()(images().float())
