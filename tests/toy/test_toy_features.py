import pytest
import torch

from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.clip import ClipFeatures
from gendiv_lightning.metrics.registry import make_features
from gendiv_lightning.toy import FILES
from gendiv_lightning.toy.features import TinyClip, TinyFeatures, TinyPerceptual


def images(num=3, size=48):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, 3, size, size), dtype=torch.uint8, generator=generator)


def test_tiny_features_are_means_of_activations():
    network = TinyPerceptual().load().network
    expected = torch.cat([stage.flatten(2).mean(2) for stage in network(images().float() / 127.5 - 1)], 1)
    features = TinyFeatures()(images())
    assert features.shape == (3, 176)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)


def test_the_distance_and_the_means_share_the_network_but_not_their_features():
    perceptual, means = TinyPerceptual(), TinyFeatures()
    alone = perceptual(images()), means(images())
    assert perceptual.network is means.network
    assert torch.equal(perceptual(images()), alone[0])
    assert torch.equal(means(images()), alone[1])


def test_features_do_not_depend_on_their_batch_or_on_autocast():
    features = TinyFeatures()
    alone = torch.cat([features(image[None]) for image in images(40)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(features(images(40)), alone, rtol=0, atol=1e-6)


def test_tiny_clip_is_the_clip_of_the_toy_folder():
    pictures = images(2)
    by_folder = ClipFeatures(f"local-dir:{FILES / 'clip'}")
    assert torch.equal(TinyClip()(pictures), by_folder(pictures))
    assert (TinyClip().tag, TinyClip().identity()["backbone"]) == ("tiny-clip", "tiny")
    assert TinyClip().identity()["weights"] == by_folder.identity()["weights"]


def test_the_features_are_found_by_name_as_plugins():
    assert isinstance(make_features("tiny"), TinyFeatures)
    assert isinstance(make_features("tiny-clip"), TinyClip)
    assert isinstance(make_features("lpips-tiny"), TinyPerceptual)


def test_weights_are_in_the_identity_and_are_read_at_first_use(tmp_path):
    features = TinyFeatures()
    assert not list(features.parameters())
    assert features.tag == "tiny"
    (tmp_path / "other").write_bytes(b"others")
    assert TinyFeatures(str(tmp_path / "other")).identity() != features.identity()


def test_images_that_are_not_uint8_are_an_error():
    assert issubclass(TinyFeatures, ImageFeatures)
    with pytest.raises(ValueError, match="uint8"):
        TinyFeatures()(images().float())
