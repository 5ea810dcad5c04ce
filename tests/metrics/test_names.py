"""Metrics by name: each name makes its class with its backbone, and what is no name is refused with what there is."""

import pytest

from gendiv_lightning.features.inception import InceptionFeatures
from gendiv_lightning.features.pooled import ClipImages, TinyFeatures
from gendiv_lightning.metrics import names
from gendiv_lightning.metrics.names import METRICS, make_features, make_metric


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("lpips", "diversity/lpips"),
        ("lpips[vgg]", "diversity/lpips[vgg]"),
        ("pixel_cosine", "diversity/pixel_cosine"),
        (" ssim ", "diversity/ssim"),
        ("clip_score[tiny-clip]", "quality/clip_score[tiny-clip]"),
        ("clip_iqa", "quality/clip_iqa"),
        ("clip_cosine[ViT-B-32/openai]", "diversity/clip_cosine[ViT-B-32/openai]"),
        ("vendi[tiny]", "diversity/vendi[tiny]"),
        ("fid", "quality/fid"),
        ("kid", "quality/kid"),
        ("fd[tiny-clip]", "quality/fd[tiny-clip]"),
        ("precision_recall[tiny-clip]", "quality/precision[tiny-clip]"),
        ("token_entropy", "h_total/token"),
        ("sequence_entropy", "h_total/sequence"),
        ("postcard_truth", "postcards/stated_right"),
    ],
)
def test_the_number_has_the_name(name, first):
    assert make_metric(name, reference="there.safetensors").names[0] == first


def test_every_metric_can_be_had():
    for name in METRICS:
        assert make_metric(f"{name}[tiny-clip]" if name in ("fd", "kd") else name, "there.safetensors")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SSIM", "unknown; there are lpips, "),
        ("fancy", "unknown"),
        ("lpips[resnet]", "alex, vgg, squeeze, tiny"),
        ("lpips[", "unknown"),
        ("ssim[tiny]", "has no backbone"),
        ("fid", "reference"),
        ("fd", "reference"),
    ],
)
def test_what_is_no_metric_is_refused(name, words):
    with pytest.raises(ValueError, match=words):
        make_metric(name)


@pytest.mark.parametrize("name", ["fd", "fid[tiny-clip]"])
def test_only_inceptions_distance_is_called_fid(name):
    with pytest.raises(ValueError, match="Inception"):
        make_metric(name, "there.safetensors")


def test_networks_by_name():
    assert isinstance(make_features("inception"), InceptionFeatures)
    assert isinstance(make_features("tiny"), TinyFeatures)
    assert isinstance(make_features("tiny-clip"), ClipImages)
    assert make_features("tiny-clip").tag == "tiny-clip"
    assert names.make_features("pixels").tag == "pixels"
